//! What is asked and told about API keys.

use std::fmt::{self, Display};

use clap::Subcommand;
use plaza_core::date::DateTime;
use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
