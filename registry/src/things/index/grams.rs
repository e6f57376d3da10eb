//! Which strings have which three letters in a row, so that few have to be looked at for what stands in their middle.
//!
//! Letters are taken for one of 64 symbols, in which case is lost and rare ones fall together: what is found is looked at
//! anyway, and no peer can make the tables grow with letters nobody else uses. Two symbols behind the end make every
//! symbol the first of three, so that one or two letters can be looked up as well, and what ends a string.

use roaring::{MultiOps, RoaringBitmap};

const SYMBOLS: usize = 64;
/// What stands behind the end, and nowhere else.
pub(super) const END: u8 = 0;
/// Sets that are small enough to be looked at, so that narrowing them further costs more than it saves.
const FEW: u64 = 64;

/// Rows of the table: by the first two symbols, then the third.
#[derive(Debug)]
pub(super) struct Grams {
    rows: Vec<Option<Box<[RoaringBitmap; SYMBOLS]>>>,
}

/// Symbols in a row.
pub(super) type Piece = Vec<u8>;

/// The symbol of a byte of UTF-8.
pub(super) const fn symbol(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0' + 1,
        b'a'..=b'z' => byte - b'a' + 11,
        b'A'..=b'Z' => byte - b'A' + 11,
        _ => 37 + byte % 27,
    }
}

const _: () = assert!(37 + 26 < SYMBOLS);

/// The symbols of a text.
pub(super) fn symbols(text: &[u8]) -> impl Iterator<Item = u8> {
    text.iter().map(|&byte| symbol(byte))
}

impl Default for Grams {
    fn default() -> Self {
        Self { rows: (0..SYMBOLS * SYMBOLS).map(|_| None).collect() }
    }
}

impl Grams {
    /// Notes the string of a number.
    pub(super) fn insert(&mut self, text: &str, number: u32) {
        each(text, |row, third| {
            let Some(row) = self.rows.get_mut(row) else { return };
            let row = row.get_or_insert_with(|| Box::new(std::array::from_fn(|_| RoaringBitmap::new())));
            if let Some(set) = row.get_mut(third) {
                set.insert(number);
            }
        });
    }

    /// Forgets it.
    pub(super) fn remove(&mut self, text: &str, number: u32) {
        each(text, |row, third| {
            if let Some(set) = self.rows.get_mut(row).and_then(Option::as_mut).and_then(|row| row.get_mut(third)) {
                set.remove(number);
            }
        });
    }

    /// About how many strings have all the pieces at most, or `most` if that is fewer.
    pub(super) fn estimate(&self, pieces: &[Piece], most: u64) -> u64 {
        pieces.iter().flat_map(|piece| self.sets(piece)).map(|sets| total(&sets)).fold(most, u64::min)
    }

    /// The strings among `all` that may have all the pieces: all that have them, and some more. Also how much work it was,
    /// in numbers gone through.
    pub(super) fn narrow(&self, pieces: &[Piece], all: &RoaringBitmap) -> (RoaringBitmap, u64) {
        let mut sets: Vec<_> =
            pieces.iter().flat_map(|piece| self.sets(piece)).map(|sets| (total(&sets), sets)).collect();
        sets.sort_by_key(|(total, _)| *total);
        sets.dedup_by(|(_, one), (_, other)| {
            one.iter().map(std::ptr::from_ref).eq(other.iter().map(std::ptr::from_ref))
        });
        let (mut found, mut work) = (None::<RoaringBitmap>, 0);
        for (total, set) in sets {
            // To go through a set that is many times as large pays only if there is much to look at.
            if found.as_ref().is_some_and(|found| found.len() <= FEW.max(total / 64)) {
                break;
            }
            work += total;
            found = Some(match (found, &*set) {
                (None, [one]) => all & *one,
                (None, many) => many.iter().copied().union() & all,
                (Some(found), [one]) => found & *one,
                (Some(found), many) => found & many.iter().copied().union(),
            });
        }
        (found.unwrap_or_else(|| all.clone()), work)
    }

    /// For each three symbols in a row of a piece the strings that have them; for a shorter piece those that have it, in
    /// several sets.
    fn sets(&self, piece: &[u8]) -> Vec<Vec<&RoaringBitmap>> {
        let row = |first: u8, second: u8| self.rows.get(row(first, second)).and_then(Option::as_deref);
        match *piece {
            [] => Vec::new(),
            [first] => {
                let rows = (0..SYMBOLS as u8).filter_map(|second| row(first, second));
                vec![rows.flatten().filter(|set| !set.is_empty()).collect()]
            }
            [first, second] => {
                vec![row(first, second).into_iter().flatten().filter(|set| !set.is_empty()).collect()]
            }
            _ => {
                let set = |gram: &[u8]| match *gram {
                    [first, second, third] => {
                        row(first, second).and_then(|row| row.get(usize::from(third))).into_iter().collect()
                    }
                    _ => Vec::new(),
                };
                piece.windows(3).map(set).collect()
            }
        }
    }
}

fn total(sets: &[&RoaringBitmap]) -> u64 {
    sets.iter().map(|set| set.len()).sum()
}

fn row(first: u8, second: u8) -> usize {
    usize::from(first) * SYMBOLS + usize::from(second)
}

/// Calls with the row and the third symbol of each three in a row.
fn each(text: &str, mut call: impl FnMut(usize, usize)) {
    let (mut first, mut second) = (None, None);
    for third in symbols(text.as_bytes()).chain([END, END]) {
        if let (Some(first), Some(second)) = (first, second) {
            call(row(first, second), usize::from(third));
        }
        (first, second) = (second, Some(third));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(grams: &Grams, pieces: &[&str], expected: &[u32]) {
        let pieces: Vec<Piece> = pieces
            .iter()
            .map(|piece| match piece.strip_suffix('$') {
                Some(piece) => symbols(piece.as_bytes()).chain([END, END]).collect(),
                None => symbols(piece.as_bytes()).collect(),
            })
            .collect();
        let (found, _) = grams.narrow(&pieces, &(0..9).collect());
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{pieces:?}");
        assert!(grams.estimate(&pieces, 9) >= expected.len() as u64, "{pieces:?}");
    }

    #[test]
    fn pieces_of_any_length_are_found() {
        let mut grams = Grams::default();
        for (number, text) in ["abcdef", "xyz-123", "bcd", "1", "é", "", "ABC"].iter().enumerate() {
            grams.insert(text, number as u32);
        }
        check(&grams, &["abc"], &[0, 6]);
        check(&grams, &["bcd"], &[0, 2]);
        check(&grams, &["ef"], &[0]);
        check(&grams, &["1"], &[1, 3]);
        check(&grams, &["1$"], &[3]);
        check(&grams, &["23$"], &[1]);
        check(&grams, &["é"], &[4]);
        check(&grams, &["b", "e"], &[0]);
        check(&grams, &["-1", "x"], &[1]);
        check(&grams, &["zzz"], &[]);
        check(&grams, &["q"], &[]);
        check(&grams, &[], &[0, 1, 2, 3, 4, 5, 6, 7, 8]);
        grams.remove("abcdef", 0);
        check(&grams, &["bcd"], &[2]);
        check(&grams, &["e"], &[]);
    }
}
