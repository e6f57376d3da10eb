//! Values in order, in chunks, so that one more moves a few hundred of them at most.
//!
//! Half the memory of a tree and one allocation for hundreds of values; the order is the caller's, given with each call.
#![expect(clippy::indexing_slicing, reason = "places come from a search of what is indexed with them")]

use std::cmp::Ordering;

/// Values of a chunk at most. A full one is cut in two.
const CHUNK: usize = 512;

/// Values in order.
#[derive(Debug)]
pub(super) struct Sorted<T> {
    /// None is empty.
    chunks: Vec<Vec<T>>,
    /// The first value of each: together they stay in a cache.
    firsts: Vec<T>,
    len: usize,
}

/// Between which two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    chunk: usize,
    index: usize,
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), firsts: Vec::new(), len: 0 }
    }
}

impl<T: Copy> Sorted<T> {
    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Before the first.
    pub(super) const fn start(&self) -> Place {
        Place { chunk: 0, index: 0 }
    }

    /// Behind the last.
    pub(super) const fn end(&self) -> Place {
        Place { chunk: self.chunks.len(), index: 0 }
    }

    /// Before the first value for which this is not so; those for which it is so come first.
    pub(super) fn place(&self, is_before: impl Fn(T) -> bool) -> Place {
        let after = self.firsts.partition_point(|&first| is_before(first));
        let Some(chunk) = after.checked_sub(1) else { return self.start() };
        let index = self.chunks[chunk].partition_point(|&value| is_before(value));
        if index < self.chunks[chunk].len() { Place { chunk, index } } else { Place { chunk: after, index: 0 } }
    }

    /// How many lie between two places.
    pub(super) fn count(&self, from: Place, to: Place) -> usize {
        if from >= to {
            return 0;
        }
        self.chunks[from.chunk..to.chunk].iter().map(Vec::len).sum::<usize>() + to.index - from.index
    }

    /// Those between two places.
    pub(super) fn between(&self, from: Place, to: Place) -> impl Iterator<Item = T> {
        let last = if from < to { (to.chunk + 1).min(self.chunks.len()) } else { from.chunk };
        let chunks = self.chunks.get(from.chunk..last).unwrap_or_default().iter().enumerate();
        chunks.flat_map(move |(offset, chunk)| {
            let low = if offset == 0 { from.index } else { 0 };
            let high = if from.chunk + offset == to.chunk { to.index } else { chunk.len() };
            chunk[low..high].iter().copied()
        })
    }

    /// The value that is equal.
    pub(super) fn find(&self, order: impl Fn(T) -> Ordering) -> Option<T> {
        let place = self.place(|value| order(value).is_lt());
        let value = *self.chunks.get(place.chunk)?.get(place.index)?;
        order(value).is_eq().then_some(value)
    }

    /// Puts in a value; `order` says how others compare with it.
    pub(super) fn insert(&mut self, value: T, order: impl Fn(T) -> Ordering) {
        let mut place = self.place(|other| order(other).is_lt());
        // What comes behind a chunk goes to its end: the next one may not exist, or be full.
        if place.index == 0 && place.chunk > 0 {
            place = Place { chunk: place.chunk - 1, index: self.chunks[place.chunk - 1].len() };
        }
        self.len += 1;
        if self.chunks.is_empty() {
            self.chunks.push(vec![value]);
            self.firsts.push(value);
            return;
        }
        if self.chunks[place.chunk].len() == CHUNK {
            // What comes in order fills chunks up; what does not, cuts them in the middle.
            let at = if place.index == CHUNK { CHUNK } else { CHUNK / 2 };
            let upper = self.chunks[place.chunk].split_off(at);
            self.chunks[place.chunk].shrink_to_fit();
            self.firsts.insert(place.chunk + 1, upper.first().copied().unwrap_or(value));
            self.chunks.insert(place.chunk + 1, upper);
            if place.index > at || at == CHUNK {
                place = Place { chunk: place.chunk + 1, index: place.index - at };
            }
        }
        let chunk = &mut self.chunks[place.chunk];
        if chunk.len() == chunk.capacity() {
            // A quarter more instead of twice as many: on average little lies idle.
            chunk.reserve_exact((chunk.len() / 4).clamp(4, CHUNK - chunk.len()));
        }
        chunk.insert(place.index, value);
        self.firsts[place.chunk] = chunk[0];
    }

    /// Takes out the value that is equal.
    pub(super) fn remove(&mut self, order: impl Fn(T) -> Ordering) {
        let place = self.place(|value| order(value).is_lt());
        let Some(chunk) = self.chunks.get_mut(place.chunk) else { return };
        if !chunk.get(place.index).is_some_and(|&value| order(value).is_eq()) {
            return;
        }
        chunk.remove(place.index);
        self.len -= 1;
        let Some(&first) = chunk.first() else {
            self.chunks.remove(place.chunk);
            self.firsts.remove(place.chunk);
            return;
        };
        self.firsts[place.chunk] = first;
        if chunk.len() < CHUNK / 8 {
            self.merge(place.chunk);
        }
    }

    /// Joins a chunk that got small with the one behind it, if they fit into one.
    fn merge(&mut self, chunk: usize) {
        let Some(next) = self.chunks.get(chunk + 1) else { return };
        if self.chunks[chunk].len() + next.len() <= CHUNK / 2 {
            let next = self.chunks.remove(chunk + 1);
            self.firsts.remove(chunk + 1);
            self.chunks[chunk].extend(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(sorted: &Sorted<u16>, expected: &[u16]) {
        let all: Vec<_> = sorted.between(sorted.start(), sorted.end()).collect();
        assert_eq!(all, expected);
        assert_eq!(sorted.len(), expected.len());
        assert!(sorted.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK));
        assert!(sorted.chunks.iter().map(|chunk| chunk[0]).eq(sorted.firsts.iter().copied()));
    }

    #[test]
    fn what_comes_in_order_fills_its_chunks() {
        let mut sorted = Sorted::default();
        for value in 0..5_000_u16 {
            sorted.insert(value, |other| other.cmp(&value));
        }
        check(&sorted, &(0..5_000).collect::<Vec<_>>());
        assert_eq!(sorted.chunks.len(), 5_000_usize.div_ceil(CHUNK));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_holds_what_a_sorted_list_holds(
            changes in prop::collection::vec((any::<bool>(), 0..3_000_u16), 0..6_000),
            (low, high) in (0..3_000_u16, 0..3_000_u16),
        ) {
            let mut sorted = Sorted::default();
            let mut expected = std::collections::BTreeSet::new();
            for (is_put, value) in changes {
                if is_put && expected.insert(value) {
                    sorted.insert(value, |other| other.cmp(&value));
                } else if !is_put {
                    expected.remove(&value);
                    sorted.remove(|other| other.cmp(&value));
                }
            }
            check(&sorted, &expected.iter().copied().collect::<Vec<_>>());
            let (from, to) = (sorted.place(|value| value < low), sorted.place(|value| value < high));
            let between: Vec<_> = expected.iter().copied().filter(|value| (low..high).contains(value)).collect();
            prop_assert_eq!(sorted.between(from, to).collect::<Vec<_>>(), between.clone());
            prop_assert_eq!(sorted.count(from, to), between.len());
            prop_assert_eq!(sorted.find(|value| value.cmp(&low)).is_some(), expected.contains(&low));
        }
    }
}
