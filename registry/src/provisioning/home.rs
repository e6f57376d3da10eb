//! The things of an account with their rules, as its home shard holds them with the account's facts.

use std::cmp::Ordering;
use std::future::Future;

use plaza_core::iot::Generation;
use plaza_core::jid::{Jid, JidRef};
use plaza_core::provisioning::{Kind, NodeRef};
use plaza_core::thing::NodeName;

use super::rule::{self, Level, Rule};
use crate::store::{Pair, Run, Store, StoreError, Table, key};
use crate::things::{self, Pending, ThingRecord};

/// Things of an account that are held, in the order of their keys. Default 100 000: a large concentrator, in some 10 MB.
/// Those beyond it are answered as those that are unknown: nobody may do anything with them.
pub const THINGS_HELD_MAX: usize = 100_000;
/// Pairs and bytes of one read.
const PAGE_PAIRS: usize = 1_000;
const PAGE_BYTES: usize = 1 << 20;

/// The things of an account, as far as decisions and notices need them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HomeThings {
    /// In the order of their keys.
    things: Box<[HomeThing]>,
    /// One of them is enforced.
    enforced: bool,
    /// Its device may have asked something before an outage, and was not told of it.
    missed: bool,
}

/// A thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeThing {
    /// Source, partition and id of its node with NULs between them, as in its key.
    key: Box<str>,
    /// Bare JID of its owner, if it has one.
    pub owner: Option<Jid>,
    /// The broker applies the rules itself to what others send the thing.
    pub enforced: bool,
    /// What it has to be told.
    pub pending: Pending,
    /// In which generation it asked for a decision last, if it did.
    pub device: Option<Generation>,
    /// By kind, level and text, the newest first.
    rules: Box<[Rule]>,
}

impl HomeThings {
    /// The things and rules as they are in the store; `None` for an account without things.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load<S: Store>(store: &S, bare: JidRef<'_>) -> Result<Option<Box<Self>>, StoreError> {
        let first = read(store, Table::Things, bare, None);
        Self::load_with(store, bare, first.await?).await
    }

    /// The same, when the first page of things is there already.
    pub(crate) async fn load_with<S: Store>(
        store: &S,
        bare: JidRef<'_>,
        mut page: Vec<Pair>,
    ) -> Result<Option<Box<Self>>, StoreError> {
        if page.is_empty() {
            return Ok(None);
        }
        let jid = bare.to_jid();
        let mut records: Vec<ThingRecord> = Vec::new();
        loop {
            for (key, record) in &page {
                records.push(things::read_thing(&jid, key, record)?);
            }
            if is_last(&page) || records.len() >= THINGS_HELD_MAX {
                break;
            }
            let after = page.pop().map(|(key, _)| key);
            page = read(store, Table::Things, bare, after).await?;
        }
        records.truncate(THINGS_HELD_MAX);
        let missed = things::missed(store, bare, &records).await?;
        let mut rules = Vec::new();
        if records.iter().any(|record| record.owner().is_some()) {
            let prefix = key::things(bare);
            let mut page = read(store, Table::Rules, bare, None).await?;
            loop {
                for pair in &page {
                    let (node, rule) = rule::read_pair(&prefix, pair)?;
                    rules.push((Box::from(node), rule));
                }
                if is_last(&page) {
                    break;
                }
                let after = page.pop().map(|(key, _)| key);
                page = read(store, Table::Rules, bare, after).await?;
            }
        }
        Ok(Some(Box::new(Self { missed, ..Self::new(records, rules) })))
    }

    /// Of records and of rules, each with the key of its node. A rule of what is no thing, or nobody's, is left out.
    pub(super) fn new(records: Vec<ThingRecord>, rules: Vec<(Box<str>, Rule)>) -> Self {
        let mut last: Option<Jid> = None;
        let mut things: Vec<(HomeThing, Vec<Rule>)> = Vec::with_capacity(records.len());
        for record in records {
            // Things behind one address mostly have one owner, whose address they share.
            let owner = record.owner().map(|owner| match &last {
                Some(known) if known == owner => known.clone(),
                Some(_) | None => owner.clone(),
            });
            last = owner.clone().or(last);
            let key = node_key(&record.node).into_boxed_str();
            let ThingRecord { enforced, pending, device, .. } = record;
            things.push((HomeThing { key, owner, enforced, pending, device, rules: Box::default() }, Vec::new()));
        }
        things.sort_unstable_by(|(a, _), (b, _)| a.key.cmp(&b.key));
        for (node, rule) in rules {
            let Ok(at) = things.binary_search_by(|(thing, _)| thing.key.cmp(&node)) else { continue };
            if let Some((_, rules)) = things.get_mut(at).filter(|(thing, _)| thing.owner.is_some()) {
                rules.push(rule);
            }
        }
        let finish = |(mut thing, mut rules): (HomeThing, Vec<Rule>)| {
            rules.sort_unstable_by(|a, b| place(a).cmp(&place(b)).then(b.number.cmp(&a.number)));
            thing.rules = rules.into();
            thing
        };
        let things: Box<[HomeThing]> = things.into_iter().map(finish).collect();
        let enforced = things.iter().any(|thing| thing.enforced);
        Self { things, enforced, missed: false }
    }

    /// Whether its device has to be told something.
    pub fn has_untold(&self) -> bool {
        self.missed || self.things.iter().any(|thing| thing.pending.any())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &HomeThing> {
        self.things.iter()
    }

    /// Whether the broker applies the rules of some of them itself.
    pub const fn is_enforced(&self) -> bool {
        self.enforced
    }

    /// The thing of a node.
    pub fn find(&self, node: &NodeRef<'_>) -> Option<&HomeThing> {
        let at = self.things.binary_search_by(|thing| thing.compare(node)).ok()?;
        self.things.get(at)
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let things = self.things.iter().map(|thing| {
            let rules = thing.rules.iter().map(|rule| size_of::<Rule>() + rule.heap_bytes());
            size_of::<HomeThing>() + thing.key.len() + rules.sum::<usize>()
        });
        // Owners' addresses are shared; one for each is more than there are.
        let owners = self.things.iter().filter_map(|thing| thing.owner.as_ref()).map(|owner| owner.as_str().len());
        things.sum::<usize>() + owners.sum::<usize>()
    }
}

impl HomeThing {
    /// The name of its node.
    pub fn node(&self) -> NodeName {
        let mut parts = self.key.splitn(3, '\0').map(Box::from);
        let mut next = || parts.next().unwrap_or_default();
        let (source, partition, id) = (next(), next(), next());
        NodeName { id, source, partition }
    }

    /// Whether it has rules.
    pub const fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Its rules.
    pub const fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rules about a kind that are of an origin, the newest first.
    pub(super) fn rules_of(&self, kind: Kind, level: Level, text: &str) -> &[Rule] {
        let wanted = (kind, level, text);
        let start = self.rules.partition_point(|rule| place(rule) < wanted);
        let rules = self.rules.get(start..).unwrap_or_default();
        let end = rules.iter().position(|rule| place(rule) != wanted).unwrap_or(rules.len());
        rules.get(..end).unwrap_or_default()
    }

    fn compare(&self, node: &NodeRef<'_>) -> Ordering {
        let parts = [node.source.as_bytes(), b"\0", node.partition.as_bytes(), b"\0", node.id.as_bytes()];
        let mut rest = self.key.as_bytes();
        for part in parts {
            let (head, tail) = rest.split_at(part.len().min(rest.len()));
            match head.cmp(part) {
                Ordering::Equal => rest = tail,
                unequal @ (Ordering::Less | Ordering::Greater) => return unequal,
            }
        }
        if rest.is_empty() { Ordering::Equal } else { Ordering::Greater }
    }
}

fn place(rule: &Rule) -> (Kind, Level, &str) {
    (rule.kind, rule.level, &rule.text)
}

/// A node's part of the keys of its thing and its rules.
pub(super) fn node_key(node: &NodeName) -> String {
    format!("{}\0{}\0{}", node.source, node.partition, node.id)
}

/// Whether a page ended for want of more.
fn is_last(page: &[Pair]) -> bool {
    page.len() < PAGE_PAIRS && page.iter().map(|(_, value)| value.len()).sum::<usize>() < PAGE_BYTES
}

/// Reads a page of an account's things or rules, queued at once.
pub(crate) fn read<S: Store>(
    store: &S,
    table: Table,
    bare: JidRef<'_>,
    after: Option<Vec<u8>>,
) -> impl Future<Output = Result<Vec<Pair>, StoreError>> + Send + 'static + use<S> {
    let prefix = key::things(bare);
    let (limit, bytes_max) = (PAGE_PAIRS, PAGE_BYTES);
    store.run(Run { table, prefix, after, before: None, backwards: false, limit, bytes_max })
}
