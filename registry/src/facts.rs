//! Facts: what a home shard keeps of an account in memory, loaded in one trip to the store when the account becomes
//! active.

use plaza_core::jid::JidRef;

use crate::accounts::{self, Account};
use crate::archive::{self, Prefs};
use crate::blocking::{self, BlockList};
use crate::contacts::Contacts;
use crate::offline::OfflineHead;
use crate::provisioning::{self, HomeThings};
use crate::pubsub;
use crate::rosters;
use crate::store::{Lookup, Store, StoreError, Table, key};
use crate::tokens::Tokens;
use crate::vcards::{self, AvatarHash};

/// All that decisions about an account need.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Credentials and flags.
    pub account: Account,
    /// The roster's addresses and subscriptions.
    pub contacts: Contacts,
    /// How many messages are kept for it.
    pub offline: OfflineHead,
    /// Whom it blocks.
    pub blocked: BlockList,
    /// Its clients' tokens.
    pub tokens: Tokens,
    /// Whether it has nodes (XEP-0163), or had.
    pub has_nodes: bool,
    /// The hash of the photo in its vCard (XEP-0153).
    pub photo: Option<AvatarHash>,
    /// What it wants archived; `None` if it has no archive, as nearly all.
    pub archive: Option<Box<Prefs>>,
    /// Its things and their rules; `None` if it has none.
    pub things: Option<Box<HomeThings>>,
}

impl Facts {
    /// Bytes on the heap and of itself.
    pub fn bytes(&self) -> usize {
        let keys =
            |keys: &plaza_core::sasl::scram::Keys| keys.salt.len() + keys.stored_key.len() + keys.server_key.len();
        size_of::<Self>()
            + keys(&self.account.sha1)
            + keys(&self.account.sha256)
            + self.contacts.heap_bytes()
            + self.blocked.heap_bytes()
            + self.tokens.heap_bytes()
            + self.archive.as_ref().map_or(0, |prefs| size_of::<Prefs>() + prefs.heap_bytes())
            + self.things.as_ref().map_or(0, |things| size_of::<HomeThings>() + things.heap_bytes())
    }
}

/// Loads an account's facts; `None` if there is no such account.
///
/// # Errors
/// [`StoreError`].
pub async fn load<S: Store>(store: &S, bare: JidRef<'_>) -> Result<Option<Facts>, StoreError> {
    let lookups = vec![
        Lookup { table: Table::Accounts, key: key::account(bare), below: false },
        Lookup { table: Table::Rosters, key: key::roster(bare), below: true },
        Lookup { table: Table::Offline, key: key::offline(bare), below: false },
        Lookup { table: Table::Blocklists, key: key::account(bare), below: false },
        Lookup { table: Table::Tokens, key: key::account(bare), below: false },
        Lookup { table: Table::PubSub, key: pubsub::count_key(bare), below: false },
        // The few who have one have it read whole for its hash.
        Lookup { table: Table::Vcards, key: key::account(bare), below: false },
        archive::head_of(bare),
    ];
    // Queued beside them, and so no trip of its own.
    let things = provisioning::read_page(store, Table::Things, bare, None);
    let mut found = store.look_up(lookups).await?.into_iter();
    let mut next = || found.next().flatten();
    let (account, roster, offline, blocked, tokens, nodes) = (next(), next(), next(), next(), next(), next());
    let (vcard, has_archive) = (next(), next().is_some());
    let Some(account) = account else { return Ok(None) };
    // One more trip for the few.
    let archive = if has_archive { Some(Box::new(archive::load_prefs(store, bare).await?)) } else { None };
    let things = HomeThings::load_with(store, bare, things.await?).await?;
    let items = roster.map_or(Ok(Vec::new()), |roster| rosters::read(bare, roster.below))?;
    Ok(Some(Facts {
        account: accounts::decode(&account.value)?,
        contacts: Contacts::new(&items),
        offline: offline.map_or(Ok(OfflineHead::default()), |head| OfflineHead::decode(&head.value))?,
        blocked: blocked.map_or(Ok(BlockList::default()), |list| blocking::decode(&list.value))?,
        tokens: tokens.map_or(Ok(Tokens::default()), |tokens| Tokens::decode(&tokens.value))?,
        has_nodes: nodes.is_some(),
        photo: vcard.map_or(Ok(None), |vcard| vcards::decode_hash(&vcard.value))?,
        archive,
        things,
    }))
}

#[cfg(test)]
mod tests {
    use plaza_core::jid::Jid;

    use super::*;
    use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
    use crate::store::{Batch, Write};
    use crate::testing::store_with;
    use crate::wait::block_on;

    #[test]
    fn an_account_comes_with_its_roster_and_what_is_kept_for_it() {
        let owner = Jid::parse("owner@things.example").unwrap();
        let memory = store_with(&owner);
        let facts = block_on(load(&memory, owner.as_jid())).unwrap().unwrap();
        assert!(facts.contacts.is_empty());
        assert_eq!(facts.offline, OfflineHead::default());
        for contact in ["b@x.example", "a@x.example"] {
            let contact = Jid::parse(contact).unwrap();
            block_on(rosters::update(&memory, owner.as_jid(), contact.as_jid(), 9, |item| item.ask = true)).unwrap();
        }
        let mut head = OfflineHead::default();
        assert!(head.admit(&crate::offline::OfflineLimits::default(), 10));
        block_on(crate::offline::store(&memory, owner.as_jid(), head, &[b"<message/>"[..].into()], "x", 0)).unwrap();
        let facts = block_on(load(&memory, owner.as_jid())).unwrap().unwrap();
        let asked: Vec<_> = facts.contacts.those(|state| state.ask).map(JidRef::as_str).collect();
        assert_eq!(asked, ["a@x.example", "b@x.example"]);
        assert_eq!((facts.offline, &facts.blocked), (head, &BlockList::default()));
        let bounds = blocking::Bounds { items_max: 9, bytes_max: 99 };
        let blocked = [Jid::parse("a@x.example").unwrap()];
        block_on(blocking::block(&memory, owner.as_jid(), &blocked, bounds)).unwrap();
        let facts = block_on(load(&memory, owner.as_jid())).unwrap().unwrap();
        assert_eq!(facts.blocked, BlockList::new(blocked));
        assert_eq!(facts.photo, None);
        let vcard = vcards::Vcard { xml: "<vCard xmlns='vcard-temp'/>".to_owned(), avatar: Some([7; 20]) };
        block_on(vcards::save(&memory, owner.as_jid(), &vcard)).unwrap();
        assert_eq!(block_on(load(&memory, owner.as_jid())).unwrap().unwrap().photo, Some([7; 20]));
        assert_eq!(facts.archive, None);
        block_on(archive::allow(&memory, owner.as_jid())).unwrap();
        let prefs = Prefs { default: Some(archive::Mode::Always), ..Prefs::default() };
        block_on(archive::save_prefs(&memory, owner.as_jid(), &prefs)).unwrap();
        assert_eq!(block_on(load(&memory, owner.as_jid())).unwrap().unwrap().archive, Some(Box::new(prefs)));
        assert!(block_on(load(&memory, Jid::parse("no@things.example").unwrap().as_jid())).unwrap().is_none());
    }

    #[test]
    fn both_stores_look_up_alike() {
        let directory = tempfile::tempdir().unwrap();
        let (embedded, memory) = (
            EmbeddedStore::open(directory.path(), EmbeddedOptions::default()).unwrap(),
            crate::store::memory::MemoryStore::new(),
        );
        let put = |key: &[u8]| Write::Put { table: Table::Rosters, key: key.to_vec(), value: key.to_vec() };
        let writes = vec![put(b"a"), put(b"ab"), put(b"ac"), put(b"b"), put(b"ca")];
        let batch = Batch { guards: Vec::new(), writes };
        block_on(embedded.commit(batch.clone())).unwrap();
        block_on(memory.commit(batch)).unwrap();
        let lookups: Vec<_> = [("a", true), ("a", false), ("b", true), ("c", true)]
            .map(|(key, below)| Lookup { table: Table::Rosters, key: key.into(), below })
            .into();
        let found = block_on(embedded.look_up(lookups.clone())).unwrap();
        assert_eq!(block_on(memory.look_up(lookups)).unwrap(), found);
        let below = |at: usize| found[at].as_ref().map(|found| found.below.len());
        assert_eq!([below(0), below(1), below(2), below(3)], [Some(2), Some(0), Some(0), None]);
        embedded.close().unwrap();
    }
}
