//! How a search is answered: what narrows most first, the rest looked up or looked at, whichever is less work.
//!
//! Where much is found, the first things are simply looked at until the page is full. All work is counted against a
//! [`Budget`].
#![expect(clippy::indexing_slicing, reason = "numbers come from the index itself")]

use std::fmt;
use std::time::{Duration, Instant};

use plaza_core::thing::{Operator, Side, Test};

use super::bits::Bits;
use super::check::{Check, NameCheck, Patterns, Span};
use super::grams::Piece;
use super::listing::{Index, Name, SEVERAL, Stored, compare_bytes, stored};
use super::sorted::{Place, Sorted};
use super::{Found, Query, SearchError};

// What things cost, in about nanoseconds.
/// To put a thing into a set.
const INSERT: u64 = 3;
/// To go to a term.
const TERM: u64 = 30;
/// To check a string against a mask.
const MASK: u64 = 100;
/// To check a string against a regular expression.
const PATTERN: u64 = 300;
/// To look at what is said of a thing.
const LOOK: u64 = 150;
/// To compare a name.
const NAME: u64 = 50;
/// To compile a regular expression.
const COMPILE: u64 = 2_000_000;

/// How many things are looked at in the hope that the page is full before sets are made.
const PROBE: usize = 4_096;
/// Terms of which the things are counted; of more they are guessed.
const COUNTED: usize = 32;
/// Steps between two looks at the clock.
const CLOCK_STEPS: u32 = 256;
/// A single one may take milliseconds: the clock is looked at before each.
const PATTERN_STEPS: u32 = CLOCK_STEPS;

/// How much work a search may be.
#[derive(Debug)]
pub struct Budget<'a> {
    work_left: u64,
    until: Option<Instant>,
    steps: u32,
    patterns: Patterns,
    turns: Option<Turns<'a>>,
}

/// What is done now and then while a search goes on.
struct Turns<'a> {
    every: Duration,
    next: Instant,
    between: &'a mut dyn FnMut(),
}

impl fmt::Debug for Turns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").field("every", &self.every).finish_non_exhaustive()
    }
}

impl<'a> Budget<'a> {
    /// Work, in about nanoseconds; and when it is over in any case, since some regular expressions and masks take much
    /// longer than others.
    pub const fn new(work: u64, until: Option<Instant>) -> Self {
        Self { work_left: work, until, steps: 0, patterns: Patterns::DEFAULT, turns: None }
    }

    /// What its regular expressions may take.
    #[must_use]
    pub const fn with_patterns(self, patterns: Patterns) -> Self {
        Self { patterns, ..self }
    }

    /// Goes on in turns of about that length, between which something else is done, whose time does not count.
    #[must_use]
    pub fn in_turns(self, every: Duration, between: &'a mut dyn FnMut()) -> Self {
        Self { turns: Some(Turns { every, next: Instant::now() + every, between }), ..self }
    }

    fn spend(&mut self, work: u64) -> Result<(), SearchError> {
        self.step(1, work)
    }

    /// For a check of a string.
    fn spend_on(&mut self, check: &Check) -> Result<(), SearchError> {
        if matches!(check, Check::RegEx(..)) { self.step(PATTERN_STEPS, PATTERN) } else { self.step(1, MASK) }
    }

    fn step(&mut self, steps: u32, work: u64) -> Result<(), SearchError> {
        self.steps += steps;
        if self.steps >= CLOCK_STEPS {
            self.steps = 0;
            self.look_at_clock()?;
        }
        self.work_left = self.work_left.checked_sub(work).ok_or(SearchError::TooMuch)?;
        Ok(())
    }

    fn look_at_clock(&mut self) -> Result<(), SearchError> {
        if self.until.is_none() && self.turns.is_none() {
            return Ok(());
        }
        let now = Instant::now();
        if self.until.is_some_and(|until| now >= until) {
            return Err(SearchError::TooMuch);
        }
        if let Some(turns) = self.turns.as_mut().filter(|turns| now >= turns.next) {
            (turns.between)();
            let after = Instant::now();
            turns.next = after + turns.every;
            self.until = self.until.map(|until| until + (after - now));
        }
        Ok(())
    }
}

/// An operator, and what it is likely to find.
#[derive(Debug)]
struct Plan {
    check: Check,
    /// In order.
    names: Vec<u32>,
    /// About how many things.
    things: u64,
    /// About how much work it is to have them all.
    work: u64,
}

/// The page that is asked for, as it fills.
#[derive(Debug)]
struct Page {
    skip: usize,
    max: usize,
    things: Vec<u32>,
    more: bool,
}

impl Page {
    fn new(search: &Query) -> Self {
        Self { skip: search.offset, max: search.max, things: Vec::new(), more: false }
    }

    /// Takes what was found next; whether that was enough.
    fn take(&mut self, number: u32) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
        } else if self.things.len() < self.max {
            self.things.push(number);
        } else {
            self.more = true;
        }
        self.more
    }
}

impl Index {
    /// Searches.
    ///
    /// # Errors
    /// [`SearchError::TooMuch`], [`SearchError::BadPattern`].
    pub fn search(&self, search: &Query, budget: &mut Budget<'_>) -> Result<Found, SearchError> {
        let Some(plans) = self.plans(&search.operators, budget)? else { return Ok(Found::default()) };
        let page = self.fill(&plans, search, budget)?;
        if let Some((told, is_cut)) = search.telling.and_then(|telling| self.tell(&page.things, telling)) {
            return Ok(Found { things: Vec::new(), told: Some(told), more: page.more || is_cut });
        }
        let things = page.things.iter().filter_map(|&number| self.whose(number)).collect();
        Ok(Found { things, told: None, more: page.more })
    }

    /// A plan for each operator, the one that finds least first; `None` if nothing can pass them all.
    fn plans(&self, operators: &[Operator], budget: &mut Budget<'_>) -> Result<Option<Vec<Plan>>, SearchError> {
        let mut plans = Vec::with_capacity(operators.len());
        let mut is_possible = true;
        for operator in operators {
            // All are read, so that what is malformed is said whatever is found.
            if matches!(operator.test, Test::StrRegEx(_)) {
                budget.step(CLOCK_STEPS, COMPILE)?;
            }
            let check = Check::new(&operator.test, budget.patterns)?;
            let names = match NameCheck::new(operator) {
                NameCheck::One(name) => {
                    let mut names = self.named(&name).to_vec();
                    names.sort_unstable();
                    names
                }
                NameCheck::Many(mask) => {
                    budget.spend(NAME * self.names.len() as u64)?;
                    let is_meant = |name: &Name| name.tags > 0 && mask.matches(&name.folded);
                    (0_u32..).zip(&self.names).filter(|(_, name)| is_meant(name)).map(|(number, _)| number).collect()
                }
            };
            match check {
                Some(check) if is_possible => {
                    let plan = self.plan(check, names, budget)?;
                    is_possible = plan.things > 0;
                    plans.push(plan);
                }
                Some(_) | None => is_possible = false,
            }
        }
        plans.sort_by_key(|plan| plan.things);
        Ok(is_possible.then_some(plans))
    }

    fn plan(&self, check: Check, names: Vec<u32>, budget: &mut Budget<'_>) -> Result<Plan, SearchError> {
        let pieces = pieces(&check);
        let (mut things, mut work) = (0, 0);
        budget.spend(NAME * names.len() as u64)?;
        for &name in &names {
            let name = &self.names[name as usize];
            if let Check::Num(span) = &check {
                let count: usize =
                    number_places(name, span).iter().map(|&(from, to)| name.numbers.count(from, to)).sum();
                things += count as u64;
                work += INSERT * count as u64;
                continue;
            }
            let places = self.text_places(name, &check);
            let count: usize = places.iter().map(|&(from, to)| name.texts.count(from, to)).sum();
            let terms = self.grams.estimate(&pieces, count as u64);
            let found = if count <= COUNTED {
                let terms = places.iter().flat_map(|&(from, to)| name.texts.between(from, to));
                terms.map(|[.., term]| self.having(term)).sum()
            } else {
                (terms * u64::from(name.strings)).div_ceil(name.texts.len() as u64)
            };
            let each = match &check {
                Check::Str(_) | Check::Num(_) => TERM,
                Check::Mask(_) => TERM + MASK,
                Check::RegEx(..) => TERM + PATTERN,
            };
            things += found;
            work += each * terms + INSERT * found;
        }
        Ok(Plan { check, names, things, work })
    }

    /// Finds the page.
    fn fill(&self, plans: &[Plan], search: &Query, budget: &mut Budget<'_>) -> Result<Page, SearchError> {
        let all = self.things.len();
        let want = search.offset.saturating_add(search.max).saturating_add(1) as u64;
        let least = plans.first().map_or(self.len() as u64, |plan| plan.things);
        // If what is found lies as dense as that, the first things hold a page of it.
        if all <= PROBE || least.saturating_mul(PROBE as u64) >= want.saturating_mul(all as u64) {
            let mut page = Page::new(search);
            let first = 0..all.min(PROBE) as u32;
            if self.look(first, plans, &mut page, budget)? || all <= PROBE {
                return Ok(page);
            }
        }
        let Some((first, rest)) = plans.split_first() else {
            let mut page = Page::new(search);
            self.look(0..all as u32, plans, &mut page, budget)?;
            return Ok(page);
        };
        let mut found = self.gather(first, budget)?;
        if !rest.is_empty() && found.count() > PROBE {
            let mut page = Page::new(search);
            if self.look(found.iter().take(PROBE), rest, &mut page, budget)? {
                return Ok(page);
            }
        }
        let mut left = Vec::new();
        for plan in rest {
            if plan.work < LOOK * found.count() as u64 {
                found.intersect(&self.gather(plan, budget)?);
            } else {
                left.push(plan);
            }
        }
        let mut page = Page::new(search);
        if left.is_empty() {
            page.skip = 0;
            let _ = found.iter_behind(search.offset).any(|number| page.take(number));
        } else {
            self.look(found.iter(), left, &mut page, budget)?;
        }
        Ok(page)
    }

    /// Looks at things until the page is full; whether it is.
    fn look<'a>(
        &self,
        numbers: impl Iterator<Item = u32>,
        plans: impl IntoIterator<Item = &'a Plan> + Clone,
        page: &mut Page,
        budget: &mut Budget<'_>,
    ) -> Result<bool, SearchError> {
        for number in numbers {
            if self.passes_all(number, plans.clone(), budget)? && page.take(number) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn passes_all<'a>(
        &self,
        number: u32,
        plans: impl IntoIterator<Item = &'a Plan>,
        budget: &mut Budget<'_>,
    ) -> Result<bool, SearchError> {
        let Some(thing) = &self.things[number as usize] else { return Ok(false) };
        for plan in plans {
            if !self.passes(&thing.tags, plan, budget)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn passes(&self, words: &[u32], plan: &Plan, budget: &mut Budget<'_>) -> Result<bool, SearchError> {
        budget.spend(LOOK)?;
        let is_meant = |name: u32| match *plan.names {
            [only] => name == only,
            _ => plan.names.binary_search(&name).is_ok(),
        };
        for tag in stored(words) {
            match tag {
                Stored::Number { name, value } => {
                    if is_meant(name) && plan.check.num_passes(value) {
                        return Ok(true);
                    }
                }
                Stored::Term(_) if matches!(plan.check, Check::Num(_)) => {}
                Stored::Term(term) => {
                    let term = &self.terms[term as usize];
                    if is_meant(term.name) {
                        budget.spend_on(&plan.check)?;
                        if plan.check.str_passes(&term.text) {
                            return Ok(true);
                        }
                    }
                }
            }
        }
        Ok(false)
    }

    /// All the things that pass an operator.
    fn gather(&self, plan: &Plan, budget: &mut Budget<'_>) -> Result<Bits, SearchError> {
        let mut found = Bits::none(self.things.len());
        let pieces = pieces(&plan.check);
        for &name in &plan.names {
            let name = &self.names[name as usize];
            match &plan.check {
                Check::Num(span) => {
                    for (from, to) in number_places(name, span) {
                        budget.spend(INSERT * name.numbers.count(from, to) as u64)?;
                        name.numbers.between(from, to).for_each(|[_, _, number]| found.insert(number));
                    }
                }
                Check::Str(_) => {
                    for (from, to) in self.text_places(name, &plan.check) {
                        budget.spend(TERM * name.texts.count(from, to) as u64)?;
                        for [.., term] in name.texts.between(from, to) {
                            self.add_things(term, &mut found, budget)?;
                        }
                    }
                }
                Check::Mask(_) | Check::RegEx(..) => {
                    let places = self.text_places(name, &plan.check);
                    let count: usize = places.iter().map(|&(from, to)| name.texts.count(from, to)).sum();
                    if count <= COUNTED || self.grams.estimate(&pieces, count as u64) >= count as u64 / 2 {
                        for (from, to) in places {
                            let terms = name.texts.between(from, to).map(|[.., term]| term);
                            self.check_terms(terms, &plan.check, &mut found, budget)?;
                        }
                    } else {
                        let (terms, work) = self.grams.narrow(&pieces, &name.terms);
                        budget.spend(work)?;
                        self.check_terms(terms.iter(), &plan.check, &mut found, budget)?;
                    }
                }
            }
        }
        Ok(found)
    }

    fn check_terms(
        &self,
        terms: impl Iterator<Item = u32>,
        check: &Check,
        found: &mut Bits,
        budget: &mut Budget<'_>,
    ) -> Result<(), SearchError> {
        for term in terms {
            budget.spend(TERM)?;
            budget.spend_on(check)?;
            if check.str_passes(&self.terms[term as usize].text) {
                self.add_things(term, found, budget)?;
            }
        }
        Ok(())
    }

    fn add_things(&self, term: u32, found: &mut Bits, budget: &mut Budget<'_>) -> Result<(), SearchError> {
        let only = self.only[term as usize];
        if only != SEVERAL {
            found.insert(only);
        } else if let Some(things) = &self.terms[term as usize].things {
            budget.spend(INSERT * things.len())?;
            things.iter().for_each(|number| found.insert(number));
        }
        Ok(())
    }

    /// Where the terms of a name lie that may pass: all that do, for a span exactly those.
    fn text_places(&self, name: &Name, check: &Check) -> [(Place, Place); 2] {
        let texts = &name.texts;
        let front = match check {
            Check::Num(_) => return [(texts.start(), texts.start()); 2],
            Check::Str(span) => {
                let is_before = |entry| span.is_before(|end| compare_bytes(&self.terms, entry, end));
                let is_behind = |entry| span.is_behind(|end| compare_bytes(&self.terms, entry, end));
                return places(texts, is_before, is_behind, span.side);
            }
            Check::Mask(mask) => mask.front(),
            Check::RegEx(..) => &[],
        };
        let is_before = |entry| compare_bytes(&self.terms, entry, front).is_lt();
        let is_behind = |entry: [u32; 3]| {
            compare_bytes(&self.terms, entry, front).is_gt() && !self.text(entry[2]).starts_with(front)
        };
        places(texts, is_before, is_behind, Side::Inside)
    }
}

/// What has to stand in what passes.
fn pieces(check: &Check) -> Vec<Piece> {
    match check {
        Check::Str(_) | Check::Num(_) => Vec::new(),
        Check::Mask(mask) => mask.pieces(),
        Check::RegEx(_, pieces) => pieces.clone(),
    }
}

/// Where the numbers of a name lie that pass.
fn number_places(name: &Name, span: &Span<u64>) -> [(Place, Place); 2] {
    let value = |[upper, lower, _]: [u32; 3]| u64::from(upper) << 32 | u64::from(lower);
    let is_before = |entry| span.is_before(|end| value(entry).cmp(end));
    let is_behind = |entry| span.is_behind(|end| value(entry).cmp(end));
    places(&name.numbers, is_before, is_behind, span.side)
}

/// Where that lies which is neither before nor behind something, or that which is.
fn places<T: Copy>(
    sorted: &Sorted<T>,
    is_before: impl Fn(T) -> bool,
    is_behind: impl Fn(T) -> bool,
    side: Side,
) -> [(Place, Place); 2] {
    let (start, end) = (sorted.start(), sorted.end());
    let from = sorted.place(is_before);
    // A range may end before it begins: then nothing lies inside.
    let to = sorted.place(|value| !is_behind(value)).max(from);
    match side {
        Side::Inside => [(from, to), (end, end)],
        Side::Outside => [(start, from), (to, end)],
    }
}
