//! The life of a thing, as a state machine: what each request makes of it (XEP-0347 §3.6 to §3.17).
//!
//! Pure. What is not allowed in a state is [`NotFound`], whatever the reason, so that nobody learns whether a thing is there
//! or whose it is.

use plaza_core::iot::Generation;
use plaza_core::jid::{Jid, JidRef};
use plaza_core::thing::wire::{Style, Tags};
use plaza_core::thing::{NodeName, TagValue};
use subtle::ConstantTimeEq;

use super::claims::tags_hash;
use super::{Pending, State, ThingRecord, key_hash};

/// What happens to a thing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event<'a> {
    /// It registers, speaking so.
    Register { self_owned: bool, tags: &'a Tags, style: Style },
    /// Somebody claims it by these tags; `id` is of no other claim.
    Claim { owner: &'a Jid, public: bool, tags: &'a Tags, id: u64 },
    /// The operator says whose it is, whatever is known of it; `id` is of no other claim.
    Assign { owner: &'a Jid, public: bool, id: u64 },
    /// It says what changed of it.
    Update { tags: &'a Tags, style: Style },
    /// Somebody who may be its owner does.
    UpdateBy { owner: JidRef<'a>, tags: &'a Tags },
    /// Somebody who may be its owner takes it out of the registry.
    Remove { owner: JidRef<'a> },
    /// Somebody who may be its owner gives it up, and the thing has heard of it; by this claim only, if one is named.
    Disown { owner: JidRef<'a>, claim: Option<u64> },
    /// It leaves.
    Unregister,
    /// It has heard of something, as it was in a version of its record.
    Acknowledge { notice: Notice, version: u64 },
    /// It asked for a decision, in this generation.
    Asked(Generation),
    /// The operator has the broker apply its rules, or no longer.
    Enforce(bool),
    /// Somebody who may be its owner does.
    EnforceBy { owner: JidRef<'a>, enforced: bool },
}

/// What a device is told unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Notice {
    /// It has an owner.
    Claimed,
    /// It was taken out of the registry.
    Removed,
    /// Its cached decisions are void.
    ClearCache,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Next {
    /// It stays as it is.
    Same,
    /// It becomes this.
    Is(Box<ThingRecord>),
    /// It is no more.
    Gone,
}

/// What whoever asked is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// That it is done.
    Done,
    /// That the thing is somebody's, and whether it is to be found: nothing else was done.
    Owned { owner: Jid, public: bool },
    /// That the thing is nobody's: nothing was done.
    Unowned,
}

/// Why nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// There is no such thing for whoever asked.
    NotFound,
    /// It would have more tags than there may be.
    TooManyTags,
}

/// What an event makes of a thing that is as it was `before`, in the millisecond `now`.
pub(super) fn step(
    before: Option<&ThingRecord>,
    (jid, node): (&Jid, &NodeName),
    event: Event<'_>,
    now: u64,
) -> Result<(Next, Said), Refused> {
    let Some(before) = before else {
        return match event {
            Event::Register { self_owned, tags, style } => {
                let state = if self_owned { State::SelfOwned } else { State::Unclaimed };
                let thing = ThingRecord {
                    state,
                    key: key_of(self_owned, tags),
                    style,
                    tags: tags.list.clone(),
                    created: now,
                    updated: now,
                    // Not 1: of a thing of the same name that was there before, an answer may be under way yet, which says
                    // nothing of this one. Nothing changes more than once a millisecond for long.
                    version: now.max(1),
                    ..ThingRecord::new(jid.clone(), node.clone())
                };
                Ok((Next::Is(Box::new(thing)), Said::Done))
            }
            Event::Unregister | Event::Acknowledge { .. } | Event::Asked(_) => Ok((Next::Same, Said::Done)),
            Event::Claim { .. }
            | Event::Assign { .. }
            | Event::Enforce(_)
            | Event::EnforceBy { .. }
            | Event::Update { .. }
            | Event::UpdateBy { .. }
            | Event::Remove { .. }
            | Event::Disown { .. } => Err(Refused::NotFound),
        };
    };
    let mut after = before.clone();
    let said = match event {
        Event::Register { self_owned, tags, style } => {
            after.style = style;
            match &before.state {
                State::Claimed { owner, public, removed } => {
                    Said::Owned { owner: owner.clone(), public: *public && !removed }
                }
                State::Unclaimed | State::SelfOwned => {
                    after.state = if self_owned { State::SelfOwned } else { State::Unclaimed };
                    after.key = key_of(self_owned, tags);
                    after.tags.clone_from(&tags.list);
                    Said::Done
                }
            }
        }
        Event::Claim { owner, public, tags, id } => match &before.state {
            State::Unclaimed if is_claimed_by(before, tags) => {
                after.become_owned(owner, public, id);
                Said::Done
            }
            State::Claimed { owner: known, .. } if known == owner && before.claim == Some(tags_hash(&tags.list)) => {
                after.become_owned(owner, public, id);
                Said::Done
            }
            State::Unclaimed | State::SelfOwned | State::Claimed { .. } => return Err(Refused::NotFound),
        },
        Event::Assign { owner, public, id } => match &before.state {
            State::Claimed { owner: known, public, removed } if known != owner => {
                Said::Owned { owner: known.clone(), public: *public && !removed }
            }
            State::Unclaimed | State::SelfOwned | State::Claimed { .. } => {
                after.become_owned(owner, public, id);
                Said::Done
            }
        },
        Event::Update { tags, style } => {
            after.style = style;
            match before.state {
                State::Unclaimed => Said::Unowned,
                State::Claimed { removed: true, .. } => return Err(Refused::NotFound),
                State::SelfOwned | State::Claimed { removed: false, .. } => {
                    merge(&mut after, tags)?;
                    Said::Done
                }
            }
        }
        Event::UpdateBy { owner, tags } if before.is_owned_by(owner) => match before.state {
            State::Claimed { removed: false, .. } => {
                merge(&mut after, tags)?;
                Said::Done
            }
            State::Claimed { removed: true, .. } | State::Unclaimed | State::SelfOwned => {
                return Err(Refused::NotFound);
            }
        },
        Event::Remove { owner } if before.is_owned_by(owner) => {
            if let State::Claimed { removed: removed @ false, .. } = &mut after.state {
                *removed = true;
                after.tell(|pending| pending.removed = true);
            }
            Said::Done
        }
        Event::Disown { owner, claim } if before.is_owned_by(owner) && claim.is_none_or(|id| id == before.claim_id) => {
            after.state = State::Unclaimed;
            (after.key, after.claim, after.claim_id, after.enforced) = (None, None, 0, false);
            after.tags.clear();
            after.tell(|pending| *pending = Pending { claimed: false, removed: false, clear_cache: true, ..*pending });
            Said::Done
        }
        Event::EnforceBy { owner, enforced } if before.is_owned_by(owner) => {
            after.enforced = enforced;
            Said::Done
        }
        Event::UpdateBy { .. } | Event::Remove { .. } | Event::Disown { .. } | Event::EnforceBy { .. } => {
            return Err(Refused::NotFound);
        }
        Event::Unregister => return Ok((Next::Gone, Said::Done)),
        Event::Acknowledge { notice, version } => {
            if version >= before.pending.since {
                match notice {
                    Notice::Claimed => after.pending.claimed = false,
                    Notice::Removed => after.pending.removed = false,
                    Notice::ClearCache => after.pending.clear_cache = false,
                }
            }
            Said::Done
        }
        Event::Asked(generation) => {
            after.device = Some(generation);
            Said::Done
        }
        Event::Enforce(enforced) => {
            after.enforced = enforced;
            Said::Done
        }
    };
    if after == *before {
        return Ok((Next::Same, said));
    }
    after.updated = now;
    after.version = before.version + 1;
    Ok((Next::Is(Box::new(after)), said))
}

/// A thing of its own is nobody's to claim, so that it needs no key.
fn key_of(self_owned: bool, tags: &Tags) -> Option<[u8; 32]> {
    tags.key.as_deref().filter(|_| !self_owned).map(key_hash)
}

/// Whether tags claim a thing: they are the same, and so is the key, or there is none on either side.
fn is_claimed_by(thing: &ThingRecord, tags: &Tags) -> bool {
    let is_key = match (&thing.key, &tags.key) {
        (Some(known), Some(key)) => known.ct_eq(&key_hash(key)).into(),
        (None, None) => !thing.tags.is_empty(),
        (Some(_), None) | (None, Some(_)) => false,
    };
    is_key && tags_hash(&thing.tags) == tags_hash(&tags.list)
}

/// Says what changed: an empty string takes a string away, a number cannot be taken away (XEP-0347 §3.13). The key of a thing
/// that has an owner is no more.
fn merge(thing: &mut ThingRecord, changes: &Tags) -> Result<(), Refused> {
    let mut tags = Tags { list: std::mem::take(&mut thing.tags), key: None };
    for change in &changes.list {
        match &change.value {
            TagValue::Str(text) if text.is_empty() => {
                tags.list.retain(|known| !known.is(&change.name) || matches!(known.value, TagValue::Num(_)));
            }
            TagValue::Str(_) | TagValue::Num(_) => tags.set(change.clone()),
        }
    }
    tags.check().map_err(|_| Refused::TooManyTags)?;
    thing.tags = tags.list;
    Ok(())
}

impl ThingRecord {
    /// Whether somebody owns it.
    pub fn is_owned_by(&self, jid: JidRef<'_>) -> bool {
        self.owner().is_some_and(|owner| owner.as_jid() == jid.bare())
    }

    /// Makes it somebody's, or what it is to be found by others if it is already. Its key is of no use any more.
    fn become_owned(&mut self, by: &Jid, public: bool, id: u64) {
        let state = State::Claimed { owner: by.clone(), public, removed: false };
        if self.state == state {
            return;
        }
        let changes_hands = !self.is_owned_by(by.as_jid());
        self.state = state;
        self.tell(|pending| {
            pending.claimed = true;
            pending.removed = false;
            pending.clear_cache |= changes_hands;
        });
        if changes_hands {
            self.key = None;
            self.claim = Some(tags_hash(&self.tags));
            self.claim_id = id;
        }
    }

    /// Notes what its device has to be told of the state that is stored next.
    pub fn tell(&mut self, note: impl FnOnce(&mut Pending)) {
        note(&mut self.pending);
        self.pending.since = self.version + 1;
    }
}
