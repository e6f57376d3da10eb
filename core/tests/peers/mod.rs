//! What peers send to the services, read as the services read it: nothing panics, every bound holds, and what was understood
//! is written so that it is understood as the same. For the fuzz targets, and for the properties that run without them.

use plaza_core::adhoc::{Answer, Command};
use plaza_core::caps::{Caps, HashFunction, Info, Ver};
use plaza_core::date::{Date, DateTime, Time};
use plaza_core::forms::{Choice, Field, Form, FormKind, FormLimits, Kind, Submission};
use plaza_core::iot::Generation;
use plaza_core::jid::Jid;
use plaza_core::limits::ScanLimits;
use plaza_core::provisioning::{
    self, CELLS_MAX, NAMES_MAX, NODES_MAX, OwnerRequest, Permission, Query, TokenRequest, read_token_challenge_response,
};
use plaza_core::register::{Asked, Offer};
use plaza_core::rsm::{self, Page};
use plaza_core::signed::{self, Fields};
use plaza_core::sm::{self, Enable, Resume, SmId, acknowledged};
use plaza_core::stanza::IqType;
use plaza_core::thing::uri::{URI_BYTES_MAX, Uri, UriError};
use plaza_core::thing::wire::{self, OPERATORS_MAX, Request, TAG_BYTES_MAX, TAGS_MAX, Tags};
use plaza_core::thing::{NodeName, TagValue};
use plaza_core::xml::read::Node;
use plaza_core::xml::{Scanned, Scanner, StreamNamespaces};

/// A reader of the peers' words, with its name: that of the fuzz target, and of the folder its seeds are in.
pub(crate) type Reader = (&'static str, fn(&str));

/// All of them.
#[allow(dead_code, reason = "a fuzz target has one of them")]
pub(crate) const READERS: [Reader; 10] = [
    ("thing", thing),
    ("uri", uri),
    ("provisioning", provisioning),
    ("register", register),
    ("forms", forms),
    ("rsm", rsm),
    ("date", date),
    ("sm", sm),
    ("caps", caps),
    ("adhoc", adhoc),
];

/// The text of an element that a stream lets through; `None` for anything else.
fn element(text: &str) -> Option<&str> {
    let (mut scanner, ns) = (Scanner::new(), StreamNamespaces::default());
    match scanner.next(&ScanLimits::AFTER_AUTH, &ns, text.as_bytes()) {
        Ok(Scanned::Element { consumed, .. }) => text.get(..consumed).map(str::trim_ascii_start),
        Ok(Scanned::Incomplete { .. } | Scanned::Close { .. }) | Err(_) => None,
    }
}

fn node(text: &str) -> Option<Node> {
    Node::parse(element(text)?, "jabber:client")
}

/// What we wrote, read again.
fn again(out: &[u8]) -> Node {
    let text = str::from_utf8(out).expect("what is written is UTF-8");
    node(text).unwrap_or_else(|| panic!("not well-formed: {text}"))
}

/// Requests of the Thing Registry (XEP-0347).
pub(crate) fn thing(text: &str) {
    let Some(payload) = node(text) else { return };
    for iq_type in [IqType::Get, IqType::Set] {
        let Some((style, Ok(request))) = Request::read(&payload, iq_type) else { continue };
        match request {
            Request::Register { node, tags, .. }
            | Request::Mine { node, tags, .. }
            | Request::Update { node, tags, .. } => {
                told(style, &node, &tags);
            }
            Request::Search(search) => {
                assert!((1..=OPERATORS_MAX).contains(&search.operators.len()));
                assert_ne!(search.max, Some(0));
            }
            Request::Remove { .. } | Request::Unregister { .. } | Request::Disown { .. } => {}
        }
    }
}

/// A thing is told of with the node and the tags that it said.
fn told(style: wire::Style, name: &NodeName, tags: &Tags) {
    let bytes = |value: &TagValue| match value {
        TagValue::Str(text) => text.len(),
        TagValue::Num(_) => size_of::<f64>(),
    };
    assert!(tags.list.len() <= TAGS_MAX);
    assert!(tags.list.iter().map(|tag| tag.name.len() + bytes(&tag.value)).sum::<usize>() <= TAG_BYTES_MAX);
    let (jid, mut out) = (Jid::parse("thing@things.example").expect("an address"), Vec::new());
    wire::begin_found(&mut out, style, false);
    wire::thing(&mut out, style, jid.as_jid(), name, None, &tags.list);
    wire::end_found(&mut out);
    let found = again(&out);
    let thing = found.children.first().expect("the thing");
    assert_eq!(wire::read_node(thing).map(|node| node.name).as_ref(), Ok(name));
    assert_eq!(thing.children.len(), tags.list.len());
    for (said, tag) in thing.children.iter().zip(&tags.list) {
        let value = said.attr("value").expect("a value");
        assert_eq!(said.attr("name"), Some(&*tag.name));
        match &tag.value {
            TagValue::Str(text) => assert_eq!((&*said.name, value), ("str", &**text)),
            TagValue::Num(number) => {
                assert_eq!((&*said.name, value.parse::<f64>().map(f64::to_bits)), ("num", Ok(number.to_bits())));
            }
        }
    }
}

/// URIs on labels: what is read is written as a text that reads as the same.
pub(crate) fn uri(text: &str) {
    let Ok(uri) = Uri::parse(text) else { return };
    match uri.to_text() {
        Ok(written) => {
            assert!(written.len() <= URI_BYTES_MAX && written.is_ascii());
            assert_eq!(Uri::parse(&written).as_ref(), Ok(&uri));
            assert_eq!(uri.to_text().as_ref(), Ok(&written));
        }
        // Escapes take room.
        Err(error) => assert_eq!(error, UriError::TooLong, "{uri:?}"),
    }
}

/// What devices and owners ask of provisioning, and what is asked of devices (XEP-0324, XEP-0323, XEP-0325).
pub(crate) fn provisioning(text: &str) {
    let Some(payload) = element(text) else { return };
    let mut scanner = Scanner::new();
    if let Ok(query) = Query::read(&mut scanner, payload) {
        assert!(query.nodes.len() <= NODES_MAX && query.names.len() <= NAMES_MAX);
        assert!(query.nodes.len().max(1) * query.names.len().max(1) <= CELLS_MAX);
        assert!(!query.asker().as_str().is_empty());
        let names: Vec<&str> = query.names.iter().map(|name| &**name).collect();
        let all = Permission {
            nodes: (0..query.nodes.len()).collect(),
            categories: query.categories(),
            names: (!names.is_empty()).then_some(names),
        };
        for permission in [None, Some(&all)] {
            let mut out = Vec::new();
            query.write_answer(&mut out, permission);
            let answer = again(&out);
            let result = if permission.is_some() { "true" } else { "false" };
            assert_eq!(answer.attr("result"), Some(result), "{answer:?}");
            // Names that were spelt in both ways are answered in both.
            let most = if permission.is_some() { query.nodes.len() + 2 * query.names.len() } else { 0 };
            assert!(answer.children.len() <= most, "{answer:?}");
        }
    }
    let mut scanner = Scanner::new();
    if let Ok(Some(request)) = provisioning::Request::read(&mut scanner, payload) {
        assert!(request.nodes.len().max(1) * request.names.len().max(1) <= CELLS_MAX);
        assert!(!request.categories.is_empty());
    }
    let Some(payload) = Node::parse(payload, "jabber:client") else { return };
    let _ = TokenRequest::read(&payload);
    let _ = read_token_challenge_response(&payload);
    for iq_type in [IqType::Get, IqType::Set, IqType::Result, IqType::Error] {
        if let Ok(OwnerRequest::Rule(rule)) = OwnerRequest::read(iq_type, &payload) {
            assert!(!rule.key.is_empty() && iq_type == IqType::Set);
            let mut out = Vec::new();
            provisioning::write_recommendation(&mut out, Generation::DEFAULT, rule.allow, rule.remote.as_str());
            assert_eq!(again(&out).attr("jid"), Some(rule.remote.as_str()));
        }
    }
}

/// Registrations, signed and not (XEP-0077, XEP-0348). Without the secret no signature is right, with it each is.
pub(crate) fn register(text: &str) {
    let Some(query) = node(text) else { return };
    if let Some(x) = query.children.iter().find(|child| child.name == "x")
        && let Ok(fields) = Fields::read(x)
    {
        let secrets = ("of the maker", "of the form");
        assert!(!signed::verify(&fields, &["", "things.example"], secrets));
        if let Some(signature) = signed::sign(&fields, "", secrets) {
            let fields = fields.with(signed::SIGNATURE, &signature);
            assert!(signed::verify(&fields, &["", "things.example"], secrets), "{fields:?}");
            assert!(!signed::verify(&fields, &["", "things.example"], ("of the maker", "of another form")));
        }
    }
    let Ok(Asked::Account(claim)) = Asked::read(&query) else { return };
    for unsigned in [false, true] {
        // The token of the seeds' forms: 16 bytes 0x11.
        let offer = Offer::new(&[0x11; 32]);
        let checked = claim.clone().check("things.example", None, Some(offer), unsigned);
        let Ok(registration) = checked else { continue };
        let account = registration.account.as_jid();
        assert_eq!(account.domain(), "things.example");
        assert!(account.local().is_some() && account.resource().is_none());
        assert!(unsigned || registration.signed.is_some());
        if let Some(signed) = registration.signed {
            assert!(!signed.nonce.is_empty() && !signed.consumer_key.is_empty());
            assert!(!signed.is_signed_with("a secret nobody has"));
        }
    }
}

/// A form with every kind of field.
fn form() -> Form<'static> {
    let choice = |value| Choice { value, label: "" };
    Form::new(
        "urn:example:form",
        vec![
            Field::fixed("About"),
            Field::new("yes", "", Kind::Boolean),
            Field::new("hidden", "", Kind::Hidden),
            Field::new("jid", "", Kind::JidSingle),
            Field::new("jids", "", Kind::JidMulti),
            Field::new("one", "", Kind::one_of(&["a", "b"])),
            Field::new("open", "", Kind::ListSingle { choices: vec![choice("a")], open: true }),
            Field::new("some", "", Kind::some_of(&["a", "b", "c"])),
            Field::new("tags", "", Kind::ListMulti { choices: vec![choice("a")], open: true }),
            Field::new("lines", "", Kind::TextMulti),
            Field::new("secret", "", Kind::TextPrivate),
            Field::new("text", "", Kind::TextSingle),
            Field::new("number", "", Kind::Integer { min: -5, max: 100 }),
            Field::new("most", "", Kind::IntegerOrMax { min: 1, max: 10 }),
            Field::new("until", "", Kind::DateTime),
        ],
    )
}

/// Data forms (XEP-0004, XEP-0122): what was submitted is submitted again as the same.
pub(crate) fn forms(text: &str) {
    let Some(x) = node(text) else { return };
    let form = form();
    let Ok(Submission::Submitted(submitted)) = form.read(&x, &FormLimits::DEFAULT) else { return };
    for var in &submitted.unknown {
        assert!(form.field(var).is_none());
    }
    for (var, _) in submitted.values.iter() {
        assert!(form.field(var).is_some());
    }
    let mut out = Vec::new();
    form.write(&mut out, FormKind::Submit, &submitted.values);
    let written = String::from_utf8_lossy(&out);
    let Ok(Submission::Submitted(read)) = form.read(&again(&out), &FormLimits::DEFAULT) else { panic!("{written}") };
    // They are written in the order of the form.
    assert_eq!(read.values.iter().len(), submitted.values.iter().len(), "{written}");
    for (var, value) in submitted.values.iter() {
        assert_eq!(read.values.get(var), Some(value), "{written}");
    }
    for kind in [FormKind::Form, FormKind::Result] {
        let mut out = Vec::new();
        form.write(&mut out, kind, &submitted.values);
        again(&out);
    }
}

/// Pages of results (XEP-0059): a page lies in the list, is no longer than it may be, and is told of.
pub(crate) fn rsm(text: &str) {
    let Some(payload) = node(text) else { return };
    let Ok(Some(request)) = rsm::Request::of(&payload) else { return };
    let _ = request.forwards();
    for count in [0, 1, 7, 1_000] {
        let ids: Vec<String> = (0..count).map(|at: usize| format!("id {at} <&>")).collect();
        let position = |id: &str| id.strip_prefix("id ")?.split(' ').next()?.parse().ok();
        for page_max in [1, 5, usize::MAX] {
            let Ok(page) = request.page(count, position, page_max) else { continue };
            assert!(page.start <= page.end && page.end <= count && page.len() <= request.page_len(page_max));
            let items = ids.get(page.clone()).expect("a page lies in the list");
            let ends = items.first().map(String::as_str).zip(items.last().map(String::as_str));
            let mut out = Vec::new();
            Page { ends, index: Some(page.start), count: Some(count) }.write(&mut out);
            let set = again(&out);
            let told = |name| set.child(name, &set.ns).map(|child| child.text.as_str());
            assert_eq!(told("first").zip(told("last")), ends);
        }
    }
}

/// Dates and times (XEP-0082): what is read is written as what reads as the same.
pub(crate) fn date(text: &str) {
    if let Some(moment) = DateTime::parse(text) {
        let written = moment.to_string();
        assert_eq!((written.len(), DateTime::parse(&written)), (24, Some(moment)));
    }
    if let Some(date) = Date::parse(text) {
        assert_eq!(Date::parse(&date.to_string()), Some(date));
    }
    if let Some(time) = Time::parse(text) {
        assert_eq!(Time::parse(&time.to_string()), Some(time));
    }
}

/// Stream management (XEP-0198): an element says the same by itself and within another, an id has one spelling, and nothing is
/// acknowledged that was not sent.
pub(crate) fn sm(text: &str) {
    let (mut scanner, ns) = (Scanner::new(), StreamNamespaces::default());
    let scanned = scanner.next(&ScanLimits::AFTER_AUTH, &ns, text.as_bytes());
    let Ok(Scanned::Element { element, .. }) = scanned else { return };
    let Ok(Some(request)) = sm::Request::read(&element) else { return };
    let node = node(text).expect("an element");
    match request {
        sm::Request::Enable(enable) => {
            assert_eq!(Enable::read(&node), Ok(enable));
            assert_ne!(enable.max, Some(0));
        }
        sm::Request::Resume(resume) => {
            assert_eq!(Resume::read(&node).as_ref(), Ok(&resume));
            if let Some(id) = SmId::parse(&resume.previd) {
                assert_eq!(id.to_string(), resume.previd);
            }
        }
        sm::Request::Handled(h) => {
            for (acked, sent) in [(0, 0), (0, 100), (u32::MAX - 5, 5), (h, h), (h.wrapping_sub(3), h.wrapping_add(2))] {
                if let Ok(fresh) = acknowledged(acked, sent, h) {
                    assert_eq!(acked.wrapping_add(fresh), h);
                    assert!(fresh <= sent.wrapping_sub(acked));
                }
            }
        }
        sm::Request::Count => {}
    }
}

/// Capabilities (XEP-0115): those of a presence are written as they were read, and an answer's hash does not depend on its order.
pub(crate) fn caps(text: &str) {
    let (mut scanner, ns) = (Scanner::new(), StreamNamespaces::default());
    let scanned = scanner.next(&ScanLimits::AFTER_AUTH, &ns, text.as_bytes());
    let Ok(Scanned::Element { element, .. }) = scanned else { return };
    let said: Vec<Caps> = element.children().filter_map(|child| Caps::read(&child)).collect();
    for caps in said {
        let mut out = b"<presence>".to_vec();
        caps.write(&mut out);
        out.extend_from_slice(b"</presence>");
        let scanned = scanner.next(&ScanLimits::AFTER_AUTH, &ns, &out);
        let Ok(Scanned::Element { element, .. }) = scanned else { panic!("{caps:?} is not written well") };
        assert_eq!(element.first_child().and_then(|child| Caps::read(&child)).as_ref(), Some(&caps));
        if let Some(ver) = caps.ver() {
            assert_eq!(ver.to_string(), *caps.ver);
        }
    }
    let Some(mut query) = node(text) else { return };
    let Ok(info) = Info::read(&query) else { return };
    for hash in [HashFunction::Sha1, HashFunction::Sha256] {
        let ver = info.ver(hash);
        assert_eq!(Ver::parse(hash.name(), &ver.to_string()), Some(ver));
    }
    assert!(info.notified().iter().map(|node| node.len()).sum::<usize>() <= info.verification_string().len());
    query.children.reverse();
    assert_eq!(Info::read(&query), Ok(info));
}

/// Commands (XEP-0050): what is answered names the command that was asked for, and its session.
pub(crate) fn adhoc(text: &str) {
    let Some(payload) = node(text) else { return };
    let Ok(command) = Command::read(&payload) else { return };
    let _ = command.stage();
    let form = form();
    let values = match payload.children.iter().find_map(|x| form.read(x, &FormLimits::DEFAULT).ok()) {
        Some(Submission::Submitted(submitted)) => submitted.values,
        Some(Submission::Cancelled) | None => Default::default(),
    };
    for answer in
        [Answer::Asks(&form, &values), Answer::Completed(Some((&form, &values)), command.node), Answer::Canceled]
    {
        let written = again(&command.answer(7, &answer));
        assert_eq!(written.attr("node"), Some(command.node));
        let session = written.attr("sessionid");
        assert!(if command.session.is_some() { session == command.session } else { session.is_some() });
        let next = Command::read(&written).expect("an answer names its command");
        assert_eq!((next.node, next.session), (command.node, session));
    }
}
