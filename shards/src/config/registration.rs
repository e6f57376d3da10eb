//! `[registration]`: who may create accounts over XMPP (XEP-0077), which takes an API key (XEP-0348).

use plaza_registry::registration::RegistrationConfig;
use serde::{Deserialize, Serialize};

use super::Checks;
use super::text::Span;

/// `[registration]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "each key is explained in docs/plaza.toml")]
pub struct RegistrationTable {
    pub enabled: bool,
    pub unsigned: bool,
    pub unsigned_per_minute: u32,
    pub clock_skew_max: Span,
}

impl Default for RegistrationTable {
    fn default() -> Self {
        let RegistrationConfig { enabled, unsigned, unsigned_per_minute, timestamp_seconds_max, .. } =
            RegistrationConfig::default();
        Self { enabled, unsigned, unsigned_per_minute, clock_skew_max: Span::seconds(timestamp_seconds_max) }
    }
}

impl Checks {
    pub(super) fn registration(&mut self, table: &RegistrationTable, scram_iterations: u32) -> RegistrationConfig {
        let skew = self.seconds("registration.clock_skew_max", table.clock_skew_max, 0..=3_650 * 24 * 3600);
        RegistrationConfig {
            enabled: table.enabled,
            unsigned: table.unsigned,
            unsigned_per_minute: self.within(
                "registration.unsigned_per_minute",
                table.unsigned_per_minute,
                1..=1_000_000,
            ),
            timestamp_seconds_max: skew.as_secs(),
            scram_iterations,
        }
    }
}
