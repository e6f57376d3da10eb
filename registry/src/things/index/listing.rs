//! What the index holds: things by number, strings once each, numbers in order.
//!
//! A thing's number is its place in every answer. It keeps it while it is listed; afterwards the next thing that is new
//! gets it, so that numbers stay dense. A page may then miss a thing that came or went between two of them, as any list
//! counted by offsets does, but never repeats one that stayed where nothing came or went.
#![expect(clippy::indexing_slicing, reason = "numbers are given out here, for what is then at their places")]

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use plaza_core::jid::{Jid, JidRef};
use plaza_core::thing::{KEY, NodeName, Tag, TagValue};
use roaring::RoaringBitmap;

use super::check::{fold_name, ordered};
use super::grams::Grams;
use super::sorted::Sorted;

/// In a thing's words: a number comes, and whose name; its value follows in two words. Else it is a term.
const NUMBER: u32 = 1 << 31;
/// What stands between the parts of a name. XML has no NUL, so neither has a name.
pub(super) const SEPARATOR: char = '\0';

/// Listed things and what is said of them.
///
/// About 350 bytes a thing that has six strings, one of them its own, and two numbers. Everything is exact: what is found
/// passes the operators, and what passes is found.
#[derive(Debug, Default)]
pub struct Index {
    pub(super) things: Vec<Option<Thing>>,
    free_things: Vec<u32>,
    numbers: HashTable<u32>,
    pub(super) names: Vec<Name>,
    free_names: Vec<u32>,
    /// By how they are folded: a name for each spelling.
    named: HashMap<Box<str>, Vec<u32>>,
    pub(super) terms: Vec<Term>,
    /// For each term the thing whose own it is, as most are, or [`SEVERAL`]. All together, so that a search that goes
    /// through many terms need not go to each.
    pub(super) only: Vec<u32>,
    free_terms: Vec<u32>,
    /// Things of which more is said than is kept here, or something else.
    pub(super) apart: RoaringBitmap,
    pub(super) grams: Grams,
    hasher: RandomState,
    bytes: usize,
}

/// A thing.
#[derive(Debug)]
pub(super) struct Thing {
    /// JID, and if it is not the device itself source, partition and id.
    pub(super) who: Box<str>,
    /// Its tags: see [`stored`].
    pub(super) tags: Box<[u32]>,
}

/// A name of tags.
#[derive(Debug, Default)]
pub(super) struct Name {
    /// As it is spelt.
    pub(super) text: Box<str>,
    /// As it is compared: see [`fold_name`].
    pub(super) folded: Box<str>,
    /// How many tags have it. At none, its place is free.
    pub(super) tags: u32,
    /// How many of those are strings.
    pub(super) strings: u32,
    /// Its terms.
    pub(super) terms: RoaringBitmap,
    /// The same in the order of their texts: see [`entry`].
    pub(super) texts: Sorted<[u32; 3]>,
    /// Its numbers, in order: the upper and the lower half of the value, and whose it is.
    pub(super) numbers: Sorted<[u32; 3]>,
}

/// A string that a tag of some name has.
#[derive(Debug)]
pub(super) struct Term {
    pub(super) name: u32,
    pub(super) text: Box<str>,
    /// Which things have it, if several do: else see [`Index::only`].
    pub(super) things: Option<Box<RoaringBitmap>>,
}

/// In place of the only thing that has a string: several have it. No thing has this number.
pub(super) const SEVERAL: u32 = u32::MAX;

/// A tag as it is kept with a thing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stored {
    Term(u32),
    Number { name: u32, value: u64 },
}

/// The tags in a thing's words.
pub(super) fn stored(words: &[u32]) -> impl Iterator<Item = Stored> {
    let mut words = words.iter().copied();
    std::iter::from_fn(move || {
        let word = words.next()?;
        if word & NUMBER == 0 {
            return Some(Stored::Term(word));
        }
        let (upper, lower) = (words.next()?, words.next()?);
        Some(Stored::Number { name: word & !NUMBER, value: u64::from(upper) << 32 | u64::from(lower) })
    })
}

/// How a term stands in the order: what its text begins with, by which most others are told apart, in two words; then itself.
fn entry(text: &str, term: u32) -> [u32; 3] {
    let mut front = [0; 8];
    front.iter_mut().zip(text.bytes()).for_each(|(at, byte)| *at = byte);
    let [upper, lower] = halves(u64::from_be_bytes(front));
    [upper, lower, term]
}

/// How an entry compares with what a span or a mask begins or ends with: most are told apart by what they begin with.
pub(super) fn compare_bytes(terms: &[Term], [upper, lower, term]: [u32; 3], bytes: &[u8]) -> Ordering {
    let mut front = [0; 8];
    front.iter_mut().zip(bytes).for_each(|(at, byte)| *at = *byte);
    let entry = u64::from(upper) << 32 | u64::from(lower);
    entry.cmp(&u64::from_be_bytes(front)).then_with(|| terms[term as usize].text.as_bytes().cmp(bytes))
}

/// How an entry compares with a text, `front` being that of the text. What is shorter is filled up with what is less than
/// any letter.
fn compare(terms: &[Term], [upper, lower, term]: [u32; 3], front: [u32; 3], text: &str) -> Ordering {
    [upper, lower].as_slice().cmp(&front[..2]).then_with(|| terms[term as usize].text.as_ref().cmp(text))
}

fn halves(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

impl Index {
    /// How many things are in it.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// About how much memory it takes, in bytes, counted and not measured.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts in a thing, or what is said of it now. Not found by it are a tag named KEY, a number that is none or not
    /// finite, and a second tag of a name.
    pub fn put(&mut self, jid: JidRef<'_>, node: &NodeName, tags: &[Tag]) {
        let who = who(jid, node);
        let number = match self.number(&who) {
            Some(number) if self.says(number, tags) => return,
            Some(number) => {
                self.forget(number);
                number
            }
            None => self.enter(who),
        };
        let (mut words, mut names) = (Vec::with_capacity(tags.len()), Vec::with_capacity(tags.len()));
        let mut is_apart = false;
        for tag in tags {
            let folded = fold_name(&tag.name);
            let Some(value) = value(tag).filter(|_| !names.contains(&folded)) else {
                is_apart = true;
                continue;
            };
            is_apart |= !is_exact(tag);
            let name = self.name(&tag.name, &folded);
            names.push(folded);
            self.names[name as usize].tags += 1;
            match value {
                Value::Text(text) => words.push(self.note_text(name, text, number)),
                Value::Number(value) => {
                    let [upper, lower] = halves(value);
                    let entry = [upper, lower, number];
                    self.names[name as usize].numbers.insert(entry, |other| other.cmp(&entry));
                    words.extend([NUMBER | name, upper, lower]);
                }
            }
        }
        self.bytes += words_bytes(&words);
        if is_apart {
            self.apart.insert(number);
        }
        if let Some(thing) = &mut self.things[number as usize] {
            thing.tags = words.into();
        }
    }

    /// Takes a thing out.
    pub fn remove(&mut self, jid: JidRef<'_>, node: &NodeName) {
        let who = who(jid, node);
        let Some(number) = self.number(&who) else { return };
        self.forget(number);
        let (hash, things) = (self.hasher.hash_one(&*who), &self.things);
        let is_it = |&other: &u32| things[other as usize].as_ref().is_some_and(|thing| *thing.who == *who);
        if let Ok(entry) = self.numbers.find_entry(hash, is_it) {
            entry.remove();
        }
        self.things[number as usize] = None;
        self.free_things.push(number);
        self.bytes -= thing_bytes(&who);
    }

    /// The name of a thing that is in it.
    pub(super) fn whose(&self, number: u32) -> Option<(Jid, NodeName)> {
        let who = &*self.things.get(number as usize)?.as_ref()?.who;
        let mut parts = who.split(SEPARATOR);
        let jid = JidRef::from_normal(parts.next()?).to_jid();
        let mut next = || parts.next().unwrap_or_default().into();
        let (source, partition, id) = (next(), next(), next());
        Some((jid, NodeName { id, source, partition }))
    }

    /// The text of a term.
    pub(super) fn text(&self, term: u32) -> &[u8] {
        self.terms[term as usize].text.as_bytes()
    }

    /// How many things have a term.
    pub(super) fn having(&self, term: u32) -> u64 {
        self.terms[term as usize].things.as_ref().map_or(1, |things| things.len())
    }

    /// The numbers of a name in all its spellings, in no order.
    pub(super) fn named(&self, folded: &str) -> &[u32] {
        self.named.get(folded).map(Vec::as_slice).unwrap_or_default()
    }

    fn number(&self, who: &str) -> Option<u32> {
        let is_it = |&other: &u32| self.things[other as usize].as_ref().is_some_and(|thing| *thing.who == *who);
        self.numbers.find(self.hasher.hash_one(who), is_it).copied()
    }

    /// Gives a new thing its number.
    fn enter(&mut self, who: String) -> u32 {
        let hash = self.hasher.hash_one(&*who);
        self.bytes += thing_bytes(&who);
        let thing = Some(Thing { who: who.into(), tags: Box::default() });
        let number = place(&mut self.things, &mut self.free_things, thing);
        let (hasher, things) = (&self.hasher, &self.things);
        let again = |&other: &u32| things[other as usize].as_ref().map_or(0, |thing| hasher.hash_one(&*thing.who));
        self.numbers.insert_unique(hash, number, again);
        number
    }

    /// Whether this is what is said of a thing already.
    fn says(&self, number: u32, tags: &[Tag]) -> bool {
        let Some(thing) = &self.things[number as usize] else { return false };
        if self.apart.contains(number) {
            return false;
        }
        let same = |stored: Stored, tag: &Tag| match (stored, value(tag)) {
            (Stored::Term(term), Some(Value::Text(text))) => {
                let term = &self.terms[term as usize];
                *term.text == *text && self.names[term.name as usize].text == tag.name
            }
            (Stored::Number { name, value }, Some(Value::Number(number))) => {
                value == number && is_exact(tag) && self.names[name as usize].text == tag.name
            }
            (Stored::Term(_), _) | (Stored::Number { .. }, _) => false,
        };
        let (mut kept, mut said) = (stored(&thing.tags), tags.iter());
        loop {
            match (kept.next(), said.next()) {
                (None, None) => return true,
                (Some(kept), Some(said)) if same(kept, said) => {}
                _ => return false,
            }
        }
    }

    /// Takes out what is said of a thing.
    fn forget(&mut self, number: u32) {
        let Some(thing) = &mut self.things[number as usize] else { return };
        let words = std::mem::take(&mut thing.tags);
        self.apart.remove(number);
        self.bytes -= words_bytes(&words);
        for tag in stored(&words) {
            let name = match tag {
                Stored::Term(term) => self.forget_text(term, number),
                Stored::Number { name, value } => {
                    let [upper, lower] = halves(value);
                    let entry = [upper, lower, number];
                    self.names[name as usize].numbers.remove(|other| other.cmp(&entry));
                    name
                }
            };
            let of = &mut self.names[name as usize];
            of.tags -= 1;
            if of.tags == 0 {
                let Name { text, folded, .. } = std::mem::take(of);
                if let Some(spellings) = self.named.get_mut(&folded) {
                    spellings.retain(|&other| other != name);
                    if spellings.is_empty() {
                        self.named.remove(&folded);
                    }
                }
                self.free_names.push(name);
                self.bytes -= name_bytes(&text);
            }
        }
    }

    /// The number of a name, which is new if nobody had it.
    fn name(&mut self, name: &str, folded: &str) -> u32 {
        let known = self.named(folded).iter().find(|&&number| *self.names[number as usize].text == *name);
        if let Some(&number) = known {
            return number;
        }
        self.bytes += name_bytes(name);
        let new = Name { text: name.into(), folded: folded.into(), ..Name::default() };
        let number = place(&mut self.names, &mut self.free_names, new);
        self.named.entry(folded.into()).or_default().push(number);
        number
    }

    /// Notes that a thing has a string; gives its term.
    fn note_text(&mut self, name: u32, text: &str, number: u32) -> u32 {
        let Self { terms, names, only, .. } = self;
        let of = &mut names[name as usize];
        of.strings += 1;
        let front = entry(text, 0);
        if let Some([.., term]) = of.texts.find(|other| compare(terms, other, front, text)) {
            match &mut terms[term as usize].things {
                Some(things) => _ = things.insert(number),
                none => {
                    let other = std::mem::replace(&mut only[term as usize], SEVERAL);
                    *none = Some(Box::new([other, number].into_iter().collect()));
                }
            }
            return term;
        }
        let new = Term { name, text: text.into(), things: None };
        let term = place(terms, &mut self.free_terms, new);
        match only.get_mut(term as usize) {
            Some(only) => *only = number,
            None => only.push(number),
        }
        of.texts.insert(entry(text, term), |other| compare(terms, other, front, text));
        of.terms.insert(term);
        self.grams.insert(text, term);
        self.bytes += term_bytes(text);
        term
    }

    /// Notes that a thing has a string no longer; gives the name.
    fn forget_text(&mut self, term: u32, number: u32) -> u32 {
        let Self { terms, names, only, .. } = self;
        let name = terms[term as usize].name;
        let of = &mut names[name as usize];
        of.strings -= 1;
        let things = &mut terms[term as usize].things;
        if let Some(set) = things {
            set.remove(number);
            if let (1, Some(other)) = (set.len(), set.min()) {
                only[term as usize] = other;
                *things = None;
            }
        } else {
            let text = std::mem::take(&mut terms[term as usize].text);
            let front = entry(&text, term);
            // The one of its name that is it needs no comparing.
            of.texts.remove(|other| if other == front { Ordering::Equal } else { compare(terms, other, front, &text) });
            of.terms.remove(term);
            self.grams.remove(&text, term);
            self.free_terms.push(term);
            self.bytes -= term_bytes(&text);
        }
        name
    }
}

#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Text(&'a str),
    Number(u64),
}

/// What is to be found of a tag.
fn value(tag: &Tag) -> Option<Value<'_>> {
    match &tag.value {
        _ if tag.is(KEY) => None,
        TagValue::Str(text) => Some(Value::Text(text)),
        TagValue::Num(number) => number.is_finite().then(|| Value::Number(ordered(*number))),
    }
}

/// Whether a tag can be told as it was said: zeros are one here, and there are two.
fn is_exact(tag: &Tag) -> bool {
    match tag.value {
        TagValue::Str(_) => true,
        TagValue::Num(number) => number != 0.0 || number.is_sign_positive(),
    }
}

fn who(jid: JidRef<'_>, node: &NodeName) -> String {
    let mut who = jid.bare().as_str().to_owned();
    if !node.is_device() {
        for part in [&node.source, &node.partition, &node.id] {
            who.push(SEPARATOR);
            who.push_str(part);
        }
    }
    who
}

/// Puts a value at a free place, or behind the last.
fn place<T>(values: &mut Vec<T>, free: &mut Vec<u32>, value: T) -> u32 {
    if let Some(number) = free.pop() {
        values[number as usize] = value;
        return number;
    }
    let number = u32::try_from(values.len()).ok().filter(|number| number & NUMBER == 0);
    values.push(value);
    number.expect("2^31 of the least of them do not fit into memory")
}

/// Of a table that doubles, a quarter is empty on average.
const fn slots(bytes: usize) -> usize {
    bytes * 4 / 3
}

/// Of an allocation.
const fn heap(bytes: usize) -> usize {
    bytes.next_multiple_of(16)
}

const fn thing_bytes(who: &str) -> usize {
    slots(size_of::<Option<Thing>>()) + slots(size_of::<u32>() + 1) + heap(who.len())
}

/// A thing's words, a number in its order for each of them, and a thing for each term.
fn words_bytes(words: &[u32]) -> usize {
    let tags = stored(words).map(|tag| match tag {
        Stored::Term(_) => 3,
        Stored::Number { .. } => slots(size_of::<[u32; 3]>()),
    });
    heap(size_of_val(words)) + tags.sum::<usize>()
}

/// A term: at its place and in the order, and three bytes for each three letters.
const fn term_bytes(text: &str) -> usize {
    slots(size_of::<Term>() + size_of::<u32>()) + slots(size_of::<[u32; 3]>()) + heap(text.len()) + 3 * text.len()
}

const fn name_bytes(text: &str) -> usize {
    slots(size_of::<Name>()) + slots(size_of::<(Box<str>, Vec<u32>)>()) + 3 * heap(text.len()) + heap(size_of::<u32>())
}
