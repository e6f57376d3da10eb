//! Questions as they are kept, with the owner who has not answered them; and what else is kept of an owner.

use std::borrow::Cow;

use plaza_core::iot::Generation;
use plaza_core::jid::{Jid, JidRef};
use plaza_core::provisioning::{Categories, Kind, NAMES_MAX, Part, Tokens};
use plaza_core::thing::NodeName;
use sha2::{Digest, Sha256};

use super::answer::Inquiry;
use super::home::node_key;
#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::record::{Reader, put_bytes, put_count};
use crate::store::{StoreError, key};

const VERSION: u8 = 1;
/// Below an owner's prefix: the head, the questions, and the things that were the owner's once.
pub(super) const HEAD: u8 = b'h';
pub(super) const QUESTION: u8 = b'q';
pub(super) const FORMER: u8 = b'f';
const SEPARATOR: u8 = 0;

/// A question that its owner has not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) kind: Kind,
    /// The device's generation, to tell it what comes of the answer.
    pub(super) generation: Generation,
    pub(super) node: NodeName,
    pub(super) remote: Jid,
    pub(super) tokens: Tokens<'static>,
    /// What the owner was shown.
    pub(super) shown: Part,
    /// What was asked for since, too.
    pub(super) wanted: Part,
    /// When the owner was asked first, in milliseconds since 1970.
    pub(super) first: u64,
    /// When last.
    pub(super) last: u64,
}

impl Question {
    pub(super) fn new(inquiry: &Inquiry, node: &NodeName, part: &Part, now: u64) -> Self {
        Self {
            kind: inquiry.kind,
            generation: inquiry.generation,
            node: node.clone(),
            remote: inquiry.remote.clone(),
            tokens: inquiry.tokens.clone(),
            shown: part.clone(),
            wanted: part.clone(),
            first: now,
            last: now,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.kind as u8, self.generation as u8];
        let NodeName { id, source, partition } = &self.node;
        let Tokens { service, device, user } = &self.tokens;
        for text in [id, source, partition, self.remote.as_str(), service, device, user] {
            put_bytes(&mut out, text.as_bytes());
        }
        for part in [&self.shown, &self.wanted] {
            out.push(part.categories.bits());
            put_count(&mut out, part.names.as_ref().map_or(0, |names| names.len() as u64 + 1));
            part.names.iter().flatten().for_each(|name| put_bytes(&mut out, name.as_bytes()));
        }
        put_count(&mut out, self.first);
        put_count(&mut out, self.last);
        out
    }

    pub(super) fn decode(record: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader::open(record, VERSION)?;
        let kind = Kind::from_number(reader.u8()?).ok_or(StoreError::Corrupt)?;
        let generation = Generation::from_number(reader.u8()?).ok_or(StoreError::Corrupt)?;
        let node =
            NodeName { id: reader.text()?.into(), source: reader.text()?.into(), partition: reader.text()?.into() };
        let remote = Jid::parse(reader.text()?).map_err(|_| StoreError::Corrupt)?;
        let mut token = || reader.text().map(|text| Cow::Owned(text.to_owned()));
        let tokens = Tokens { service: token()?, device: token()?, user: token()? };
        let mut part = || {
            let categories = Categories::from_bits(reader.u8()?).ok_or(StoreError::Corrupt)?;
            let Some(count) = reader.count()?.checked_sub(1) else { return Ok(Part { categories, names: None }) };
            let mut names = Vec::new();
            for _ in 0..count {
                names.push(reader.text()?.into());
            }
            Ok(Part { categories, names: Some(names) })
        };
        let (shown, wanted) = (part()?, part()?);
        let (first, last) = (reader.count()?, reader.count()?);
        reader.close()?;
        Ok(Self { kind, generation, node, remote, tokens, shown, wanted, first, last })
    }
}

/// What is in either part.
pub(super) fn union(a: &Part, b: &Part) -> Part {
    let names = match (&a.names, &b.names) {
        (Some(a), Some(b)) => {
            let mut names: Vec<Box<str>> = a.iter().chain(b).cloned().collect();
            names.sort_unstable();
            names.dedup();
            // More than can be named is all.
            (names.len() <= NAMES_MAX).then_some(names)
        }
        _ => None,
    };
    Part { categories: a.categories.or(b.categories), names }
}

/// The key by which the owner's answer names a question: nobody can guess it who does not know the secret, and there is one
/// for each owner, device, node, kind, asker and set of tokens.
pub(super) fn question_id(secret: &[u8; 32], owner: JidRef<'_>, inquiry: &Inquiry, node: &NodeName) -> String {
    let mut message = Vec::new();
    let Tokens { service, device, user } = &inquiry.tokens;
    let (device_jid, remote) = (inquiry.device.as_str(), inquiry.remote.as_str());
    for text in [owner.as_str(), device_jid, &node_key(node), remote, service, device, user] {
        put_bytes(&mut message, text.as_bytes());
    }
    message.push(inquiry.kind as u8);
    let mut hash = Sha256::new();
    hash.update(b"question");
    hash.update(secret);
    hash.update(&message);
    // Half of a hash says nothing of the other half, so nothing can be appended to it either.
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Key of an owner's head: a version byte and the generation that was last seen of the owner.
pub(super) fn head_key(owner: JidRef<'_>) -> Vec<u8> {
    [&*key::owned_things(owner), &[HEAD]].concat()
}

pub(super) fn encode_head(generation: Generation) -> Vec<u8> {
    vec![VERSION, generation as u8]
}

pub(super) fn decode_head(record: &[u8]) -> Result<Generation, StoreError> {
    let mut reader = Reader::open(record, VERSION)?;
    let generation = Generation::from_number(reader.u8()?).ok_or(StoreError::Corrupt)?;
    reader.close().map(|()| generation)
}

/// What the keys of an owner's questions about a device begin with.
pub(super) fn questions_key(owner: JidRef<'_>, device: JidRef<'_>) -> Vec<u8> {
    [&*key::owned_things(owner), &[QUESTION], device.bare().as_str().as_bytes(), &[SEPARATOR]].concat()
}

pub(super) fn question_key(owner: JidRef<'_>, device: JidRef<'_>, id: &str) -> Vec<u8> {
    [&*questions_key(owner, device), id.as_bytes()].concat()
}

/// What the keys begin with that say that things of a device were once somebody's.
pub(super) fn formers_key(owner: JidRef<'_>, device: JidRef<'_>) -> Vec<u8> {
    [&*key::owned_things(owner), &[FORMER], device.bare().as_str().as_bytes(), &[SEPARATOR]].concat()
}

pub(super) fn former_key(owner: JidRef<'_>, device: JidRef<'_>, node: &NodeName) -> Vec<u8> {
    [&*formers_key(owner, device), node_key(node).as_bytes()].concat()
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] = &[
    |record| Question::decode(record).map(|question| question.encode()),
    |record| decode_head(record).map(encode_head),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::jid;

    fn question(names: Option<Vec<Box<str>>>) -> Question {
        let part = Part { categories: Categories::ALL, names };
        Question {
            kind: Kind::Read,
            generation: Generation::Ieee,
            node: NodeName { id: "1".into(), ..NodeName::default() },
            remote: jid("b@x.example"),
            tokens: Tokens { user: "u1 u2".into(), ..Tokens::default() },
            wanted: Part { names: None, ..part.clone() },
            shown: part,
            first: 7,
            last: 1_767_323_045_000,
        }
    }

    #[test]
    fn a_question_reads_back_and_a_part_of_it_does_not() {
        for names in [None, Some(vec![]), Some(vec!["A".into(), "T".into()])] {
            let question = question(names);
            let record = question.encode();
            assert_eq!(Question::decode(&record), Ok(question));
            for len in 0..record.len() {
                assert!(Question::decode(&record[..len]).is_err(), "{len}");
            }
        }
        assert_eq!(decode_head(&encode_head(Generation::Nfi)), Ok(Generation::Nfi));
        assert!(decode_head(&[VERSION, 9]).is_err());
    }

    #[test]
    fn the_key_of_a_question_differs_with_all_that_makes_it_another_one() {
        let inquiry = Inquiry {
            device: jid("lamp@things.example"),
            component: jid("things.things.example"),
            kind: Kind::Read,
            generation: Generation::Nf,
            remote: jid("b@x.example"),
            tokens: Tokens::default(),
            parts: Vec::new(),
        };
        let (owner, node) = (jid("owner@things.example"), NodeName::default());
        let id = |secret: u8, owner: &Jid, inquiry: &Inquiry, node: &NodeName| {
            question_id(&[secret; 32], owner.as_jid(), inquiry, node)
        };
        let other = |change: &dyn Fn(&mut Inquiry)| {
            let mut inquiry = inquiry.clone();
            change(&mut inquiry);
            id(1, &owner, &inquiry, &node)
        };
        let ids = [
            id(1, &owner, &inquiry, &node),
            id(2, &owner, &inquiry, &node),
            id(1, &jid("other@things.example"), &inquiry, &node),
            id(1, &owner, &inquiry, &NodeName { id: "1".into(), ..NodeName::default() }),
            other(&|inquiry| inquiry.kind = Kind::Control),
            other(&|inquiry| inquiry.remote = jid("c@x.example")),
            other(&|inquiry| inquiry.device = jid("rack@things.example")),
            other(&|inquiry| inquiry.tokens.user = "t".into()),
            other(&|inquiry| inquiry.tokens.device = "t".into()),
        ];
        assert!(ids.iter().all(|id| id.len() == 32));
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len());
        // The generation and what is wanted do not make it another one.
        assert_eq!(other(&|inquiry| inquiry.generation = Generation::Xsf), ids[0]);
    }
}
