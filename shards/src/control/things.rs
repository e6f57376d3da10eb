//! Thing commands, carried out on the registry: the same whether a broker runs or the command line opens the store.

use std::time::{SystemTime, UNIX_EPOCH};

use plaza_core::jid::Jid;
use plaza_core::thing::{NodeName, TagValue};
use plaza_registry::store::Store;
use plaza_registry::things::{self, AssignError, State, ThingRecord};
use serde_json::{Map, Value};

use super::accounts::{Done, PAGE};
use super::command::{Enforcement, Node, Refusal, RefusalCode, Reply, ThingCommand, ThingInfo, ThingName, ThingState};
use crate::config::Settings;

/// Things of the accounts of a broker.
pub struct Things<S> {
    store: S,
    domains: Vec<Jid>,
    config: things::Config,
}

impl<S: Store> Things<S> {
    /// Things in this store.
    pub fn new(store: S, settings: &Settings, config: things::Config) -> Self {
        Self { store, domains: settings.domains.clone(), config }
    }

    /// Carries out a command. Suspends on the store.
    ///
    /// # Errors
    /// [`Refusal`], ready to be told.
    pub async fn run(&self, command: ThingCommand) -> Result<Done, Refusal> {
        match command {
            ThingCommand::List { device, owner, after, limit } => {
                let after = match after {
                    Some(ThingName { address, node }) => Some((self.address(&address)?, name(node))),
                    None => None,
                };
                let limit = limit.unwrap_or(PAGE).min(PAGE);
                let device = device.map(|address| self.address(&address)).transpose()?;
                let owner = owner.map(|address| self.address(&address)).transpose()?;
                self.list(device.as_ref(), owner.as_ref(), after, limit).await.map(Done::quietly)
            }
            ThingCommand::Show { address, node } => {
                let (jid, node) = (self.address(&address)?, name(node));
                let thing = things::load(&self.store, &jid, &node).await?;
                let thing = thing.ok_or_else(|| not_found(&jid, &node))?;
                Ok(Done::quietly(Reply::Thing(Box::new(info(&thing)))))
            }
            ThingCommand::Claim { address, owner, private, node } => {
                let (jid, node, owner) = (self.address(&address)?, name(node), self.address(&owner)?);
                let assigned = things::assign(&self.config, &self.store, (&jid, &node), &owner, !private, now()).await;
                let thing = assigned.map_err(|error| Refusal::thing(error, &told(&jid, &node)))?;
                Ok(Done::with_things(Reply::Claimed(Box::new(info(&thing))), jid))
            }
            ThingCommand::Enforce { address, policy, node } => {
                let (jid, node, on) = (self.address(&address)?, name(node), policy == Enforcement::On);
                let enforced = things::enforce(&self.config, &self.store, (&jid, &node), on, now()).await;
                let thing = enforced.map_err(|error| match error {
                    AssignError::NotFound => not_found(&jid, &node),
                    error @ (AssignError::NoAccount | AssignError::Owned(_) | AssignError::Store(_)) => {
                        Refusal::thing(error, &told(&jid, &node))
                    }
                })?;
                Ok(Done::with_things(Reply::Enforced(Box::new(info(&thing))), jid))
            }
            ThingCommand::Disown { address, node } => {
                let (jid, node) = (self.address(&address)?, name(node));
                let released = things::release(&self.config, &self.store, (&jid, &node), now()).await;
                released.map_err(|error| Refusal::thing(error, &told(&jid, &node)))?;
                let reply = Reply::Disowned { address: jid.as_str().to_owned(), node: self::node(&node) };
                Ok(Done::with_things(reply, jid))
            }
        }
    }

    /// A page of all things, of those of a device or of those that somebody owns.
    async fn list(
        &self,
        device: Option<&Jid>,
        owner: Option<&Jid>,
        after: Option<(Jid, NodeName)>,
        limit: usize,
    ) -> Result<Reply, Refusal> {
        let behind = after.as_ref().map(|(jid, node)| (jid, node));
        // One more than wanted tells whether there is more.
        let (mut page, more) = match (device, owner) {
            (Some(device), _) => {
                let behind = behind.filter(|(jid, _)| *jid == device).map(|(_, node)| node);
                let page = things::load_all(&self.store, device, behind, limit + 1).await?;
                let more = page.len() > limit;
                (page, more)
            }
            (None, Some(owner)) => {
                let names = things::owned(&self.store, owner.as_jid(), behind, limit + 1).await?;
                let mut page = Vec::new();
                for (jid, node) in names.iter().take(limit) {
                    // What was taken away meanwhile is left out.
                    page.extend(things::load(&self.store, jid, node).await?);
                }
                (page, names.len() > limit)
            }
            (None, None) => {
                let page = things::list(&self.store, behind, limit + 1).await?;
                let more = page.len() > limit;
                (page, more)
            }
        };
        page.truncate(limit);
        Ok(Reply::Things { things: page.iter().map(info).collect(), more })
    }

    /// The account meant: a bare JID, or a localpart in our first domain.
    fn address(&self, text: &str) -> Result<Jid, Refusal> {
        super::accounts::address(&self.domains, text)
    }
}

fn name(node: Node) -> NodeName {
    NodeName { id: node.id.into(), source: node.src.into(), partition: node.pt.into() }
}

fn node(name: &NodeName) -> Node {
    Node { id: name.id.to_string(), src: name.source.to_string(), pt: name.partition.to_string() }
}

/// How a thing is called for people.
fn told(jid: &Jid, name: &NodeName) -> String {
    ThingName { address: jid.as_str().to_owned(), node: node(name) }.to_string()
}

fn not_found(jid: &Jid, name: &NodeName) -> Refusal {
    Refusal { code: RefusalCode::NotFound, text: format!("there is no thing {}", told(jid, name)) }
}

/// What there is to tell of a thing: all but the hash of its key.
fn info(thing: &ThingRecord) -> ThingInfo {
    let (state, owner) = match &thing.state {
        State::Unclaimed => (ThingState::Unclaimed, None),
        State::SelfOwned => (ThingState::SelfOwned, None),
        State::Claimed { owner, .. } => (ThingState::Claimed, Some(owner.as_str().to_owned())),
    };
    let tags = thing.tags.iter().map(|tag| {
        let value = match &tag.value {
            TagValue::Str(text) => Value::from(&**text),
            TagValue::Num(number) => Value::from(*number),
        };
        (tag.name.to_string(), value)
    });
    let pending = [
        (thing.pending.claimed, "claimed"),
        (thing.pending.removed, "removed"),
        (thing.pending.clear_cache, "clear-cache"),
    ];
    ThingInfo {
        name: ThingName { address: thing.jid.as_str().to_owned(), node: node(&thing.node) },
        state,
        owner,
        public: thing.is_listed(),
        removed: matches!(thing.state, State::Claimed { removed: true, .. }),
        enforced: thing.enforced,
        has_key: thing.key.is_some(),
        pending: pending.into_iter().filter(|(is, _)| *is).map(|(_, notice)| notice.to_owned()).collect(),
        created: thing.created / 1_000,
        updated: thing.updated / 1_000,
        tags: tags.collect::<Map<_, _>>(),
    }
}

fn now() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use plaza_core::thing::Tag;
    use plaza_registry::accounts::{self, NewKeys};
    use plaza_registry::store::Batch;
    use plaza_registry::store::memory::MemoryStore;
    use plaza_registry::wait::block_on;

    use super::*;
    use crate::config::Config;

    /// The commands, with two things of a rack, registered by it, and a lamp without.
    fn things() -> Things<MemoryStore> {
        let settings = "domains = ['things.example']".parse::<Config>().unwrap().check().unwrap();
        let store = MemoryStore::new();
        for name in ["rack", "lamp", "owner", "other"] {
            let keys = NewKeys::derive("pencil", &[1; 32], 1).unwrap();
            let bare = Jid::from_parts(name, "things.example").unwrap();
            block_on(accounts::create(&store, bare.as_jid(), keys, false, 0)).unwrap();
        }
        let things = Things::new(store, &settings, things::Config::new(settings.things, None));
        register(&things, "rack", at("1"));
        register(&things, "rack", at("2"));
        register(&things, "lamp", at(""));
        things
    }

    /// Stores a thing as its device would have it registered.
    fn register(things: &Things<MemoryStore>, device: &str, node: Node) {
        let tags = vec![
            Tag { name: "SN".into(), value: TagValue::Str("1".into()) },
            Tag { name: "V".into(), value: TagValue::Num(1.5) },
        ];
        let thing = ThingRecord {
            key: Some(things::key_hash("k")),
            tags,
            created: 7_000,
            updated: 7_000,
            ..ThingRecord::new(Jid::from_parts(device, "things.example").unwrap(), name(node))
        };
        let batch = Batch { guards: Vec::new(), writes: vec![thing.put()] };
        block_on(things.store.commit(batch)).unwrap();
    }

    fn list(things: &Things<MemoryStore>, device: Option<&str>, owner: Option<&str>) -> Vec<String> {
        let (mut after, mut all) = (None, Vec::new());
        loop {
            let (device, owner) = (device.map(str::to_owned), owner.map(str::to_owned));
            let command = ThingCommand::List { device, owner, after, limit: Some(1) };
            let Reply::Things { things: page, more } = block_on(things.run(command)).unwrap().reply else {
                panic!("no list")
            };
            assert!(page.len() <= 1);
            all.extend(page.iter().map(|thing| thing.name.to_string()));
            after = page.into_iter().next_back().map(|thing| thing.name);
            if !more {
                all.sort();
                return all;
            }
        }
    }

    fn at(id: &str) -> Node {
        let src = if id.is_empty() { "" } else { "m" };
        Node { id: id.to_owned(), src: src.to_owned(), pt: String::new() }
    }

    fn claim(owner: &str, id: &str) -> ThingCommand {
        ThingCommand::Claim { address: "rack".into(), owner: owner.into(), private: false, node: at(id) }
    }

    fn disown(id: &str) -> ThingCommand {
        ThingCommand::Disown { address: "rack".into(), node: at(id) }
    }

    #[test]
    fn things_are_listed_in_pages_of_all_of_a_device_and_of_an_owner() {
        let things = things();
        let rack = ["rack@things.example id=1 src=m", "rack@things.example id=2 src=m"];
        assert_eq!(list(&things, None, None), ["lamp@things.example", rack[0], rack[1]]);
        assert_eq!(list(&things, Some("rack"), None), rack);
        assert_eq!(list(&things, Some("owner"), None), [""; 0]);
        assert_eq!(list(&things, None, Some("owner")), [""; 0]);
        block_on(things.run(claim("owner", "2"))).unwrap();
        assert_eq!(list(&things, None, Some("owner")), [rack[1]]);
    }

    #[test]
    fn a_thing_is_shown_given_away_and_taken() {
        let things = things();
        let run = |command| block_on(things.run(command));
        let show = |id: &str| run(ThingCommand::Show { address: "rack".into(), node: at(id) });
        let Reply::Thing(thing) = show("1").unwrap().reply else { panic!("no thing") };
        assert_eq!((thing.state, thing.has_key, thing.public, thing.created), (ThingState::Unclaimed, true, false, 7));
        assert_eq!(serde_json::to_string(&thing.tags).unwrap(), r#"{"SN":"1","V":1.5}"#);
        let done = run(claim("owner", "1")).unwrap();
        assert_eq!(done.things_of, [Jid::parse("rack@things.example").unwrap()]);
        let Reply::Claimed(thing) = done.reply else { panic!("no thing") };
        assert_eq!((thing.owner.as_deref(), thing.public), (Some("owner@things.example"), true));
        assert_eq!((&thing.pending[..], thing.has_key), (&["claimed".to_owned(), "clear-cache".to_owned()][..], false));
        assert!(thing.to_string().contains("claimed by owner@things.example"), "{thing}");
        assert_eq!(run(disown("1")).unwrap().things_of.len(), 1);
        let Reply::Thing(thing) = show("1").unwrap().reply else { panic!("no thing") };
        assert_eq!((thing.state, thing.owner.clone(), thing.tags.len()), (ThingState::Unclaimed, None, 0));
    }

    #[test]
    fn a_things_rules_are_applied_by_the_broker_until_they_are_not() {
        let things = things();
        let run = |command| block_on(things.run(command));
        let enforce = |policy| ThingCommand::Enforce { address: "rack".into(), policy, node: at("1") };
        for (policy, on, says) in [
            (
                Enforcement::On,
                true,
                "rack@things.example id=1 src=m is enforced: it has no owner, and nothing reaches it",
            ),
            (Enforcement::Off, false, "rack@things.example id=1 src=m is not enforced: its device decides"),
        ] {
            let done = run(enforce(policy)).unwrap();
            assert_eq!(done.things_of, [Jid::parse("rack@things.example").unwrap()]);
            assert_eq!(done.reply.to_string(), says);
            let shown = run(ThingCommand::Show { address: "rack".into(), node: at("1") }).unwrap().reply;
            assert_eq!(shown.to_string().contains(", enforced"), on, "{shown}");
            let other = run(ThingCommand::Show { address: "rack".into(), node: at("2") }).unwrap().reply;
            assert!(!other.to_string().contains("enforced"), "{other}");
        }
        run(claim("owner", "1")).unwrap();
        let done = run(enforce(Enforcement::On)).unwrap();
        assert!(done.reply.to_string().contains("what its owner has not allowed"), "{}", done.reply);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let things = things();
        let code = |command| block_on(things.run(command)).expect_err("should be refused").code;
        assert_eq!(code(ThingCommand::Show { address: "rack".into(), node: at("") }), RefusalCode::NotFound);
        assert_eq!(code(claim("nobody", "1")), RefusalCode::NotFound);
        assert_eq!(code(claim("owner", "3")), RefusalCode::NotFound);
        assert_eq!(code(claim("owner@", "1")), RefusalCode::BadRequest);
        assert_eq!(code(disown("1")), RefusalCode::NotFound);
        let enforce = ThingCommand::Enforce { address: "rack".into(), policy: Enforcement::On, node: at("3") };
        assert_eq!(code(enforce), RefusalCode::NotFound);
        block_on(things.run(claim("owner", "1"))).unwrap();
        assert_eq!(code(claim("other", "1")), RefusalCode::Exists);
    }
}
