//! The roster service (RFC 6121 §2): an owner reads and edits the roster; every interested resource learns of it.

use plaza_core::jid::{Jid, JidRef};
use plaza_core::ns;
use plaza_core::stanza::Condition;
use plaza_core::xml::read::Node;
use plaza_core::xml::write;

use super::{Effect, condition};
use crate::rosters::{self, RosterError, RosterItem, Version};
use crate::store::Store;

/// Bytes of a contact's name and of a group's: as much as a part of a JID.
const NAME_BYTES_MAX: usize = 1_023;
/// Groups one contact may be in. Beyond it the set is `not-acceptable`, like a name too long.
const GROUPS_MAX: usize = 64;

/// What a roster set asks for.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// Add the item, or give it this name and these groups.
    Put {
        jid: Jid,
        name: String,
        groups: Vec<String>,
    },
    Remove {
        jid: Jid,
    },
}

/// All items (RFC 6121 §2.1.3), or nothing if the client has them in this version (§2.6.3). Who asks is interested in
/// pushes from then on (§2.2).
pub(super) async fn get<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    query: &Node,
    effects: &mut Vec<Effect>,
) -> Result<Vec<u8>, Condition> {
    if let Some(known) = query.attr("ver").filter(|ver| !ver.is_empty()) {
        let version = rosters::version(store, owner).await.map_err(|error| condition(&error))?;
        if known == version.to_string() {
            effects.push(Effect::RosterInterested);
            return Ok(Vec::new());
        }
    }
    let (items, version) = rosters::load_versioned(store, owner).await.map_err(|error| condition(&error))?;
    effects.push(Effect::RosterInterested);
    Ok(write_query(version, |out| items.iter().filter(|item| item.listed).for_each(|item| write_item(out, item))))
}

/// Adds, updates or removes one item (RFC 6121 §2.3, §2.4, §2.5); durable before the push and the result.
pub(super) async fn set<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    query: &Node,
    items_max: u32,
    effects: &mut Vec<Effect>,
) -> Result<Vec<u8>, Condition> {
    let (payload, change) = match read_set(query, owner)? {
        Change::Put { jid, name, groups } => {
            let item = rosters::update(store, owner, jid.as_jid(), items_max, |item| {
                item.name.clone_from(&name);
                item.groups.clone_from(&groups);
                item.listed = true;
            });
            let (item, version) = item.await.map_err(refusal)?;
            (payload(&item, version), Effect::Contact(Box::new(item)))
        }
        Change::Remove { jid } => {
            let (removed, version) = rosters::remove(store, owner, jid.as_jid()).await.map_err(refusal)?;
            let payload = text(write_query(version, |out| write_removed(out, jid.as_jid())));
            (payload, Effect::ContactRemoved(Box::new(removed)))
        }
    };
    effects.push(Effect::RosterPush { payload });
    effects.push(change);
    Ok(Vec::new())
}

/// An item as it is pushed (RFC 6121 §2.1.6), with the version the roster is then (§2.6.3).
pub fn payload(item: &RosterItem, version: Version) -> String {
    text(write_query(version, |out| write_item(out, item)))
}

fn text(written: Vec<u8>) -> String {
    String::from_utf8(written).expect("escaping keeps UTF-8")
}

fn refusal(error: RosterError) -> Condition {
    match error {
        RosterError::NoAccount => Condition::ServiceUnavailable,
        RosterError::NotFound => Condition::ItemNotFound, // RFC 6121 §2.5.3
        RosterError::Full => Condition::ResourceConstraint,
        RosterError::Store(error) => condition(&error),
    }
}

/// Reads a roster set and checks it (RFC 6121 §2.1.5, §2.3.3). `subscription`, `ask` and `approved` are the server's to
/// say and ignored, except for `subscription='remove'`.
fn read_set(query: &Node, owner: JidRef<'_>) -> Result<Change, Condition> {
    let mut items = children(query, "item");
    let (Some(item), None) = (items.next(), items.next()) else { return Err(Condition::BadRequest) };
    let jid = item.attr("jid").ok_or(Condition::BadRequest)?;
    let jid = Jid::parse(jid).map_err(|_| Condition::JidMalformed)?;
    if jid.as_jid().bare() == owner {
        return Err(Condition::NotAllowed);
    }
    // An item stands for an account, not for one of its resources (RFC 6121 §2.1.2.3).
    if !jid.as_jid().is_bare() {
        return Err(Condition::BadRequest);
    }
    if item.attr("subscription") == Some("remove") {
        return Ok(Change::Remove { jid });
    }
    let name = item.attr("name").unwrap_or_default().to_owned();
    let groups: Vec<String> = children(item, "group").map(|group| group.text.clone()).collect();
    if groups.iter().any(String::is_empty)
        || groups.len() > GROUPS_MAX
        || groups.iter().chain([&name]).any(|text| text.len() > NAME_BYTES_MAX)
    {
        return Err(Condition::NotAcceptable);
    }
    if groups.iter().enumerate().any(|(index, group)| groups.iter().take(index).any(|before| before == group)) {
        return Err(Condition::BadRequest);
    }
    Ok(Change::Put { jid, name, groups })
}

/// The children of a name in their parent's own namespace, whatever prefix it came through.
fn children<'a>(parent: &'a Node, name: &'a str) -> impl Iterator<Item = &'a Node> {
    parent.children.iter().filter(move |child| child.name == name && child.ns == parent.ns)
}

fn write_query(version: Version, items: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(b"<query");
    write::attr(&mut out, "xmlns", ns::ROSTER);
    write::attr(&mut out, "ver", &version.to_string());
    out.push(b'>');
    items(&mut out);
    out.extend_from_slice(b"</query>");
    out
}

fn write_item(out: &mut Vec<u8>, item: &RosterItem) {
    out.extend_from_slice(b"<item");
    write::attr(out, "jid", item.jid.as_str());
    if !item.name.is_empty() {
        write::attr(out, "name", &item.name);
    }
    write::attr(out, "subscription", item.subscription.name());
    if item.ask {
        write::attr(out, "ask", "subscribe");
    }
    if item.approved {
        write::attr(out, "approved", "true");
    }
    if item.groups.is_empty() {
        return out.extend_from_slice(b"/>");
    }
    out.push(b'>');
    for group in &item.groups {
        out.extend_from_slice(b"<group>");
        write::text(out, group);
        out.extend_from_slice(b"</group>");
    }
    out.extend_from_slice(b"</item>");
}

fn write_removed(out: &mut Vec<u8>, jid: JidRef<'_>) {
    out.extend_from_slice(b"<item");
    write::attr(out, "jid", jid.as_str());
    write::attr(out, "subscription", "remove");
    out.extend_from_slice(b"/>");
}

#[cfg(test)]
mod tests {
    use plaza_core::stanza::IqType;

    use super::super::testing::{Client, error};
    use super::*;
    use crate::rosters::Subscription;
    use crate::wait::block_on;

    const ROSTER: &str = "<query xmlns='jabber:iq:roster'/>";

    fn read(items: &str) -> Result<Change, Condition> {
        let owner = Jid::parse("owner@things.example").unwrap();
        let query = Node::parse(&format!("<query xmlns='jabber:iq:roster'>{items}</query>"), ns::CLIENT).unwrap();
        read_set(&query, owner.as_jid())
    }

    #[test]
    fn a_set_that_is_not_as_the_rfc_wants_it_is_refused_with_its_condition() {
        #[track_caller]
        fn check(items: &str, refused: Condition) {
            assert_eq!(read(items), Err(refused), "{items}");
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        let many: String = (0..=GROUPS_MAX).map(|index| format!("<group>{index}</group>")).collect();
        check("", Condition::BadRequest);
        check("<item jid='a@b'/><item jid='c@b'/>", Condition::BadRequest);
        check("<item xmlns='other' jid='a@b'/>", Condition::BadRequest);
        check("<item/>", Condition::BadRequest);
        check("<item jid='@b'/>", Condition::JidMalformed);
        check("<item jid='a@b/c'/>", Condition::BadRequest);
        check("<item jid='owner@things.example'/>", Condition::NotAllowed);
        check("<item jid='OWNER@things.example/x'/>", Condition::NotAllowed);
        check("<item jid='owner@things.example' subscription='remove'/>", Condition::NotAllowed);
        check("<item jid='a@b'><group>x</group><group>x</group></item>", Condition::BadRequest);
        check("<item jid='a@b'><group/></item>", Condition::NotAcceptable);
        check(&format!("<item jid='a@b' name='{long}'/>"), Condition::NotAcceptable);
        check(&format!("<item jid='a@b'><group>{long}</group></item>"), Condition::NotAcceptable);
        check(&format!("<item jid='a@b'>{many}</item>"), Condition::NotAcceptable);
    }

    #[test]
    fn a_set_is_read_with_its_jid_in_normal_form_and_without_what_is_the_servers_to_say() {
        let change =
            read("<item jid='Lamp@b' name='L &amp; M' subscription='both' ask='subscribe'><group>x</group></item>");
        let jid = Jid::parse("lamp@b").unwrap();
        let groups = vec!["x".to_owned()];
        assert_eq!(change, Ok(Change::Put { jid: jid.clone(), name: "L & M".to_owned(), groups }));
        assert_eq!(read("<item jid='lamp@b' subscription='remove'/>"), Ok(Change::Remove { jid }));
    }

    #[test]
    fn an_item_is_written_with_all_it_has_escaped() {
        let mut item = RosterItem::new(Jid::parse("lamp@b").unwrap());
        let written = |item: &RosterItem| {
            String::from_utf8(write_query(Version::default(), |out| write_item(out, item))).unwrap()
        };
        assert_eq!(
            written(&item),
            "<query xmlns='jabber:iq:roster' ver='0000000000000000'><item jid='lamp@b' subscription='none'/></query>"
        );
        item.name = "'<&".to_owned();
        item.groups = vec!["a<b".to_owned(), "c".to_owned()];
        item.subscription = Subscription::From;
        (item.ask, item.approved) = (true, true);
        assert_eq!(
            written(&item),
            "<query xmlns='jabber:iq:roster' ver='0000000000000000'><item jid='lamp@b' name='&apos;&lt;&amp;' subscription='from' \
             ask='subscribe' approved='true'><group>a&lt;b</group><group>c</group></item></query>"
        );
    }

    fn item(attrs: &str, groups: &str) -> String {
        format!("<query xmlns='jabber:iq:roster'><item {attrs}>{groups}</item></query>")
    }

    /// A roster of these items, in whatever version the owner's is.
    fn roster(owner: &Client, items: &str) -> String {
        let version = block_on(rosters::version(&owner.store, owner.jid.as_jid())).unwrap();
        format!("<query xmlns='jabber:iq:roster' ver='{version}'>{items}</query>")
    }

    #[test]
    fn a_roster_is_edited_pushed_and_read_back() {
        let owner = Client::owner();
        let empty = roster(&owner, "");
        assert_eq!(owner.ask(IqType::Get, "", ROSTER), (empty, vec![Effect::RosterInterested]));

        let (answer, effects) =
            owner.ask(IqType::Set, "", &item("jid='lamp@b' name='Lamp' subscription='both'", "<group>home</group>"));
        let stored = roster(&owner, "<item jid='lamp@b' name='Lamp' subscription='none'><group>home</group></item>");
        assert_eq!((&*answer, &effects[0]), ("", &Effect::RosterPush { payload: stored.clone() }));
        assert!(matches!(&effects[1..], [Effect::Contact(item)] if item.name == "Lamp"), "{effects:?}");
        assert_eq!(owner.ask(IqType::Get, "owner@things.example", ROSTER).0, stored);

        let (_, effects) = owner.ask(IqType::Set, "", &item("jid='lamp@b'", ""));
        let payload = roster(&owner, "<item jid='lamp@b' subscription='none'/>");
        assert_eq!(effects[0], Effect::RosterPush { payload });

        let (answer, effects) = owner.ask(IqType::Set, "", &item("jid='lamp@b' subscription='remove'", ""));
        let payload = roster(&owner, "<item jid='lamp@b' subscription='remove'/>");
        assert_eq!((&*answer, &effects[0]), ("", &Effect::RosterPush { payload }));
        assert!(matches!(&effects[1..], [Effect::ContactRemoved(_)]), "{effects:?}");
        assert_eq!(owner.ask(IqType::Get, "", ROSTER).0, roster(&owner, ""));
    }

    #[test]
    fn who_has_the_roster_in_this_version_is_not_told_it_again() {
        let owner = Client::owner();
        assert_eq!(owner.set("", &item("jid='lamp@b'", "")), "");
        let whole = roster(&owner, "<item jid='lamp@b' subscription='none'/>");
        let version = block_on(rosters::version(&owner.store, owner.jid.as_jid())).unwrap().to_string();
        for (ver, told) in [("", &*whole), ("0000000000000000", &whole), ("other", &whole), (&version, "")] {
            let asked = owner.ask(IqType::Get, "", &format!("<query xmlns='jabber:iq:roster' ver='{ver}'/>"));
            assert_eq!(asked, (told.to_owned(), vec![Effect::RosterInterested]), "{ver}");
        }
    }

    #[test]
    fn a_roster_set_refused_changes_and_pushes_nothing() {
        let owner = Client::owner();
        for index in 0..2 {
            assert_eq!(owner.set("", &item(&format!("jid='lamp{index}@b'"), "")), "");
        }
        let before = owner.ask(IqType::Get, "", ROSTER).0;
        for (attrs, refused) in [
            ("jid='lamp2@b'", Condition::ResourceConstraint),
            ("jid='lamp2@b' subscription='remove'", Condition::ItemNotFound),
            ("jid='owner@things.example'", Condition::NotAllowed),
        ] {
            let (answer, effects) = owner.ask(IqType::Set, "", &item(attrs, ""));
            assert_eq!((answer, effects), (error(refused), vec![]), "{attrs}");
        }
        assert_eq!(owner.ask(IqType::Get, "", ROSTER).0, before);
    }
}
