//! What goes to other shards and comes from them: a batch each per turn, and who waits for room in one.

use super::*;

impl Shard {
    /// Appends a stanza to this turn's batch for another shard, or lets the sender wait for room in it.
    pub(super) fn send_handoff(
        &mut self,
        home: ShardId,
        envelope: &Envelope<'_>,
        origin: SessionId,
        body: &Body<'_>,
    ) -> Flow {
        let Some(batch) = self.batches.get_mut(usize::from(home.0)) else { return self.ignore(DropReason::NoRoute) };
        if batch.is_full() {
            return self.wait_for_mesh(home, origin);
        }
        batch.stanza(envelope, Some(origin), |out| body.append(out, None));
        self.counters.handoffs_out += 1;
        Flow::Continue
    }

    /// Lets a session wait until the batch to a shard is on its way.
    pub(super) fn wait_for_mesh(&mut self, to: ShardId, id: SessionId) -> Flow {
        self.counters.mesh_full += 1;
        if let Some(session) = self.get_mut(id)
            && !std::mem::replace(&mut session.flags.waits_for_mesh, true)
            && let Some(waiters) = self.mesh_waiters.get_mut(usize::from(to.0))
        {
            waiters.push(id);
        }
        Flow::Stalled
    }

    /// Presence to contacts goes to any shard: its session waits if the batch to one is full, rather than that some never
    /// hear of it.
    pub(super) fn stall_to_present(&mut self, id: SessionId) -> Option<Flow> {
        let full = self.batches.iter().position(|batch| batch.is_full())?;
        Some(self.wait_for_mesh(ShardId(u16::try_from(full).ok()?), id))
    }

    /// Whether a batch should be handed over before the turn ends, since it is full of what nobody can be made to wait for.
    /// Once for each time. Senders wait for the turn's end: that is their pace.
    pub fn take_full(&mut self) -> bool {
        std::mem::take(&mut self.full)
    }

    /// The batch for a shard, to be handed over; `None` if nothing is in it. `spare` takes its place.
    pub fn take_batch(&mut self, to: ShardId, spare: Box<Batch>) -> Result<Box<Batch>, Box<Batch>> {
        match self.batches.get_mut(usize::from(to.0)) {
            Some(batch) if !batch.is_empty() => Ok(std::mem::replace(batch, spare)),
            Some(_) | None => Err(spare),
        }
    }

    /// Whether anything waits for a shard.
    pub fn has_batch(&self, to: ShardId) -> bool {
        self.batches.get(usize::from(to.0)).is_some_and(|batch| !batch.is_empty())
    }

    /// The mesh had no room: the batch goes back to where it was. Nothing was appended since.
    pub fn restore_batch(&mut self, to: ShardId, batch: Box<Batch>) -> Option<Box<Batch>> {
        let place = self.batches.get_mut(usize::from(to.0))?;
        debug_assert!(place.is_empty(), "a batch is restored in the turn it was taken");
        Some(std::mem::replace(place, batch))
    }

    /// The mesh took a batch: who waited for room may go on.
    pub fn batch_sent(&mut self, to: ShardId) {
        let Some(waiters) = self.mesh_waiters.get_mut(usize::from(to.0)) else { return };
        if waiters.is_empty() {
            return;
        }
        for id in std::mem::take(waiters) {
            if let Some(session) = self.get_mut(id) {
                session.flags.waits_for_mesh = false;
            }
            self.resume(id);
        }
    }

    /// Takes a batch from another shard; the emptied batch is left for reuse.
    pub fn handoff(&mut self, from_shard: ShardId, batch: &mut Batch) {
        let mut at = 0;
        for position in 0..batch.handoffs.len() {
            let Some(&handoff) = batch.handoffs.get(position) else { break };
            match handoff {
                Handoff::Stanza { hash, class, origin, to_len, from_len, id_len, stanza_len } => {
                    let mut text = |len: usize| {
                        let part = batch.bytes.get(at..at + len).unwrap_or_default();
                        at += len;
                        std::str::from_utf8(part).unwrap_or_default()
                    };
                    let to = text(usize::from(to_len));
                    let from = text(usize::from(from_len));
                    let id = id_len.map(|len| text(len as usize));
                    let stanza = text(stanza_len as usize);
                    self.counters.handoffs_in += 1;
                    let envelope = Envelope { class, hash, to: JidRef::from_normal(to), from, id };
                    let origin = origin.map_or(Origin::Broker, |session| Origin::Remote(from_shard, session));
                    self.take_handoff(&envelope, origin, stanza);
                }
                Handoff::Fan { presence, from_len, text_len, recipients_len } => {
                    let mut part = |len: usize| {
                        let part = batch.bytes.get(at..at + len).unwrap_or_default();
                        at += len;
                        part
                    };
                    let from = std::str::from_utf8(part(usize::from(from_len))).unwrap_or_default();
                    let text = part(text_len as usize);
                    let to = part(recipients_len as usize);
                    self.counters.handoffs_in += 1;
                    let fan = presence::Fan { presence, from, text };
                    for to in batch::recipients(to) {
                        self.present(self.homes.hash(to), to, &fan);
                    }
                }
                Handoff::Event { from_len, node_len, text_len, recipients_len } => {
                    let mut part = |len: usize| {
                        let part = batch.bytes.get(at..at + len).unwrap_or_default();
                        at += len;
                        part
                    };
                    let from = std::str::from_utf8(part(usize::from(from_len))).unwrap_or_default();
                    let node = std::str::from_utf8(part(usize::from(node_len))).unwrap_or_default();
                    let text = part(text_len as usize);
                    let to = part(recipients_len as usize);
                    self.counters.handoffs_in += 1;
                    for to in batch::recipients(to) {
                        self.notify(to, &interest::Event { from, node, text });
                    }
                }
                Handoff::Wants { from_len, nodes_len, recipients_len } => {
                    let mut part = |len: usize| {
                        let part = batch.bytes.get(at..at + len).unwrap_or_default();
                        at += len;
                        part
                    };
                    let from = std::str::from_utf8(part(usize::from(from_len))).unwrap_or_default();
                    let nodes = std::str::from_utf8(part(nodes_len as usize)).unwrap_or_default();
                    let to = part(recipients_len as usize);
                    self.counters.handoffs_in += 1;
                    let nodes: Nodes = nodes.split('\0').map(Into::into).collect();
                    for to in batch::recipients(to) {
                        self.is_wanted(to, JidRef::from_normal(from), &nodes);
                    }
                }
                Handoff::Created { account_len } => {
                    let account = batch.bytes.get(at..at + usize::from(account_len)).unwrap_or_default();
                    at += usize::from(account_len);
                    let account = JidRef::from_normal(std::str::from_utf8(account).unwrap_or_default());
                    self.account_changed(account);
                }
                Handoff::Changed { hash, jid_len } => {
                    let jid = batch.bytes.get(at..at + usize::from(jid_len)).unwrap_or_default();
                    at += usize::from(jid_len);
                    self.renew_things(hash, JidRef::from_normal(std::str::from_utf8(jid).unwrap_or_default()));
                }
                Handoff::Ask { hash, number, jid_len, from_len, payload_len } => {
                    let mut text = |len: usize| {
                        let part = batch.bytes.get(at..at + len).unwrap_or_default();
                        at += len;
                        std::str::from_utf8(part).unwrap_or_default()
                    };
                    let (jid, from) = (text(usize::from(jid_len)), text(usize::from(from_len)));
                    let (jid, from) = (JidRef::from_normal(jid), JidRef::from_normal(from));
                    self.ask_here(hash, (jid, from), (from_shard, number), text(payload_len as usize));
                }
                Handoff::Asked { number, acknowledged, payload_len } => {
                    let payload = batch.bytes.get(at..at + payload_len as usize).unwrap_or_default();
                    at += payload_len as usize;
                    self.asked(number, acknowledged, std::str::from_utf8(payload).unwrap_or_default());
                }
                Handoff::Settle(id) => self.settle_for(from_shard, id),
                Handoff::Settled(id) => self.settled(id),
                Handoff::Pause(id) => {
                    if let Some(session) = self.get_mut(id) {
                        session.paused = session.paused.saturating_add(1);
                        self.release_deaf(id);
                    }
                }
                Handoff::Resume(id) => {
                    if let Some(session) = self.get_mut(id) {
                        session.paused = session.paused.saturating_sub(1);
                        if session.paused == 0 {
                            self.resume(id);
                        }
                    }
                }
            }
        }
        batch.clear();
    }

    pub(super) fn take_handoff(&mut self, envelope: &Envelope<'_>, origin: Origin, stanza: &str) {
        let body = Body::Bytes(stanza.as_bytes());
        if envelope.to.local().is_none() {
            self.serve_handoff(envelope, stanza);
        } else if !Self::is_account_iq(envelope) {
            self.deliver(envelope, origin, &body);
        } else if self.hold_iq(envelope, origin, &body).is_none() {
            self.serve_handoff(envelope, stanza);
        }
    }

    /// An iq the server answers on behalf of an account: rare enough to be scanned again for its payload.
    pub(super) fn serve_handoff(&mut self, envelope: &Envelope<'_>, stanza: &str) {
        let mut scanner = std::mem::take(&mut self.scanner);
        scanner.reset();
        let namespaces = StreamNamespaces::default();
        let caller = JidRef::from_normal(envelope.from).to_jid();
        if let Ok(Scanned::Element { element, .. }) =
            scanner.next(&ScanLimits::AFTER_AUTH, &namespaces, stanza.as_bytes())
            && let Ok(parsed) = Stanza::classify(element, ns::CLIENT)
        {
            let to = envelope.to.to_jid();
            let target = if to.as_jid().local().is_some() { Target::Account(to) } else { Target::Service(to) };
            self.call_service(&caller, &parsed, target, true, ReplyTo::Address(caller.clone()));
        } else {
            self.counters.drops[DropReason::Unhandled] += 1;
        }
        self.scanner = scanner;
    }
}
