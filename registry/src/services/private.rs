//! Private XML (XEP-0049 v1.2): what a client keeps on the server for the account's other clients.

use std::collections::BTreeSet;

use plaza_core::jid::JidRef;
use plaza_core::ns;
use plaza_core::stanza::Condition;
use plaza_core::xml::read::Node;
use plaza_core::xml::{Standalone, write};

use super::{ServiceLimits, condition, not_standalone, refusal};
use crate::private::{self, Entry};
use crate::store::Store;

/// Bytes of a namespace and of a name: the store's keys are made of them. Beyond it the set is `not-acceptable`.
const NAME_BYTES_MAX: usize = 1_023;
/// A set may hold so many entries of the largest size. Only prefixes written on each element can make it more than a
/// stanza is.
const ENTRIES_PER_SET: usize = 16;

/// What is stored under the names asked for, or the element as asked if there is nothing (§2.3).
///
/// # Errors
/// `bad-request` for no element, or several of different namespaces; `not-acceptable` for one without a namespace of its
/// own. `resource-constraint` if all of it is more than two entries may hold: it has to be asked for piece by piece.
pub(super) async fn get<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    query: &Node,
    limits: &ServiceLimits,
) -> Result<Vec<u8>, Condition> {
    // Differs from XEP-0049 §3: `bad-format` is none of RFC 6120's stanza errors; this is what became of it.
    let ns = &query.children.first().ok_or(Condition::BadRequest)?.ns;
    check_namespace(ns)?;
    if query.children.iter().any(|child| child.ns != *ns) {
        return Err(Condition::BadRequest);
    }
    let names: BTreeSet<_> = query.children.iter().map(|child| &*child.name).collect();
    let bytes_max = 2 * limits.private_entry_bytes_max as usize;
    let mut out = Vec::new();
    begin_query(&mut out);
    for name in names {
        match private::load(store, owner, ns, name).await.map_err(|error| condition(&error))? {
            Some(xml) => out.extend_from_slice(xml.as_bytes()),
            None => {
                out.push(b'<');
                out.extend_from_slice(name.as_bytes());
                write::attr(&mut out, "xmlns", ns);
                out.extend_from_slice(b"/>");
            }
        }
        if out.len() > bytes_max {
            return Err(Condition::ResourceConstraint);
        }
    }
    out.extend_from_slice(b"</query>");
    Ok(out)
}

/// Stores elements, those of one name and namespace together and in place of what was there. An empty element is the
/// same as none, so it frees the place.
///
/// # Errors
/// `not-acceptable` for no element, one without a namespace of its own, or one too large; `resource-constraint` for too
/// many.
pub(super) async fn set<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    payload: &str,
    limits: &ServiceLimits,
) -> Result<Vec<u8>, Condition> {
    let entry_bytes_max = limits.private_entry_bytes_max as usize;
    let elements = Standalone::read_children(payload, ns::CLIENT, ENTRIES_PER_SET.saturating_mul(entry_bytes_max));
    let elements = elements.map_err(not_standalone)?;
    if elements.is_empty() {
        return Err(Condition::NotAcceptable);
    }
    let mut entries: Vec<Entry> = Vec::new();
    for Standalone { name, ns, xml, is_empty } in elements {
        check_namespace(&ns)?;
        if name.len() > NAME_BYTES_MAX || ns.len() > NAME_BYTES_MAX {
            return Err(Condition::NotAcceptable);
        }
        let xml = (!is_empty).then_some(xml);
        let is_full = entries.len() >= limits.private_entries_max as usize;
        match entries.iter_mut().find(|entry| entry.name == name && entry.ns == ns) {
            Some(entry) => entry.xml.get_or_insert_default().push_str(&xml.unwrap_or_default()),
            None if is_full => return Err(Condition::ResourceConstraint),
            None => entries.push(Entry { ns, name, xml }),
        }
    }
    for entry in &mut entries {
        entry.xml = entry.xml.take().filter(|xml| !xml.is_empty());
        if entry.xml.as_ref().is_some_and(|xml| xml.len() > entry_bytes_max) {
            return Err(Condition::NotAcceptable);
        }
    }
    private::save(store, owner, &entries, limits.private_entries_max).await.map_err(refusal)?;
    Ok(Vec::new())
}

/// An element must be of a namespace of its own (§2.3). Others that are reserved (§2.3 lets us refuse them) are not.
fn check_namespace(ns: &str) -> Result<(), Condition> {
    if ns.is_empty() || ns == ns::PRIVATE { Err(Condition::NotAcceptable) } else { Ok(()) }
}

fn begin_query(out: &mut Vec<u8>) {
    out.extend_from_slice(b"<query");
    write::attr(out, "xmlns", ns::PRIVATE);
    out.push(b'>');
}

#[cfg(test)]
mod tests {
    use plaza_core::stanza::IqType;

    use super::super::testing::{Client, error};
    use super::*;

    fn query(content: &str) -> String {
        format!("<query xmlns='jabber:iq:private'>{content}</query>")
    }

    #[test]
    fn what_was_stored_is_given_back_and_nothing_as_it_was_asked_for() {
        let owner = Client::owner();
        // XEP-0049 v1.2 §2.3, the first two examples.
        let prefs = query("<exodus xmlns='exodus:prefs'><defaultnick>Hamlet</defaultnick></exodus>");
        let asked = query("<exodus xmlns='exodus:prefs'/>");
        assert_eq!(owner.get("", &asked), asked);
        assert_eq!(owner.set("", &prefs), "");
        for to in ["", "owner@things.example"] {
            assert_eq!(owner.get(to, &asked), prefs);
        }
        // Another name or namespace is another place.
        for other in ["<exodus xmlns='exodus:prefs2'/>", "<exodus2 xmlns='exodus:prefs'/>"] {
            assert_eq!(owner.get("", &query(other)), query(other));
        }
        assert_eq!(owner.set("", &asked), "");
        assert_eq!(owner.get("", &asked), asked);
    }

    #[test]
    fn elements_of_one_name_are_stored_together_and_others_apart() {
        let owner = Client::owner();
        let stored = query("<a xmlns='urn:x'>1</a><b xmlns='urn:x'/><a xmlns='urn:x'>2</a><c xmlns='urn:y'>3</c>");
        assert_eq!(owner.set("", &stored), "");
        let both = query("<a xmlns='urn:x'>1</a><a xmlns='urn:x'>2</a>");
        assert_eq!(owner.get("", &query("<a xmlns='urn:x'/>")), both);
        let asked = query("<b xmlns='urn:x'/><a xmlns='urn:x'/><a xmlns='urn:x'/>");
        assert_eq!(owner.get("", &asked), both.replace("</query>", "<b xmlns='urn:x'/></query>"));
        assert_eq!(owner.get("", &query("<c xmlns='urn:y'/>")), query("<c xmlns='urn:y'>3</c>"));
    }

    #[test]
    fn what_is_stored_stands_for_itself() {
        let owner = Client::owner();
        let set = "<q:query xmlns:q='jabber:iq:private' xmlns:p='urn:p' xmlns='urn:d'>\
                   <a><p:b p:c=\"1\"/><![CDATA[<]]></a></q:query>";
        assert_eq!(owner.set("", set), "");
        assert_eq!(
            owner.get("", &query("<a xmlns='urn:d'/>")),
            query("<a xmlns='urn:d' xmlns:p='urn:p'><p:b p:c=\"1\"/>&lt;</a>")
        );
    }

    #[test]
    fn it_is_the_owners_alone() {
        let owner = Client::owner();
        let payload = query("<a xmlns='urn:x'>1</a>");
        assert_eq!(owner.set("", &payload), "");
        owner.store.hold();
        for subscribed in [false, true] {
            for to in ["owner@things.example", "nobody@things.example", "things.example"] {
                for iq_type in [IqType::Get, IqType::Set] {
                    let (answer, effects) = owner.other(subscribed).ask(iq_type, to, &payload);
                    assert_eq!((answer, effects), (error(Condition::Forbidden), vec![]));
                }
            }
        }
        assert_eq!(owner.store.held(), 0);
    }

    #[test]
    fn what_is_not_as_it_should_be_is_refused_with_its_condition() {
        let owner = Client::owner();
        let check = |iq_type, content: &str, refused| {
            let (answer, effects) = owner.ask(iq_type, "", &query(content));
            assert_eq!((answer, effects), (error(refused), vec![]), "{content:.100}");
        };
        check(IqType::Get, "", Condition::BadRequest);
        check(IqType::Get, "<a xmlns='urn:a'/><a xmlns='urn:b'/>", Condition::BadRequest);
        check(IqType::Set, "", Condition::NotAcceptable);
        for iq_type in [IqType::Get, IqType::Set] {
            check(iq_type, "<a/>", Condition::NotAcceptable);
            check(iq_type, "<a xmlns=''/>", Condition::NotAcceptable);
        }
        check(IqType::Set, "<a xmlns='urn:a'>1</a><b/>", Condition::NotAcceptable);
        check(IqType::Set, &format!("<a xmlns='{}'>1</a>", "x".repeat(NAME_BYTES_MAX + 1)), Condition::NotAcceptable);
        assert_eq!(owner.get("", &query("<a xmlns='urn:a'/>")), query("<a xmlns='urn:a'/>"));
    }

    #[test]
    fn bounds_hold_for_each_entry_their_number_and_an_answer() {
        let mut owner = Client::owner();
        owner.config.limits.private_entry_bytes_max = 100;
        owner.config.limits.private_entries_max = 5;
        let entry = |name: &str, bytes: usize| {
            let empty = format!("<{name} xmlns='urn:a'></{name}>");
            empty.replace("><", &format!(">{}<", "x".repeat(bytes - empty.len())))
        };
        assert_eq!(owner.set("", &query(&entry("a", 101))), error(Condition::NotAcceptable));
        assert_eq!(owner.set("", &query(&entry("a", 51).repeat(2))), error(Condition::NotAcceptable));
        assert_eq!(owner.set("", &query(&entry("a", 100))), "");
        let more: String = ["b", "c", "d", "e"].iter().map(|name| entry(name, 50)).collect();
        assert_eq!(
            owner.set("", &query(&(more.clone() + &entry("f", 50) + &entry("g", 50)))),
            error(Condition::ResourceConstraint)
        );
        assert_eq!(owner.set("", &query(&more)), "");
        assert_eq!(owner.set("", &query(&entry("f", 50))), error(Condition::ResourceConstraint));
        let ask = |names: &[&str]| {
            owner.get("", &query(&names.iter().map(|name| format!("<{name} xmlns='urn:a'/>")).collect::<String>()))
        };
        assert_eq!(ask(&["b", "c"]), query(&(entry("b", 50) + &entry("c", 50))));
        assert_eq!(ask(&["a", "b", "c", "d", "e"]), error(Condition::ResourceConstraint));
        // A declaration borrowed by many elements counts on each of them.
        let many = "<p:a/>".repeat(ENTRIES_PER_SET);
        let set = format!("<query xmlns='jabber:iq:private' xmlns:p='urn:{}'>{many}</query>", "x".repeat(80));
        assert_eq!(owner.set("", &set), error(Condition::NotAcceptable));
    }
}
