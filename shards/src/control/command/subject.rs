//! What is asked and told about all that is kept of somebody.

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
