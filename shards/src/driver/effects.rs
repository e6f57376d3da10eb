//! What the shard wants done, and what goes to other shards: at the end of a turn, in batches.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use plaza_core::jid::Jid;
use plaza_registry::directory::Nodes;
use plaza_registry::errands::{self, Errand};
use plaza_registry::provisioning::{After, Challenge};
use plaza_registry::pubsub::{self, Recipients};
use plaza_registry::services::{self, Ask, Reply, Request};

use super::connection::Phase;
use super::{ASK_TICKS, ASKS, Driver, Outcome, Parcel, SESSION, TASKS_AT_ONCE, send_batches, unix_millis};
use crate::shard::{Effect, ReplyTo};

impl Driver {
    pub(super) fn drain_mesh(&mut self) {
        let mut arrived = Vec::new();
        let (port, shard, spares) = (&self.parts.port, &mut self.shard, &mut self.spares);
        port.drain(|from, parcel| match parcel {
            Parcel::Batch(mut batch) => {
                shard.handoff(from, &mut batch);
                spares.push(batch);
                if shard.take_full() {
                    send_batches(port, self.parts.shards, shard, spares);
                }
            }
            Parcel::Migrant(migrant) => arrived.push(migrant),
        });
        spares.truncate(64);
        for migrant in arrived {
            self.on_migrant(*migrant);
        }
    }

    /// Hands batches over before the turn ends, if one is full: so a turn that does much drops nothing for want of room.
    pub(super) fn hand_over_full(&mut self) {
        if self.shard.take_full() {
            send_batches(&self.parts.port, self.parts.shards, &mut self.shard, &mut self.spares);
        }
    }

    pub(super) fn hand_over(&mut self) {
        send_batches(&self.parts.port, self.parts.shards, &mut self.shard, &mut self.spares);
        while let Some((shard, migrant)) = self.departures.pop_front() {
            if let Err(Parcel::Migrant(migrant)) = self.parts.port.try_send(shard, Parcel::Migrant(migrant)) {
                self.departures.push_front((shard, migrant));
                break;
            }
        }
        // Senders that waited for the mesh may go on now.
        self.carry_out();
    }

    pub(super) fn carry_out(&mut self) {
        let tick = self.tick;
        while let Some(effect) = self.shard.poll_effect() {
            match effect {
                Effect::Resume(key) => {
                    if let Some(connection) = self.connection_mut(key)
                        && matches!(connection.phase, Phase::Session(_))
                    {
                        connection.flags.paused = false;
                        // What came before the pause could not go on meanwhile.
                        connection.partial_since = tick;
                        self.mark_ready(key);
                    }
                }
                Effect::End(key, condition) => self.end_stream(key, condition),
                Effect::Service(request, reply_to) => self.call_service(*request, reply_to),
                Effect::Errand(account, errand) => self.run_errand(account, *errand),
                Effect::Recipients(recipients) => self.read_recipients(*recipients),
                Effect::LastItems(wanted) => self.read_last_items(*wanted),
                Effect::Login(key, known) => self.on_known(key, known),
                Effect::Displace(key) => self.displace(key),
                Effect::Expire(id) => self.shard.expire(id, None),
                Effect::Watch(id) => {
                    let due = u64::from(self.tick) + u64::from(self.stuck_ticks()).max(1);
                    self.shard.watch_until(id, due);
                    self.wheel.insert(due, SESSION | id.to_token());
                }
                Effect::Late(id) => self.answer_late(id),
                Effect::Tokens(key, kept) => self.on_tokens(key, kept),
                Effect::Inquire(device, after) => self.inquire(device, after),
                Effect::AskUntil(number) => {
                    let due = u64::from(self.tick) + u64::from(ASK_TICKS);
                    self.shard.ask_until(number, due);
                    self.wheel.insert(due, ASKS);
                }
                Effect::Asked(ask, reply_to, acknowledged) => self.go_on_asked(*ask, reply_to, acknowledged),
                Effect::Challenged(challenge, response) => self.go_on_challenged(*challenge, response),
            }
        }
    }

    fn run_errand(&mut self, account: Jid, errand: Errand) {
        let (config, store) = (Arc::clone(&self.parts.errands), self.parts.store.clone());
        let outcomes = Rc::clone(&self.outcomes);
        let now = unix_millis();
        self.tasks.spawn(async move {
            let brought = errands::run(&config, &store, &account, errand, now).await;
            outcomes.borrow_mut().push_back(Outcome::Errand(account, brought));
        });
    }

    fn call_service(&mut self, mut request: Request, reply_to: ReplyTo) {
        request.unix_millis = unix_millis();
        let caller = request.caller.clone();
        let answer = services::answer(Arc::clone(&self.parts.services), self.parts.store.clone(), request);
        let outcomes = Rc::clone(&self.outcomes);
        self.tasks.spawn(async move {
            let reply = answer.await;
            outcomes.borrow_mut().push_back(Outcome::Reply(caller, reply_to, reply));
        });
    }

    fn inquire(&mut self, device: Jid, after: After) {
        let (config, store, now) = (Arc::clone(&self.parts.services), self.parts.store.clone(), unix_millis());
        let outcomes = Rc::clone(&self.outcomes);
        self.tasks.spawn(async move {
            let effects = services::inquire(&config, &store, after, now).await;
            let reply = Reply { effects, ..Reply::default() };
            outcomes.borrow_mut().push_back(Outcome::Inquired(device, reply));
        });
    }

    fn go_on_asked(&mut self, ask: Ask, reply_to: ReplyTo, acknowledged: bool) {
        let caller = ask.caller().clone();
        let (config, store) = (Arc::clone(&self.parts.services), self.parts.store.clone());
        let outcomes = Rc::clone(&self.outcomes);
        self.tasks.spawn(async move {
            let reply = services::asked(config, store, ask, acknowledged).await;
            outcomes.borrow_mut().push_back(Outcome::Reply(caller, reply_to, reply));
        });
    }

    fn go_on_challenged(&mut self, challenge: Challenge, response: Option<Box<str>>) {
        let (config, store, now) = (Arc::clone(&self.parts.services), self.parts.store.clone(), unix_millis());
        let outcomes = Rc::clone(&self.outcomes);
        self.tasks.spawn(async move {
            let presenter = challenge.to().clone();
            let effects = services::challenged(&config, &store, challenge, response.as_deref(), now).await;
            let (reply_to, reply) = (ReplyTo::Address(presenter.clone()), Reply { effects, ..Reply::default() });
            outcomes.borrow_mut().push_back(Outcome::Reply(presenter, reply_to, reply));
        });
    }

    fn read_recipients(&mut self, mut recipients: Recipients) {
        let (store, outcomes) = (self.parts.store.clone(), Rc::clone(&self.outcomes));
        self.tasks.spawn(async move {
            let page = recipients.next(&store).await;
            outcomes.borrow_mut().push_back(Outcome::Recipients(recipients, page));
        });
    }

    fn read_last_items(&mut self, (owner, resource, nodes): (Jid, Jid, Nodes)) {
        let (services, store) = (Arc::clone(&self.parts.services), self.parts.store.clone());
        let outcomes = Rc::clone(&self.outcomes);
        self.tasks.spawn(async move {
            match pubsub::last_items_of(&services.pubsub, &store, owner, &resource, &nodes, unix_millis()).await {
                Ok(items) => outcomes.borrow_mut().push_back(Outcome::LastItems(items)),
                Err(error) => tracing::warn!(%error, "last items could not be read"),
            }
        });
    }

    /// Carries on what the store or a helper has answered, for its share of the turn.
    pub(super) fn go_on_with_tasks(&mut self) {
        let until = self.share();
        while !self.tasks.is_idle() {
            self.tasks.poll_ready(TASKS_AT_ONCE);
            self.take_outcomes();
            if Instant::now() >= until {
                return;
            }
        }
    }

    fn take_outcomes(&mut self) {
        loop {
            let Some(outcome) = self.outcomes.borrow_mut().pop_front() else { return };
            match outcome {
                Outcome::Errand(account, brought) => self.shard.errand_done(&account, brought),
                Outcome::Password(key, matches) => self.on_password(key, matches),
                Outcome::Registered(key, account, answer) => self.on_registered(key, &account, answer),
                Outcome::Reply(caller, reply_to, reply) => self.shard.reply(&caller, reply_to, reply),
                Outcome::Inquired(device, reply) => self.shard.inquired(&device, reply),
                Outcome::Recipients(recipients, page) => self.shard.recipients_read(recipients, page),
                Outcome::LastItems(items) => self.shard.last_items(items),
            }
        }
    }
}
