//! Letting newcomers in, a step at a time: what they cost comes out of buckets, and of a turn's time they get their share.
//!
//! Whoever has not bound a resource is not read before its turn (see [`crate::admission::Newcomers`]): its bytes stay in the
//! kernel's buffer. And whatever ends by the thousand at once, connections and what waited for them, ends in slices too, so
//! that the fan-out of their last presence holds nobody up.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plaza_core::jid::Jid;
use plaza_core::stanza::{Condition, StanzaError};
use plaza_core::stream::{self, Inline, Need, Stream, Wish};

use super::connection::{Connection, Phase, Reading};
use super::tls::Tls;
use super::{Driver, entropy};
use crate::admission::{Layer, Refusal, Seat, Source};
use crate::ring::{Completion, Key, Op, Rank, Slot};
use crate::shard::SessionId;

/// A session to be made when its turn comes. There is one for a connection at most: it is not read meanwhile.
pub(super) struct Binding {
    key: Key,
    account: Jid,
    wish: Wish,
    inline: Inline,
}

/// Sessions that end in a turn, cut off or no longer waited for. Each may have contacts to tell.
const ENDED_PER_TURN: u32 = 128;
/// Sessions that become available in a turn, of those that waited.
const ARRIVED_PER_TURN: usize = 64;

impl Driver {
    // ---- accepting ---------------------------------------------------------------------------------------------

    pub(super) fn on_accept(&mut self, completion: &Completion) {
        let Some(index) = self.accepting.get(completion.key.index as usize).map(|found| u32::from(found.listener))
        else {
            return;
        };
        let source = self.ring.accepted_from(completion);
        if completion.result >= 0 {
            self.buckets.accepts.owe(self.nanos);
        }
        self.accept_again(completion.key, completion.result < 0);
        let Ok(slot) = u32::try_from(completion.result) else {
            self.shard.counters.accept_errors += u64::from(completion.result != -libc::ECANCELED);
            return;
        };
        self.shard.counters.accepted += 1;
        let seat = match self.admit(source) {
            Ok(seat) => seat,
            Err(refusal) => {
                self.shard.counters.refused[refusal] += 1;
                return self.turn_away(Slot(slot), index);
            }
        };
        self.shard.counters.admitted[Layer::Accept] += 1;
        let Some(plan) = self.listeners.get(index as usize) else { return };
        let tls = match (&plan.tls, plan.direct) {
            (Some(tls), true) => Tls::new(tls, true).ok(),
            _ => None,
        };
        let phase = if plan.direct {
            Phase::Handshake(None)
        } else {
            Phase::Negotiating(Box::new(Stream::new(Arc::clone(&plan.stream), None, entropy())))
        };
        let direct_without_tls = plan.direct && tls.is_none();
        let source = source.map(Source::from).unwrap_or_default();
        let key = self.insert(Slot(slot), index as u16, phase, tls.map(Box::new), (source, seat));
        if self.stopping.is_some()
            && let Some(Connection { phase: Phase::Negotiating(stream), out, .. }) = self.connection_mut(key)
        {
            // It came as the accepts were being cancelled.
            stream.handle_abort(stream::Condition::SystemShutdown, out);
            return self.finish(key);
        }
        if self.stopping.is_some() || direct_without_tls {
            self.shard.counters.accept_errors += 1;
            return self.close(key);
        }
        let timeout = if matches!(self.connection(key).map(|found| &found.phase), Some(Phase::Handshake(_))) {
            self.parts.limits.handshake_timeout
        } else {
            self.parts.limits.negotiation_timeout
        };
        self.set_deadline(key, timeout);
        self.arm(key);
    }

    fn admit(&self, source: Option<IpAddr>) -> Result<Option<Seat>, Refusal> {
        if self.unauthenticated >= self.parts.limits.unauthenticated_max {
            return Err(Refusal::ShardCrowded);
        }
        source.map_or(Ok(None), |source| self.parts.sources.enter(source))
    }

    /// Closes a connection as it comes, for which nothing was made yet.
    fn turn_away(&mut self, slot: Slot, listener: u32) {
        let key = self.insert(slot, listener as u16, Phase::Closing, None, (Source::default(), None));
        self.close(key);
    }

    /// Whether newcomers shall wait in the listeners' queues: there they cost nothing, and go to nobody else.
    fn listeners_wait(&self) -> bool {
        self.is_crowded() || self.buckets.accepts.wait(self.nanos) > 0
    }

    /// Half of those who may negotiate wait for their handshake: more would only be refused.
    fn is_crowded(&self) -> bool {
        self.newcomers.fresh() >= (self.parts.limits.unauthenticated_max as usize / 2).max(1)
    }

    pub(super) fn arm_listeners(&mut self) {
        if self.stopping.is_some() || self.full {
            return;
        }
        if self.listeners_wait() {
            self.shard.counters.accept_pauses += u64::from(!std::mem::replace(&mut self.accept_paused, true));
            return;
        }
        self.accept_paused = false;
        for (index, accepting) in self.accepting.iter_mut().enumerate() {
            for place in accepting.idle.drain(..) {
                self.ring.accept(&accepting.socket, index as u32, place);
            }
        }
    }

    // ---- a turn's share ----------------------------------------------------------------------------------------

    /// A connection can be read. Whether it is a newcomer, which waits for its turn.
    pub(super) fn wait_for_turn(&mut self, key: Key) -> bool {
        let Some(connection) = self.connection_mut(key) else { return false };
        let begun = match connection.phase {
            Phase::Handshake(_) => connection.flags.greeted,
            Phase::Negotiating(_) => true,
            Phase::Session(_) | Phase::Closing | Phase::Leaving(..) => return false,
        };
        connection.reading = Reading::Waiting;
        self.newcomers.wait(key, begun);
        true
    }

    /// Gives newcomers their share of the next turn. Behind all that sessions want of this one.
    pub(super) fn admit_newcomers(&mut self) {
        self.shard.go_on_arriving(ARRIVED_PER_TURN);
        self.bind_those_who_waited();
        let share = self.newcomers.share(self.parts.limits.newcomers.turn.as_nanos() as u64);
        for _ in 0..share {
            let Some((key, begun)) = self.newcomers.next(&mut self.buckets.handshakes, self.nanos) else { break };
            self.read_newcomer(key, begun);
        }
        self.shard.counters.held[Layer::Handshake] += self.newcomers.held();
        if self.accept_paused && !self.listeners_wait() {
            self.arm_listeners();
        }
    }

    fn read_newcomer(&mut self, key: Key, begun: bool) {
        let Some(connection) = self.connection_mut(key) else { return };
        if connection.reading != Reading::Waiting || connection.flags.closed {
            return;
        }
        connection.reading = Reading::None;
        if !matches!(connection.phase, Phase::Handshake(_) | Phase::Negotiating(_)) {
            return self.arm(key);
        }
        connection.reading = Reading::Once;
        connection.operations += 1;
        connection.flags.greeted = true;
        let slot = connection.slot;
        self.ring.recv(slot, key, false, Rank::Stranger);
        self.shard.counters.admitted[Layer::Handshake] += u64::from(!begun);
    }

    /// Whether a completion is what was read of a newcomer.
    pub(super) fn is_of_stranger(&self, completion: &Completion) -> bool {
        completion.op == Op::Recv
            && self.connection(completion.key).is_some_and(|connection| connection.flags.unauthenticated)
    }

    /// Hears what was read of newcomers in this turn; how long a step takes is remembered.
    pub(super) fn hear_strangers(&mut self) {
        while let Some(completion) = self.strangers.pop_front() {
            let began = Instant::now();
            self.on_completion(completion);
            self.newcomers.took(began.elapsed().as_nanos() as u64);
            self.hand_over_full();
        }
    }

    /// How long until a newcomer, or what a newcomer waits for, can go on; `None` if nobody waits.
    pub(super) fn newcomers_due(&self) -> Option<Duration> {
        let newcomers = self.newcomers.due(&self.buckets.handshakes, self.nanos);
        let binds = (!self.bindings.is_empty()).then(|| self.buckets.binds.wait(self.nanos));
        let accepts = (self.accept_paused && self.stopping.is_none() && !self.is_crowded())
            .then(|| self.buckets.accepts.wait(self.nanos));
        let soonest = [newcomers, binds, accepts, self.shard.arriving_due()].into_iter().flatten().min()?;
        Some(Duration::from_nanos(soonest))
    }

    // ---- logging in --------------------------------------------------------------------------------------------

    /// Whether a login is not looked at: its account failed too often from where it comes, or there are too many logins.
    /// Who has a token goes before all others: it was here before, nobody guesses one, and it costs least.
    pub(super) fn turns_down(&mut self, key: Key, account: &Jid, need: Need) -> bool {
        if matches!(need, Need::Tokens(_)) {
            self.shard.counters.admitted[Layer::Login] += 1;
            return false;
        }
        let (limits, second) = (self.parts.limits.newcomers.failures, self.second());
        let Some(source) = self.connection(key).map(|connection| connection.source) else { return false };
        let tag = self.parts.sources.tag(source, account.as_str());
        if self.failures.is_barred(tag, limits, second) {
            self.shard.counters.barred += 1;
            return true;
        }
        if !self.buckets.logins.take(self.nanos) {
            self.shard.counters.turned_down[Layer::Login] += 1;
            return true;
        }
        self.shard.counters.admitted[Layer::Login] += 1;
        if let Some(connection) = self.connection_mut(key) {
            connection.tag = Some(tag);
        }
        false
    }

    /// An attempt has ended: whether it counts against its account and source.
    pub(super) fn note_attempt(&mut self, key: Key, granted: bool, wrong: bool) {
        let Some(tag) = self.connection_mut(key).and_then(|connection| connection.tag.take()) else { return };
        let second = self.second();
        if granted {
            self.failures.succeeded(tag);
        } else if wrong {
            self.failures.failed(tag, self.parts.limits.newcomers.failures, second);
        }
    }

    /// Whether there is time to derive keys from a password.
    pub(super) fn has_time_for_password(&mut self) -> bool {
        let there = self.buckets.passwords.take(self.nanos);
        let counters = &mut self.shard.counters;
        let count = if there { &mut counters.admitted } else { &mut counters.turned_down };
        count[Layer::Password] += 1;
        there
    }

    /// What a registration is told that there is no time for.
    pub(super) fn no_time() -> StanzaError {
        Condition::ResourceConstraint.with_text("too many registrations at once")
    }

    /// Seconds since the start.
    fn second(&self) -> u32 {
        (self.nanos / 1_000_000_000) as u32
    }

    // ---- binding -----------------------------------------------------------------------------------------------

    /// A session is asked for: it is made now, or when those before it have theirs. Resumptions never wait.
    pub(super) fn bind_in_turn(&mut self, key: Key, account: Jid, wish: Wish, inline: Inline) {
        if self.bindings.is_empty() && self.buckets.binds.take(self.nanos) {
            self.shard.counters.admitted[Layer::Bind] += 1;
            return self.bind(key, &account, &wish, inline);
        }
        self.shard.counters.held[Layer::Bind] += 1;
        self.bindings.push_back(Binding { key, account, wish, inline });
    }

    fn bind_those_who_waited(&mut self) {
        while let Some(Binding { key, .. }) = self.bindings.front() {
            let key = *key;
            // Nothing but this is answered to it, so it is where it was, unless it has gone.
            let waits = matches!(self.connection(key).map(|found| &found.phase), Some(Phase::Negotiating(_)));
            if waits && !self.buckets.binds.take(self.nanos) {
                return;
            }
            let Some(Binding { key, account, wish, inline }) = self.bindings.pop_front() else { return };
            if waits {
                self.shard.counters.admitted[Layer::Bind] += 1;
                self.bind(key, &account, &wish, inline);
                self.go_on(key);
            }
        }
    }

    // ---- ending ------------------------------------------------------------------------------------------------

    /// The peer closed its side, or the connection broke. Of sessions so many end in a turn, the others in the next ones.
    pub(super) fn on_end(&mut self, key: Key) {
        let budget = self.ends_left;
        let Some(connection) = self.connection_mut(key) else { return };
        if connection.flags.lost {
            return;
        }
        if matches!(connection.phase, Phase::Session(_)) {
            if budget == 0 {
                connection.flags.lost = true;
                return self.lost.push_back(key);
            }
            self.ends_left -= 1;
        }
        self.lose_session(key);
        self.close(key);
    }

    /// Goes on ending what could not end in the turns before.
    pub(super) fn go_on_ending(&mut self) {
        while self.ends_left > 0 {
            let Some(key) = self.lost.pop_front() else { break };
            self.ends_left -= 1;
            self.lose_session(key);
            self.close(key);
        }
        while self.ends_left > 0 {
            let Some(token) = self.expired.pop_front() else { break };
            self.ends_left -= 1;
            self.shard.expire(SessionId::from_token(token), Some(u64::from(self.tick)));
            self.hand_over_full();
        }
        self.ends_left = ENDED_PER_TURN;
    }
}
