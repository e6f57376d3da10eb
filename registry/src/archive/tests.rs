use plaza_core::jid::Jid;
use plaza_core::rsm::{Request, Start};

use super::*;
use crate::accounts;
use crate::store::memory::MemoryStore;
use crate::testing::{jid, store_with};
use crate::wait::block_on;

const NOW: u64 = 1_767_323_045_000;

fn config() -> ArchiveConfig {
    ArchiveConfig { modes: Modes::ALL, id_key: 7, ..ArchiveConfig::default() }
}

/// An account with an archive.
fn archive() -> (MemoryStore, Jid) {
    let owner = jid("owner@things.example");
    let store = store_with(&owner);
    block_on(allow(&store, owner.as_jid())).unwrap();
    (store, owner)
}

fn entry(with: &str, text: &str) -> Entry {
    Entry { with: with.into(), stanza: format!("<message><body>{text}</body></message>").into_bytes().into() }
}

/// Archives a message a second, from `NOW` on, with those named in turn; gives their ids.
fn filled(store: &MemoryStore, owner: &Jid, config: &ArchiveConfig, count: usize, with: &[&str]) -> Vec<ArchiveId> {
    (0..count)
        .map(|index| {
            let entry = entry(with[index % with.len()], &index.to_string());
            let ids = block_on(super::store(store, owner.as_jid(), config, &[entry], NOW + 1_000 * index as u64));
            ids.unwrap()[0].unwrap()
        })
        .collect()
}

fn ask(store: &MemoryStore, owner: &Jid, config: &ArchiveConfig, asked: &Query) -> Result<Found, QueryError> {
    block_on(query(store, owner.as_jid(), config, asked, 0, NOW + 60_000))
}

fn page(max: u32, start: Start) -> Request {
    Request { max: Some(max), start }
}

fn ids(found: &Found) -> Vec<ArchiveId> {
    found.items.iter().map(|item| item.id).collect()
}

fn head_of_store(store: &MemoryStore, owner: &Jid) -> Head {
    let record = block_on(store.get(Table::Archives, &key::archive_head(owner.as_jid()))).unwrap().unwrap();
    Head::decode(&record).unwrap()
}

#[test]
fn messages_are_read_back_in_order_with_the_time_they_came() {
    let (store, owner) = archive();
    let entries = [entry("a@x/1", "one"), entry("b@x", "two"), entry("a@x/1", "three")];
    let given = block_on(super::store(&store, owner.as_jid(), &config(), &entries, NOW)).unwrap();
    let found = ask(&store, &owner, &config(), &Query::ALL).unwrap();
    assert_eq!(given, ids(&found).into_iter().map(Some).collect::<Vec<_>>());
    assert!(given.is_sorted());
    for (item, entry) in found.items.iter().zip(&entries) {
        assert_eq!(item.stanza, entry.stanza);
        assert_eq!(item.id.moment().unix_millis(), NOW as i64);
    }
    assert_eq!((found.complete, found.count), (true, Some(3)));
}

#[test]
fn pages_lead_from_one_end_to_the_other_and_back() {
    let (store, owner) = archive();
    let all = filled(&store, &owner, &config(), 25, &["a@x"]);
    for max in [1, 4, 25, 30] {
        let (mut forwards, mut start) = (Vec::new(), Start::First);
        loop {
            let found = ask(&store, &owner, &config(), &Query { page: page(max, start), ..Query::ALL }).unwrap();
            forwards.extend(ids(&found));
            if found.complete {
                break;
            }
            assert_eq!(found.items.len(), max as usize);
            start = Start::After(forwards.last().unwrap().to_string());
        }
        assert_eq!(forwards, all, "{max}");
        let (mut backwards, mut start) = (Vec::new(), Start::Last);
        loop {
            let found = ask(&store, &owner, &config(), &Query { page: page(max, start), ..Query::ALL }).unwrap();
            backwards.splice(0..0, ids(&found));
            if found.complete {
                break;
            }
            start = Start::Before(backwards[0].to_string());
        }
        assert_eq!(backwards, all, "{max}");
    }
    let none = ask(&store, &owner, &config(), &Query { page: page(0, Start::First), ..Query::ALL }).unwrap();
    assert_eq!((none.items.len(), none.complete, none.count), (0, false, Some(25)));
    let beyond = Query { page: page(5, Start::After(all[24].to_string())), ..Query::ALL };
    assert_eq!(
        ask(&store, &owner, &config(), &beyond).unwrap(),
        Found { complete: true, count: Some(25), ..Found::default() }
    );
}

#[test]
fn a_page_ends_at_its_bounds_and_holds_one_message_at_least() {
    let (store, owner) = archive();
    filled(&store, &owner, &config(), 10, &["a@x"]);
    let mut small = config();
    small.limits.page_max = 3;
    let found = ask(&store, &owner, &small, &Query { page: page(1_000, Start::First), ..Query::ALL }).unwrap();
    assert_eq!((found.items.len(), found.complete), (3, false));
    small.limits.page_bytes_max = 1;
    let found = ask(&store, &owner, &small, &Query::ALL).unwrap();
    assert_eq!((found.items.len(), found.complete), (1, false));
    small.limits = ArchiveLimits { page_bytes_max: 300, ..ArchiveLimits::default() };
    let found = ask(&store, &owner, &small, &Query { page: page(9, Start::Last), ..Query::ALL }).unwrap();
    assert_eq!((found.items.len(), found.complete), (3, false), "35 bytes and 64 each");
}

#[test]
fn filters_leave_out_what_is_not_asked_for() {
    let (store, owner) = archive();
    let with = ["a@x/1", "a@x/2", "b@x/1", "owner@things.example/desk"];
    // More than a slice, so that a filter has to go on.
    let all = filled(&store, &owner, &config(), 600, &with);
    let mut wide = config();
    (wide.limits.page_max, wide.limits.page_bytes_max) = (1_000, 1 << 20);
    let check = |asked: Query, expected: &[ArchiveId]| {
        let found = ask(&store, &owner, &wide, &asked).unwrap();
        assert_eq!((ids(&found).as_slice(), found.complete, found.count), (expected, true, None), "{asked:?}");
    };
    let every = |offsets: &[usize]| -> Vec<ArchiveId> {
        all.iter().enumerate().filter(|(index, _)| offsets.contains(&(index % 4))).map(|(_, id)| *id).collect()
    };
    let with = |text: &str| Query { with: Some(jid(text)), ..Query::ALL };
    check(with("a@x"), &every(&[0, 1]));
    check(with("a@x/2"), &every(&[1]));
    check(with("b@x/2"), &[]);
    check(with("x"), &[]);
    check(with("owner@things.example"), &every(&[3]));
    let at = |second: u64| Some(NOW + second * 1_000);
    check(Query { start: at(38), ..Query::ALL }, &all[38..]);
    check(Query { end: at(1), ..Query::ALL }, &all[..2]);
    check(Query { start: at(3), end: at(5), ..Query::ALL }, &all[3..6]);
    check(Query { start: at(5), end: at(3), ..Query::ALL }, &[]);
    check(Query { start: Some(u64::MAX), ..Query::ALL }, &[]);
    let named = |index: usize| Some(all[index].to_string());
    check(Query { after: named(36), ..Query::ALL }, &all[37..]);
    check(Query { before: named(3), ..Query::ALL }, &all[..3]);
    check(Query { after: named(3), before: named(6), with: Some(jid("a@x")), ..Query::ALL }, &all[4..6]);
    let some = vec![all[9].to_string(), all[2].to_string(), all[9].to_string()];
    check(Query { ids: Some(some.clone()), ..Query::ALL }, &[all[2], all[9]]);
    check(Query { ids: Some(some.clone()), end: at(5), ..Query::ALL }, &[all[2]]);
    check(Query { ids: Some(Vec::new()), ..Query::ALL }, &[]);
    let last = Query { ids: Some(some), page: page(1, Start::Last), ..Query::ALL };
    let found = ask(&store, &owner, &config(), &last).unwrap();
    assert_eq!((ids(&found), found.complete), (vec![all[9]], false));
    // A filter and a page together: the first of what matches, and the last.
    let found = ask(&store, &owner, &config(), &Query { page: page(2, Start::Last), ..with("b@x") }).unwrap();
    assert_eq!((ids(&found), found.complete), (vec![all[594], all[598]], false));
}

#[test]
fn what_is_named_and_not_there_is_not_found() {
    let (store, owner) = archive();
    let all = filled(&store, &owner, &config(), 3, &["a@x"]);
    let unknown = ArchiveId(all[2].0 + 1).to_string();
    for text in [unknown.as_str(), "", "x", "0000000000000000"] {
        let text = || text.to_owned();
        for asked in [
            Query { after: Some(text()), ..Query::ALL },
            Query { before: Some(text()), ..Query::ALL },
            Query { ids: Some(vec![all[0].to_string(), text()]), ..Query::ALL },
            Query { page: page(1, Start::After(text())), ..Query::ALL },
            Query { page: page(1, Start::Before(text())), ..Query::ALL },
        ] {
            assert_eq!(ask(&store, &owner, &config(), &asked), Err(QueryError::NotFound), "{asked:?}");
        }
    }
    let by_place = Query { page: page(1, Start::Index(1)), ..Query::ALL };
    assert_eq!(ask(&store, &owner, &config(), &by_place), Err(QueryError::Unsupported));
}

#[test]
fn the_oldest_go_when_there_are_too_many_or_too_much() {
    let (store, owner) = archive();
    let mut few = config();
    few.limits.messages_max = 5;
    let all = filled(&store, &owner, &few, 12, &["a@x"]);
    assert_eq!(ids(&ask(&store, &owner, &few, &Query::ALL).unwrap()), all[7..]);
    let head = head_of_store(&store, &owner);
    assert_eq!((head.count, head.first, head.last), (5, all[7].0, all[11].0));
    // Two of 102 bytes each, and what is larger than all there may be is not archived.
    few.limits.bytes_max = 250;
    let large = entry("a@x", &"l".repeat(300));
    let entries = [entry("a@x", "12"), large, entry("a@x", "13")];
    let given = block_on(super::store(&store, owner.as_jid(), &few, &entries, NOW + 20_000)).unwrap();
    assert_eq!(given[1], None);
    assert_eq!(ids(&ask(&store, &owner, &few, &Query::ALL).unwrap()), [given[0].unwrap(), given[2].unwrap()]);
    assert_eq!(head_of_store(&store, &owner).bytes, 2 * entries[0].bytes());
    few.limits.messages_max = 0;
    assert_eq!(block_on(super::store(&store, owner.as_jid(), &few, &entries[..1], NOW + 20_000)), Ok(vec![None]));
    assert_eq!(head_of_store(&store, &owner).count, 0);
}

#[test]
fn what_is_too_old_is_not_shown_and_is_swept_out() {
    let (store, owner) = archive();
    let other = jid("owner@things.example.org");
    let keys = block_on(accounts::load(&store, owner.as_jid())).unwrap().unwrap();
    let keys = accounts::NewKeys { sha1: keys.sha1, sha256: keys.sha256 };
    block_on(accounts::create(&store, other.as_jid(), keys, false, 0)).unwrap();
    block_on(allow(&store, other.as_jid())).unwrap();
    let all = filled(&store, &owner, &config(), 20, &["a@x"]);
    let theirs = filled(&store, &other, &config(), 3, &["a@x"]);
    block_on(save_prefs(&store, other.as_jid(), &Prefs::default())).unwrap();
    let then = NOW + config().limits.age_millis_max + 4_500;
    // A query forgets them, and would not show them if the store took no writes.
    let found = block_on(query(&store, owner.as_jid(), &config(), &Query::ALL, 0, then)).unwrap();
    assert_eq!((ids(&found), found.count), (all[5..].to_vec(), Some(15)));
    let gone = Query { after: Some(all[4].to_string()), ..Query::ALL };
    assert_eq!(block_on(query(&store, owner.as_jid(), &config(), &gone, 0, then)), Err(QueryError::NotFound));
    assert_eq!(block_on(sweep(&store, &config(), then)), Ok(2));
    assert_eq!(head_of_store(&store, &other), Head { count: 0, bytes: 0, first: theirs[2].0 + 1, last: theirs[2].0 });
    let left = block_on(store.scan(Table::Archives, &key::archived(other.as_jid()), None, 10)).unwrap();
    assert_eq!(left, []);
    assert_eq!(block_on(ends(&store, other.as_jid(), &config(), then)), Ok(None));
    assert_eq!(block_on(ends(&store, owner.as_jid(), &config(), then)), Ok(Some((all[5], all[19]))));
}

#[test]
fn an_archive_is_there_only_while_it_is_allowed_and_its_account_lives() {
    let (store, owner) = archive();
    filled(&store, &owner, &config(), 3, &["a@x"]);
    block_on(allow(&store, owner.as_jid())).unwrap();
    assert_eq!(head_of_store(&store, &owner).count, 3, "allowed again, it stays what it was");
    let nobody = jid("nobody@things.example");
    assert_eq!(block_on(have(&store, [owner.as_jid(), nobody.as_jid()].into_iter())), Ok(vec![true, false]));
    assert_eq!(block_on(allow(&store, nobody.as_jid())), Err(CommitError::Guard(0)));
    block_on(save_prefs(&store, owner.as_jid(), &Prefs::default())).unwrap();
    block_on(forbid(&store, owner.as_jid())).unwrap();
    assert_eq!(block_on(store.scan(Table::Archives, &[], None, 10)), Ok(vec![]));
    let refused = block_on(super::store(&store, owner.as_jid(), &config(), &[entry("a@x", "late")], NOW));
    assert_eq!(refused, Err(CommitError::Guard(0)));
    assert_eq!(block_on(save_prefs(&store, owner.as_jid(), &Prefs::default())), Err(CommitError::Guard(0)));
    assert_eq!(ask(&store, &owner, &config(), &Query::ALL), Err(QueryError::NoArchive));
    assert_eq!(block_on(sweep(&store, &config(), NOW)), Ok(0));
    block_on(allow(&store, owner.as_jid())).unwrap();
    filled(&store, &owner, &config(), 3, &["a@x"]);
    block_on(accounts::remove(&store, owner.as_jid())).unwrap();
    assert_eq!(block_on(store.scan(Table::Archives, &[], None, 10)), Ok(vec![]));
}

#[test]
fn messages_stored_at_once_all_have_their_place() {
    let (store, owner) = archive();
    let many: Vec<ArchiveId> = std::thread::scope(|scope| {
        let storing: Vec<_> = (0..4)
            .map(|index| {
                let (store, owner) = (&store, &owner);
                scope.spawn(move || filled(store, owner, &config(), 3, &[&format!("a{index}@x")]))
            })
            .collect();
        storing.into_iter().flat_map(|storing| storing.join().unwrap()).collect()
    });
    let mut sorted = many.clone();
    sorted.sort_unstable();
    assert_eq!(ids(&ask(&store, &owner, &config(), &Query::ALL).unwrap()), sorted);
    assert_eq!(head_of_store(&store, &owner).count, 12);
}

#[test]
fn a_store_that_cannot_says_so() {
    let (store, owner) = archive();
    filled(&store, &owner, &config(), 1, &["a@x"]);
    store.refuse(Some(StoreError::Failed));
    let failed = Err(QueryError::Store(StoreError::Failed));
    assert_eq!(ask(&store, &owner, &config(), &Query::ALL), failed);
    let refused = block_on(super::store(&store, owner.as_jid(), &config(), &[entry("a@x", "1")], NOW));
    assert_eq!(refused, Err(CommitError::Store(StoreError::Failed)));
}
