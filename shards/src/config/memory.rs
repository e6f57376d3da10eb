//! `[memory]`: how much the broker may use, and at how much of it what is given up.

use serde::{Deserialize, Serialize};

use super::Checks;
use super::text::ByteSize;
use crate::memory::Watermarks;

/// `[memory]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct MemoryTable {
    pub limit: ByteSize,
    pub watermarks: [u8; 3],
    pub hibernated_percent_max: u8,
}

impl Default for MemoryTable {
    fn default() -> Self {
        let Watermarks { limit, percents, hibernated_percent_max } = Watermarks::default();
        Self { limit: ByteSize(limit), watermarks: percents, hibernated_percent_max }
    }
}

impl Checks {
    pub(super) fn memory(&mut self, memory: &MemoryTable) -> Watermarks {
        let limit = self.bytes("memory.limit", memory.limit, 0..=1 << 50);
        if limit > 0 && limit < 16 << 20 {
            self.refuse("memory.limit", memory.limit, "0, or at least 16 MiB");
        }
        let [first, second, third] = memory.watermarks;
        if !(10 <= first && first < second && second < third && third <= 100) {
            self.refuse(
                "memory.watermarks",
                format_args!("{:?}", memory.watermarks),
                "three percentages from 10 to 100, each greater than the one before",
            );
        }
        Watermarks {
            limit,
            percents: memory.watermarks,
            hibernated_percent_max: self.within(
                "memory.hibernated_percent_max",
                memory.hibernated_percent_max,
                1..=100,
            ),
        }
    }
}
