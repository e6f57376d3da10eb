//! What the host tells about the memory of processes and about itself, read from `/proc`.

use std::fs;

use serde::Serialize;

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Memory {
    /// Resident.
    pub rss: u64,
    /// Resident, shared pages counted by share.
    pub pss: u64,
    /// Its own alone: what "user-space memory" means in reports.
    pub private: u64,
}

/// Memory of a process. `None` if there is no such process, or it may not be read.
pub(crate) fn memory(pid: u32) -> Option<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(Memory {
        rss: field(&text, "Rss:"),
        pss: field(&text, "Pss:"),
        private: field(&text, "Private_Clean:") + field(&text, "Private_Dirty:"),
    })
}

/// Resident memory of a process in bytes: cheap enough to sample.
pub(crate) fn rss(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(text.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
}

/// Memory in use on the whole machine, in bytes: total less available.
pub(crate) fn machine_used() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    field(&text, "MemTotal:").saturating_sub(field(&text, "MemAvailable:"))
}

/// Memory of the machine, in bytes.
pub(crate) fn machine_total() -> u64 {
    field(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal:")
}

/// A `Name:  1234 kB` line, in bytes; 0 if it is not there.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

/// Where a run was made.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Host {
    /// CPU model.
    pub cpu: String,
    /// CPUs of the machine.
    pub cpus: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// Kernel release.
    pub kernel: String,
    /// Commit of the working tree the run was started in, if it is one.
    pub commit: Option<String>,
    /// When, in UTC.
    pub time: String,
    /// The command line.
    pub command: String,
}

impl Host {
    /// This one, now.
    pub(crate) fn read() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: model.map_or("unknown", |line| line.trim_start_matches([' ', '\t', ':'])).to_owned(),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory: machine_total(),
            kernel: kernel.trim().to_owned(),
            commit: commit(),
            time: time::OffsetDateTime::now_utc()
                .format(&time::format_description::well_known::Rfc3339)
                .unwrap_or_default(),
            command: command(),
        }
    }
}

/// The command line, secrets left out.
fn command() -> String {
    without_secrets(std::env::args())
}

/// Words without those behind an option that has a secret.
fn without_secrets(words: impl Iterator<Item = String>) -> String {
    const SECRETS: [&str; 2] = ["--password", "--api-key"];
    let mut kept: Vec<String> = Vec::new();
    let mut hide = false;
    for word in words {
        let (option, value) =
            word.split_once('=').map_or((word.as_str(), None), |(option, value)| (option, Some(value)));
        let is_secret = SECRETS.contains(&option);
        kept.push(match (hide, is_secret && value.is_some()) {
            (true, _) => "…".to_owned(),
            (false, true) => format!("{option}=…"),
            (false, false) => word.clone(),
        });
        hide = !hide && is_secret && value.is_none();
    }
    kept.join(" ")
}

fn commit() -> Option<String> {
    let output = std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_on_the_command_line_are_not_told() {
        let words = ["city", "--api-key", "k:s", "--password=p", "--devices", "3", "--password", "--api-key", "--raw"];
        let told = without_secrets(words.into_iter().map(str::to_owned));
        assert_eq!(told, "city --api-key … --password=… --devices 3 --password … --raw");
    }

    #[test]
    fn our_own_process_can_be_read() {
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.rss >= memory.pss && memory.pss >= memory.private && memory.private > 0);
        assert!(machine_used() > memory.private);
        assert!(super::memory(u32::MAX).is_none());
    }
}
