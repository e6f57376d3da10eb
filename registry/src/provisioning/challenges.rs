//! Challenges: what clients have to decrypt before they have a token. In memory, since they last minutes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plaza_core::jid::Jid;

/// How long a challenge may be answered. Default 5 minutes; at least one.
const LIFE: Duration = Duration::from_mins(5);
/// Challenges at once. Default 1 024, each with a certificate of 16 KiB at most.
const CHALLENGES_MAX: usize = 1_024;
/// Challenges at once of one bare JID. Default 4. One more takes the place of the oldest.
const CHALLENGES_PER_JID_MAX: usize = 4;

/// A challenge.
#[derive(Debug)]
pub(super) struct Challenge {
    /// Whose: the full JID that asked for it.
    pub(super) jid: Jid,
    pub(super) number: i32,
    /// What the client has to tell.
    pub(super) secret: [u8; 32],
    /// The certificate, in its DER form.
    pub(super) der: Vec<u8>,
    /// When it was made, in milliseconds since 1970.
    pub(super) made: u64,
}

/// Challenges that nobody has answered yet, the oldest first; clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Challenges {
    open: Arc<Mutex<VecDeque<Challenge>>>,
}

impl Challenges {
    /// Whether there is room for another one of this JID, those being forgotten that are too old.
    pub(super) fn has_room(&self, jid: &Jid, now: u64) -> bool {
        let mut open = self.lock();
        while open.front().is_some_and(|oldest| is_old(oldest, now)) {
            open.pop_front();
        }
        open.len() < CHALLENGES_MAX || open.iter().filter(|other| is_of(other, jid)).count() >= CHALLENGES_PER_JID_MAX
    }

    /// Keeps a challenge. `false` if there is no room, or its number is taken.
    pub(super) fn put(&self, challenge: Challenge) -> bool {
        let mut open = self.lock();
        if open.iter().any(|other| other.number == challenge.number) {
            return false;
        }
        let own = || open.iter().enumerate().filter(|(_, other)| is_of(other, &challenge.jid));
        if own().count() >= CHALLENGES_PER_JID_MAX
            && let Some((at, _)) = own().next()
        {
            open.remove(at);
        }
        if open.len() >= CHALLENGES_MAX {
            return false;
        }
        open.push_back(challenge);
        true
    }

    /// Takes a challenge of a full JID; it can be answered once.
    pub(super) fn take(&self, jid: &Jid, number: i32, now: u64) -> Option<Challenge> {
        let mut open = self.lock();
        let at = open.iter().position(|challenge| challenge.number == number && challenge.jid == *jid)?;
        open.remove(at).filter(|challenge| !is_old(challenge, now))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Challenge>> {
        // Nothing inside the lock can panic halfway.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_of(challenge: &Challenge, jid: &Jid) -> bool {
    challenge.jid.as_jid().bare() == jid.as_jid().bare()
}

fn is_old(challenge: &Challenge, now: u64) -> bool {
    u128::from(now.saturating_sub(challenge.made)) > LIFE.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::jid;

    fn challenge(jid: &Jid, number: i32, made: u64) -> Challenge {
        Challenge { jid: jid.clone(), number, secret: [7; 32], der: Vec::new(), made }
    }

    #[test]
    fn a_challenge_is_for_who_asked_for_it_once_and_for_minutes() {
        let (challenges, lamp) = (Challenges::default(), jid("lamp@things.example/a"));
        assert!(challenges.put(challenge(&lamp, 1, 0)) && challenges.put(challenge(&lamp, 2, 0)));
        assert!(!challenges.put(challenge(&lamp, 2, 0)), "the number is taken");
        assert!(challenges.take(&jid("lamp@things.example/b"), 1, 0).is_none());
        assert!(challenges.take(&lamp, 3, 0).is_none());
        assert!(challenges.take(&lamp, 1, 60_000).is_some());
        assert!(challenges.take(&lamp, 1, 60_000).is_none());
        assert!(challenges.take(&lamp, 2, 300_001).is_none());
    }

    #[test]
    fn one_who_asks_again_and_again_takes_no_room_from_others() {
        let challenges = Challenges::default();
        let many = jid("many@things.example/a");
        for number in 0..100 {
            assert!(challenges.has_room(&many, 0) && challenges.put(challenge(&many, number, 0)));
        }
        assert_eq!(challenges.lock().len(), CHALLENGES_PER_JID_MAX);
        assert!(challenges.take(&many, 99, 0).is_some() && challenges.take(&many, 95, 0).is_none());
        for number in 100.. {
            let other = jid(&format!("a{number}@things.example/a"));
            if !challenges.has_room(&other, 0) {
                assert!(!challenges.put(challenge(&other, number, 0)));
                break;
            }
            assert!(challenges.put(challenge(&other, number, 0)));
        }
        assert_eq!(challenges.lock().len(), CHALLENGES_MAX);
        // Their time is over.
        assert!(challenges.has_room(&jid("b@things.example/a"), 300_001));
        assert!(challenges.lock().is_empty());
    }
}
