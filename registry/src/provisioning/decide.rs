//! Decisions: what a thing's rules say about somebody. No I/O, and nothing is allocated but the answer, and a list of the
//! nodes and of the names that it is worked out from.
//!
//! Of the rules that say something about a part of what is asked for, the most specific one counts: of a user's token,
//! a device's, a service's, the JID, its domain, everybody. Of two of the same origin the newer one counts, of several
//! tokens of one class the most forgiving. What no rule speaks of is denied, and open: its owner is to be asked.

use std::borrow::Cow;

use plaza_core::jid::JidRef;
use plaza_core::provisioning::{CELLS_MAX, Categories, Kind, NAMES_MAX, NodeRef, Part, Permission, Tokens};

use super::home::{HomeThing, HomeThings};
use super::rule::{Level, Rule};

/// Tokens of a class that are looked at, the first ones. Default 4: a request comes through few hands. The others are as
/// good as not there.
pub const TOKENS_MAX: usize = 4;

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What somebody wants to do.
    pub kind: Kind,
    /// Who: a bare JID.
    pub asker: JidRef<'a>,
    /// The tokens presented.
    pub tokens: &'a Tokens<'a>,
    /// With which nodes; none is with the device itself.
    pub nodes: &'a [NodeRef<'a>],
    /// Which categories of fields, for [`Kind::Read`]; otherwise [`Kind::categories`].
    pub categories: Categories,
    /// Which fields or parameters, [`NAMES_MAX`] at most; none is all.
    pub names: &'a [Cow<'a, str>],
}

/// What is decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision<'a> {
    /// What is allowed, if anything.
    pub permission: Option<Permission<'a>>,
    /// What the owner has not decided.
    pub open: Vec<Open<'a>>,
    /// Whether a rule denies some of it.
    pub denied: bool,
}

/// What an owner has not decided about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open<'a> {
    /// Which of the nodes that were asked about; 0 if none was named.
    pub node: usize,
    /// In which categories.
    pub categories: Categories,
    /// Which fields or parameters; `None` is all.
    pub names: Option<Vec<&'a str>>,
}

impl Open<'_> {
    /// The same, owned.
    pub fn to_part(&self) -> Part {
        let names = self.names.as_ref().map(|names| names.iter().map(|&name| name.into()).collect());
        Part { categories: self.categories, names }
    }
}

/// Decides. `component` is the address of the service itself, which may do everything, as may the owner. What is unknown,
/// or nobody's, nobody may touch, and nobody is asked.
pub fn decide<'a>(things: Option<&'a HomeThings>, component: &str, asked: Asked<'a>) -> Decision<'a> {
    let nodes = if asked.nodes.is_empty() { &[NodeRef::DEVICE] } else { asked.nodes };
    let find = |node| things.and_then(|things| things.find(node)).filter(|thing| thing.owner.is_some());
    let Some(universe) = Universe::of(nodes.iter().filter_map(find), nodes.len(), asked) else {
        return Decision { denied: true, ..Decision::default() };
    };
    let whole = Rights::whole(asked.categories, universe.all());
    let mut open = Vec::new();
    let mut denied = false;
    let mut allowed = Vec::with_capacity(nodes.len());
    for (place, node) in nodes.iter().enumerate() {
        let Some(thing) = find(node) else { continue };
        let may_all = asked.asker.as_str() == component
            || thing.owner.as_ref().is_some_and(|owner| owner.as_jid().bare() == asked.asker);
        let verdict =
            if may_all { Verdict { decided: whole, allowed: whole } } else { Verdict::of(thing, asked, &universe) };
        let undecided = whole.without(&verdict.decided);
        if let Some((categories, names)) = undecided.bounds() {
            open.push(Open { node: place, categories, names: universe.named(names) });
        }
        denied |= verdict.decided != verdict.allowed;
        if verdict.allowed.bounds().is_some() {
            allowed.push((place, verdict.allowed));
        }
    }
    Decision { permission: permit(&allowed, asked.categories, &universe), open, denied }
}

/// What is allowed for all of as many nodes as can be: an answer lists nodes, categories and names, and allows each with
/// each, so that what the rules of one node allow must not be said of another.
fn permit<'a>(allowed: &[(usize, Rights)], asked: Categories, universe: &Universe<'a>) -> Option<Permission<'a>> {
    let (_, first) = allowed.first()?;
    let common = allowed.iter().fold(*first, |common, (_, rights)| common.and(rights));
    let places = |are: &dyn Fn(&Rights) -> bool| {
        allowed.iter().filter(|(_, rights)| are(rights)).map(|&(place, _)| place).collect::<Vec<_>>()
    };
    let (nodes, (categories, names)) = match common.largest(asked, universe) {
        Some(part) => (places(&|_| true), part),
        // Nothing is allowed for all of them. The most that have equal rights, of those the ones named first.
        None => {
            let mut best: Option<(Vec<usize>, (Categories, Set))> = None;
            for (at, (_, rights)) in allowed.iter().enumerate() {
                let is_first = !allowed.iter().take(at).any(|(_, before)| before == rights);
                let Some(part) = rights.largest(asked, universe).filter(|_| is_first) else { continue };
                let nodes = places(&|other| other == rights);
                if best.as_ref().is_none_or(|(most, _)| nodes.len() > most.len()) {
                    best = Some((nodes, part));
                }
            }
            best?
        }
    };
    Some(Permission { nodes, categories, names: universe.named(names) })
}

/// The names that are told apart: those asked for; or, if all are asked for, those that rules speak of, and the rest.
enum Universe<'a> {
    Asked(&'a [Cow<'a, str>]),
    Ruled(Vec<&'a str>),
}

impl<'a> Universe<'a> {
    /// `None` if there are more than can be told apart.
    fn of(things: impl Iterator<Item = &'a HomeThing>, nodes: usize, asked: Asked<'a>) -> Option<Self> {
        if !asked.names.is_empty() {
            return (asked.names.len() <= NAMES_MAX).then_some(Self::Asked(asked.names));
        }
        let mut names: Vec<&str> = Vec::new();
        for thing in things {
            let mut is_too_many = false;
            each_rule(thing, asked, |rule| {
                for name in rule.names.iter().flatten() {
                    if let Err(at) = names.binary_search(&&**name) {
                        is_too_many |= names.len() >= NAMES_MAX;
                        if !is_too_many {
                            names.insert(at, name);
                        }
                    }
                }
            });
            if is_too_many || names.len() * nodes > CELLS_MAX {
                return None;
            }
        }
        Some(Self::Ruled(names))
    }

    fn len(&self) -> usize {
        match self {
            Self::Asked(names) => names.len(),
            Self::Ruled(names) => names.len(),
        }
    }

    fn get(&self, at: usize) -> Option<&'a str> {
        match self {
            Self::Asked(names) => names.get(at).map(|name| &**name),
            Self::Ruled(names) => names.get(at).copied(),
        }
    }

    fn all(&self) -> Set {
        let mut set = Set::default();
        (0..self.len()).for_each(|at| set.insert(at));
        if let Self::Ruled(_) = self {
            set.insert(REST);
        }
        set
    }

    /// The names that a rule speaks of.
    fn ruled(&self, rule: &Rule) -> Set {
        let Some(names) = &rule.names else { return self.all() };
        let mut set = Set::default();
        for at in 0..self.len() {
            if self.get(at).is_some_and(|name| names.binary_search_by(|known| (**known).cmp(name)).is_ok()) {
                set.insert(at);
            }
        }
        set
    }

    /// What of a set can be said, and how much that is: all, or by name. The rest has no names.
    fn sayable(&self, set: Set) -> (Set, u32) {
        if set == self.all() {
            return (set, set.len());
        }
        let set = set.without(Set::REST);
        (set, set.len())
    }

    /// The names of a set, `None` for all of them without naming one.
    fn named(&self, set: Set) -> Option<Vec<&'a str>> {
        if set.has(REST) {
            return None;
        }
        Some((0..self.len()).filter(|&at| set.has(at)).filter_map(|at| self.get(at)).collect())
    }
}

/// A set of names by their places, [`REST`] standing for those that nobody named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Set([u64; 4]);

const REST: usize = NAMES_MAX;
const _: () = assert!(REST == 255, "a set has room for all names and the rest");

impl Set {
    const REST: Self = Self([0, 0, 0, 1 << 63]);

    fn insert(&mut self, at: usize) {
        if let Some(word) = self.0.get_mut(at / 64) {
            *word |= 1 << (at % 64);
        }
    }

    fn has(self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 != 0)
    }

    fn is_empty(self) -> bool {
        self.0 == [0; 4]
    }

    fn len(self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Self([with(a, e), with(b, f), with(c, g), with(d, h)])
    }

    fn or(self, other: Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    fn and(self, other: Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    fn without(self, other: Self) -> Self {
        self.zip(other, |a, b| a & !b)
    }
}

/// A set of names for each category.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Rights([Set; Categories::COUNT]);

impl Rights {
    fn whole(categories: Categories, names: Set) -> Self {
        let mut rights = Self::default();
        let places = rights.0.iter_mut().enumerate().filter(|&(place, _)| categories.has(place));
        places.for_each(|(_, set)| *set = names);
        rights
    }

    fn zip(&self, other: &Self, with: impl Fn(Set, Set) -> Set) -> Self {
        let mut out = *self;
        out.0.iter_mut().zip(other.0).for_each(|(set, other)| *set = with(*set, other));
        out
    }

    fn or(&self, other: &Self) -> Self {
        self.zip(other, Set::or)
    }

    fn and(&self, other: &Self) -> Self {
        self.zip(other, Set::and)
    }

    fn without(&self, other: &Self) -> Self {
        self.zip(other, Set::without)
    }

    /// The least categories and names that hold it; `None` if it is empty.
    fn bounds(&self) -> Option<(Categories, Set)> {
        let filled = self.0.iter().enumerate().filter(|(_, set)| !set.is_empty());
        filled.fold(None, |bounds, (place, &set)| {
            let (categories, names) = bounds.unwrap_or((Categories::NONE, Set::default()));
            Some((categories.with(place), names.or(set)))
        })
    }

    /// The most categories times names that are all in it, and can be said. Of as much, the most categories, then the
    /// first of them.
    fn largest(&self, asked: Categories, universe: &Universe<'_>) -> Option<(Categories, Set)> {
        let mut best: Option<(u32, Categories, Set)> = None;
        // Nearly always all categories have the same rights, so the whole comes first and is as much as there can be.
        for bits in (1..=asked.bits()).rev() {
            let Some(categories) = Categories::from_bits(bits).filter(|&some| some.and(asked) == some) else {
                continue;
            };
            let chosen = self.0.iter().enumerate().filter(|&(place, _)| categories.has(place));
            let common = chosen.fold(universe.all(), |common, (_, &set)| common.and(set));
            let (names, count) = universe.sayable(common);
            let worth = count * categories.len();
            let is_better = match &best {
                Some((most, known, _)) => (worth, categories.len()) >= (*most, known.len()),
                None => true,
            };
            if worth > 0 && is_better {
                best = Some((worth, categories, names));
            }
            if best.as_ref().is_some_and(|(_, known, set)| *known == asked && *set == universe.all()) {
                break;
            }
        }
        best.map(|(_, categories, names)| (categories, names))
    }
}

/// What rules say about a node: about which of it, and what of that is allowed.
#[derive(Debug, Clone, Copy, Default)]
struct Verdict {
    decided: Rights,
    allowed: Rights,
}

impl Verdict {
    fn of(thing: &HomeThing, asked: Asked<'_>, universe: &Universe<'_>) -> Self {
        let mut verdict = Self::default();
        if !thing.has_rules() {
            return verdict;
        }
        for (level, tokens) in classes(asked.tokens) {
            let mut class = Self::default();
            for token in tokens.split_ascii_whitespace().take(TOKENS_MAX) {
                let mut own = Self::default();
                for rule in thing.rules_of(asked.kind, level, token) {
                    own.apply(rule, asked, universe);
                }
                class.decided = class.decided.or(&own.decided);
                class.allowed = class.allowed.or(&own.allowed);
            }
            let fresh = class.decided.without(&verdict.decided);
            verdict.allowed = verdict.allowed.or(&class.allowed.and(&fresh));
            verdict.decided = verdict.decided.or(&fresh);
        }
        for (level, text) in addresses(asked.asker) {
            for rule in thing.rules_of(asked.kind, level, text) {
                verdict.apply(rule, asked, universe);
            }
        }
        verdict
    }

    /// What a rule says about what is not decided yet.
    fn apply(&mut self, rule: &Rule, asked: Asked<'_>, universe: &Universe<'_>) {
        let says = Rights::whole(rule.categories.and(asked.categories), universe.ruled(rule));
        let fresh = says.without(&self.decided);
        self.decided = self.decided.or(&fresh);
        if rule.allow {
            self.allowed = self.allowed.or(&fresh);
        }
    }
}

/// The classes of tokens, the most specific first.
fn classes<'a>(tokens: &'a Tokens<'_>) -> impl Iterator<Item = (Level, &'a str)> {
    let classes = [(Level::User, &*tokens.user), (Level::Device, &*tokens.device), (Level::Service, &*tokens.service)];
    classes.into_iter().filter(|(_, tokens)| !tokens.is_empty())
}

/// What rules can be of besides tokens, the most specific first.
fn addresses(asker: JidRef<'_>) -> [(Level, &str); 3] {
    [(Level::Jid, asker.as_str()), (Level::Domain, asker.domain()), (Level::All, "")]
}

/// All rules of a thing that may matter.
fn each_rule<'a>(thing: &'a HomeThing, asked: Asked<'_>, mut each: impl FnMut(&'a Rule)) {
    for (level, tokens) in classes(asked.tokens) {
        for token in tokens.split_ascii_whitespace().take(TOKENS_MAX) {
            thing.rules_of(asked.kind, level, token).iter().for_each(&mut each);
        }
    }
    for (level, text) in addresses(asked.asker) {
        thing.rules_of(asked.kind, level, text).iter().for_each(&mut each);
    }
}
