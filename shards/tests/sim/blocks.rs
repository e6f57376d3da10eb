//! Whom accounts block, and what must not arrive because of it (XEP-0191 v1.3).
//!
//! The world knows the moment from which an account's home holds up an address. What was said later than that arrives
//! nowhere, in either direction; and whoever was told that the address is blocked hears nothing of it from then on,
//! whenever it was said (§3.3). What is unblocked arrives again (§3.4), for what is lost has its number as everywhere.

use std::collections::{HashMap, HashSet};

use plaza_core::jid::{Jid, JidRef};
use plaza_core::ns;
use plaza_registry::blocking::{self, BlockList};
use plaza_registry::services::{Effect, Reply};
use plaza_registry::store::memory::MemoryStore;
use plaza_registry::wait::block_on;

use super::{DOMAIN, World};

/// The lists of all accounts, as their homes have them.
#[derive(Default)]
pub(crate) struct Blocks {
    /// By account: the addresses it blocks, and since when, in things that happened.
    since: HashMap<Jid, HashMap<String, u64>>,
    /// Accounts, and addresses they blocked at some time.
    ever: HashSet<(Jid, String)>,
    /// By the number of a command: when it came into effect.
    done: Vec<Option<u64>>,
    /// Commands whose answer arrived.
    answered: u64,
    /// Commands that blocked somebody, and stanzas that were held up.
    pub(crate) blocked: u64,
    pub(crate) held_up: u64,
}

impl Blocks {
    /// The name of the next command.
    fn command(&mut self) -> String {
        self.done.push(None);
        format!("b{}", self.done.len() - 1)
    }

    /// A client has an answer: if it is to a command, when that came into effect.
    pub(super) fn answered(&mut self, id: &str) -> Option<u64> {
        let done = *self.done.get(id.strip_prefix('b')?.parse::<usize>().ok()?)?;
        self.answered += 1;
        done
    }

    /// Commands whose answer did not arrive.
    pub(super) fn unanswered(&self) -> u64 {
        self.done.len() as u64 - self.answered
    }

    /// A service answered an account: its list may be another from now on.
    pub(super) fn answer(&mut self, now: u64, caller: &Jid, id: &str, reply: &Reply) {
        let account = caller.bare();
        for effect in &reply.effects {
            let Effect::Blocklist { list, .. } = effect else { continue };
            let since = self.since.entry(account.clone()).or_default();
            since.retain(|jid, _| list.iter().any(|listed| listed.as_str() == jid));
            for jid in list.iter().map(JidRef::as_str) {
                self.ever.insert((account.clone(), jid.to_owned()));
                if since.insert(jid.to_owned(), since.get(jid).copied().unwrap_or(now)).is_none() {
                    self.blocked += 1;
                }
            }
            if let Some(done) = id.strip_prefix('b').and_then(|digits| self.done.get_mut(digits.parse::<usize>().ok()?))
            {
                *done = Some(now);
            }
        }
    }

    /// The broker was started anew: what is stored holds. `unsure`: something was on its way to the store.
    pub(super) fn load_anew(&mut self, store: &MemoryStore, account: &Jid, now: u64, unsure: bool) {
        let stored = block_on(blocking::load(store, account.as_jid())).unwrap();
        let since = self.since.entry(account.clone()).or_default();
        let same = since.len() == stored.len() && stored.iter().all(|jid| since.contains_key(jid.as_str()));
        assert!(unsure || same, "{account} blocks {stored:?}, and {since:?} was acknowledged");
        since.retain(|jid, _| stored.iter().any(|listed| listed.as_str() == jid));
        for jid in stored.iter().map(JidRef::as_str) {
            since.entry(jid.to_owned()).or_insert(now);
            self.ever.insert((account.clone(), jid.to_owned()));
        }
    }

    /// Since when an account holds up an address, if it does: itself is listed, its account or its domain (§6). The server and
    /// the account's own resources never are (§5).
    pub(super) fn since(&self, account: &Jid, other: &str) -> Option<u64> {
        let listed = self.since.get(account).filter(|listed| !listed.is_empty())?;
        forms(account, other).iter().filter_map(|form| listed.get(form).copied()).min()
    }

    /// Whether the account blocked the address at some time.
    pub(super) fn ever(&self, account: &Jid, other: &str) -> bool {
        !self.ever.is_empty()
            && forms(account, other).into_iter().any(|form| self.ever.contains(&(account.clone(), form)))
    }
}

/// What on an account's list holds up an address.
fn forms(account: &Jid, other: &str) -> Vec<String> {
    let Ok(other) = Jid::parse(other) else { return Vec::new() };
    let (other, bare) = (other.as_jid(), other.bare());
    if other.local().is_none() && other.domain() == DOMAIN || bare == *account {
        return Vec::new();
    }
    vec![other.as_str().to_owned(), bare.as_str().to_owned(), other.domain().to_owned()]
}

impl World {
    /// A client blocks or unblocks somebody.
    pub(super) fn say_block(&mut self, client: usize) {
        let id = self.blocks.command();
        let jid = match self.random.below(20) {
            0 => DOMAIN.to_owned(),
            1..=9 => self.random.pick(&self.accounts).as_str().to_owned(),
            _ => self.address(),
        };
        let command = match self.random.below(10) {
            0 => format!("<unblock xmlns='{}'/>", ns::BLOCKING),
            1..=4 => command("unblock", &jid),
            _ => command("block", &jid),
        };
        self.queue(client, format!("<iq type='set' id='{id}'>{command}</iq>"), None);
    }

    /// What was said is held up if its sender's home knew by then that its recipient is blocked.
    pub(super) fn note_taken(&mut self, number: usize, heard: bool) {
        let now = self.activity;
        let sent = &mut self.sent[number];
        sent.taken_at = now;
        let account = self.clients[sent.sender].jid.bare();
        sent.held_up = heard && self.blocks.since(&account, &sent.to).is_some();
        self.blocks.held_up += u64::from(sent.held_up);
    }

    /// A stanza with a number arrived.
    pub(super) fn see_unblocked(&self, index: usize, number: usize, from: &str) {
        let (client, sent) = (&self.clients[index], &self.sent[number]);
        assert!(!sent.held_up, "n{number} went to {}, whom its sender blocks: {}", client.jid, sent.tag);
        let since = self.blocks.since(&client.jid.bare(), from);
        assert!(
            since.is_none_or(|since| sent.taken_at <= since),
            "{} got n{number} of {from}, said at {}, which it blocks since {since:?}: {}",
            client.jid,
            sent.taken_at,
            sent.tag
        );
    }

    /// A stanza arrived from somebody. Errors and results are answers, which the broker may give in another's name.
    pub(super) fn see_from(&self, index: usize, name: &str, kind: &str, (from, id): (&str, &str)) {
        if from.is_empty() || matches!(kind, "error" | "result") {
            return;
        }
        let client = &self.clients[index];
        if let Some(since) = self.blocks.since(&client.jid.bare(), from) {
            let told = client.told_blocks;
            assert!(
                told < since,
                "{} got a {name} {kind:?} ({id}) of {from}, told at {told} it is blocked",
                client.jid
            );
        }
    }

    /// Everybody unblocks everybody; then somebody is blocked and not heard, and unblocked and heard.
    pub(super) fn make_up(&mut self) {
        let refused = std::mem::take(&mut self.plan.store_refuses_percent);
        self.check_lists();
        for client in 0..self.clients.len() {
            if !self.clients[client].ended {
                self.tell_list(client, format!("<unblock xmlns='{}'/>", ns::BLOCKING));
            }
        }
        self.settle();
        self.check_lists();
        for _ in 0..3 {
            let (Some(one), Some(other)) = (self.someone(), self.someone()) else { break };
            let [ours, theirs] = [one, other].map(|client| self.clients[client].jid.clone());
            if ours.bare() == theirs.bare() {
                continue;
            }
            let listed = if self.random.percent(50) { theirs.bare() } else { theirs.clone() };
            for (name, heard) in [("block", false), ("unblock", true)] {
                self.tell_list(one, command(name, listed.as_str()));
                self.settle();
                for (from, to) in [(one, &theirs), (other, &ours)] {
                    let number = self.sent.len();
                    self.send(from, "message", "chat", to.as_str(), "<body/>");
                    self.settle();
                    let arrived = !self.sent[number].delivered.is_empty();
                    assert_eq!(arrived, heard, "{ours} has to {name} {listed}: {}", self.sent[number].tag);
                }
            }
        }
        self.plan.store_refuses_percent = refused;
    }

    fn tell_list(&mut self, client: usize, command: String) {
        let id = self.blocks.command();
        self.queue(client, format!("<iq type='set' id='{id}'>{command}</iq>"), None);
    }

    /// What a home was told is what is stored.
    fn check_lists(&self) {
        for account in &self.accounts {
            let stored = block_on(blocking::load(&self.store, account.as_jid())).unwrap();
            let known = self.blocks.since.get(account).into_iter().flat_map(|since| since.keys());
            assert_eq!(stored, BlockList::new(known.map(|jid| Jid::parse(jid).unwrap())), "{account}");
        }
    }
}

fn command(name: &str, jid: &str) -> String {
    format!("<{name} xmlns='{}'><item jid='{jid}'/></{name}>", ns::BLOCKING)
}
