//! Verifying tokens: whoever presents one is challenged to show that it comes from the holder of the private key (XEP-0324
//! v0.5.1 §3.2, `tokenChallenge`).
//!
//! No decision waits for that. It is made with the tokens that are proven already, and made again when all challenges that it
//! gave rise to are over: if another one comes of it, the device has to forget the first. Only then is an owner asked, and
//! shown what tokens are proven.

use std::sync::Arc;

use aws_lc_rs::constant_time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plaza_core::iot::{Generation, Interface};
use plaza_core::jid::{Jid, JidRef};
use plaza_core::ns;
use plaza_core::provisioning::{self, NodeRef, Query, Request};
use plaza_core::stanza::Condition;
use plaza_core::thing::NodeName;
use plaza_core::xml::Scanner;
use plaza_core::xml::read::Node;

use super::proofs::Outcome;
use super::serve::{Failure, to_clear};
use super::tokens::{self, Sealed};
use super::{Config, HomeThings, Proofs, Tell, answer};
use crate::owned::ATTEMPTS_MAX;
use crate::store::{Batch, CommitError, Store, StoreError};
use crate::things;

/// Tokens that somebody presented, and that are to be challenged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unproven {
    /// Full JID of who presented them.
    pub(super) presenter: Jid,
    /// Address of the service.
    pub(super) component: Jid,
    /// The generation in which they were presented.
    pub(super) generation: Generation,
    pub(super) tokens: Vec<Box<str>>,
    /// A device's question in which they were, to be decided again.
    pub(super) query: Option<Decided>,
}

/// A question of a device, and what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decided {
    pub(super) payload: Box<str>,
    pub(super) told: Vec<u8>,
}

impl Unproven {
    /// Whether the question they came with is decided again, and its owner asked then.
    pub const fn is_decided_again(&self) -> bool {
        self.query.is_some()
    }

    /// The tokens in a request to a device that is enforced, if they are to be challenged: `presenter` sent it.
    pub fn in_request(
        proofs: &Proofs,
        component: Option<&Jid>,
        presenter: JidRef<'_>,
        request: &Request<'_>,
        now: u64,
    ) -> Option<Box<Self>> {
        let component = component?;
        let (_, tokens) = proofs.sift(presenter, component.as_str(), &request.tokens, now);
        let (presenter, component) = (presenter.to_jid(), component.clone());
        let generation = request.generation;
        (!tokens.is_empty()).then(|| Box::new(Self { presenter, component, generation, tokens, query: None }))
    }
}

/// A challenge of a token, on its way to who presented it.
#[derive(Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Payload of the get, escaped XML.
    pub payload: String,
    token: Box<str>,
    /// What it holds.
    secret: [u8; 32],
    /// When the certificate ends, in milliseconds since 1970.
    ends: u64,
    /// What all challenges of one request have in common.
    whole: Arc<Unproven>,
}

impl Challenge {
    /// Whom to ask: the full JID.
    pub fn to(&self) -> &Jid {
        &self.whole.presenter
    }

    /// Who asks: the service that has issued the token.
    pub fn from(&self) -> &Jid {
        &self.whole.component
    }
}

/// What is to be done about tokens.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Who is to be asked what, for [`challenged`].
    pub challenges: Vec<Challenge>,
    /// Bare JID of a device that has to forget what it was told.
    pub changed: Option<Jid>,
    /// Questions for owners.
    pub tells: Vec<Tell>,
}

/// Makes challenges of tokens. What there is no such token of is known at once.
///
/// # Errors
/// [`StoreError`], if the decision could not be made again.
pub async fn challenge<S: Store>(
    config: &Config,
    store: &S,
    unproven: Unproven,
    now: u64,
) -> Result<Verified, StoreError> {
    let presenter = unproven.presenter.as_jid();
    let begun = config.proofs.begin(presenter, &unproven.tokens, now);
    let mut sealed = Vec::with_capacity(begun.len());
    for token in begun {
        match tokens::seal(config, store, &token, now).await {
            Ok(one) => sealed.push((token, one)),
            Err(failure) => {
                let is_unknown = matches!(failure, Failure::Refused(Condition::ItemNotFound));
                let outcome = if is_unknown { Outcome::Failed } else { Outcome::Unknown };
                config.proofs.end(presenter, &token, outcome, now);
            }
        }
    }
    let whole = Arc::new(unproven);
    let challenge = |(token, sealed): (Box<str>, Sealed)| {
        let Sealed { secret, text, ends } = sealed;
        let mut payload = Vec::new();
        provisioning::write_token_challenge(&mut payload, whole.generation, &token, &text);
        let payload = String::from_utf8(payload).unwrap_or_default();
        Challenge { payload, token, secret, ends, whole: Arc::clone(&whole) }
    };
    let challenges: Vec<Challenge> = sealed.into_iter().map(challenge).collect();
    let mut verified = settle(config, store, whole, now).await?;
    verified.challenges = challenges;
    Ok(verified)
}

/// What comes of a challenge. `response` is the payload of the result; `None` for an error, and for no answer in time.
///
/// # Errors
/// [`StoreError`], if the decision could not be made again.
pub async fn challenged<S: Store>(
    config: &Config,
    store: &S,
    challenge: Challenge,
    response: Option<&str>,
    now: u64,
) -> Result<Verified, StoreError> {
    let Challenge { token, secret, ends, whole, payload: _ } = challenge;
    let is_right = response.and_then(read).is_some_and(|told| {
        let is_equal = constant_time::verify_slices_are_equal(&secret, &told);
        is_equal.is_ok()
    });
    let outcome = if is_right { Outcome::Proven(ends) } else { Outcome::Failed };
    config.proofs.end(whole.presenter.as_jid(), &token, outcome, now);
    settle(config, store, whole, now).await
}

/// What somebody says that a challenge holds.
fn read(payload: &str) -> Option<Vec<u8>> {
    let node = Node::parse(payload, ns::CLIENT)?;
    let (Interface::Tokens | Interface::Device, _) = Interface::of(&node.ns)? else { return None };
    STANDARD.decode(provisioning::read_token_challenge_response(&node)?).ok()
}

/// Makes the decision again if no challenge for its sake is open any more.
async fn settle<S: Store>(config: &Config, store: &S, whole: Arc<Unproven>, now: u64) -> Result<Verified, StoreError> {
    let mut verified = Verified::default();
    let Some(Unproven { presenter, component, query: Some(query), .. }) = Arc::into_inner(whole) else {
        return Ok(verified);
    };
    let device = presenter.bare();
    let things = HomeThings::load(store, device.as_jid()).await?;
    let again =
        answer(things.as_deref(), presenter.as_jid(), component.as_str(), &query.payload, (&config.proofs, now));
    let Ok(again) = again else { return Ok(verified) };
    if again.payload != query.told
        && let Some(node) = things.and_then(|things| asked_about(&things, &query.payload))
    {
        clear_cache(store, &device, &node).await?;
        verified.changed = Some(device);
    }
    if let Some(inquiry) = again.after.inquiry {
        verified.tells = super::ask(config, store, &inquiry, now).await?;
    }
    Ok(verified)
}

/// A thing with an owner that a question is about.
fn asked_about(things: &HomeThings, payload: &str) -> Option<NodeName> {
    let mut scanner = Scanner::new();
    let query = Query::read(&mut scanner, payload).ok()?;
    let nodes = if query.nodes.is_empty() { &[NodeRef::DEVICE] } else { &query.nodes[..] };
    let mut things = nodes.iter().filter_map(|node| things.find(node));
    things.find(|thing| thing.owner.is_some()).map(super::HomeThing::node)
}

/// Notes that a device has to forget what it was told.
async fn clear_cache<S: Store>(store: &S, device: &Jid, node: &NodeName) -> Result<(), StoreError> {
    for _ in 0..ATTEMPTS_MAX {
        let Some(thing) = things::load(store, device, node).await? else { return Ok(()) };
        match store.commit(Batch { guards: vec![thing.guard()], writes: vec![to_clear(&thing).put()] }).await {
            Ok(()) => return Ok(()),
            Err(CommitError::Guard(_)) => {}
            Err(CommitError::Store(error)) => return Err(error),
        }
    }
    Err(StoreError::Busy)
}
