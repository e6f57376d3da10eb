//! What the search index takes: memory of a thing, time to put it in, and time of the slowest in a hundred searches.
//!
//! `cargo run --release -p plaza-bench --example things -- [things] [searches of each kind]`, or with `stored` as a third
//! argument: how long it takes to fill the index from a store of so many things, opened anew.

use std::error::Error;
use std::time::{Duration, Instant};

use plaza_bench::things::{self, Kind, Numbers};
use plaza_core::thing::NodeName;
use plaza_registry::store::embedded::{EmbeddedOptions, EmbeddedStore};
use plaza_registry::store::{Batch, Store};
use plaza_registry::things::index::{self, Budget, Index, Limits};
use plaza_registry::things::{State, ThingRecord};
use plaza_registry::wait::block_on;

/// As in the broker.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PAGE_BYTES: u64 = 4_096;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: u64 = arguments.next().map_or(Ok(100_000), |count| count.parse())?;
    let searches: usize = arguments.next().map_or(Ok(1_000), |count| count.parse())?;

    if arguments.next().as_deref() == Some("stored") {
        return fill(count);
    }

    let (before, start) = (resident_bytes()?, Instant::now());
    let mut index = things::index(count);
    let (took, after) = (start.elapsed(), resident_bytes()?);
    println!("{count} things in {took:.2?}, {:.2?} each with making it up", took / count as u32);
    println!("memory of a thing: {} B resident, {} B counted", (after - before) / count, index.bytes() as u64 / count);

    println!("{:<18} {:>9} {:>9} {:>9} {:>9}   found, too much of {searches}", "search", "p50 µs", "p90", "p99", "max");
    for (name, kind) in Kind::ALL {
        measure(&index, name, kind, count, searches);
    }

    let mut numbers = Numbers::new(7);
    let changes = 100_000.min(count);
    let mut took = Duration::ZERO;
    for _ in 0..changes {
        let ((jid, _), (_, tags)) = (things::thing(numbers.below(count)), things::thing(numbers.below(count)));
        let start = Instant::now();
        index.put(jid.as_jid(), &NodeName::default(), &tags);
        took += start.elapsed();
    }
    println!("a change of all tags: {:.2?}", took / changes as u32);
    println!("memory of a thing after {changes} of them: {} B resident", (resident_bytes()? - before) / count);
    Ok(())
}

/// Things that are committed together.
const BATCH: u64 = 1_000;

fn fill(count: u64) -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir_in(".")?;
    let store = EmbeddedStore::open(directory.path(), EmbeddedOptions::default())?;
    for first in (0..count).step_by(BATCH as usize) {
        let writes = (first..count.min(first + BATCH)).map(|number| record(number).put()).collect();
        block_on(store.commit(Batch { guards: Vec::new(), writes }))?;
    }
    store.close()?;

    let start = Instant::now();
    let store = EmbeddedStore::open(directory.path(), EmbeddedOptions::default())?;
    println!("the store of {count} things opens in {:.2?}", start.elapsed());
    let start = Instant::now();
    let index = index::spawn(store.clone(), Limits::default())?;
    let search = Kind::EqualityOwn.search(count, &mut Numbers::new(1));
    let found = block_on(index.search(&record(0).jid, search))?;
    println!("the first search is answered {:.2?} later: {} found", start.elapsed(), found.things.len());
    println!("{:?}", index.progress());
    drop(index);
    store.close()?;
    Ok(())
}

fn record(number: u64) -> ThingRecord {
    let (jid, tags) = things::thing(number);
    ThingRecord { state: State::SelfOwned, tags, ..ThingRecord::new(jid, NodeName::default()) }
}

fn measure(index: &Index, name: &str, kind: Kind, count: u64, searches: usize) {
    let mut numbers = Numbers::new(1);
    let (mut times, mut found, mut too_much) = (Vec::with_capacity(searches), 0, 0);
    for _ in 0..searches {
        let search = kind.search(count, &mut numbers);
        let start = Instant::now();
        let limits = Limits::default();
        let mut budget = Budget::new(limits.search_work_max, Some(start + limits.search_time_max));
        match index.search(&search, &mut budget) {
            Ok(page) => found += page.things.len(),
            Err(_) => too_much += 1,
        }
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at =
        |part: f64| times.get((times.len() as f64 * part) as usize).or(times.last()).map_or(0, Duration::as_micros);
    println!(
        "{name:<18} {:>9} {:>9} {:>9} {:>9}   {found}, {too_much}",
        at(0.5),
        at(0.9),
        at(0.99),
        times.last().map_or(0, Duration::as_micros)
    );
}

/// What of this process is in memory.
fn resident_bytes() -> Result<u64, Box<dyn Error>> {
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let resident: u64 = pages.split_whitespace().nth(1).ok_or("no statm")?.parse()?;
    Ok(resident * PAGE_BYTES)
}
