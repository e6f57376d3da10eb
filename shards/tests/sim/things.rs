//! What may become of things (XEP-0347 v0.5.1), and what may be said of it.
//!
//! Each commit that changes a thing is one step of its life. It has to be what the request that caused it asks for, allowed
//! in the state before it, and made by who may: so a thing has one owner, and whoever is refused changes nothing. What is
//! answered has to be true at some moment between the beginning of the request and its answer.

use std::collections::{BTreeMap, HashMap};

use plaza_core::jid::Jid;
use plaza_core::thing::{KEY, NodeName, TagValue};
use plaza_core::xml::read::Node;
use plaza_registry::things::{State, ThingRecord, key_hash, thing_key};

use super::faults::Whose;

/// What is said of a thing: values by names.
pub(super) type Says = BTreeMap<String, String>;

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Register {
        self_owned: bool,
    },
    /// By the tags and the key of a registration, or by another key.
    Mine {
        of: usize,
        right: bool,
        public: bool,
    },
    Update,
    UpdateBy,
    Remove,
    Disown,
    Unregister,
    Search,
}

/// A request to the registry; its number is in its id, and in what it says.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) client: usize,
    caller: Jid,
    pub(super) what: What,
    pub(super) thing: usize,
    /// When the registry began with it.
    begun: Option<u64>,
    /// It changed something.
    changed: bool,
    /// The type of what was answered.
    answer: Option<String>,
    /// Its client has the answer.
    pub(super) heard: bool,
}

/// Why a thing changes.
#[derive(Debug, Clone)]
pub(super) enum Cause {
    /// A request of that number.
    Request(usize),
    /// Its owner gave it up, and its device was asked.
    Disowned { caller: Jid, device: Jid, acknowledged: bool },
    /// An answer of that number, to a question about it.
    Answered { number: usize, thing: usize, caller: Jid },
    /// An order of that number.
    Ordered { number: usize, caller: Jid },
    /// Something is noted with it that makes it no other.
    Note,
}

/// What a thing became.
#[derive(Debug)]
struct Moment {
    at: u64,
    thing: Option<ThingRecord>,
    /// What was said of it when it was claimed, while it is.
    claimed_by: Option<Says>,
}

/// All things there may be, and what became of them.
#[derive(Debug, Default)]
pub(crate) struct Things {
    pub(super) names: Vec<(Jid, NodeName)>,
    keys: HashMap<Vec<u8>, usize>,
    /// What becomes of things is printed.
    pub(super) is_told: bool,
    /// Counts what is noted here.
    clock: u64,
    lives: Vec<Vec<Moment>>,
    pub(super) asked: Vec<Asked>,
    /// Things whose device acknowledged that they are nobody's, and when.
    heard: Vec<(usize, u64)>,
    /// Things whose device acknowledged that they are claimed, and when it was told.
    known: Vec<(usize, u64)>,
    /// Devices that acknowledged that they have to ask anew, and when they were told.
    cleared: Vec<(Jid, u64)>,
    /// Things that were given up, by whom and when.
    given_up: Vec<(usize, Jid, u64)>,
    /// Things that changed hands, claims that were refused, notices told, things given up.
    pub(crate) claims: u64,
    pub(crate) refused: u64,
    pub(crate) notices: u64,
    pub(crate) disowned: u64,
}

impl Things {
    /// Some nodes of some accounts.
    pub(super) fn new(accounts: &[Jid], ids: &[&str]) -> Self {
        let mut things = Self::default();
        for account in accounts {
            for id in ids {
                things.add(account, id);
            }
        }
        things
    }

    /// One more.
    pub(super) fn add(&mut self, account: &Jid, id: &str) -> usize {
        let node = NodeName { id: (*id).into(), ..NodeName::default() };
        let number = self.names.len();
        self.keys.insert(thing_key(account.as_jid(), &node), number);
        self.names.push((account.clone(), node));
        self.lives.push(vec![Moment { at: 0, thing: None, claimed_by: None }]);
        number
    }

    /// The name of the next request, and its number.
    pub(super) fn ask(&mut self, client: usize, caller: &Jid, what: What, thing: usize) -> usize {
        let (caller, number) = (caller.bare(), self.asked.len());
        let (begun, changed, answer, heard) = (None, false, None, false);
        self.asked.push(Asked { client, caller, what, thing, begun, changed, answer, heard });
        number
    }

    /// The latest registrations of a thing, the last one first.
    pub(super) fn registrations(&self, thing: usize) -> impl Iterator<Item = usize> + '_ {
        let is_one = move |asked: &Asked| asked.thing == thing && matches!(asked.what, What::Register { .. });
        (0..self.asked.len()).rev().filter(move |&number| is_one(&self.asked[number]))
    }

    /// What a thing is now.
    pub(super) fn now(&self, thing: usize) -> Option<&ThingRecord> {
        self.lives[thing].last().and_then(|moment| moment.thing.as_ref())
    }

    /// The thing of a node.
    pub(super) fn find(&self, account: &Jid, id: &str) -> Option<usize> {
        self.names.iter().position(|(jid, node)| jid == account && &*node.id == id)
    }

    /// The registry begins with a request of that id: why things change by it.
    pub(super) fn begin(&mut self, id: &str) -> Cause {
        let Some(number) = number_of(id) else { return Cause::Note };
        assert!(self.asked[number].begun.is_none(), "{id} was asked once: {:?}", self.asked[number]);
        self.asked[number].begun = Some(self.clock);
        Cause::Request(number)
    }

    /// A device has acknowledged that a thing is nobody's.
    pub(super) fn has_heard(&mut self, thing: usize) {
        self.clock += 1;
        self.heard.push((thing, self.clock));
    }

    /// A thing was changed in the store; which.
    pub(super) fn happened(&mut self, whose: &Whose, key: &[u8], record: Option<&[u8]>) -> usize {
        let note = Cause::Note;
        let cause = match whose {
            Whose::Service(_, _, cause) => cause,
            Whose::Errand(..) | Whose::Inquiry(_) => &note,
        };
        let thing = self.keys[key];
        let (jid, node) = &self.names[thing];
        let after = record.map(|record| ThingRecord::decode(jid, node.clone(), record).unwrap());
        self.becomes(thing, after, cause);
        thing
    }

    fn becomes(&mut self, thing: usize, after: Option<ThingRecord>, cause: &Cause) {
        self.clock += 1;
        if self.is_told {
            eprintln!("       {:?} became {after:?} by {cause:?}", self.names[thing]);
        }
        let last = self.lives[thing].last().unwrap();
        let before = last.thing.as_ref();
        assert!(
            self.may_become(thing, before, after.as_ref(), cause),
            "{before:?} became {after:?} by {cause:?}: {:?}",
            if let Cause::Request(number) = cause { Some(&self.asked[*number]) } else { None }
        );
        let owner = |thing: Option<&ThingRecord>| thing.and_then(ThingRecord::owner).cloned();
        let (from, to) = (owner(before), owner(after.as_ref()));
        let claimed_by = match (&from, &to) {
            (_, None) => None,
            (Some(_), Some(_)) => last.claimed_by.clone(),
            (None, Some(_)) => before.map(says),
        };
        self.claims += u64::from(from.is_none() && to.is_some());
        if let Cause::Request(number) = cause {
            self.asked[*number].changed = true;
        }
        if let Cause::Disowned { caller, .. } = cause {
            self.disowned += 1;
            self.given_up.push((thing, caller.bare(), self.clock));
        }
        self.lives[thing].push(Moment { at: self.clock, thing: after, claimed_by });
    }

    /// Whether that may become of a thing.
    fn may_become(
        &self,
        thing: usize,
        before: Option<&ThingRecord>,
        after: Option<&ThingRecord>,
        cause: &Cause,
    ) -> bool {
        let device = &self.names[thing].0;
        if let Some(after) = after {
            // A key is kept apart, and only while it is of use.
            let is_secret = after.tags.iter().all(|tag| !tag.is(KEY));
            if !is_secret || after.owner().is_some() && after.key.is_some() {
                return false;
            }
        }
        let asked = match cause {
            // Nothing that anybody sees.
            Cause::Note => {
                let (Some(before), Some(after)) = (before, after) else { return false };
                // What a device has not acknowledged it is told again.
                let forgets = before.pending.claimed && !after.pending.claimed;
                let since = self.claimed_at(thing);
                let knows = || self.known.iter().any(|(known, told)| *known == thing && *told >= since);
                let is_clear = !before.pending.clear_cache || after.pending.clear_cache || self.has_cleared(thing);
                return is_same(before, after) && (!forgets || knows()) && is_clear;
            }
            Cause::Answered { thing: about, .. } if *about != thing => return false,
            Cause::Answered { caller, .. } | Cause::Ordered { caller, .. } => {
                let (Some(before), Some(after)) = (before, after) else { return false };
                // What the device was told is void.
                let is_void = after.pending.clear_cache && after.pending.since == after.version;
                return before.is_owned_by(caller.as_jid()) && is_same(before, after) && is_void;
            }
            Cause::Disowned { caller, device: asked, acknowledged } => {
                // What its owner claims anew meanwhile is given up as well.
                let heard_since = |begun: u64| self.heard.iter().any(|(heard, at)| *heard == thing && *at > begun);
                let is_it = |asked: &&Asked| {
                    (&asked.what, asked.thing, &asked.caller) == (&What::Disown, thing, &caller.bare())
                };
                let mut requests = self.asked.iter().filter(is_it);
                return *acknowledged
                    && asked == device
                    && before.is_some_and(|before| before.is_owned_by(caller.as_jid()))
                    && requests.any(|asked| asked.answer.is_none() && asked.begun.is_some_and(heard_since))
                    && after.is_some_and(|after| {
                        after.state == State::Unclaimed && after.tags.is_empty() && after.key.is_none()
                    });
            }
            Cause::Request(number) => *number,
        };
        let Asked { caller, what, .. } = &self.asked[asked];
        let own = caller == device;
        let is_owner = before.is_some_and(|before| before.is_owned_by(caller.as_jid()));
        match (what, before, after) {
            (What::Register { self_owned }, before, Some(after)) if own => match before {
                // Nothing is stored (but how it speaks).
                Some(before) if before.owner().is_some() => is_same(before, after),
                Some(_) | None => {
                    let state = if *self_owned { State::SelfOwned } else { State::Unclaimed };
                    let key = (!self_owned).then(|| key_hash(&secret(asked)));
                    after.state == state && says(after) == self.tags(asked) && after.key == key
                }
            },
            (What::Mine { of, right, public }, Some(before), Some(after)) => {
                let claimed = State::Claimed { owner: caller.clone(), public: *public, removed: false };
                let may = match &before.state {
                    State::Unclaimed => {
                        *right && before.key == Some(key_hash(&secret(*of))) && says(before) == self.tags(*of)
                    }
                    State::Claimed { .. } => is_owner && self.claimed_by(thing) == Some(&self.tags(*of)),
                    State::SelfOwned => false,
                };
                may && after.state == claimed && says(after) == says(before)
            }
            (What::Update, Some(before), Some(after)) if own => match before.state {
                State::SelfOwned | State::Claimed { removed: false, .. } => self.is_updated(before, after, asked),
                State::Unclaimed | State::Claimed { removed: true, .. } => is_same(before, after),
            },
            (What::UpdateBy, Some(before), Some(after)) if is_owner => {
                matches!(before.state, State::Claimed { removed: false, .. }) && self.is_updated(before, after, asked)
            }
            (What::Remove, Some(before), Some(after)) if is_owner => {
                let (State::Claimed { owner, public, .. }, true) = (&before.state, says(before) == says(after)) else {
                    return false;
                };
                after.state == State::Claimed { owner: owner.clone(), public: *public, removed: true }
            }
            (What::Unregister, Some(_), None) => own,
            _ => false,
        }
    }

    fn is_updated(&self, before: &ThingRecord, after: &ThingRecord, asked: usize) -> bool {
        let mut expected = says(before);
        expected.extend(self.tags(asked));
        before.state == after.state && says(after) == expected
    }

    /// What a request says of a thing, but for the key.
    fn tags(&self, asked: usize) -> Says {
        let number = format!("{:?}", TagValue::Num(asked as f64));
        let text = |text: String| format!("{:?}", TagValue::Str(text.into()));
        let Asked { what, thing, .. } = &self.asked[asked];
        if matches!(what, What::Register { .. }) {
            [("SN".to_owned(), text(format!("s{thing}"))), ("REG".to_owned(), number)].into()
        } else {
            [("U".to_owned(), text(format!("u{asked}")))].into()
        }
    }

    /// What was said of a thing when it was claimed, while it is.
    fn claimed_by(&self, thing: usize) -> Option<&Says> {
        self.lives[thing].last().and_then(|moment| moment.claimed_by.as_ref())
    }

    /// When a thing was claimed last.
    fn claimed_at(&self, thing: usize) -> u64 {
        let is_owned = |moment: &Moment| moment.thing.as_ref().is_some_and(|thing| thing.owner().is_some());
        let life = self.lives[thing].iter().rev();
        life.take_while(|moment| is_owned(moment)).last().map_or(self.clock, |moment| moment.at)
    }

    /// Whether a device acknowledged that it has to ask anew, as it was told since its thing said so.
    fn has_cleared(&self, thing: usize) -> bool {
        let (device, life) = (&self.names[thing].0, &self.lives[thing]);
        let pending = |moment: &Moment| moment.thing.as_ref().map(|thing| thing.pending);
        let now = life.last().and_then(pending).map(|pending| pending.since);
        let is_it = |moment: &&Moment| pending(moment).is_some_and(|pending| Some(pending.since) == now);
        let since = life.iter().rev().take_while(is_it).last().map_or(0, |moment| moment.at);
        self.cleared.iter().any(|(cleared, told)| cleared == device && *told >= since)
    }

    /// Whether a thing has just become another's, or nobody's.
    pub(super) fn changed_hands(&self, thing: usize) -> bool {
        let owner = |moment: &Moment| moment.thing.as_ref().and_then(ThingRecord::owner).cloned();
        let mut life = self.lives[thing].iter().rev().map(owner);
        life.next() != life.next()
    }

    /// What a thing was from a time on until now.
    fn moments(&self, thing: usize, since: u64) -> &[Moment] {
        let life = &self.lives[thing];
        let first = life.iter().rposition(|moment| moment.at <= since).unwrap_or(0);
        &life[first..]
    }

    /// The registry answers a request.
    pub(super) fn answered(&mut self, reply: &Node, store_fails: bool) {
        let Some(number) = number_of(reply.attr("id").unwrap_or_default()) else { return };
        self.clock += 1;
        let asked = &self.asked[number];
        let kind = reply.attr("type").unwrap_or_default().to_owned();
        assert!(asked.answer.is_none(), "{asked:?} is answered twice");
        let begun = asked.begun.unwrap();
        let is_true = if kind == "result" {
            self.is_true(asked, number, begun, reply.children.first())
        } else {
            let error = reply.children.first().and_then(|error| error.children.first());
            let condition = error.map(|condition| &*condition.name).unwrap_or_default();
            assert!(!asked.changed, "{asked:?} is {condition}, and was done");
            match condition {
                // The store could not, or others were faster too often.
                "resource-constraint" | "internal-server-error" => store_fails,
                "item-not-found" => self.is_nothing(asked, begun),
                // Its device has not heard.
                "not-allowed" => asked.what == What::Disown,
                _ => false,
            }
        };
        let moments = self.moments(asked.thing, begun);
        assert!(is_true, "{asked:?} was answered {reply:?}, and it was {moments:?}");
        self.refused += u64::from(kind == "error" && matches!(asked.what, What::Mine { .. }));
        if (&*kind, &asked.what) == ("result", &What::Disown) {
            let of = (asked.thing, asked.caller.clone());
            let at = self.given_up.iter().position(|(thing, by, at)| (*thing, by) == (of.0, &of.1) && *at > begun);
            self.given_up.swap_remove(at.expect("it was given up for this request"));
        }
        self.asked[number].answer = Some(kind);
    }

    /// Whether a result was true at some moment since the request began.
    fn is_true(&self, asked: &Asked, number: usize, begun: u64, payload: Option<&Node>) -> bool {
        let Asked { caller, what, thing, .. } = asked;
        let (jid, node) = &self.names[*thing];
        let moments = || self.moments(*thing, begun).iter().map(|moment| moment.thing.as_ref());
        let some = |test: &dyn Fn(&ThingRecord) -> bool| moments().flatten().any(test);
        let said = payload.map(|payload| &*payload.name);
        let flag = |name: &str| payload.and_then(|payload| payload.attr(name)) == Some("true");
        match (what, said) {
            (What::Register { self_owned }, None) => some(&|thing| {
                thing.owner().is_none()
                    && says(thing) == self.tags(number)
                    && (thing.state == State::SelfOwned) == *self_owned
            }),
            (What::Register { .. }, Some("claimed")) => {
                let owner = payload.and_then(|payload| payload.attr("jid")).unwrap_or_default();
                some(&|thing| {
                    let public = thing.is_listed();
                    thing.owner().is_some_and(|known| known.as_str() == owner) && public == flag("public")
                })
            }
            (What::Mine { public, .. }, Some("claimed")) => {
                let told = payload.and_then(|payload| payload.attr("jid")) == Some(jid.as_str());
                let id = payload.and_then(node_id).unwrap_or_default();
                let claimed = State::Claimed { owner: caller.clone(), public: *public, removed: false };
                told && *id == *node.id && flag("public") == *public && some(&|thing| thing.state == claimed)
            }
            (What::Update | What::UpdateBy, None) => some(&|thing| {
                let updated = self.tags(number);
                let is_there = updated.iter().all(|(name, value)| says(thing).get(name) == Some(value));
                is_there && (*what == What::Update || thing.is_owned_by(caller.as_jid()))
            }),
            (What::Update, Some("disowned")) => some(&|thing| thing.state == State::Unclaimed),
            (What::Remove, None) => some(&|thing| {
                thing.is_owned_by(caller.as_jid()) && matches!(thing.state, State::Claimed { removed: true, .. })
            }),
            (What::Disown, None) => true,
            (What::Unregister, None) => moments().any(|thing| thing.is_none()),
            (What::Search, Some("found")) => {
                let found = payload.map(|found| &*found.children).unwrap_or_default();
                match found {
                    [] => moments().any(|thing| !thing.is_some_and(ThingRecord::is_listed)),
                    [one] => {
                        let is_it =
                            one.attr("jid") == Some(jid.as_str()) && node_id(one).unwrap_or_default() == &*node.id;
                        is_it && some(&|thing| thing.is_listed() && thing.tags.len() == one.children.len())
                    }
                    _ => false,
                }
            }
            _ => false,
        }
    }

    /// Whether there was no such thing for whoever asked at some moment since the request began.
    fn is_nothing(&self, asked: &Asked, begun: u64) -> bool {
        let Asked { caller, what, thing, .. } = asked;
        let moments = self.moments(*thing, begun);
        let some = |test: &dyn Fn(&Moment) -> bool| moments.iter().any(test);
        let is_owner = |moment: &Moment| moment.thing.as_ref().is_some_and(|thing| thing.is_owned_by(caller.as_jid()));
        let removed = |moment: &Moment| {
            moment.thing.as_ref().is_some_and(|thing| matches!(thing.state, State::Claimed { removed: true, .. }))
        };
        match what {
            What::Mine { of, right, .. } => {
                // It is looked for under both of these, one after the other.
                let first = |moment: &Moment| {
                    moment
                        .thing
                        .as_ref()
                        .is_some_and(|thing| *right && thing.state == State::Unclaimed && says(thing) == self.tags(*of))
                };
                let again = |moment: &Moment| is_owner(moment) && moment.claimed_by.as_ref() == Some(&self.tags(*of));
                some(&|moment| !first(moment)) && some(&|moment| !again(moment))
            }
            What::Update => some(&|moment| moment.thing.is_none() || removed(moment)),
            What::UpdateBy => some(&|moment| !is_owner(moment) || removed(moment)),
            What::Remove | What::Disown => some(&|moment| !is_owner(moment)),
            What::Register { .. } | What::Unregister | What::Search => false,
        }
    }

    /// A client has an answer; to which request.
    pub(super) fn hears(&mut self, id: &str, kind: &str) -> Option<usize> {
        let number = number_of(id)?;
        let asked = &mut self.asked[number];
        assert_eq!(asked.answer.as_deref(), Some(kind), "{asked:?}");
        assert!(!std::mem::replace(&mut asked.heard, true), "it has the answer already: {asked:?}");
        Some(number)
    }

    /// Whether a thing is somebody's.
    pub(super) fn is_owned_by(&self, thing: usize, owner: &Jid) -> bool {
        self.now(thing).is_some_and(|thing| thing.is_owned_by(owner.as_jid()))
    }

    /// Whose a thing was at a time.
    pub(super) fn owner(&self, thing: usize, at: u64) -> Option<&Jid> {
        self.lives[thing].iter().rfind(|moment| moment.at <= at)?.thing.as_ref()?.owner()
    }

    /// Whether a thing was somebody's from a time on until now.
    pub(super) fn is_owned_since(&self, thing: usize, owner: &Jid, since: u64) -> bool {
        let is_owner = |thing: &ThingRecord| thing.is_owned_by(owner.as_jid());
        self.moments(thing, since).iter().all(|moment| moment.thing.as_ref().is_some_and(is_owner))
    }

    /// Whether somebody owned a thing, or owns it.
    pub(super) fn was_owned_by(&self, thing: usize, owner: &str) -> bool {
        let is_owner = |thing: &ThingRecord| thing.owner().is_some_and(|known| known.as_str() == owner);
        self.lives[thing].iter().filter_map(|moment| moment.thing.as_ref()).any(is_owner)
    }

    /// Whether somebody owned some thing of the same device, or owns it.
    pub(super) fn was_one_owned_by(&self, thing: usize, owner: &str) -> bool {
        let device = &self.names[thing].0;
        (0..self.names.len()).any(|other| self.names[other].0 == *device && self.was_owned_by(other, owner))
    }

    /// How often a thing began to be told that it is claimed.
    pub(super) fn claimed_often(&self, thing: usize) -> usize {
        let (mut often, mut last) = (0, None);
        for moment in &self.lives[thing] {
            match moment.thing.as_ref().filter(|thing| thing.owner().is_some()) {
                None => last = None,
                Some(thing) if thing.pending.claimed => {
                    let told = Some((thing.state.clone(), thing.pending.since));
                    often += usize::from(last != told);
                    last = told;
                }
                Some(_) => {}
            }
        }
        often
    }

    /// How often a device began to be told to ask anew, for any of its things.
    pub(super) fn cleared_often(&self, device: &Jid) -> usize {
        let own = self.names.iter().zip(&self.lives).filter(|((jid, _), _)| jid == device);
        let often = |life: &Vec<Moment>| {
            let things = life.iter().filter_map(|moment| moment.thing.as_ref());
            let void = things.filter(|thing| thing.pending.clear_cache);
            void.map(|thing| thing.pending.since).collect::<std::collections::BTreeSet<_>>().len()
        };
        own.map(|(_, life)| often(life)).sum()
    }

    /// The time now, in things noted here.
    pub(super) const fn now_is(&self) -> u64 {
        self.clock
    }

    /// A device has acknowledged that it has to ask anew, which it was told at a time.
    pub(super) fn clears(&mut self, device: Jid, told: u64) {
        self.cleared.push((device, told));
    }

    /// A device has acknowledged that a thing is claimed, which it was told at a time.
    pub(super) fn knows(&mut self, thing: usize, told: u64) {
        self.known.push((thing, told));
    }
}

/// The secret of a registration, which nobody else may learn.
pub(super) fn secret(number: usize) -> String {
    format!("secret-{number}")
}

/// What is said of a thing.
pub(super) fn says(thing: &ThingRecord) -> Says {
    thing.tags.iter().map(|tag| (tag.name.to_string(), format!("{:?}", tag.value))).collect()
}

/// The id of a node, in whatever generation.
pub(super) fn node_id(element: &Node) -> Option<&str> {
    element.attr("id").or_else(|| element.attr("nodeId"))
}

/// The number of a request of that id.
fn number_of(id: &str) -> Option<usize> {
    id.strip_prefix('t')?.parse().ok()
}

/// Whether two are the same to everybody.
fn is_same(one: &ThingRecord, other: &ThingRecord) -> bool {
    let seen = |thing: &ThingRecord| (thing.state.clone(), says(thing), thing.key, thing.claim, thing.enforced);
    seen(one) == seen(other)
}
