//! Devices that ask what strangers may do, and owners who decide it (XEP-0324 v0.5.1).
//!
//! The world keeps when each device's things and rules changed, and which of that the device's home has to know by now. What
//! a device is told has to be within the bounds that owners' answers set at one of these moments, whatever was killed
//! meanwhile: each piece of it is allowed by the most specific of the answers that speak of it, of these the newest; something
//! is allowed if something certainly is, and all of it if all is. An answer counts from the commit that makes it a rule until
//! the rules of the thing are deleted or it changes hands. Who does not own the thing, or does no more, decides nothing.
//!
//! One thing is not followed: who allows a part denies the rest of what had been asked by then, which may be all else. So
//! what such an answer leaves out may be denied, or be as it was.
//!
//! Owners who are there have been asked what they have not decided, and nobody else has; what was lost on its way to them is
//! asked again a day later.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use plaza_core::iot::{Generation, Interface};
use plaza_core::jid::Jid;
use plaza_core::provisioning::Kind;
use plaza_core::xml::read::Node;
use plaza_registry::services::{Effect, Reply};
use plaza_registry::store::memory::MemoryStore;
use plaza_shards::metrics::DropReason;

use super::World;
use super::faults::{Change, Whose};
use super::orders::Orders;
use super::registry::REGISTRY;
use super::things::{Cause, Things, node_id};

/// Somebody who has no account here.
const FOREIGNER: &str = "x@elsewhere.example";
pub(super) const DAY_MILLIS: u64 = 24 * 60 * 60 * 1_000;

/// What a stranger wants.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    thing: usize,
    kind: Kind,
    asker: Jid,
    /// How much of it.
    shape: usize,
}

/// What a device asked about a wish.
#[derive(Debug)]
struct Decision {
    wish: Wish,
    client: usize,
    /// The first of the states of its things that may count, and the last.
    states: Option<(usize, usize)>,
    heard: bool,
}

/// Whom an answer is about, the most specific first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Range {
    Asker,
    Domain,
    All,
}

/// What an answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    Momentary,
    OnlyA,
}

/// Some of what can be asked for; answers tell no more apart.
#[derive(Debug, Clone, Copy)]
struct Piece {
    is_momentary: bool,
    /// It is of the field or the parameter `A`.
    is_a: bool,
}

/// What answers say of a piece.
struct Verdict {
    /// What the answer says that speaks of it and counts most.
    said: Option<bool>,
    /// One that counts more may deny it.
    is_unsure: bool,
}

/// What somebody decided, who may be the owner.
#[derive(Debug)]
struct Answer {
    caller: Jid,
    client: usize,
    key: String,
    thing: usize,
    kind: Kind,
    asker: Jid,
    range: Range,
    allow: bool,
    part: Part,
    begun: Option<u64>,
    /// The same in things that happened.
    begun_at: u64,
    /// When it became a rule, and when that went: the thing changed hands, or its rules were deleted.
    done: Option<u64>,
    void: Option<u64>,
    /// The type of what was answered.
    told: Option<String>,
    heard: bool,
}

/// What an owner said, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Answer(usize),
    Order(usize),
}

/// A commit that changed a device's things or rules.
struct State {
    at: u64,
    /// Of what an owner said, what made it.
    by: Option<By>,
    /// By which batch the home of the device hears of it: from, to, and its number.
    way: Option<(usize, usize, u64)>,
    is_known: bool,
}

/// A question as its owner heard it.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    owner: Jid,
    thing: usize,
    kind: Kind,
    asker: Jid,
}

/// A question that is in the store, or was.
#[derive(Debug)]
struct Question {
    owner: String,
    /// When it was put, in things that happened, and in which life of the broker; `None` once it is answered.
    put: Option<(u64, u32)>,
    /// When that was, as things are counted.
    since: u64,
}

/// What owners decide, and what devices are told.
#[derive(Default)]
pub(crate) struct Owners {
    pub(crate) orders: Orders,
    decisions: Vec<Decision>,
    answers: Vec<Answer>,
    states: HashMap<Jid, Vec<State>>,
    /// Batches sent from a shard to another, and those that arrived.
    lanes: HashMap<(usize, usize), (u64, u64)>,
    /// By key: what is in the store, and what owners heard and when, in things that happened.
    questions: HashMap<String, Question>,
    told: HashMap<String, (Asked, Vec<u64>)>,
    /// Days that passed, and when the last of them began.
    pub(super) days: u64,
    day_began: u64,
    /// Decisions that were told, and of them those that allow something; questions; rules; answers that were refused.
    pub(crate) decided: u64,
    pub(crate) allowed: u64,
    pub(crate) asked: u64,
    pub(crate) ruled: u64,
    pub(crate) refused: u64,
}

impl Wish {
    fn pieces(&self) -> impl Iterator<Item = Piece> + use<> {
        let momentary: &[bool] = match (self.kind, self.shape) {
            (Kind::Read, 1) => &[true],
            (Kind::Read, _) => &[true, false],
            (Kind::Friend | Kind::Control, _) => &[false],
        };
        let a: &[bool] = match (self.kind, self.shape) {
            (Kind::Friend, _) | (_, 3) => &[false],
            (_, 1) => &[true],
            (Kind::Read | Kind::Control, _) => &[true, false],
        };
        momentary.iter().flat_map(|&is_momentary| a.iter().map(move |&is_a| Piece { is_momentary, is_a }))
    }

    /// Whether a device can be told that just this is allowed: of all there is, what is not `A` has no name.
    fn can_name(&self, piece: Piece) -> bool {
        piece.is_a || self.shape > 0 || self.kind == Kind::Friend
    }

    /// Whether a device was told that a piece of it is allowed.
    fn is_told(&self, piece: Piece, told: &Node) -> bool {
        let is_category = |name: &str| match name {
            "all" => true,
            "m" | "momentary" => piece.is_momentary,
            "jid" | "result" => false,
            _ => !piece.is_momentary,
        };
        let mut names =
            told.children.iter().filter_map(|child| child.attr("n").or_else(|| child.attr("name"))).peekable();
        told.attr("result") == Some("true")
            && (self.kind != Kind::Read || told.attrs.iter().any(|(name, _)| is_category(name)))
            && (names.peek().is_none() || names.any(|name| (name == "A") == piece.is_a))
    }
}

impl Part {
    const fn has(self, piece: Piece) -> bool {
        match self {
            Self::Whole => true,
            Self::Momentary => piece.is_momentary,
            Self::OnlyA => piece.is_a,
        }
    }
}

impl Verdict {
    fn allows(&self) -> bool {
        self.said == Some(true)
    }

    fn surely_allows(&self) -> bool {
        self.allows() && !self.is_unsure
    }

    const fn is_open(&self) -> bool {
        self.said.is_none() && !self.is_unsure
    }
}

impl Answer {
    /// Whether it is about whoever wishes something of that kind.
    fn is_about(&self, wish: &Wish) -> bool {
        let domain = |jid: &Jid| jid.as_jid().domain().to_owned();
        let is_for = match self.range {
            Range::Asker => self.asker == wish.asker,
            Range::Domain => domain(&self.asker) == domain(&wish.asker),
            Range::All => true,
        };
        is_for && (self.thing, self.kind) == (wish.thing, wish.kind)
    }

    /// Whether it is a rule at a time.
    fn counts(&self, at: u64) -> bool {
        self.done.is_some_and(|done| done <= at) && self.void.is_none_or(|void| void > at)
    }
}

impl By {
    const fn of(cause: &Cause) -> Option<Self> {
        match cause {
            Cause::Answered { number, .. } => Some(Self::Answer(*number)),
            Cause::Ordered { number, .. } => Some(Self::Order(*number)),
            Cause::Request(_) | Cause::Disowned { .. } | Cause::Note => None,
        }
    }

    const fn of_work(whose: &Whose) -> Option<Self> {
        match whose {
            Whose::Service(_, _, cause) => Self::of(cause),
            Whose::Errand(..) | Whose::Inquiry(_) => None,
        }
    }
}

impl Owners {
    fn states(&mut self, device: &Jid) -> &mut Vec<State> {
        let first = || vec![State { at: 0, by: None, way: None, is_known: true }];
        self.states.entry(device.clone()).or_insert_with(first)
    }

    /// The service begins with a request of that id: why things change by it, if an owner says so.
    pub(super) fn begin(&mut self, id: &str, now: u64, at: u64) -> Option<Cause> {
        if let Some(number) = number_of(id, 'r') {
            return Some(self.orders.begin(number, now));
        }
        let number = number_of(id, 'o')?;
        let answer = &mut self.answers[number];
        assert!(answer.begun.replace(now).is_none(), "{id} was said once: {answer:?}");
        answer.begun_at = at;
        Some(Cause::Answered { number, thing: answer.thing, caller: answer.caller.clone() })
    }

    /// Something was changed in the store, at a moment of this life of the broker.
    pub(super) fn happened(
        &mut self,
        things: &mut Things,
        store: &MemoryStore,
        whose: &Whose,
        changes: Vec<Change>,
        (now, life): (u64, u32),
    ) {
        let by = By::of_work(whose).filter(|_| !changes.is_empty());
        for change in changes {
            match change {
                Change::Thing(key, record) => {
                    let thing = things.happened(whose, &key, record.as_deref());
                    self.changed(things, whose, thing);
                }
                Change::Question(key, is_put) => self.question(&key, is_put, things.now_is(), (now, life)),
            }
        }
        if let Some(By::Order(number)) = by {
            self.orders.check_stored(number, things, store);
            self.check_forgotten(number);
        }
    }

    /// What was asked before an order about the things whose rules it deletes is forgotten, when that is committed.
    fn check_forgotten(&self, order: usize) {
        for (key, question) in self.questions.iter().filter(|(_, question)| question.put.is_some()) {
            let Some((asked, _)) = self.told.get(key) else { continue };
            let is_old = question.since < self.orders.begun(order);
            assert!(!is_old || !self.orders.deletes_rules(order, asked.thing), "{asked:?} is asked still");
        }
    }

    fn changed(&mut self, things: &Things, whose: &Whose, thing: usize) {
        let (device, at) = (&things.names[thing].0, things.now_is());
        let by = By::of_work(whose);
        let begins_anew = matches!(by, Some(By::Order(number)) if self.orders.is_done(number, thing));
        if begins_anew || things.changed_hands(thing) {
            for answer in self.answers.iter_mut().filter(|answer| answer.thing == thing && answer.counts(at)) {
                answer.void = Some(at);
                self.orders.rules_deleted += u64::from(begins_anew);
            }
        }
        if let Some(By::Answer(number)) = by {
            assert!(self.answers[number].done.replace(at).is_none(), "{:?} was done twice", self.answers[number]);
            self.ruled += 1;
        }
        self.states(device).push(State { at, by, way: None, is_known: false });
    }

    fn question(&mut self, key: &[u8], is_put: bool, since: u64, put: (u64, u32)) {
        // Behind a slot: the owner, what it is, the device, and the question.
        let text = std::str::from_utf8(&key[2..]).unwrap();
        let [owner, device, id] = text.split('\0').collect::<Vec<_>>()[..] else { return };
        if !device.starts_with('q') {
            return;
        }
        let put = is_put.then_some(put);
        match self.questions.entry(id.to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert(Question { owner: owner.to_owned(), put, since });
            }
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                if known.put.is_some() != is_put {
                    (known.put, known.since) = (put, since);
                }
            }
        }
    }

    /// Some work on a shard is done: which homes hear of it.
    pub(super) fn spreads(&mut self, from: usize, home: impl Fn(&Jid) -> usize, reply: &Reply, cause: Option<&Cause>) {
        let changed = reply.effects.iter().filter_map(|effect| {
            let Effect::ThingsChanged(accounts) = effect else { return None };
            Some(accounts)
        });
        let changed: Vec<&Jid> = changed.flatten().collect();
        let by = cause.and_then(By::of);
        for (device, states) in &mut self.states {
            let (to, is_told) = (home(device), changed.contains(&device));
            let (sent, _) = self.lanes.get(&(from, to)).copied().unwrap_or_default();
            for state in states.iter_mut().filter(|state| !state.is_known && state.way.is_none()) {
                if is_told {
                    (state.way, state.is_known) = (Some((from, to, sent + 1)), from == to);
                } else if by.is_some() && state.by == by {
                    // Whoever should hear of it never will.
                    state.is_known = true;
                }
            }
        }
    }

    /// A batch is under way.
    pub(super) fn batch_sent(&mut self, from: usize, to: usize) {
        self.lanes.entry((from, to)).or_default().0 += 1;
    }

    /// A batch has arrived.
    pub(super) fn batch_arrived(&mut self, from: usize, to: usize) {
        let lane = self.lanes.entry((from, to)).or_default();
        lane.1 += 1;
        let arrived = lane.1;
        for state in self.states.values_mut().flatten() {
            state.is_known |= state.way.is_some_and(|(by, at, number)| (by, at) == (from, to) && number <= arrived);
        }
    }

    /// The broker is started anew: what is stored is what it knows.
    pub(super) fn start_anew(&mut self) {
        self.lanes.clear();
        for state in self.states.values_mut().flatten() {
            (state.is_known, state.way) = (true, None);
        }
    }

    /// A device's question was taken; if it has no answer yet, the last state that counts is yet to come.
    pub(super) fn is_taken(&mut self, number: usize, device: &Jid) {
        let states = self.states(device);
        let first = states.iter().rposition(|state| state.is_known).unwrap();
        let last = states.len() - 1;
        self.decisions[number].states = Some((first, last));
    }

    /// The service has answered something.
    pub(super) fn answered(&mut self, things: &Things, device: &Jid, reply: &Node, store_fails: bool) {
        let id = reply.attr("id").unwrap_or_default();
        if let Some(number) = number_of(id, 'd') {
            let last = self.states(device).len() - 1;
            let states = self.decisions[number].states.as_mut();
            states.expect("it was taken").1 = last;
        }
        if let Some(number) = number_of(id, 'r') {
            self.orders.answered(number, things, reply, store_fails);
        }
        let Some(number) = number_of(id, 'o') else { return };
        let answer = &self.answers[number];
        let kind = reply.attr("type").unwrap_or_default();
        let error = reply.children.first().and_then(|error| error.children.first());
        let condition = error.map(|condition| &*condition.name).unwrap_or_default();
        let was_open = self.questions.get(&answer.key).is_some_and(|question| {
            let is_theirs = question.owner == answer.caller.as_str();
            is_theirs && question.put.is_some_and(|(put, _)| put < answer.begun_at)
        });
        // A question that was put while its thing was given up may be left.
        let was_theirs = answer.begun.is_some_and(|begun| things.is_owned_since(answer.thing, &answer.caller, begun));
        let is_true = match (kind, condition) {
            ("result", _) => answer.done.is_some(),
            (_, "resource-constraint" | "internal-server-error") => answer.done.is_none() && store_fails,
            (_, "item-not-found") => answer.done.is_none() && !was_open,
            (_, "forbidden") => {
                answer.done.is_none()
                    && !(was_open && was_theirs)
                    && things.was_one_owned_by(answer.thing, answer.caller.as_str())
            }
            _ => false,
        };
        assert!(is_true, "{answer:?} was answered {reply:?}: {:?}", self.questions.get(&answer.key));
        self.refused += u64::from(kind == "error");
        self.answers[number].told = Some(kind.to_owned());
    }

    /// What is said of a piece of a wish at a time.
    fn verdict(&self, wish: &Wish, piece: Piece, at: u64) -> Verdict {
        let counts = |answer: &&Answer| answer.is_about(wish) && answer.counts(at);
        let mut answers: Vec<&Answer> = self.answers.iter().filter(counts).collect();
        answers.sort_unstable_by_key(|answer| (answer.range, Reverse(answer.done)));
        let speaks = answers.iter().position(|answer| answer.part.has(piece));
        let more = &answers[..speaks.unwrap_or(answers.len())];
        Verdict { said: speaks.map(|at| answers[at].allow), is_unsure: more.iter().any(|answer| answer.allow) }
    }

    /// What a device was told is within the bounds of what its owner said.
    fn check_decision(&self, things: &Things, decision: &Decision, told: &Node) {
        let Decision { wish, states, .. } = decision;
        let (first, last) = states.expect("it was taken");
        let states = &self.states[&things.names[wish.thing].0][first..=last];
        let owners: Vec<Option<&Jid>> = states.iter().map(|state| things.owner(wish.thing, state.at)).collect();
        if owners.contains(&Some(&wish.asker)) {
            return;
        }
        // Whose it is and what is allowed are read one after the other.
        let has_one_owner = owners.iter().all(|owner| *owner == owners[0]);
        let (some, all) = (told.attr("result") == Some("true"), wish.pieces().all(|piece| wish.is_told(piece, told)));
        let follows = |state: &State| {
            let says = |piece| self.verdict(wish, piece, state.at);
            let is_some_sure = wish.pieces().any(|piece| wish.can_name(piece) && says(piece).surely_allows());
            let is_all_sure = wish.pieces().all(|piece| says(piece).surely_allows());
            let is_enough = (some || !is_some_sure) && (all || !is_all_sure);
            let mut told = wish.pieces().filter(|piece| wish.is_told(*piece, told));
            (is_enough || !has_one_owner) && told.all(|piece| says(piece).allows())
        };
        let about = || self.answers.iter().filter(|answer| answer.is_about(wish)).collect::<Vec<_>>();
        assert!(states.iter().any(follows), "{decision:?} was told {told:?}, after {:?}", about());
    }
}

impl World {
    // ---- what is asked and answered -----------------------------------------------------------------------------

    /// A client comes by a device, or decides something, whether it may or not.
    pub(super) fn say_owner(&mut self, client: usize) {
        if self.random.percent(70) {
            let asker =
                if self.random.percent(20) { Jid::parse(FOREIGNER).unwrap() } else { self.clients[client].jid.bare() };
            let thing = self.random.below(self.things.names.len());
            let is_device = self.things.names[thing].1.id.is_empty();
            let kind = match self.random.below(3) {
                0 if is_device => Kind::Friend,
                1 => Kind::Control,
                _ => Kind::Read,
            };
            let wish = Wish { thing, kind, asker, shape: self.random.below(4) };
            return self.ask_whether(wish);
        }
        if self.random.percent(20) {
            return self.order_something(client);
        }
        self.decide_something(client);
    }

    /// A client decides what it was asked once, or what another was.
    fn decide_something(&mut self, client: usize) {
        let account = self.clients[client].jid.bare();
        let mut keys: Vec<&String> = self.owners.told.keys().collect();
        if self.random.percent(80) {
            keys.retain(|key| self.owners.told[*key].0.owner == account);
        }
        keys.sort_unstable();
        if !keys.is_empty() {
            let key = self.random.pick(&keys).clone();
            self.answer_question(client, &key);
        }
    }

    /// A device asks whether somebody may do something, if it is there.
    fn ask_whether(&mut self, wish: Wish) {
        let (device, node) = self.things.names[wish.thing].clone();
        let there: Vec<usize> = (0..self.clients.len())
            .filter(|&at| !self.clients[at].ended && !self.clients[at].cut && self.clients[at].jid.bare() == device)
            .collect();
        if there.is_empty() {
            return;
        }
        let client = self.random.pick(&there);
        let generation = self.plan.generation;
        let (number, ns, asker) = (self.owners.decisions.len(), Interface::Device.ns(generation), &wish.asker);
        let is_long = generation == Generation::Xsf;
        let (nd, id) = if is_long { ("node", "nodeId") } else { ("nd", "id") };
        let node = if node.id.is_empty() { String::new() } else { format!("<{nd} {id}='{}'/>", node.id) };
        let names = |short: &str, long: &str| {
            let named = |name: &&str| {
                if is_long { format!("<{long} name='{name}'/>") } else { format!("<{short} n='{name}'/>") }
            };
            [&[][..], &["A"], &["A", "B"], &["B"]][wish.shape].iter().map(named).collect::<String>()
        };
        let payload = match wish.kind {
            Kind::Friend => format!("<isFriend xmlns='{ns}' jid='{asker}'/>"),
            Kind::Read => {
                let categories = ["all='true'", "m='true'", "m='true' s='true'", "all='true'"][wish.shape];
                format!("<canRead xmlns='{ns}' jid='{asker}' {categories}>{node}{}</canRead>", names("f", "field"))
            }
            Kind::Control => {
                format!("<canControl xmlns='{ns}' jid='{asker}'>{node}{}</canControl>", names("p", "parameter"))
            }
        };
        self.queue(client, format!("<iq type='get' id='d{number}' to='{REGISTRY}'>{payload}</iq>"), None);
        self.owners.decisions.push(Decision { wish, client, states: None, heard: false });
    }

    /// Somebody answers a question that somebody heard.
    fn answer_question(&mut self, client: usize, key: &str) {
        let number = self.owners.answers.len();
        let (Asked { thing, kind, asker, .. }, _) = &self.owners.told[key];
        let (thing, kind, asker) = (*thing, *kind, asker.clone());
        let ns = Interface::Owner.ns(self.plan.generation);
        let device = self.things.names[thing].0.clone();
        let allow = self.random.percent(70);
        let range = self.random.pick(&[Range::Asker, Range::Asker, Range::Asker, Range::Domain, Range::All]);
        let (part, partial) = match (kind, self.random.below(6)) {
            (Kind::Read, 0) => (Part::Momentary, "<partial m='true'/>"),
            (Kind::Read, 1) => (Part::OnlyA, "<partial all='true'><f n='A'/></partial>"),
            (Kind::Control, 0 | 1) => (Part::OnlyA, "<partial><p n='A'/></partial>"),
            _ => (Part::Whole, ""),
        };
        let said = format!("xmlns='{ns}' jid='{device}' remoteJid='{asker}' key='{key}' result='{allow}'");
        let origin = match range {
            Range::Asker => "fromJid",
            Range::Domain => "fromDomain",
            Range::All => "all",
        };
        let payload = match kind {
            Kind::Friend => {
                let range = match range {
                    Range::Asker => "Caller",
                    Range::Domain => "Domain",
                    Range::All => "All",
                };
                format!("<isFriendRule {said} range='{range}'/>")
            }
            Kind::Read => format!("<canReadRule {said}>{partial}<{origin}/></canReadRule>"),
            Kind::Control => format!("<canControlRule {said}>{partial}<{origin}/></canControlRule>"),
        };
        self.queue_soon(client, format!("<iq type='set' id='o{number}' to='{REGISTRY}'>{payload}</iq>"));
        self.owners.answers.push(Answer {
            caller: self.clients[client].jid.bare(),
            client,
            key: key.to_owned(),
            thing,
            kind,
            asker,
            range,
            allow,
            part,
            begun: None,
            begun_at: 0,
            done: None,
            void: None,
            told: None,
            heard: false,
        });
    }

    /// What a client said was taken: if a device asks something, its answer is from now or from later.
    pub(super) fn decision_is_taken(&mut self, client: usize, number: usize) {
        let device = self.clients[client].jid.bare();
        self.owners.is_taken(number, &device);
    }

    // ---- what clients hear --------------------------------------------------------------------------------------

    /// A client has an answer of the service's.
    pub(super) fn hear_answer(&mut self, client: usize, id: &str, stanza: &Node) {
        let kind = stanza.attr("type").unwrap_or_default();
        if let Some(number) = number_of(id, 'o') {
            let answer = &mut self.owners.answers[number];
            assert_eq!((answer.told.as_deref(), answer.client), (Some(kind), client), "{answer:?}");
            assert!(!std::mem::replace(&mut answer.heard, true), "it has the answer already: {answer:?}");
            let thing = answer.thing;
            // Some change their minds.
            if kind == "result" && self.owners.days == 0 && self.random.percent(50) {
                self.give_order(client, thing);
            }
        }
        if let Some(number) = number_of(id, 'r') {
            self.owners.orders.hears(number, client, kind);
        }
        let Some(number) = number_of(id, 'd') else { return };
        let decision = &mut self.owners.decisions[number];
        assert_eq!(decision.client, client, "{decision:?} is another's");
        assert!(!std::mem::replace(&mut decision.heard, true), "it has the answer already: {decision:?}");
        if kind == "error" {
            let fails = self.plan.slow || self.plan.store_refuses;
            assert!(fails, "{:?} was answered {stanza:?}", self.owners.decisions[number]);
            return;
        }
        let told = &stanza.children[0];
        self.owners.check_decision(&self.things, &self.owners.decisions[number], told);
        self.owners.decided += 1;
        self.owners.allowed += u64::from(told.attr("result") == Some("true"));
    }

    /// A client is sent a message of the service's.
    pub(super) fn hear_message(&mut self, client: usize, said: &Node) {
        let account = self.clients[client].jid.bare();
        let jid = |name: &str| Jid::parse(said.attr(name).unwrap_or_default()).unwrap();
        let kind = match &*said.name {
            "friend" | "unfriend" => {
                let (friend, allow) = (jid("jid"), &*said.name == "friend");
                let is_decided = self.owners.answers.iter().any(|answer| {
                    let is_it = (answer.kind, &answer.asker, answer.allow) == (Kind::Friend, &friend, allow);
                    is_it && answer.done.is_some() && self.things.names[answer.thing].0 == account
                });
                assert!(is_decided, "{account} was told {said:?}, and nobody decided that");
                return;
            }
            "isFriend" => Kind::Friend,
            "canRead" => Kind::Read,
            "canControl" => Kind::Control,
            _ => panic!("{account} was told {said:?}"),
        };
        let node = said.children.iter().find(|child| matches!(&*child.name, "nd" | "node"));
        let node = node.and_then(node_id).unwrap_or_default();
        let thing = self.things.find(&jid("jid"), node).expect("it is about a thing there is");
        assert!(self.things.was_owned_by(thing, account.as_str()), "{account} was asked {said:?}");
        let key = said.attr("key").unwrap_or_default();
        let asked = Asked { owner: account, thing, kind, asker: jid("remoteJid") };
        let (known, heard) = self.owners.told.entry(key.to_owned()).or_insert_with(|| {
            let Asked { owner, asker, .. } = &asked;
            (Asked { owner: owner.clone(), thing, kind, asker: asker.clone() }, Vec::new())
        });
        assert_eq!(*known, asked, "one question was put to two");
        heard.push(self.activity);
        self.owners.asked += 1;
        if self.owners.days > 0 {
            return;
        }
        for _ in 0..[0, 0, 1, 1, 1, 2][self.random.below(6)] {
            self.answer_question(client, key);
        }
        if let Some(client) = self.someone().filter(|_| self.random.percent(30)) {
            self.decide_something(client);
        }
    }

    // ---- when all is quiet --------------------------------------------------------------------------------------

    /// Everybody takes messages, and some begin anew; then what was lost of what owners are to be asked is asked again a day later.
    pub(super) fn ask_anew(&mut self) {
        if !self.plan.owners {
            return;
        }
        let refused = std::mem::take(&mut self.plan.store_refuses_percent);
        for client in 0..self.clients.len() {
            let Some(there) = self.clients.get_mut(client).filter(|one| !one.ended && one.available) else { continue };
            if there.priority < 0 {
                there.priority = 0;
                self.queue(client, "<presence/>".into(), None);
            }
            if self.random.percent(50) {
                self.order_something(client);
            }
        }
        self.settle();
        self.check_questions();
        (self.owners.days, self.owners.day_began) = (self.owners.days + 1, self.activity);
        let mut wishes: Vec<Wish> = Vec::new();
        for decision in &self.owners.decisions {
            if !wishes.contains(&decision.wish) {
                wishes.push(decision.wish.clone());
            }
        }
        let (drops, first) = (self.drops(), self.owners.decisions.len());
        for wish in wishes {
            self.ask_whether(wish);
            self.settle();
        }
        self.plan.store_refuses_percent = refused;
        if self.drops() == drops {
            self.check_asked_anew(first);
        }
    }

    /// Who is there was asked all that is open, if nothing was lost.
    fn check_questions(&self) {
        let room = |reason| self.shards.iter().all(|shard| shard.counters.drops[reason] == 0);
        if self.plan.store_refuses || !room(DropReason::OutboxFull) || !room(DropReason::MeshFull) {
            return;
        }
        for (key, Question { owner, put, .. }) in &self.owners.questions {
            let Some((at, life)) = *put else { continue };
            let heard = self.owners.told.get(key).map(|(_, heard)| &heard[..]).unwrap_or_default();
            let is_lost = life < self.life || !self.takes_messages(owner);
            assert!(
                is_lost || heard.iter().any(|heard| *heard >= at),
                "{owner} was never asked {key} of {at}: {heard:?}"
            );
        }
    }

    /// Of what devices asked today, which is the `first` and those after it, and nobody has decided, whoever is there has heard today.
    fn check_asked_anew(&self, first: usize) {
        for Decision { wish, states, .. } in &self.owners.decisions[first..] {
            let device = &self.things.names[wish.thing].0;
            let Some(state) = states.map(|(_, last)| &self.owners.states[device][last]) else { continue };
            let is_open = wish.pieces().any(|piece| self.owners.verdict(wish, piece, state.at).is_open());
            let owner = self.things.now(wish.thing).and_then(|thing| thing.owner());
            let is_to_hear = |owner: &&Jid| **owner != wish.asker && self.takes_messages(owner.as_str());
            let Some(owner) = owner.filter(is_to_hear) else { continue };
            let is_there = self.clients.iter().any(|client| !client.ended && client.jid.bare() == *device);
            let is_it = |asked: &Asked| {
                (&asked.owner, asked.thing, asked.kind, &asked.asker) == (owner, wish.thing, wish.kind, &wish.asker)
            };
            let mut heard = self.owners.told.values().filter(|(asked, _)| is_it(asked)).flat_map(|(_, heard)| heard);
            assert!(
                !is_open || !is_there || heard.any(|heard| *heard >= self.owners.day_began),
                "{owner} was not asked about {wish:?} again"
            );
        }
    }

    fn takes_messages(&self, account: &str) -> bool {
        let is_it = |client: &&super::Client| client.jid.bare().as_str() == account;
        self.clients.iter().filter(is_it).any(|client| !client.ended && client.available && client.priority >= 0)
    }

    /// Who is there has all answers.
    pub(super) fn check_owners(&self) {
        let room = |reason| self.shards.iter().all(|shard| shard.counters.drops[reason] == 0);
        if !room(DropReason::OutboxFull) || !room(DropReason::MeshFull) {
            return;
        }
        let there = |client: usize| !self.clients[client].ended;
        for answer in self.owners.answers.iter().filter(|answer| there(answer.client)) {
            assert!(answer.heard, "{answer:?} has no answer");
        }
        self.owners.orders.check(there);
        for decision in self.owners.decisions.iter().filter(|decision| there(decision.client)) {
            assert!(decision.heard, "{decision:?} has no answer");
        }
    }
}

/// The number in an id of that kind.
pub(super) fn number_of(id: &str, kind: char) -> Option<usize> {
    id.strip_prefix(kind)?.parse().ok()
}
