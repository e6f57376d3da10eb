//! What is asked and told about accounts.

use std::fmt::{self, Display};
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use super::Secret;

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

/// Whether an account may keep an archive of its messages (XEP-0313). Accounts begin with `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArchivePolicy {
    /// It has none.
    Off,
    /// Its owner decides what is kept, within the configuration.
    Allowed,
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
