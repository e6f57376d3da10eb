//! The Thing Registry, as it answers (XEP-0347 v0.5.1): who may ask what, and what is said.

use plaza_core::jid::Jid;
use plaza_core::stanza::{Condition, IqType};
use plaza_core::thing::wire::{self, Request, Style, Tags};
use plaza_core::thing::{NodeName, TagValue};
use plaza_core::xml::read::Node;

use super::change::{Changed, NotChanged, change, condition};
use super::life::{Event, Notice, Said};
use super::{Config, ThingRecord, claims, key_hash, load, search};
use crate::store::Store;

/// The tags that tell a maker's things apart.
const MAKER: &str = "MAN";
const SERIAL: &str = "SN";

/// A request, and who sent it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    /// Full JID.
    pub(crate) caller: &'a Jid,
    /// Has an account here: who has not, can search and nothing else.
    pub(crate) is_local: bool,
    /// Get or set.
    pub(crate) iq_type: IqType,
    /// What is asked.
    pub(crate) payload: &'a Node,
    /// Milliseconds since 1970.
    pub(crate) now: u64,
}

/// What is answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Payload of the result.
    pub(crate) payload: Vec<u8>,
    /// The account of things that changed.
    pub(crate) changed: Option<Jid>,
    /// Nothing is answered before a device has heard this.
    pub(crate) ask: Option<Asks>,
}

/// What a device has to hear before its thing is disowned.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asks {
    /// Bare JID.
    pub(crate) device: Jid,
    /// Payload of a set.
    pub(crate) payload: String,
    /// Which claim ends with it.
    pub(crate) claim: u64,
}

impl Answer {
    fn said(payload: Vec<u8>, changed: &Changed, jid: &Jid) -> Self {
        Self { payload, changed: changed.concerns_home.then(|| jid.clone()), ask: None }
    }
}

/// Answers a request of the registry; one that is of another namespace is `service-unavailable`.
pub(crate) async fn answer<S: Store>(config: &Config, store: &S, call: Call<'_>) -> Result<Answer, Condition> {
    let (style, request) = read(call)?;
    let caller = call.caller.bare();
    let own = |jid: &Option<Jid>| jid.as_ref().is_none_or(|jid| *jid == caller);
    let by = caller.as_jid();
    match request {
        Request::Search(asked) => {
            let payload = search::search(config, store, call.caller, asked, style, call.now).await?;
            Ok(Answer { payload, changed: None, ask: None })
        }
        // Whatever there was, there is nothing now.
        Request::Unregister { jid, node } => {
            if !call.is_local || !own(&jid) {
                return Ok(Answer { payload: Vec::new(), changed: None, ask: None });
            }
            match change(config, store, Some(by), (&caller, &node), Event::Unregister, call.now).await {
                Ok(changed) => Ok(Answer::said(Vec::new(), &changed, &caller)),
                // The account is gone, and all that it had with it.
                Err(NotChanged::NoAccount) => Ok(Answer { payload: Vec::new(), changed: None, ask: None }),
                Err(error) => Err(error.into()),
            }
        }
        _ if !call.is_local => Err(Condition::Forbidden),
        Request::Register { jid, .. } if !own(&jid) => Err(Condition::Forbidden),
        Request::Register { node, self_owned, tags, .. } => {
            let event = Event::Register { self_owned, tags: &tags, style };
            let changed = change(config, store, Some(by), (&caller, &node), event, call.now).await?;
            Ok(Answer::said(said(&changed.said, style, &node), &changed, &caller))
        }
        Request::Mine { node, public, tags } => {
            mine(config, store, &caller, (&node, public, &tags), style, call.now).await
        }
        Request::Update { jid, node, tags } => {
            let (device, event) = match jid.filter(|jid| *jid != caller) {
                None => (caller.clone(), Event::Update { tags: &tags, style }),
                Some(device) => (device, Event::UpdateBy { owner: by, tags: &tags }),
            };
            let changed = change(config, store, Some(by), (&device, &node), event, call.now).await?;
            Ok(Answer::said(said(&changed.said, style, &node), &changed, &device))
        }
        Request::Remove { jid, node } => {
            let changed = change(config, store, Some(by), (&jid, &node), Event::Remove { owner: by }, call.now).await?;
            Ok(Answer::said(said(&changed.said, style, &node), &changed, &jid))
        }
        Request::Disown { jid, node } => {
            let thing = load(store, &jid, &node).await.map_err(|error| condition(&error))?;
            let thing = thing.filter(|thing| thing.is_owned_by(by)).ok_or(Condition::ItemNotFound)?;
            let payload = text(|out| wire::disowned(out, thing.style, &node));
            let ask = Some(Asks { device: jid, payload, claim: thing.claim_id });
            Ok(Answer { payload: Vec::new(), changed: None, ask })
        }
    }
}

/// Goes on with a request to disown, when the thing has heard of it.
///
/// # Errors
/// `item-not-found` if it is not the caller's any more, or by another claim.
pub(crate) async fn disowned<S: Store>(
    config: &Config,
    store: &S,
    call: Call<'_>,
    claim: u64,
) -> Result<Answer, Condition> {
    let (_, Request::Disown { jid, node }) = read(call)? else { return Err(Condition::BadRequest) };
    let caller = call.caller.bare();
    let event = Event::Disown { owner: caller.as_jid(), claim: Some(claim) };
    let changed = change(config, store, Some(caller.as_jid()), (&jid, &node), event, call.now).await?;
    Ok(Answer::said(Vec::new(), &changed, &jid))
}

/// What a device has to be told of a thing, each as the payload of a set. It is noted as heard with [`super::acknowledged`].
pub fn notices(thing: &ThingRecord) -> Vec<(Notice, String)> {
    let mut notices = Vec::new();
    if let (true, super::State::Claimed { owner, public, removed }) = (thing.pending.claimed, &thing.state) {
        let node = Some(&thing.node);
        let told = text(|out| wire::claimed(out, thing.style, owner.as_jid(), node, *public && !removed));
        notices.push((Notice::Claimed, told));
    }
    if thing.pending.removed {
        notices.push((Notice::Removed, text(|out| wire::removed(out, thing.style, &thing.node))));
    }
    if thing.pending.clear_cache {
        let generation = thing.device.unwrap_or_default();
        notices.push((Notice::ClearCache, text(|out| wire::clear_cache(out, generation))));
    }
    notices
}

/// Claims a thing. That there is none, that it is another's, that it was tried too often: nobody can tell them apart.
async fn mine<S: Store>(
    config: &Config,
    store: &S,
    caller: &Jid,
    (node, public, tags): (&NodeName, bool, &Tags),
    style: Style,
    now: u64,
) -> Result<Answer, Condition> {
    let maker = maker(tags);
    let maker: Option<Vec<&str>> = maker.as_ref().map(|parts| parts.iter().map(String::as_str).collect());
    let guess = config.guesses.count(caller.as_str(), maker.as_deref(), now);
    let may_be_known = tags.key.is_some() || config.limits.claims_without_key && !tags.list.is_empty();

    let hash = claims::tags_hash(&tags.list);
    let key = tags.key.as_deref().map(key_hash);
    // Both are asked for, whatever is found.
    let first = claims::find(store, claims::first(&hash, key.as_ref()), node);
    let again = claims::find(store, claims::again(caller.as_jid(), &hash), node);
    let (first, again) = (first.await, again.await);
    let (first, again) = (first.map_err(|error| condition(&error))?, again.map_err(|error| condition(&error))?);

    let found = first.filter(|_| may_be_known).or(again).filter(|_| guess.counts).ok_or(Condition::ItemNotFound)?;
    let (jid, node) = &found;
    let event = Event::Claim { owner: caller, public, tags, id: config.claim_id(now) };
    let changed = change(config, store, Some(caller.as_jid()), (jid, node), event, now).await?;
    config.guesses.forgive(guess, caller.as_str(), maker.as_deref(), now);
    Ok(Answer::said(text_bytes(|out| wire::claimed(out, style, jid.as_jid(), Some(node), public)), &changed, jid))
}

/// Of which maker a thing is, and which of its things, if a claim says so.
fn maker(tags: &Tags) -> Option<[String; 2]> {
    let value = |name: &str| {
        let tag = tags.list.iter().find(|tag| tag.is(name))?;
        Some(match &tag.value {
            TagValue::Str(text) => text.to_string(),
            TagValue::Num(number) => wire::number(*number),
        })
    };
    Some([value(MAKER)?, value(SERIAL)?])
}

fn read(call: Call<'_>) -> Result<(Style, Request), Condition> {
    let (style, request) = Request::read(call.payload, call.iq_type).ok_or(Condition::ServiceUnavailable)?;
    Ok((style, request.map_err(wire::Problem::condition)?))
}

fn said(said: &Said, style: Style, node: &NodeName) -> Vec<u8> {
    match said {
        Said::Done => Vec::new(),
        Said::Owned { owner, public } => text_bytes(|out| wire::claimed(out, style, owner.as_jid(), None, *public)),
        Said::Unowned => text_bytes(|out| wire::disowned(out, style, node)),
    }
}

fn text_bytes(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
    String::from_utf8(text_bytes(write)).expect("text was written")
}
