//! The driver's part, in any order its contract allows.

use plaza_core::jid::Jid;
use plaza_core::limits::ScanLimits;
use plaza_core::ns;
use plaza_core::sm::SmId;
use plaza_core::stanza::{Condition, IqType, Kind, MessageType, write_error, write_reply_start};
use plaza_core::stream::NotResumed;
use plaza_core::xml::{Scanned, StreamNamespaces};
use plaza_registry::errands::{self, Errand, Return};
use plaza_registry::pubsub;
use plaza_registry::services::{Effect as ServiceEffect, Reply, Target};
use plaza_registry::store::StoreError;
use plaza_registry::wait::block_on;
use plaza_shards::mesh::ShardId;
use plaza_shards::metrics::DropReason;
use plaza_shards::ring::Key;
use plaza_shards::shard::{BATCH_BYTES_MAX, Effect, Flow, ReplyTo};

use super::faults::Whose;
use super::owners::number_of;
use super::{FRAME_BYTES, World};

impl World {
    pub(super) fn feed_someone(&mut self) {
        let Some(client) = self.someone() else { return };
        for _ in 0..=self.random.below(8) {
            self.feed(client);
        }
    }

    /// Feeds the next stanza, if the session takes any.
    pub(super) fn feed(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.ended || client.paused {
            return;
        }
        let Some(next) = client.pending.front() else { return };
        let namespaces = StreamNamespaces::default();
        let scanned = self.scanner.next(&ScanLimits::AFTER_AUTH, &namespaces, next.text.as_bytes());
        let Ok(Scanned::Element { element, .. }) = scanned else { panic!("not an element: {}", next.text) };
        let iq = element.name() == "iq";
        let enables = element.name() == "enable";
        let decision = element.attr("id").and_then(|id| number_of(&id.value(), 'd'));
        let is_stanza = matches!(element.name(), "message" | "presence" | "iq");
        let shard = &mut self.shards[client.shard];
        let stale = shard.counters.drops[DropReason::Stale];
        let flow = shard.stanza(client.id, element);
        // It may have been ended from the other side, of which nobody has told the driver yet.
        let heard = flow != Flow::Stalled && shard.counters.drops[DropReason::Stale] == stale;
        assert!(!client.awaiting || !heard, "{} was heard before its answer", client.jid);
        self.activity += 1;
        if self.is_told {
            eprintln!("{:6} {} ({index}) > {} ({flow:?})", self.activity, client.jid, next.text);
        }
        match flow {
            Flow::Stalled => client.paused = true,
            Flow::End(condition) => panic!("{} was ended: {condition:?}", client.jid),
            Flow::Continue | Flow::Blocked => {
                let number = next.number;
                client.pending.pop_front();
                client.paused = flow == Flow::Blocked;
                client.awaiting = flow == Flow::Blocked && iq;
                if client.enabling && is_stanza {
                    client.said.push(number);
                }
                client.enabling |= enables;
                if let Some(decision) = decision.filter(|_| iq) {
                    self.decision_is_taken(index, decision);
                }
                if let Some(number) = number {
                    self.sent[number].taken = true;
                    if self.plan.killed && heard {
                        self.note_away(number);
                    }
                    self.note_taken(number, heard);
                }
            }
        }
    }

    pub(super) fn flush(&mut self, shard: usize) {
        while let Some((_, key)) = self.shards[shard].next_dirty() {
            self.write(key.index as usize);
        }
        for client in 0..self.clients.len() {
            if self.clients[client].shard == shard && std::mem::take(&mut self.clients[client].flush) {
                self.write(client);
            }
        }
    }

    /// Takes what waits for a client for a send, one at a time.
    pub(super) fn write(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.ended || client.sending.is_some() {
            return;
        }
        let shard = &mut self.shards[client.shard];
        let bytes = shard.take_outbox(client.id);
        if !bytes.is_empty() {
            client.sending = Some(bytes.len());
            self.activity += 1;
        }
        self.receive(index, &bytes);
        let shard = self.clients[index].shard;
        self.shards[shard].give_buffer(bytes);
    }

    pub(super) fn read_someone(&mut self) {
        if let Some(client) = self.someone() {
            self.read(client);
        }
    }

    /// The client takes what was sent.
    pub(super) fn read(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.ended || !client.reads {
            return;
        }
        let Some(in_flight) = client.sending.take() else { return };
        self.activity += 1;
        let more = self.shards[client.shard].written(client.id);
        client.flush = more;
        if more && self.random.percent(50) {
            // At once: what waited while the send was under way is known to the byte.
            self.write(index);
            let waiting = self.clients[index].sending.unwrap_or(0);
            let most = self.plan.config.outbox_bytes_max as usize + self.plan.body_bytes_max + 2 * FRAME_BYTES;
            assert!(in_flight + waiting <= most, "{in_flight} + {waiting} bytes unsent");
        }
    }

    pub(super) fn disconnect(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.ended {
            return;
        }
        client.ended = true;
        client.paused = true;
        let last = self.shards[client.shard].end(client.id);
        self.activity += 1;
        self.receive(index, &last);
        let shard = self.clients[index].shard;
        self.shards[shard].give_buffer(last);
    }

    pub(super) fn acknowledge(&mut self, client: usize) {
        if let Some((_, has)) = self.clients[client].managed.as_ref().filter(|_| !self.clients[client].ended) {
            let text = format!("<a xmlns='urn:xmpp:sm:3' h='{has}'/>");
            self.queue(client, text, None);
        }
    }

    /// The connection breaks, whatever was under way is lost; the session waits if its stream is managed.
    pub(super) fn cut(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.ended || client.cut {
            return;
        }
        self.activity += 1;
        if !self.shards[client.shard].hibernate(client.id, |_| 0) {
            return self.disconnect(index);
        }
        if client.managed.is_none() {
            // It never heard the name.
            client.ended = true;
            return self.shards[client.shard].expire(client.id, Some(0));
        }
        // What it had not been heard to say it says again; here all that it says was heard, or not begun.
        client.pending.retain(|pending| !pending.text.starts_with("<a "));
        (client.cut, client.paused, client.sending, client.flush) = (true, true, None, false);
    }

    /// A client that was cut off comes back, under another connection; one in a while it is too late.
    pub(super) fn come_back(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if !client.cut || client.ended {
            return;
        }
        self.activity += 1;
        let shard = &mut self.shards[client.shard];
        let (name, has) = client.managed.clone().unwrap();
        let key = Key { index: index as u32, generation: 1 };
        let resumed = shard.resume_session(key, &client.jid.bare(), &SmId::parse(&name).unwrap(), has);
        let (id, resumed) = match resumed {
            Ok(resumed) => resumed,
            Err(NotResumed::HandledCountTooHigh(counts)) => panic!("{} has {has}: {counts:?}", client.jid),
            // It was given up: too many of its account waited, or too much for it.
            Err(NotResumed::Failed(_)) => {
                (client.ended, client.cut) = (true, false);
                return;
            }
        };
        assert_eq!((id, &resumed.jid), (client.id, &client.jid));
        (client.cut, client.paused, client.awaiting) = (false, false, false);
        shard.send_again(id);
    }

    pub(super) fn hand_over(&mut self, from: usize) {
        for to in 0..self.shards.len() {
            let target = ShardId(to as u16);
            let spare = self.spares.pop().unwrap_or_default();
            let batch = match self.shards[from].take_batch(target, spare) {
                Ok(batch) => batch,
                Err(spare) => {
                    self.spares.push(spare);
                    continue;
                }
            };
            let most = 4 * BATCH_BYTES_MAX + self.plan.body_bytes_max + FRAME_BYTES;
            assert!(batch.bytes() <= most, "a batch of {} bytes", batch.bytes());
            let full = self.lanes[from][to].len() >= self.plan.lane_batches_max;
            if full || self.random.percent(self.plan.refused_percent) {
                self.spares.extend(self.shards[from].restore_batch(target, batch));
                continue;
            }
            self.activity += 1;
            self.lanes[from][to].push_back(batch);
            self.shards[from].batch_sent(target);
            self.owners.batch_sent(from, to);
        }
    }

    pub(super) fn arrive(&mut self, to: usize) {
        for from in 0..self.shards.len() {
            if let Some(mut batch) = self.lanes[from][to].pop_front() {
                self.activity += 1;
                self.shards[to].handoff(ShardId(from as u16), &mut batch);
                self.owners.batch_arrived(from, to);
                assert!(batch.is_empty());
                self.spares.push(batch);
            }
        }
    }

    pub(super) fn carry_out(&mut self, shard: usize, most: usize) {
        for _ in 0..most {
            let Some(effect) = self.shards[shard].poll_effect() else { return };
            self.activity += 1;
            match effect {
                Effect::Resume(key) => {
                    let client = &mut self.clients[key.index as usize];
                    client.paused = client.ended || client.cut;
                }
                Effect::End(key, _) => self.disconnect(key.index as usize),
                Effect::Service(request, reply_to) => self.services.push((shard, request, reply_to)),
                Effect::Errand(account, errand) => self.errands.push((shard, account, *errand)),
                Effect::Login(key, Ok(())) => self.logged_in(key.index as usize),
                Effect::Login(_, Err(_)) => {}
                Effect::Tokens(..) | Effect::Challenged(..) => panic!("nobody has tokens here"),
                Effect::Late(_) => panic!("nobody registers here"),
                Effect::Inquire(device, after) => self.inquire(shard, device, after),
                Effect::AskUntil(number) => self.ask_until(shard, number),
                Effect::Asked(ask, reply_to, acknowledged) => self.go_on_asked(shard, *ask, reply_to, acknowledged),
                Effect::Displace(_) => panic!("nobody comes back twice"),
                Effect::Expire(id) => self.shards[shard].expire(id, None),
                Effect::Recipients(mut recipients) => {
                    let page = block_on(recipients.next(&self.store));
                    self.shards[shard].recipients_read(*recipients, page);
                }
                Effect::LastItems(wanted) => {
                    let (owner, resource, nodes) = *wanted;
                    let config = &self.errand_config.services.pubsub;
                    let items = block_on(pubsub::last_items_of(config, &self.store, owner, &resource, &nodes, 0));
                    self.shards[shard].last_items(items.unwrap_or_default());
                }
                Effect::Watch(id) => {
                    self.shards[shard].watch_until(id, 0);
                    self.watched.push_back((shard, id));
                }
            }
        }
    }

    /// Some errand is run, in no order; at times the store cannot.
    pub(super) fn run_errand(&mut self) {
        if self.errands.is_empty() {
            return;
        }
        let at = self.random.below(self.errands.len());
        let (shard, account, errand) = self.errands.swap_remove(at);
        self.activity += 1;
        let serves = if let Errand::Serve(request) = &errand {
            Some((request.caller.clone(), request.id_raw.to_string()))
        } else {
            None
        };
        if self.plan.slow {
            return self.begin_errand(shard, account, errand, serves);
        }
        let refused = self.random.percent(self.plan.store_refuses_percent);
        self.store.refuse(refused.then_some(StoreError::Busy));
        let brought = block_on(errands::run(&self.errand_config, &self.slow_store, &account, errand, 0));
        self.store.refuse(None);
        let (whose, changes) = (Whose::Errand(account.clone(), None), self.slow_store.changes());
        self.owners.happened(&mut self.things, &self.store, &whose, changes, (self.activity, self.life));
        self.finish_errand(shard, &account, serves, brought);
    }

    /// What an errand brought, and whom of a session's services it answers with which id.
    pub(super) fn finish_errand(
        &mut self,
        shard: usize,
        account: &Jid,
        serves: Option<(Jid, String)>,
        brought: Return,
    ) {
        if let Some((caller, id)) = &serves {
            self.no_longer_awaits(shard, caller);
            if let Return::Serve(reply) = &brought {
                self.blocks.answer(self.activity, caller, id, reply);
            }
        }
        self.shards[shard].errand_done(account, brought);
    }

    pub(super) fn no_longer_awaits(&mut self, shard: usize, caller: &Jid) {
        for client in self.clients.iter_mut().filter(|client| client.shard == shard && client.jid == *caller) {
            client.awaiting = false;
        }
    }

    /// Some service answers, in no order.
    pub(super) fn serve(&mut self) {
        if self.services.is_empty() {
            return;
        }
        let at = self.random.below(self.services.len());
        let (shard, request, reply_to) = self.services.swap_remove(at);
        self.activity += 1;
        if matches!(request.target, Target::Service(_)) {
            return self.begin_service(shard, *request, reply_to);
        }
        let mut reply = Reply::default();
        let from = match &request.target {
            Target::Server(jid) | Target::Account(jid) | Target::Service(jid) if request.addressed => jid.as_str(),
            Target::Server(_) | Target::Account(_) | Target::Service(_) => "",
        };
        let to = request.caller.as_str();
        if self.random.percent(50) {
            write_reply_start(&mut reply.stanza, &request.id_raw, from, to);
            reply.stanza.extend_from_slice(b"</iq>");
        } else {
            write_error(&mut reply.stanza, Kind::Iq, Some(&request.id_raw), from, to, Condition::ItemNotFound.into());
        }
        if matches!(reply_to, ReplyTo::Session(_)) && !self.plan.exact {
            let of_roster = self.random.percent(50);
            reply.effects.push(match (request.iq_type == IqType::Get, of_roster) {
                (true, true) => ServiceEffect::RosterInterested,
                (true, false) => ServiceEffect::BlocklistInterested,
                (false, true) => {
                    let payload = format!("<query xmlns='{}'><group>{}</group></query>", ns::ROSTER, self.body());
                    ServiceEffect::RosterPush { payload }
                }
                (false, false) => {
                    let payload = format!("<block xmlns='{}'><x>{}</x></block>", ns::BLOCKING, self.body());
                    ServiceEffect::BlocklistPush { payload }
                }
            });
        }
        if !self.plan.exact && self.event_random.percent(50) {
            // Its service is the account's that was asked: it is at home on this shard.
            let from = match &request.target {
                Target::Account(account) => account.bare(),
                Target::Server(_) | Target::Service(_) => request.caller.bare(),
            };
            reply.effects.push(ServiceEffect::Pubsub(Box::new(self.event(&from))));
        }
        self.is_answered(shard, &reply_to);
        self.shards[shard].reply(&request.caller, reply_to, reply);
    }

    /// A session's client may be heard again.
    pub(super) fn is_answered(&mut self, shard: usize, reply_to: &ReplyTo) {
        if let ReplyTo::Session(id) = reply_to
            && let Some(client) =
                self.clients.iter_mut().find(|client| client.shard == shard && client.id == *id && !client.ended)
        {
            client.awaiting = false;
        }
    }

    /// An event of somebody's for some clients, by their full or bare JIDs, numbered.
    pub(super) fn event(&mut self, from: &Jid) -> pubsub::Outgoing {
        self.events += 1;
        let mut recipients = Vec::new();
        for index in 0..self.clients.len() {
            if self.event_random.percent(30) {
                let jid = &self.clients[index].jid;
                let jid = if self.event_random.percent(50) { jid.clone() } else { jid.bare() };
                if !recipients.contains(&jid) {
                    recipients.push(jid);
                }
            }
        }
        let notification = pubsub::Notification {
            from: from.clone(),
            message_type: MessageType::Headline,
            kind: pubsub::EventKind::Items,
            payload: format!("<event xmlns='{}'>{}</event>", ns::PUBSUB_EVENT, self.events).into_bytes(),
            recipients: pubsub::Recipients::these(recipients),
            audience: None,
        };
        pubsub::Outgoing { notifications: vec![notification], messages: Vec::new() }
    }
}
