//! The owner's switch for a thing's rules, at the address of the things: an ad-hoc command (XEP-0050 v1.3.0) by which the
//! owner sees whether the broker applies them to what others ask of the thing, and has it do so or not.

use plaza_core::adhoc::{self, Answer, Command, Listed, Stage};
use plaza_core::forms::{Field, Form, FormLimits, Kind, Values};
use plaza_core::ns;
use plaza_core::stanza::{Condition, IqType, Kind as StanzaKind, StanzaError};
use plaza_core::thing::NodeName;
use xxhash_rust::xxh3::xxh3_128;

use super::{Effect, Request, ServiceConfig, read};
use crate::pubsub::Refusal;
use crate::store::Store;
use crate::things::{enforce_by, load};

const NODE: &str = "enforce";

/// The commands at this address.
pub(super) const COMMANDS: &[Listed<'static>] = &[Listed { node: NODE, name: "Whether a thing's rules are enforced" }];

/// Bounds of the form: five fields, as long as names of nodes are anywhere.
const LIMITS: FormLimits = FormLimits { fields_max: 16, values_max: 1, value_bytes_max: 3 * 1_024 };

/// Whether it is for a command.
pub(super) fn is_asked(request: &Request) -> bool {
    let what = (&*request.payload_ns, &*request.payload_name, request.iq_type, request.kind);
    what == (ns::COMMANDS, "command", IqType::Set, StanzaKind::Iq)
}

fn form() -> Form<'static> {
    let text = |var, label| Field::new(var, label, Kind::TextSingle);
    Form {
        title: "Whether a thing's rules are enforced",
        instructions: "Name one of your things. What is not chosen stays as it is, and is told.",
        ..Form::new(
            "",
            vec![
                Field::new("jid", "The address of the thing", Kind::JidSingle).required(),
                text("id", "Its id, if it is a node behind that address"),
                text("src", "The source of that node"),
                text("pt", "The partition of that node"),
                Field::new("enforce", "The broker applies its rules, whether it asks or not", Kind::Boolean),
            ],
        )
    }
}

/// Carries out a command. Whose a thing is, and whether there is one, nobody is told but its owner.
pub(super) async fn answer<S: Store>(
    config: &ServiceConfig,
    store: &S,
    request: &Request,
    effects: &mut Vec<Effect>,
) -> Result<Vec<u8>, Refusal> {
    let payload = read(request)?;
    let command = Command::read(&payload)?;
    if command.node != NODE {
        return Err(Condition::ItemNotFound.into());
    }
    let seed = xxh3_128(format!("{NODE}\0{}\0{}", request.caller, request.unix_millis).as_bytes());
    match command.stage().map_err(StanzaError::from)? {
        Stage::Ask => Ok(command.answer(seed, &Answer::Asks(&form(), &Values::new()))),
        Stage::Canceled => Ok(command.answer(seed, &Answer::Canceled)),
        Stage::Submitted(x) => {
            let mut values = adhoc::submitted(&form(), x, &LIMITS).map_err(StanzaError::from)?;
            let part = |var| values.text(var).unwrap_or_default().into();
            let node = NodeName { id: part("id"), source: part("src"), partition: part("pt") };
            let jid = values.jid("jid").ok_or(Condition::ItemNotFound)?.bare();
            let owner = request.caller.bare();
            let thing = match values.boolean("enforce") {
                Some(on) => {
                    let (owner, now) = (owner.as_jid(), request.unix_millis);
                    let (thing, is_news) = enforce_by(&config.things, store, (&jid, &node), owner, on, now).await?;
                    if is_news {
                        effects.push(Effect::ThingsChanged(vec![jid.clone()]));
                    }
                    thing
                }
                None => {
                    let thing = load(store, &jid, &node).await?;
                    thing.filter(|thing| thing.is_owned_by(owner.as_jid())).ok_or(Condition::ItemNotFound)?
                }
            };
            values.set("jid", jid);
            values.set("enforce", thing.enforced);
            Ok(command.answer(seed, &Answer::Completed(Some((&form(), &values)), "")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Client, error};
    use super::*;
    use crate::store::Batch;
    use crate::testing::jid;
    use crate::things::{State, ThingRecord};
    use crate::wait::block_on;

    const THINGS: &str = "things.things.example";
    const LAMP: &str = "lamp@things.example";
    const OWNER: &str = "owner@things.example";

    /// The owner, who has a lamp and a node behind it; another node is somebody else's, and one nobody's.
    fn owner() -> Client {
        let owner = Client::owner();
        let things = [("", Some(OWNER)), ("1", Some(OWNER)), ("2", Some("other@things.example")), ("3", None)];
        let things = things.map(|(id, owner)| {
            let node = NodeName { id: id.into(), ..NodeName::default() };
            let claimed = |owner| State::Claimed { owner: jid(owner), public: true, removed: false };
            let state = owner.map_or(State::Unclaimed, claimed);
            ThingRecord { state, ..ThingRecord::new(jid(LAMP), node) }.put()
        });
        block_on(owner.store.commit(Batch { guards: Vec::new(), writes: things.into() })).unwrap();
        owner
    }
    fn command(attrs: &str, fields: &[(&str, &str)]) -> String {
        let field = |(var, value): &(&str, &str)| format!("<field var='{var}'><value>{value}</value></field>");
        let fields: String = fields.iter().map(field).collect();
        let form = format!("<x xmlns='jabber:x:data' type='submit'>{fields}</x>");
        let form = if fields.is_empty() { "" } else { &form };
        format!("<command xmlns='{}' node='enforce' {attrs}>{form}</command>", ns::COMMANDS)
    }

    fn is_enforced(client: &Client, id: &str) -> bool {
        let node = NodeName { id: id.into(), ..NodeName::default() };
        block_on(load(&client.store, &jid(LAMP), &node)).unwrap().unwrap().enforced
    }

    #[test]
    fn an_owner_is_asked_which_thing_sees_it_and_sets_it() {
        let owner = owner();
        let (asked, effects) = owner.ask(IqType::Set, THINGS, &command("", &[]));
        assert!(asked.contains("status='executing'") && effects.is_empty(), "{asked}");
        for (var, kind) in [("jid", "jid-single"), ("id", "text-single"), ("enforce", "boolean")] {
            assert!(asked.contains(&format!("<field var='{var}' type='{kind}'")), "{asked}");
        }
        let told = |value| format!("<field var='enforce' type='boolean'><value>{value}</value></field>");
        for (id, enforce, expected, is_news) in [
            ("1", "", false, false),
            ("1", "1", true, true),
            ("1", "true", true, false),
            ("1", "", true, false),
            ("", "", false, false),
            ("1", "0", false, true),
            ("", "1", true, true),
        ] {
            let fields = [("jid", LAMP), ("id", id), ("enforce", enforce)];
            let (answer, effects) = owner.ask(IqType::Set, THINGS, &command("sessionid='s'", &fields));
            assert!(answer.contains("sessionid='s' status='completed'"), "{answer}");
            assert!(answer.contains(&told(expected)), "{answer}");
            assert_eq!(effects, if is_news { vec![Effect::ThingsChanged(vec![jid(LAMP)])] } else { vec![] });
            assert_eq!(is_enforced(&owner, id), expected);
        }
        let canceled = owner.set(THINGS, &command("sessionid='s' action='cancel'", &[]));
        assert!(canceled.contains("status='canceled'"), "{canceled}");
    }

    #[test]
    fn to_others_no_thing_is_there() {
        let owner = owner();
        let none = (error(Condition::ItemNotFound), vec![]);
        for (client, id) in [(&owner, "2"), (&owner, "3"), (&owner, "4"), (&owner.other(false), "1")] {
            for enforce in ["", "1", "0"] {
                let set = command("sessionid='s'", &[("jid", LAMP), ("id", id), ("enforce", enforce)]);
                assert_eq!(client.ask(IqType::Set, THINGS, &set), none, "{id} {enforce}");
            }
        }
        for id in ["", "1", "2", "3"] {
            assert!(!is_enforced(&owner, id));
        }
    }

    #[test]
    fn what_is_no_such_command_is_refused() {
        let owner = owner();
        let long = "x".repeat(3 * 1_024 + 1);
        for (payload, expected) in [
            (command("action='next'", &[]), "<bad-action "),
            (command("action='jump'", &[]), "<malformed-action "),
            (command("sessionid=''", &[]), "<bad-sessionid "),
            (command("", &[("id", "1")]), "<bad-payload "),
            (command("", &[("jid", "@")]), "<bad-payload "),
            (command("", &[("jid", LAMP), ("enforce", "maybe")]), "<bad-payload "),
            (command("", &[("jid", LAMP), ("id", &long)]), "<bad-payload "),
            (command("", &[]).replace("'enforce'", "'enforced'"), "<item-not-found "),
        ] {
            let (answer, effects) = owner.ask(IqType::Set, THINGS, &payload);
            assert!(answer.contains(expected) && effects.is_empty(), "{payload}: {answer}");
        }
        assert_eq!(owner.get(THINGS, &command("", &[])), error(Condition::FeatureNotImplemented));
    }

    #[test]
    fn the_command_is_found() {
        let owner = owner();
        let query = |kind: &str, node: &str| {
            owner.get(THINGS, &format!("<query xmlns='http://jabber.org/protocol/disco#{kind}' node='{node}'/>"))
        };
        assert!(query("items", ns::COMMANDS).contains("<item jid='things.things.example' node='enforce' "));
        assert!(query("info", ns::COMMANDS).contains("<identity category='automation' type='command-list'"));
        assert!(query("info", NODE).contains("<identity category='automation' type='command-node'"));
        assert!(!query("items", NODE).contains("<item "));
        assert_eq!(query("items", "x"), error(Condition::ItemNotFound));
    }
}
