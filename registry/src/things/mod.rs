//! Things: who owns what, and what is said of it (XEP-0347 v0.5.1).
//!
//! A thing is a node of an account; its record lies with the account. Whoever changes one reads it, and commits only if
//! nobody else changed it meanwhile ([`ThingRecord::guard`]), so that any shard may. [`life`] says what each request makes of
//! a thing, [`change`] stores it with all that hangs on it, and [`service`] answers.

mod change;
mod claims;
mod guesses;
pub mod index;
mod life;
mod notices;
mod operate;
mod record;
mod search;
mod service;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod throttle;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(any(test, fuzzing))]
pub(crate) use self::change::RECORDS as COUNTS;
pub use self::change::{acknowledged, asked_for_decision, settle};
pub(crate) use self::change::{missed, none_registered, uncount};
use self::guesses::Guesses;
pub use self::life::Notice;
pub use self::notices::{Told, untold};
pub use self::operate::{AssignError, assign, enforce, forget, release};
pub(crate) use self::operate::{enforce_by, let_go};
#[cfg(any(test, fuzzing))]
pub(crate) use self::record::RECORDS;
pub(crate) use self::record::read_thing;
pub use self::record::{
    Pending, State, ThingRecord, key_hash, list, load, load_all, owned, owned_key, rules_prefix, thing_key,
};
pub use self::search::{Found, Noting, Query, Search, SearchError, Searching, Telling};
pub use self::service::notices;
pub(crate) use self::service::{Answer, Asks, Call, answer, disowned};
use self::throttle::Throttle;

/// Bounds of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Things an account registers. Default 10 000: nodes behind a concentrator. Beyond it `register` is
    /// `resource-constraint`.
    pub things_per_account_max: u32,
    /// Claims of one account, and of things of one maker and serial number, that may fail in a minute. Default 10. Beyond it
    /// none succeeds; but of a thing as many again may fail of accounts that have hardly failed (`guesses`).
    pub failed_claims_per_minute_max: u32,
    /// Searches of one account in a second. Default 5. Beyond it a search is `resource-constraint`.
    pub searches_per_second_max: u32,
    /// Things in one answer to a search. Default 100: beyond it the rest is for the next page.
    pub page_max: u32,
    /// Bytes of things in one answer to a search. Default 131 072: what does not fit is for the next page.
    pub reply_bytes_max: u32,
    /// Whether a thing that registered without a key may be claimed by its tags alone. Default no: they can be read off it,
    /// or guessed.
    pub claims_without_key: bool,
}

impl Limits {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        things_per_account_max: 10_000,
        failed_claims_per_minute_max: 10,
        searches_per_second_max: 5,
        page_max: 100,
        reply_bytes_max: 131_072,
        claims_without_key: false,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What the registry needs to know. Clones share who tried what how often, the index, and which claim was the last.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bounds.
    pub limits: Limits,
    /// The index of what strangers find; without one, nobody can search.
    index: Option<Arc<dyn Search>>,
    guesses: Guesses,
    searchers: Throttle,
    last_claim: Arc<AtomicU64>,
}

impl Config {
    /// A configuration in which nobody tried anything yet.
    pub fn new(limits: Limits, index: Option<Arc<dyn Search>>) -> Self {
        let searchers = Throttle::new(limits.searches_per_second_max, 1_000);
        Self { limits, index, guesses: Guesses::new(&limits), searchers, last_claim: Arc::default() }
    }

    /// An id for a claim in the millisecond `now`: no other claim has it, nor had it before a restart.
    fn claim_id(&self, now: u64) -> u64 {
        let next = |last: u64| now.max(last + 1);
        let update = |last| Some(next(last));
        self.last_claim.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update).map_or(now, next)
    }
}
