//! What operators may ask of a broker. One definition: clap reads a [`Command`] from the command line, serde carries it
//! over the control socket, and whoever runs it answers with an [`Answer`], which the command line prints.

use std::fmt::{self, Display};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use plaza_core::date::DateTime;
use plaza_registry::accounts::AccountError;
use plaza_registry::store::StoreError;
use plaza_registry::things::AssignError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a running broker can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// Something about accounts.
    Account(AccountCommand),
    /// Something about things.
    Thing(ThingCommand),
    /// Something about API keys.
    ApiKey(ApiKeyCommand),
    /// Something about all that is kept of somebody.
    Subject(SubjectCommand),
    /// How it is doing.
    Status,
}

/// Something about things (XEP-0347). An address without a domain is in the first domain of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum ThingCommand {
    /// List things: all, those of a device, or those that somebody owns
    List {
        /// Of this device
        #[arg(long, value_name = "ADDRESS", conflicts_with = "owner")]
        #[serde(default)]
        device: Option<String>,
        /// Of this owner
        #[arg(long, value_name = "ADDRESS")]
        #[serde(default)]
        owner: Option<String>,
        /// Begin after this thing.
        #[arg(skip)]
        #[serde(default)]
        after: Option<ThingName>,
        /// At most so many
        #[arg(long, value_name = "N")]
        #[serde(default)]
        limit: Option<usize>,
    },
    /// Show all that is known of a thing, but for its key
    Show {
        /// Address of the device
        address: String,
        /// Which node of it.
        #[command(flatten)]
        #[serde(default)]
        node: Node,
    },
    /// Give a thing to an account, whether its key is known or not
    Claim {
        /// Address of the device
        address: String,
        /// Address of who is to own it
        #[arg(long, value_name = "ADDRESS")]
        owner: String,
        /// Not to be found by others
        #[arg(long)]
        #[serde(default)]
        private: bool,
        /// Which node of it.
        #[command(flatten)]
        #[serde(default)]
        node: Node,
    },
    /// Apply a thing's rules to what others ask of it, whether its device asks for decisions or not
    Enforce {
        /// Address of the device
        address: String,
        /// `on`: what its owner has not allowed does not reach it. `off`: its device decides
        policy: Enforcement,
        /// Which node of it.
        #[command(flatten)]
        #[serde(default)]
        node: Node,
    },
    /// Take a thing from its owner, without asking the device
    Disown {
        /// Address of the device
        address: String,
        /// Which node of it.
        #[command(flatten)]
        #[serde(default)]
        node: Node,
    },
}

/// Who applies a thing's rules. Things begin with `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// The broker does.
    On,
    /// Its device does, if it does.
    Off,
}

/// A node behind a concentrator; all empty for a device itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Id of a node behind a concentrator
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Source of that node
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub src: String,
    /// Partition of that node
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pt: String,
}

/// Which thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThingName {
    /// Address of the device.
    pub address: String,
    /// Which node of it.
    #[serde(default)]
    pub node: Node,
}

impl Display for ThingName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.address)?;
        let Node { id, src, pt } = &self.node;
        for (name, value) in [("id", id), ("src", src), ("pt", pt)] {
            if !value.is_empty() {
                write!(out, " {name}={value}")?;
            }
        }
        Ok(())
    }
}

/// A part of the walk through all that is kept, for what names an address (see [`plaza_registry::subject`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum SubjectCommand {
    /// Tell it.
    Export {
        /// Address.
        address: String,
        /// Where to go on; left out at the beginning.
        #[serde(default)]
        from: Option<String>,
    },
    /// Tell it and remove it. The first part ends the account's sessions, the last one removes it.
    Erase {
        /// Address.
        address: String,
        /// Where to go on; left out at the beginning.
        #[serde(default)]
        from: Option<String>,
    },
}

/// Something about accounts. An address without a domain is in the first domain of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum AccountCommand {
    /// Create an account
    Add {
        /// Address, such as lamp@things.example
        address: String,
        /// The password; `-` reads a line from standard input. Left out: one is made and printed once. Others on this
        /// machine may see what is on a command line
        #[arg(long, value_name = "TEXT")]
        #[serde(default)]
        password: Option<Secret>,
        /// Let it administer the broker
        #[arg(long)]
        #[serde(default)]
        admin: bool,
    },
    /// Remove an account and all it owns, and end its sessions
    Remove {
        /// Address
        address: String,
    },
    /// Set another password, and end the account's sessions
    Passwd {
        /// Address
        address: String,
        /// The password; `-` reads a line from standard input. Left out: one is made and printed once. Others on this
        /// machine may see what is on a command line
        #[arg(long, value_name = "TEXT")]
        #[serde(default)]
        password: Option<Secret>,
    },
    /// List accounts
    List {
        /// Begin after this address
        #[arg(long, value_name = "ADDRESS")]
        #[serde(default)]
        after: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N")]
        #[serde(default)]
        limit: Option<usize>,
    },
    /// Forbid an account to log in, and end its sessions
    Disable {
        /// Address
        address: String,
    },
    /// Let a disabled account log in again
    Enable {
        /// Address
        address: String,
    },
    /// Create accounts by the million, from a file of CSV or JSON lines, with passwords or SCRAM keys
    #[serde(skip)]
    Import {
        /// The file; begun again, it goes on where it was
        file: PathBuf,
    },
    /// Create these accounts that are not there; what the command line makes of a file.
    #[command(skip)]
    Put {
        /// At most 1 000.
        rows: Vec<PutRow>,
    },
    /// With what salts and rounds the keys of these accounts were made, so that a password can be compared with them.
    #[command(skip)]
    Salts {
        /// At most 1 000.
        addresses: Vec<String>,
    },
    /// Let an account keep an archive of its messages, or erase it
    Archive {
        /// Address
        address: String,
        /// `allowed`: within `[archive]` of the configuration its owner decides. `off`: all that is kept is erased
        policy: ArchivePolicy,
    },
}

/// Something about API keys, with which makers create their devices' accounts (XEP-0348).
#[derive(Debug, Clone, PartialEq, Eq, Subcommand, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum ApiKeyCommand {
    /// Make a key; its secret is printed once
    Create {
        /// Whom to ask about it, such as ops@maker.example
        owner: String,
        /// Accounts that may be created with it, all in all
        #[arg(long, value_name = "N")]
        accounts: u64,
        /// Accounts that may be created with it in a minute; 0: as many as one likes
        #[arg(long, value_name = "N", default_value_t = 0)]
        #[serde(default)]
        per_minute: u32,
        /// From when on it may not be used any more: a day such as 2030-12-31, or a moment (XEP-0082)
        #[arg(long, value_name = "DAY")]
        #[serde(default)]
        expires: Option<String>,
        /// Domain in which accounts may be created with it; may be given several times. Left out: any
        #[arg(long, value_name = "NAME")]
        #[serde(default)]
        domain: Vec<String>,
    },
    /// List keys
    List {
        /// Begin after this key
        #[arg(long, value_name = "KEY")]
        #[serde(default)]
        after: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N")]
        #[serde(default)]
        limit: Option<usize>,
    },
    /// Show a key and how many accounts were created with it
    Show {
        /// The key
        key: String,
    },
    /// List the accounts there are that were created with a key
    Accounts {
        /// The key
        key: String,
        /// Begin after this address
        #[arg(long, value_name = "ADDRESS")]
        #[serde(default)]
        after: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N")]
        #[serde(default)]
        limit: Option<usize>,
    },
    /// Let no more accounts be created with a key; those that were stay
    Revoke {
        /// The key
        key: String,
    },
}

/// Whether an account may keep an archive of its messages (XEP-0313). Accounts begin with `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArchivePolicy {
    /// It has none.
    Off,
    /// Its owner decides what is kept, within the configuration.
    Allowed,
}

/// A password. Its `Debug` form does not tell it: commands are logged, passwords are not.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl AccountCommand {
    /// The password given, if one was.
    pub fn password_mut(&mut self) -> Option<&mut Secret> {
        match self {
            Self::Add { password, .. } | Self::Passwd { password, .. } => password.as_mut(),
            Self::Remove { .. }
            | Self::Import { .. }
            | Self::Put { .. }
            | Self::Salts { .. }
            | Self::List { .. }
            | Self::Disable { .. }
            | Self::Enable { .. }
            | Self::Archive { .. } => None,
        }
    }
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It was carried out.
    Ok(Reply),
    /// It was not.
    Error(Refusal),
}

/// What there is to tell of a command carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// An account was created.
    Created {
        /// Its address.
        address: String,
        /// Its password, if it was made here. Told once.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        password: Option<Secret>,
    },
    /// An account has another password.
    Changed {
        /// Its address.
        address: String,
        /// Its password, if it was made here. Told once.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        password: Option<Secret>,
    },
    /// An account is gone.
    Removed {
        /// Its address.
        address: String,
    },
    /// An account may no longer log in.
    Disabled {
        /// Its address.
        address: String,
    },
    /// An account may log in again.
    Enabled {
        /// Its address.
        address: String,
    },
    /// An account may keep an archive, or has none any more.
    Archive {
        /// Its address.
        address: String,
        /// Which.
        policy: ArchivePolicy,
    },
    /// Accounts, in the store's order.
    Accounts {
        /// Of this page.
        accounts: Vec<AccountLine>,
        /// Whether more come after the last of these.
        more: bool,
    },
    /// Things, in the store's order.
    Things {
        /// Of this page.
        things: Vec<ThingInfo>,
        /// Whether more come after the last of these.
        more: bool,
    },
    /// A thing.
    Thing(Box<ThingInfo>),
    /// A thing has an owner now.
    Claimed(Box<ThingInfo>),
    /// A thing's rules are applied by the broker, or no longer.
    Enforced(Box<ThingInfo>),
    /// A thing is nobody's now.
    Disowned {
        /// Address of its device.
        address: String,
        /// Which node of it.
        node: Node,
    },
    /// What became of accounts that were to be created, in order.
    Put {
        /// Of each.
        outcomes: Vec<PutOutcome>,
    },
    /// With what the keys of accounts were made, in order; `null` where there is no account.
    Salts {
        /// Of each.
        salts: Vec<Option<Salts>>,
    },
    /// What became of a file of accounts.
    Imported {
        /// Accounts that were created.
        created: u64,
        /// Accounts that were there with the same password or keys.
        same: u64,
        /// Lines that are no account, or one that is there with another password.
        refused: u64,
    },
    /// An API key was made.
    ApiKeyCreated {
        /// Its id, which is sent along with what is signed.
        key: String,
        /// What is signed with. Told once.
        secret: Secret,
    },
    /// An API key.
    ApiKey(ApiKeyLine),
    /// API keys, in order of their ids.
    ApiKeys {
        /// Of this page.
        keys: Vec<ApiKeyLine>,
        /// Whether more come after the last of these.
        more: bool,
    },
    /// Accounts that were created with an API key, in order of their addresses.
    ApiKeyAccounts {
        /// Of this page.
        accounts: Vec<ApiKeyAccount>,
        /// Whether more come after the last of these.
        more: bool,
    },
    /// No more accounts are created with an API key.
    ApiKeyRevoked {
        /// Which.
        key: String,
    },
    /// A part of all that is kept of somebody.
    Subject(SubjectPart),
    /// How the broker is doing.
    Status(Status),
}

/// All that is known of a thing, but for its key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThingInfo {
    /// Which.
    #[serde(flatten)]
    pub name: ThingName,
    /// Where it is in its life.
    pub state: ThingState,
    /// Whose, if it is somebody's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub owner: Option<String>,
    /// To be found by others.
    pub public: bool,
    /// Taken out of the registry by its owner.
    pub removed: bool,
    /// The broker applies its rules itself.
    #[serde(default)]
    pub enforced: bool,
    /// It registered with a key, and was not claimed yet.
    pub has_key: bool,
    /// What its device has not heard of yet.
    pub pending: Vec<String>,
    /// When it was registered first, in seconds since the Unix epoch.
    pub created: u64,
    /// When it last changed.
    pub updated: u64,
    /// What is said of it.
    pub tags: Map<String, Value>,
}

/// Where a thing is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThingState {
    /// Nobody's, to be claimed.
    Unclaimed,
    /// Its own.
    SelfOwned,
    /// Somebody's.
    Claimed,
}

impl ThingInfo {
    /// Whose it is, for people.
    fn whose(&self) -> String {
        let whose = match (&self.state, &self.owner) {
            (ThingState::Claimed, Some(owner)) => format!("claimed by {owner}"),
            (ThingState::SelfOwned, _) => "its own".to_owned(),
            (ThingState::Unclaimed | ThingState::Claimed, _) => "unclaimed".to_owned(),
        };
        let seen = match (self.public, self.removed) {
            (true, _) => ", public",
            (false, true) => ", removed",
            (false, false) => "",
        };
        whose + seen
    }
}

/// A thing on a line, and what is said of it on lines of their own.
impl Display for ThingInfo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}  {}", self.name, self.whose())?;
        if self.has_key {
            out.write_str(", has a key")?;
        }
        if self.enforced {
            out.write_str(", enforced")?;
        }
        if !self.pending.is_empty() {
            write!(out, "\n  not told yet: {}", self.pending.join(", "))?;
        }
        for (name, value) in &self.tags {
            write!(out, "\n  {name} = {value}")?;
        }
        Ok(())
    }
}

/// An account to be created, with its keys as RFC 5803 has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutRow {
    /// Its address.
    pub address: String,
    /// Its keys for SCRAM-SHA-1.
    pub sha1: Secret,
    /// Its keys for SCRAM-SHA-256.
    pub sha256: Secret,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PutOutcome {
    /// It was created.
    Created,
    /// It was there, with these keys.
    Same,
    /// It was not, and why.
    Refused(String),
}

/// With what an account's keys were made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Salts {
    /// Rounds and salt in Base64, for SCRAM-SHA-1.
    pub sha1: (u32, String),
    /// Rounds and salt in Base64, for SCRAM-SHA-256.
    pub sha256: (u32, String),
}

/// An API key, in a list or alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyLine {
    /// Its id.
    pub key: String,
    /// Whom to ask about it.
    pub owner: String,
    /// Accounts created with it.
    pub accounts: u64,
    /// Accounts that may be.
    pub accounts_max: u64,
    /// Accounts that may be in a minute; 0: as many as one likes.
    pub per_minute: u32,
    /// It may not be used any more.
    pub revoked: bool,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// Seconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires: Option<u64>,
    /// Domains it is for; none: all.
    pub domains: Vec<String>,
}

/// An account that was created with an API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyAccount {
    /// Its address.
    pub address: String,
    /// Seconds since the Unix epoch.
    pub created: u64,
}

/// A part of all that is kept of somebody.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubjectPart {
    /// The address, in normal form.
    pub address: String,
    /// What it owns: the name of what it is, and what it says.
    pub own: Vec<(String, Value)>,
    /// What there is of it and of what names it, counted.
    pub traces: Vec<SubjectTrace>,
    /// Records looked at.
    pub records: u64,
    /// Where to go on; none at the end.
    pub next: Option<String>,
    /// Whether an account was removed, at the end.
    #[serde(default)]
    pub account_removed: bool,
}

/// How much there is of one kind in one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SubjectTrace {
    /// Table of the store.
    pub table: String,
    /// Whose, "" for the broker itself.
    pub of: String,
    /// What it is.
    pub what: String,
    /// Erasing removes it, or did.
    pub removed: bool,
    /// How many.
    pub count: u64,
}

/// An account in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountLine {
    /// Its address.
    pub address: String,
    /// May not log in.
    pub disabled: bool,
    /// May administer the broker.
    pub admin: bool,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// May keep an archive of its messages.
    #[serde(default)]
    pub archive: bool,
}

/// How a broker is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Draining before its end.
    pub stopping: bool,
    /// Domains served.
    pub domains: Vec<String>,
    /// Numbers of each shard, as [`crate::metrics::Counters::to_json`] gives them.
    pub shards: Vec<Value>,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people.
    pub text: String,
}

/// The kinds of [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// Not a command, or not for this broker.
    BadRequest,
    /// There is such an account already.
    Exists,
    /// There is no such account.
    NotFound,
    /// The password can't be one.
    BadPassword,
    /// Too much to do: try again.
    Busy,
    /// The store can't.
    StoreFailed,
}

impl Refusal {
    /// Not a command, or not for this broker.
    pub fn bad_request(text: impl Into<String>) -> Self {
        Self { code: RefusalCode::BadRequest, text: text.into() }
    }

    /// Too much to do.
    pub fn busy() -> Self {
        Self { code: RefusalCode::Busy, text: "the broker is busy; try again".into() }
    }

    /// What the registry says about an account.
    pub fn account(error: AccountError, address: &str) -> Self {
        match error {
            AccountError::Exists => {
                Self { code: RefusalCode::Exists, text: format!("there is an account {address} already") }
            }
            AccountError::NotFound => {
                Self { code: RefusalCode::NotFound, text: format!("there is no account {address}") }
            }
            AccountError::BadPassword => Self::bad_password(),
            AccountError::Store(error) => error.into(),
        }
    }

    /// What the registry says about a thing.
    pub fn thing(error: AssignError, name: &str) -> Self {
        match error {
            AssignError::NotFound => {
                Self { code: RefusalCode::NotFound, text: format!("there is no thing {name}, or it is nobody's") }
            }
            AssignError::NoAccount => {
                Self { code: RefusalCode::NotFound, text: "who is to own it has no account".into() }
            }
            AssignError::Owned(owner) => {
                Self { code: RefusalCode::Exists, text: format!("{name} is {owner}'s; disown it first") }
            }
            AssignError::Store(error) => error.into(),
        }
    }

    /// The password can't be one.
    pub fn bad_password() -> Self {
        Self { code: RefusalCode::BadPassword, text: "a password is neither empty nor has control characters".into() }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let text = match error {
            StoreError::Busy => return Self::busy(),
            StoreError::Failed => "the store is read-only after a failed write; look at the log, then restart",
            StoreError::Corrupt => "a record in the store is damaged",
        };
        Self { code: RefusalCode::StoreFailed, text: text.into() }
    }
}

impl Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// What the command line prints.
impl Display for Reply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let once = |out: &mut fmt::Formatter<'_>, password: &Option<Secret>| match password {
            Some(Secret(password)) => write!(out, "\npassword {password}   (shown once)"),
            None => Ok(()),
        };
        match self {
            Self::Created { address, password } => {
                write!(out, "created {address}")?;
                once(out, password)
            }
            Self::Changed { address, password } => {
                write!(out, "new password for {address}")?;
                once(out, password)
            }
            Self::Removed { address } => write!(out, "removed {address}"),
            Self::Disabled { address } => write!(out, "disabled {address}"),
            Self::Enabled { address } => write!(out, "enabled {address}"),
            Self::Archive { address, policy: ArchivePolicy::Allowed } => write!(out, "archive allowed for {address}"),
            Self::Archive { address, policy: ArchivePolicy::Off } => write!(out, "archive of {address} erased"),
            Self::Accounts { accounts, .. } => {
                let lines: Vec<String> = accounts.iter().map(AccountLine::to_string).collect();
                out.write_str(&lines.join("\n"))
            }
            Self::Things { things, .. } => {
                let lines: Vec<String> =
                    things.iter().map(|thing| format!("{}  {}", thing.name, thing.whose())).collect();
                out.write_str(&lines.join("\n"))
            }
            Self::Thing(thing) => thing.fmt(out),
            Self::Claimed(thing) => write!(out, "{} is {}", thing.name, thing.whose()),
            Self::Enforced(thing) if thing.enforced => {
                let whose = match thing.owner {
                    Some(_) => "what its owner has not allowed does not reach it",
                    None => "it has no owner, and nothing reaches it",
                };
                write!(out, "{} is enforced: {whose}", thing.name)
            }
            Self::Enforced(thing) => write!(out, "{} is not enforced: its device decides", thing.name),
            Self::Disowned { address, node } => {
                let name = ThingName { address: address.clone(), node: node.clone() };
                write!(out, "{name} is nobody's; it can be claimed when it has registered anew")
            }
            Self::Put { .. } | Self::Salts { .. } => Ok(()),
            Self::Imported { created, same, refused } => {
                write!(out, "{created} accounts created, {same} were there, {refused} lines refused")
            }
            Self::ApiKeyCreated { key, secret: Secret(secret) } => {
                write!(out, "key    {key}\nsecret {secret}   (shown once)")
            }
            Self::ApiKey(line) => line.fmt(out),
            Self::ApiKeys { keys, .. } => {
                let lines: Vec<String> = keys.iter().map(ApiKeyLine::to_string).collect();
                out.write_str(&lines.join("\n"))
            }
            Self::ApiKeyAccounts { accounts, .. } => {
                let lines: Vec<&str> = accounts.iter().map(|account| account.address.as_str()).collect();
                out.write_str(&lines.join("\n"))
            }
            Self::ApiKeyRevoked { key } => write!(out, "revoked {key}"),
            Self::Subject(part) => {
                let count =
                    |removed| part.traces.iter().filter(|one| one.removed == removed).map(|one| one.count).sum::<u64>();
                write!(out, "{}: {} records, {} more that name it", part.address, count(true), count(false))
            }
            Self::Status(status) => status.fmt(out),
        }
    }
}

impl Display for ApiKeyLine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}  {} of {} accounts", self.key, self.accounts, self.accounts_max)?;
        if self.per_minute > 0 {
            write!(out, ", {} a minute", self.per_minute)?;
        }
        if let Some(expires) = self.expires {
            write!(out, ", until {}", DateTime::from_unix_millis(expires.saturating_mul(1_000)))?;
        }
        if !self.domains.is_empty() {
            write!(out, ", in {}", self.domains.join(", "))?;
        }
        write!(out, "  {}", self.owner)?;
        if self.revoked { out.write_str("  revoked") } else { Ok(()) }
    }
}

impl Display for AccountLine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.address)?;
        if self.admin {
            out.write_str("  admin")?;
        }
        if self.disabled {
            out.write_str("  disabled")?;
        }
        if self.archive {
            out.write_str("  archive")?;
        }
        Ok(())
    }
}

/// Columns of the status table: heading, and the field of the shard's numbers; a labelled field shows its sum.
const COLUMNS: [(&str, &str); 13] = [
    ("sessions", "sessions"),
    ("conns", "connections"),
    ("login", "negotiating"),
    ("st in", "stanzas_in"),
    ("st out", "stanzas_out"),
    ("B in", "bytes_in"),
    ("B out", "bytes_out"),
    ("handoffs", "handoffs_out"),
    ("queue", "queue_depth"),
    ("outbox B", "outbox_bytes"),
    ("B/sess", "bytes_per_session"),
    ("drops", "drops"),
    ("late", "late_turns"),
];

impl Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minutes, hours) = (self.uptime_seconds / 60, self.uptime_seconds / 3_600);
        write!(out, "Plaza {}, pid {}, ", self.version, self.pid)?;
        write!(out, "up {} d {} h {} min", hours / 24, hours % 24, minutes % 60)?;
        writeln!(out, "{}, serving {}", if self.stopping { ", stopping" } else { "" }, self.domains.join(", "))?;
        write!(out, "shard")?;
        for (heading, _) in COLUMNS {
            write!(out, " {heading:>9}")?;
        }
        for (shard, numbers) in self.shards.iter().enumerate() {
            write!(out, "\n{shard:>5}")?;
            for (_, field) in COLUMNS {
                write!(out, " {:>9}", short(sum(numbers.get(field).unwrap_or(&Value::Null))))?;
            }
        }
        Ok(())
    }
}

fn sum(value: &Value) -> u64 {
    match value {
        Value::Number(number) => number.as_u64().unwrap_or(0),
        Value::Object(labelled) => labelled.values().map(sum).sum(),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) => 0,
    }
}

/// At most four digits and a unit: 9 999, 10k, 123M.
fn short(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..10_000_000 => format!("{}k", number / 1_000),
        10_000_000..10_000_000_000 => format!("{}M", number / 1_000_000),
        _ => format!("{}G", number / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Counters;

    fn add(password: Option<&str>) -> Command {
        let password = password.map(Secret::from);
        Command::Account(AccountCommand::Add { address: "lamp@localhost".into(), password, admin: false })
    }

    #[test]
    fn commands_and_answers_survive_the_socket() {
        let list = AccountCommand::List { after: Some("a@localhost".into()), limit: None };
        let node = Node { id: "1".into(), ..Node::default() };
        let after = Some(ThingName { address: "a@localhost".into(), node: node.clone() });
        let things = Command::Thing(ThingCommand::List { device: None, owner: None, after, limit: Some(1) });
        let enforce = ThingCommand::Enforce { address: "lamp".into(), policy: Enforcement::On, node: node.clone() };
        let enforce = Command::Thing(enforce);
        let show = Command::Thing(ThingCommand::Show { address: "lamp".into(), node });
        let key = ApiKeyCommand::Create {
            owner: "ops@maker.example".into(),
            accounts: 9,
            per_minute: 0,
            expires: None,
            domain: vec!["localhost".into()],
        };
        let key = Command::ApiKey(key);
        let accounts = [add(Some("secret")), add(None), Command::Account(list)];
        for command in accounts.into_iter().chain([things, show, enforce, key, Command::Status]) {
            let line = serde_json::to_string(&command).unwrap();
            assert_eq!(serde_json::from_str::<Command>(&line).unwrap(), command, "{line}");
        }
        let created = Reply::Created { address: "lamp@localhost".into(), password: Some("once".into()) };
        for answer in [Answer::Ok(created), Answer::Error(Refusal::busy())] {
            let line = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<Answer>(&line).unwrap(), answer, "{line}");
        }
    }

    #[test]
    fn the_protocol_is_what_the_manual_says() {
        let check = |line: &str, command: Command| assert_eq!(serde_json::from_str::<Command>(line).unwrap(), command);
        check(r#"{"account":{"add":{"address":"lamp@localhost"}}}"#, add(None));
        check(r#"{"account":{"add":{"address":"lamp@localhost","password":"secret"}}}"#, add(Some("secret")));
        check(r#""status""#, Command::Status);
        let disown = ThingCommand::Disown { address: "lamp".into(), node: Node::default() };
        check(r#"{"thing":{"disown":{"address":"lamp"}}}"#, Command::Thing(disown));
        let show = Command::ApiKey(ApiKeyCommand::Show { key: "4d5a".into() });
        check(r#"{"apikey":{"show":{"key":"4d5a"}}}"#, show);
        let create = ApiKeyCommand::Create {
            owner: "a@b".into(),
            accounts: 9,
            per_minute: 0,
            expires: None,
            domain: Vec::new(),
        };
        check(r#"{"apikey":{"create":{"owner":"a@b","accounts":9}}}"#, Command::ApiKey(create));
        let enforce = ThingCommand::Enforce { address: "lamp".into(), policy: Enforcement::Off, node: Node::default() };
        check(r#"{"thing":{"enforce":{"address":"lamp","policy":"off"}}}"#, Command::Thing(enforce));
        assert!(serde_json::from_str::<Command>(r#"{"account":{"add":{}}}"#).is_err());
        assert!(serde_json::from_str::<Command>(r#""halt""#).is_err());
    }

    #[test]
    fn passwords_are_not_in_debug_output() {
        let created = Reply::Created { address: "lamp@localhost".into(), password: Some("once".into()) };
        assert!(!format!("{:?} {created:?}", add(Some("secret"))).contains("secret"));
        assert!(!format!("{created:?}").contains("once"));
        assert!(created.to_string().contains("once"));
        let key = Reply::ApiKeyCreated { key: "4d5a".into(), secret: "s3cret".into() };
        assert!(!format!("{key:?}").contains("s3cret") && key.to_string().contains("s3cret"));
    }

    #[test]
    fn a_key_is_a_line() {
        let key = ApiKeyLine {
            key: "4d5a".into(),
            owner: "ops@maker.example".into(),
            accounts: 3,
            accounts_max: 10,
            per_minute: 0,
            revoked: false,
            created: 0,
            expires: None,
            domains: Vec::new(),
        };
        assert_eq!(key.to_string(), "4d5a  3 of 10 accounts  ops@maker.example");
        let narrow = ApiKeyLine {
            per_minute: 5,
            revoked: true,
            expires: Some(1_924_905_600),
            domains: vec!["a.example".into()],
            ..key
        };
        assert_eq!(
            narrow.to_string(),
            "4d5a  3 of 10 accounts, 5 a minute, until 2030-12-31T00:00:00.000Z, in a.example  ops@maker.example  revoked"
        );
    }

    #[test]
    fn status_is_a_table_with_a_line_per_shard() {
        let mut counters = Counters { sessions: 12_345, session_bytes: 12_345_000, ..Counters::default() };
        counters.stanzas_in[plaza_core::stanza::Kind::Iq] = 7;
        let status = Status {
            version: "0.1.0".into(),
            pid: 1,
            uptime_seconds: 90_061,
            stopping: false,
            domains: vec!["localhost".into()],
            shards: vec![counters.to_json(), Counters::default().to_json()],
        };
        let text = status.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Plaza 0.1.0, pid 1, up 1 d 1 h 1 min, serving localhost");
        assert_eq!(lines.len(), 4);
        assert!(lines[2].split_whitespace().eq("0 12k 0 0 7 0 0 0 0 0 0 1000 0 0".split(' ')), "{}", lines[2]);
        assert!(lines.iter().skip(1).all(|line| line.len() == lines[1].len()));
    }

    #[test]
    fn every_column_is_a_field_of_the_numbers() {
        let numbers = Counters::default().to_json();
        assert!(COLUMNS.iter().all(|(_, field)| numbers.get(field).is_some()));
    }
}
