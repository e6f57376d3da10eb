//! `[provisioning]`: bounds of decision support, as things and their owners have it (XEP-0324).

use plaza_registry::provisioning::Limits;
use serde::{Deserialize, Serialize};

use super::Checks;

/// `[provisioning]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "each key is explained in docs/plaza.toml")]
pub struct ProvisioningTable {
    pub rules_per_thing_max: u32,
    pub rules_per_origin_max: u32,
    pub questions_per_hour_max: u32,
    pub questions_per_device_max: u32,
    pub questions_per_domain_max: u32,
    pub tokens_per_account_max: u32,
    pub page_max: u32,
}

impl Default for ProvisioningTable {
    fn default() -> Self {
        let limits = Limits::DEFAULT;
        Self {
            rules_per_thing_max: limits.rules_max,
            rules_per_origin_max: limits.origin_rules_max,
            questions_per_hour_max: limits.questions_per_hour_max,
            questions_per_device_max: limits.questions_max,
            questions_per_domain_max: limits.domain_questions_max,
            tokens_per_account_max: limits.tokens_max,
            page_max: limits.page_max,
        }
    }
}

impl Checks {
    pub(super) fn provisioning(&mut self, table: &ProvisioningTable) -> Limits {
        let mut within = |key: &str, value, range| self.within(&format!("provisioning.{key}"), value, range);
        Limits {
            rules_max: within("rules_per_thing_max", table.rules_per_thing_max, 1..=100_000),
            origin_rules_max: within("rules_per_origin_max", table.rules_per_origin_max, 1..=1_000),
            questions_per_hour_max: within("questions_per_hour_max", table.questions_per_hour_max, 0..=10_000),
            questions_max: within("questions_per_device_max", table.questions_per_device_max, 0..=100_000),
            domain_questions_max: within("questions_per_domain_max", table.questions_per_domain_max, 0..=100_000),
            tokens_max: within("tokens_per_account_max", table.tokens_per_account_max, 1..=1_000),
            page_max: within("page_max", table.page_max, 1..=1_000),
        }
    }
}
