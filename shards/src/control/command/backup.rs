//! What may be asked about backups.

use std::fmt::{self, Display};
use std::path::PathBuf;

use plaza_registry::store::embedded::Copied;
use serde::{Deserialize, Serialize};

/// Something about backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupCommand {
    /// Begin one, of what there is now.
    Begin {
        /// Where to: a directory that is empty, or not there; from the root.
        directory: PathBuf,
    },
    /// How far the last one is.
    Progress,
}

/// How far a backup is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupState {
    /// Where to.
    pub directory: PathBuf,
    /// Records copied.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Whether it has ended.
    pub done: bool,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

impl BackupState {
    /// Counts what was copied so far.
    pub(crate) const fn count(&mut self, copied: Copied) {
        (self.records, self.bytes) = (copied.records, copied.bytes);
    }
}

impl Display for BackupState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} records, {} bytes, are in {}", self.records, self.bytes, self.directory.display())
    }
}
