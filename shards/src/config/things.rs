//! `[things]`: bounds of the Thing Registry (XEP-0347).

use plaza_registry::things::Limits;
use serde::{Deserialize, Serialize};

use super::Checks;
use super::text::ByteSize;

/// `[things]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "each key is explained in docs/plaza.toml")]
pub struct ThingsTable {
    pub per_account_max: u32,
    pub claims_without_key: bool,
    pub failed_claims_per_minute_max: u32,
    pub searches_per_second_max: u32,
    pub page_max: u32,
    pub page_bytes_max: ByteSize,
}

impl Default for ThingsTable {
    fn default() -> Self {
        let limits = Limits::DEFAULT;
        Self {
            per_account_max: limits.things_per_account_max,
            claims_without_key: limits.claims_without_key,
            failed_claims_per_minute_max: limits.failed_claims_per_minute_max,
            searches_per_second_max: limits.searches_per_second_max,
            page_max: limits.page_max,
            page_bytes_max: ByteSize(limits.reply_bytes_max.into()),
        }
    }
}

impl Checks {
    pub(super) fn things(&mut self, table: &ThingsTable) -> Limits {
        Limits {
            things_per_account_max: self.within("things.per_account_max", table.per_account_max, 0..=1_000_000),
            failed_claims_per_minute_max: self.within(
                "things.failed_claims_per_minute_max",
                table.failed_claims_per_minute_max,
                1..=10_000,
            ),
            searches_per_second_max: self.within(
                "things.searches_per_second_max",
                table.searches_per_second_max,
                1..=10_000,
            ),
            page_max: self.within("things.page_max", table.page_max, 1..=1_000),
            reply_bytes_max: self.bytes_u32("things.page_bytes_max", table.page_bytes_max, 16 << 10..=1 << 20),
            claims_without_key: table.claims_without_key,
        }
    }
}
