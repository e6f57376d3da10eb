//! Where a bare JID lives: a keyed hash that names its home shard and its place in that shard's tables.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;
use plaza_core::jid::JidRef;

use crate::mesh::ShardId;

/// The keyed hash of bare JIDs, the same on every shard of a process. The key is drawn at start, so that nobody outside
/// can choose names that meet on one shard.
#[derive(Debug, Clone)]
pub struct Homes {
    state: FixedState,
    shards: u32,
}

impl Homes {
    /// Homes over that many shards.
    pub fn new(shards: u16, key: u64) -> Self {
        Self { state: FixedState::with_seed(key), shards: u32::from(shards.max(1)) }
    }

    /// The hash of a JID's bare form.
    pub fn hash(&self, jid: JidRef<'_>) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write(jid.bare().as_str().as_bytes());
        hasher.finish()
    }

    /// The shard a hash is at home on. Uses bits that the tables of a shard do not.
    pub fn shard(&self, hash: u64) -> ShardId {
        let bits = u64::from((hash >> 24) as u32);
        ShardId(((bits * u64::from(self.shards)) >> 32) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_and_a_full_jid_have_one_home_and_homes_are_even() {
        let homes = Homes::new(4, 7);
        let mut counts = [0_u32; 4];
        for i in 0..40_000 {
            let full = format!("device-{i}@things.example/r");
            let jid = JidRef::parse_fast(&full).unwrap();
            let hash = homes.hash(jid);
            assert_eq!(hash, homes.hash(jid.bare()));
            counts[usize::from(homes.shard(hash).0)] += 1;
        }
        assert!(counts.iter().all(|&count| (9_500..10_500).contains(&count)), "{counts:?}");
    }
}
