//! Whether the engine's journals are whole, before it reads them.
//!
//! The engine ends a journal at the first entry it cannot read, and cuts off the rest. That is right for a batch that a
//! power cut tore, which nobody was told of, and wrong for one that was damaged later: what was acknowledged would be gone
//! without a word. So the journals are walked here first, a piece at a time, by the engine's own layout (that of its
//! format 3; the manifest pins the version). A batch is written and synced before the next one is begun, so that only the
//! last batch of the newest journal may be unfinished, and that looks a certain way: it stops short, or some of its sectors
//! never came and are zeros. Such a batch is cut off; whatever else cannot be read is refused (`docs/decisions/`, 0014).
//!
//! Layout: a batch is a start (1, u32 items, u64 sequence number), its items (2, u8 kind, u8 compression, u64 keyspace,
//! u16 key, u32 value, u32 value on disk, then both) or clears (4, u64 keyspace), and an end (3, u64 checksum of what is
//! between, the magic). Numbers are little endian; behind the last batch there are zeros, or nothing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memchr::memmem;
use xxhash_rust::xxh3::Xxh3;

const MAGIC: &[u8] = b"FJL\x03";
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const START_BYTES: usize = 13;
const ITEM_BYTES: usize = 21;
const END_BYTES: usize = 13;
const CLEAR_BYTES: usize = 9;

/// What a disk writes all of or nothing.
const SECTOR_BYTES: usize = 512;
/// How much of a journal is in memory at once, in whole sectors.
const PIECE_BYTES: usize = 128 * SECTOR_BYTES;
const ZEROS: &[u8; PIECE_BYTES] = &[0; PIECE_BYTES];

/// Makes the journals of a directory ready for the engine: cuts off the batch that was not finished when the broker ended,
/// with a warning. Gives the first journal that is damaged, and from which byte on; there may be none, or no journal.
///
/// # Errors
/// The system's, with the name of the file it is about.
pub(super) fn settle(directory: &Path) -> io::Result<Option<(PathBuf, u64)>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            journals.push((number, path));
        }
    }
    journals.sort();
    let mut left = journals.len();
    for (_, path) in journals {
        left -= 1;
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        match File::open(&path).and_then(|file| end_of(&file)).map_err(named)? {
            End::Whole => {}
            // The engine syncs a journal before it begins the next.
            End::Unfinished { from, to } if left == 0 => {
                tracing::warn!(
                    "{}: bytes {from} to {to} are a batch that was never finished; nobody was told of it, and it is dropped",
                    path.display()
                );
                let cut = |file: File| file.set_len(from).and_then(|()| file.sync_all());
                OpenOptions::new().write(true).open(&path).and_then(cut).map_err(named)?;
            }
            End::Unfinished { from, .. } | End::Damaged { from } => return Ok(Some((path, from))),
        }
    }
    Ok(None)
}

/// How a journal ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With a batch.
    Whole,
    /// With a batch that was being written.
    Unfinished { from: u64, to: u64 },
    /// Not where it did when it was written.
    Damaged { from: u64 },
}

/// Where a journal is read from.
trait Source {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize>;
}

impl Source for File {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, into, at)
    }
}

/// The piece of a journal that is in memory.
struct Window<'journal, S: ?Sized> {
    source: &'journal S,
    bytes: Vec<u8>,
    from: u64,
    len: usize,
}

impl<'journal, S: Source + ?Sized> Window<'journal, S> {
    fn new(source: &'journal S) -> Self {
        Self { source, bytes: vec![0; PIECE_BYTES], from: 0, len: 0 }
    }

    /// What is there from `at` on: `wanted` bytes or more, unless the journal ends before.
    fn get(&mut self, at: u64, wanted: usize) -> io::Result<&[u8]> {
        let in_memory = at.checked_sub(self.from).map(|start| start as usize);
        match in_memory.filter(|start| start.saturating_add(wanted) <= self.len) {
            Some(start) => Ok(self.bytes.get(start..self.len).unwrap_or_default()),
            None => self.fill(at),
        }
    }

    /// A whole piece from `at` on, unless the journal ends before.
    fn fill(&mut self, at: u64) -> io::Result<&[u8]> {
        (self.from, self.len) = (at, 0);
        while let Some(rest) = self.bytes.get_mut(self.len..).filter(|rest| !rest.is_empty()) {
            match self.source.read_at(rest, at + self.len as u64) {
                Ok(0) => break,
                Ok(read) => self.len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.bytes.get(..self.len).unwrap_or_default())
    }
}

fn end_of<S: Source + ?Sized>(journal: &S) -> io::Result<End> {
    let mut window = Window::new(journal);
    let (mut at, mut before) = (0, None);
    loop {
        match batch(&mut window, at)? {
            // Sequence numbers grow; the engine has no checksum of them.
            Read::Whole { number, .. } if before.is_some_and(|before| number <= before) => {
                return Ok(End::Damaged { from: at });
            }
            Read::Whole { number, end } => (at, before) = (end, Some(number)),
            Read::Not { to } => return rest(&mut window, at, to),
        }
    }
}

enum Read {
    Whole {
        number: u64,
        end: u64,
    },
    /// What was looked at makes no batch.
    Not {
        to: u64,
    },
}

fn batch<S: Source + ?Sized>(window: &mut Window<'_, S>, start: u64) -> io::Result<Read> {
    let bytes = window.get(start, START_BYTES)?;
    let (Some(&START), Some(mut left), Some(number)) = (bytes.first(), number::<4>(bytes, 1), number::<8>(bytes, 5))
    else {
        let to = start + if bytes.first() == Some(&START) { START_BYTES as u64 } else { 1 };
        return Ok(Read::Not { to });
    };
    let mut at = start + START_BYTES as u64;
    let mut hash = Xxh3::new();
    loop {
        let bytes = window.get(at, ITEM_BYTES)?;
        let (len, mut content) = match bytes.first() {
            Some(&ITEM) if left > 0 => {
                let (key, value) = (self::number::<2>(bytes, 11), self::number::<4>(bytes, 17));
                (ITEM_BYTES, key.unwrap_or_default() + value.unwrap_or_default())
            }
            Some(&CLEAR) if left > 0 => (CLEAR_BYTES, 0),
            Some(&END) if left == 0 => {
                let to = at + END_BYTES as u64;
                let end = bytes.get(..END_BYTES).unwrap_or_default();
                let is_whole = end.ends_with(MAGIC) && self::number::<8>(end, 1) == Some(hash.digest());
                return Ok(if is_whole { Read::Whole { number, end: to } } else { Read::Not { to } });
            }
            Some(_) | None => return Ok(Read::Not { to: at + 1 }),
        };
        let header = bytes.get(..len).unwrap_or_default();
        hash.update(header);
        at += len as u64;
        if header.is_empty() {
            return Ok(Read::Not { to: at });
        }
        left -= 1;
        while content > 0 {
            let bytes = window.get(at, 1)?;
            let len = bytes.len().min(usize::try_from(content).unwrap_or(usize::MAX));
            if len == 0 {
                return Ok(Read::Not { to: at + 1 });
            }
            hash.update(bytes.get(..len).unwrap_or_default());
            (at, content) = (at + len as u64, content - len as u64);
        }
    }
}

/// What it is that makes no batch, of which the bytes from `start` to `to` were looked at.
fn rest<S: Source + ?Sized>(window: &mut Window<'_, S>, start: u64, to: u64) -> io::Result<End> {
    // Behind the last byte that is not zero; the first sector looked at that is; the first mark of a batch's end.
    let (mut end, mut hole, mut mark) = (start, None::<u64>, None::<u64>);
    let mut at = start - start % SECTOR_BYTES as u64;
    loop {
        let piece = window.fill(at)?;
        let is_last = piece.len() < PIECE_BYTES;
        let skipped = start.saturating_sub(at) as usize;
        let (from, piece) = (at.max(start), piece.get(skipped..).unwrap_or_default());
        if !is_zero(piece) {
            let last = piece.iter().rposition(|byte| *byte != 0).unwrap_or_default();
            end = from + last as u64 + 1;
            mark = mark.or_else(|| memmem::find(piece, MAGIC).map(|found| from + found as u64));
        }
        // The first sector has the end of the batch before, and what was behind that is zeros where it did not come.
        let first = piece.len().min(SECTOR_BYTES - from as usize % SECTOR_BYTES);
        let (first, others) = piece.split_at(first);
        let mut sector_at = from;
        for sector in std::iter::once(first).chain(others.chunks(SECTOR_BYTES)) {
            if hole.is_none() && sector_at < to && !sector.is_empty() && is_zero(sector) {
                hole = Some(sector_at);
            }
            sector_at += sector.len() as u64;
        }
        if is_last {
            break;
        }
        // A sector is looked at twice, lest a mark between two pieces be missed.
        at += (PIECE_BYTES - SECTOR_BYTES) as u64;
    }
    if end == start {
        return Ok(End::Whole);
    }
    // A batch that stops short has no end. One with sectors missing may have, but nothing is behind that.
    let stops_short = to > end && mark.is_none();
    let lacks_sectors = hole.is_some_and(|hole| hole < end) && mark.is_none_or(|mark| mark + MAGIC.len() as u64 == end);
    if stops_short || lacks_sectors {
        return Ok(End::Unfinished { from: start, to: end });
    }
    Ok(End::Damaged { from: start })
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(PIECE_BYTES).all(|chunk| ZEROS.starts_with(chunk))
}

/// A number of `N` bytes, if they are there.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + N)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests;
