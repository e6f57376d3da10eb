//! The command line of `plaza`: what may be said, and which exit status says what came of it.

use std::fmt;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use plaza_registry::store::embedded::SCHEMA;
use plaza_tuning::{Finding, Severity};
use serde_json::json;

use crate::cert::{CertError, TlsSnapshot};
use crate::config::{Config, ConfigError, SAMPLE, Settings, TlsMode};
use crate::control::command::{AccountCommand, Answer, ApiKeyCommand, Command, Refusal, Reply, ThingCommand};
use crate::control::data::DataDir;
use crate::control::socket::Client;
use crate::control::subject::SubjectVerb;
use crate::control::{Control, listen_without_ipv6};
use crate::label::{self, LabelArgs};
use crate::log;

mod import;
mod manage;
mod upgrade;

use manage::{account, apikey, backup, subject, thing};

/// Plaza, an XMPP broker for the Internet of Things.
#[derive(Debug, Parser)]
#[command(version, about = "Plaza, an XMPP broker for the Internet of Things", after_help = EXIT_STATUS)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub options: Options,
    /// What to do; `serve` if left out.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// Options of `serve`, when it is left out.
    #[command(flatten)]
    pub serve: ServeArgs,
}

const EXIT_STATUS: &str = "Exit status: 0 done, 1 failed, 2 wrong usage, 69 no broker runs or another has the data, \
                           70 the host or a bug ended the broker, 73 can't create a file or listen, 78 configuration or host not fit.";

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Configuration file (TOML); none is needed
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Data directory, in place of the configuration's [default: ./plaza-data]
    #[arg(long, value_name = "DIR", global = true)]
    pub data: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// Options of `serve`.
#[derive(Debug, Clone, Default, Args)]
pub struct ServeArgs {
    /// Listen on 127.0.0.1 only, whatever the configuration says
    #[arg(long)]
    pub dev: bool,
    /// Domain to serve, in place of the configuration's; may be given several times
    #[arg(long, value_name = "NAME")]
    pub domain: Vec<String>,
}

/// Options of `check`.
#[derive(Debug, Clone, Default, Args)]
pub struct CheckArgs {
    /// Those that `serve` would get.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Version of the data of the broker whose place is to be taken
    #[arg(long, hide = true, value_name = "VERSION")]
    pub upgrade_from: Option<u32>,
    /// An address whose socket that broker will hand over; may be given several times
    #[arg(long, hide = true, value_name = "ADDRESS")]
    pub held: Vec<SocketAddr>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the broker until a signal stops it (the default)
    Serve(ServeArgs),
    /// Manage accounts, whether the broker runs or not
    #[command(subcommand)]
    Account(AccountCommand),
    /// All that is kept of somebody: tell it, or erase it
    #[command(subcommand)]
    Subject(SubjectVerb),
    /// Manage things and whose they are, whether the broker runs or not, and make what is printed on them
    #[command(subcommand)]
    Thing(ThingVerb),
    /// Manage the API keys that makers create their devices' accounts with, whether the broker runs or not
    #[command(subcommand, name = "apikey")]
    ApiKey(ApiKeyCommand),
    /// Copy all that is stored, as it is now, to a directory that can be started from, whether the broker runs or not
    Backup {
        /// Where to: a directory that is empty, or not there
        directory: PathBuf,
    },
    /// Check configuration, certificate and host, without starting anything
    Check(CheckArgs),
    /// Show how the running broker is doing, shard by shard
    Status,
    /// Let the program that is at the running broker's path now take its place: no connection is refused meanwhile, and
    /// sessions can be resumed. It is tried first, and refused if it is not fit
    Upgrade,
    /// Show or check configuration
    #[command(subcommand)]
    Config(ConfigVerb),
}

/// What to do with things.
#[derive(Debug, Subcommand)]
pub enum ThingVerb {
    /// What a broker can be asked.
    #[command(flatten)]
    Manage(ThingCommand),
    /// Make labels by which things are claimed: QR codes, and sheets of them to print. Needs no broker
    Label(Box<LabelArgs>),
}

/// What to do with configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Print every setting with its default and explanation
    Defaults,
    /// Check a file
    Validate {
        /// The file
        file: PathBuf,
    },
}

/// Why a command failed; each has its exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It was tried and did not work: 1.
    Failed(String),
    /// No broker runs, or another has the data: 69 (`EX_UNAVAILABLE`).
    Unavailable(String),
    /// The broker ended itself: 70 (`EX_SOFTWARE`).
    Ended(String),
    /// A file can't be created, an address not be listened on: 73 (`EX_CANTCREAT`).
    CantCreate(String),
    /// Configuration or host are not fit: 78 (`EX_CONFIG`).
    Config(String),
}

impl Failure {
    /// The exit status.
    pub const fn status(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Unavailable(_) => 69,
            Self::Ended(_) => 70,
            Self::CantCreate(_) => 73,
            Self::Config(_) => 78,
        }
    }

    /// What a certificate that can't be used ends in.
    pub(crate) fn certificate(error: CertError) -> Self {
        match error {
            CertError::Write(..) => Self::CantCreate(error.to_string()),
            CertError::Read(..)
            | CertError::Missing(..)
            | CertError::Malformed(..)
            | CertError::Unusable(..)
            | CertError::ClientCa(..)
            | CertError::Make(_) => Self::Config(error.to_string()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text)
            | Self::Unavailable(text)
            | Self::Ended(text)
            | Self::CantCreate(text)
            | Self::Config(text) => out.write_str(text),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(refusal.text)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(error.to_string())
    }
}

/// Turns the end of a command into the end of the process: its exit status, and the reason on standard error.
pub fn finish(result: Result<(), Failure>, json: bool) -> ExitCode {
    let status = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            log::say(&if json {
                json!({ "error": { "status": failure.status(), "text": failure.to_string() } }).to_string()
            } else {
                format!("plaza: {failure}")
            });
            failure.status().into()
        }
    };
    log::flush();
    status
}

impl Options {
    /// The settings in force: the file, then what the command line says.
    ///
    /// # Errors
    /// [`Failure::Config`].
    pub fn settings(&self, serve: &ServeArgs) -> Result<Settings, Failure> {
        Ok(self.read(serve)?.check()?)
    }

    /// The same, before it is checked.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(&self, serve: &ServeArgs) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(data) = &self.data {
            config.data.clone_from(data);
        }
        if !serve.domain.is_empty() {
            config.domains.clone_from(&serve.domain);
        }
        if serve.dev {
            config = config.on_loopback();
        }
        Ok(config)
    }
}

/// Does everything but `serve`.
///
/// # Errors
/// [`Failure`], with its exit status.
pub fn run(verb: Verb, options: &Options) -> Result<(), Failure> {
    match verb {
        Verb::Serve(_) => Ok(()),
        Verb::Account(command) => account(command, options),
        Verb::Subject(verb) => subject(&verb, options),
        Verb::Thing(ThingVerb::Manage(command)) => thing(command, options),
        Verb::Thing(ThingVerb::Label(args)) => label::run(&args, options.json),
        Verb::ApiKey(command) => apikey(command, options),
        Verb::Backup { directory } => backup(&directory, options),
        Verb::Check(args) => check(&args, options),
        Verb::Status => status(options),
        Verb::Upgrade => upgrade::run(options),
        Verb::Config(ConfigVerb::Defaults) if options.json => print(&json!(Config::default()), ""),
        Verb::Config(ConfigVerb::Defaults) => print(&(), SAMPLE.trim_end()),
        Verb::Config(ConfigVerb::Validate { file }) => {
            Config::load(Some(&file))?.check()?;
            let text = format!("{} is valid", file.display());
            if options.json { print(&json!({ "valid": true }), "") } else { print(&(), &text) }
        }
    }
}

/// Checks the host before anything else: prints what is fatal, one line each.
///
/// # Errors
/// [`Failure::Config`] if the broker can't run here.
pub fn preflight(settings: &Settings) -> Result<(), Failure> {
    let findings = plaza_tuning::preflight(&settings.needs());
    let fatal: Vec<String> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Fatal)
        .map(|finding| finding.to_string())
        .collect();
    for finding in findings.iter().filter(|finding| finding.severity == Severity::Warn) {
        tracing::warn!("{finding}");
    }
    if fatal.is_empty() { Ok(()) } else { Err(Failure::Config(fatal.join("\nplaza: "))) }
}

/// Says what there is to know on the first start, and what to do next; at later starts nothing.
pub fn greet(control: &Control, json: bool) {
    let Some(first) = control.first_start() else { return };
    let (settings, tls) = (control.settings(), control.certificate());
    let facts = &tls.certificate;
    if json {
        let told = json!({
            "admin": first.address, "password": first.password, "data": settings.data,
            "certificate": facts.file, "fingerprint": facts.fingerprint,
        });
        _ = print(&told, "");
        return;
    }
    let mut text = format!("Plaza {}, first start, data in {}\n", env!("CARGO_PKG_VERSION"), settings.data.display());
    let mut line = |label: &str, value: &str| text.push_str(&format!("\n  {label:<14}{value}"));
    line("administrator", &first.address);
    line("password", &format!("{}   (shown once)", first.password.0));
    line("certificate", &format!("{}{}", facts.file.display(), if facts.self_made { ", self-signed" } else { "" }));
    line("fingerprint", &format!("SHA-256 {}", facts.fingerprint));
    for listener in &settings.listeners {
        let tls = match listener.tls {
            TlsMode::None => "no TLS",
            TlsMode::StartTls => "STARTTLS",
            TlsMode::Direct => "direct TLS",
        };
        line("listening", &format!("{} {tls}", listener.address));
    }
    if let Some(address) = control.metrics_address() {
        line("metrics", &format!("http://{address}/metrics"));
    }
    let domain = settings.domains.first().map_or("localhost", |domain| domain.as_str());
    text.push_str(&format!(
        "\n\nNext:\n  plaza account add lamp@{domain}    an account for a device\n  \
         plaza status                        how the broker is doing\n  \
         plaza config defaults               every setting, to begin a configuration file with\n"
    ));
    _ = print(&(), &text);
}

/// Prints text, or JSON on one line if there is no text.
fn print(json: &impl serde::Serialize, text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = match text {
        "" => serde_json::to_writer(&mut out, json).map_err(io::Error::from).and_then(|()| writeln!(out)),
        text => writeln!(out, "{text}"),
    };
    match written.and_then(|()| out.flush()) {
        // Whoever read us has enough: `plaza account list | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::Failed(format!("can't write: {error}"))),
        Ok(()) => Ok(()),
    }
}

fn print_reply(reply: &Reply, json: bool) -> Result<(), Failure> {
    let text = reply.to_string();
    if json {
        print(reply, "")
    } else if text.is_empty() {
        Ok(())
    } else {
        print(&(), &text)
    }
}

fn status(options: &Options) -> Result<(), Failure> {
    let settings = options.settings(&ServeArgs::default())?;
    let data = DataDir::existing(&settings.data)?;
    let Some(mut client) = connect(&data.socket())? else {
        return Err(Failure::Unavailable(format!("no broker runs on {}", settings.data.display())));
    };
    let reply = ask(&mut client, &Command::Status)??;
    print_reply(&reply, options.json)
}

/// What a running broker says to a command.
fn ask(client: &mut Client, command: &Command) -> Result<Result<Reply, Refusal>, Failure> {
    match client.ask(command) {
        Ok(Answer::Ok(reply)) => Ok(Ok(reply)),
        Ok(Answer::Error(refusal)) => Ok(Err(refusal)),
        Err(error) => Err(Failure::Failed(format!("the broker does not answer: {error}"))),
    }
}

fn connect(socket: &Path) -> Result<Option<Client>, Failure> {
    Client::connect(socket)
        .map_err(|error| Failure::Unavailable(format!("can't reach the broker at {}: {error}", socket.display())))
}

/// `plaza check`: everything that can be known before a start.
fn check(args: &CheckArgs, options: &Options) -> Result<(), Failure> {
    let mut settings = options.settings(&args.serve)?;
    plaza_tuning::raise_limits();
    let mut findings = vec![Finding::info(
        "configuration",
        match &options.config {
            Some(file) => format!("{} is valid", file.display()),
            None => "the defaults".into(),
        },
    )];
    findings.extend(plaza_tuning::preflight(&settings.needs()));
    findings.extend(certificate_findings(&settings));
    if let Some(version) = args.upgrade_from {
        listen_without_ipv6(&mut settings);
        findings.extend(address_findings(&settings, &args.held));
        if version > SCHEMA {
            let found = format!("of version {version}, this broker knows {SCHEMA}");
            findings.push(Finding::fatal("data", found, "run a newer one"));
        }
        let fatal = findings.iter().filter(|finding| finding.severity == Severity::Fatal);
        let fatal: Vec<String> = fatal.map(Finding::to_string).collect();
        return if fatal.is_empty() { Ok(()) } else { Err(Failure::Config(fatal.join("; "))) };
    }
    match connect(&settings.data.join("control.sock"))? {
        Some(_) => findings.push(Finding::info("broker", format!("runs on {}", settings.data.display()))),
        None => findings.extend(address_findings(&settings, &[])),
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    if options.json {
        let all: Vec<_> = findings.iter().map(finding_json).collect();
        print(&all, "")?;
    } else {
        print(&(), &lines.join("\n"))?;
    }
    match findings.iter().filter(|finding| finding.severity == Severity::Fatal).count() {
        0 => Ok(()),
        count => Err(Failure::Config(format!("{count} to mend before the broker can run here"))),
    }
}

fn finding_json(finding: &Finding) -> serde_json::Value {
    let severity = finding.severity.to_string();
    json!({ "severity": severity, "subject": finding.subject, "found": finding.found, "remedy": finding.remedy })
}

fn certificate_findings(settings: &Settings) -> Vec<Finding> {
    let own = crate::cert::own_files(&settings.data);
    let loaded = match &settings.certificate {
        Some(files) => TlsSnapshot::read(files, settings.client_ca.as_deref()),
        // Our own is made at the start if it does not do; to check is not to make.
        None if !own.certificate.exists() => {
            return vec![Finding::info("certificate", "none yet; a self-signed one is made at the first start")];
        }
        None => TlsSnapshot::read_own(&own, settings.client_ca.as_deref()),
    };
    match loaded {
        Ok(snapshot) => snapshot.findings(&settings.domains),
        Err(error) => vec![Finding::fatal("certificate", error.to_string(), "mend or replace the file")],
    }
}

/// Whether the addresses can be had, but for those that are held already; asked only while no broker has them.
fn address_findings(settings: &Settings, held: &[SocketAddr]) -> Vec<Finding> {
    let listeners = settings.listeners.iter().map(|listener| ("listener", listener.address));
    let all = listeners.chain(settings.metrics.map(|address| ("metrics", address)));
    let wanted = all.filter(|(_, address)| !held.contains(address));
    wanted
        .map(|(subject, address)| match TcpListener::bind(address) {
            Ok(_) => Finding::info(subject, format!("{address} is free")),
            Err(error) => Finding::fatal(subject, format!("{address}: {error}"), "stop what has it, or choose another"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(words: &str) -> Cli {
        Cli::try_parse_from(words.split(' ')).unwrap_or_else(|error| panic!("{words}: {error}"))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_is_what_is_done_without_a_verb() {
        let cli = parse("plaza --dev --domain a.example --domain b.example --data /tmp/x");
        assert!(cli.verb.is_none() && cli.serve.dev);
        assert_eq!(cli.serve.domain, ["a.example", "b.example"]);
        let Some(Verb::Serve(args)) = parse("plaza serve --dev").verb else { panic!("not serve") };
        assert!(args.dev);
    }

    #[test]
    fn options_may_follow_the_verb() {
        let cli = parse("plaza account add lamp@localhost --json --data /tmp/x --admin");
        assert!(cli.options.json);
        assert_eq!(cli.options.data.as_deref(), Some(Path::new("/tmp/x")));
        let Some(Verb::Account(AccountCommand::Add { address, admin: true, password })) = cli.verb else {
            panic!("not add")
        };
        assert_eq!((address.as_str(), password), ("lamp@localhost", None));
    }

    #[test]
    fn a_key_is_made_with_options() {
        let Some(Verb::ApiKey(ApiKeyCommand::Create { owner, accounts: 9, per_minute: 0, expires: None, domain })) =
            parse("plaza apikey create ops@maker.example --accounts 9 --domain a.example").verb
        else {
            panic!("not create")
        };
        assert_eq!((owner.as_str(), domain), ("ops@maker.example", vec!["a.example".to_owned()]));
    }

    #[test]
    fn wrong_usage_is_status_2() {
        for words in
            ["plaza fly", "plaza account", "plaza account add", "plaza status --admin", "plaza config validate"]
        {
            assert_eq!(Cli::try_parse_from(words.split(' ')).expect_err(words).exit_code(), 2);
        }
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "domains = ['file.example']\ndata = '/file'\nshards = 3").unwrap();
        let words = format!("plaza --config {} --data /line --domain line.example", file.path().display());
        let cli = parse(&words);
        let settings = cli.options.settings(&cli.serve).unwrap();
        assert_eq!(settings.data, Path::new("/line"));
        assert_eq!(settings.domains[0].as_str(), "line.example");
        assert_eq!(settings.shards, 3);
    }

    #[test]
    fn a_wrong_configuration_is_status_78_and_no_broker_69() {
        let options =
            |config: &Path, data: &Path| Options { config: Some(config.into()), data: Some(data.into()), json: false };
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("plaza.toml");
        assert_eq!(status(&options(&file, directory.path())).unwrap_err().status(), 78, "no such file");
        std::fs::write(&file, "shards = 999").unwrap();
        assert_eq!(status(&options(&file, directory.path())).unwrap_err().status(), 78);
        std::fs::write(&file, "").unwrap();
        assert_eq!(status(&options(&file, directory.path())).unwrap_err().status(), 69);
        assert_eq!(status(&options(&file, &directory.path().join("none"))).unwrap_err().status(), 69);
    }
}
