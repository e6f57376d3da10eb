//! The blocking command (XEP-0191 v1.3 §3): an account's clients read and edit whom it blocks. What that does to stanzas
//! is the shard's.

use plaza_core::jid::{Jid, JidRef};
use plaza_core::ns;
use plaza_core::stanza::Condition;
use plaza_core::xml::read::Node;
use plaza_core::xml::write;

use super::{Effect, ServiceLimits, condition, refusal};
use crate::blocking::{self, Bounds};
use crate::store::Store;

/// The list (§3.2). Who asks is interested in pushes from then on (§3.3).
pub(super) async fn get<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    effects: &mut Vec<Effect>,
) -> Result<Vec<u8>, Condition> {
    let list = blocking::load(store, owner).await.map_err(|error| condition(&error))?;
    effects.push(Effect::BlocklistInterested);
    Ok(write_list("blocklist", list.iter()))
}

/// Blocks addresses (§3.3); durable before the push and the result.
///
/// # Errors
/// `bad-request` without an address, `jid-malformed`, `resource-constraint` if there would be too many.
pub(super) async fn block<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    block: &Node,
    limits: &ServiceLimits,
    effects: &mut Vec<Effect>,
) -> Result<Vec<u8>, Condition> {
    let jids = read(block)?;
    if jids.is_empty() {
        return Err(Condition::BadRequest);
    }
    let bounds = Bounds { items_max: limits.blocklist_items_max, bytes_max: limits.blocklist_bytes_max };
    let change = blocking::block(store, owner, &jids, bounds).await.map_err(refusal)?;
    if !change.changed.is_empty() {
        effects.push(Effect::Blocklist { list: change.list, blocked: change.changed, unblocked: Vec::new() });
    }
    effects.push(push("block", &jids));
    Ok(Vec::new())
}

/// Unblocks addresses, or all if none is named (§3.4, §3.5).
///
/// # Errors
/// `bad-request` for something other than addresses, `jid-malformed`.
pub(super) async fn unblock<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    unblock: &Node,
    effects: &mut Vec<Effect>,
) -> Result<Vec<u8>, Condition> {
    let jids = read(unblock)?;
    // Only an empty element stands for all: one that holds what we don't understand may have meant less.
    if jids.is_empty() && !unblock.children.is_empty() {
        return Err(Condition::BadRequest);
    }
    let which = (!jids.is_empty()).then_some(&*jids);
    let change = blocking::unblock(store, owner, which).await.map_err(refusal)?;
    if !change.changed.is_empty() {
        effects.push(Effect::Blocklist { list: change.list, blocked: Vec::new(), unblocked: change.changed });
    }
    effects.push(push("unblock", &jids));
    Ok(Vec::new())
}

/// The addresses named, in normal form, none twice.
fn read(command: &Node) -> Result<Vec<Jid>, Condition> {
    let items = command.children.iter().filter(|child| child.name == "item" && child.ns == ns::BLOCKING);
    let jids = items.map(|item| {
        let jid = item.attr("jid").ok_or(Condition::BadRequest)?;
        Jid::parse(jid).map_err(|_| Condition::JidMalformed)
    });
    let mut jids = jids.collect::<Result<Vec<_>, _>>()?;
    jids.sort_unstable();
    jids.dedup();
    Ok(jids)
}

/// What all interested resources are told: what was asked for, also where that changed nothing.
fn push(name: &str, jids: &[Jid]) -> Effect {
    let payload = write_list(name, jids.iter().map(Jid::as_jid));
    Effect::BlocklistPush { payload: String::from_utf8(payload).expect("escaping keeps UTF-8") }
}

fn write_list<'a>(name: &str, jids: impl Iterator<Item = JidRef<'a>>) -> Vec<u8> {
    let mut out = Vec::new();
    out.push(b'<');
    out.extend_from_slice(name.as_bytes());
    write::attr(&mut out, "xmlns", ns::BLOCKING);
    let mut jids = jids.peekable();
    if jids.peek().is_none() {
        out.extend_from_slice(b"/>");
        return out;
    }
    out.push(b'>');
    for jid in jids {
        out.extend_from_slice(b"<item");
        write::attr(&mut out, "jid", jid.as_str());
        out.extend_from_slice(b"/>");
    }
    out.extend_from_slice(b"</");
    out.extend_from_slice(name.as_bytes());
    out.push(b'>');
    out
}

#[cfg(test)]
mod tests {
    use plaza_core::stanza::IqType;

    use super::super::testing::{Client, error};
    use super::*;
    use crate::blocking::BlockList;
    use crate::testing::jid;

    const LIST: &str = "<blocklist xmlns='urn:xmpp:blocking'/>";

    fn command(name: &str, jids: &[&str]) -> String {
        let jids: Vec<_> = jids.iter().map(|text| JidRef::from_normal(text)).collect();
        String::from_utf8(write_list(name, jids.into_iter())).unwrap()
    }

    fn jids(texts: &[&str]) -> Vec<Jid> {
        texts.iter().map(|text| jid(text)).collect()
    }

    #[test]
    fn a_list_is_read_edited_and_pushed() {
        let owner = Client::owner();
        assert_eq!(owner.ask(IqType::Get, "", LIST), (LIST.to_owned(), vec![Effect::BlocklistInterested]));

        let (answer, effects) = owner.ask(
            IqType::Set,
            "",
            "<block xmlns='urn:xmpp:blocking'><item jid='Romeo@montague.net'/><item jid='iago@shakespeare.lit'/>\
             <item jid='romeo@montague.net'/></block>",
        );
        let both = ["iago@shakespeare.lit", "romeo@montague.net"];
        let (list, blocked) = (BlockList::new(jids(&both)), jids(&both));
        let told = vec![
            Effect::Blocklist { list, blocked, unblocked: Vec::new() },
            Effect::BlocklistPush { payload: command("block", &both) },
        ];
        assert_eq!((&*answer, effects), ("", told));
        assert_eq!(owner.ask(IqType::Get, "owner@things.example", LIST).0, command("blocklist", &both));

        let (answer, effects) = owner.ask(IqType::Set, "", &command("unblock", &["romeo@montague.net", "x@y"]));
        let (list, unblocked) = (BlockList::new(jids(&both[..1])), jids(&both[1..]));
        let told = vec![
            Effect::Blocklist { list, blocked: Vec::new(), unblocked },
            Effect::BlocklistPush { payload: command("unblock", &["romeo@montague.net", "x@y"]) },
        ];
        assert_eq!((&*answer, effects), ("", told));

        let (answer, effects) = owner.ask(IqType::Set, "", &command("unblock", &[]));
        let told = vec![
            Effect::Blocklist { list: BlockList::default(), blocked: Vec::new(), unblocked: jids(&both[..1]) },
            Effect::BlocklistPush { payload: command("unblock", &[]) },
        ];
        assert_eq!((&*answer, effects), ("", told));
        assert_eq!(owner.ask(IqType::Get, "", LIST).0, LIST);
    }

    #[test]
    fn what_changes_nothing_is_pushed_and_no_more() {
        let owner = Client::owner();
        let block = command("block", &["romeo@montague.net"]);
        assert_eq!(owner.set("", &block), "");
        let pushed = |payload: String| vec![Effect::BlocklistPush { payload }];
        assert_eq!(owner.ask(IqType::Set, "", &block), (String::new(), pushed(block)));
        let unblock = command("unblock", &["iago@shakespeare.lit"]);
        assert_eq!(owner.ask(IqType::Set, "", &unblock), (String::new(), pushed(unblock)));
    }

    #[test]
    fn what_is_not_as_it_should_be_is_refused_and_changes_nothing() {
        let mut owner = Client::owner();
        owner.config.limits.blocklist_items_max = 2;
        assert_eq!(owner.set("", &command("block", &["a@b"])), "");
        let of = |name: &str, content: &str| format!("<{name} xmlns='urn:xmpp:blocking'>{content}</{name}>");
        for (set, refused) in [
            (of("block", ""), Condition::BadRequest),
            (of("block", "<item xmlns='urn:x' jid='a@b'/>"), Condition::BadRequest),
            (of("block", "<item/>"), Condition::BadRequest),
            (of("block", "<item jid='c@d'/><item/>"), Condition::BadRequest),
            (of("block", "<item jid='@b'/>"), Condition::JidMalformed),
            (of("block", "<item jid='c@d'/><item jid=''/>"), Condition::JidMalformed),
            (of("block", "<item jid='c@d'/><item jid='e@f'/>"), Condition::ResourceConstraint),
            (of("unblock", "<item/>"), Condition::BadRequest),
            (of("unblock", "<all/>"), Condition::BadRequest),
            (of("unblock", "<item jid='@b'/>"), Condition::JidMalformed),
            (of("blocklist", ""), Condition::FeatureNotImplemented),
        ] {
            assert_eq!(owner.ask(IqType::Set, "", &set), (error(refused), vec![]), "{set}");
        }
        for get in ["block", "unblock"] {
            assert_eq!(owner.get("", &command(get, &["a@b"])), error(Condition::FeatureNotImplemented));
        }
        assert_eq!(owner.ask(IqType::Get, "", LIST).0, command("blocklist", &["a@b"]));
    }

    #[test]
    fn it_is_the_owners_alone() {
        let owner = Client::owner();
        owner.store.hold();
        for (iq_type, payload) in [(IqType::Get, LIST.to_owned()), (IqType::Set, command("block", &["a@b"]))] {
            let (answer, effects) = owner.other(true).ask(iq_type, "owner@things.example", &payload);
            assert_eq!((answer, effects), (error(Condition::ServiceUnavailable), vec![]));
            let (answer, effects) = owner.ask(iq_type, "things.example", &payload);
            assert_eq!((answer, effects), (error(Condition::FeatureNotImplemented), vec![]));
        }
        assert_eq!(owner.store.held(), 0);
    }
}
