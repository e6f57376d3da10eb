//! What a seed draws once.

use std::sync::Arc;

use plaza_core::iot::Generation;
use plaza_core::jid::Jid;
use plaza_core::sasl::scram::{Hash, Keys};
use plaza_registry::accounts::NewKeys;
use plaza_registry::archive::{ArchiveConfig, ArchiveLimits, Mode, Modes};
use plaza_registry::offline::OfflineLimits;
use plaza_shards::shard::{ManagedLimits, ShardConfig};

use super::registry::component;
use super::{DOMAIN, Random};

/// What a seed draws once.
pub(super) struct Plan {
    /// Every drop is accounted for: one resource per account, and no presence the broker makes itself.
    pub(super) exact: bool,
    /// Of errands, those the store refuses.
    pub(super) store_refuses_percent: usize,
    /// Of clients, those whose stream is managed.
    pub(super) managed_percent: usize,
    /// Of our questions how much they have, those they answer.
    pub(super) acknowledged_percent: usize,
    pub(super) shards: u16,
    pub(super) accounts: usize,
    pub(super) clients_max: usize,
    pub(super) steps: usize,
    pub(super) body_bytes_max: usize,
    /// Of sends, those the mesh refuses for no reason.
    pub(super) refused_percent: usize,
    pub(super) lane_batches_max: usize,
    /// Of choices whether to read, those against it.
    pub(super) idle_percent: usize,
    /// Of addresses, those that are the latest session's: everybody writes to one.
    pub(super) crowd_percent: usize,
    /// Clients block and unblock each other.
    pub(super) blocks: bool,
    /// The broker is killed now and then.
    pub(super) killed: bool,
    /// The store takes its time, and refuses requests rather than errands. Clients note what has to be there afterwards.
    pub(super) slow: bool,
    /// The store refuses something at times.
    pub(super) store_refuses: bool,
    /// Somebody creates accounts.
    pub(super) newcomers: bool,
    /// Clients have things.
    pub(super) things: bool,
    /// Their devices ask what others may do, and their owners decide.
    pub(super) owners: bool,
    /// In which generation they speak of them.
    pub(super) generation: Generation,
    pub(super) config: ShardConfig,
}

/// Whatever anybody says is archived; few messages, so that the oldest go.
const ARCHIVED: ArchiveConfig = ArchiveConfig {
    modes: Modes::ALL,
    default: Mode::Always,
    limits: ArchiveLimits {
        age_millis_max: 1_000_000,
        messages_max: 20,
        bytes_max: 1 << 20,
        page_max: 10,
        page_bytes_max: 16 << 10,
    },
    id_key: 7,
};

impl Plan {
    pub(super) fn draw(seed: u64, random: &mut Random) -> Self {
        let large = (seed + 4).is_multiple_of(5);
        // By the seed, not drawn: worlds that found a bug once stay what they were.
        let blocks = matches!(seed % 7, 2 | 4);
        let killed = matches!(seed % 13, 2 | 3 | 5 | 6 | 9);
        let exact = seed.is_multiple_of(3);
        let things = !exact && matches!(seed % 16, 2..=9 | 12 | 14);
        // But for worlds that found a bug before there were these.
        let owners = things && matches!(seed % 5, 1..=3);
        let outbox_bytes_max = if large { 262_144 } else { 1024 << random.below(5) };
        let store_refuses_percent = random.pick(&[0, 0, 5, 30]);
        Self {
            exact,
            store_refuses_percent,
            store_refuses: store_refuses_percent > 0,
            newcomers: matches!(seed % 17, 3 | 7 | 11 | 15),
            things,
            owners,
            generation: Generation::ALL[(seed / 16 % 4) as usize],
            managed_percent: random.pick(&[0, 50, 100]),
            acknowledged_percent: random.pick(&[50, 100]),
            shards: 1 + random.below(4) as u16,
            accounts: 1 + random.below(9),
            clients_max: 4 + random.below(16),
            steps: if large { 300 } else { 300 + random.below(1200) },
            body_bytes_max: if large { 30_000 } else { 40 << random.below(6) },
            refused_percent: random.pick(&[0, 10, 50, 90]),
            lane_batches_max: 1 + random.below(3),
            idle_percent: random.pick(&[10, 50, 80, 97]),
            crowd_percent: random.pick(&[0, 0, 70]),
            blocks,
            killed,
            slow: matches!(seed % 11, 1 | 2 | 5 | 6 | 9),
            config: ShardConfig {
                domains: vec![Jid::parse(DOMAIN).unwrap()],
                services: if things { vec![component()] } else { Vec::new() },
                outbox_bytes_max,
                outbox_bytes_full: outbox_bytes_max / 2,
                outbox_bytes_high: outbox_bytes_max / 4,
                outbox_bytes_low: outbox_bytes_max / 16,
                sessions_per_account_max: 4,
                directed_presence_max: 4,
                facts_bytes_max: random.pick(&[0, 1_000, 1 << 20]).max(if blocks { 1 << 20 } else { 0 }),
                requests_max: 3,
                strangers_per_minute_max: 100,
                caps: Arc::new(plaza_registry::directory::CapsCache::new(16)),
                managed: ManagedLimits {
                    stanzas_max: random.pick(&[10, 500]),
                    bytes_max: random.pick(&[16 << 10, 512 << 10]),
                    resume_seconds_max: 600,
                    hibernated_max: random.pick(&[0, 1, 4]),
                    // By the seed, not drawn.
                    hibernated_bytes_max: if seed % 3 == 1 { 3_000 } else { u64::MAX },
                },
                managed_key: [7; 32],
                offline: OfflineLimits {
                    // Where messages must not be lost, none is refused.
                    messages_max: random.pick(&[0, 3, 100]).max(if killed || owners { 10_000 } else { 0 }),
                    bytes_max: random.pick(&[2_000, 512 * 1024]).max(if killed || owners { 1 << 28 } else { 0 }),
                    age_millis_max: 1_000_000,
                },
                tokens: plaza_registry::tokens::TokenLimits::default(),
                // By the seed, not drawn: worlds that found a bug once stay what they were.
                archive: if seed % 4 == 2 { ARCHIVED } else { ArchiveConfig::default() },
                proofs: plaza_registry::provisioning::Proofs::default(),
                id_prefix: "plaza-".into(),
            },
        }
    }
}

/// Keys nobody logs in with.
pub(super) fn keys() -> NewKeys {
    let keys = |hash, len| Keys {
        hash,
        salt: [1; 16].into(),
        iterations: 1,
        stored_key: vec![1; len].into(),
        server_key: vec![1; len].into(),
    };
    NewKeys { sha1: keys(Hash::Sha1, 20), sha256: keys(Hash::Sha256, 32) }
}
