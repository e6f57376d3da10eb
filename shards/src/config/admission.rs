//! `[admission]`: how many connections a source may open, and how fast newcomers get on.

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Checks;
use super::text::Span;
use crate::admission::{AdmissionLimits, FailureLimits, NewcomerLimits};

/// `[admission]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "each key is explained in docs/plaza.toml")]
pub struct AdmissionTable {
    pub negotiating_per_source_max: u32,
    pub connections_per_source_per_second: u32,
    pub connections_per_source_burst: u32,
    pub unlimited: Vec<IpNet>,
    pub accepts_per_shard_per_second: u32,
    pub handshakes_per_shard_per_second: u32,
    pub logins_per_shard_per_second: u32,
    pub passwords_per_shard_per_second: u32,
    pub binds_per_shard_per_second: u32,
    pub presences_per_shard_per_second: u32,
    pub newcomers_per_turn: Span,
    pub failures_max: u32,
    pub failures_back_off: Span,
}

impl AdmissionTable {
    /// What of it may change while the broker runs; the table of sources is made at the start.
    pub(super) fn reload(&self, read: &Self) -> Self {
        Self {
            negotiating_per_source_max: self.negotiating_per_source_max,
            connections_per_source_per_second: self.connections_per_source_per_second,
            connections_per_source_burst: self.connections_per_source_burst,
            unlimited: self.unlimited.clone(),
            ..read.clone()
        }
    }
}

impl Default for AdmissionTable {
    fn default() -> Self {
        let AdmissionLimits {
            negotiating_per_source_max,
            connections_per_source_per_second,
            connections_per_source_burst,
            unlimited,
        } = AdmissionLimits::default();
        let NewcomerLimits { accepts, handshakes, logins, passwords, binds, presences, turn, failures } =
            NewcomerLimits::default();
        Self {
            negotiating_per_source_max,
            connections_per_source_per_second,
            connections_per_source_burst,
            unlimited,
            accepts_per_shard_per_second: accepts,
            handshakes_per_shard_per_second: handshakes,
            logins_per_shard_per_second: logins,
            passwords_per_shard_per_second: passwords,
            binds_per_shard_per_second: binds,
            presences_per_shard_per_second: presences,
            newcomers_per_turn: Span(turn),
            failures_max: failures.count_max,
            failures_back_off: Span::seconds(u64::from(failures.back_off_seconds)),
        }
    }
}

impl Checks {
    pub(super) fn admission(&mut self, table: &AdmissionTable) -> AdmissionLimits {
        AdmissionLimits {
            negotiating_per_source_max: self.within(
                "admission.negotiating_per_source_max",
                table.negotiating_per_source_max,
                1..=1_048_576,
            ),
            connections_per_source_per_second: self.within(
                "admission.connections_per_source_per_second",
                table.connections_per_source_per_second,
                1..=1_000_000,
            ),
            connections_per_source_burst: self.within(
                "admission.connections_per_source_burst",
                table.connections_per_source_burst,
                1..=AdmissionLimits::BURST_MAX,
            ),
            unlimited: table.unlimited.clone(),
        }
    }

    pub(super) fn newcomers(&mut self, table: &AdmissionTable) -> NewcomerLimits {
        let mut rate = |key: &str, rate| self.within(&format!("admission.{key}"), rate, 0..=1_000_000);
        let limits = NewcomerLimits {
            accepts: rate("accepts_per_shard_per_second", table.accepts_per_shard_per_second),
            handshakes: rate("handshakes_per_shard_per_second", table.handshakes_per_shard_per_second),
            logins: rate("logins_per_shard_per_second", table.logins_per_shard_per_second),
            passwords: rate("passwords_per_shard_per_second", table.passwords_per_shard_per_second),
            binds: rate("binds_per_shard_per_second", table.binds_per_shard_per_second),
            presences: rate("presences_per_shard_per_second", table.presences_per_shard_per_second),
            ..NewcomerLimits::default()
        };
        let back_off = self.seconds("admission.failures_back_off", table.failures_back_off, 1..=604_800);
        let turn = Duration::from_micros(10)..=Duration::from_secs(1);
        NewcomerLimits {
            turn: self.time("admission.newcomers_per_turn", table.newcomers_per_turn, turn),
            failures: FailureLimits {
                count_max: self.within("admission.failures_max", table.failures_max, 0..=1_000_000),
                back_off_seconds: u32::try_from(back_off.as_secs()).unwrap_or(u32::MAX),
            },
            ..limits
        }
    }
}
