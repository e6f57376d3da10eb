//! The command line of the city ([`crate::city`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use plaza_core::iot::Generation;

use super::{Sources, Target, check_pid, parse_sources, positive, resolve, seconds, sources_for, write_file};
use crate::city::{self, ApiKey, Census, Report, Roads, Town};
use crate::ring;

/// Nanoseconds of a second.
const SECOND_NS: f64 = 1e9;

/// Generations of namespaces that clients speak.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Namespaces {
    /// urn:xmpp:iot:
    Xmpp,
    /// urn:ieee:iot:
    Ieee,
    /// urn:nf:iot:
    Nf,
    /// urn:nfi:iot:
    Nfi,
}

impl From<Namespaces> for Generation {
    fn from(namespaces: Namespaces) -> Self {
        match namespaces {
            Namespaces::Xmpp => Self::Xsf,
            Namespaces::Ieee => Self::Ieee,
            Namespaces::Nf => Self::Nf,
            Namespaces::Nfi => Self::Nfi,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct CityArgs {
    #[command(flatten)]
    target: Target,
    /// A maker's API key and its secret, KEY:SECRET; may be given several times. Accounts are created with them; without
    /// any, they are taken to be there: owners, services and devices, in that order, as `accounts` prints them.
    #[arg(long)]
    api_key: Vec<String>,
    /// A file with more of them, one in each line: a secret on the command line is no secret.
    #[arg(long)]
    api_keys: Option<PathBuf>,
    /// Prefix of the accounts' names.
    #[arg(long, default_value = "city")]
    users: String,
    /// Password of accounts that are there; those that are created have their own.
    #[arg(long, default_value = "secret")]
    password: String,
    /// Devices: meters, lamps, sensors, and one concentrator in twenty.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    devices: u32,
    /// Nodes behind each concentrator.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=5000))]
    nodes: u32,
    /// Owners.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    owners: u32,
    /// Services.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    services: u32,
    /// Services that befriend each device.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    friends: u32,
    /// Share of the devices that go away once and come back.
    #[arg(long, default_value_t = 0.1)]
    churn: f64,
    /// Seconds between two read-outs of a thing by a service, on schedule.
    #[arg(long, default_value_t = 10.0)]
    interval: f64,
    /// Clients that come per second, on schedule.
    #[arg(long, default_value_t = 50.0)]
    arrivals: f64,
    /// Seconds that the city lives at least; it ends when all is reached.
    #[arg(long, default_value_t = 0.0)]
    duration: f64,
    /// Give up when nothing more is reached for so many seconds.
    #[arg(long, default_value_t = 40.0)]
    patience: f64,
    /// The same seed makes the same city.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Generations of namespaces, one of which each client speaks; one that is given twice is spoken twice as often. The
    /// first, xmpp, is spoken by devices alone.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Namespaces::Xmpp, Namespaces::Nf, Namespaces::Nf, Namespaces::Nf])]
    namespaces: Vec<Namespaces>,
    /// Source addresses: 127.0.1.1-127.0.9.250 or a single one; picked by itself for a loopback server.
    #[arg(long, value_parser = parse_sources)]
    sources: Option<Sources>,
    /// The server's process id: its CPU time and memory are measured.
    #[arg(long)]
    pid: Option<u32>,
    /// Write the report as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the report as one HTML page.
    #[arg(long)]
    html: Option<PathBuf>,
}

impl CityArgs {
    pub(super) fn run(self) -> Result<bool, String> {
        check_pid(self.pid)?;
        let town = Town::new(self.census()?);
        let server = resolve(&self.target.server)?;
        let (tls_config, tls_name) = self.target.security()?;
        let descriptors = ring::raise_descriptors().saturating_sub(64);
        if u64::from(town.accounts()) > descriptors {
            return Err(format!("{} clients need a higher descriptor limit (ulimit -n)", town.accounts()));
        }
        let roads = Roads {
            server,
            tls: self.target.tls,
            tls_config,
            tls_name,
            sources: sources_for(self.sources.as_ref(), server, town.accounts()),
            arrivals: positive(self.arrivals, "--arrivals")?,
            seconds_min: self.duration,
            patience: seconds(self.patience, "--patience")?.max(Duration::from_secs(1)),
        };
        let (funnel, lived, cost) = city::live(&town, &roads, self.pid)?;
        let report = Report::new(&town, &self.target.server, &funnel, lived, cost);
        city::print(&report);
        if let Some(path) = &self.json {
            write_file(path, &serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?)?;
        }
        if let Some(path) = &self.html {
            write_file(path, &city::html(&report))?;
        }
        Ok(report.is_green())
    }

    fn census(&self) -> Result<Census, String> {
        let makers = read_keys(&self.api_key, self.api_keys.as_deref())?;
        if self.friends > self.services {
            return Err("there are fewer services than --friends".to_owned());
        }
        if !(0.0..=1.0).contains(&self.churn) {
            return Err("--churn is a share, from 0 to 1".to_owned());
        }
        Ok(Census {
            domain: self.target.domain.clone(),
            users: self.users.clone(),
            password: self.password.clone(),
            makers,
            seed: self.seed,
            generations: self.namespaces.iter().map(|&namespaces| namespaces.into()).collect(),
            devices: self.devices,
            owners: self.owners,
            services: self.services,
            friends: self.friends,
            nodes: self.nodes,
            churn: self.churn,
            interval_ns: (positive(self.interval, "--interval")? * SECOND_NS) as u64,
        })
    }
}

/// The keys of the command line and of a file.
pub(super) fn read_keys(given: &[String], file: Option<&Path>) -> Result<Vec<ApiKey>, String> {
    let mut keys: Vec<ApiKey> = given.iter().map(|text| ApiKey::parse(text)).collect::<Result<_, _>>()?;
    if let Some(path) = file {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            keys.push(ApiKey::parse(line)?);
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};

    #[test]
    fn keys_come_from_the_command_line_and_from_files() {
        let file = std::env::temp_dir().join(format!("loadgen-keys-{}", std::process::id()));
        std::fs::write(&file, "b:2\n\nc:3\n").unwrap();
        let path = file.to_str().unwrap();
        let args = ["plaza-loadgen", "city", "--api-key", "a:1", "--api-keys", path, "--devices", "3"];
        let Command::City(city) = Cli::parse_from(args).command else { unreachable!("a city was asked for") };
        let census = city.census().unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(census.makers.iter().map(|maker| maker.key.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        for wrong in [["--api-key", "a"], ["--friends", "6"], ["--churn", "1.5"], ["--interval", "0"]] {
            let args = ["plaza-loadgen", "city"].into_iter().chain(wrong);
            let Command::City(city) = Cli::parse_from(args).command else { unreachable!("a city was asked for") };
            assert!(city.census().is_err(), "{wrong:?}");
        }
    }
}
