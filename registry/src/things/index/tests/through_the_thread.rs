//! The index through its thread.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use plaza_core::jid::Jid;
use plaza_core::thing::{NodeName, Test};

use super::super::*;
use super::{equal, operator, text, thing};
use crate::store::memory::MemoryStore;
use crate::store::{self, Batch, CommitError, Lookup, Pair, Run, Store, StoreError, Table, Write};
use crate::testing::jid;
use crate::things::{State, ThingRecord, thing_key};
use crate::wait::block_on;

fn record(jid: &Jid, node: &NodeName, sn: &str) -> ThingRecord {
    ThingRecord { state: State::SelfOwned, tags: vec![text("SN", sn)], ..ThingRecord::new(jid.clone(), node.clone()) }
}

fn keep(store: &MemoryStore, things: impl IntoIterator<Item = ThingRecord>) {
    let writes = things.into_iter().map(|thing| thing.put()).collect();
    block_on(store.commit(Batch { guards: Vec::new(), writes })).unwrap();
}

fn sn(handle: &Handle, value: &str) -> Result<Found, SearchError> {
    let asker = jid("asker@things.example/home");
    block_on(handle.search(&asker, Query { operators: vec![equal("SN", value)], offset: 0, max: 1_000, telling: None }))
}

fn until(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "it never came to be");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn it_is_filled_from_the_store_and_hears_of_changes() {
    let things = MemoryStore::new();
    let private =
        ThingRecord { state: State::Unclaimed, ..record(&jid("new@things.example"), &NodeName::default(), "1") };
    let all = (0..3_000).map(|number| {
        let (jid, node) = thing(number);
        record(&jid, &node, "1")
    });
    keep(&things, all.chain([private.clone()]));
    let index = spawn(things.clone(), Limits::default()).unwrap();
    let page = sn(&index, "1").unwrap();
    assert_eq!((page.things.len(), page.more), (100, true), "a page is no longer than allowed");
    let progress = index.progress();
    assert_eq!((progress.things, progress.is_filled), (3_000, true));
    assert!(progress.bytes > 0);

    assert_eq!(sn(&index, "2"), Ok(Found::default()));
    let listed = ThingRecord { state: State::SelfOwned, tags: vec![text("SN", "2")], ..private.clone() };
    keep(&things, [listed]);
    block_on(index.changed(&private.jid, &private.node));
    assert_eq!(sn(&index, "2").unwrap().things, [(private.jid.clone(), private.node.clone())]);
    keep(&things, [private.clone()]);
    block_on(index.changed(&private.jid, &private.node));
    assert_eq!(sn(&index, "2"), Ok(Found::default()), "no longer listed");

    let (jid, node) = thing(4);
    let key = thing_key(jid.as_jid(), &node);
    let writes = vec![Write::Delete { table: Table::Things, key }];
    block_on(things.commit(Batch { guards: Vec::new(), writes })).unwrap();
    block_on(index.changed(&jid, &node));
    assert!(sn(&index, "1").is_ok());
    until(|| index.progress().things == 2_999);
}

#[test]
fn a_change_during_the_fill_wins_and_searches_wait_for_its_end() {
    let things = MemoryStore::new();
    let (jid, node) = thing(0);
    keep(&things, [record(&jid, &node, "old")]);
    things.hold();
    let index = spawn(things.clone(), Limits::default()).unwrap();
    until(|| things.held() == 1);
    // The page is read as it is now; what changes next is told of while it is on its way.
    let asker = self::jid("asker@things.example");
    let search = Query { operators: vec![equal("SN", "old")], offset: 0, max: 1, telling: None };
    let mut old = pin!(index.search(&asker, search));
    assert!(old.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(!index.progress().is_filled);
    assert!(things.release());
    until(|| things.held() == 1);
    let changed = record(&jid, &node, "new").put();
    let commit = things.commit(Batch { guards: Vec::new(), writes: vec![changed] });
    block_on(index.changed(&jid, &node));
    things.release_all();
    block_on(commit).unwrap();
    assert_eq!(sn(&index, "new").unwrap().things.len(), 1);
    assert_eq!(block_on(old), Ok(Found::default()));
}

#[test]
fn who_searches_briefly_need_not_wait_for_who_searches_long() {
    let things = MemoryStore::new();
    let all = (0..20_000).map(|number| {
        let (jid, node) = thing(number);
        record(&jid, &node, &format!("{number:x}"))
    });
    keep(&things, all);
    let plenty = Duration::from_secs(60);
    let limits = Limits {
        search_turn: Duration::from_micros(100),
        search_time_max: plenty,
        search_work_max: u64::MAX,
        ..Limits::default()
    };
    let index = spawn(things.clone(), limits).unwrap();
    assert_eq!(sn(&index, "ff").unwrap().things.len(), 1);
    let pending = |search: &mut std::pin::Pin<&mut dyn Future<Output = _>>| {
        search.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
    };
    // All values are tried, and none matches.
    let tests = vec![operator("SN", Test::StrRegEx("([0-9a-f]{1,3})+[^0-9a-f]".into()))];
    let search = Query { operators: tests, offset: 0, max: 10, telling: None };
    let (one, two) = (jid("one@things.example"), jid("two@things.example"));
    let mut long: std::pin::Pin<&mut dyn Future<Output = _>> = pin!(index.search(&one, search.clone()));
    let mut longer: std::pin::Pin<&mut dyn Future<Output = _>> = pin!(index.search(&two, search));
    for _ in 0..3 {
        assert_eq!(sn(&index, "ff").unwrap().things.len(), 1);
    }
    assert!(pending(&mut long) && pending(&mut longer), "three were answered meanwhile");
    // What was changed before is seen, whoever goes on.
    let (jid, node) = thing(0xff);
    keep(&things, [record(&jid, &node, "new")]);
    block_on(index.changed(&jid, &node));
    assert_eq!(sn(&index, "new").unwrap().things.len(), 1);
    assert_eq!(sn(&index, "ff"), Ok(Found::default()));
    assert_eq!([block_on(long), block_on(longer)], [Ok(Found::default()), Ok(Found::default())]);
}

#[test]
fn searches_under_way_are_bounded_for_one_and_for_all() {
    let things = MemoryStore::new();
    things.hold();
    let index = spawn(things.clone(), Limits { searches_max: 6, ..Limits::default() }).unwrap();
    let ask = |who: &str| {
        let search = Query { operators: vec![equal("SN", "1")], offset: 0, max: 1, telling: None };
        index.search(&jid(&format!("{who}@things.example/r")), search)
    };
    let first: Vec<_> = (0..4).map(|_| ask("one")).collect();
    assert_eq!(block_on(ask("one")), Err(SearchError::Busy), "one has four");
    let second: Vec<_> = (0..2).map(|_| ask("two")).collect();
    assert_eq!(block_on(ask("three")), Err(SearchError::Busy), "all have six");
    things.release_all();
    for answer in first.into_iter().chain(second) {
        assert_eq!(block_on(answer), Ok(Found::default()));
    }
    for _ in 0..9 {
        assert_eq!(block_on(ask("one")), Ok(Found::default()));
    }
}

#[test]
fn who_tells_of_a_change_waits_for_room() {
    let things = MemoryStore::new();
    let (jid, node) = thing(0);
    things.hold();
    let index = spawn(things.clone(), Limits { mailbox_max: 2, ..Limits::default() }).unwrap();
    // The thread waits for the first page, so that the mailbox stays full.
    until(|| things.held() == 1);
    let mut changes: Vec<_> = (0..5).map(|_| Box::pin(index.changed(&jid, &node))).collect();
    let mut context = Context::from_waker(Waker::noop());
    let ready = changes.iter_mut().map(|change| change.as_mut().poll(&mut context).is_ready());
    assert_eq!(ready.collect::<Vec<_>>(), [true, true, false, false, false]);
    let waiting = std::thread::spawn(move || {
        changes.into_iter().skip(2).for_each(block_on);
    });
    things.release_all();
    waiting.join().unwrap();
    assert_eq!(sn(&index, "1"), Ok(Found::default()));
}

#[test]
fn a_record_that_cannot_be_read_hides_nothing_else() {
    let things = MemoryStore::new();
    let all: Vec<_> = (0..9).map(|number| thing(number * 3)).collect();
    keep(&things, all.iter().map(|(jid, node)| record(jid, node, "1")));
    let key = thing_key(all[4].0.as_jid(), &all[4].1);
    let writes = vec![Write::Put { table: Table::Things, key, value: vec![99] }];
    block_on(things.commit(Batch { guards: Vec::new(), writes })).unwrap();
    let index = spawn(things.clone(), Limits::default()).unwrap();
    assert_eq!(sn(&index, "1").unwrap().things.len(), 8);
    for (jid, node) in &all {
        block_on(index.changed(jid, node));
    }
    assert_eq!(sn(&index, "1").unwrap().things.len(), 8);
}

/// A store of which a page cannot be read if a thing in it is damaged, and in which something changes just before things are
/// looked up.
#[derive(Clone)]
struct Odd {
    things: MemoryStore,
    damaged: Option<Vec<u8>>,
    change: Batch,
}

impl Store for Odd {
    fn get(
        &self,
        table: Table,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send + 'static + use<> {
        self.things.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Pair>, StoreError>> + Send + 'static + use<> {
        self.things.scan(table, prefix, after, limit)
    }

    fn run(&self, run: Run) -> impl Future<Output = Result<Vec<Pair>, StoreError>> + Send + 'static + use<> {
        let (found, damaged) = (self.things.run(run), self.damaged.clone());
        async move {
            let found = found.await?;
            if found.iter().any(|(key, _)| Some(key) == damaged.as_ref()) {
                Err(StoreError::Corrupt)
            } else {
                Ok(found)
            }
        }
    }

    fn look_up(
        &self,
        lookups: Vec<Lookup>,
    ) -> impl Future<Output = Result<Vec<Option<store::Found>>, StoreError>> + Send + 'static + use<> {
        block_on(self.things.commit(self.change.clone())).unwrap();
        let is_damaged = lookups.iter().any(|lookup| Some(&lookup.key) == self.damaged.as_ref());
        let found = self.things.look_up(lookups);
        async move { if is_damaged { Err(StoreError::Corrupt) } else { found.await } }
    }

    fn commit(&self, batch: Batch) -> impl Future<Output = Result<(), CommitError>> + Send + 'static + use<> {
        self.things.commit(batch)
    }
}

#[test]
fn what_is_damaged_in_the_store_hides_no_more_than_its_slot() {
    let things = MemoryStore::new();
    let all: Vec<_> = (0..500).map(|number| thing(number * 3)).collect();
    keep(&things, all.iter().map(|(jid, node)| record(jid, node, "1")));
    let (jid, node) = &all[250];
    let damaged = Some(thing_key(jid.as_jid(), node));
    let index = spawn(Odd { things, damaged, change: Batch::default() }, Limits::default()).unwrap();
    assert!(sn(&index, "1").unwrap().more);
    let found = index.progress().things;
    assert!((490..500).contains(&found), "{found} of 500, where each slot has one or two");
    for (jid, node) in &all {
        block_on(index.changed(jid, node));
    }
    assert!(sn(&index, "1").is_ok());
    until(|| index.progress().things == 499);
}

#[test]
fn what_changes_behind_a_page_on_its_way_is_not_undone_by_it() {
    let things = MemoryStore::new();
    let all: Vec<_> = (0..1_500).map(thing).collect();
    keep(&things, all.iter().map(|(jid, node)| record(jid, node, "old")));
    let pairs = block_on(things.scan(Table::Things, &[], None, usize::MAX)).unwrap();
    let (last, _) = pairs.last().unwrap();
    let (jid, node) = all.iter().find(|(jid, node)| thing_key(jid.as_jid(), node) == *last).unwrap();
    let change = Batch { guards: Vec::new(), writes: vec![record(jid, node, "new").put()] };
    things.hold();
    let index = spawn(Odd { things: things.clone(), damaged: None, change }, Limits::default()).unwrap();
    until(|| things.held() == 1);
    // Told while the first page is awaited: looked up when the second, in which it lies, has been read and not put in.
    block_on(index.changed(jid, node));
    things.release_all();
    assert_eq!(sn(&index, "new").unwrap().things, [(jid.clone(), node.clone())]);
    assert_eq!(index.progress().things, 1_500);
}

#[test]
fn a_store_that_fails_closes_it() {
    let things = MemoryStore::new();
    things.refuse(Some(StoreError::Failed));
    let index = spawn(things, Limits::default()).unwrap();
    assert_eq!(sn(&index, "1"), Err(SearchError::Closed));
    block_on(index.changed(&jid("lamp@things.example"), &NodeName::default()));
}
