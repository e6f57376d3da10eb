//! A node's configuration and a subscription's options: what they are, their forms, their defaults.
//!
//! Spec: XEP-0060 v1.30.0 §6.3 (subscription options), §8.2 (node configuration), §17.4 (fields).

use plaza_core::date::DateTime;
use plaza_core::forms::{
    Choice, Field, Form, FormError, FormLimits, Kind, Reason, Submission, Submitted, Value, Values,
};
use plaza_core::ns;
use plaza_core::xml::read::Node;

use super::error::{Problem, Refusal};
use super::{Host, Limits};

/// Longest time an item may be kept, in seconds, but for `max`: a hundred years.
const ITEM_EXPIRE_MAX: u32 = 100 * 365 * 86_400;

/// A closed set of words of the protocol.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($variant:ident = $word:literal = $code:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(super) enum $name { $($variant,)* }

        impl $name {
            /// All of them, in the order of the protocol.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word on the wire.
            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The one of that word.
            pub(super) fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.name() == name)
            }

            /// The byte in a record. Never changed: data is stored as it.
            pub(super) const fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)* }
            }

            /// The one of that byte.
            pub(super) const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}
pub(super) use words;

words! {
    /// Who may subscribe and read (XEP-0060 §4.5).
    AccessModel {
        Open = "open" = 0,
        Presence = "presence" = 1,
        Roster = "roster" = 2,
        Authorize = "authorize" = 3,
        Whitelist = "whitelist" = 4,
    }
}

words! {
    /// Who may publish.
    PublishModel {
        Publishers = "publishers" = 0,
        Subscribers = "subscribers" = 1,
        Open = "open" = 2,
    }
}

words! {
    /// When the last item is sent unasked.
    SendLast {
        Never = "never" = 0,
        OnSub = "on_sub" = 1,
        OnSubAndPresence = "on_sub_and_presence" = 2,
    }
}

words! {
    /// What happens to an item for a full node.
    WhenFull {
        RetractOldest = "retract-oldest" = 0,
        DiscardOldest = "discard-oldest" = 1,
        Reject = "reject" = 2,
    }
}

/// How a node is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeConfig {
    pub(super) title: String,
    pub(super) description: String,
    /// Namespace of its payloads, "" for any.
    pub(super) payload_ns: String,
    pub(super) access: AccessModel,
    /// Roster groups with access, sorted.
    pub(super) groups: Vec<String>,
    pub(super) publish_model: PublishModel,
    pub(super) persist: bool,
    /// `None` is `max`: as many as the service allows.
    pub(super) items_max: Option<u32>,
    /// Seconds an item is kept; `None` is `max`: for good.
    pub(super) item_expire: Option<u32>,
    pub(super) payload_bytes_max: u32,
    pub(super) when_full: WhenFull,
    pub(super) deliver_notifications: bool,
    pub(super) deliver_payloads: bool,
    pub(super) notify_config: bool,
    pub(super) notify_delete: bool,
    pub(super) notify_retract: bool,
    pub(super) subscribe: bool,
    pub(super) send_last: SendLast,
    /// Notifications are headlines, which no server keeps for later; else normal messages.
    pub(super) headline: bool,
    /// Items are told with who published them.
    pub(super) tell_publisher: bool,
}

impl NodeConfig {
    /// What a node is unless somebody says otherwise (XEP-0060 §4.5 for a service, XEP-0163 v1.2.2 §5 for an account).
    pub(super) fn default_at(host: &Host, limits: &Limits) -> Self {
        let (access, items_max) = match host {
            Host::Service(_) => (AccessModel::Open, limits.items_default.min(limits.items_max)),
            Host::Account(_) => (AccessModel::Presence, 1),
        };
        Self {
            title: String::new(),
            description: String::new(),
            payload_ns: String::new(),
            access,
            groups: Vec::new(),
            publish_model: PublishModel::Publishers,
            persist: true,
            items_max: Some(items_max),
            item_expire: None,
            payload_bytes_max: limits.payload_bytes_max,
            when_full: WhenFull::RetractOldest,
            deliver_notifications: true,
            deliver_payloads: true,
            notify_config: false,
            notify_delete: true,
            notify_retract: false,
            subscribe: true,
            // The feature `last-published` demands it (XEP-0060 §4.3).
            send_last: SendLast::OnSubAndPresence,
            headline: true,
            tell_publisher: false,
        }
    }

    /// Most items it holds.
    pub(super) fn capacity(&self, limits: &Limits) -> u32 {
        self.items_max.unwrap_or(limits.items_max).min(limits.items_max)
    }

    /// Whether an item published at `millis` is no longer there at `now`.
    pub(super) fn has_expired(&self, millis: u64, now: u64) -> bool {
        self.item_expire.is_some_and(|seconds| millis.saturating_add(u64::from(seconds) * 1_000) <= now)
    }

    /// The form of the configuration, about `form_type`: to set it, or to publish on conditions.
    pub(super) fn form(form_type: &'static str, limits: &Limits) -> Form<'static> {
        let boolean = |var, label| Field::new(var, label, Kind::Boolean);
        let text = |var, label| Field::new(var, label, Kind::TextSingle);
        let one_of = |var, label, words: &[&'static str]| Field::new(var, label, Kind::one_of(words));
        let up_to = |max: u32| Kind::IntegerOrMax { min: 1, max: max.into() };
        let groups = Kind::ListMulti { choices: Vec::new(), open: true };
        let payload = Kind::Integer { min: 1, max: limits.payload_bytes_max.into() };
        Form::new(
            form_type,
            vec![
                text("pubsub#title", "A friendly name for the node"),
                text("pubsub#description", "A description of the node"),
                text("pubsub#type", "The namespace of the payloads"),
                one_of("pubsub#node_type", "The type of the node", &["leaf"]),
                one_of(
                    "pubsub#access_model",
                    "Who may subscribe and retrieve items",
                    &names(AccessModel::ALL, AccessModel::name),
                ),
                Field::new("pubsub#roster_groups_allowed", "Roster groups allowed to subscribe", groups),
                one_of("pubsub#publish_model", "Who may publish", &names(PublishModel::ALL, PublishModel::name)),
                boolean("pubsub#persist_items", "Whether to keep items"),
                Field::new("pubsub#max_items", "The number of items to keep", up_to(limits.items_max)),
                Field::new("pubsub#item_expire", "Seconds after which items are removed", up_to(ITEM_EXPIRE_MAX)),
                one_of(
                    "pubsub#publish_node_full",
                    "What to do when publishing to a full node",
                    &names(WhenFull::ALL, WhenFull::name),
                ),
                Field::new("pubsub#max_payload_size", "The size of the largest payload in bytes", payload),
                boolean("pubsub#deliver_notifications", "Whether to deliver event notifications"),
                boolean("pubsub#deliver_payloads", "Whether to deliver payloads with event notifications"),
                boolean("pubsub#notify_config", "Notify subscribers when the node configuration changes"),
                boolean("pubsub#notify_delete", "Notify subscribers when the node is deleted"),
                boolean("pubsub#notify_retract", "Notify subscribers when items are removed from the node"),
                boolean("pubsub#subscribe", "Whether to allow subscriptions"),
                one_of(
                    "pubsub#send_last_published_item",
                    "When to send the last published item",
                    &names(SendLast::ALL, SendLast::name),
                ),
                one_of("pubsub#notification_type", "The type of notifications", &["normal", "headline"]),
                one_of("pubsub#itemreply", "Whose address items carry", &["publisher", "none"]),
            ],
        )
    }

    /// Its values in the form.
    pub(super) fn values(&self) -> Values {
        let or_max = |bound: Option<u32>| bound.map_or(Value::Max, Value::from);
        let mut values = Values::new();
        for (var, text) in [
            ("pubsub#title", &self.title),
            ("pubsub#description", &self.description),
            ("pubsub#type", &self.payload_ns),
        ] {
            if !text.is_empty() {
                values.set(var, text.as_str());
            }
        }
        values.set("pubsub#node_type", "leaf");
        values.set("pubsub#access_model", self.access.name());
        if !self.groups.is_empty() {
            values.set("pubsub#roster_groups_allowed", self.groups.clone());
        }
        values.set("pubsub#publish_model", self.publish_model.name());
        values.set("pubsub#persist_items", self.persist);
        values.set("pubsub#max_items", or_max(self.items_max));
        values.set("pubsub#item_expire", or_max(self.item_expire));
        values.set("pubsub#publish_node_full", self.when_full.name());
        values.set("pubsub#max_payload_size", self.payload_bytes_max);
        values.set("pubsub#deliver_notifications", self.deliver_notifications);
        values.set("pubsub#deliver_payloads", self.deliver_payloads);
        values.set("pubsub#notify_config", self.notify_config);
        values.set("pubsub#notify_delete", self.notify_delete);
        values.set("pubsub#notify_retract", self.notify_retract);
        values.set("pubsub#subscribe", self.subscribe);
        values.set("pubsub#send_last_published_item", self.send_last.name());
        values.set("pubsub#notification_type", if self.headline { "headline" } else { "normal" });
        values.set("pubsub#itemreply", if self.tell_publisher { "publisher" } else { "none" });
        values
    }

    /// Takes the values that were submitted; a field left empty goes back to its default.
    pub(super) fn apply(&mut self, submitted: &Values, defaults: &Self) {
        // The form holds each word to its choices, so what it does not know was left empty.
        let text = |value: &Value| if let Value::Text(text) = value { text.clone() } else { String::new() };
        let flag = |value: &Value, default| if let Value::Boolean(value) = value { *value } else { default };
        let bound = |value: &Value, default| match value {
            Value::Integer(number) => u32::try_from(*number).ok(),
            Value::Max => None,
            Value::Empty
            | Value::Boolean(_)
            | Value::DateTime(_)
            | Value::Jid(_)
            | Value::Jids(_)
            | Value::Text(_)
            | Value::Texts(_) => default,
        };
        for (var, value) in submitted.iter() {
            match var {
                "pubsub#title" => self.title = text(value),
                "pubsub#description" => self.description = text(value),
                "pubsub#type" => self.payload_ns = text(value),
                "pubsub#access_model" => self.access = AccessModel::from_name(&text(value)).unwrap_or(defaults.access),
                "pubsub#roster_groups_allowed" => {
                    self.groups = if let Value::Texts(groups) = value { groups.clone() } else { Vec::new() };
                    self.groups.sort();
                }
                "pubsub#publish_model" => {
                    self.publish_model = PublishModel::from_name(&text(value)).unwrap_or(defaults.publish_model);
                }
                "pubsub#persist_items" => self.persist = flag(value, defaults.persist),
                "pubsub#max_items" => self.items_max = bound(value, defaults.items_max),
                "pubsub#item_expire" => self.item_expire = bound(value, defaults.item_expire),
                "pubsub#publish_node_full" => {
                    self.when_full = WhenFull::from_name(&text(value)).unwrap_or(defaults.when_full);
                }
                "pubsub#max_payload_size" => {
                    self.payload_bytes_max =
                        bound(value, None).filter(|_| *value != Value::Empty).unwrap_or(defaults.payload_bytes_max);
                }
                "pubsub#deliver_notifications" => {
                    self.deliver_notifications = flag(value, defaults.deliver_notifications);
                }
                "pubsub#deliver_payloads" => self.deliver_payloads = flag(value, defaults.deliver_payloads),
                "pubsub#notify_config" => self.notify_config = flag(value, defaults.notify_config),
                "pubsub#notify_delete" => self.notify_delete = flag(value, defaults.notify_delete),
                "pubsub#notify_retract" => self.notify_retract = flag(value, defaults.notify_retract),
                "pubsub#subscribe" => self.subscribe = flag(value, defaults.subscribe),
                "pubsub#send_last_published_item" => {
                    self.send_last = SendLast::from_name(&text(value)).unwrap_or(defaults.send_last);
                }
                "pubsub#notification_type" => self.headline = text(value) != "normal",
                "pubsub#itemreply" => self.tell_publisher = text(value) == "publisher",
                // A leaf is the only type there is.
                _ => {}
            }
        }
    }

    /// Whether the node is already as these values want it (XEP-0060 §7.1.5).
    pub(super) fn meets(&self, wanted: &Values, defaults: &Self, limits: &Limits) -> bool {
        let mut applied = self.clone();
        applied.apply(wanted, defaults);
        let effective = |config: &Self| Self { items_max: Some(config.capacity(limits)), ..config.clone() };
        effective(&applied) == effective(self)
    }
}

/// The words of a set.
pub(super) fn names<T: Copy>(all: &[T], name: fn(T) -> &'static str) -> Vec<&'static str> {
    all.iter().map(|one| name(*one)).collect()
}

/// Bounds of the forms here: a value is a name or a short text.
pub(super) const fn form_limits(limits: &Limits) -> FormLimits {
    FormLimits { values_max: limits.groups_max, value_bytes_max: limits.text_bytes_max, ..FormLimits::DEFAULT }
}

/// The form in an element, if there is one.
fn form_in(element: &Node) -> Option<&Node> {
    element.child("x", ns::DATA_FORMS)
}

/// Reads the configuration submitted in a `<configure/>`; `None` if it was cancelled, or there is none.
pub(super) fn read_config(configure: &Node, limits: &Limits) -> Result<Option<Values>, Refusal> {
    let Some(x) = form_in(configure) else { return Ok(None) };
    let form = NodeConfig::form(ns::PUBSUB_NODE_CONFIG, limits);
    match form.read(x, &form_limits(limits)) {
        Ok(Submission::Submitted(submitted)) => Ok(Some(submitted.values)),
        Ok(Submission::Cancelled) => Ok(None),
        Err(FormError::Invalid { var, reason: Reason::NotAChoice }) if var == "pubsub#access_model" => {
            Err(Problem::UnsupportedAccessModel.into())
        }
        Err(FormError::Invalid { var, reason: Reason::NotAChoice }) if var == "pubsub#node_type" => {
            Err(Problem::Unsupported("collections").into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads the conditions in a `<publish-options/>` (XEP-0060 §7.1.5). A field we do not know, or a value that no node of
/// ours can have, is a condition that is not met.
pub(super) fn read_preconditions(options: &Node, limits: &Limits) -> Result<Values, Refusal> {
    let x = form_in(options).ok_or(FormError::NotASubmission)?;
    let form = NodeConfig::form(ns::PUBSUB_PUBLISH_OPTIONS, limits);
    match form.read(x, &form_limits(limits)) {
        Ok(Submission::Submitted(Submitted { values, unknown })) if unknown.is_empty() => Ok(values),
        Ok(Submission::Submitted(_)) | Err(FormError::Invalid { .. }) => Err(Problem::PreconditionNotMet.into()),
        Ok(Submission::Cancelled) => Err(FormError::NotASubmission.into()),
        Err(error) => Err(error.into()),
    }
}

/// The presence states for which a subscriber wants notifications (XEP-0060 §6.3, `pubsub#show-values`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shows(u8);

impl Shows {
    /// All of them, which is also what who says nothing gets.
    pub const ALL: Self = Self(0b1_1111);
    const WORDS: [&'static str; 5] = ["away", "chat", "dnd", "online", "xa"];

    /// Whether a resource whose `<show/>` is that gets notifications; "" is plain availability.
    pub fn allow(self, show: &str) -> bool {
        let show = if show.is_empty() { "online" } else { show };
        Self::WORDS.iter().position(|word| *word == show).is_none_or(|bit| self.0 & 1 << bit != 0)
    }

    fn names(self) -> Vec<String> {
        let on = Self::WORDS.iter().enumerate().filter(|(bit, _)| self.0 & 1 << bit != 0);
        on.map(|(_, word)| (*word).to_owned()).collect()
    }

    fn from_names(names: &[String]) -> Self {
        let on = Self::WORDS.iter().enumerate().filter(|(_, word)| names.iter().any(|name| name == *word));
        Self(on.fold(0, |bits, (bit, _)| bits | 1 << bit))
    }

    /// As stored.
    pub(super) const fn bits(self) -> u8 {
        self.0
    }

    /// As stored; `None` if it is not from here.
    pub(super) const fn from_bits(bits: u8) -> Option<Self> {
        if bits & !Self::ALL.0 == 0 { Some(Self(bits)) } else { None }
    }
}

/// The options of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SubscriptionOptions {
    pub(super) deliver: bool,
    pub(super) shows: Shows,
    /// When the subscription ends, in milliseconds since the Unix epoch (XEP-0060 §12.18).
    pub(super) expires: Option<u64>,
}

impl SubscriptionOptions {
    pub(super) const DEFAULT: Self = Self { deliver: true, shows: Shows::ALL, expires: None };

    /// The form of the options.
    pub(super) fn form() -> Form<'static> {
        let choices = Shows::WORDS.map(Choice::plain).to_vec();
        Form::new(
            ns::PUBSUB_SUBSCRIBE_OPTIONS,
            vec![
                Field::new("pubsub#deliver", "Whether to deliver notifications", Kind::Boolean),
                Field::new(
                    "pubsub#show-values",
                    "The presence states for which to deliver notifications",
                    Kind::ListMulti { choices, open: false },
                ),
                Field::new("pubsub#expire", "When the subscription ends", Kind::DateTime),
            ],
        )
    }

    /// Its values in the form.
    pub(super) fn values(self) -> Values {
        let values = Values::new().with("pubsub#deliver", self.deliver).with("pubsub#show-values", self.shows.names());
        match self.expires {
            Some(expires) => values.with("pubsub#expire", DateTime::from_unix_millis(expires)),
            None => values,
        }
    }

    /// Takes the options submitted in an `<options/>`; those that were left out stay as they are.
    pub(super) fn apply(&mut self, options: &Node, now: u64, limits: &Limits) -> Result<(), Refusal> {
        let invalid = |_| Refusal::from(Problem::InvalidOptions);
        let x = form_in(options).ok_or(FormError::NotASubmission).map_err(invalid)?;
        let Submission::Submitted(submitted) = Self::form().read(x, &form_limits(limits)).map_err(invalid)? else {
            return Ok(());
        };
        for (var, value) in submitted.values.iter() {
            match (var, value) {
                ("pubsub#deliver", Value::Boolean(deliver)) => self.deliver = *deliver,
                ("pubsub#deliver", _) => self.deliver = true,
                ("pubsub#show-values", Value::Texts(names)) => self.shows = Shows::from_names(names),
                ("pubsub#expire", Value::DateTime(moment)) => {
                    let expires = u64::try_from(moment.unix_millis()).ok().filter(|expires| *expires > now);
                    self.expires = Some(expires.ok_or(Problem::InvalidOptions)?);
                }
                ("pubsub#expire", _) => self.expires = None,
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(in crate::pubsub) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host() -> Host {
        Host::Service(plaza_core::jid::Jid::parse("pubsub.shakespeare.lit").unwrap())
    }

    /// Any configuration.
    pub(in crate::pubsub) fn any_config() -> impl Strategy<Value = NodeConfig> {
        let texts = ("[a-z]{0,4}", "[a-z]{0,4}", "[a-z]{0,4}", prop::collection::btree_set("[a-z]{1,3}", 0..3));
        let words = (0..5_u8, 0..3_u8, 0..3_u8, 0..3_u8);
        let numbers = (any::<bool>(), 1..=1_000_u32, any::<bool>(), 1..=ITEM_EXPIRE_MAX, 1..=65_536_u32);
        (texts, words, numbers, any::<u16>()).prop_map(|(texts, words, numbers, flags)| {
            let (title, description, payload_ns, groups) = texts;
            let (has_max, items_max, has_expire, item_expire, payload_bytes_max) = numbers;
            let flag = |bit: u16| flags & 1 << bit != 0;
            NodeConfig {
                title,
                description,
                payload_ns,
                access: AccessModel::from_code(words.0).unwrap(),
                groups: groups.into_iter().collect(),
                publish_model: PublishModel::from_code(words.1).unwrap(),
                persist: flag(0),
                items_max: has_max.then_some(items_max),
                item_expire: has_expire.then_some(item_expire),
                payload_bytes_max,
                when_full: WhenFull::from_code(words.2).unwrap(),
                deliver_notifications: flag(1),
                deliver_payloads: flag(2),
                notify_config: flag(3),
                notify_delete: flag(4),
                notify_retract: flag(5),
                subscribe: flag(6),
                send_last: SendLast::from_code(words.3).unwrap(),
                headline: flag(7),
                tell_publisher: flag(8),
            }
        })
    }

    proptest! {
        #[test]
        fn a_configuration_shown_and_sent_back_is_the_same(config in any_config()) {
            let limits = Limits::DEFAULT;
            let form = NodeConfig::form(ns::PUBSUB_NODE_CONFIG, &limits);
            let mut x = Vec::new();
            form.write(&mut x, plaza_core::forms::FormKind::Submit, &config.values());
            let x = String::from_utf8(x).unwrap();
            let configure = Node::parse(&format!("<configure>{x}</configure>"), "").unwrap();
            let values = read_config(&configure, &limits).unwrap().unwrap();
            let defaults = NodeConfig::default_at(&host(), &limits);
            let mut read = defaults.clone();
            read.apply(&values, &defaults);
            prop_assert_eq!(&read, &config);
            prop_assert!(config.meets(&values, &defaults, &limits));
        }
    }

    #[test]
    fn max_items_and_the_number_it_stands_for_are_the_same_condition() {
        let limits = Limits::DEFAULT;
        let defaults = NodeConfig::default_at(&host(), &limits);
        let unbounded = NodeConfig { items_max: None, ..defaults.clone() };
        let asks = |value: Value| Values::new().with("pubsub#max_items", value);
        assert!(unbounded.meets(&asks(Value::Max), &defaults, &limits));
        assert!(unbounded.meets(&asks(limits.items_max.into()), &defaults, &limits));
        assert!(!unbounded.meets(&asks(Value::Integer(1)), &defaults, &limits));
        assert!(!defaults.meets(&asks(Value::Max), &defaults, &limits));
        assert!(defaults.meets(&asks(Value::Empty), &defaults, &limits));
    }

    #[test]
    fn a_field_left_empty_goes_back_to_its_default() {
        let limits = Limits::DEFAULT;
        let defaults = NodeConfig::default_at(&host(), &limits);
        let mut config = NodeConfig {
            title: "a".to_owned(),
            groups: vec!["g".to_owned()],
            access: AccessModel::Roster,
            persist: false,
            items_max: Some(7),
            payload_bytes_max: 5,
            headline: false,
            ..defaults.clone()
        };
        let mut values = Values::new();
        for field in NodeConfig::form("", &limits).fields {
            values.set(field.var, Value::Empty);
        }
        config.apply(&values, &defaults);
        assert_eq!(config, defaults);
    }

    #[test]
    fn presence_states_are_allowed_as_named() {
        assert!(["", "away", "chat", "dnd", "online", "xa", "odd"].iter().all(|show| Shows::ALL.allow(show)));
        let some = Shows::from_names(&["chat".to_owned(), "online".to_owned()]);
        assert_eq!(["", "chat", "away", "dnd", "xa"].map(|show| some.allow(show)), [true, true, false, false, false]);
        assert_eq!(Shows::from_bits(some.bits()), Some(some));
        assert_eq!(Shows::from_bits(32), None);
        assert_eq!(some.names(), ["chat", "online"]);
    }

    #[test]
    fn words_and_their_codes_lead_back() {
        for (code, &word) in names(AccessModel::ALL, AccessModel::name).iter().enumerate() {
            let model = AccessModel::from_name(word).unwrap();
            assert_eq!((usize::from(model.code()), model.name()), (code, word));
            assert_eq!(AccessModel::from_code(model.code()), Some(model));
        }
        assert_eq!((AccessModel::from_name("x"), AccessModel::from_code(5)), (None, None));
    }
}
