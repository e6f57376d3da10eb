//! An account's archive (XEP-0313 v1.1.3) and what goes into it (XEP-0441 v0.2.0), for its owner.

use plaza_core::forms::{Field, Form, FormKind, FormLimits, Kind, Submission, Values};
use plaza_core::jid::{Jid, JidRef};
use plaza_core::ns;
use plaza_core::rsm;
use plaza_core::stanza::{Condition, write_forwarded};
use plaza_core::xml::read::Node;
use plaza_core::xml::write;

use super::{Effect, Request, condition};
use crate::archive::{
    self, Addresses, ArchiveConfig, ArchiveId, Item, Mode, Prefs, Query, QueryError, load_prefs, save_prefs,
};
use crate::store::{CommitError, Store};

/// Addresses on both lists of preferences together. More than a person names one by one; beyond it a set is
/// `resource-constraint`.
const PREFS_ADDRESSES_MAX: usize = 200;
/// Bytes of all of them: a shard holds them with the account's facts. Beyond it a set is `resource-constraint`.
const PREFS_BYTES_MAX: usize = 16 * 1024;
/// Bytes written around each message of a page, beside the id its query gave it and addresses.
const RESULT_BYTES: usize = 320;

/// Whether an account has an archive.
pub(super) async fn is_there<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    config: &ArchiveConfig,
) -> Result<bool, Condition> {
    if !config.is_on() {
        return Ok(false);
    }
    let there = archive::have(store, std::iter::once(owner)).await.map_err(|error| condition(&error))?;
    Ok(there == [true])
}

/// The fields of a query (XEP-0313 §4.1.5).
fn form() -> Form<'static> {
    let ids = Kind::ListMulti { choices: Vec::new(), open: true };
    let fields = vec![
        Field::new("with", "", Kind::JidSingle),
        Field::new("start", "", Kind::DateTime),
        Field::new("end", "", Kind::DateTime),
        Field::new("before-id", "", Kind::TextSingle),
        Field::new("after-id", "", Kind::TextSingle),
        Field::new("ids", "", ids),
    ];
    Form::new(ns::MAM, fields)
}

/// What may be asked for (§4.1.5).
pub(super) fn fields() -> Vec<u8> {
    let mut out = Vec::new();
    begin(&mut out, "query");
    out.push(b'>');
    form().write(&mut out, FormKind::Form, &Values::new());
    out.extend_from_slice(b"</query>");
    out
}

/// A page of the archive: its messages as effects, then what is said about the page (§4).
///
/// # Errors
/// `item-not-found` for a message that is not there, `feature-not-implemented` for a field or a node we do not know, those
/// of a form or a page that makes no sense.
pub(super) async fn query<S: Store>(
    store: &S,
    request: &Request,
    payload: &Node,
    config: &ArchiveConfig,
    effects: &mut Vec<Effect>,
) -> Result<Vec<u8>, Condition> {
    let owner = request.caller.as_jid().bare();
    let asked = read(payload)?;
    let query_id = payload.attr("queryid");
    let around = RESULT_BYTES + query_id.map_or(0, str::len) + owner.as_str().len() + request.caller.as_str().len();
    let found = archive::query(store, owner, config, &asked, around, request.unix_millis).await.map_err(refusal)?;
    let ids =
        found.items.first().zip(found.items.last()).map(|(first, last)| (first.id.to_string(), last.id.to_string()));
    let result = |item: &Item| Effect::Message(result(owner, &request.caller, query_id, item));
    if payload.child("flip-page", ns::MAM).is_some() {
        effects.extend(found.items.iter().rev().map(result));
    } else {
        effects.extend(found.items.iter().map(result));
    }
    let mut out = Vec::new();
    begin(&mut out, "fin");
    if found.complete {
        write::attr(&mut out, "complete", "true");
    }
    out.push(b'>');
    let page = rsm::Page {
        ends: ids.as_ref().map(|(first, last)| (first.as_str(), last.as_str())),
        index: None,
        count: found.count.map(|count| count as usize),
    };
    page.write(&mut out);
    out.extend_from_slice(b"</fin>");
    Ok(out)
}

fn read(payload: &Node) -> Result<Query, Condition> {
    // Archives of nodes are those of XEP-0442.
    if payload.attr("node").is_some() {
        return Err(Condition::FeatureNotImplemented);
    }
    let page = rsm::Request::of(payload).map_err(rsm::RsmError::condition)?.unwrap_or(rsm::Request::ALL);
    let mut query = Query { page, ..Query::ALL };
    let Some(x) = payload.child("x", ns::DATA_FORMS) else { return Ok(query) };
    let submitted = match form().read(x, &FormLimits::DEFAULT) {
        Ok(Submission::Submitted(submitted)) => submitted,
        Ok(Submission::Cancelled) => return Err(Condition::BadRequest),
        Err(error) => return Err(error.condition()),
    };
    if !submitted.unknown.is_empty() {
        return Err(Condition::FeatureNotImplemented); // §4.1.5
    }
    let values = submitted.values;
    // A moment before 1970 is before every message.
    let millis = |var: &str| {
        let moment = values.date_time(var)?;
        Some(u64::try_from(moment.unix_millis()).unwrap_or(0))
    };
    // A field with an empty value is one without.
    let text = |var: &str| values.text(var).filter(|text| !text.is_empty()).map(str::to_owned);
    query.with = values.jid("with").cloned();
    (query.start, query.end) = (millis("start"), millis("end"));
    (query.before, query.after) = (text("before-id"), text("after-id"));
    query.ids = values.texts("ids").map(<[String]>::to_vec);
    Ok(query)
}

/// A message of a page (§4.2).
fn result(owner: JidRef<'_>, to: &Jid, query_id: Option<&str>, item: &Item) -> Vec<u8> {
    let mut out = Vec::with_capacity(item.stanza.len() + RESULT_BYTES);
    out.extend_from_slice(b"<message");
    write::attr(&mut out, "from", owner.as_str());
    write::attr(&mut out, "to", to.as_str());
    out.extend_from_slice(b"><result");
    write::attr(&mut out, "xmlns", ns::MAM);
    if let Some(query_id) = query_id {
        write::attr(&mut out, "queryid", query_id);
    }
    write::attr(&mut out, "id", &item.id.to_string());
    out.extend_from_slice(b"><forwarded");
    write::attr(&mut out, "xmlns", ns::FORWARD);
    out.extend_from_slice(b"><delay");
    write::attr(&mut out, "xmlns", ns::DELAY);
    write::attr(&mut out, "stamp", &item.id.moment().to_string());
    out.extend_from_slice(b"/>");
    write_forwarded(&mut out, &item.stanza);
    out.extend_from_slice(b"</forwarded></result></message>");
    out
}

/// The first and the last message (§5).
pub(super) async fn metadata<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    config: &ArchiveConfig,
    unix_millis: u64,
) -> Result<Vec<u8>, Condition> {
    let ends = archive::ends(store, owner, config, unix_millis).await.map_err(refusal)?;
    let mut out = Vec::new();
    begin(&mut out, "metadata");
    let Some((first, last)) = ends else {
        out.extend_from_slice(b"/>");
        return Ok(out);
    };
    out.push(b'>');
    let mut end = |name: &str, id: ArchiveId| {
        out.push(b'<');
        out.extend_from_slice(name.as_bytes());
        write::attr(&mut out, "id", &id.to_string());
        write::attr(&mut out, "timestamp", &id.moment().to_string());
        out.extend_from_slice(b"/>");
    };
    end("start", first);
    end("end", last);
    out.extend_from_slice(b"</metadata>");
    Ok(out)
}

/// What is archived (XEP-0441 §2.1).
pub(super) async fn prefs<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    config: &ArchiveConfig,
) -> Result<Vec<u8>, Condition> {
    let prefs = load_prefs(store, owner).await.map_err(|error| condition(&error))?;
    Ok(write_prefs(&prefs, config))
}

/// Changes what is archived.
///
/// # Errors
/// `not-allowed` for a default the operator does not allow; `bad-request`, `jid-malformed`; `resource-constraint` for lists
/// that are too long.
pub(super) async fn set_prefs<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    payload: &Node,
    config: &ArchiveConfig,
    effects: &mut Vec<Effect>,
) -> Result<Vec<u8>, Condition> {
    let default = payload.attr("default").and_then(Mode::from_name).ok_or(Condition::BadRequest)?;
    if !config.modes.has(default) {
        return Err(Condition::NotAllowed);
    }
    let list = |name: &str| -> Result<Addresses, Condition> {
        let listed = payload.child(name, ns::MAM).map_or(&[][..], |list| &list.children);
        let mut jids = Vec::new();
        for child in listed {
            if child.name != "jid" || child.ns != ns::MAM {
                return Err(Condition::BadRequest);
            }
            jids.push(Jid::parse(child.text.trim()).map_err(|_| Condition::JidMalformed)?);
        }
        Ok(Addresses::new(jids))
    };
    let prefs = Prefs { default: Some(default), always: list("always")?, never: list("never")? };
    if prefs.always.len() + prefs.never.len() > PREFS_ADDRESSES_MAX || prefs.heap_bytes() > PREFS_BYTES_MAX {
        return Err(Condition::ResourceConstraint);
    }
    save_prefs(store, owner, &prefs).await.map_err(|error| match error {
        CommitError::Guard(_) => Condition::ServiceUnavailable,
        CommitError::Store(error) => condition(&error),
    })?;
    let answer = write_prefs(&prefs, config);
    effects.push(Effect::ArchivePrefs(Box::new(prefs)));
    Ok(answer)
}

fn write_prefs(prefs: &Prefs, config: &ArchiveConfig) -> Vec<u8> {
    let mut out = Vec::new();
    begin(&mut out, "prefs");
    write::attr(&mut out, "default", prefs.mode(config).name());
    out.push(b'>');
    for (name, list) in [("always", &prefs.always), ("never", &prefs.never)] {
        out.push(b'<');
        out.extend_from_slice(name.as_bytes());
        out.push(b'>');
        for jid in list.iter() {
            out.extend_from_slice(b"<jid>");
            write::text(&mut out, jid.as_str());
            out.extend_from_slice(b"</jid>");
        }
        out.extend_from_slice(b"</");
        out.extend_from_slice(name.as_bytes());
        out.push(b'>');
    }
    out.extend_from_slice(b"</prefs>");
    out
}

fn begin(out: &mut Vec<u8>, name: &str) {
    out.push(b'<');
    out.extend_from_slice(name.as_bytes());
    write::attr(out, "xmlns", ns::MAM);
}

fn refusal(error: QueryError) -> Condition {
    match error {
        QueryError::NotFound => Condition::ItemNotFound,
        QueryError::Unsupported => Condition::FeatureNotImplemented,
        QueryError::NoArchive => Condition::ServiceUnavailable,
        QueryError::Store(error) => condition(&error),
    }
}

#[cfg(test)]
mod tests {
    use plaza_core::stanza::IqType;

    use super::super::testing::{Client, error};
    use super::*;
    use crate::archive::{ArchiveLimits, Entry, Modes};
    use crate::testing::jid;
    use crate::wait::block_on;

    const NOW: u64 = 1_767_323_045_000;
    const DISCO: &str = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
    const METADATA: &str = "<metadata xmlns='urn:xmpp:mam:2'/>";

    /// The owner of an account with an archive, and the ids of messages in it: one a second until now.
    fn client(messages: u64) -> (Client, Vec<String>) {
        let mut client = Client::owner();
        let limits = ArchiveLimits { page_max: 3, ..ArchiveLimits::default() };
        client.config.archive = ArchiveConfig { modes: Modes::of(&[Mode::Roster]), limits, ..ArchiveConfig::default() };
        let owner = client.jid.bare();
        block_on(archive::allow(&client.store, owner.as_jid())).unwrap();
        let ids = (1..=messages).map(|index| {
            let stanza = format!("<message from='a@x/1'><body>{index}</body></message>").into_bytes().into();
            let entry = Entry { with: "a@x/1".into(), stanza };
            let at = NOW - (messages - index) * 1_000;
            let ids = block_on(archive::store(&client.store, owner.as_jid(), &client.config.archive, &[entry], at));
            ids.unwrap()[0].unwrap().to_string()
        });
        let ids = ids.collect();
        (client, ids)
    }

    /// The bodies sent before the answer, and the answer.
    fn asked(client: &Client, inside: &str) -> (Vec<String>, String) {
        let (answer, effects) = client.ask(IqType::Set, "", &format!("<query xmlns='urn:xmpp:mam:2'>{inside}</query>"));
        let body = |effect: &Effect| {
            let Effect::Message(stanza) = effect else { panic!("{effect:?}") };
            let stanza = std::str::from_utf8(stanza).unwrap();
            stanza.split_once("<body>").unwrap().1.split_once("</body>").unwrap().0.to_owned()
        };
        (effects.iter().map(body).collect(), answer)
    }

    fn form(fields: &[(&str, &str)]) -> String {
        let field = |(var, value): &(&str, &str)| format!("<field var='{var}'><value>{value}</value></field>");
        let fields: String = fields.iter().map(field).collect();
        format!(
            "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>urn:xmpp:mam:2</value></field>{fields}</x>"
        )
    }

    fn set(inside: &str) -> String {
        format!("<set xmlns='http://jabber.org/protocol/rsm'>{inside}</set>")
    }

    #[test]
    fn a_message_is_given_as_it_was_with_its_id_and_time() {
        let (client, ids) = client(1);
        let (answer, effects) = client.ask(IqType::Set, "", "<query xmlns='urn:xmpp:mam:2' queryid='q&apos;1'/>");
        let id = &ids[0];
        let expected = format!(
            "<message from='owner@things.example' to='owner@things.example/desk'>\
             <result xmlns='urn:xmpp:mam:2' queryid='q&apos;1' id='{id}'><forwarded xmlns='urn:xmpp:forward:0'>\
             <delay xmlns='urn:xmpp:delay' stamp='2026-01-02T03:04:05.000Z'/>\
             <message xmlns='jabber:client' from='a@x/1'><body>1</body></message></forwarded></result></message>"
        );
        assert_eq!(effects, [Effect::Message(expected.into_bytes())]);
        assert_eq!(
            answer,
            format!(
                "<fin xmlns='urn:xmpp:mam:2' complete='true'><set xmlns='http://jabber.org/protocol/rsm'>\
                 <first>{id}</first><last>{id}</last><count>1</count></set></fin>"
            )
        );
        let ends = format!("id='{id}' timestamp='2026-01-02T03:04:05.000Z'/>");
        assert_eq!(
            client.get("", METADATA),
            format!("<metadata xmlns='urn:xmpp:mam:2'><start {ends}<end {ends}</metadata>")
        );
    }

    #[test]
    fn an_empty_archive_has_no_ends() {
        let (client, _) = client(0);
        assert_eq!(client.get("owner@things.example", METADATA), "<metadata xmlns='urn:xmpp:mam:2'/>");
        let fin = "<fin xmlns='urn:xmpp:mam:2' complete='true'><set xmlns='http://jabber.org/protocol/rsm'><count>0</count></set></fin>";
        assert_eq!(asked(&client, ""), (Vec::new(), fin.to_owned()));
    }

    #[test]
    fn pages_are_bounded_and_may_be_flipped() {
        let (client, ids) = client(5);
        let (bodies, fin) = asked(&client, &set("<max>100</max>"));
        assert_eq!(bodies, ["1", "2", "3"]);
        assert!(fin.starts_with("<fin xmlns='urn:xmpp:mam:2'><set"), "{fin}");
        assert!(fin.contains(&format!("<first>{}</first><last>{}</last><count>5</count>", ids[0], ids[2])), "{fin}");
        let (bodies, fin) = asked(&client, &format!("{}<flip-page/>", set("<max>2</max><before/>")));
        assert_eq!(bodies, ["5", "4"]);
        assert!(fin.contains(&format!("<first>{}</first><last>{}</last>", ids[3], ids[4])), "{fin}");
        let (bodies, fin) = asked(&client, &set(&format!("<after>{}</after>", ids[2])));
        assert_eq!((bodies, fin.contains("complete='true'")), (vec!["4".to_owned(), "5".to_owned()], true));
    }

    #[test]
    fn the_forms_fields_filter() {
        let (client, ids) = client(5);
        let check = |fields: &[(&str, &str)], expected: &[&str]| {
            assert_eq!(asked(&client, &form(fields)).0, expected, "{fields:?}");
        };
        check(&[("with", "A@x")], &["1", "2", "3"]);
        check(&[("with", "b@x")], &[]);
        check(&[("with", "")], &["1", "2", "3"]);
        check(&[("start", "2026-01-02T03:04:04Z")], &["4", "5"]);
        check(&[("end", "2026-01-02T03:04:02Z"), ("start", "1960-01-01T00:00:00Z")], &["1", "2"]);
        check(&[("after-id", &ids[0]), ("before-id", &ids[2])], &["2"]);
        check(&[("ids", &ids[3])], &["4"]);
        let fields = client.get("", "<query xmlns='urn:xmpp:mam:2'/>");
        for field in ["with' type='jid-single'", "start' type='text-single'", "ids' type='list-multi'"] {
            assert!(fields.contains(&format!("<field var='{field}")), "{fields}");
        }
        assert!(
            fields.contains("<validate xmlns='http://jabber.org/protocol/xdata-validate' datatype='xs:string'><open/>")
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_condition() {
        let (client, ids) = client(2);
        let check =
            |inside: &str, condition| assert_eq!(asked(&client, inside), (Vec::new(), error(condition)), "{inside}");
        check(&form(&[("{urn:x}search", "x")]), Condition::FeatureNotImplemented);
        check(&form(&[("include-groupchat", "true")]), Condition::FeatureNotImplemented);
        check(&form(&[("with", "a b@")]), Condition::NotAcceptable);
        check(&form(&[("start", "yesterday")]), Condition::NotAcceptable);
        check(&form(&[("ids", "0000000000000000")]), Condition::ItemNotFound);
        check(&form(&[("after-id", "x")]), Condition::ItemNotFound);
        check("<x xmlns='jabber:x:data' type='submit'/>", Condition::BadRequest);
        check(&set("<after>unknown</after>"), Condition::ItemNotFound);
        check(&set("<max>many</max>"), Condition::BadRequest);
        check(&set(&format!("<after>{0}</after><before>{0}</before>", ids[0])), Condition::BadRequest);
        check(&set("<index>1</index>"), Condition::FeatureNotImplemented);
        let node = client.set("", "<query xmlns='urn:xmpp:mam:2' node='n'/>");
        assert_eq!(node, error(Condition::FeatureNotImplemented));
        assert_eq!(client.set("", METADATA), error(Condition::FeatureNotImplemented));
    }

    #[test]
    fn preferences_are_kept_and_shown_as_they_hold() {
        let (client, _) = client(0);
        let none = "<prefs xmlns='urn:xmpp:mam:2' default='never'><always></always><never></never></prefs>";
        assert_eq!(client.get("", "<prefs xmlns='urn:xmpp:mam:2'/>"), none);
        let wanted = "<prefs xmlns='urn:xmpp:mam:2' default='roster'><always><jid>a@x</jid></always>\
                      <never><jid>b@x</jid><jid>c@x/R</jid></never></prefs>";
        let sloppy = "<prefs xmlns='urn:xmpp:mam:2' default='roster'><never><jid>c@x/R</jid><jid> B@x </jid><jid>b@x</jid>\
                      </never><always><jid>a@x</jid></always></prefs>";
        let (answer, effects) = client.ask(IqType::Set, "", sloppy);
        assert_eq!(answer, wanted);
        let [Effect::ArchivePrefs(prefs)] = &*effects else { panic!("{effects:?}") };
        assert_eq!((prefs.default, prefs.never.len()), (Some(Mode::Roster), 2));
        assert_eq!(client.get("", "<prefs xmlns='urn:xmpp:mam:2'/>"), wanted);
        let refused = |default: &str, inside: &str, condition| {
            let prefs = format!("<prefs xmlns='urn:xmpp:mam:2'{default}>{inside}</prefs>");
            assert_eq!(client.ask(IqType::Set, "", &prefs), (error(condition), Vec::new()), "{prefs}");
        };
        refused(" default='always'", "", Condition::NotAllowed);
        refused(" default='x'", "", Condition::BadRequest);
        refused("", "", Condition::BadRequest);
        refused(" default='never'", "<always><jid>@</jid></always>", Condition::JidMalformed);
        refused(" default='never'", "<always><x/></always>", Condition::BadRequest);
        let many: String = (0..=PREFS_ADDRESSES_MAX).map(|index| format!("<jid>a{index}@x</jid>")).collect();
        refused(" default='never'", &format!("<never>{many}</never>"), Condition::ResourceConstraint);
        assert_eq!(client.get("", "<prefs xmlns='urn:xmpp:mam:2'/>"), wanted);
    }

    #[test]
    fn an_archive_is_its_owners_alone_and_shows_only_where_it_is() {
        let (client, _) = client(1);
        assert!(
            client.get("", DISCO).contains("<feature var='urn:xmpp:mam:2'/><feature var='urn:xmpp:mam:2#extended'/>")
        );
        assert!(client.get("", DISCO).contains("<feature var='urn:xmpp:sid:0'/>"));
        assert!(!client.get("things.example", DISCO).contains("urn:xmpp:mam:2"));
        let payloads = ["<query xmlns='urn:xmpp:mam:2'/>", METADATA, "<prefs xmlns='urn:xmpp:mam:2' default='never'/>"];
        let other = client.other(true);
        assert!(!other.get("owner@things.example", DISCO).contains("urn:xmpp:mam:2"));
        let check = |client: &Client, to: &str, expected: &str| {
            for (payload, iq_type) in
                payloads.iter().flat_map(|payload| [(payload, IqType::Get), (payload, IqType::Set)])
            {
                assert_eq!(client.ask(iq_type, to, payload), (expected.to_owned(), Vec::new()), "{to} {payload}");
            }
        };
        check(&other, "owner@things.example", &error(Condition::Forbidden));
        check(&other, "nobody@things.example", &error(Condition::Forbidden));
        check(&client, "things.example", &error(Condition::ServiceUnavailable));
        let mut off = client.clone();
        off.config.archive = ArchiveConfig::default();
        block_on(archive::forbid(&client.store, jid("owner@things.example").as_jid())).unwrap();
        for client in [client, off] {
            check(&client, "", &error(Condition::ServiceUnavailable));
            assert!(
                !client.get("", DISCO).contains("urn:xmpp:mam:2") && !client.get("", DISCO).contains("urn:xmpp:sid:0")
            );
        }
    }
}
