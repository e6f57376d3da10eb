//! Sessions come and go: logging in, binding a resource, ending; and what changes about their account from outside.

use plaza_core::jid::{Jid, JidRef};
use plaza_core::stanza::Condition;
use plaza_core::stream;
use plaza_core::xml::StreamNamespaces;
use plaza_registry::facts::Facts;

use super::session::{self, Session};
use super::{Effect, SessionId, Shard, managed, work};
use crate::ring::{GENERATION_MAX, Key};

impl Shard {
    /// Makes a session for an account at home here. `fresh` becomes the resource if the client asked for none.
    ///
    /// # Errors
    /// [`Condition::ResourceConstraint`] when the account has its most resources, [`Condition::BadRequest`] for a
    /// resource that is none.
    pub fn bind(
        &mut self,
        connection: Key,
        account: &Jid,
        resource: Option<&str>,
        fresh: u128,
    ) -> Result<(SessionId, Jid), Condition> {
        let jid = match resource {
            Some(resource) => account.with_resource(resource),
            None => account.with_resource(&format!("{fresh:032x}")),
        }
        .map_err(|_| Condition::BadRequest)?;
        let hash = self.homes.hash(account.as_jid());
        // RFC 6120 §7.7.2.2: the newcomer gets the resource, the old stream ends with `conflict`.
        if let Some(old) = self.session_of(hash, jid.as_jid()) {
            self.terminate(old, stream::Condition::Conflict);
        }
        let most = usize::from(self.config.sessions_per_account_max);
        let count = |shard: &Self| shard.accounts.find(hash, account.as_jid()).map_or(0, |found| found.sessions.len());
        if count(self) >= most
            && let Some(waiting) = self.sessions_of(account.as_jid()).into_iter().find(|&id| self.is_hibernated(id))
        {
            self.give_up(waiting); // Who is there comes before who may come back.
        }
        if count(self) >= most {
            return Err(Condition::ResourceConstraint);
        }
        let index = self.accounts.find_or_insert(hash, account.as_jid());
        self.generation = (self.generation + 1) & GENERATION_MAX;
        let generation = self.generation;
        let session = self.sessions.insert(Session {
            jid: jid.clone(),
            connection,
            outbox: Vec::new(),
            in_flight: 0,
            account: index,
            generation,
            paused: 0,
            managed: None,
            priority: None,
            flags: session::Flags::default(),
            counted: session::Counted::default(),
            extras: None,
        });
        let session = u32::try_from(session).map_err(|_| Condition::ResourceConstraint)?;
        if let Some(account) = self.accounts.get_mut(index) {
            account.unmet |= account.sessions.is_empty() && account.facts.is_none() && !account.absent;
            account.sessions.push(session);
        }
        let id = SessionId { index: session, generation };
        self.recount(id);
        Ok((id, jid))
    }

    /// Remembers what a stream's header said beyond the usual.
    pub fn describe(&mut self, id: SessionId, namespaces: StreamNamespaces, lang: Option<Box<str>>) {
        if namespaces == StreamNamespaces::default() && lang.is_none() {
            return;
        }
        if let Some(session) = self.get_mut(id) {
            let extras = session.extras();
            extras.namespaces = namespaces;
            extras.lang = lang;
        }
    }

    /// Takes a session out of its account and tells who should know; its stream is being ended.
    pub(super) fn unlink(&mut self, id: SessionId) {
        let Some(session) = self.get_mut(id) else { return };
        if session.flags.ended {
            return;
        }
        session.flags.ended = true;
        let account = session.account;
        self.forget_caps(id);
        self.presence_gone(id);
        self.set_carbons(id, false);
        self.accounts.unlink(account, id.index, self.facts_bytes_max());
        self.release_waiters(id);
        // What the client does not have goes on to its account, so it is not written to it any more.
        let Some(session) = self.get_mut(id) else { return };
        if let Some(managed) = session.managed.take() {
            session.outbox = Vec::new();
            let jid = session.jid.clone();
            self.recount(id);
            self.hand_on(&jid, *managed);
        }
    }

    /// Ends a session from this side: unlinks it and asks the driver to end the stream.
    pub fn terminate(&mut self, id: SessionId, condition: stream::Condition) {
        let Some(session) = self.get_mut(id) else { return };
        if session.flags.ended {
            return;
        }
        let connection = session.connection;
        if connection == managed::NO_CONNECTION {
            return self.give_up(id);
        }
        self.unlink(id);
        self.effects.push_back(Effect::End(connection, condition));
    }

    /// Whether something that others sent is on its way to the store.
    pub fn is_storing(&self) -> bool {
        self.settling.is_storing()
    }

    pub(super) fn is_hibernated(&self, id: SessionId) -> bool {
        self.get(id).and_then(|session| session.managed.as_ref()).is_some_and(|managed| managed.is_hibernated())
    }

    /// Ends every session of an account (its password changed, it was disabled or removed).
    pub fn terminate_account(&mut self, bare: JidRef<'_>, condition: stream::Condition) {
        for id in self.sessions_of(bare) {
            self.terminate(id, condition);
        }
    }

    /// An account was changed from outside: its facts are loaded again when they are needed.
    pub fn account_changed(&mut self, bare: JidRef<'_>) {
        self.forget_facts(bare);
    }

    /// The things of an account were changed from outside, or what others may do with them: its home loads them anew, and tells
    /// its devices.
    pub fn account_things_changed(&mut self, bare: JidRef<'_>) {
        self.renew_things(self.homes.hash(bare), bare);
    }

    /// There is such an account now: its home, which may remember that there was none, finds out when it needs to.
    pub fn account_created(&mut self, bare: JidRef<'_>) {
        let home = self.home(bare);
        if home == self.id {
            self.account_changed(bare);
        } else if let Some(batch) = self.batches.get_mut(usize::from(home.0)) {
            batch.created(bare);
        }
    }

    /// Forgets facts of accounts that nobody uses until they take no more than that.
    pub fn trim_facts(&mut self, bytes_max: usize) {
        self.accounts.trim(bytes_max);
    }

    // ---- logging in --------------------------------------------------------------------------------------------

    /// A connection names an account at home here. Whether its facts are in memory: if not, [`Effect::Login`] says when
    /// they are.
    pub fn login(&mut self, connection: Key, account: JidRef<'_>) -> bool {
        let index = self.accounts.find_or_insert(self.homes.hash(account), account);
        if self.knows(index) {
            return true;
        }
        self.enqueue(index, work::Task::Login(connection));
        false
    }

    /// What is known of an account; `None` if there is none, or if its facts are not in memory.
    pub fn facts(&self, account: JidRef<'_>) -> Option<&Facts> {
        self.accounts.find(self.homes.hash(account), account)?.facts.as_deref()
    }

    /// The session's stream ended: forgets it. Bytes still in its outbox are given back for a last write.
    pub fn end(&mut self, id: SessionId) -> Vec<u8> {
        self.unlink(id);
        if self.get(id).is_none() {
            return Vec::new();
        }
        self.discount(id);
        self.sessions.remove(id.index as usize).outbox
    }
}
