//! Decision support: who may do what with whose things (XEP-0324 v0.5.1 and the generations after it).
//!
//! A device asks about strangers and is answered from its owner's rules at once, without the store: [`answer`] over the
//! [`HomeThings`] that its home shard holds. What no rule speaks of is denied, and [`ask`] asks the owner, whose answer
//! becomes a rule ([`serve`]); the device is told to ask anew, and does when the stranger comes again.
//!
//! A thing may be enforced: then the broker decides about what others ask of it before it has it ([`enforce`]), by the same
//! rules.
//!
//! Rules lie with the account of the thing, questions with its owner. A rule and the note that the device has to forget
//! what it was told are one commit.

mod answer;
mod certificate;
mod challenges;
mod decide;
mod enforce;
mod home;
mod manage;
mod proofs;
mod question;
mod record;
mod rule;
mod serve;
mod subject;
#[cfg(test)]
mod tests;
mod tokens;
mod verify;

use std::fmt;

pub use self::answer::{After, Answered, Inquiry, Seen, answer, note};
pub use self::certificate::{BadCertificate, Certificate};
use self::challenges::Challenges;
pub use self::decide::{Asked, Decision, Open, TOKENS_MAX, decide};
pub use self::enforce::{Enforced, enforce};
pub(crate) use self::home::read as read_page;
pub use self::home::{HomeThing, HomeThings, THINGS_HELD_MAX};
pub(crate) use self::manage::forget_former;
pub use self::manage::{forget, purge};
pub use self::proofs::Proofs;
pub use self::question::ask;
#[cfg(any(test, fuzzing))]
pub(crate) use self::record::RECORDS as QUESTIONS;
#[cfg(any(test, fuzzing))]
pub(crate) use self::rule::RECORDS as RULES;
pub use self::rule::{Level, Rule};
pub(crate) use self::serve::to_clear;
pub use self::serve::{Tell, Told, serve};
pub(crate) use self::subject::{prefix, tell_question, tell_rule};
#[cfg(any(test, fuzzing))]
pub(crate) use self::tokens::RECORDS as CERTIFICATES;
pub use self::tokens::serve as serve_tokens;
pub use self::verify::{Challenge, Unproven, Verified, challenge, challenged};
use crate::helpers::Helpers;
use crate::pubsub::turns::Turns;

/// Bounds of decision support.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rules of a thing. Default 10 000. Beyond it an owner's answer is `resource-constraint`.
    pub rules_max: u32,
    /// Rules of one kind and one origin of a thing, for all of them are looked at to decide. Default 16: an answer without
    /// `partial` replaces them all. Beyond it an owner's answer is `resource-constraint`.
    pub origin_rules_max: u32,
    /// Questions about a thing within an hour that its owner has not answered. Default 60. Beyond it nobody is asked.
    pub questions_per_hour_max: u32,
    /// Questions about all things of a device that their owner has not answered. Default 1 000. Beyond it nobody is asked.
    pub questions_max: u32,
    /// Of these, such about one domain. Default 100, so that none keeps the others from being asked about.
    pub domain_questions_max: u32,
    /// Tokens for one bare JID. Default 16: a client has a certificate or two. Beyond it: `resource-constraint`.
    pub tokens_max: u32,
    /// Things in one answer to an owner. Default 100; the rest is for the next page.
    pub page_max: u32,
}

impl Limits {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        rules_max: 10_000,
        origin_rules_max: 16,
        questions_per_hour_max: 60,
        questions_max: 1_000,
        domain_questions_max: 100,
        tokens_max: 16,
        page_max: 100,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What decision support needs to know. Clones share whose turn it is, what was challenged and what is proven: all shards of one broker
/// clone one.
#[derive(Clone)]
pub struct Config {
    /// Bounds.
    pub limits: Limits,
    /// From which the keys of questions are made; the same after a restart.
    secret: [u8; 32],
    /// Where RSA is computed; at once if there are none.
    helpers: Option<Helpers>,
    turns: Turns,
    challenges: Challenges,
    proofs: Proofs,
}

impl Config {
    /// A configuration with turns and challenges of its own. `secret`: random, and nobody else's; best the same after a
    /// restart, since questions that are open are known by what is made of it.
    pub fn new(limits: Limits, secret: [u8; 32]) -> Self {
        let (turns, challenges, proofs) = (Turns::default(), Challenges::default(), Proofs::default());
        Self { limits, secret, helpers: None, turns, challenges, proofs }
    }

    /// Which tokens are proven, for the shards.
    pub const fn proofs(&self) -> &Proofs {
        &self.proofs
    }

    /// The same, with these threads to compute RSA.
    #[must_use]
    pub fn with_helpers(mut self, helpers: Helpers) -> Self {
        self.helpers = Some(helpers);
        self
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("limits", &self.limits).finish_non_exhaustive()
    }
}
