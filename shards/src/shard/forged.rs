//! What only the broker may say: elements in a client's stanza that claim to be of one of our domains, or of an account
//! on it, are taken out before the stanza goes anywhere (XEP-0359 v0.7.0 §3, XEP-0203 v2.0 §5, XEP-0421 v1.0.1 §4).
//!
//! All copies go, so that a recipient may believe the one the broker adds. Children of the stanza alone are looked at:
//! what is forwarded inside speaks for whoever forwards it.

use plaza_core::jid::{Jid, ParsedJid};
use plaza_core::limits::ScanLimits;
use plaza_core::ns;
use plaza_core::rules::DomainKind;
use plaza_core::stanza::Kind;
use plaza_core::xml::{Child, Element, Scanned};

use super::{Flow, SessionId, Shard};
use crate::metrics::DropReason;

/// Whether an element is of a kind that says who vouches for something: all that nearly every stanza is asked.
fn vouches(child: &Child<'_>) -> bool {
    matches!(child.ns, ns::DELAY | ns::STANZA_IDS | ns::OCCUPANT_IDS)
}

impl Shard {
    /// Takes a stanza without what it forges; `None` if it forges nothing.
    pub(super) fn take_without_forged(
        &mut self,
        id: SessionId,
        kind: Kind,
        from: &Jid,
        element: &Element<'_>,
    ) -> Option<Flow> {
        // None of these means anything in an iq, whose payload is its only child.
        let is_forged = |child: &Child<'_>| vouches(child) && self.is_forged(element, child, from);
        if kind == Kind::Iq || !element.children().any(|child| is_forged(&child)) {
            return None;
        }
        let (mut rest, mut forged) = (Vec::new(), 0);
        element.write_without(&mut rest, |child| {
            let out = is_forged(child);
            forged += u64::from(out);
            out
        });
        let flow = self.take_again(id, &rest);
        if flow != Flow::Stalled {
            self.counters.forged += forged;
        }
        Some(flow)
    }

    /// What is left is an element as its session might have sent it.
    fn take_again(&mut self, id: SessionId, rest: &[u8]) -> Flow {
        let namespaces = self.stream_namespaces(id).cloned().unwrap_or_default();
        let mut scanner = std::mem::take(&mut self.scanner);
        scanner.reset();
        let flow = match scanner.next(&ScanLimits::SCANNED, &namespaces, rest) {
            Ok(Scanned::Element { element, .. }) => self.take_stanza(id, element),
            Ok(_) | Err(_) => self.ignore(DropReason::Unhandled),
        };
        self.scanner = scanner;
        flow
    }

    /// Whether an element says something in our name. A delay that a session puts its own full JID to is its own word, as
    /// is one that names nobody.
    fn is_forged(&self, element: &Element<'_>, child: &Child<'_>, from: &Jid) -> bool {
        let attr = match child.ns {
            ns::DELAY if child.name == "delay" => "from",
            ns::STANZA_IDS if matches!(child.name, "stanza-id" | "origin-id") => "by",
            // Rooms alone make them: a client has none to give (XEP-0421 §4).
            ns::OCCUPANT_IDS => return true,
            _ => return false,
        };
        // Names stand in a tag as they are: most ids have no such attribute, and need no reading.
        if !child.raw.contains(attr) {
            return false;
        }
        let Some(node) = element.read(child) else { return false };
        let Some(text) = node.attr(attr) else { return false };
        let Ok(parsed) = ParsedJid::parse(text) else { return false };
        let named = parsed.as_jid();
        let own_word = child.ns == ns::DELAY && named == from.as_jid();
        !own_word && self.domain_kind(named.domain()) == DomainKind::Local
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bind, feed, shards};
    use super::*;

    const OURS: [&str; 6] = [
        "things.example",
        "THINGS.example",
        "lamp@things.example",
        "owner@things.example",
        "owner@things.example/r",
        "x@things.&#101;xample/y",
    ];

    /// What becomes of a stanza's content on its way from `owner/r` to `lamp/r`.
    fn arrives(stanza: &str, content: &str) -> (String, u64) {
        let (mut shards, _) = shards(1);
        let shard = &mut shards[0];
        let lamp = bind(shard, "lamp@things.example", "r");
        let owner = bind(shard, "owner@things.example", "r");
        let sent = format!("<{stanza} to='lamp@things.example/r'>{content}</{stanza}>");
        assert_eq!(feed(shard, owner, &sent), Flow::Continue);
        let said = String::from_utf8(shard.take_outbox(lamp)).unwrap();
        let start = format!("<{stanza} to='lamp@things.example/r' from='owner@things.example/r'>");
        let content = said.strip_prefix(&start).and_then(|rest| rest.strip_suffix(&format!("</{stanza}>")));
        (content.unwrap_or_else(|| panic!("{said}")).to_owned(), shard.counters.forged)
    }

    fn check(stanza: &str, content: &str, expected: &str, forged: u64) {
        assert_eq!(arrives(stanza, content), (expected.to_owned(), forged), "{content}");
    }

    #[test]
    fn what_claims_to_be_ours_is_taken_out_all_copies_of_it() {
        for (index, by) in OURS.iter().enumerate() {
            let id = format!("<stanza-id xmlns='urn:xmpp:sid:0' id='1' by='{by}'/>");
            check(
                "message",
                &format!("<body>a</body>{id}<thread>t</thread>{id}"),
                "<body>a</body><thread>t</thread>",
                2,
            );
            let origin = format!("<s:origin-id xmlns:s='urn:xmpp:sid:0' id='1' by=\"{by}\"><s:x/></s:origin-id>");
            check("message", &format!("{origin}<body>a</body>"), "<body>a</body>", 1);
            let delay = format!("<delay xmlns='urn:xmpp:delay' from='{by}' stamp='2026-01-02T03:04:05Z'>late</delay>");
            if index != 4 {
                check("message", &format!("{delay}{id}<body/>{delay}"), "<body/>", 3);
                check("presence", &format!("<show>away</show>{delay}"), "<show>away</show>", 1);
            }
        }
        check("message", "<occupant-id xmlns='urn:xmpp:occupant-id:0' id='1'/><body/>", "<body/>", 1);
    }

    #[test]
    fn what_speaks_for_others_or_for_the_sender_stays() {
        for kept in [
            "<stanza-id xmlns='urn:xmpp:sid:0' id='1' by='room@elsewhere.example'/>",
            "<stanza-id xmlns='urn:xmpp:sid:0' id='1' by='a b'/>",
            "<stanza-id xmlns='urn:xmpp:sid:0' id='1'/>",
            "<origin-id xmlns='urn:xmpp:sid:0' id='1'/>",
            "<referenced-stanza xmlns='urn:xmpp:sid:0' id='1' by='things.example'/>",
            "<delay xmlns='urn:xmpp:delay' stamp='2026-01-02T03:04:05Z'/>",
            "<delay xmlns='urn:xmpp:delay' from='elsewhere.example' stamp='2026-01-02T03:04:05Z'/>",
            "<delay xmlns='urn:xmpp:delay' from='owner@things.example/r' stamp='2026-01-02T03:04:05Z'/>",
            "<delay xmlns='urn:x' from='things.example'/>",
            "<x xmlns='urn:x'><delay xmlns='urn:xmpp:delay' from='things.example'/></x>",
        ] {
            check("message", &format!("<body>a</body>{kept}"), &format!("<body>a</body>{kept}"), 0);
        }
        // Beside what is forged, all of the rest stays as it is.
        let forged = "<stanza-id xmlns='urn:xmpp:sid:0' id='1' by='things.example'/>";
        let kept = "<origin-id xmlns='urn:xmpp:sid:0' id='1'/>";
        check(
            "message",
            &format!(" {kept}\n{forged} <body>a &amp; b</body>"),
            &format!(" {kept}\n <body>a &amp; b</body>"),
            1,
        );
    }

    #[test]
    fn a_prefix_of_the_stream_hides_nothing() {
        let (mut shards, _) = shards(1);
        let shard = &mut shards[0];
        let lamp = bind(shard, "lamp@things.example", "r");
        let owner = bind(shard, "owner@things.example", "r");
        let header = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' \
                      xmlns:s='urn:xmpp:sid:0' xmlns:x='urn:x'>";
        let mut scanner = plaza_core::xml::Scanner::new();
        let (_, namespaces, _) = scanner.header(&ScanLimits::AFTER_AUTH, header.as_bytes()).unwrap().unwrap();
        shard.describe(owner, namespaces.clone(), None);
        let sent = "<message to='lamp@things.example/r'><s:stanza-id id='1' by='things.example'/><x:y/></message>";
        let Ok(Scanned::Element { element, .. }) = scanner.next(&ScanLimits::AFTER_AUTH, &namespaces, sent.as_bytes())
        else {
            panic!("no element")
        };
        assert_eq!(shard.stanza(owner, element), Flow::Continue);
        let said = String::from_utf8(shard.take_outbox(lamp)).unwrap();
        let start = "<message to='lamp@things.example/r' from='owner@things.example/r' xmlns:x='urn:x'>";
        assert_eq!(said, format!("{start}<x:y/></message>"));
    }

    #[test]
    fn presence_that_is_remembered_is_rid_of_it_too() {
        let (mut shards, _) = shards(1);
        let shard = &mut shards[0];
        let owner = bind(shard, "owner@things.example", "r");
        let delay = "<delay xmlns='urn:xmpp:delay' from='things.example' stamp='2026-01-02T03:04:05Z'/>";
        feed(shard, owner, &format!("<presence>{delay}<show>dnd</show></presence>"));
        let remembered = shard.get(owner).and_then(|session| session.extras.as_ref()?.presence.clone()).unwrap();
        assert!(remembered.contains("<show>dnd</show>") && !remembered.contains("delay"), "{remembered}");
        assert_eq!(shard.counters.forged, 1);
    }
}
