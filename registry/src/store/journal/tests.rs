use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore, OpenError};
use crate::store::{Batch, Store, Table, Write};
use crate::wait::block_on;

const COMMITS: u8 = 12;

impl Source for [u8] {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let bytes = self.get(at as usize..).unwrap_or_default();
        let len = bytes.len().min(into.len());
        into[..len].copy_from_slice(&bytes[..len]);
        Ok(len)
    }
}

fn end(journal: &[u8]) -> End {
    end_of(journal).unwrap()
}

fn write(store: &EmbeddedStore, number: u8, bytes: usize) {
    // No zeros, no mark, and nothing that gets shorter by compression.
    let mut state = u32::from(number) + 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8 | 1
    };
    let value: Vec<u8> = (0..bytes).map(|_| next()).collect();
    let put = |table| Write::Put { table, key: vec![b'k', number], value: value.clone() };
    let writes = vec![put(Table::Accounts), put(Table::Rosters)];
    block_on(store.commit(Batch { guards: Vec::new(), writes })).unwrap();
}

/// A store that was written and killed: its journal up to the end of its last batch.
fn written(directory: &Path, sizes: impl IntoIterator<Item = usize>) -> (PathBuf, Vec<u8>) {
    let store = EmbeddedStore::open(directory, EmbeddedOptions::default()).unwrap();
    for (number, bytes) in sizes.into_iter().enumerate() {
        write(&store, number as u8, bytes);
    }
    store.close().unwrap();
    let mut journals: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    journals.retain(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    assert_eq!(journals.len(), 1, "{journals:?}");
    let path = journals.remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let end = memmem::rfind(&bytes, MAGIC).unwrap() + MAGIC.len();
    bytes.truncate(end);
    (path, bytes)
}

fn small() -> impl Iterator<Item = usize> {
    (0..COMMITS).map(|number| usize::from(number) * 9)
}

/// Where batches end.
fn ends(bytes: &[u8]) -> Vec<usize> {
    memmem::find_iter(bytes, MAGIC).map(|at| at + MAGIC.len()).collect()
}

/// What a store opened on this journal has, by its keys; `None` if it is refused.
fn reopened(directory: &Path) -> Option<Vec<Vec<u8>>> {
    match EmbeddedStore::open(directory, EmbeddedOptions::default()) {
        Ok(store) => {
            let keys = |table| {
                let pairs = block_on(store.scan(table, b"k", None, usize::MAX)).ok()?;
                Some(pairs.into_iter().map(|(key, _)| key).collect::<Vec<_>>())
            };
            let (accounts, rosters) = (keys(Table::Accounts), keys(Table::Rosters));
            store.close().unwrap();
            assert_eq!(accounts, rosters, "a batch is there by half");
            accounts
        }
        Err(OpenError::Damaged { .. } | OpenError::Altered(_) | OpenError::Engine(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

fn all() -> Vec<Vec<u8>> {
    (0..COMMITS).map(|number| vec![b'k', number]).collect()
}

#[test]
fn a_journal_as_the_engine_writes_it_is_whole_wherever_it_is_torn() {
    let directory = tempfile::tempdir().unwrap();
    let (_, bytes) = written(directory.path(), small());
    assert_eq!(end(&bytes), End::Whole);
    let whole = ends(&bytes);
    assert!(whole.len() >= usize::from(COMMITS));
    for cut in 0..bytes.len() {
        let torn = &bytes[..cut];
        let from = whole.iter().copied().filter(|end| *end <= cut).max().unwrap_or(0);
        // Zeros at its end are as good as nothing.
        let to = torn.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let expected = match to.max(from) == from {
            true => End::Whole,
            false => End::Unfinished { from: from as u64, to: to as u64 },
        };
        assert_eq!(end(torn), expected, "torn at {cut}");
        for zeros in [64, SECTOR_BYTES * 3, PIECE_BYTES + 1] {
            assert_eq!(end(&[torn, &vec![0; zeros]].concat()), expected, "torn at {cut}, {zeros} zeros behind");
        }
    }
}

#[test]
fn a_flipped_bit_is_found_or_leaves_nothing_out() {
    let directory = tempfile::tempdir().unwrap();
    let (path, bytes) = written(directory.path(), small());
    let mut passed = 0;
    for at in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        match end(&flipped) {
            End::Damaged { .. } => continue,
            verdict @ (End::Whole | End::Unfinished { .. }) => {
                assert_eq!(verdict, End::Whole, "the flip of bit {at} is taken for a power cut");
            }
        }
        // A sequence number that still is between its neighbours, or the last: nothing is lost by it.
        passed += 1;
        if passed % 9 == 1 {
            fs::write(&path, &flipped).unwrap();
            if let Some(keys) = reopened(directory.path()) {
                assert_eq!(keys, all(), "the flip of bit {at} lost something");
            }
        }
    }
    assert!(passed < bytes.len() / 4, "{passed} of {} flips are not found", bytes.len() * 8);
}

#[test]
fn a_damaged_journal_is_refused_by_name_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (path, mut bytes) = written(directory.path(), small());
    // The mark of an item in the middle: the engine would take what is before for all there is.
    let ends = ends(&bytes);
    let middle = ends[ends.len() / 2];
    bytes[middle + START_BYTES] ^= 0x40;
    fs::write(&path, &bytes).unwrap();
    for _ in 0..2 {
        let error = EmbeddedStore::open(directory.path(), EmbeddedOptions::default()).unwrap_err();
        let told = error.to_string();
        assert!(matches!(error, OpenError::Damaged { at, .. } if at == middle as u64), "{told}");
        assert!(told.contains(path.to_str().unwrap()) && !told.contains('\n'), "{told}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "it is left for whoever mends it");
    }
}

#[test]
fn an_older_journal_has_no_batch_that_is_unfinished() {
    let directory = tempfile::tempdir().unwrap();
    let (path, bytes) = written(directory.path(), small());
    let number: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    assert!(number < 10, "as text, 10 comes before {number}");
    fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    fs::write(directory.path().join("10.jnl"), [0; 64]).unwrap();
    let from = ends(&bytes)[ends(&bytes).len() - 2] as u64;
    assert_eq!(settle(directory.path()).unwrap(), Some((path.clone(), from)));
    assert_eq!(fs::read(&path).unwrap().len(), bytes.len() - 3);
    fs::remove_file(directory.path().join("10.jnl")).unwrap();
    assert_eq!(settle(directory.path()).unwrap(), None);
    assert_eq!(fs::metadata(&path).unwrap().len(), from, "as the newest, it loses what nobody was told of");
}

#[test]
fn a_mark_between_two_pieces_and_a_batch_of_many_are_seen() {
    let directory = tempfile::tempdir().unwrap();
    let (_, bytes) = written(directory.path(), [10, 3 * PIECE_BYTES, 20, 30]);
    assert_eq!(end(&bytes), End::Whole);
    let ends = ends(&bytes);
    let (from, to) = (ends[ends.len() - 4], ends[ends.len() - 3]);
    assert!(to - from > 3 * PIECE_BYTES);
    for at in (from..to).step_by(PIECE_BYTES / 3) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x20;
        assert_eq!(end(&damaged), End::Damaged { from: from as u64 }, "at {at}");
        damaged = bytes.clone();
        let sector = at.next_multiple_of(SECTOR_BYTES);
        if sector + SECTOR_BYTES <= to {
            damaged[sector..sector + SECTOR_BYTES].fill(0);
            assert_eq!(end(&damaged), End::Damaged { from: from as u64 }, "batches are behind the hole at {sector}");
            assert_eq!(end(&damaged[..to]), End::Unfinished { from: from as u64, to: to as u64 }, "{sector}");
        }
    }
    // A batch whose mark lies across the border of what is read at once.
    for shift in 0..8 {
        let mut damaged = vec![9; PIECE_BYTES - 2 - shift];
        damaged.extend_from_slice(&bytes);
        assert_eq!(end(&damaged), End::Damaged { from: 0 });
        let torn = [&bytes[..from], &damaged[..], &[7; 3]].concat();
        assert_eq!(end(&torn), End::Damaged { from: from as u64 });
    }
}

/// What becomes of a sector that was not synced.
#[derive(Debug, Clone, Copy)]
enum Sector {
    Kept,
    Lost,
    Flipped(usize),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// A power cut while the last batch was being written keeps any of its sectors. Nothing before it is lost, and the
    /// broker starts; if bits of it are flipped besides, it may also refuse.
    #[test]
    fn a_power_cut_in_the_last_batch_costs_nothing_that_was_acknowledged(
        sizes in prop::collection::vec(0_usize..1500, 1..5),
        last in 0_usize..4000,
        fates in prop::collection::vec(
            prop_oneof![3 => Just(Sector::Kept), 3 => Just(Sector::Lost), 1 => (0..SECTOR_BYTES * 8).prop_map(Sector::Flipped)],
            32,
        ),
        without_flips: bool,
        preallocated: bool,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let acknowledged: Vec<Vec<u8>> = (0..sizes.len()).map(|number| vec![b'k', number as u8]).collect();
        let (path, bytes) = written(directory.path(), sizes.into_iter().chain([last]));
        let ends = ends(&bytes);
        let synced = ends[ends.len() - 2];
        let mut cut = bytes.clone();
        let mut flips = false;
        for (index, fate) in fates.into_iter().enumerate() {
            let sector = synced / SECTOR_BYTES + index;
            let (from, to) = ((sector * SECTOR_BYTES).max(synced), ((sector + 1) * SECTOR_BYTES).min(bytes.len()));
            if from >= to {
                break;
            }
            match fate {
                Sector::Lost => cut[from..to].fill(0),
                Sector::Flipped(bit) if !without_flips && from + bit / 8 < to => {
                    cut[from + bit / 8] ^= 1 << (bit % 8);
                    flips = true;
                }
                Sector::Kept | Sector::Flipped(_) => {}
            }
        }
        if preallocated {
            cut.extend_from_slice(&[0; 3 * PIECE_BYTES]);
        }
        fs::write(&path, &cut).unwrap();
        match reopened(directory.path()) {
            Some(keys) => {
                prop_assert!(keys.starts_with(&acknowledged), "{keys:?} of {acknowledged:?}");
                prop_assert!(keys.len() <= acknowledged.len() + 1);
                if keys.len() == acknowledged.len() {
                    prop_assert_eq!(fs::read(&path).unwrap()[..synced].to_vec(), bytes[..synced].to_vec());
                }
                // What is written from then on is read again.
                let store = EmbeddedStore::open(directory.path(), EmbeddedOptions::default()).unwrap();
                write(&store, 200, 700);
                store.close().unwrap();
                let keys = reopened(directory.path()).unwrap();
                prop_assert!(keys.starts_with(&acknowledged) && keys.contains(&vec![b'k', 200]));
            }
            None => prop_assert!(flips, "a power cut alone is refused"),
        }
    }

    /// What was damaged later is refused, even if a power cut tore the last batch as well.
    #[test]
    fn damage_before_the_last_batch_is_refused(
        sizes in prop::collection::vec(0_usize..1500, 2..5),
        at: prop::sample::Index,
        bit in 0_u8..8,
        torn: prop::sample::Index,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (_, bytes) = written(directory.path(), sizes);
        let ends = ends(&bytes);
        let (first, synced) = (ends[ends.len() - 3], ends[ends.len() - 2]);
        let at = first + at.index(synced - first);
        // A sequence number has no checksum; it loses nothing.
        prop_assume!(!(first + 5..first + START_BYTES).contains(&at));
        let mut damaged = bytes[..synced + torn.index(bytes.len() - synced)].to_vec();
        damaged[at] ^= 1 << bit;
        prop_assert_eq!(end(&damaged), End::Damaged { from: first as u64 });
    }

    #[test]
    fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(prop_oneof![0_u8..5, any::<u8>()], 0..3000)) {
        match end(&bytes) {
            End::Whole => prop_assert!(bytes.iter().all(|byte| *byte == 0)),
            End::Unfinished { from, to } => prop_assert!(from < to && to <= bytes.len() as u64),
            End::Damaged { from } => prop_assert!(from < bytes.len() as u64),
        }
    }
}
