//! Owners who begin anew with their things (XEP-0324 v0.5.1): all rules of a thing are deleted, or its device is just told to
//! ask anew.
//!
//! An order is carried out for those of the things it names that are its caller's at that moment, and for no others. What
//! had been allowed or denied of them by then counts no more, and what had been asked about them is no question any more.

use plaza_core::iot::{Generation, Interface};
use plaza_core::jid::Jid;
use plaza_core::xml::read::Node;
use plaza_registry::store::memory::MemoryStore;
use plaza_registry::store::{Store, Table};
use plaza_registry::things;
use plaza_registry::wait::block_on;

use super::World;
use super::registry::REGISTRY;
use super::things::{Cause, Things};

/// What somebody wants done, who may own some of the things it names.
#[derive(Debug)]
struct Order {
    client: usize,
    caller: Jid,
    deletes_rules: bool,
    things: Vec<usize>,
    /// It is about all that is the caller's, whatever that is.
    is_about_all: bool,
    begun: Option<u64>,
    /// Things it was carried out for.
    done: Vec<usize>,
    /// The type of what was answered.
    told: Option<String>,
    heard: bool,
}

/// What owners order.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    given: Vec<Order>,
    /// Things that began anew, rules they had, things that were just told to ask anew, and orders that were refused.
    pub(crate) begun_anew: u64,
    pub(crate) rules_deleted: u64,
    pub(crate) cleared: u64,
    pub(crate) refused: u64,
}

impl Orders {
    /// The service begins with one: why things change by it.
    pub(super) fn begin(&mut self, number: usize, now: u64) -> Cause {
        let order = &mut self.given[number];
        assert!(order.begun.replace(now).is_none(), "it was given once: {order:?}");
        Cause::Ordered { number, caller: order.caller.clone() }
    }

    /// One is carried out for a thing. Whether its rules are deleted.
    pub(super) fn is_done(&mut self, number: usize, thing: usize) -> bool {
        let order = &mut self.given[number];
        assert!(order.things.contains(&thing) && !order.done.contains(&thing), "{thing} changes by {order:?}");
        order.done.push(thing);
        let counter = if order.deletes_rules { &mut self.begun_anew } else { &mut self.cleared };
        *counter += 1;
        order.deletes_rules
    }

    /// Of things whose rules are deleted none is left, when that is committed.
    pub(super) fn check_stored(&self, number: usize, things: &Things, store: &MemoryStore) {
        let order = &self.given[number];
        for &thing in order.done.iter().filter(|_| order.deletes_rules) {
            let (device, node) = &things.names[thing];
            let rules = store.scan(Table::Rules, &things::rules_prefix(device.as_jid(), node), None, 1);
            assert_eq!(block_on(rules).unwrap(), [], "{order:?}");
        }
    }

    /// Whether rules of a thing are deleted by one.
    pub(super) fn deletes_rules(&self, number: usize, thing: usize) -> bool {
        let order = &self.given[number];
        order.deletes_rules && order.done.contains(&thing)
    }

    /// When one began.
    pub(super) fn begun(&self, number: usize) -> u64 {
        self.given[number].begun.unwrap()
    }

    /// The service has answered one.
    pub(super) fn answered(&mut self, number: usize, things: &Things, reply: &Node, store_fails: bool) {
        let order = &self.given[number];
        let kind = reply.attr("type").unwrap_or_default();
        let error = reply.children.first().and_then(|error| error.children.first());
        let condition = error.map(|condition| &*condition.name).unwrap_or_default();
        let begun = order.begun.unwrap();
        let mut left = order.things.iter().filter(|thing| !order.done.contains(thing));
        let is_all = left.all(|&thing| !things.is_owned_since(thing, &order.caller, begun));
        let is_true = match (kind, condition) {
            ("result", _) => is_all && (order.is_about_all || !order.done.is_empty()),
            (_, "item-not-found") => is_all && !order.is_about_all && order.done.is_empty(),
            (_, "resource-constraint" | "internal-server-error") => order.done.is_empty() && store_fails,
            _ => false,
        };
        assert!(is_true, "{order:?} was answered {reply:?}");
        self.refused += u64::from(kind == "error");
        self.given[number].told = Some(kind.to_owned());
    }

    /// A client has an answer.
    pub(super) fn hears(&mut self, number: usize, client: usize, kind: &str) {
        let order = &mut self.given[number];
        assert_eq!((order.told.as_deref(), order.client), (Some(kind), client), "{order:?}");
        assert!(!std::mem::replace(&mut order.heard, true), "it has the answer already: {order:?}");
    }

    /// Who is there has all answers.
    pub(super) fn check(&self, is_there: impl Fn(usize) -> bool) {
        for order in self.given.iter().filter(|order| is_there(order.client)) {
            assert!(order.heard, "{order:?} has no answer");
        }
    }
}

impl World {
    /// A client orders something done to a thing; mostly one to a thing that it owns, if somebody there does.
    pub(super) fn order_something(&mut self, client: usize) {
        let (clients, things) = (0..self.clients.len(), 0..self.things.names.len());
        let all = clients.flat_map(|client| things.clone().map(move |thing| (client, thing)));
        let owns = |&(client, thing): &(usize, usize)| {
            let client = &self.clients[client];
            !client.ended && self.things.is_owned_by(thing, &client.jid.bare())
        };
        let own: Vec<(usize, usize)> = all.filter(owns).collect();
        let (client, thing) = match own.is_empty() || self.random.percent(20) {
            true => (client, self.random.below(self.things.names.len())),
            false => self.random.pick(&own),
        };
        self.give_order(client, thing);
    }

    /// A client orders something done to a thing, or to all that are its own.
    pub(super) fn give_order(&mut self, client: usize, thing: usize) {
        let caller = self.clients[client].jid.bare();
        let (device, node) = self.things.names[thing].clone();
        let is_about_all = self.random.percent(35);
        let (names, things) = if is_about_all {
            (String::new(), (0..self.things.names.len()).collect())
        } else if node.id.is_empty() {
            let is_its = |thing: &usize| self.things.names[*thing].0 == device;
            (format!(" jid='{device}'"), (0..self.things.names.len()).filter(is_its).collect())
        } else {
            let id = if self.plan.generation == Generation::Xsf { "nodeId" } else { "id" };
            (format!(" jid='{device}' {id}='{}'", node.id), vec![thing])
        };
        let deletes_rules = self.random.percent(70);
        let name = if deletes_rules { "deleteRules" } else { "clearCache" };
        let (number, ns) = (self.owners.orders.given.len(), Interface::Owner.ns(self.plan.generation));
        let order = format!("<iq type='set' id='r{number}' to='{REGISTRY}'><{name} xmlns='{ns}'{names}/></iq>");
        self.queue_soon(client, order);
        let (begun, done, told, heard) = (None, Vec::new(), None, false);
        let order = Order { client, caller, deletes_rules, things, is_about_all, begun, done, told, heard };
        self.owners.orders.given.push(order);
    }
}
