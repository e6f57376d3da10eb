//! Account commands, carried out on the registry: the same whether a broker runs or the command line opens the store.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plaza_core::jid::Jid;
use plaza_core::sasl::scram::{Hash, Keys};
use plaza_registry::accounts::{self, AccountError, Imported, NewKeys};
use plaza_registry::archive;
use plaza_registry::helpers::Helpers;
use plaza_registry::pubsub;
use plaza_registry::services::ComponentKind;
use plaza_registry::store::{CommitError, Store, StoreError};
use plaza_registry::things;

use super::command::{AccountCommand, AccountLine, ArchivePolicy, PutOutcome, PutRow, Refusal, Reply, Salts, Secret};
use super::import::read_keys;
use crate::config::Settings;
use crate::server::{AccountChange, services_of};

/// Most accounts created by one command.
const PUT_MAX: usize = 1_000;
/// Most accounts in one answer; a longer list comes in pages.
pub const PAGE: usize = 1_000;

/// Accounts of the domains we serve.
pub struct Accounts<S> {
    pub(super) store: S,
    helpers: Helpers,
    pub(super) domains: Vec<Jid>,
    iterations: u32,
    /// Its turns are not those of the shards: of two changes of a node at once, one is worked out again.
    pub(super) pubsub: pubsub::Config,
    pub(super) things: things::Config,
}

/// A command carried out.
#[derive(Debug)]
pub struct Done {
    /// What there is to tell.
    pub reply: Reply,
    /// What the account's home shard must know.
    pub change: Option<(Jid, AccountChange)>,
    /// Other accounts, whose things changed.
    pub things_of: Vec<Jid>,
    /// Accounts that are new, if there are many.
    pub created: Vec<Jid>,
}

impl Done {
    fn of(reply: Reply, bare: Jid, change: AccountChange) -> Self {
        Self { reply, change: Some((bare, change)), things_of: Vec::new(), created: Vec::new() }
    }

    /// Something of an account's things.
    pub(super) fn with_things(reply: Reply, account: Jid) -> Self {
        Self { reply, change: None, things_of: vec![account], created: Vec::new() }
    }

    pub(super) fn quietly(reply: Reply) -> Self {
        Self { reply, change: None, things_of: Vec::new(), created: Vec::new() }
    }
}

impl<S: Store> Accounts<S> {
    /// Accounts in this store. Passwords are worked on by the helpers.
    pub fn new(store: S, helpers: Helpers, settings: &Settings, things: things::Config) -> Self {
        let domains = settings.domains.clone();
        let pubsub = pubsub::Config::new(settings.limits.pubsub, domains.clone());
        Self { store, helpers, domains, iterations: settings.scram_iterations, pubsub, things }
    }

    /// Carries out a command. Suspends on the store and the helpers.
    ///
    /// # Errors
    /// [`Refusal`], ready to be told.
    pub async fn run(&self, command: AccountCommand) -> Result<Done, Refusal> {
        match command {
            AccountCommand::Add { address, password, admin } => {
                let bare = self.address(&address)?;
                if !self.domains.iter().any(|domain| domain.as_str() == bare.as_jid().domain()) {
                    return Err(Refusal::bad_request(format!(
                        "{} is not a domain of this broker",
                        bare.as_jid().domain()
                    )));
                }
                let (keys, told) = self.keys(password).await?;
                let created = accounts::create(&self.store, bare.as_jid(), keys, admin, now()).await;
                refuse(created, &bare)?;
                let reply = Reply::Created { address: bare.as_str().to_owned(), password: told };
                Ok(Done::of(reply, bare, AccountChange::Created))
            }
            AccountCommand::Remove { address } => {
                let bare = self.address(&address)?;
                let services = services_of(&self.domains).into_iter();
                let services = services.filter(|service| service.kind == ComponentKind::Pubsub);
                let services: Vec<Jid> = services.map(|service| service.jid).collect();
                let things_of = things::forget(&self.things, &self.store, bare.as_jid(), now() * 1_000).await;
                let things_of = things_of.map_err(|error| Refusal::thing(error, bare.as_str()))?;
                pubsub::forget(&self.pubsub, &self.store, &services, bare.as_jid(), now() * 1_000).await?;
                refuse(accounts::remove(&self.store, bare.as_jid()).await, &bare)?;
                let reply = Reply::Removed { address: bare.as_str().to_owned() };
                Ok(Done { things_of, ..Done::of(reply, bare, AccountChange::Removed) })
            }
            AccountCommand::Passwd { address, password } => {
                let bare = self.address(&address)?;
                let (keys, told) = self.keys(password).await?;
                refuse(accounts::set_keys(&self.store, bare.as_jid(), keys).await, &bare)?;
                let reply = Reply::Changed { address: bare.as_str().to_owned(), password: told };
                Ok(Done::of(reply, bare, AccountChange::Password))
            }
            AccountCommand::List { after, limit } => {
                let after = after.map(|address| self.address(&address)).transpose()?;
                self.list(after.as_ref(), limit.unwrap_or(PAGE).min(PAGE)).await.map(Done::quietly)
            }
            AccountCommand::Disable { address } => {
                let bare = self.address(&address)?;
                refuse(accounts::set_disabled(&self.store, bare.as_jid(), true).await, &bare)?;
                let reply = Reply::Disabled { address: bare.as_str().to_owned() };
                Ok(Done::of(reply, bare, AccountChange::Disabled))
            }
            AccountCommand::Import { .. } => Err(Refusal::bad_request("a file is read by the command line")),
            AccountCommand::Put { rows } => self.put(&rows).await,
            AccountCommand::Salts { addresses } => self.salts(&addresses).await.map(Done::quietly),
            AccountCommand::Archive { address, policy } => {
                let bare = self.address(&address)?;
                let done = match policy {
                    ArchivePolicy::Allowed => archive::allow(&self.store, bare.as_jid()).await,
                    ArchivePolicy::Off => archive::forbid(&self.store, bare.as_jid()).await,
                };
                let done = done.map_err(|error| match error {
                    CommitError::Guard(_) => AccountError::NotFound,
                    CommitError::Store(error) => error.into(),
                });
                refuse(done, &bare)?;
                let reply = Reply::Archive { address: bare.as_str().to_owned(), policy };
                Ok(Done::of(reply, bare, AccountChange::Archive))
            }
            AccountCommand::Enable { address } => {
                let bare = self.address(&address)?;
                refuse(accounts::set_disabled(&self.store, bare.as_jid(), false).await, &bare)?;
                let reply = Reply::Enabled { address: bare.as_str().to_owned() };
                Ok(Done::of(reply, bare, AccountChange::Enabled))
            }
        }
    }

    /// Whether there is no account at all.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(accounts::list(&self.store, None, 1).await?.is_empty())
    }

    /// Creates those that are not there.
    async fn put(&self, rows: &[PutRow]) -> Result<Done, Refusal> {
        if rows.len() > PUT_MAX {
            return Err(Refusal::bad_request(format!("at most {PUT_MAX} accounts at once")));
        }
        let (mut outcomes, mut taken) = (vec![PutOutcome::Same; rows.len()], Vec::new());
        for (place, (row, outcome)) in rows.iter().zip(&mut outcomes).enumerate() {
            match self.put_row(row) {
                Ok(account) => taken.push((place, account)),
                Err(text) => *outcome = PutOutcome::Refused(text),
            }
        }
        let (places, accounts): (Vec<usize>, Vec<(Jid, NewKeys)>) = taken.into_iter().unzip();
        let imported = accounts::import(&self.store, &accounts, now()).await?;
        let mut created = Vec::new();
        for ((place, (bare, _)), imported) in places.into_iter().zip(accounts).zip(imported) {
            let Some(outcome) = outcomes.get_mut(place) else { continue };
            *outcome = match imported {
                Imported::Created => {
                    created.push(bare);
                    PutOutcome::Created
                }
                Imported::Same => PutOutcome::Same,
                Imported::Different => PutOutcome::Refused(format!("there is an account {bare} with another password")),
            };
        }
        Ok(Done { created, ..Done::quietly(Reply::Put { outcomes }) })
    }

    fn put_row(&self, row: &PutRow) -> Result<(Jid, NewKeys), String> {
        let bare = self.address(&row.address).map_err(|refusal| refusal.text)?;
        if self.domains.iter().all(|domain| domain.as_str() != bare.as_jid().domain()) {
            return Err(format!("{} is not a domain of this broker", bare.as_jid().domain()));
        }
        let sha1 = read_keys(Hash::Sha1, &row.sha1.0).ok_or("not keys for SCRAM-SHA-1")?;
        let sha256 = read_keys(Hash::Sha256, &row.sha256.0).ok_or("not keys for SCRAM-SHA-256")?;
        Ok((bare, NewKeys { sha1, sha256 }))
    }

    /// With what the keys of these accounts were made; an address that is none has none.
    async fn salts(&self, addresses: &[String]) -> Result<Reply, Refusal> {
        if addresses.len() > PUT_MAX {
            return Err(Refusal::bad_request(format!("at most {PUT_MAX} accounts at once")));
        }
        let parsed: Vec<Option<Jid>> = addresses.iter().map(|address| self.address(address).ok()).collect();
        let known: Vec<Jid> = parsed.iter().flatten().cloned().collect();
        let mut found = accounts::load_all(&self.store, &known).await?.into_iter();
        let of = |keys: &Keys| (keys.iterations, STANDARD.encode(&keys.salt));
        let salts = parsed.iter().map(|parsed| {
            let account = parsed.as_ref().and_then(|_| found.next().flatten())?;
            Some(Salts { sha1: of(&account.sha1), sha256: of(&account.sha256) })
        });
        Ok(Reply::Salts { salts: salts.collect() })
    }

    async fn list(&self, after: Option<&Jid>, limit: usize) -> Result<Reply, Refusal> {
        // One more than wanted tells whether there is more.
        let mut page = accounts::list(&self.store, after, limit + 1).await?;
        let more = page.len() > limit;
        page.truncate(limit);
        let archives = archive::have(&self.store, page.iter().map(|(bare, _)| bare.as_jid())).await?;
        let line = |((bare, account), archive): (&(Jid, accounts::Account), bool)| AccountLine {
            address: bare.as_str().to_owned(),
            disabled: account.disabled,
            admin: account.admin,
            created: account.created,
            archive,
        };
        Ok(Reply::Accounts { accounts: page.iter().zip(archives).map(line).collect(), more })
    }

    pub(super) fn address(&self, text: &str) -> Result<Jid, Refusal> {
        address(&self.domains, text)
    }

    /// Keys of the password given, or of one made here, which is then told.
    async fn keys(&self, given: Option<Secret>) -> Result<(NewKeys, Option<Secret>), Refusal> {
        let (password, told) = match given {
            Some(given) => (given, None),
            None => {
                let made = new_password()?;
                (made.clone(), Some(made))
            }
        };
        let salt: [u8; 32] = random()?;
        let iterations = self.iterations;
        let derived = self.helpers.run(move || NewKeys::derive(&password.0, &salt, iterations)).await;
        let keys = derived.ok_or_else(Refusal::busy)?.ok_or_else(Refusal::bad_password)?;
        Ok((keys, told))
    }
}

/// The account meant: a bare JID, or a localpart in our first domain.
pub(super) fn address(domains: &[Jid], text: &str) -> Result<Jid, Refusal> {
    let parsed = match (text.contains('@'), domains.first()) {
        (false, Some(domain)) => Jid::from_parts(text, domain.as_str()),
        _ => Jid::parse(text),
    };
    match parsed {
        Ok(jid) if jid.as_jid().local().is_some() && jid.as_jid().is_bare() => Ok(jid),
        Ok(_) | Err(_) => Err(Refusal::bad_request(format!("{text} is not an address such as lamp@things.example"))),
    }
}

fn refuse(result: Result<(), AccountError>, bare: &Jid) -> Result<(), Refusal> {
    result.map_err(|error| Refusal::account(error, bare.as_str()))
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// Bytes nobody can guess.
///
/// # Errors
/// [`Refusal`] if the kernel has none, which it always has once booted.
pub fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Refusal::bad_request(format!("no randomness: {error}")))?;
    Ok(bytes)
}

/// Five groups of four: 100 bits, easy to read out and to type.
fn new_password() -> Result<Secret, Refusal> {
    // 32 characters, so that the low five bits of a byte pick one evenly; none that looks like another.
    const ALPHABET: [char; 32] = [
        'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'm', 'n', 'p', 'q', 'r', 's', 't', 'u', 'v', 'w', 'x',
        'y', 'z', '2', '3', '4', '5', '6', '7', '8', '9',
    ];
    let mut password = String::new();
    for (place, byte) in random::<20>()?.into_iter().enumerate() {
        if place > 0 && place.is_multiple_of(4) {
            password.push('-');
        }
        password.extend(ALPHABET.get(usize::from(byte & 31)));
    }
    Ok(password.into())
}

#[cfg(test)]
mod tests {
    use plaza_registry::store::memory::MemoryStore;
    use plaza_registry::wait::block_on;

    use super::*;
    use crate::config::Config;
    use crate::control::command::RefusalCode;

    fn accounts() -> Accounts<MemoryStore> {
        let config: Config = "domains = ['localhost', 'things.example']\nscram_iterations = 4096".parse().unwrap();
        let settings = config.check().unwrap();
        let things = things::Config::new(settings.things, None);
        Accounts::new(MemoryStore::new(), Helpers::start(1, 16), &settings, things)
    }

    fn add(address: &str, password: &str) -> AccountCommand {
        AccountCommand::Add { address: address.into(), password: Some(password.into()), admin: false }
    }

    fn code(result: Result<Done, Refusal>) -> RefusalCode {
        result.expect_err("should be refused").code
    }

    #[test]
    fn an_account_lives_from_add_to_remove() {
        let accounts = accounts();
        let run = |command| block_on(accounts.run(command));
        assert!(block_on(accounts.is_empty()).unwrap());
        let added = run(add("lamp", "secret")).unwrap();
        assert_eq!(added.reply, Reply::Created { address: "lamp@localhost".into(), password: None });
        assert!(!block_on(accounts.is_empty()).unwrap());
        assert_eq!(code(run(add("LAMP@localhost", "other"))), RefusalCode::Exists);

        let address = || "lamp@localhost".to_owned();
        let (bare, change) = run(AccountCommand::Disable { address: address() }).unwrap().change.unwrap();
        assert_eq!((bare.as_str(), change), ("lamp@localhost", AccountChange::Disabled));
        let list = || AccountCommand::List { after: None, limit: None };
        let Reply::Accounts { accounts: listed, more: false } = run(list()).unwrap().reply else { panic!("no list") };
        assert_eq!(
            listed.iter().map(|line| (line.address.as_str(), line.disabled)).collect::<Vec<_>>(),
            [("lamp@localhost", true)]
        );
        let (_, change) = run(AccountCommand::Enable { address: address() }).unwrap().change.unwrap();
        assert_eq!(change, AccountChange::Enabled);
        let archive = |policy| AccountCommand::Archive { address: address(), policy };
        for (policy, has) in [(ArchivePolicy::Allowed, true), (ArchivePolicy::Off, false)] {
            let done = run(archive(policy)).unwrap();
            assert_eq!(done.reply, Reply::Archive { address: "lamp@localhost".into(), policy });
            assert_eq!(done.change.unwrap().1, AccountChange::Archive);
            let Reply::Accounts { accounts: listed, .. } = run(list()).unwrap().reply else { panic!("no list") };
            assert_eq!(listed[0].archive, has);
        }
        let changed = run(AccountCommand::Passwd { address: address(), password: None }).unwrap();
        assert_eq!(changed.change.unwrap().1, AccountChange::Password);
        assert!(matches!(changed.reply, Reply::Changed { password: Some(told), .. } if told.0.len() == 24));
        assert_eq!(
            run(AccountCommand::Remove { address: address() }).unwrap().change.unwrap().1,
            AccountChange::Removed
        );
        assert_eq!(code(run(AccountCommand::Remove { address: address() })), RefusalCode::NotFound);
        assert_eq!(code(run(archive(ArchivePolicy::Allowed))), RefusalCode::NotFound);
        assert!(block_on(accounts.is_empty()).unwrap());
    }

    #[test]
    fn a_long_list_comes_in_pages() {
        let accounts = accounts();
        for name in ["a", "b", "c"] {
            block_on(accounts.run(add(name, "secret"))).unwrap();
        }
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let page = block_on(accounts.run(AccountCommand::List { after, limit: Some(2) })).unwrap().reply;
            let Reply::Accounts { accounts: lines, more } = page else { panic!("no list") };
            seen.extend(lines.iter().map(|line| line.address.clone()));
            if !more {
                break;
            }
            after = seen.last().cloned();
        }
        seen.sort();
        assert_eq!(seen, ["a@localhost", "b@localhost", "c@localhost"]);
    }

    #[test]
    fn what_is_no_account_of_ours_is_refused() {
        let accounts = accounts();
        for address in ["", "@localhost", "lamp@", "lamp@localhost/kitchen", "a b@localhost", "lamp@elsewhere.example"]
        {
            assert_eq!(code(block_on(accounts.run(add(address, "secret")))), RefusalCode::BadRequest, "{address}");
        }
        assert_eq!(code(block_on(accounts.run(add("lamp", "")))), RefusalCode::BadPassword);
        assert!(block_on(accounts.run(add("lamp@things.example", "secret"))).is_ok());
    }

    #[test]
    fn made_passwords_differ_and_have_no_lookalikes() {
        let (one, other) = (new_password().unwrap(), new_password().unwrap());
        assert_ne!(one, other);
        assert!(!one.0.contains(['l', 'o', '0', '1']));
        assert_eq!(one.0.split('-').map(str::len).collect::<Vec<_>>(), [4; 5]);
    }
}
