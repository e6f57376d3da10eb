//! Publish-subscribe asked by anybody for anything: no request panics, each is answered, and what is answered or told is
//! well-formed and within its bound.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "../../core/tests/mutate/mod.rs"]
mod mutate;

use plaza_core::jid::Jid;
use plaza_core::limits::ScanLimits;
use plaza_core::stanza::IqType;
use plaza_core::xml::read::Node;
use plaza_core::xml::{Scanned, Scanner, StreamNamespaces};
use plaza_registry::pubsub::{Config, Facts, Host, Limits, Request, answer, decide};
use plaza_registry::store::memory::MemoryStore;
use plaza_registry::wait::block_on;
use proptest::collection::vec;
use proptest::prelude::*;

/// Most bytes of an answer: what it may hold of items, and what is around them.
const REPLY_BYTES_MAX: usize = 2 * 131_072;

fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

/// Whether a stream lets it through as one element.
fn passes(text: &str) -> bool {
    let (mut scanner, ns) = (Scanner::new(), StreamNamespaces::default());
    let scanned = scanner.next(&ScanLimits::AFTER_AUTH, &ns, text.as_bytes());
    matches!(scanned, Ok(Scanned::Element { consumed, .. }) if consumed == text.len())
}

/// Asks in a row, as several, of a service and of an account.
fn ask(requests: &[(String, bool, bool)]) {
    for host in [Host::Service(jid("pubsub.denmark.lit")), Host::Account(jid("hamlet@denmark.lit"))] {
        let (config, store) = (Config::new(Limits::DEFAULT, vec![jid("denmark.lit")]), MemoryStore::new());
        for (text, is_set, is_owner) in requests {
            if !passes(text) {
                continue;
            }
            let caller = jid(if *is_owner { "hamlet@denmark.lit/elsinore" } else { "francisco@denmark.lit/barracks" });
            let facts = Facts { subscribed: *is_owner, groups: Vec::new() };
            let iq_type = if *is_set { IqType::Set } else { IqType::Get };
            let request =
                || Request { host: &host, caller: &caller, iq_type, payload: text, unix_millis: 1_767_323_045_000 };
            for reply in [
                block_on(answer(&config, &store, request(), &facts)),
                block_on(decide(&config, &store, request(), &facts)),
            ] {
                let answered = match &reply.result {
                    Ok(payload) => payload,
                    Err(refusal) => &refusal.payload,
                };
                assert!(answered.len() <= REPLY_BYTES_MAX, "{} bytes for {text}", answered.len());
                let told = reply.notifications.iter().map(|one| &one.payload);
                for written in told.chain([answered]).filter(|written| !written.is_empty()) {
                    let written = str::from_utf8(written).expect("UTF-8");
                    assert!(Node::parse(written, "jabber:client").is_some(), "{written} of {text}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_asked_is_answered(
        requests in vec((mutate::changed(mutate::seeds("pubsub")), prop::bool::weighted(0.7), any::<bool>()), 1..8),
    ) {
        // A node to ask about, so that more is done than refused.
        let first = mutate::seeds("pubsub").into_iter().find(|seed| seed.contains("<create ")).expect("a seed");
        let requests: Vec<_> = std::iter::once((first, true, true)).chain(requests).collect();
        ask(&requests);
    }
}
