//! What clients see, and what may be wrong with it.

use plaza_core::jid::JidRef;
use plaza_core::limits::ScanLimits;
use plaza_core::ns;
use plaza_core::xml::read::Node;
use plaza_core::xml::{Scanned, Scanner, StreamNamespaces};

use super::World;
use super::registry::REGISTRY;

impl World {
    pub(super) fn receive(&mut self, client: usize, bytes: &[u8]) {
        if self.plan.things {
            assert!(memchr::memmem::find(bytes, b"secret-").is_none(), "a key is told");
        }
        let mut scanner = Scanner::new();
        let namespaces = StreamNamespaces::default();
        let mut at = 0;
        while at < bytes.len() {
            let scanned = scanner.next(&ScanLimits::AFTER_AUTH, &namespaces, &bytes[at..]);
            let Ok(Scanned::Element { element, consumed }) = scanned else { panic!("no whole stanza was sent") };
            let text = &bytes[at..at + consumed];
            if self.is_told {
                let jid = &self.clients[client].jid;
                eprintln!("{:6} {jid} ({client}) < {}", self.activity, String::from_utf8_lossy(text));
            }
            at += consumed;
            let attr = |name| element.attr(name).map(|attr| attr.value().into_owned()).unwrap_or_default();
            let (id, kind, from, to) = (attr("id"), attr("type"), attr("from"), attr("to"));
            match element.name() {
                "enabled" => self.clients[client].managed = Some((id.clone(), 0)),
                "a" => self.handled(client, attr("h").parse().unwrap()),
                "r" if self.random.percent(self.plan.acknowledged_percent) => self.acknowledge(client),
                "message" | "presence" | "iq" => {
                    if let Some((_, has)) = &mut self.clients[client].managed {
                        *has += 1;
                    }
                }
                _ => {}
            }
            if element.ns() != ns::CLIENT {
                continue;
            }
            if matches!(&*kind, "result" | "error")
                && let Some(done) = self.blocks.answered(&id)
            {
                let told = &mut self.clients[client].told_blocks;
                *told = done.max(*told);
            }
            let account = self.clients[client].jid.bare();
            if matches!(&*kind, "result" | "error") {
                self.notes.answered(account, client, &id, &kind);
            }
            self.see_from(client, element.name(), &kind, (&from, &id));
            if from == REGISTRY {
                let stanza = Node::parse(std::str::from_utf8(text).unwrap(), ns::CLIENT).unwrap();
                self.hear_registry(client, &stanza);
            }
            if let Some(number) = id.strip_prefix('n').and_then(|digits| digits.parse().ok()) {
                let late = element.children().any(|child| child.is("delay", ns::DELAY));
                self.see(client, number, element.name(), &kind, (&from, &to), late);
            }
            if let Some(event) = element.children().find(|child| child.is("event", ns::PUBSUB_EVENT)) {
                let number: u64 = event.content.parse().unwrap();
                let latest = self.clients[client].events.entry((from.clone(), to.clone())).or_insert(0);
                assert!(*latest < number, "event {number} of {from} for {to} after {latest}");
                *latest = number;
                self.events_seen += 1;
            }
            if element.name() == "presence" && matches!(&*kind, "" | "unavailable") {
                self.see_presence(client, kind.is_empty(), from, to);
            }
        }
    }

    pub(super) fn see(
        &mut self,
        index: usize,
        number: usize,
        name: &str,
        kind: &str,
        (from, to): (&str, &str),
        late: bool,
    ) {
        let sender = self.clients[self.sent[number].sender].jid.clone();
        let sent = &mut self.sent[number];
        let client = &mut self.clients[index];
        let answers = kind == "error" && !sent.error || kind == "result" && sent.request;
        if answers && sender == client.jid {
            sent.answers += 1;
            return;
        }
        assert!(!answers, "{} got an answer to n{number} of {sender}", client.jid);
        assert_eq!(from, sender.as_str());
        self.see_unblocked(index, number, from);
        let (said_in, seen_in) = (self.clients[self.sent[number].sender].life, self.clients[index].life);
        assert!(late || said_in == seen_in, "n{number} was said in life {said_in}, and arrived in life {seen_in}");
        let (sent, client) = (&mut self.sent[number], &mut self.clients[index]);
        let bare = client.jid.bare();
        let addressed = to.is_empty() || JidRef::from_normal(to).bare() == bare.as_jid();
        assert!(addressed, "{} got a {name} for {to}", client.jid);
        // A message that could not be forgotten is given again.
        // What managed clients of the account did not acknowledge is given to its others, who may have it.
        let own = to == client.jid.as_str();
        let handed_on = self.plan.managed_percent > 0 && !own && sent.delivered.contains(&index)
            || sent.delivered.iter().any(|other| self.managed_clients.contains(other));
        let again = late && self.plan.store_refuses || handed_on;
        assert!(
            again || !sent.delivered.contains(&index),
            "n{number} was delivered twice to {}, late {late}, to {to}, managed {:?}, delivered {:?}: {}",
            client.jid,
            client.managed,
            sent.delivered,
            sent.tag
        );
        sent.delivered.push(index);
        let overtaken = self.plan.managed_percent > 0 && !own && name == "message";
        if again || overtaken {
            return;
        }
        // Who becomes available is given what was kept before anything that came later.
        if name == "message" && !to.contains('/') {
            let live = client.latest_live.entry((from.to_owned(), to.to_owned())).or_insert(0);
            assert!(*live <= number, "{} got n{number} of {from} after n{live}, late {late}: {}", client.jid, sent.tag);
            if !late {
                *live = number;
            }
        }
        // Between two addresses. What was kept comes late, and in order; what a resource that took no messages was sent
        // may be before it.
        let latest = client.latest.entry((from.to_owned(), to.to_owned(), late)).or_insert(0);
        assert!(*latest <= number, "{} got n{number} of {from} after n{latest}, to {to}: {}", client.jid, sent.tag);
        *latest = number;
    }

    pub(super) fn see_presence(&mut self, index: usize, available: bool, from: String, to: String) {
        let client = &mut self.clients[index];
        let rebound = self.rebound.contains(&from);
        // What one says to its own account may wait for the store, and reach who came after it had left.
        if to.contains('/') || !from.starts_with(client.jid.bare().as_str()) {
            client.last.insert(from.clone(), available);
        }
        let before = client.seen.insert((from.clone(), to.clone()), available);
        // Who of an account hears what is for all of it depends on who is available then.
        let again = !available && before == Some(false) && to.contains('/');
        if again && !rebound {
            self.told_twice.push(format!("{} learnt twice that {from} left (to {to})", client.jid));
        }
    }
}
