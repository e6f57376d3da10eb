//! API key commands, carried out on the registry: the same whether a broker runs or the command line opens the store.
//!
//! Nothing has to be told to the shards: what they hold of a key is confirmed by each commit.

use std::time::{SystemTime, UNIX_EPOCH};

use plaza_core::date::DateTime;
use plaza_core::jid::Jid;
use plaza_registry::apikeys::{self, ApiKey, KeyError, Listed, Sealer};
use plaza_registry::store::Store;

use super::accounts::{PAGE, random};
use super::command::{ApiKeyAccount, ApiKeyCommand, ApiKeyLine, Refusal, RefusalCode, Reply, Secret};

/// Random bytes of a key's id: it is no secret, but none shall be like another.
const ID_BYTES: usize = 10;
/// Random bytes of a key's secret.
const SECRET_BYTES: usize = 32;
/// Longest contact, in bytes.
const OWNER_BYTES_MAX: usize = 1_023;

/// API keys of a broker.
#[derive(Debug)]
pub struct Keys<S> {
    store: S,
    sealer: Sealer,
    domains: Vec<Jid>,
}

impl<S: Store> Keys<S> {
    /// Keys in this store, for accounts in these domains.
    pub fn new(store: S, server_secret: &[u8; 32], domains: Vec<Jid>) -> Self {
        Self { store, sealer: Sealer::new(server_secret), domains }
    }

    /// Carries out a command.
    ///
    /// # Errors
    /// [`Refusal`], ready to be told.
    pub async fn run(&self, command: ApiKeyCommand) -> Result<Reply, Refusal> {
        match command {
            ApiKeyCommand::Create { owner, accounts, per_minute, expires, domain } => {
                let key = self.key(owner, accounts, per_minute, expires.as_deref(), &domain)?;
                let (id, secret) = (hex(&random::<ID_BYTES>()?), hex(&random::<SECRET_BYTES>()?));
                let nonce = random()?;
                let created = apikeys::create(&self.store, &self.sealer, &id, &secret, nonce, &key).await;
                created.map_err(|error| refusal(error, &id))?;
                Ok(Reply::ApiKeyCreated { key: id, secret: Secret(secret) })
            }
            ApiKeyCommand::List { after, limit } => {
                let limit = limit.unwrap_or(PAGE).min(PAGE);
                let mut page = apikeys::list(&self.store, after.as_deref(), limit + 1).await?;
                let more = page.len() > limit;
                page.truncate(limit);
                Ok(Reply::ApiKeys { keys: page.into_iter().map(line).collect(), more })
            }
            ApiKeyCommand::Show { key } => {
                let listed = apikeys::show(&self.store, &key).await.map_err(|error| refusal(error, &key))?;
                Ok(Reply::ApiKey(line(listed)))
            }
            ApiKeyCommand::Accounts { key, after, limit } => {
                apikeys::show(&self.store, &key).await.map_err(|error| refusal(error, &key))?;
                let after = after.map(|after| Jid::parse(&after)).transpose();
                let after = after.map_err(|_| Refusal::bad_request("that is not an address"))?;
                let limit = limit.unwrap_or(PAGE).min(PAGE);
                let mut page = apikeys::accounts(&self.store, &key, after.as_ref(), limit + 1).await?;
                let more = page.len() > limit;
                page.truncate(limit);
                let accounts =
                    page.into_iter().map(|(jid, created)| ApiKeyAccount { address: jid.as_str().to_owned(), created });
                Ok(Reply::ApiKeyAccounts { accounts: accounts.collect(), more })
            }
            ApiKeyCommand::Revoke { key } => {
                apikeys::revoke(&self.store, &key).await.map_err(|error| refusal(error, &key))?;
                Ok(Reply::ApiKeyRevoked { key })
            }
        }
    }

    fn key(
        &self,
        owner: String,
        accounts_max: u64,
        per_minute: u32,
        expires: Option<&str>,
        domains: &[String],
    ) -> Result<ApiKey, Refusal> {
        if owner.is_empty() || owner.len() > OWNER_BYTES_MAX {
            return Err(Refusal::bad_request("name whom to ask about the key, such as ops@maker.example"));
        }
        let domain = |text: &String| {
            let known = Jid::parse(text).ok().filter(|domain| self.domains.contains(domain));
            known.ok_or_else(|| Refusal::bad_request(format!("{text} is not a domain of this broker")))
        };
        Ok(ApiKey {
            owner,
            accounts_max,
            per_minute,
            enabled: true,
            created: now(),
            expires: expires.map(moment).transpose()?,
            domains: domains.iter().map(domain).collect::<Result<_, _>>()?,
        })
    }
}

/// A moment as XEP-0082 writes it, or a day, in seconds since the Unix epoch.
fn moment(text: &str) -> Result<u64, Refusal> {
    let parsed = DateTime::parse(text).or_else(|| DateTime::parse(&format!("{text}T00:00:00Z")));
    let seconds = parsed.and_then(|moment| u64::try_from(moment.unix_millis()).ok()).map(|millis| millis / 1_000);
    seconds.ok_or_else(|| Refusal::bad_request(format!("{text} is not a day such as 2030-12-31")))
}

fn line(listed: Listed) -> ApiKeyLine {
    let Listed { id, key, count } = listed;
    ApiKeyLine {
        key: id,
        owner: key.owner,
        accounts: count,
        accounts_max: key.accounts_max,
        per_minute: key.per_minute,
        revoked: !key.enabled,
        created: key.created,
        expires: key.expires,
        domains: key.domains.iter().map(|domain| domain.as_str().to_owned()).collect(),
    }
}

fn refusal(error: KeyError, id: &str) -> Refusal {
    match error {
        KeyError::Exists => Refusal { code: RefusalCode::Exists, text: format!("there is a key {id} already") },
        KeyError::NotFound => Refusal { code: RefusalCode::NotFound, text: format!("there is no key {id}") },
        KeyError::Store(error) => error.into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use plaza_registry::store::memory::MemoryStore;
    use plaza_registry::wait::block_on;

    use super::*;

    fn keys() -> Keys<MemoryStore> {
        Keys::new(MemoryStore::new(), &[1; 32], vec![Jid::parse("things.example").unwrap()])
    }

    fn create(domain: &[&str], expires: Option<&str>) -> ApiKeyCommand {
        ApiKeyCommand::Create {
            owner: "ops@maker.example".into(),
            accounts: 10,
            per_minute: 5,
            expires: expires.map(str::to_owned),
            domain: domain.iter().map(|domain| (*domain).to_owned()).collect(),
        }
    }

    #[test]
    fn a_key_lives_from_create_to_revoke() {
        let keys = keys();
        let run = |command| block_on(keys.run(command));
        let Reply::ApiKeyCreated { key, secret } = run(create(&["things.example"], Some("2030-12-31"))).unwrap() else {
            panic!("no key")
        };
        assert_eq!((key.len(), secret.0.len()), (20, 64));
        let Reply::ApiKey(shown) = run(ApiKeyCommand::Show { key: key.clone() }).unwrap() else { panic!("not shown") };
        assert_eq!((shown.accounts, shown.accounts_max, shown.per_minute, shown.revoked), (0, 10, 5, false));
        assert_eq!((shown.expires, &*shown.domains), (Some(1_924_905_600), &["things.example".to_owned()][..]));
        assert_eq!(run(ApiKeyCommand::Revoke { key: key.clone() }), Ok(Reply::ApiKeyRevoked { key: key.clone() }));
        let list = ApiKeyCommand::List { after: None, limit: None };
        let Reply::ApiKeys { keys: listed, more: false } = run(list).unwrap() else { panic!("no list") };
        assert_eq!(listed, [ApiKeyLine { revoked: true, ..shown }]);
        let accounts = ApiKeyCommand::Accounts { key, after: None, limit: None };
        assert_eq!(run(accounts), Ok(Reply::ApiKeyAccounts { accounts: Vec::new(), more: false }));
    }

    #[test]
    fn a_long_list_comes_in_pages() {
        let keys = keys();
        for _ in 0..3 {
            block_on(keys.run(create(&[], None))).unwrap();
        }
        let page = |after| {
            let page = block_on(keys.run(ApiKeyCommand::List { after, limit: Some(2) })).unwrap();
            let Reply::ApiKeys { keys, more } = page else { panic!("no list") };
            (keys, more)
        };
        let (first, more) = page(None);
        assert!(more && first.len() == 2);
        let (second, more) = page(Some(first[1].key.clone()));
        assert!(!more && second.len() == 1 && !first.contains(&second[0]));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let keys = keys();
        let code = |command| block_on(keys.run(command)).expect_err("is refused").code;
        assert_eq!(code(create(&["elsewhere.example"], None)), RefusalCode::BadRequest);
        assert_eq!(code(create(&[], Some("tomorrow"))), RefusalCode::BadRequest);
        let anonymous = ApiKeyCommand::Create {
            owner: String::new(),
            accounts: 1,
            per_minute: 0,
            expires: None,
            domain: Vec::new(),
        };
        assert_eq!(code(anonymous), RefusalCode::BadRequest);
        for command in [
            ApiKeyCommand::Show { key: "x".into() },
            ApiKeyCommand::Revoke { key: "x".into() },
            ApiKeyCommand::Accounts { key: "x".into(), after: None, limit: None },
        ] {
            assert_eq!(code(command), RefusalCode::NotFound);
        }
    }
}
