//! Asking owners. A question is asked once and reminded of daily, however often the stranger comes.

use std::time::Duration;

use plaza_core::iot::Generation;
use plaza_core::jid::Jid;
use plaza_core::provisioning::{self, Part};
use plaza_core::thing::NodeName;

use super::answer::Inquiry;
use super::record::{self, Question};
use super::{Config, Limits, Tell};
use crate::owned::ATTEMPTS_MAX;
use crate::store::{Batch, CommitError, Guard, Store, StoreError, Table, Write};
use crate::things;

/// An owner is reminded of a question if it comes up again after that long. Default a day.
const REMIND_AFTER: Duration = Duration::from_hours(24);
/// A question that has not come up for so long is forgotten when there is another one. Default 30 days, as long as messages
/// are kept.
const FORGET_AFTER: Duration = Duration::from_hours(30 * 24);
const HOUR: Duration = Duration::from_hours(1);

/// Asks owners what they have not decided; gives the messages to them. Nothing is asked about what is nobody's, beyond the
/// bounds, or again within a day: then what is asked for is added to the question that is open.
///
/// # Errors
/// [`StoreError`].
pub async fn ask<S: Store>(
    config: &Config,
    store: &S,
    inquiry: &Inquiry,
    unix_millis: u64,
) -> Result<Vec<Tell>, StoreError> {
    // Questions about a device are counted, so they come one after the other.
    let turn = [b"questions ", inquiry.device.as_str().as_bytes()].concat();
    let _turn = config.turns.take(&turn).await;
    let mut asking = Asking { config, store, inquiry, now: unix_millis, asked: None, tells: Vec::new() };
    for (node, part) in &inquiry.parts {
        asking.ask(node, part).await?;
    }
    Ok(asking.tells)
}

struct Asking<'a, S> {
    config: &'a Config,
    store: &'a S,
    inquiry: &'a Inquiry,
    now: u64,
    asked: Option<Asked>,
    tells: Vec<Tell>,
}

/// What an owner has been asked about the device.
struct Asked {
    owner: Jid,
    generation: Generation,
    questions: Vec<(Vec<u8>, Question)>,
}

impl<S: Store> Asking<'_, S> {
    async fn ask(&mut self, node: &NodeName, part: &Part) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(thing) = things::load(self.store, &self.inquiry.device, node).await? else { return Ok(()) };
            let Some(owner) = thing.owner() else { return Ok(()) };
            let mut asked = match self.asked.take() {
                Some(asked) if asked.owner == *owner => asked,
                Some(_) | None => self.load(owner).await?,
            };
            let id = record::question_id(&self.config.secret, owner.as_jid(), self.inquiry, node);
            let key = record::question_key(owner.as_jid(), self.inquiry.device.as_jid(), &id);
            let known = asked.questions.iter().position(|(known, _)| *known == key);
            let before = known.and_then(|at| asked.questions.get(at)).map(|(_, question)| question.clone());
            let Some((question, tells)) = self.next(before.as_ref(), &asked, node, part) else {
                self.asked = Some(asked);
                return Ok(());
            };
            let mut writes = self.forget(&mut asked.questions, &key);
            let value = question.encode();
            writes.push(Write::Put { table: Table::Questions, key: key.clone(), value });
            let still = match &before {
                Some(before) => Guard::Equals { table: Table::Questions, key: key.clone(), value: before.encode() },
                None => Guard::Absent { table: Table::Questions, key: key.clone() },
            };
            // Nobody is asked about what has become another's meanwhile.
            match self.store.commit(Batch { guards: vec![thing.guard(), still], writes }).await {
                Ok(()) => {}
                Err(CommitError::Guard(_)) => continue,
                Err(CommitError::Store(error)) => return Err(error),
            }
            if tells {
                self.tells.push(self.tell(&asked, &id, &question));
            }
            match asked.questions.iter_mut().find(|(known, _)| *known == key) {
                Some((_, before)) => *before = question,
                None => asked.questions.push((key, question)),
            }
            self.asked = Some(asked);
            return Ok(());
        }
        Err(StoreError::Busy)
    }

    /// What the question becomes and whether the owner is told; `None` if nothing changes.
    fn next(&self, before: Option<&Question>, asked: &Asked, node: &NodeName, part: &Part) -> Option<(Question, bool)> {
        let Some(before) = before else {
            let is_admitted = admits(&self.config.limits, asked, node, &self.inquiry.remote, self.now);
            return is_admitted.then(|| (Question::new(self.inquiry, node, part, self.now), true));
        };
        let wanted = record::union(&before.wanted, part);
        let reminds = is_past(before.last, REMIND_AFTER, self.now);
        let mut next = Question { wanted, generation: self.inquiry.generation, ..before.clone() };
        if reminds {
            (next.shown, next.last) = (next.wanted.clone(), self.now);
        }
        (next != *before).then_some((next, reminds))
    }

    /// What deletes the questions that have not come up for long.
    fn forget(&self, questions: &mut Vec<(Vec<u8>, Question)>, but: &[u8]) -> Vec<Write> {
        let is_old =
            |(key, question): &(Vec<u8>, Question)| *key != but && is_past(question.last, FORGET_AFTER, self.now);
        let old = questions.extract_if(.., |question| is_old(question));
        old.map(|(key, _)| Write::Delete { table: Table::Questions, key }).collect()
    }

    fn tell(&self, asked: &Asked, id: &str, question: &Question) -> Tell {
        let mut payload = Vec::new();
        let question = provisioning::Question {
            kind: question.kind,
            device: &self.inquiry.device,
            node: &question.node,
            remote: &question.remote,
            key: id,
            tokens: &question.tokens,
            part: &question.shown,
        };
        question.write(&mut payload, asked.generation);
        Tell::new(&asked.owner, &self.inquiry.component, payload)
    }

    async fn load(&self, owner: &Jid) -> Result<Asked, StoreError> {
        let head = self.store.get(Table::Questions, &record::head_key(owner.as_jid()));
        let questions = load(self.store, owner, &self.inquiry.device).await?;
        let generation = head.await?.map_or(Ok(Generation::DEFAULT), |head| record::decode_head(&head))?;
        Ok(Asked { owner: owner.clone(), generation, questions })
    }
}

/// The open questions to an owner about a device; they are bounded.
pub(super) async fn load<S: Store>(
    store: &S,
    owner: &Jid,
    device: &Jid,
) -> Result<Vec<(Vec<u8>, Question)>, StoreError> {
    let prefix = record::questions_key(owner.as_jid(), device.as_jid());
    let pairs = store.scan(Table::Questions, &prefix, None, usize::MAX).await?;
    pairs.into_iter().map(|(key, record)| Ok((key, Question::decode(&record)?))).collect()
}

/// Whether there is room for one more question about a node and somebody.
fn admits(limits: &Limits, asked: &Asked, node: &NodeName, remote: &Jid, now: u64) -> bool {
    let open = || asked.questions.iter().map(|(_, question)| question);
    let fresh = || open().filter(|question| !is_past(question.last, FORGET_AFTER, now));
    let in_hour = fresh().filter(|question| question.node == *node && !is_past(question.first, HOUR, now)).count();
    let of_domain = fresh().filter(|question| question.remote.as_jid().domain() == remote.as_jid().domain()).count();
    in_hour < limits.questions_per_hour_max as usize
        && fresh().count() < limits.questions_max as usize
        && of_domain < limits.domain_questions_max as usize
}

fn is_past(since: u64, time: Duration, now: u64) -> bool {
    u128::from(now.saturating_sub(since)) >= time.as_millis()
}
