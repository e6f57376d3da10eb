//! Which tokens are known to be presented by right: those whose challenge was answered by who presented them, or by whom it
//! has them from (XEP-0324 v0.5.1 §3.2). In memory: what a restart forgets is asked once more.
//!
//! Shared by all shards, and locked only for what presents tokens.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plaza_core::jid::JidRef;
use plaza_core::provisioning::Tokens;

use super::decide::TOKENS_MAX;

/// After how long a proof is asked for again; until that is answered it goes on to count. Default 4 hours: few enough
/// challenges for a device on a battery, and the keys behind tokens are lost more rarely.
const FRESH: Duration = Duration::from_hours(4);
/// How long who could not prove a token is not asked again. Default 10 minutes: whoever presents what is not theirs is not
/// worth a message each time.
const REST: Duration = Duration::from_mins(10);
/// After how long a challenge that nothing was heard of is as good as never made. Default 2 minutes: a client has
/// much less time to answer.
const LOST: Duration = Duration::from_mins(2);
/// Longest token that is looked at, in bytes. Default 2 048: an address of the longest, and what is random.
const TOKEN_BYTES_MAX: usize = 2_048;
/// Tokens that are remembered of one bare JID. Default 64. Of more, those are forgotten first that were not proven.
const PER_PRESENTER_MAX: usize = 64;
/// Challenges at once of one bare JID. Default 8. The tokens beyond it are absent until others are done.
const ASKING_PER_PRESENTER_MAX: usize = 8;
/// Tokens that are remembered. Default 65 536, in some 16 MB. Beyond it those that are not are absent.
const PROOFS_MAX: usize = 65_536;

/// What is known of tokens and who presented them. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Proofs {
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// By bare JID of the presenter.
    presenters: HashMap<Box<str>, Vec<Proof>>,
    /// How many proofs they have.
    count: usize,
    /// When those that say nothing any more were last looked for.
    swept: u64,
}

/// What is known of a token. Times are in milliseconds since 1970.
#[derive(Debug)]
struct Proof {
    token: Box<str>,
    /// When it was proven, if it was, and has not failed since.
    proven: Option<u64>,
    /// When its certificate ends.
    ends: u64,
    /// When it failed last.
    failed: Option<u64>,
    /// Since when it is being asked for.
    asking: Option<u64>,
}

/// What came of a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was answered rightly, for a certificate that ends then, in milliseconds since 1970.
    Proven(u64),
    /// It was not, or there is no such token.
    Failed,
    /// It could not be made.
    Unknown,
}

impl Proof {
    fn counts(&self, now: u64) -> bool {
        self.proven.is_some() && now <= self.ends
    }

    fn is_asking(&self, now: u64) -> bool {
        self.asking.is_some_and(|since| !is_past(since, LOST, now))
    }

    fn rests(&self, now: u64) -> bool {
        self.failed.is_some_and(|at| !is_past(at, REST, now))
    }

    fn is_due(&self, now: u64) -> bool {
        let is_fresh = self.counts(now) && self.proven.is_some_and(|at| !is_past(at, FRESH, now));
        !is_fresh && !self.is_asking(now) && !self.rests(now)
    }
}

fn is_past(since: u64, life: Duration, now: u64) -> bool {
    u128::from(now.saturating_sub(since)) >= life.as_millis()
}

impl Known {
    fn of(&self, presenter: JidRef<'_>) -> &[Proof] {
        self.presenters.get(presenter.bare().as_str()).map_or(&[], |proofs| proofs)
    }

    /// Forgets, once a minute at most, what says nothing any more.
    fn sweep(&mut self, now: u64) {
        if !is_past(self.swept, Duration::from_mins(1), now) {
            return;
        }
        self.swept = now;
        self.presenters.retain(|_, proofs| {
            proofs.retain(|proof| !proof.is_due(now));
            !proofs.is_empty()
        });
        self.count = self.presenters.values().map(Vec::len).sum();
    }
}

impl Proofs {
    /// Of the tokens that somebody presents to the service at `component`, those that count; and those that are to be
    /// challenged. What the service did not issue is as good as not there.
    pub(super) fn sift(
        &self,
        presenter: JidRef<'_>,
        component: &str,
        tokens: &Tokens<'_>,
        now: u64,
    ) -> (Tokens<'static>, Vec<Box<str>>) {
        let (mut proven, mut due) = (Tokens::default(), Vec::<Box<str>>::new());
        if tokens.service.is_empty() && tokens.device.is_empty() && tokens.user.is_empty() {
            return (proven, due);
        }
        let known = self.lock();
        let proofs = known.of(presenter);
        let mut sift = |tokens: &str| {
            let mut kept: Vec<&str> = Vec::new();
            let own = tokens.split_ascii_whitespace().take(TOKENS_MAX).filter(|token| is_of(token, component));
            for token in own {
                let proof = proofs.iter().find(|proof| &*proof.token == token);
                if proof.is_some_and(|proof| proof.counts(now)) {
                    kept.push(token);
                }
                if proof.is_none_or(|proof| proof.is_due(now)) && !due.iter().any(|other| &**other == token) {
                    due.push(token.into());
                }
            }
            Cow::Owned(kept.join(" "))
        };
        proven.user = sift(&tokens.user);
        proven.device = sift(&tokens.device);
        proven.service = sift(&tokens.service);
        (proven, due)
    }

    /// Those of the tokens that are to be challenged now: nobody else is at it, and there is room.
    pub(super) fn begin(&self, presenter: JidRef<'_>, tokens: &[Box<str>], now: u64) -> Vec<Box<str>> {
        let mut known = self.lock();
        if known.count >= PROOFS_MAX {
            known.sweep(now);
        }
        let Known { presenters, count, .. } = &mut *known;
        if *count >= PROOFS_MAX && !presenters.contains_key(presenter.bare().as_str()) {
            return Vec::new();
        }
        let proofs = presenters.entry(presenter.bare().as_str().into()).or_default();
        let mut begun = Vec::new();
        for token in tokens {
            if proofs.iter().filter(|proof| proof.is_asking(now)).count() >= ASKING_PER_PRESENTER_MAX {
                break;
            }
            if let Some(proof) = proofs.iter_mut().find(|proof| proof.token == *token) {
                if proof.is_due(now) {
                    proof.asking = Some(now);
                    begun.push(token.clone());
                }
                continue;
            }
            if proofs.len() >= PER_PRESENTER_MAX || *count >= PROOFS_MAX {
                let idle = proofs.iter().enumerate().filter(|(_, proof)| !proof.is_asking(now));
                let least = idle.min_by_key(|(_, proof)| (proof.counts(now), proof.proven.max(proof.failed)));
                let Some((at, _)) = least else { break };
                proofs.swap_remove(at);
                *count -= 1;
            }
            proofs.push(Proof { token: token.clone(), proven: None, ends: 0, failed: None, asking: Some(now) });
            *count += 1;
            begun.push(token.clone());
        }
        begun
    }

    /// A challenge is over.
    pub(super) fn end(&self, presenter: JidRef<'_>, token: &str, outcome: Outcome, now: u64) {
        let mut known = self.lock();
        let proofs = known.presenters.get_mut(presenter.bare().as_str());
        let Some(proof) = proofs.into_iter().flatten().find(|proof| &*proof.token == token) else { return };
        proof.asking = None;
        match outcome {
            Outcome::Proven(ends) => (proof.proven, proof.ends, proof.failed) = (Some(now), ends, None),
            Outcome::Failed => (proof.proven, proof.failed) = (None, Some(now)),
            // What was proven before stays so for now.
            Outcome::Unknown => proof.failed = Some(now),
        }
    }

    /// These tokens are proven.
    #[cfg(test)]
    pub(super) fn prove(&self, presenter: JidRef<'_>, tokens: &str, now: u64) {
        for token in tokens.split_ascii_whitespace() {
            self.begin(presenter, &[token.into()], now);
            self.end(presenter, token, Outcome::Proven(u64::MAX), now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing inside the lock can panic halfway.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the service at an address may have issued a token.
fn is_of(token: &str, component: &str) -> bool {
    token.len() <= TOKEN_BYTES_MAX && token.rsplit_once(':').is_some_and(|(address, _)| address == component)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THINGS: &str = "things.things.example";
    const NOW: u64 = 1_767_323_045_000;
    const HOUR: u64 = 3_600_000;
    const MINUTE: u64 = 60_000;

    fn lamp() -> JidRef<'static> {
        JidRef::from_normal("lamp@things.example/a")
    }

    fn token(n: usize) -> Box<str> {
        format!("{THINGS}:{n}").into()
    }

    /// Which of a user's tokens count, and which are to be challenged.
    fn sift(proofs: &Proofs, user: &str, now: u64) -> (String, usize) {
        let tokens = Tokens { user: user.to_owned().into(), ..Tokens::default() };
        let (proven, due) = proofs.sift(lamp(), THINGS, &tokens, now);
        (proven.user.into_owned(), due.len())
    }

    #[test]
    fn a_token_counts_when_it_is_proven_and_until_the_proof_fails_or_its_certificate_ends() {
        let (proofs, one) = (Proofs::default(), token(1));
        assert_eq!(sift(&proofs, &one, NOW), (String::new(), 1));
        assert_eq!(proofs.begin(lamp(), std::slice::from_ref(&one), NOW).len(), 1);
        // It is asked for once, unless nothing is ever heard of it.
        assert_eq!(sift(&proofs, &one, NOW), (String::new(), 0));
        assert!(proofs.begin(lamp(), std::slice::from_ref(&one), NOW).is_empty());
        assert_eq!(sift(&proofs, &one, NOW + 2 * MINUTE), (String::new(), 1));
        proofs.end(lamp(), &one, Outcome::Proven(NOW + 9 * HOUR), NOW);
        assert_eq!(sift(&proofs, &one, NOW + 4 * HOUR - 1), (one.to_string(), 0));
        // Somebody else has proven nothing.
        let tokens = Tokens { user: (&*one).into(), ..Tokens::default() };
        let other = JidRef::from_normal("rack@things.example");
        assert_eq!(proofs.sift(other, THINGS, &tokens, NOW), (Tokens::default(), vec![one.clone()]));
        // It is asked for again, and counts until that fails.
        let later = NOW + 4 * HOUR;
        assert_eq!(sift(&proofs, &one, later), (one.to_string(), 1));
        proofs.begin(lamp(), std::slice::from_ref(&one), later);
        proofs.end(lamp(), &one, Outcome::Unknown, later);
        assert_eq!(sift(&proofs, &one, later), (one.to_string(), 0));
        proofs.end(lamp(), &one, Outcome::Failed, later);
        assert_eq!(sift(&proofs, &one, later + 10 * MINUTE - 1), (String::new(), 0));
        assert_eq!(sift(&proofs, &one, later + 10 * MINUTE), (String::new(), 1));
        proofs.end(lamp(), &one, Outcome::Proven(NOW + 9 * HOUR), later);
        assert_eq!(sift(&proofs, &one, NOW + 9 * HOUR + 1), (String::new(), 1));
    }

    #[test]
    fn what_another_service_issued_or_nobody_is_not_there() {
        let proofs = Proofs::default();
        let long = format!("{THINGS}:{}", "x".repeat(TOKEN_BYTES_MAX));
        for other in ["secret", "things.x.example:1", ":1", "", &long] {
            assert_eq!(sift(&proofs, other, NOW), (String::new(), 0), "{other}");
        }
        let five: Vec<Box<str>> = (0..5).map(token).collect();
        assert_eq!(sift(&proofs, &five.join(" "), NOW), (String::new(), TOKENS_MAX));
    }

    #[test]
    fn who_presents_many_is_asked_for_few_and_forgets_what_was_not_proven_first() {
        let proofs = Proofs::default();
        let many: Vec<Box<str>> = (0..300).map(token).collect();
        assert_eq!(proofs.begin(lamp(), &many, NOW).len(), ASKING_PER_PRESENTER_MAX);
        proofs.end(lamp(), &many[0], Outcome::Proven(u64::MAX), NOW);
        for token in &many[1..] {
            proofs.begin(lamp(), std::slice::from_ref(token), NOW);
            proofs.end(lamp(), token, Outcome::Failed, NOW);
        }
        assert_eq!(proofs.lock().of(lamp()).len(), PER_PRESENTER_MAX);
        assert_eq!(sift(&proofs, &many[0], NOW), (many[0].to_string(), 0));
        assert_eq!(proofs.lock().count, PER_PRESENTER_MAX);
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered_and_what_says_nothing_makes_room() {
        let proofs = Proofs::default();
        let presenter = |n: usize| format!("d{n}@things.example");
        for n in 0..PROOFS_MAX {
            let jid = presenter(n);
            assert_eq!(proofs.begin(JidRef::from_normal(&jid), &[token(n)], NOW).len(), 1);
            proofs.end(JidRef::from_normal(&jid), &token(n), Outcome::Failed, NOW);
        }
        assert!(proofs.begin(lamp(), &[token(1)], NOW).is_empty());
        assert_eq!(proofs.begin(lamp(), &[token(1)], NOW + 11 * MINUTE).len(), 1);
        assert_eq!(proofs.lock().count, 1);
    }
}
