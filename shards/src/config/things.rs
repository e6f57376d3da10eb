//! `[things]`: bounds of the Thing Registry (XEP-0347).

use std::time::Duration;

use plaza_registry::things::Limits;
use plaza_registry::things::index;
use serde::{Deserialize, Serialize};

use super::Checks;
use super::text::{ByteSize, Span};

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
    pub searches_max: usize,
    pub searches_per_account_max: usize,
    pub search_work_max: Span,
    pub search_time_max: Span,
    pub search_turn: Span,
    pub pattern_bytes_max: ByteSize,
    pub pattern_depth_max: u32,
    pub index_queue_max: usize,
}

impl Default for ThingsTable {
    fn default() -> Self {
        let (limits, index) = (Limits::DEFAULT, index::Limits::default());
        Self {
            per_account_max: limits.things_per_account_max,
            claims_without_key: limits.claims_without_key,
            failed_claims_per_minute_max: limits.failed_claims_per_minute_max,
            searches_per_second_max: limits.searches_per_second_max,
            page_max: limits.page_max,
            page_bytes_max: ByteSize(limits.reply_bytes_max.into()),
            searches_max: index.searches_max,
            searches_per_account_max: index.searches_per_jid_max,
            search_work_max: Span(Duration::from_nanos(index.search_work_max)),
            search_time_max: Span(index.search_time_max),
            search_turn: Span(index.search_turn),
            pattern_bytes_max: ByteSize(index.patterns.bytes_max as u64),
            pattern_depth_max: index.patterns.depth_max,
            index_queue_max: index.mailbox_max,
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

    /// What bounds the work of searches.
    pub(super) fn things_index(&mut self, table: &ThingsTable) -> index::Limits {
        let work = self.millis("things.search_work_max", table.search_work_max, 1..=10_000);
        index::Limits {
            mailbox_max: self.within("things.index_queue_max", table.index_queue_max, 16..=1_000_000),
            searches_max: self.within("things.searches_max", table.searches_max, 1..=100_000),
            searches_per_jid_max: self.within(
                "things.searches_per_account_max",
                table.searches_per_account_max,
                1..=1_000,
            ),
            page_things_max: table.page_max as usize,
            search_work_max: u64::try_from(work.as_nanos()).unwrap_or(u64::MAX),
            search_time_max: self.millis("things.search_time_max", table.search_time_max, 1..=10_000),
            search_turn: self.millis("things.search_turn", table.search_turn, 1..=10_000),
            patterns: index::Patterns {
                bytes_max: self.bytes_u32("things.pattern_bytes_max", table.pattern_bytes_max, 16 << 10..=1 << 20)
                    as usize,
                depth_max: self.within("things.pattern_depth_max", table.pattern_depth_max, 1..=100),
            },
        }
    }
}
