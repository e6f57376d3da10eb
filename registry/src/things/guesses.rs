//! Guesses: how many claims may fail before none succeeds (XEP-0347 §6.5: keys can be guessed).
//!
//! Counted by who claims and by what is claimed, so that neither many things nor many accounts help. But what others guess
//! of a thing must not keep its owner from it: so much again as all may fail is set aside for those who have hardly failed
//! lately. See `docs/decisions/0015-guesses.md`.

use super::Limits;
use super::throttle::Throttle;

/// Claims of one account that may fail in [`UNBLAMED_MILLIS`] before it has no share in what is set aside. Default 3: a key
/// is mistyped once or twice.
const UNBLAMED_FAILURES_MAX: u32 = 3;
/// Default 10 minutes: many times as long as a bucket of guesses takes to fill, so that it takes as many accounts to keep
/// what is set aside empty.
const UNBLAMED_MILLIS: u64 = 600_000;
/// In which a bucket of guesses fills.
const MINUTE_MILLIS: u64 = 60_000;

/// Who failed how often lately, and at what. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Guesses {
    /// Accounts that claim.
    claimants: Throttle,
    /// What they claim, by maker and serial number.
    things: Throttle,
    /// Accounts that have hardly failed.
    unblamed: Throttle,
    /// What is set aside of a thing for these.
    reserved: Throttle,
}

/// A claim that is counted as one that failed, until it is [forgiven](Guesses::forgive).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guess {
    /// Whether it may succeed.
    pub(super) counts: bool,
    is_unblamed: bool,
    drawn: Drawn,
}

/// From which of a thing's buckets it was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drawn {
    Nothing,
    Common,
    Reserved,
}

impl Guesses {
    /// Nobody has claimed anything.
    pub(super) fn new(limits: &Limits) -> Self {
        let in_a_minute = || Throttle::new(limits.failed_claims_per_minute_max, MINUTE_MILLIS);
        let unblamed = Throttle::new(UNBLAMED_FAILURES_MAX, UNBLAMED_MILLIS);
        Self { claimants: in_a_minute(), things: in_a_minute(), unblamed, reserved: in_a_minute() }
    }

    /// Counts a claim as if it had failed; `thing` is its maker and serial number, if it has them.
    pub(super) fn count(&self, claimant: &str, thing: Option<&[&str]>, now: u64) -> Guess {
        // Who may not try any more cannot keep others from trying.
        if !self.claimants.take(&[claimant], now) {
            return Guess { counts: false, is_unblamed: false, drawn: Drawn::Nothing };
        }
        let is_unblamed = self.unblamed.take(&[claimant], now);
        let (counts, drawn) = match thing {
            None => (true, Drawn::Nothing),
            Some(thing) if self.things.take(thing, now) => (true, Drawn::Common),
            Some(thing) if is_unblamed && self.reserved.take(thing, now) => (true, Drawn::Reserved),
            Some(_) => (false, Drawn::Nothing),
        };
        Guess { counts, is_unblamed, drawn }
    }

    /// It has not failed.
    pub(super) fn forgive(&self, guess: Guess, claimant: &str, thing: Option<&[&str]>, now: u64) {
        self.claimants.give_back(&[claimant], now);
        if guess.is_unblamed {
            self.unblamed.give_back(&[claimant], now);
        }
        match (guess.drawn, thing) {
            (Drawn::Common, Some(thing)) => self.things.give_back(thing, now),
            (Drawn::Reserved, Some(thing)) => self.reserved.give_back(thing, now),
            (Drawn::Nothing, _) | (_, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THING: Option<&[&str]> = Some(&["maker.example", "1"]);

    /// How many of so many claims of an account count.
    fn guess(guesses: &Guesses, who: &str, times: usize, now: u64) -> usize {
        (0..times).filter(|_| guesses.count(who, THING, now).counts).count()
    }

    #[test]
    fn a_guesser_does_not_hold_up_who_has_not_guessed() {
        let guesses = Guesses::new(&Limits::DEFAULT);
        // For an hour, as often as it can.
        for second in 0..3_600 {
            guess(&guesses, "guesser", 20, second * 1_000);
            if second % 600 == 0 {
                assert_eq!(guess(&guesses, &format!("owner{second}"), 1, second * 1_000), 1, "{second}");
            }
        }
        // Who mistypes may try again, and is a guesser at the fourth time.
        let now = 3_600_000;
        assert!(guess(&guesses, "guesser", 20, now) <= 1);
        assert_eq!(guess(&guesses, "owner", 9, now), 3);
        // Neither are other things concerned.
        assert!(guesses.count("owner", Some(&["maker.example", "2"]), now + 6_000).counts);
    }

    #[test]
    fn however_many_guess_a_thing_has_so_many_guesses() {
        let guesses = Guesses::new(&Limits::DEFAULT);
        let all: usize = (0..100).map(|n| guess(&guesses, &format!("g{n}"), 20, 0)).sum();
        assert_eq!(all, 20, "ten, and ten that were set aside");
        assert_eq!(guess(&guesses, "owner", 1, 0), 0, "by then nobody knows who is the owner");
        // In each minute after that as many at most.
        let hour: usize = (0..3_600).map(|second| guess(&guesses, &format!("h{second}"), 20, second * 1_000)).sum();
        assert!((1_190..=1_210).contains(&hour), "{hour}");
        // To keep what is set aside empty takes more of them than there are in ten minutes of one guess in six seconds.
        let guesses = Guesses::new(&Limits::DEFAULT);
        for second in 0..1_200 {
            for who in 0..10 {
                guess(&guesses, &format!("g{who}"), 1, second * 1_000);
            }
        }
        assert_eq!(guess(&guesses, "owner", 1, 1_200_000), 1);
    }

    #[test]
    fn what_did_not_fail_leaves_nothing_behind() {
        let guesses = Guesses::new(&Limits::DEFAULT);
        guess(&guesses, "guesser", 20, 0);
        for _ in 0..100 {
            let claim = guesses.count("owner", THING, 0);
            assert!(claim.counts);
            guesses.forgive(claim, "owner", THING, 0);
            let unnamed = guesses.count("owner", None, 0);
            assert!(unnamed.counts);
            guesses.forgive(unnamed, "owner", None, 0);
        }
    }
}
