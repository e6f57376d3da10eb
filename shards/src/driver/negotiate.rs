//! Carrying out what a stream being negotiated asks for: TLS, credentials, the move to the home shard, bind.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plaza_core::jid::Jid;
use plaza_core::register::Registration;
use plaza_core::sasl::ht::TokenSecret;
use plaza_core::sasl::{SaslFailure, scram};
use plaza_core::sm::SmId;
use plaza_core::stanza::StanzaError;
use plaza_core::stream::{
    Action, Claimed, Condition, Credentials, Entropy, Inline, IssuedToken, Need, Stream, TlsFacts, Wish, part_for,
    tagged,
};
use plaza_core::xml::Scanner;
use plaza_registry::store::StoreError;
use plaza_registry::tokens::Upkeep;

use super::connection::{Migrant, Phase};
use super::tls::Tls;
use super::{Arrival, Driver, Outcome, entropy, guarded, held, unix_millis};
use crate::metrics::Handshake;
use crate::ring::{Completion, Key, Ring};

impl Driver {
    /// Feeds bytes to a stream being negotiated and carries out what it asks. Returns the bytes done with.
    pub(super) fn feed_negotiation(&mut self, key: Key, bytes: &[u8], scanner: &mut Scanner) -> usize {
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            let Some(connection) = self.connection_mut(key) else { return bytes.len() };
            let Phase::Negotiating(stream) = &mut connection.phase else { return used };
            if rest.is_empty() || connection.flags.held || !stream.wants_bytes() {
                return used;
            }
            let out = &mut connection.out;
            let Some(count) = guarded(|| stream.handle_bytes(scanner, rest, out)) else {
                self.shard.counters.panics += 1;
                self.end_stream(key, Condition::InternalServerError);
                return bytes.len();
            };
            used += count;
            let acted = self.act(key);
            if count == 0 && !acted {
                return used;
            }
        }
    }

    /// Carries out the stream's actions; whether there were any.
    fn act(&mut self, key: Key) -> bool {
        let mut acted = false;
        loop {
            let Some(connection) = self.connection_mut(key) else { return acted };
            if !connection.out.is_empty() {
                self.mark_flush(key);
            }
            let Some(connection) = self.connection_mut(key) else { return acted };
            let Phase::Negotiating(stream) = &mut connection.phase else { return acted };
            let attempt = stream.take_attempt();
            let action = stream.poll_action();
            match attempt {
                Some(Ok(())) => {
                    self.shard.counters.auth_ok += 1;
                    self.note_attempt(key, true, false);
                }
                Some(Err(failure)) => {
                    self.shard.counters.auth_failed[failure] += 1;
                    self.note_attempt(key, false, failure == SaslFailure::NotAuthorized);
                    if held::tells_of_credentials(failure) {
                        self.hold(key);
                    }
                }
                None => {}
            }
            let Some(action) = action else { return acted };
            acted = true;
            match action {
                Action::StartTls => self.start_tls(key),
                Action::Authenticate { account, need } => self.authenticate(key, account, need),
                Action::VerifyPassword { .. } if !self.has_time_for_password() => self.on_password(key, None),
                Action::VerifyPassword { keys, password } => {
                    let verdict = self.parts.helpers.run(move || scram::verify_password(&keys, &password));
                    let outcomes = std::rc::Rc::clone(&self.outcomes);
                    self.tasks.spawn(async move {
                        let matches = verdict.await;
                        outcomes.borrow_mut().push_back(Outcome::Password(key, matches));
                    });
                }
                Action::Register(registration) if !self.has_time_for_password() => {
                    self.on_registered(key, &registration.account, Err(Self::no_time()));
                }
                Action::Register(registration) => self.register(key, *registration),
                Action::Tokens { account, client, proof, wanted } => {
                    let Entropy(random) = entropy();
                    let fresh = TokenSecret(random.first_chunk().copied().unwrap_or_default());
                    let upkeep = Upkeep { client, proof, wanted, fresh, unix_seconds: unix_millis() / 1_000 };
                    self.shard.keep_tokens(key, account.as_jid(), Box::new(upkeep));
                }
                Action::Bind { account, resource, inline } => {
                    self.bind_in_turn(key, account, resource, inline);
                }
                Action::Resume { account, previd, h } => self.resume(key, &account, &previd, h),
                Action::Established(bound) => {
                    // `bind` or `resume` has the session; the stream is not needed any more.
                    if let Some((id, resumed)) = self.binding.take() {
                        if resumed {
                            self.shard.send_again(id);
                        }
                        self.shard.describe(id, bound.namespaces, bound.lang);
                        if let Some(connection) = self.connection_mut(key) {
                            connection.phase = Phase::Session(id);
                            connection.due = 0;
                            connection.active = 0;
                            connection.flags.busy = false;
                            connection.flags.fresh = true;
                        }
                        self.release_negotiation(key);
                    }
                }
                Action::Close(violation) => {
                    if let Some(violation) = violation {
                        self.shard.counters.stream_errors[violation.condition()] += 1;
                        tracing::debug!(shard = self.parts.id.0, connection = key.index, ?violation, "stream refused");
                    }
                    self.finish(key);
                }
            }
        }
    }

    pub(super) fn bind(&mut self, key: Key, account: &Jid, wish: &Wish, inline: Inline) {
        let Entropy(random) = entropy();
        let fresh = u128::from_le_bytes(random.first_chunk().copied().unwrap_or_default());
        let resource = match wish {
            Wish::Any => None,
            Wish::Named(resource) => Some(Cow::Borrowed(&**resource)),
            Wish::Tagged { tag, client } => {
                let ours = match client {
                    Some(client) => part_for(&self.parts.server_secret, account, *client),
                    None => random.last_chunk().copied().unwrap_or_default(),
                };
                Some(Cow::Owned(tagged(tag.as_deref(), ours)))
            }
        };
        let claimed = self.shard.bind(key, account, resource.as_deref(), fresh).map(|(id, jid)| {
            let sm = self.shard.begin_with(id, inline);
            (id, Claimed { jid, sm })
        });
        let Some(connection) = self.connection_mut(key) else { return };
        let Phase::Negotiating(stream) = &mut connection.phase else { return };
        match claimed {
            Ok((id, claimed)) => {
                stream.handle_bind(Ok(claimed), &mut connection.out);
                self.binding = Some((id, false));
            }
            Err(condition) => stream.handle_bind(Err(condition), &mut connection.out),
        }
    }

    fn resume(&mut self, key: Key, account: &Jid, previd: &SmId, h: u32) {
        let resumed = self.shard.resume_session(key, account, previd, h);
        let Some(connection) = self.connection_mut(key) else { return };
        let Phase::Negotiating(stream) = &mut connection.phase else { return };
        match resumed {
            Ok((id, resumed)) => {
                stream.handle_resume(Ok(resumed), &mut connection.out);
                self.binding = Some((id, true));
            }
            Err(refusal) => stream.handle_resume(Err(refusal), &mut connection.out),
        }
    }

    // ---- registration -----------------------------------------------------------------------------------------

    /// An account is asked for: whether it is made depends on nothing of this shard.
    fn register(&mut self, key: Key, registration: Registration) {
        let (registrar, store) = (self.parts.services.registration.clone(), self.parts.store.clone());
        let outcomes = std::rc::Rc::clone(&self.outcomes);
        self.tasks.spawn(async move {
            let answer = registrar.register(&store, &registration, unix_millis()).await;
            outcomes.borrow_mut().push_back(Outcome::Registered(key, registration.account, answer));
        });
    }

    /// An account was made, or not. Its home may remember that there was none: the client has tried to log in, perhaps.
    pub(super) fn on_registered(&mut self, key: Key, account: &Jid, answer: Result<(), StanzaError>) {
        match answer {
            Ok(()) => {
                self.shard.counters.registered += 1;
                self.shard.account_created(account.as_jid());
            }
            Err(error) => {
                self.shard.counters.not_registered[error.condition] += 1;
                self.hold(key);
            }
        }
        let Some(connection) = self.connection_mut(key) else { return };
        let Phase::Negotiating(stream) = &mut connection.phase else { return };
        stream.handle_registered(answer, &mut connection.out);
        self.go_on(key);
    }

    // ---- TLS ---------------------------------------------------------------------------------------------------

    /// What was answered so far goes out in clear, the handshake's records behind it.
    fn start_tls(&mut self, key: Key) {
        let timeout = self.parts.limits.handshake_timeout;
        let Some(connection) = self.connections.get_mut(key.index as usize) else { return };
        let listener = self.listeners.get(usize::from(connection.listener));
        let tls = listener.and_then(|listener| listener.tls.as_deref());
        let Some(mut tls) = tls.and_then(|tls| Tls::new(tls, false).ok()) else { return self.close(key) };
        tls.raw_out = std::mem::take(&mut connection.out);
        connection.tls = Some(Box::new(tls));
        let phase = std::mem::replace(&mut connection.phase, Phase::Handshake(None));
        if let Phase::Negotiating(stream) = phase {
            connection.phase = Phase::Handshake(Some(stream));
        }
        self.set_deadline(key, timeout);
        self.mark_flush(key);
    }

    /// The TLS handshake is over.
    pub(super) fn on_secured(&mut self, key: Key, facts: TlsFacts) {
        self.shard.counters.tls_handshakes[Handshake::Ok] += 1;
        let timeout = self.parts.limits.negotiation_timeout;
        let Some(connection) = self.connections.get_mut(key.index as usize) else { return };
        let Phase::Handshake(waiting) = std::mem::replace(&mut connection.phase, Phase::Closing) else { return };
        let stream = match waiting {
            Some(mut stream) => {
                stream.handle_tls(facts, entropy());
                stream
            }
            None => {
                let Some(listener) = self.listeners.get(usize::from(connection.listener)) else { return };
                Box::new(Stream::new(Arc::clone(&listener.stream), Some(facts), entropy()))
            }
        };
        connection.phase = Phase::Negotiating(stream);
        self.set_deadline(key, timeout);
        // What came in one read with the handshake's last message was decrypted before we were told.
        self.mark_ready(key);
    }

    // ---- credentials -------------------------------------------------------------------------------------------

    /// SASL named an account: from here on the connection lives on that account's home shard.
    fn authenticate(&mut self, key: Key, account: Jid, need: Need) {
        if self.shard.home(account.as_jid()) == self.parts.id {
            return self.look_up(key, account, need);
        }
        let Some(connection) = self.connection_mut(key) else { return };
        let phase = std::mem::replace(&mut connection.phase, Phase::Closing);
        let Phase::Negotiating(stream) = phase else { return };
        connection.phase = Phase::Leaving(stream, Box::new((account, need)));
        self.leave(key);
    }

    fn look_up(&mut self, key: Key, account: Jid, need: Need) {
        if self.turns_down(key, &account, need) {
            return self.answer(key, Credentials::Refused(SaslFailure::TemporaryAuthFailure));
        }
        if self.shard.login(key, account.as_jid()) {
            return self.on_account(key, &account, need, Ok(()));
        }
        self.lookups.insert(key, (account, need));
    }

    /// The facts a login waits for are there, or cannot be had.
    pub(super) fn on_known(&mut self, key: Key, known: Result<(), StoreError>) {
        if let Some((account, need)) = self.lookups.remove(&key) {
            self.on_account(key, &account, need, known);
        }
    }

    fn on_account(&mut self, key: Key, account: &Jid, need: Need, known: Result<(), StoreError>) {
        let credentials = match known.map(|()| self.shard.facts(account.as_jid())) {
            Err(_) => Credentials::Refused(SaslFailure::TemporaryAuthFailure),
            Ok(None) => {
                Credentials::Unknown { secret: scram::stand_in_secret(&self.parts.server_secret, account.as_str()) }
            }
            Ok(Some(found)) if found.account.disabled => Credentials::Refused(SaslFailure::AccountDisabled),
            Ok(Some(found)) => match need {
                Need::Keys(hash) => Credentials::Keys(found.account.keys(hash).clone()),
                Need::Account => Credentials::Granted,
                Need::Tokens(client) => Credentials::Tokens(found.tokens.of(client, unix_millis() / 1_000)),
            },
        };
        self.answer(key, credentials);
    }

    fn answer(&mut self, key: Key, credentials: Credentials) {
        let Some(connection) = self.connection_mut(key) else { return };
        let Phase::Negotiating(stream) = &mut connection.phase else { return };
        stream.handle_credentials(credentials, entropy(), &mut connection.out);
        self.go_on(key);
    }

    /// A client's tokens are kept, or its login fails after all.
    pub(super) fn on_tokens(&mut self, key: Key, kept: Result<Option<IssuedToken>, SaslFailure>) {
        let Some(connection) = self.connection_mut(key) else { return };
        let Phase::Negotiating(stream) = &mut connection.phase else { return };
        stream.handle_tokens(kept, &mut connection.out);
        self.go_on(key);
    }

    pub(super) fn on_password(&mut self, key: Key, matches: Option<bool>) {
        let Some(connection) = self.connection_mut(key) else { return };
        let Phase::Negotiating(stream) = &mut connection.phase else { return };
        stream.handle_password(matches, &mut connection.out);
        self.go_on(key);
    }

    /// An answer arrived: act on it, then take the input that waited.
    pub(super) fn go_on(&mut self, key: Key) {
        self.act(key);
        self.mark_ready(key);
    }

    // ---- moving home -------------------------------------------------------------------------------------------

    /// Leaves for the home shard as soon as nothing is on its way to the client. Nothing is armed for reading here:
    /// negotiation reads once at a time, and the read that brought the name is done.
    pub(super) fn leave(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        let unsent = !connection.out.is_empty() || connection.tls.as_ref().is_some_and(|tls| !tls.raw_out.is_empty());
        if unsent {
            return self.mark_flush(key);
        }
        if connection.flags.sending || connection.flags.exporting || connection.flags.closed {
            return;
        }
        connection.flags.exporting = true;
        connection.operations += 1;
        let slot = connection.slot;
        self.ring.export(slot, key);
    }

    pub(super) fn on_exported(&mut self, key: Key, completion: &Completion) {
        let fd = Ring::exported(completion);
        let started = self.started;
        let carry = self.take_carry(key);
        let Some(connection) = self.connection_mut(key) else { return };
        let phase = std::mem::replace(&mut connection.phase, Phase::Closing);
        let (Some(fd), Phase::Leaving(stream, wish)) = (fd, phase) else { return self.close(key) };
        let (account, need) = *wish;
        let migrant = Migrant {
            fd,
            tls: connection.tls.take(),
            stream,
            carry,
            listener: connection.listener,
            deadline: started + super::TICK * connection.due,
            source: connection.source,
            seat: connection.seat.take(),
            account,
            need,
        };
        connection.flags.closed = true;
        connection.operations += 1;
        let slot = connection.slot;
        self.ring.close(slot, key, None);
        self.release_negotiation(key);
        let home = self.shard.home(migrant.account.as_jid());
        self.departures.push_back((home, Box::new(migrant)));
    }

    /// A connection comes home: into the ring first.
    pub(super) fn on_migrant(&mut self, migrant: Migrant) {
        let Migrant { fd, tls, stream, carry, listener, account, need, deadline, source, seat } = migrant;
        let index = self.ring.import(fd, 0);
        self.arrivals.insert(index, Arrival { tls, stream, carry, listener, account, need, deadline, source, seat });
    }

    pub(super) fn on_import(&mut self, completion: &Completion) {
        let slot = self.ring.imported(completion);
        let Some(arrival) = self.arrivals.remove(&completion.key.index) else { return };
        let Ok(slot) = slot else {
            self.shard.counters.accept_errors += 1;
            if let Some(seat) = arrival.seat {
                self.parts.sources.leave(seat);
            }
            return;
        };
        let phase = Phase::Negotiating(arrival.stream);
        let key = self.insert(slot, arrival.listener, phase, arrival.tls, (arrival.source, arrival.seat));
        if let Some(carry) = arrival.carry {
            self.put_carry(key, carry);
        }
        let left = arrival.deadline.saturating_duration_since(Instant::now());
        self.set_deadline(key, left.max(Duration::from_millis(100)));
        if self.stopping.is_some() {
            if let Some(connection) = self.connection_mut(key)
                && let Phase::Negotiating(stream) = &mut connection.phase
            {
                stream.handle_abort(Condition::SystemShutdown, &mut connection.out);
            }
            return self.finish(key);
        }
        self.look_up(key, arrival.account, arrival.need);
    }
}
