//! Held: a connection that was refused credentials or a registration is told so after a while, whatever was wrong, so that
//! who guesses guesses slowly and learns nothing from how long it took.
//!
//! The answer waits in the connection's own buffer, and what the peer says meanwhile in the kernel's. Nobody else waits: there
//! is one timer for all, since all wait equally long. The deadline of the negotiation stays as it is. A session is told as
//! late that it registered in vain, and goes on meanwhile ([`crate::shard`], which keeps the answer).

use std::time::Duration;

use plaza_core::sasl::SaslFailure;

use super::connection::Phase;
use super::{Driver, HELD, LINGER, SESSION, TICK};
use crate::ring::Key;
use crate::shard::SessionId;

/// Whether a failure says something of credentials, rather than of how they were put.
pub(super) const fn tells_of_credentials(failure: SaslFailure) -> bool {
    match failure {
        SaslFailure::AccountDisabled | SaslFailure::CredentialsExpired | SaslFailure::NotAuthorized => true,
        SaslFailure::Aborted
        | SaslFailure::EncryptionRequired
        | SaslFailure::IncorrectEncoding
        | SaslFailure::InvalidAuthzid
        | SaslFailure::InvalidMechanism
        | SaslFailure::MalformedRequest
        | SaslFailure::MechanismTooWeak
        | SaslFailure::TemporaryAuthFailure => false,
    }
}

/// Ticks that a delay takes at least, the present one not counted; none if there is none.
fn ticks(delay: Duration) -> u32 {
    let whole = u32::try_from(delay.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX);
    if whole == 0 { 0 } else { whole.saturating_add(1) }
}

impl Driver {
    /// Holds back what a connection is told, and does not hear it meanwhile.
    pub(super) fn hold(&mut self, key: Key) {
        let ticks = ticks(self.parts.limits.refusal_delay);
        // Who was cut off by a stop is told at once.
        if ticks == 0 || self.stopping.is_some() {
            return;
        }
        let due = self.tick.saturating_add(ticks);
        let Some(connection) = self.connection_mut(key).filter(|connection| !connection.flags.held) else { return };
        connection.flags.held = true;
        self.held.push_back((due, key));
        if self.held.len() == 1 {
            self.wheel.insert(u64::from(due), HELD);
        }
    }

    /// Lets a session wait for its late answer, but for nothing else.
    pub(super) fn answer_late(&mut self, id: SessionId) {
        let ticks = ticks(self.parts.limits.refusal_delay);
        if ticks == 0 || self.stopping.is_some() {
            return self.shard.answer_late(id, u64::MAX);
        }
        let due = u64::from(self.tick.saturating_add(ticks));
        self.shard.late_until(id, due);
        self.wheel.insert(due, SESSION | id.to_token());
    }

    /// Lets those go on whose time has come.
    pub(super) fn release_held(&mut self) {
        while let Some(&(due, key)) = self.held.front() {
            if due > self.tick {
                self.wheel.insert(u64::from(due), HELD);
                return;
            }
            self.held.pop_front();
            self.release(key);
        }
    }

    /// Lets all go on.
    pub(super) fn release_all_held(&mut self) {
        while let Some((_, key)) = self.held.pop_front() {
            self.release(key);
        }
    }

    fn release(&mut self, key: Key) {
        // It may be gone.
        let Some(connection) = self.connection_mut(key).filter(|connection| connection.flags.held) else { return };
        connection.flags.held = false;
        if matches!(connection.phase, Phase::Closing) {
            self.set_deadline(key, LINGER);
        }
        self.mark_flush(key);
        self.mark_ready(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_never_shorter_than_it_says() {
        let of = |millis| ticks(Duration::from_millis(millis));
        assert_eq!([of(0), of(1), of(100), of(101), of(1_000), of(10_000)], [0, 2, 2, 3, 11, 101]);
    }
}
