//! Fills a broker's data directory, while no broker runs on it, with accounts, things and rules: what the load tool's
//! `decisions` and `searches` are measured on.
//!
//! `cargo run --release -p plaza-bench --example town -- DATA [--accounts N] [--things M] [--rules R] [--domain NAME]
//! [--users PREFIX] [--password TEXT] [--iterations N]`
//!
//! The accounts are those of `plaza-loadgen accounts`: PREFIX0, PREFIX1 and so on, with one password. Their SCRAM keys are
//! derived once and are the same for all of them, salt and all: who knows one password knows all. For load tests only.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::DirBuilder;
use std::future::Future;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use plaza_bench::town::{RULES_MIN, Town};
use plaza_core::jid::Jid;
use plaza_registry::accounts::{self, NewKeys};
use plaza_registry::store::embedded::{EmbeddedOptions, EmbeddedStore};
use plaza_registry::store::{Batch, CommitError, Store};
use plaza_registry::wait::block_on;

/// As in the broker.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Writes that are committed together: about as many bytes as the store makes one sync of.
const BATCH_WRITES: usize = 5_000;
/// Batches on their way: one is written while others are made.
const BATCHES_MAX: usize = 4;
const PROGRESS: Duration = Duration::from_secs(2);

struct Arguments {
    data: PathBuf,
    town: Town,
    password: String,
    iterations: u32,
}

impl Arguments {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let data = arguments.next().filter(|data| !data.starts_with('-')).ok_or("which data directory?")?.into();
        let mut town =
            Town { domain: "localhost".to_owned(), users: "load".to_owned(), accounts: 1_000, things: 0, rules: 0 };
        let (mut password, mut iterations, mut rules) = ("secret".to_owned(), 4_096, 0_u64);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} wants a value"))?;
            match name.as_str() {
                "--accounts" => town.accounts = value.parse()?,
                "--things" => town.things = value.parse()?,
                "--rules" => rules = value.parse()?,
                "--domain" => town.domain = value,
                "--users" => town.users = value,
                "--password" => password = value,
                "--iterations" => iterations = value.parse()?,
                _ => return Err(format!("{name} is not known").into()),
            }
        }
        if town.accounts < 2 || town.things > town.accounts {
            return Err("each thing has an account, and there are two accounts at least".into());
        }
        town.rules = rules.checked_div(town.things).unwrap_or(0);
        if town.rules * town.things != rules || (rules > 0 && town.rules < RULES_MIN) {
            return Err(format!("--rules is a multiple of --things: none, or {RULES_MIN} and more for each").into());
        }
        Jid::parse(&format!("{}0@{}", town.users, town.domain)).map_err(|_| "that makes no address")?;
        Ok(Self { data, town, password, iterations })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { data, town, password, iterations } = Arguments::read(std::env::args().skip(1))?;
    DirBuilder::new().recursive(true).mode(0o700).create(&data)?;
    let store = EmbeddedStore::open(&data.join("store"), EmbeddedOptions::default())?;
    if !block_on(accounts::list(&store, None, 1))?.is_empty() {
        return Err(format!("there are accounts in {} already", data.display()).into());
    }
    let keys = NewKeys::derive(&password, b"one salt for all, for load tests", iterations).ok_or("no such password")?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();

    let (start, mut said) = (Instant::now(), Instant::now());
    let mut under_way: VecDeque<_> = VecDeque::new();
    let mut writes = Vec::with_capacity(BATCH_WRITES);
    for number in 0..town.accounts {
        writes.extend(town.writes(number, &keys, now));
        if writes.len() >= BATCH_WRITES {
            let batch = Batch { guards: Vec::new(), writes: std::mem::take(&mut writes) };
            under_way.push_back(store.commit(batch));
            if under_way.len() >= BATCHES_MAX {
                wait(under_way.pop_front())?;
            }
        }
        if said.elapsed() >= PROGRESS {
            let each = start.elapsed().as_secs_f64() / (number + 1) as f64;
            let left = each * (town.accounts - number) as f64;
            eprintln!("{number} of {} accounts, {left:.0} s to go", town.accounts);
            said = Instant::now();
        }
    }
    under_way.push_back(store.commit(Batch { guards: Vec::new(), writes }));
    for commit in under_way {
        wait(Some(commit))?;
    }
    store.close()?;
    let Town { accounts, things, rules, .. } = town;
    eprintln!("{accounts} accounts, {things} things, {} rules in {:.1?}", rules * things, start.elapsed());
    Ok(())
}

fn wait(commit: Option<impl Future<Output = Result<(), CommitError>>>) -> Result<(), CommitError> {
    commit.map_or(Ok(()), block_on)
}
