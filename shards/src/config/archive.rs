//! `[archive]`: whether accounts may keep messages here, and how many (XEP-0313).

use plaza_registry::archive::{ArchiveConfig, ArchiveLimits, Mode, Modes};
use serde::{Deserialize, Serialize};

use super::Checks;
use super::text::{ByteSize, Span};

/// `[archive]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "each key is explained in docs/plaza.toml")]
pub struct ArchiveTable {
    pub modes: Vec<ModeName>,
    pub default: ModeName,
    pub age_max: Span,
    pub messages_max: u32,
    pub bytes_max: ByteSize,
    pub page_max: u32,
    pub page_bytes_max: ByteSize,
}

/// What happens to messages with those who are on no list of an account's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModeName {
    /// They are not archived.
    Never,
    /// They are if the other is in the account's roster.
    Roster,
    /// They are.
    Always,
}

impl ModeName {
    const fn mode(self) -> Mode {
        match self {
            Self::Never => Mode::Never,
            Self::Roster => Mode::Roster,
            Self::Always => Mode::Always,
        }
    }
}

impl Default for ArchiveTable {
    fn default() -> Self {
        Self {
            modes: Vec::new(),
            default: ModeName::Never,
            age_max: Span::seconds(30 * 24 * 3600),
            messages_max: 10_000,
            bytes_max: ByteSize(16 << 20),
            page_max: 100,
            page_bytes_max: ByteSize(128 * 1024),
        }
    }
}

impl Checks {
    /// `unacknowledged_max`: stanzas a client may leave unacknowledged, which a page should not be longer than.
    pub(super) fn archive(&mut self, table: &ArchiveTable, unacknowledged_max: u32) -> ArchiveConfig {
        let modes: Vec<Mode> = table.modes.iter().map(|mode| mode.mode()).collect();
        let (modes, default) = (Modes::of(&modes), table.default.mode());
        if default != Mode::Never && !modes.has(default) {
            self.refuse("archive.default", default.name(), "\"never\", or one of archive.modes");
        }
        if !table.modes.is_empty() && table.page_max > unacknowledged_max {
            self.refuse("archive.page_max", table.page_max, "no more than limits.unacknowledged_stanzas_max");
        }
        let age = self.seconds("archive.age_max", table.age_max, 60..=3_650 * 24 * 3600);
        ArchiveConfig {
            modes,
            default,
            limits: ArchiveLimits {
                age_millis_max: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                messages_max: self.within("archive.messages_max", table.messages_max, 1..=1_000_000),
                bytes_max: self.bytes("archive.bytes_max", table.bytes_max, 64 << 10..=1 << 40),
                page_max: self.within("archive.page_max", table.page_max, 1..=1_000),
                page_bytes_max: self.bytes_u32("archive.page_bytes_max", table.page_bytes_max, 16 << 10..=1 << 20),
            },
            id_key: 0,
        }
    }
}
