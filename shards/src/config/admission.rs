//! `[admission]`: how many connections a source may open.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Checks;
use crate::admission::AdmissionLimits;

/// `[admission]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "each key is explained in docs/plaza.toml")]
pub struct AdmissionTable {
    pub negotiating_per_source_max: u32,
    pub connections_per_source_per_second: u32,
    pub connections_per_source_burst: u32,
    pub unlimited: Vec<IpNet>,
}

impl Default for AdmissionTable {
    fn default() -> Self {
        let AdmissionLimits {
            negotiating_per_source_max,
            connections_per_source_per_second,
            connections_per_source_burst,
            unlimited,
        } = AdmissionLimits::default();
        Self { negotiating_per_source_max, connections_per_source_per_second, connections_per_source_burst, unlimited }
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
}
