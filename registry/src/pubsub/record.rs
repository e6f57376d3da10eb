//! What is stored of nodes, affiliations, subscriptions and items, and its compact form.

use plaza_core::jid::Jid;

use super::options::{AccessModel, NodeConfig, PublishModel, SendLast, Shows, SubscriptionOptions, WhenFull, words};
#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::record::{Reader, flag, put_bytes, put_count};
use crate::store::StoreError;

/// Version of all records here.
const VERSION: u8 = 1;

words! {
    /// What an entity may do at a node (XEP-0060 §4.1), but for `none`.
    Affiliation {
        Owner = "owner" = 0,
        Publisher = "publisher" = 1,
        PublishOnly = "publish-only" = 2,
        Member = "member" = 3,
        Outcast = "outcast" = 4,
    }
}

impl Affiliation {
    /// Whether it opens a node to its entity whatever the access model (XEP-0060 §4.1, §4.5).
    pub(super) const fn may_read(self) -> bool {
        matches!(self, Self::Owner | Self::Publisher | Self::Member)
    }

    pub(super) fn encode(self) -> Vec<u8> {
        vec![VERSION, self.code()]
    }

    pub(super) fn decode(record: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader::open(record, VERSION)?;
        let code = reader.u8()?;
        reader.close()?;
        Self::from_code(code).ok_or(StoreError::Corrupt)
    }
}

/// A node. Every change of it or of anything below it changes its record, so that a guard on the record covers all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeRecord {
    pub(super) config: NodeConfig,
    /// Bare JID of who created it.
    pub(super) creator: Jid,
    /// When, in milliseconds since the Unix epoch.
    pub(super) created: u64,
    /// One more with each change.
    pub(super) revision: u64,
    /// Entities with an affiliation, of them owners and outcasts.
    pub(super) affiliations: u32,
    pub(super) owners: u32,
    pub(super) outcasts: u32,
    /// Subscriptions that are in force, and those that wait for approval.
    pub(super) subscribers: u32,
    pub(super) pending: u32,
    /// Items that are there.
    pub(super) items: u32,
    /// No place below this one is taken, so that what was removed is not read again.
    pub(super) oldest: u64,
    /// The place of the next item.
    pub(super) next: u64,
    /// Id of the item published last, "" for none.
    pub(super) last: String,
}

impl NodeRecord {
    /// A new node.
    pub(super) const fn new(config: NodeConfig, creator: Jid, created: u64) -> Self {
        Self {
            config,
            creator,
            created,
            revision: 0,
            affiliations: 0,
            owners: 0,
            outcasts: 0,
            subscribers: 0,
            pending: 0,
            items: 0,
            oldest: 0,
            next: 0,
            last: String::new(),
        }
    }

    /// Counts an affiliation that changes.
    pub(super) fn count_affiliation(&mut self, before: Option<Affiliation>, after: Option<Affiliation>) {
        let count = |number: &mut u32, is: &dyn Fn(Affiliation) -> bool| {
            *number = number.saturating_sub(u32::from(before.is_some_and(is))) + u32::from(after.is_some_and(is));
        };
        count(&mut self.affiliations, &|_| true);
        count(&mut self.owners, &|one| one == Affiliation::Owner);
        count(&mut self.outcasts, &|one| one == Affiliation::Outcast);
    }

    /// Counts a subscription that changes.
    pub(super) fn count_subscription(&mut self, before: Option<&Subscription>, after: Option<&Subscription>) {
        let count = |number: &mut u32, pending: bool| {
            let is = |one: &Subscription| one.pending == pending;
            *number = number.saturating_sub(u32::from(before.is_some_and(is))) + u32::from(after.is_some_and(is));
        };
        count(&mut self.subscribers, false);
        count(&mut self.pending, true);
    }

    /// version · configuration · creator · created · revision · counts · oldest · next · last.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(128);
        record.push(VERSION);
        encode_config(&mut record, &self.config);
        put_bytes(&mut record, self.creator.as_str().as_bytes());
        for number in [
            self.created,
            self.revision,
            self.affiliations.into(),
            self.owners.into(),
            self.outcasts.into(),
            self.subscribers.into(),
            self.pending.into(),
            self.items.into(),
            self.oldest,
            self.next,
        ] {
            put_count(&mut record, number);
        }
        put_bytes(&mut record, self.last.as_bytes());
        record
    }

    pub(super) fn decode(record: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader::open(record, VERSION)?;
        let config = decode_config(&mut reader)?;
        let creator = Jid::parse(reader.text()?).map_err(|_| StoreError::Corrupt)?;
        let node = Self {
            config,
            creator,
            created: reader.count()?,
            revision: reader.count()?,
            affiliations: number(&mut reader)?,
            owners: number(&mut reader)?,
            outcasts: number(&mut reader)?,
            subscribers: number(&mut reader)?,
            pending: number(&mut reader)?,
            items: number(&mut reader)?,
            oldest: reader.count()?,
            next: reader.count()?,
            last: reader.text()?.to_owned(),
        };
        reader.close()?;
        Ok(node)
    }
}

/// flags · words · max items (0 for max) · expiry (0 for max) · payload bytes · title · description · namespace · groups.
fn encode_config(record: &mut Vec<u8>, config: &NodeConfig) {
    let low = [
        config.persist,
        config.deliver_notifications,
        config.deliver_payloads,
        config.notify_config,
        config.notify_delete,
        config.notify_retract,
        config.subscribe,
        config.headline,
    ];
    record.push(low.iter().enumerate().fold(0, |flags, (bit, on)| flags | flag(*on, 1 << bit)));
    record.push(flag(config.tell_publisher, 1));
    record.extend_from_slice(&[
        config.access.code(),
        config.publish_model.code(),
        config.send_last.code(),
        config.when_full.code(),
    ]);
    put_count(record, config.items_max.unwrap_or(0).into());
    put_count(record, config.item_expire.unwrap_or(0).into());
    put_count(record, config.payload_bytes_max.into());
    for text in [&config.title, &config.description, &config.payload_ns] {
        put_bytes(record, text.as_bytes());
    }
    put_count(record, config.groups.len() as u64);
    for group in &config.groups {
        put_bytes(record, group.as_bytes());
    }
}

fn decode_config(reader: &mut Reader<'_>) -> Result<NodeConfig, StoreError> {
    let [low, high] = reader.array()?;
    let [access, publish_model, send_last, when_full] = reader.array()?;
    if high > 1 {
        return Err(StoreError::Corrupt);
    }
    let on = |bit: u8| low & 1 << bit != 0;
    let (items_max, item_expire, payload_bytes_max) = (number(reader)?, number(reader)?, number(reader)?);
    let mut text = || reader.text().map(str::to_owned);
    let (title, description, payload_ns) = (text()?, text()?, text()?);
    let groups = reader.count()?;
    let groups = (0..groups).map(|_| reader.text().map(str::to_owned)).collect::<Result<_, _>>()?;
    Ok(NodeConfig {
        title,
        description,
        payload_ns,
        access: AccessModel::from_code(access).ok_or(StoreError::Corrupt)?,
        groups,
        publish_model: PublishModel::from_code(publish_model).ok_or(StoreError::Corrupt)?,
        persist: on(0),
        items_max: (items_max > 0).then_some(items_max),
        item_expire: (item_expire > 0).then_some(item_expire),
        payload_bytes_max,
        when_full: WhenFull::from_code(when_full).ok_or(StoreError::Corrupt)?,
        deliver_notifications: on(1),
        deliver_payloads: on(2),
        notify_config: on(3),
        notify_delete: on(4),
        notify_retract: on(5),
        subscribe: on(6),
        send_last: SendLast::from_code(send_last).ok_or(StoreError::Corrupt)?,
        headline: on(7),
        tell_publisher: high == 1,
    })
}

/// A subscription of an address to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subscription {
    /// It waits for an owner's approval.
    pub(super) pending: bool,
    pub(super) options: SubscriptionOptions,
    /// When it came into force, or was asked for: milliseconds since the Unix epoch.
    pub(super) since: u64,
}

impl Subscription {
    const FLAG_PENDING: u8 = 1;
    const FLAG_DELIVER: u8 = 1 << 1;

    /// The word for its state (XEP-0060 §4.2).
    pub(super) const fn state(&self) -> &'static str {
        if self.pending { "pending" } else { "subscribed" }
    }

    /// Whether its lease is over (XEP-0060 §12.18).
    pub(super) fn has_expired(&self, now: u64) -> bool {
        self.options.expires.is_some_and(|expires| expires <= now)
    }

    /// version · flags · presence states · since · end of the lease (0 for none).
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut record = vec![
            VERSION,
            flag(self.pending, Self::FLAG_PENDING) | flag(self.options.deliver, Self::FLAG_DELIVER),
            self.options.shows.bits(),
        ];
        put_count(&mut record, self.since);
        put_count(&mut record, self.options.expires.unwrap_or(0));
        record
    }

    pub(super) fn decode(record: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader::open(record, VERSION)?;
        let [flags, shows] = reader.array()?;
        let (since, expires) = (reader.count()?, reader.count()?);
        reader.close()?;
        if flags & !(Self::FLAG_PENDING | Self::FLAG_DELIVER) != 0 {
            return Err(StoreError::Corrupt);
        }
        let options = SubscriptionOptions {
            deliver: flags & Self::FLAG_DELIVER != 0,
            shows: Shows::from_bits(shows).ok_or(StoreError::Corrupt)?,
            expires: (expires > 0).then_some(expires),
        };
        Ok(Self { pending: flags & Self::FLAG_PENDING != 0, options, since })
    }
}

/// An item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Its place in the order of publication.
    pub(super) number: u64,
    /// When it was published, in milliseconds since the Unix epoch.
    pub(super) published: u64,
    /// Who published it: the bare JID if it has an affiliation that allows it to, else the full one (XEP-0060 §7.1.2.3).
    pub(super) publisher: Jid,
    /// The payload, an element that stands for itself; "" for none.
    pub(super) payload: String,
}

impl Item {
    /// version · place · time · publisher · payload.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(32 + self.publisher.as_str().len() + self.payload.len());
        record.push(VERSION);
        put_count(&mut record, self.number);
        put_count(&mut record, self.published);
        put_bytes(&mut record, self.publisher.as_str().as_bytes());
        put_bytes(&mut record, self.payload.as_bytes());
        record
    }

    pub(super) fn decode(record: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader::open(record, VERSION)?;
        let (number, published) = (reader.count()?, reader.count()?);
        let publisher = Jid::parse(reader.text()?).map_err(|_| StoreError::Corrupt)?;
        let payload = reader.text()?.to_owned();
        reader.close()?;
        Ok(Self { number, published, publisher, payload })
    }
}

/// What stands at a place in the order of publication: which item, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) published: u64,
    pub(super) item: String,
}

impl Place {
    /// version · time · item id.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut record = vec![VERSION];
        put_count(&mut record, self.published);
        put_bytes(&mut record, self.item.as_bytes());
        record
    }

    pub(super) fn decode(record: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader::open(record, VERSION)?;
        let (published, item) = (reader.count()?, reader.text()?.to_owned());
        reader.close()?;
        Ok(Self { published, item })
    }
}

/// The record of a count.
pub(super) fn encode_count(count: u32) -> Vec<u8> {
    let mut record = vec![VERSION];
    put_count(&mut record, count.into());
    record
}

/// The count in a record; none is 0.
pub(super) fn decode_count(record: Option<&[u8]>) -> Result<u32, StoreError> {
    let Some(record) = record else { return Ok(0) };
    let mut reader = Reader::open(record, VERSION)?;
    let count = number(&mut reader)?;
    reader.close()?;
    Ok(count)
}

fn number(reader: &mut Reader<'_>) -> Result<u32, StoreError> {
    u32::try_from(reader.count()?).map_err(|_| StoreError::Corrupt)
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] = &[
    |record| Affiliation::decode(record).map(Affiliation::encode),
    |record| NodeRecord::decode(record).map(|node| node.encode()),
    |record| Subscription::decode(record).map(|subscription| subscription.encode()),
    |record| Item::decode(record).map(|item| item.encode()),
    |record| Place::decode(record).map(|place| place.encode()),
    |record| decode_count(Some(record)).map(encode_count),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn jid() -> Jid {
        Jid::parse("hamlet@denmark.lit/elsinore").unwrap()
    }

    proptest! {
        #[test]
        fn a_node_reads_back(
            config in super::super::options::tests::any_config(), created: u64, revision: u64, counts: [u32; 6],
            oldest: u64, next: u64, last: String,
        ) {
            let [affiliations, owners, outcasts, subscribers, pending, items] = counts;
            let node = NodeRecord {
                affiliations, owners, outcasts, subscribers, pending, items, revision, oldest, next, last,
                ..NodeRecord::new(config, jid().bare(), created)
            };
            prop_assert_eq!(NodeRecord::decode(&node.encode()), Ok(node));
        }

        #[test]
        fn subscriptions_items_and_places_read_back(
            pending: bool, deliver: bool, shows in 0..32_u8, expires in prop::option::of(1..u64::MAX), since: u64,
            payload: String,
        ) {
            let options = SubscriptionOptions { deliver, shows: Shows::from_bits(shows).unwrap(), expires };
            let subscription = Subscription { pending, options, since };
            prop_assert_eq!(Subscription::decode(&subscription.encode()), Ok(subscription));
            let item = Item { number: since, published: since, publisher: jid(), payload: payload.clone() };
            prop_assert_eq!(Item::decode(&item.encode()), Ok(item));
            let place = Place { published: since, item: payload };
            prop_assert_eq!(Place::decode(&place.encode()), Ok(place));
        }
    }

    #[test]
    fn what_was_not_written_here_is_corrupt() {
        assert_eq!(Affiliation::decode(&[VERSION, 5]), Err(StoreError::Corrupt));
        assert_eq!(Affiliation::decode(&[VERSION, 0, 0]), Err(StoreError::Corrupt));
        assert_eq!(Affiliation::decode(&Affiliation::Outcast.encode()), Ok(Affiliation::Outcast));
        assert_eq!(Subscription::decode(&[VERSION, 4, 0, 0, 0]), Err(StoreError::Corrupt));
        assert_eq!(decode_count(Some(&encode_count(300))), Ok(300));
        assert_eq!(decode_count(None), Ok(0));
        assert_eq!(decode_count(Some(&[0])), Err(StoreError::Corrupt));
    }

    #[test]
    fn counts_follow_what_changes() {
        let limits = super::super::Limits::DEFAULT;
        let config = NodeConfig::default_at(&super::super::Host::Account(jid().bare()), &limits);
        let mut node = NodeRecord::new(config, jid().bare(), 0);
        node.count_affiliation(None, Some(Affiliation::Owner));
        node.count_affiliation(None, Some(Affiliation::Outcast));
        node.count_affiliation(Some(Affiliation::Outcast), Some(Affiliation::Member));
        assert_eq!((node.affiliations, node.owners, node.outcasts), (2, 1, 0));
        node.count_affiliation(Some(Affiliation::Member), None);
        assert_eq!((node.affiliations, node.owners, node.outcasts), (1, 1, 0));
        let waiting = Subscription { pending: true, options: SubscriptionOptions::DEFAULT, since: 0 };
        let in_force = Subscription { pending: false, ..waiting };
        node.count_subscription(None, Some(&waiting));
        assert_eq!((node.subscribers, node.pending), (0, 1));
        node.count_subscription(Some(&waiting), Some(&in_force));
        assert_eq!((node.subscribers, node.pending), (1, 0));
        node.count_subscription(Some(&in_force), None);
        assert_eq!((node.subscribers, node.pending), (0, 0));
    }
}
