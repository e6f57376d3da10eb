//! What decision support keeps of a subject, as it is told. Tokens are secrets: it is told that they are there.

use plaza_core::iot::Generation;
use plaza_core::provisioning::{Categories, Kind, Part};
use plaza_core::thing::NodeName;
use serde_json::{Value, json};

use super::record::{self, Question};
use super::rule::{self, Level, Rule};
use crate::store::StoreError;
use crate::subject::time;

/// Categories of fields by their places (XEP-0323 v0.6 §3.2).
const CATEGORIES: [&str; Categories::COUNT] = ["momentary", "peak", "status", "computed", "identity", "historical"];

/// The prefix of a generation's namespaces.
pub(crate) const fn prefix(generation: Generation) -> &'static str {
    match generation {
        Generation::Xsf => "urn:xmpp:iot:",
        Generation::Ieee => "urn:ieee:iot:",
        Generation::Nf => "urn:nf:iot:",
        Generation::Nfi => "urn:nfi:iot:",
    }
}

/// A rule that somebody's thing has. `rest`: what stands in its key behind its account.
pub(crate) fn tell_rule(rest: &[u8], record: &[u8]) -> Result<Value, StoreError> {
    let (node, rule) = rule::read(rest, record)?;
    let node = node_name(node)?;
    let Rule { number, text, names, kind, level, allow, categories } = rule;
    let (origin, text) = match level {
        Level::User => ("token of a user", None),
        Level::Device => ("token of a device", None),
        Level::Service => ("token of a service", None),
        Level::Jid => ("jid", Some(text)),
        Level::Domain => ("domain", Some(text)),
        Level::All => ("all", None),
    };
    let part = Part { categories, names: names.map(Vec::from) };
    let mut told = json!({
        "made": time(number), "question": kind.name(), "of": origin, "allow": allow, "for": tell_part(kind, &part),
    });
    if let (Some(told), Some(text)) = (told.as_object_mut(), text) {
        told.insert("name".to_owned(), json!(text));
    }
    Ok(with_node(told, &node))
}

/// What is kept of an owner: a question that was not answered, what the owner spoke, or a thing that was the owner's once; with
/// the name of what it is. `rest`: what stands in its key behind the owner.
pub(crate) fn tell_question(rest: &[u8], record: &[u8]) -> Result<(&'static str, Value), StoreError> {
    let (letter, rest) = rest.split_first().ok_or(StoreError::Corrupt)?;
    let names = || std::str::from_utf8(rest).ok()?.split_once('\0');
    match *letter {
        record::HEAD => Ok(("owner_style", json!({ "namespaces": prefix(record::decode_head(record)?) }))),
        record::QUESTION => {
            let (device, key) = names().ok_or(StoreError::Corrupt)?;
            let Question { kind, generation, node, remote, tokens, shown, wanted, first, last } =
                Question::decode(record)?;
            let classes = [("user", &tokens.user), ("device", &tokens.device), ("service", &tokens.service)];
            let presented = classes.into_iter().filter(|(_, tokens)| !tokens.is_empty());
            let presented: Vec<&str> = presented.map(|(class, _)| class).collect();
            let told = json!({
                "device": device, "key": key, "question": kind.name(), "from": remote.as_str(), "tokens_of": presented,
                "shown": tell_part(kind, &shown), "wanted": tell_part(kind, &wanted), "namespaces": prefix(generation),
                "asked": time(first), "reminded": time(last),
            });
            Ok(("questions", with_node(told, &node)))
        }
        record::FORMER => {
            let (device, node) = names().ok_or(StoreError::Corrupt)?;
            Ok(("former_things", with_node(json!({ "jid": device }), &node_name(node)?)))
        }
        _ => Err(StoreError::Corrupt),
    }
}

/// What a question or a rule is about: fields or parameters by their names, or all of them; and fields by their categories.
fn tell_part(kind: Kind, part: &Part) -> Value {
    let names = part.names.as_ref().map_or(json!("all"), |names| json!(names));
    match kind {
        Kind::Friend => json!("presence"),
        Kind::Read => {
            let places = CATEGORIES.iter().enumerate();
            let categories = places.filter(|&(place, _)| part.categories.has(place)).map(|(_, name)| *name);
            json!({ "fields": names, "categories": categories.collect::<Vec<_>>() })
        }
        Kind::Control => json!({ "parameters": names }),
    }
}

fn with_node(mut told: Value, node: &NodeName) -> Value {
    let NodeName { id, source, partition } = node;
    if let Some(told) = told.as_object_mut() {
        for (name, text) in [("id", id), ("src", source), ("pt", partition)] {
            told.insert(name.to_owned(), json!(text));
        }
    }
    told
}

/// Reads the node of a thing, as it stands in keys.
fn node_name(node: &str) -> Result<NodeName, StoreError> {
    let mut parts = node.split('\0').map(Box::from);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(source), Some(partition), Some(id), None) => Ok(NodeName { id, source, partition }),
        _ => Err(StoreError::Corrupt),
    }
}

#[cfg(test)]
mod tests {
    use plaza_core::provisioning::Tokens;

    use super::*;
    use crate::provisioning::Inquiry;
    use crate::store::{Write, key};
    use crate::testing::jid;

    /// What is told of a rule, by what stores it.
    fn told(rule: &Rule) -> Value {
        let (device, node) = (jid("rack@things.example"), NodeName { id: "1".into(), ..NodeName::default() });
        let Write::Put { key, value, .. } = rule.put(device.as_jid(), &node) else { panic!("it is stored") };
        tell_rule(key::split_owner(&key).unwrap().1, &value).unwrap()
    }

    #[test]
    fn a_rule_says_whom_it_is_of_and_what_they_may_but_not_their_tokens() {
        let rule = Rule {
            number: 1_767_323_045_000,
            text: "bob@x.example".into(),
            names: Some(["T".into()].into()),
            kind: Kind::Read,
            level: Level::Jid,
            allow: true,
            categories: Categories::from_bits(0b10_0001).unwrap(),
        };
        let expected = json!({
            "made": "2026-01-02T03:04:05.000Z", "question": "canRead", "of": "jid", "name": "bob@x.example",
            "allow": true, "for": { "fields": ["T"], "categories": ["momentary", "historical"] },
            "id": "1", "src": "", "pt": "",
        });
        assert_eq!(told(&rule), expected);
        let token = Rule { text: "t0k3n".into(), names: None, kind: Kind::Control, level: Level::User, ..rule };
        let told = told(&token);
        assert_eq!((&told["of"], &told["for"]), (&json!("token of a user"), &json!({ "parameters": "all" })));
        assert!(!told.to_string().contains("t0k3n"));
    }

    #[test]
    fn a_question_says_who_asked_for_what_and_that_there_were_tokens() {
        let inquiry = Inquiry {
            device: jid("rack@things.example"),
            component: jid("things.things.example"),
            kind: Kind::Control,
            generation: Generation::Nf,
            remote: jid("bob@x.example"),
            tokens: Tokens { user: "t0k3n".into(), ..Tokens::default() },
            parts: Vec::new(),
        };
        let part = Part { categories: Categories::NONE, names: Some(vec!["on".into()]) };
        let (node, owner) = (NodeName { id: "1".into(), ..NodeName::default() }, jid("owner@things.example"));
        let question = Question::new(&inquiry, &node, &part, 1_767_323_045_000);
        let key = record::question_key(owner.as_jid(), inquiry.device.as_jid(), "4d5a");
        let (what, told) = tell_question(key::split_owner(&key).unwrap().1, &question.encode()).unwrap();
        let asked = json!({ "parameters": ["on"] });
        let expected = json!({
            "device": "rack@things.example", "key": "4d5a", "question": "canControl", "from": "bob@x.example",
            "tokens_of": ["user"], "shown": asked, "wanted": asked, "namespaces": "urn:nf:iot:",
            "asked": "2026-01-02T03:04:05.000Z", "reminded": "2026-01-02T03:04:05.000Z", "id": "1", "src": "", "pt": "",
        });
        assert_eq!((what, told), ("questions", expected));
    }

    #[test]
    fn what_else_is_kept_of_an_owner_has_a_name_of_its_own_and_what_is_damaged_none() {
        let owner = jid("owner@things.example");
        let head = record::head_key(owner.as_jid());
        let told = tell_question(key::split_owner(&head).unwrap().1, &record::encode_head(Generation::Nfi)).unwrap();
        assert_eq!(told, ("owner_style", json!({ "namespaces": "urn:nfi:iot:" })));
        let node = NodeName { id: "1".into(), source: "m".into(), ..NodeName::default() };
        let former = record::former_key(owner.as_jid(), jid("rack@things.example").as_jid(), &node);
        let told = tell_question(key::split_owner(&former).unwrap().1, &[]).unwrap();
        assert_eq!(told, ("former_things", json!({ "jid": "rack@things.example", "id": "1", "src": "m", "pt": "" })));
        for (rest, record) in [(&b""[..], &b""[..]), (b"h", b""), (b"qrack", b""), (b"q\0a", b"\x09"), (b"x", b"")] {
            assert_eq!(tell_question(rest, record), Err(StoreError::Corrupt), "{rest:?}");
        }
        assert_eq!(tell_rule(b"short", b""), Err(StoreError::Corrupt));
    }
}
