//! Texts like those that peers send, changed a little: the seeds of the fuzz targets, taken apart at their quotes and tags and
//! put together otherwise. Most of what comes of it is still well-formed, so that it gets as far as a reader.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Values that are at the edge of something.
const ODD: [&str; 30] = [
    "",
    " ",
    "0",
    "-0",
    "-1",
    "+1",
    "00",
    "1e400",
    "INF",
    "-INF",
    "NaN",
    "2147483648",
    "4294967296",
    "18446744073709551616",
    "9223372036854775807",
    "true",
    "false",
    "KEY",
    "R",
    "JID",
    "*",
    "%",
    "\\",
    ";",
    "&lt;&amp;&apos;",
    "&#x1F600;é漢",
    "a@b@c/d/e",
    "max",
    "2024-02-30T25:61:61Z",
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
];

/// The seeds of a fuzz target.
pub(crate) fn seeds(target: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shards/fuzz/seeds").join(target);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path()).collect();
    files.sort();
    let seeds: Vec<_> = files.into_iter().map(|file| std::fs::read_to_string(file).expect("UTF-8")).collect();
    assert!(!seeds.is_empty(), "{target} has no seeds");
    seeds
}

#[derive(Debug, Clone)]
enum Edit {
    Replace(Index, String),
    Remove(Index),
    Double(Index, usize),
    Move(Index, Index),
    Character(Index, char),
}

/// One of the seeds with up to four changes; what takes the place of a piece is odd, or a piece of any seed.
pub(crate) fn changed(seeds: Vec<String>) -> impl Strategy<Value = String> {
    let pool: Vec<String> = seeds.iter().flat_map(|seed| pieces(seed)).chain(ODD.map(str::to_owned)).collect();
    let edit = prop_oneof![
        4 => (any::<Index>(), select(pool)).prop_map(|(at, piece)| Edit::Replace(at, piece)),
        1 => any::<Index>().prop_map(Edit::Remove),
        2 => (any::<Index>(), prop_oneof![4 => 1..4usize, 1 => 60..300usize]).prop_map(|(at, times)| Edit::Double(at, times)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Edit::Move(from, to)),
        1 => (any::<Index>(), any::<char>()).prop_map(|(at, character)| Edit::Character(at, character)),
    ];
    (select(seeds), vec(edit, 0..5)).prop_map(|(seed, edits)| {
        let mut pieces = pieces(&seed);
        edits.into_iter().for_each(|edit| apply(&mut pieces, edit));
        pieces.concat()
    })
}

/// A text in pieces: whole empty elements, tags, and what is between quotes, tags, `=` and `;`.
fn pieces(text: &str) -> Vec<String> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        // An empty element inside another is changed as a whole, or within: both ways to cut, by its place.
        let whole = rest.starts_with('<') && pieces.len() % 2 == 1;
        let end = match rest.find('>') {
            Some(end) if whole && rest.get(..=end).is_some_and(|tag| tag.ends_with("/>")) => end + 1,
            _ => {
                let is_edge = |c: char| matches!(c, '\'' | '<' | '>' | '=' | ';');
                if is_edge(first) { first.len_utf8() } else { rest.find(is_edge).unwrap_or(rest.len()) }
            }
        };
        let (piece, after) = rest.split_at(end);
        pieces.push(piece.to_owned());
        rest = after;
    }
    pieces
}

fn apply(pieces: &mut Vec<String>, edit: Edit) {
    if pieces.is_empty() {
        return;
    }
    let place = |at: Index| at.index(pieces.len());
    match edit {
        Edit::Replace(at, piece) => drop(pieces.splice(place(at)..=place(at), [piece])),
        Edit::Remove(at) => drop(pieces.remove(place(at))),
        Edit::Double(at, times) => {
            let at = place(at);
            let piece = pieces.get(at).cloned().unwrap_or_default();
            drop(pieces.splice(at..at, std::iter::repeat_n(piece, times)));
        }
        Edit::Move(from, to) => {
            let (from, to) = (place(from), place(to));
            pieces.swap(from, to);
        }
        Edit::Character(at, character) => {
            let at = place(at);
            if let Some(piece) = pieces.get_mut(at) {
                piece.push(character);
            }
        }
    }
}
