//! `[limits]`: what peers may make a shard hold or do.

use plaza_core::limits::ScanLimits;
use plaza_registry::offline::OfflineLimits;
use plaza_registry::pubsub;
use plaza_registry::services::ServiceLimits;
use plaza_registry::tokens::TokenLimits;
use serde::{Deserialize, Serialize};

use super::Checks;
use super::text::{ByteSize, Span};
use crate::driver::Pace;
use crate::shard::ManagedLimits;

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct LimitsConfig {
    pub connections_per_shard_max: u32,
    pub unauthenticated_per_shard_max: u32,
    pub sessions_per_account_max: u16,
    pub outbox_bytes_max: ByteSize,
    pub roster_items_max: u32,
    pub requests_max: u32,
    pub strangers_per_minute_max: u32,
    pub offline_messages_max: u32,
    pub offline_bytes_max: ByteSize,
    pub offline_age_max: Span,
    pub token_clients_max: u16,
    pub token_life: Span,
    pub token_renewal: Span,
    pub facts_bytes_max: ByteSize,
    pub unacknowledged_stanzas_max: u32,
    pub unacknowledged_bytes_max: ByteSize,
    pub resume_max: Span,
    pub hibernated_per_account_max: u16,
    pub private_entries_max: u32,
    pub private_entry_bytes_max: ByteSize,
    pub vcard_bytes_max: ByteSize,
    pub blocklist_items_max: u32,
    pub blocklist_bytes_max: ByteSize,
    pub pubsub_nodes_max: u32,
    pub pubsub_items_max: u32,
    pub pubsub_payload_bytes_max: ByteSize,
    pub pubsub_subscribers_max: u32,
    pub pubsub_pending_max: u32,
    pub pubsub_subscriptions_max: u32,
    pub pubsub_affiliations_max: u32,
    pub pubsub_page_max: u32,
    pub sasl_attempts_max: u8,
    pub refusal_delay: Span,
    pub stanzas_per_turn_max: u16,
    pub inbound_stanzas_per_second: u32,
    pub inbound_bytes_per_second: ByteSize,
    pub inbound_burst: Span,
    pub handshake_timeout: Span,
    pub negotiation_timeout: Span,
    pub stuck_timeout: Span,
    pub stop_deadline: Span,
    pub stop_sessions_per_second: u32,
    pub idle: Span,
    pub before_auth: ScanConfig<Before>,
    pub after_auth: ScanConfig<After>,
}

/// `[limits.before_auth]` and `[limits.after_auth]`, which differ in their defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, bound(serialize = "", deserialize = "ScanConfig<P>: Default"))]
#[expect(missing_docs, reason = "see Config")]
pub struct ScanConfig<P> {
    pub stanza_bytes_max: ByteSize,
    pub elements_max: u16,
    pub depth_max: u16,
    pub attributes_max: u16,
    pub attribute_bytes_max: ByteSize,
    pub name_bytes_max: u16,
    pub namespaces_max: u16,
    #[serde(skip)]
    phase: std::marker::PhantomData<P>,
}

/// Bounds on what peers may make a shard hold or do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections per shard, negotiating or bound: the size of its table of direct descriptors. Default 16 384. At the
    /// bound the shard stops accepting until one ends.
    pub connections_per_shard_max: u32,
    /// Connections per shard that have not logged in. Default 1 024. At the bound newcomers are closed at once.
    pub unauthenticated_per_shard_max: u32,
    /// Sessions per account. Default 20. Beyond it bind is answered with `resource-constraint`.
    pub sessions_per_account_max: u16,
    /// Bytes waiting to be written to one session. Default 1 048 576. Senders wait from a sixteenth on; from a quarter on only
    /// what was under way then is taken, and the rest answered with `resource-constraint` or counted.
    pub outbox_bytes_max: u32,
    /// Contacts in one roster. Default 2 000. Beyond it a roster set is answered with `resource-constraint`.
    pub roster_items_max: u32,
    /// SASL attempts per stream, 2 to 5 (RFC 6120 §6.4.5). Default 3. One more ends the stream with
    /// `policy-violation`.
    pub sasl_attempts_max: u8,
    /// Subscription requests one account has not answered. Default 100. Beyond it who asks is told `resource-constraint`.
    pub requests_max: u32,
    /// Strangers that an account may address in a minute (XEP-0205). Default 100, 0 for no bound. Beyond it their stanzas are
    /// answered with `unexpected-request`, `too-many-stanzas`.
    pub strangers_per_minute_max: u32,
    /// What is kept for who is away: at most 100 messages of 512 KiB together, for 30 days. Beyond it their sender is told
    /// `service-unavailable`.
    pub offline: OfflineLimits,
    /// Tokens for the next login: at most 20 clients of an account, for 21 days, renewed after one. One client more, and the
    /// one that used its own least lately needs its password again. A life of nothing offers none.
    pub tokens: TokenLimits,
    /// Facts kept in memory per shard of accounts that nobody uses, in bytes. Default 64 MiB. Beyond it those least recently
    /// used are forgotten, and loaded again when they are needed.
    pub facts_bytes_max: u64,
    /// Stream management (XEP-0198): at most 500 stanzas of 512 KiB that the client has not acknowledged, then the stream ends
    /// with `resource-constraint`; sessions that were cut off can be resumed for 10 minutes, at most 4 of an account.
    pub managed: ManagedLimits,
    /// Publish-subscribe (XEP-0060): what nodes, items, subscribers and answers may amount to. At each bound the error that
    /// the XEP has for it.
    pub pubsub: pubsub::Limits,
    /// Bounds of what else an account keeps.
    pub services: ServiceLimits,
    /// Stanzas taken from one session per turn, so that it can't starve its neighbours. Default 64. The rest waits for the
    /// next turn.
    pub stanzas_per_turn_max: u16,
    /// How fast a session is read: by default 100 stanzas or 64 KiB a second, and what ten seconds bring at once. Beyond it the
    /// session is not read for a while, and its peer has to wait.
    pub pace: Pace,
    /// Sessions per shard told in a second that the broker stops, so that they do not come back all at once. Default 2 500:
    /// a full shard of 16 384 is through in 7 s. 0 tells all at once.
    pub stop_sessions_per_second: u32,
    /// Before authentication; beyond any of them the stream ends with `policy-violation`.
    pub before_auth: ScanLimits,
    /// After authentication; beyond any of them the stream ends with `policy-violation`.
    pub after_auth: ScanLimits,
}

/// Before authentication; picks the defaults of [`ScanConfig`].
#[derive(Debug, Clone, PartialEq)]
pub struct Before;
/// After authentication; picks the defaults of [`ScanConfig`].
#[derive(Debug, Clone, PartialEq)]
pub struct After;

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_per_shard_max: 16_384,
            unauthenticated_per_shard_max: 1_024,
            sessions_per_account_max: 20,
            outbox_bytes_max: ByteSize(1024 * 1024),
            roster_items_max: 2_000,
            requests_max: 100,
            strangers_per_minute_max: 100,
            offline_messages_max: 100,
            offline_bytes_max: ByteSize(512 * 1024),
            offline_age_max: Span::seconds(30 * 24 * 3600),
            token_clients_max: 20,
            token_life: Span::seconds(21 * 24 * 3600),
            token_renewal: Span::seconds(24 * 3600),
            facts_bytes_max: ByteSize(64 << 20),
            unacknowledged_stanzas_max: 500,
            unacknowledged_bytes_max: ByteSize(512 * 1024),
            resume_max: Span::seconds(600),
            hibernated_per_account_max: 4,
            private_entries_max: ServiceLimits::DEFAULT.private_entries_max,
            private_entry_bytes_max: ByteSize(ServiceLimits::DEFAULT.private_entry_bytes_max.into()),
            vcard_bytes_max: ByteSize(ServiceLimits::DEFAULT.vcard_bytes_max.into()),
            blocklist_items_max: ServiceLimits::DEFAULT.blocklist_items_max,
            blocklist_bytes_max: ByteSize(ServiceLimits::DEFAULT.blocklist_bytes_max.into()),
            pubsub_nodes_max: pubsub::Limits::DEFAULT.nodes_max,
            pubsub_items_max: pubsub::Limits::DEFAULT.items_max,
            pubsub_payload_bytes_max: ByteSize(pubsub::Limits::DEFAULT.payload_bytes_max.into()),
            pubsub_subscribers_max: pubsub::Limits::DEFAULT.subscribers_max,
            pubsub_pending_max: pubsub::Limits::DEFAULT.pending_max,
            pubsub_subscriptions_max: pubsub::Limits::DEFAULT.subscriptions_max,
            pubsub_affiliations_max: pubsub::Limits::DEFAULT.affiliations_max,
            pubsub_page_max: pubsub::Limits::DEFAULT.page_max,
            sasl_attempts_max: 3,
            refusal_delay: Span::seconds(1),
            stanzas_per_turn_max: 16,
            inbound_stanzas_per_second: 100,
            inbound_bytes_per_second: ByteSize(64 << 10),
            inbound_burst: Span::seconds(10),
            handshake_timeout: Span::seconds(15),
            negotiation_timeout: Span::seconds(30),
            stuck_timeout: Span::seconds(30),
            stop_deadline: Span::seconds(10),
            stop_sessions_per_second: 2_500,
            idle: Span::seconds(0),
            before_auth: ScanConfig::default(),
            after_auth: ScanConfig::default(),
        }
    }
}

impl<P> ScanConfig<P> {
    fn of(limits: ScanLimits) -> Self {
        Self {
            stanza_bytes_max: ByteSize(limits.stanza_bytes_max.into()),
            elements_max: limits.elements_max,
            depth_max: limits.depth_max,
            attributes_max: limits.attributes_max,
            attribute_bytes_max: ByteSize(limits.attribute_bytes_max.into()),
            name_bytes_max: limits.name_bytes_max,
            namespaces_max: limits.namespaces_max,
            phase: std::marker::PhantomData,
        }
    }
}

impl Default for ScanConfig<Before> {
    fn default() -> Self {
        Self::of(ScanLimits::BEFORE_AUTH)
    }
}

impl Default for ScanConfig<After> {
    fn default() -> Self {
        Self::of(ScanLimits::AFTER_AUTH)
    }
}

impl Checks {
    pub(super) fn limits(&mut self, limits: &LimitsConfig) -> Limits {
        Limits {
            connections_per_shard_max: self.within(
                "limits.connections_per_shard_max",
                limits.connections_per_shard_max,
                16..=1_048_576,
            ),
            unauthenticated_per_shard_max: self.within(
                "limits.unauthenticated_per_shard_max",
                limits.unauthenticated_per_shard_max,
                1..=1_048_576,
            ),
            sessions_per_account_max: self.within(
                "limits.sessions_per_account_max",
                limits.sessions_per_account_max,
                1..=1_000,
            ),
            outbox_bytes_max: self.bytes_u32("limits.outbox_bytes_max", limits.outbox_bytes_max, 16 << 10..=1 << 30),
            roster_items_max: self.within("limits.roster_items_max", limits.roster_items_max, 1..=100_000),
            requests_max: self.within("limits.requests_max", limits.requests_max, 1..=100_000),
            strangers_per_minute_max: self.within(
                "limits.strangers_per_minute_max",
                limits.strangers_per_minute_max,
                0..=1_000_000,
            ),
            offline: OfflineLimits {
                messages_max: self.within("limits.offline_messages_max", limits.offline_messages_max, 0..=1_000_000),
                bytes_max: self.bytes("limits.offline_bytes_max", limits.offline_bytes_max, 0..=1 << 30),
                age_millis_max: u64::try_from(
                    self.seconds("limits.offline_age_max", limits.offline_age_max, 60..=31_536_000).as_millis(),
                )
                .unwrap_or(u64::MAX),
            },
            tokens: TokenLimits {
                clients_max: self.within("limits.token_clients_max", limits.token_clients_max, 1..=1_000),
                life_seconds: self.seconds("limits.token_life", limits.token_life, 0..=31_536_000).as_secs(),
                renew_seconds: self.seconds("limits.token_renewal", limits.token_renewal, 0..=31_536_000).as_secs(),
            },
            facts_bytes_max: self.bytes("limits.facts_bytes_max", limits.facts_bytes_max, 0..=1 << 40),
            managed: ManagedLimits {
                stanzas_max: self.within(
                    "limits.unacknowledged_stanzas_max",
                    limits.unacknowledged_stanzas_max,
                    10..=100_000,
                ),
                bytes_max: self.bytes_u32(
                    "limits.unacknowledged_bytes_max",
                    limits.unacknowledged_bytes_max,
                    16 << 10..=1 << 30,
                ),
                resume_seconds_max: self.seconds("limits.resume_max", limits.resume_max, 0..=86_400).as_secs() as u32,
                hibernated_max: self.within(
                    "limits.hibernated_per_account_max",
                    limits.hibernated_per_account_max,
                    0..=1_000,
                ),
                ..ManagedLimits::default()
            },
            pubsub: self.pubsub(limits),
            services: self.services(limits),
            sasl_attempts_max: self.within("limits.sasl_attempts_max", limits.sasl_attempts_max, 2..=5),
            stanzas_per_turn_max: self.within("limits.stanzas_per_turn_max", limits.stanzas_per_turn_max, 1..=10_000),
            pace: self.inbound(limits),
            stop_sessions_per_second: self.within(
                "limits.stop_sessions_per_second",
                limits.stop_sessions_per_second,
                0..=1_000_000,
            ),
            before_auth: self.scan("limits.before_auth", &limits.before_auth, 2_048),
            // RFC 6120 §13.12: at least 10 000 bytes.
            after_auth: self.scan("limits.after_auth", &limits.after_auth, 10_000),
        }
    }

    fn inbound(&mut self, limits: &LimitsConfig) -> Pace {
        Pace::new(
            self.within("limits.inbound_stanzas_per_second", limits.inbound_stanzas_per_second, 0..=1_000_000),
            self.bytes("limits.inbound_bytes_per_second", limits.inbound_bytes_per_second, 0..=1 << 30),
            self.seconds("limits.inbound_burst", limits.inbound_burst, 1..=3_600),
        )
    }

    fn services(&mut self, limits: &LimitsConfig) -> ServiceLimits {
        ServiceLimits {
            private_entries_max: self.within("limits.private_entries_max", limits.private_entries_max, 0..=10_000),
            private_entry_bytes_max: self.bytes_u32(
                "limits.private_entry_bytes_max",
                limits.private_entry_bytes_max,
                1 << 10..=16 << 20,
            ),
            vcard_bytes_max: self.bytes_u32("limits.vcard_bytes_max", limits.vcard_bytes_max, 1 << 10..=16 << 20),
            blocklist_items_max: self.within("limits.blocklist_items_max", limits.blocklist_items_max, 0..=100_000),
            blocklist_bytes_max: self.bytes_u32("limits.blocklist_bytes_max", limits.blocklist_bytes_max, 0..=16 << 20),
        }
    }

    fn pubsub(&mut self, limits: &LimitsConfig) -> pubsub::Limits {
        let page_max = self.within("limits.pubsub_page_max", limits.pubsub_page_max, 1..=1_000);
        pubsub::Limits {
            nodes_max: self.within("limits.pubsub_nodes_max", limits.pubsub_nodes_max, 1..=100_000),
            items_max: self.within("limits.pubsub_items_max", limits.pubsub_items_max, 1..=100_000),
            payload_bytes_max: self.bytes_u32(
                "limits.pubsub_payload_bytes_max",
                limits.pubsub_payload_bytes_max,
                1 << 10..=16 << 20,
            ),
            subscribers_max: self.within(
                "limits.pubsub_subscribers_max",
                limits.pubsub_subscribers_max,
                1..=10_000_000,
            ),
            pending_max: self.within("limits.pubsub_pending_max", limits.pubsub_pending_max, 1..=100_000),
            subscriptions_max: self.within(
                "limits.pubsub_subscriptions_max",
                limits.pubsub_subscriptions_max,
                1..=100_000,
            ),
            affiliations_max: self.within(
                "limits.pubsub_affiliations_max",
                limits.pubsub_affiliations_max,
                1..=100_000,
            ),
            page_max,
            list_max: page_max,
            ..pubsub::Limits::DEFAULT
        }
    }

    fn scan<P>(&mut self, table: &str, scan: &ScanConfig<P>, stanza_bytes_min: u32) -> ScanLimits {
        let key = |name: &str| format!("{table}.{name}");
        ScanLimits {
            stanza_bytes_max: self.bytes_u32(
                &key("stanza_bytes_max"),
                scan.stanza_bytes_max,
                stanza_bytes_min..=16 << 20,
            ),
            elements_max: self.within(&key("elements_max"), scan.elements_max, 8..=60_000),
            depth_max: self.within(&key("depth_max"), scan.depth_max, 4..=1_024),
            attributes_max: self.within(&key("attributes_max"), scan.attributes_max, 8..=1_024),
            attribute_bytes_max: self.bytes_u32(
                &key("attribute_bytes_max"),
                scan.attribute_bytes_max,
                // A full JID is 3 071 bytes, which escaping may lengthen.
                4_096..=16 << 20,
            ),
            name_bytes_max: self.within(&key("name_bytes_max"), scan.name_bytes_max, 32..=4_096),
            namespaces_max: self.within(&key("namespaces_max"), scan.namespaces_max, 4..=1_024),
        }
    }
}
