//! Answering a device: read, decide, write. Called by the device's home shard for each question, so it takes microseconds.

use plaza_core::iot::Generation;
use plaza_core::jid::{Jid, JidRef};
use plaza_core::provisioning::{Kind, NodeRef, Part, Query, Tokens};
use plaza_core::stanza::Condition;
use plaza_core::thing::NodeName;
use plaza_core::xml::Scanner;

use super::decide::{Asked, Decision, Open, TOKENS_MAX, decide};
use super::home::{HomeThing, HomeThings};
use super::proofs::Proofs;
use super::verify::{Decided, Unproven};
use crate::store::{Store, StoreError};
use crate::things;

/// What a device is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// Payload of the result.
    pub payload: Vec<u8>,
    /// What follows from it.
    pub after: After,
}

/// What follows from an answer that somebody has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct After {
    /// What its owner is to be asked, for [`super::ask`].
    pub inquiry: Option<Box<Inquiry>>,
    /// What its things do not say yet of how it speaks, for [`note`].
    pub seen: Option<Box<Seen>>,
    /// Tokens that are to be challenged, for [`super::challenge`]. Where it says of a device's question, the owner is asked
    /// when that is done.
    pub unproven: Option<Box<Unproven>>,
}

impl After {
    /// Whether nothing does.
    pub const fn is_nothing(&self) -> bool {
        self.inquiry.is_none() && self.seen.is_none() && self.unproven.is_none()
    }
}

/// In which generation a device asked, and about which things that say otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Bare JID of the device.
    pub device: Jid,
    /// The generation.
    pub generation: Generation,
    /// The things.
    pub nodes: Vec<NodeName>,
}

/// Notes how a device speaks, so that it is told what concerns it in a way that it understands. Its home has to load its
/// things anew.
///
/// # Errors
/// [`StoreError`].
pub async fn note<S: Store>(store: &S, seen: &Seen) -> Result<(), StoreError> {
    for node in &seen.nodes {
        things::asked_for_decision(store, &seen.device, node, seen.generation).await?;
    }
    Ok(())
}

/// What an owner has not decided yet about a device, and somebody who wants something of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inquiry {
    /// Bare JID of the device.
    pub device: Jid,
    /// Address of the service, as which the owner is asked.
    pub component: Jid,
    /// What is wanted.
    pub kind: Kind,
    /// The generation in which the device asked.
    pub generation: Generation,
    /// Bare JID of who wants it.
    pub remote: Jid,
    /// The tokens that came with it, as far as they are looked at.
    pub tokens: Tokens<'static>,
    /// What is undecided, by node.
    pub parts: Vec<(NodeName, Part)>,
}

/// Answers the payload of an iq get, as written, that a device sent to the service at `component`. `things` are those of
/// the device's account; `proofs` say which tokens count, at a time in milliseconds since 1970.
///
/// # Errors
/// Those of [`Query::read`].
pub fn answer(
    things: Option<&HomeThings>,
    device: JidRef<'_>,
    component: &str,
    payload: &str,
    (proofs, now): (&Proofs, u64),
) -> Result<Answered, Condition> {
    let mut scanner = Scanner::new();
    let query = Query::read(&mut scanner, payload)?;
    let (tokens, due) = proofs.sift(device, component, &query.tokens, now);
    let asked = Asked {
        kind: query.kind,
        asker: query.asker(),
        tokens: &tokens,
        nodes: &query.nodes,
        categories: query.categories(),
        names: &query.names,
    };
    let Decision { permission, open, denied: _ } = decide(things, component, asked);
    let mut out = Vec::with_capacity(payload.len() + 64);
    query.write_answer(&mut out, permission.as_ref());
    let address = if open.is_empty() { None } else { Jid::parse(component).ok() };
    let inquiry = address.and_then(|component| inquire(device, &component, query.generation, asked, &open));
    let seen = things.and_then(|things| see(things, device, &query));
    // What is nobody's is decided, whatever is presented.
    let is_owned = |things: &HomeThings| things.iter().any(|thing| thing.owner.is_some());
    let address = if due.is_empty() || !things.is_some_and(is_owned) { None } else { Jid::parse(component).ok() };
    let unproven = address.map(|component| {
        let decided = Some(Decided { payload: payload.into(), told: out.clone() });
        let presenter = device.to_jid();
        Box::new(Unproven { presenter, component, generation: query.generation, tokens: due, query: decided })
    });
    Ok(Answered { payload: out, after: After { inquiry, seen, unproven } })
}

fn see(things: &HomeThings, device: JidRef<'_>, query: &Query<'_>) -> Option<Box<Seen>> {
    let nodes = if query.nodes.is_empty() { &[NodeRef::DEVICE] } else { &query.nodes[..] };
    let says_otherwise = |thing: &&HomeThing| thing.device != Some(query.generation);
    let mut news = nodes.iter().filter_map(|node| things.find(node)).filter(says_otherwise).peekable();
    news.peek()?;
    let nodes = news.map(HomeThing::node).collect();
    Some(Box::new(Seen { device: device.bare().to_jid(), generation: query.generation, nodes }))
}

/// What the owner is to be asked about what is open of what was asked, if anything is.
pub(super) fn inquire(
    device: JidRef<'_>,
    component: &Jid,
    generation: Generation,
    asked: Asked<'_>,
    open: &[Open<'_>],
) -> Option<Box<Inquiry>> {
    if open.is_empty() {
        return None;
    }
    let parts = open.iter().map(|open| {
        let node = asked.nodes.get(open.node).unwrap_or(&NodeRef::DEVICE);
        (node.to_name(), open.to_part())
    });
    let few = |tokens: &str| {
        let mut few: Vec<&str> = tokens.split_ascii_whitespace().take(TOKENS_MAX).collect();
        few.sort_unstable();
        few.dedup();
        few.join(" ").into()
    };
    let Tokens { service, device: devices, user } = asked.tokens;
    Some(Box::new(Inquiry {
        device: device.bare().to_jid(),
        component: component.clone(),
        kind: asked.kind,
        generation,
        remote: asked.asker.to_jid(),
        tokens: Tokens { service: few(service), device: few(devices), user: few(user) },
        parts: parts.collect(),
    }))
}
