//! Metrics: what a shard counts, how the control thread reads it, and the text Prometheus fetches.
//!
//! A shard increments plain integers ([`Counters`]) and copies them now and then into its [`ShardMetrics`], which others
//! read at any time. All is defined once, in the table at [`families!`]: one line there is a field of both, a line of
//! `GET /metrics` and a number of `plaza status`. Labels come from enums, never from a peer.

use std::fmt::Write as _;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plaza_core::sasl::SaslFailure;
use plaza_core::stanza::{self, Kind};
use plaza_core::stream;

use crate::admission::{Layer, Refusal};
use crate::memory::{Level, Shed, Subsystem};

/// An enum whose values label a family of numbers.
pub trait Label: Copy + 'static {
    /// The label's key.
    const KEY: &'static str;
    /// How many values there are.
    const COUNT: usize;
    /// Every value, in the order of [`Self::index`].
    const ALL: &'static [Self];
    /// Place among them, below [`Self::COUNT`].
    fn index(self) -> usize;
    /// The label's value.
    fn name(self) -> &'static str;
}

/// Implements [`Label`]. Exhaustive: a new variant does not compile until it is named here.
macro_rules! label {
    ($label:ty, $key:literal, { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl Label for $label {
            const KEY: &'static str = $key;
            const COUNT: usize = Self::ALL.len();
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            fn index(self) -> usize {
                self as usize
            }
            fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

/// Why a stanza, or bytes of one, were dropped without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The recipient's outbox was full, and an error can't answer this stanza.
    OutboxFull,
    /// Nobody is there to take it, and the rules say to be silent (RFC 6121 §8).
    NoRoute,
    /// The session it came from, or was meant for, ended while it was under way.
    Stale,
    /// The queue to the recipient's shard was full, and an error can't answer this stanza.
    MeshFull,
    /// An answer to no question of ours, or an error to an error (RFC 6120 §8.3.1).
    Unanswerable,
    /// The broker is stopping.
    Stopping,
    /// A kind of stanza the broker does not act on.
    Unhandled,
    /// Its account was away, and it says itself that it is not worth keeping (XEP-0160 §3, XEP-0334).
    NotKept,
    /// Its recipient blocks its sender, or its sender its recipient, and the rules say to be silent (XEP-0191 §3.3).
    Blocked,
}

/// How a TLS handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Handshake {
    /// Established.
    Ok,
    /// An alert, garbage, or the client went away.
    Failed,
    /// It took longer than `handshake_timeout`.
    TimedOut,
}

label!(DropReason, "reason", {
    OutboxFull => "outbox-full", NoRoute => "no-route", Stale => "stale", MeshFull => "mesh-full",
    Unanswerable => "unanswerable", Stopping => "stopping", Unhandled => "unhandled",
    NotKept => "not-kept", Blocked => "blocked",
});
label!(Refusal, "reason", {
    ShardCrowded => "shard-crowded", SourceCrowded => "source-crowded", SourceTooFast => "source-too-fast",
});
label!(Layer, "layer", {
    Accept => "accept", Handshake => "handshake", Login => "login", Password => "password", Bind => "bind",
    Presence => "presence",
});
label!(Level, "level", {
    Ample => "ample", Scarce => "scarce", Short => "short", Critical => "critical",
});
label!(Subsystem, "subsystem", {
    Sessions => "sessions", Outboxes => "outboxes", Hibernated => "hibernated", Facts => "facts", Work => "work",
    Connections => "connections", Tls => "tls", Negotiating => "negotiating",
});
label!(Shed, "what", {
    Accepting => "accepting", Presence => "presence", Offline => "offline", Facts => "facts",
    Hibernated => "hibernated", HibernatedShare => "hibernated-share",
});
label!(Handshake, "result", { Ok => "ok", Failed => "failed", TimedOut => "timed-out" });
label!(Kind, "kind", { Message => "message", Presence => "presence", Iq => "iq" });
label!(SaslFailure, "reason", {
    Aborted => "aborted", AccountDisabled => "account-disabled", CredentialsExpired => "credentials-expired",
    EncryptionRequired => "encryption-required", IncorrectEncoding => "incorrect-encoding",
    InvalidAuthzid => "invalid-authzid", InvalidMechanism => "invalid-mechanism",
    MalformedRequest => "malformed-request", MechanismTooWeak => "mechanism-too-weak",
    NotAuthorized => "not-authorized", TemporaryAuthFailure => "temporary-auth-failure",
});
label!(stream::Condition, "condition", {
    BadFormat => "bad-format", BadNamespacePrefix => "bad-namespace-prefix", Conflict => "conflict",
    ConnectionTimeout => "connection-timeout", HostGone => "host-gone", HostUnknown => "host-unknown",
    ImproperAddressing => "improper-addressing", InternalServerError => "internal-server-error",
    InvalidFrom => "invalid-from", InvalidNamespace => "invalid-namespace", InvalidXml => "invalid-xml",
    NotAuthorized => "not-authorized", NotWellFormed => "not-well-formed", PolicyViolation => "policy-violation",
    RemoteConnectionFailed => "remote-connection-failed", Reset => "reset", ResourceConstraint => "resource-constraint",
    RestrictedXml => "restricted-xml", SeeOtherHost => "see-other-host", SystemShutdown => "system-shutdown",
    UndefinedCondition => "undefined-condition", UnsupportedEncoding => "unsupported-encoding",
    UnsupportedFeature => "unsupported-feature", UnsupportedStanzaType => "unsupported-stanza-type",
    UnsupportedVersion => "unsupported-version",
});
label!(stanza::Condition, "condition", {
    BadRequest => "bad-request", Conflict => "conflict", FeatureNotImplemented => "feature-not-implemented",
    Forbidden => "forbidden", Gone => "gone", InternalServerError => "internal-server-error",
    ItemNotFound => "item-not-found", JidMalformed => "jid-malformed", NotAcceptable => "not-acceptable",
    NotAllowed => "not-allowed", NotAuthorized => "not-authorized", PolicyViolation => "policy-violation",
    RecipientUnavailable => "recipient-unavailable", Redirect => "redirect",
    RegistrationRequired => "registration-required", RemoteServerNotFound => "remote-server-not-found",
    RemoteServerTimeout => "remote-server-timeout", ResourceConstraint => "resource-constraint",
    ServiceUnavailable => "service-unavailable", SubscriptionRequired => "subscription-required",
    UndefinedCondition => "undefined-condition", UnexpectedRequest => "unexpected-request",
});

/// A number for each value of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct By<L, const N: usize, V = u64>([V; N], PhantomData<L>);

impl<L, const N: usize, V: Default> Default for By<L, N, V> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| V::default()), PhantomData)
    }
}

#[expect(clippy::indexing_slicing, reason = "N is the label's COUNT, which its index stays below")]
impl<L: Label, const N: usize, V> Index<L> for By<L, N, V> {
    type Output = V;
    fn index(&self, label: L) -> &V {
        &self.0[label.index()]
    }
}

#[expect(clippy::indexing_slicing, reason = "N is the label's COUNT, which its index stays below")]
impl<L: Label, const N: usize> IndexMut<L> for By<L, N> {
    fn index_mut(&mut self, label: L) -> &mut u64 {
        &mut self.0[label.index()]
    }
}

/// Whether a number only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Type {
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// The field, as `plaza status --json` shows it.
    pub field: &'static str,
    /// Its name for Prometheus.
    pub name: &'static str,
    /// Whether it only grows.
    pub kind: Type,
    /// What it counts.
    pub help: &'static str,
}

macro_rules! number_type {
    ([] $value:ty) => { $value };
    ([$label:ty] $value:ty) => { By<$label, { <$label as Label>::COUNT }, $value> };
}
macro_rules! store {
    ([] $from:expr, $into:expr) => {
        $into.store($from, Ordering::Relaxed)
    };
    ([$label:ty] $from:expr, $into:expr) => {
        $from.0.iter().zip(&$into.0).for_each(|(from, into)| into.store(*from, Ordering::Relaxed))
    };
}
macro_rules! load {
    ([] $from:expr, $into:expr) => {
        $into = $from.load(Ordering::Relaxed)
    };
    ([$label:ty] $from:expr, $into:expr) => {
        $from.0.iter().zip(&mut $into.0).for_each(|(from, into)| *into = from.load(Ordering::Relaxed))
    };
}
macro_rules! visit {
    ([] $numbers:expr, $family:expr, $visit:expr) => {
        $visit($family, None, $numbers)
    };
    ([$label:ty] $numbers:expr, $family:expr, $visit:expr) => {
        for label in <$label as Label>::ALL {
            $visit($family, Some((<$label as Label>::KEY, label.name())), $numbers[*label]);
        }
    };
}

/// Makes [`Counters`], [`ShardMetrics`] and [`FAMILIES`] from one table: field, label if it has one, name, type, meaning.
macro_rules! families {
    ($($field:ident $([$label:ty])? => $name:literal, $kind:ident, $help:literal;)+) => {
        /// A shard's numbers, on the shard: increment them as things happen, then [`ShardMetrics::publish`].
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Counters {
            $(#[doc = $help] pub $field: number_type!([$($label)?] u64),)+
        }

        /// A shard's numbers, as others see them. Only its shard writes; any thread reads.
        #[derive(Debug, Default)]
        #[repr(align(128))] // Never on a cache line of another shard's.
        pub struct ShardMetrics {
            $($field: number_type!([$($label)?] AtomicU64),)+
        }

        impl ShardMetrics {
            /// Shows the numbers to the other threads. One store each, so call it once per turn at most.
            ///
            /// Relaxed, since each number stands for itself: a reader may see one a turn older than the next.
            pub fn publish(&self, counters: &Counters) {
                $(store!([$($label)?] counters.$field, self.$field);)+
            }

            /// Reads all numbers. Pairs with the stores of [`Self::publish`].
            pub fn read(&self) -> Counters {
                let mut counters = Counters::default();
                $(load!([$($label)?] self.$field, counters.$field);)+
                counters
            }
        }

        /// What the numbers are, in the order of [`Counters::each`].
        pub const FAMILIES: &[Family] = &[
            $(Family { field: stringify!($field), name: $name, kind: Type::$kind, help: $help },)+
        ];

        impl Counters {
            /// Calls back with every number: its family, its label and value if it has one, and itself.
            pub fn each(&self, mut visit: impl FnMut(&'static Family, Option<(&'static str, &'static str)>, u64)) {
                let mut families = FAMILIES.iter();
                $(if let Some(family) = families.next() {
                    visit!([$($label)?] self.$field, family, visit);
                })+
            }
        }
    };
}

families! {
    sessions => "plaza_sessions", Gauge, "Bound sessions held";
    hibernated => "plaza_hibernated_sessions", Gauge, "Sessions cut off that wait to be resumed";
    resumed => "plaza_resumed_sessions_total", Counter, "Sessions resumed over another connection";
    connections => "plaza_connections", Gauge, "Connections held, negotiating or bound";
    negotiating => "plaza_negotiating_connections", Gauge, "Connections that have not bound a resource";
    accepted => "plaza_accepted_connections_total", Counter, "Connections accepted";
    accept_errors => "plaza_accept_errors_total", Counter, "Accepts that failed: no descriptor, no memory";
    refused[Refusal] => "plaza_refused_connections_total", Counter, "Connections closed as they came, by reason";
    accept_pauses => "plaza_accept_pauses_total", Counter, "Times accepting stopped because a limit on connections was reached";
    admitted[Layer] => "plaza_admitted_newcomers_total", Counter, "Steps of newcomers begun, by layer of admission";
    held[Layer] => "plaza_held_newcomers_total", Counter, "Steps of newcomers that waited for their turn, by layer";
    turned_down[Layer] => "plaza_turned_down_newcomers_total", Counter, "Steps of newcomers refused because there were too many, by layer";
    newcomers => "plaza_waiting_newcomers", Gauge, "Connections that have not bound a resource and wait for their turn";
    barred => "plaza_barred_logins_total", Counter, "Logins not looked at, since their account failed too often from their source";
    tls_handshakes[Handshake] => "plaza_tls_handshakes_total", Counter, "TLS handshakes by how they ended";
    auth_ok => "plaza_auth_granted_total", Counter, "SASL exchanges that granted a login";
    auth_failed[SaslFailure] => "plaza_auth_denied_total", Counter, "SASL exchanges that denied it, by reason";
    registered => "plaza_registered_accounts_total", Counter, "Accounts created over XMPP";
    not_registered[stanza::Condition] => "plaza_refused_registrations_total", Counter, "Accounts asked for over XMPP and not created, by what was told";
    stanzas_in[Kind] => "plaza_received_stanzas_total", Counter, "Stanzas taken from sessions";
    stanzas_out[Kind] => "plaza_sent_stanzas_total", Counter, "Stanzas put into outboxes of sessions";
    bytes_in => "plaza_received_bytes_total", Counter, "Bytes read from connections, TLS records included";
    receives_starved => "plaza_starved_receives_total", Counter, "Receives that found no free buffer, and were begun again";
    bytes_out => "plaza_sent_bytes_total", Counter, "Bytes written to connections, TLS records included";
    pings => "plaza_pings_total", Counter, "XEP-0199 pings answered by the shard itself";
    decisions => "plaza_decisions_total", Counter, "Questions of devices, whether somebody may do something, answered from memory";
    enforced => "plaza_enforced_denials_total", Counter, "Requests that a device did not get, since its things are enforced and no rule allows them";
    handoffs_out => "plaza_sent_handoffs_total", Counter, "Stanzas handed to another shard";
    handoff_batches_out => "plaza_sent_handoff_batches_total", Counter, "Batches these handoffs travelled in";
    handoffs_in => "plaza_received_handoffs_total", Counter, "Stanzas taken over from another shard";
    mesh_full => "plaza_mesh_full_total", Counter, "Times the queue to another shard was full";
    queue_depth => "plaza_queue_depth_batches", Gauge, "Batches waiting in this shard's queues to the others";
    stream_errors[stream::Condition] => "plaza_stream_errors_total", Counter, "Streams ended with an error, by its condition";
    stanza_errors[stanza::Condition] => "plaza_stanza_errors_total", Counter, "Stanzas answered with an error, by its condition";
    drops[DropReason] => "plaza_dropped_stanzas_total", Counter, "Stanzas dropped without an answer, by reason";
    forged => "plaza_forged_elements_total", Counter, "Elements taken out of stanzas because they spoke in the broker's name";
    offline_kept => "plaza_offline_kept_total", Counter, "Messages stored for accounts that were away";
    archived => "plaza_archived_total", Counter, "Messages put into archives, once for each account that keeps them";
    not_archived => "plaza_not_archived_total", Counter, "Messages that an archive should have had and the store did not take";
    outbox_bytes => "plaza_outbox_bytes", Gauge, "Bytes waiting to be written";
    session_bytes => "plaza_session_bytes", Gauge, "Bytes of user space the bound sessions take, TLS state and outboxes included";
    memory[Subsystem] => "plaza_memory_bytes", Gauge, "Bytes held, by what holds them";
    sheds[Shed] => "plaza_memory_sheds_total", Counter, "What was given up for want of memory";
    backpressure_pauses => "plaza_backpressure_pauses_total", Counter, "Times a session was no longer read because a recipient could not take more";
    shaped => "plaza_shaped_pauses_total", Counter, "Times a session was no longer read for a while because it sent more than its share";
    turns => "plaza_turns_total", Counter, "Turns of the shard's loop";
    late_turns => "plaza_late_turns_total", Counter, "Turns that began late: the shard was stalled";
    panics => "plaza_panics_total", Counter, "Streams ended by a bug of ours";
}

impl Counters {
    /// Bytes of user space per bound session, on average.
    pub fn bytes_per_session(&self) -> u64 {
        self.session_bytes.checked_div(self.sessions).unwrap_or(0)
    }

    /// Sum over the values of a label.
    pub fn total<L: Label, const N: usize>(numbers: &By<L, N>) -> u64 {
        numbers.0.iter().sum()
    }

    /// As JSON: a number per field, an object per labelled field in which zeros are left out.
    pub fn to_json(&self) -> serde_json::Value {
        let mut object = serde_json::Map::new();
        self.each(|family, label, number| match label {
            None => _ = object.insert(family.field.to_owned(), number.into()),
            Some((_, value)) => {
                let labelled = object.entry(family.field).or_insert_with(|| serde_json::Map::new().into());
                if let (Some(labelled), 1..) = (labelled.as_object_mut(), number) {
                    labelled.insert(value.to_owned(), number.into());
                }
            }
        });
        object.insert("bytes_per_session".into(), self.bytes_per_session().into());
        object.into()
    }
}

/// A number of the process as a whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProcessNumber {
    /// Its name for Prometheus.
    pub name: &'static str,
    /// Whether it only grows.
    pub kind: Type,
    /// What it is.
    pub help: &'static str,
    /// Its label's key and value, if it is one of several.
    pub label: Option<(&'static str, &'static str)>,
    /// Itself.
    pub number: f64,
}

impl ProcessNumber {
    fn write(&self, text: &mut String) {
        let Self { name, number, .. } = self;
        _ = match self.label {
            None => writeln!(text, "{name} {number}"),
            Some((key, value)) => writeln!(text, "{name}{{{key}=\"{value}\"}} {number}"),
        };
    }
}

/// Writes the numbers of all shards and of the process in the Prometheus text format, version 0.0.4. Labels come from
/// enums of ours, so nothing needs escaping.
pub fn encode(shards: &[Arc<ShardMetrics>], process: &[ProcessNumber]) -> String {
    let mut text = String::with_capacity(16 * 1024);
    let shards: Vec<Counters> = shards.iter().map(|shard| shard.read()).collect();
    for wanted in FAMILIES {
        header(&mut text, wanted.name, wanted.kind, wanted.help);
        for (shard, counters) in shards.iter().enumerate() {
            counters.each(|family, label, number| {
                _ = match label {
                    _ if family != wanted => Ok(()),
                    None => writeln!(text, "{}{{shard=\"{shard}\"}} {number}", family.name),
                    Some((key, value)) => {
                        writeln!(text, "{}{{shard=\"{shard}\",{key}=\"{value}\"}} {number}", family.name)
                    }
                };
            });
        }
        process.iter().filter(|number| number.name == wanted.name).for_each(|number| number.write(&mut text));
    }
    for number in process.iter().filter(|number| !FAMILIES.iter().any(|family| family.name == number.name)) {
        header(&mut text, number.name, number.kind, number.help);
        number.write(&mut text);
    }
    text
}

fn header(text: &mut String, name: &str, kind: Type, help: &str) {
    _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {}", kind.name());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_label<L: Label>() {
        for (index, label) in L::ALL.iter().enumerate() {
            assert_eq!(label.index(), index, "{} is out of order", label.name());
        }
    }

    #[test]
    fn every_label_is_at_its_index() {
        check_label::<DropReason>();
        check_label::<Handshake>();
        check_label::<Kind>();
        check_label::<Level>();
        check_label::<Subsystem>();
        check_label::<Shed>();
        check_label::<SaslFailure>();
        check_label::<stream::Condition>();
        check_label::<stanza::Condition>();
    }

    #[test]
    fn published_numbers_are_read_back() {
        let mut counters = Counters { bytes_in: 7, ..Counters::default() };
        counters.stanzas_in[Kind::Iq] += 2;
        counters.drops[DropReason::Stale] += 1;
        counters.stream_errors[stream::Condition::UnsupportedVersion] += 3;
        let metrics = ShardMetrics::default();
        metrics.publish(&counters);
        assert_eq!(metrics.read(), counters);
        assert_eq!(Counters::total(&counters.stanzas_in), 2);
    }

    #[test]
    fn bytes_per_session_is_an_average_and_zero_without_sessions() {
        assert_eq!(Counters::default().bytes_per_session(), 0);
        assert_eq!(Counters { sessions: 4, session_bytes: 4_002, ..Counters::default() }.bytes_per_session(), 1_000);
    }

    #[test]
    fn the_text_has_each_family_once_with_its_shards_beneath() {
        let shards: Vec<Arc<ShardMetrics>> = (0..2).map(|_| Arc::new(ShardMetrics::default())).collect();
        let mut counters = Counters { sessions: 5, ..Counters::default() };
        counters.stanzas_in[Kind::Presence] = 9;
        shards[1].publish(&counters);
        let process = ProcessNumber { name: "up_seconds", kind: Type::Gauge, help: "Time", label: None, number: 1.5 };
        let label = Some(("subsystem", "store"));
        let store = ProcessNumber { name: "plaza_memory_bytes", label, number: 3.0, ..process };
        let text = encode(&shards, &[store, process]);
        assert!(text.contains(
            "plaza_memory_bytes{shard=\"1\",subsystem=\"negotiating\"} 0\nplaza_memory_bytes{subsystem=\"store\"} 3\n"
        ));
        assert!(text.starts_with(
            "# HELP plaza_sessions Bound sessions held.\n# TYPE plaza_sessions gauge\n\
             plaza_sessions{shard=\"0\"} 0\nplaza_sessions{shard=\"1\"} 5\n"
        ));
        assert!(text.contains("plaza_received_stanzas_total{shard=\"1\",kind=\"presence\"} 9\n"));
        assert!(text.contains("plaza_dropped_stanzas_total{shard=\"0\",reason=\"outbox-full\"} 0\n"));
        assert!(text.ends_with("# TYPE up_seconds gauge\nup_seconds 1.5\n"));
        for family in FAMILIES {
            assert_eq!(text.matches(&format!("# TYPE {} ", family.name)).count(), 1, "{}", family.name);
            assert_eq!(family.name.ends_with("_total"), family.kind == Type::Counter, "{}", family.name);
        }
        assert!(text.lines().all(|line| line.starts_with('#') || line.split(' ').count() == 2));
    }

    #[test]
    fn the_operations_manual_names_every_metric() {
        let manual = include_str!("../../docs/operations.md");
        for family in FAMILIES {
            assert!(manual.contains(&format!("`{}`", family.name)), "docs/operations.md lacks {}", family.name);
        }
    }

    #[test]
    fn json_leaves_out_zeros_of_labels_only() {
        let mut counters = Counters::default();
        counters.auth_failed[SaslFailure::NotAuthorized] = 1;
        let json = counters.to_json();
        assert_eq!(json["sessions"], 0);
        assert_eq!(json["auth_failed"], serde_json::json!({ "not-authorized": 1 }));
        assert_eq!(json["drops"], serde_json::json!({}));
    }
}
