//! What owners ask of the service, and how their answers become rules.

use plaza_core::iot::{Generation, Interface};
use plaza_core::jid::{Jid, JidRef};
use plaza_core::provisioning::{self, Kind, Origin, OwnerRequest, Part, RuleAnswer};
use plaza_core::stanza::{Condition, IqType};
use plaza_core::xml::read::Node;

use super::record::{self, Question};
use super::rule::{self, Level, Rule};
use super::{Config, manage};
use crate::owned::ATTEMPTS_MAX;
use crate::rosters;
use crate::store::{Batch, CommitError, Guard, Store, StoreError, Table, Write, key};
use crate::things::{self, ThingRecord};

/// A message without a body and without a type, to be kept for who is away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tell {
    /// Bare JID.
    pub to: Jid,
    /// Address of the service.
    pub from: Jid,
    /// Its payload.
    pub payload: String,
}

impl Tell {
    pub(super) fn new(to: &Jid, from: &Jid, payload: Vec<u8>) -> Self {
        Self { to: to.clone(), from: from.clone(), payload: String::from_utf8(payload).unwrap_or_default() }
    }
}

/// What comes of an owner's request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Payload of the result.
    pub payload: Vec<u8>,
    /// Bare JIDs of accounts whose things or rules changed.
    pub changed: Vec<Jid>,
    /// Messages to devices.
    pub tells: Vec<Tell>,
    /// Why it was not done to the end: the answer, beside what was.
    pub failed: Option<Condition>,
}

/// Why a request failed: what a peer did, or the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    Refused(Condition),
    Store(StoreError),
}

impl From<Condition> for Failure {
    fn from(condition: Condition) -> Self {
        Self::Refused(condition)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for Condition {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(condition) => condition,
            Failure::Store(StoreError::Busy) => Self::ResourceConstraint,
            Failure::Store(StoreError::Failed | StoreError::Corrupt) => Self::InternalServerError,
        }
    }
}

/// Answers an iq of an owner to the service at `component`. What it changes is durable before this resolves.
///
/// # Errors
/// `item-not-found` for what is not the caller's, or was never asked; `forbidden` for an answer about what was the
/// caller's once; `resource-constraint` beyond the bounds, and when the store is busy; those of [`OwnerRequest::read`].
pub async fn serve<S: Store>(
    config: &Config,
    store: &S,
    caller: JidRef<'_>,
    component: &Jid,
    (iq_type, payload): (IqType, &Node),
    unix_millis: u64,
) -> Result<Told, Condition> {
    let Some((Interface::Owner, generation)) = Interface::of(&payload.ns) else { return Err(Condition::BadRequest) };
    let request = OwnerRequest::read(iq_type, payload)?;
    let owner = caller.bare().to_jid();
    let serve = async {
        note_generation(store, &owner, generation).await?;
        match request {
            OwnerRequest::Rule(answer) => {
                Answering { config, store, owner: &owner, component }.take(&answer, unix_millis).await
            }
            OwnerRequest::GetDevices { offset, count_max } => {
                manage::get_devices(config, store, &owner, generation, (offset, count_max)).await
            }
            OwnerRequest::ClearCache(things) => manage::clear_cache(store, &owner, things).await,
            OwnerRequest::DeleteRules(things) => manage::delete_rules(store, &owner, things).await,
        }
    };
    serve.await.map_err(Condition::from)
}

/// Remembers in which generation an owner speaks, for what is asked unasked.
async fn note_generation<S: Store>(store: &S, owner: &Jid, generation: Generation) -> Result<(), StoreError> {
    let key = record::head_key(owner.as_jid());
    let known = store.get(Table::Questions, &key).await?.map(|head| record::decode_head(&head)).transpose()?;
    // What was never said is as good as the default.
    if known.unwrap_or(Generation::DEFAULT) == generation {
        return Ok(());
    }
    let writes = vec![Write::Put { table: Table::Questions, key, value: record::encode_head(generation) }];
    match store.commit(Batch { guards: Vec::new(), writes }).await {
        Ok(()) | Err(CommitError::Guard(_)) => Ok(()),
        Err(CommitError::Store(error)) => Err(error),
    }
}

/// An owner's answer to a question.
struct Answering<'a, S> {
    config: &'a Config,
    store: &'a S,
    owner: &'a Jid,
    component: &'a Jid,
}

impl<S: Store> Answering<'_, S> {
    async fn take(&self, answer: &RuleAnswer, now: u64) -> Result<Told, Failure> {
        for _ in 0..ATTEMPTS_MAX {
            let key = record::question_key(self.owner.as_jid(), answer.device.as_jid(), &answer.key);
            let Some(value) = self.store.get(Table::Questions, &key).await? else {
                return Err(self.unknown(answer).await?.into());
            };
            let question = Question::decode(&value)?;
            let names_it = question.kind == answer.kind && question.remote == answer.remote;
            if !names_it || answer.node.as_ref().is_some_and(|node| *node != question.node) {
                return Err(Condition::ItemNotFound.into());
            }
            let thing = things::load(self.store, &answer.device, &question.node).await?;
            let Some(thing) = thing.filter(|thing| thing.owner() == Some(self.owner)) else {
                return Err(Condition::Forbidden.into());
            };
            let mut writes = self.rule(answer, &question, now).await?;
            writes.push(Write::Delete { table: Table::Questions, key: key.clone() });
            writes.push(to_clear(&thing).put());
            // Behind the commit nothing may fail: the device's home has to hear of it.
            let tells = self.recommend(answer, &question).await?;
            let guards = vec![thing.guard(), Guard::Equals { table: Table::Questions, key, value }];
            match self.store.commit(Batch { guards, writes }).await {
                Ok(()) => return Ok(Told { changed: vec![answer.device.clone()], tells, ..Told::default() }),
                Err(CommitError::Guard(_)) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
        Err(StoreError::Busy.into())
    }

    /// What an answer to no question is told: whether there ever was one is for nobody to know but who owned the thing.
    async fn unknown(&self, answer: &RuleAnswer) -> Result<Condition, StoreError> {
        let prefix = record::formers_key(self.owner.as_jid(), answer.device.as_jid());
        let former = self.store.scan(Table::Questions, &prefix, None, 1).await?;
        Ok(if former.is_empty() { Condition::ItemNotFound } else { Condition::Forbidden })
    }

    /// The writes that make the answer a rule.
    async fn rule(&self, answer: &RuleAnswer, question: &Question, now: u64) -> Result<Vec<Write>, Failure> {
        let (device, node) = (answer.device.as_jid(), &question.node);
        let prefix = key::things(device);
        let pairs = self.store.scan(Table::Rules, &things::rules_prefix(device, node), None, usize::MAX).await?;
        let mut rules = Vec::with_capacity(pairs.len());
        for pair in &pairs {
            rules.push(rule::read_pair(&prefix, pair)?.1);
        }
        let last = rules.iter().map(|rule| rule.number).max().unwrap_or(0);
        let number = now.max(last.saturating_add(1));
        let fresh = rules_of(answer, question, number);
        let is_replaced = |old: &Rule| fresh.iter().any(|newer| old.is_replaced_by(newer));
        let kept = || rules.iter().filter(|old| !is_replaced(old));
        let of_origin = |old: &&Rule| {
            fresh.first().is_some_and(|rule| (rule.kind, rule.level, &rule.text) == (old.kind, old.level, &old.text))
        };
        let limits = &self.config.limits;
        if kept().count() + fresh.len() > limits.rules_max as usize
            || kept().filter(of_origin).count() + fresh.len() > limits.origin_rules_max as usize
        {
            return Err(Condition::ResourceConstraint.into());
        }
        let deletes = rules.iter().filter(|old| is_replaced(old)).map(|old| old.delete(device, node));
        Ok(deletes.chain(fresh.iter().map(|rule| rule.put(device, node))).collect())
    }

    /// What the device is recommended: to ask a friend for presence whose request it has declined already, and to end what
    /// is between it and who is none any more.
    async fn recommend(&self, answer: &RuleAnswer, question: &Question) -> Result<Vec<Tell>, StoreError> {
        if answer.kind != Kind::Friend || (answer.allow && answer.origin != Origin::Jid) {
            return Ok(Vec::new());
        }
        if !answer.allow {
            let item = rosters::get(self.store, answer.device.as_jid(), answer.remote.as_jid()).await?;
            if !item.is_some_and(|item| item.subscription.from() || item.subscription.to()) {
                return Ok(Vec::new());
            }
        }
        let mut payload = Vec::new();
        provisioning::write_recommendation(&mut payload, question.generation, answer.allow, answer.remote.as_str());
        Ok(vec![Tell::new(&answer.device, self.component, payload)])
    }
}

/// The thing with the note that its device has to forget what it was told.
pub(crate) fn to_clear(thing: &ThingRecord) -> ThingRecord {
    let mut next = thing.clone();
    next.version = thing.version.wrapping_add(1);
    next.pending.clear_cache = true;
    // What the device acknowledges of before is not this.
    next.pending.since = next.version;
    next
}

/// The rules that an answer makes, the more important one last. An owner who allows a part of what was asked has refused the
/// rest of it, and need not be asked again.
fn rules_of(answer: &RuleAnswer, question: &Question, number: u64) -> Vec<Rule> {
    let (level, text) = match &answer.origin {
        Origin::All => (Level::All, ""),
        Origin::Domain => (Level::Domain, answer.remote.as_jid().domain()),
        Origin::Jid => (Level::Jid, answer.remote.as_str()),
        Origin::Service(token) => (Level::Service, &**token),
        Origin::Device(token) => (Level::Device, &**token),
        Origin::User(token) => (Level::User, &**token),
    };
    let rule = |number, allow, part: &Part| Rule {
        number,
        text: text.into(),
        names: part.names.as_deref().map(Box::from),
        kind: answer.kind,
        level,
        allow,
        categories: part.categories,
    };
    let Some(partial) = &answer.partial else {
        return vec![rule(number, answer.allow, &Part::everything(answer.kind))];
    };
    let says = rule(number.saturating_add(1), answer.allow, partial);
    if !answer.allow || says.covers(&question.shown) {
        return vec![says];
    }
    let mut shown = question.shown.clone();
    if let Some(names) = &mut shown.names {
        names.sort_unstable();
    }
    vec![rule(number, false, &shown), says]
}
