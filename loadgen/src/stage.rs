//! Scenarios in acts: what all sessions of a kind do together, one act after another, the server's CPU read in between.
//!
//! Sessions come in groups of a leader and its members ([`Plan::group`]), which share a thread. Filled by [`crate::args`],
//! directed by [`crate::conductor`], performed by [`crate::worker`] and [`crate::part`].

use serde::Serialize;

use crate::crowd::{Abuse, Recruiting};
use crate::login::{Entry, Way};
#[cfg(doc)]
use crate::plan::Plan;
use crate::question::{Question, Rules, SignUp};
use crate::search::Searches;

/// Who takes part in an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The first of each group.
    Leaders,
    /// The others of each group.
    Members,
    /// The first of these others: all but one in its group are where they are.
    Foremost,
    /// Everybody.
    All,
}

impl Who {
    /// Whether a session takes part; `session` is its number in all, or in its thread.
    pub(crate) const fn includes(self, session: u32, group: u32) -> bool {
        match self {
            Self::Leaders => session.is_multiple_of(group),
            Self::Members => !session.is_multiple_of(group),
            Self::Foremost => session % group == 1,
            Self::All => true,
        }
    }

    /// How many of `sessions`, which are whole groups.
    pub(crate) const fn count(self, sessions: u32, group: u32) -> u32 {
        match self {
            Self::Leaders => sessions / group,
            Self::Members => sessions - sessions / group,
            Self::Foremost if group == 1 => 0,
            Self::Foremost => sessions / group,
            Self::All => sessions,
        }
    }
}

/// What is done in an act, and when a participant is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Log in; done when bound.
    Join,
    /// Log in by SASL2 and ask for a token ([`Entry::Enlist`]); done when bound.
    Enlist,
    /// TLS and nothing more ([`Entry::Handshake`]); done when the server has closed the connection as well.
    Shake,
    /// Come back to the stream (XEP-0198 v1.6.3 §5); done when resumed, and, if there was a message meanwhile, heard it.
    Resume {
        /// How.
        way: Way,
        /// Whether there was one.
        missed: bool,
    },
    /// Close the stream; done when the server has closed the connection.
    Leave,
    /// Close the socket without a word; done when it is closed.
    Cut,
    /// The leader tells each of its members something; done when the server has acknowledged it (XEP-0198 v1.6.3 §4).
    Tell,
    /// The leader tells each of its members something; the members are done when they hear it.
    Deliver,
    /// Leaders write to their members, who are away; done when the server has acknowledged [`Stage::messages`] to each.
    Store,
    /// Log in; done when all these messages were heard.
    Collect,
    /// See that the contacts are in the roster, their presence subscribed to; subscribe to what is missing (RFC 6121 §3.1).
    Befriend,
    /// Leaders make a node of their own anew (XEP-0060 v1.30.0 §8.1); done when the service has created it.
    Create,
    /// Members subscribe to their leader's node (§6.1); done when the service says that they are subscribed.
    Subscribe,
    /// Leaders wait until all their publications are answered (§7.1.2).
    Settle,
    /// Leaders that search do so once; the others are done at once. A registry that was just started answers when it has
    /// read what there is.
    Search,
    /// Leaders go on with this for the time of the course, and members hear it.
    Traffic(Topic),
}

impl Deed {
    /// Whether it leads to what is compared, and what an earlier run left may still be heard.
    pub(crate) const fn is_preparation(self) -> bool {
        matches!(self, Self::Join | Self::Enlist | Self::Leave | Self::Befriend | Self::Create | Self::Subscribe)
    }

    /// Whether participants begin a few at a time.
    pub(crate) const fn is_paced(self) -> bool {
        matches!(self, Self::Befriend | Self::Create | Self::Subscribe)
    }

    /// Whether participants end their connection: then its end is what they are done with.
    pub(crate) const fn is_parting(self) -> bool {
        matches!(self, Self::Leave | Self::Cut | Self::Shake)
    }

    /// What leaders go on with in an act of traffic.
    pub(crate) const fn topic(self) -> Option<Topic> {
        if let Self::Traffic(topic) = self { Some(topic) } else { None }
    }

    /// How participants that connect come in.
    pub(crate) const fn entry(self) -> Entry {
        if let Self::Resume { way, .. } = self {
            Entry::Resume(way)
        } else if matches!(self, Self::Enlist) {
            Entry::Enlist
        } else if matches!(self, Self::Shake) {
            Entry::Handshake
        } else {
            Entry::Login
        }
    }
}

/// What leaders send to their members, in rounds of one delivery to each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    /// One presence, which the server passes on to all of them.
    Presence,
    /// One publication, of which the service notifies all of them.
    Event,
    /// A message to each of them.
    Chat,
    /// The same, without regard to what was before; those leaders that search write nothing, and search if they shall.
    Pairs {
        /// Whether they shall.
        searching: bool,
    },
    /// What each leader asks the server, which answers it; there are no members.
    Ask(Question),
}

/// What an act counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unit {
    /// Participants that are done.
    Sessions,
    /// Stanzas that arrived, or were acknowledged.
    Stanzas,
}

/// An act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Act {
    /// What the report calls it.
    pub name: &'static str,
    /// Who takes part.
    pub who: Who,
    /// What they do.
    pub deed: Deed,
    /// What is counted, and measured; `None`: nothing, it only leads to the next.
    pub unit: Option<Unit>,
    /// What a crowd does meanwhile.
    pub abuse: Option<Abuse>,
}

impl Act {
    /// An act that is measured.
    pub(crate) const fn measured(name: &'static str, who: Who, deed: Deed, unit: Unit) -> Self {
        Self { name, who, deed, unit: Some(unit), abuse: None }
    }

    /// An act that only leads to the next.
    pub(crate) const fn between(name: &'static str, who: Who, deed: Deed) -> Self {
        Self { name, who, deed, unit: None, abuse: None }
    }
}

/// Server CPU of one act's unit by that of another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// What the report calls it.
    pub name: &'static str,
    /// Name of the act above the line.
    pub above: &'static str,
    /// Name of the act below it.
    pub below: &'static str,
    /// Name of an act whose CPU is part of both and left out of both.
    pub beyond: Option<&'static str>,
}

/// What an act costs above others, which do the least there is: CPU of a unit and latency, in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contrast {
    /// Name of the act.
    pub above: &'static str,
    /// Names of those before and after it, whose mean it is held against.
    pub below: [&'static str; 2],
}

/// What `resume` compares with full logins, beside the resumption on a stream begun anew.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Returns {
    /// The resumption inside SASL2's request, by the password.
    pub inline: bool,
    /// The same in one round trip, by tokens that sessions get at a login of their own.
    pub token: bool,
    /// There are handshakes, so that what is beyond them can be compared as well.
    pub tls: bool,
    /// Everybody in a group is a contact of everybody, in its roster and there to be told of.
    pub contacts: bool,
}

/// A scenario in acts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stage {
    /// The acts, in order; none: the scenario has no acts.
    pub acts: Vec<Act>,
    /// What the report divides by what.
    pub comparisons: Vec<Comparison>,
    /// What the report holds against what.
    pub contrast: Option<Contrast>,
    /// Whose decisions are asked for.
    pub rules: Rules,
    /// What is searched for.
    pub searches: Searches,
    /// How accounts are created.
    pub sign_up: Option<SignUp>,
    /// Who enables stream management when logging in (XEP-0198 v1.6.3 §3).
    pub managed: Option<Who>,
    /// Streams shall be resumable (§5).
    pub resumable: bool,
    /// Members' sessions are bound by Bind 2, so that their resources are the server's to choose (XEP-0386 v1.1.0 §3.2.1).
    pub tagged: bool,
    /// Messages that each member gets while it is away.
    pub messages: u64,
    /// Ask for the roster when logging in (RFC 6121 §2.2).
    pub roster: bool,
    /// Everybody is a contact of everybody in the group, not only the leader of the members.
    pub mesh: bool,
    /// Contacts must be in the rosters already.
    pub prepared: bool,
    /// So many sessions, the first, have empty rosters: they have the accounts behind those of the others.
    pub empty_rosters: u32,
    /// Sessions that have come back ping the server once a second until all are back.
    pub pings: bool,
    /// The service that has the leaders' nodes; none: the account of each leader (XEP-0163 v1.2.2).
    pub service: Option<String>,
    /// How a crowd is started, if an act has one.
    pub recruiting: Recruiting,
}

impl Stage {
    /// `resume`: sessions log in, are cut off, and come back by resumption, in one way after another, at last to a message
    /// sent meanwhile. The full login is all that a client does to be where a resumption brings it: roster and initial
    /// presence too, which its contacts are told and answer with theirs. So that all of them are there, it is done by one of
    /// a group at a time; how it is when all of them come back is measured too.
    pub(crate) fn resume(returns: Returns) -> Self {
        const LOGIN: &str = "full login";
        const ALL: &str = "full login of all at once";
        const HANDSHAKE: &str = "bare handshake";
        /// What acts and quotients are called: per server-CPU-second resumptions ÷ logins, which is CPU per login ÷ CPU
        /// per resumption.
        const NAMES: [(Way, &str, &str, &str); 3] = [
            (Way::Classic, "resumption", "resumptions ÷ full logins", "the same beyond the handshake"),
            (
                Way::Inline,
                "inline resumption",
                "inline resumptions ÷ full logins",
                "inline resumptions ÷ full logins beyond the handshake",
            ),
            (
                Way::Token,
                "resumption by token",
                "resumptions by token ÷ full logins",
                "resumptions by token ÷ full logins beyond the handshake",
            ),
        ];
        let mut acts = vec![Act::measured("first login", Who::All, Deed::Join, Unit::Sessions)];
        let login = |name, who| {
            let leaving = Act::between("leaving", who, Deed::Leave);
            [leaving, Act::measured(name, who, Deed::Join, Unit::Sessions)]
        };
        if returns.contacts {
            acts.push(Act::between("contacts", Who::All, Deed::Befriend));
            acts.extend(login(ALL, Who::Members));
            acts.extend(login(LOGIN, Who::Foremost));
        } else {
            acts.extend(login(LOGIN, Who::Members));
        }
        let mut comparisons = Vec::new();
        let mut last = Way::Classic;
        for (way, below, name, beyond) in NAMES {
            let is_wanted = match way {
                Way::Classic => true,
                Way::Inline => returns.inline,
                Way::Token => returns.token,
            };
            if !is_wanted {
                continue;
            }
            if way == Way::Token {
                acts.extend([
                    Act::between("leaving again", Who::Members, Deed::Leave),
                    Act::measured("login for a token", Who::Members, Deed::Enlist, Unit::Sessions),
                ]);
            }
            acts.extend([
                Act::between("cut off", Who::Members, Deed::Cut),
                Act::measured(below, Who::Members, Deed::Resume { way, missed: false }, Unit::Sessions),
            ]);
            let ratio = Comparison { name, above: LOGIN, below, beyond: None };
            comparisons.push(ratio);
            if returns.tls {
                comparisons.push(Comparison { name: beyond, beyond: Some(HANDSHAKE), ..ratio });
            }
            last = way;
        }
        let resume = Deed::Resume { way: last, missed: true };
        acts.extend([
            Act::between("cut off again", Who::Members, Deed::Cut),
            Act::between("messages meanwhile", Who::Leaders, Deed::Tell),
            Act::measured("resumption to a message", Who::Members, resume, Unit::Sessions),
            Act::measured("message to the resumed", Who::Members, Deed::Deliver, Unit::Stanzas),
        ]);
        if returns.tls {
            acts.extend([
                Act::between("leaving for good", Who::Members, Deed::Leave),
                Act::measured(HANDSHAKE, Who::Members, Deed::Shake, Unit::Sessions),
            ]);
        }
        Self {
            acts,
            comparisons,
            managed: Some(Who::All),
            resumable: true,
            tagged: returns.token,
            roster: true,
            mesh: returns.contacts,
            ..Self::default()
        }
    }

    /// `storm --return`: all sessions are cut off and come back at once to their streams, each member to a message that its
    /// leader had acknowledged before it was cut off itself.
    pub(crate) fn back() -> Self {
        let resume = Deed::Resume { way: Way::Classic, missed: true };
        let acts = vec![
            Act::measured(Self::THERE, Who::All, Deed::Join, Unit::Sessions),
            Act::between("cut off", Who::Members, Deed::Cut),
            Act::between("messages meanwhile", Who::Leaders, Deed::Tell),
            Act::between("leaders cut off", Who::Leaders, Deed::Cut),
            Act::measured(Self::BACK, Who::All, resume, Unit::Sessions),
        ];
        Self { acts, managed: Some(Who::All), resumable: true, roster: true, pings: true, ..Self::default() }
    }

    /// Names of the acts of [`Self::back`] that are measured.
    pub(crate) const THERE: &str = "first login";
    pub(crate) const BACK: &str = "return of all at once";

    /// `offline`: leaders write `messages` to each of their members while these are away; then they come and get them.
    pub(crate) fn offline(messages: u64) -> Self {
        let acts = vec![
            // What an earlier run may have left is fetched and thrown away.
            Act::measured("recipients' first login", Who::Members, Deed::Join, Unit::Sessions),
            Act::between("recipients leaving", Who::Members, Deed::Leave),
            Act::measured("senders' login", Who::Leaders, Deed::Join, Unit::Sessions),
            Act::measured("store", Who::Leaders, Deed::Store, Unit::Stanzas),
            Act::measured("delivery, with login", Who::Members, Deed::Collect, Unit::Stanzas),
        ];
        Self { acts, managed: Some(Who::Leaders), messages, ..Self::default() }
    }
}

impl Stage {
    /// `contacts`: leaders publish presence to members who subscribed to it, then write as many messages.
    pub(crate) fn contacts() -> Self {
        const PRESENCE: &str = "presence delivered";
        const MESSAGE: &str = "message delivered";
        let acts = vec![
            Act::measured("login", Who::All, Deed::Join, Unit::Sessions),
            Act::between("subscriptions", Who::Members, Deed::Befriend),
            Act::measured(PRESENCE, Who::Leaders, Deed::Traffic(Topic::Presence), Unit::Stanzas),
            Act::measured(MESSAGE, Who::Leaders, Deed::Traffic(Topic::Chat), Unit::Stanzas),
        ];
        let comparisons =
            vec![Comparison { name: "CPU, presence ÷ message", above: PRESENCE, below: MESSAGE, beyond: None }];
        Self { acts, comparisons, roster: true, ..Self::default() }
    }

    /// `contacts --prepare`: only makes everybody in a group a contact of everybody.
    pub(crate) fn prepare() -> Self {
        let acts = vec![
            Act::measured("login", Who::All, Deed::Join, Unit::Sessions),
            Act::measured("subscriptions", Who::All, Deed::Befriend, Unit::Sessions),
        ];
        Self { acts, mesh: true, roster: true, ..Self::default() }
    }

    /// `contacts --memory`: as many sessions with empty rosters and then with those that [`Self::prepare`] filled.
    pub(crate) fn memory(empty_rosters: u32) -> Self {
        let acts = vec![Act::between("rosters", Who::All, Deed::Befriend)];
        Self { acts, mesh: true, prepared: true, empty_rosters, roster: true, ..Self::default() }
    }
}

impl Stage {
    /// `pubsub`: leaders publish to members who subscribed to their node, then write as many messages.
    pub(crate) fn pubsub(service: Option<String>) -> Self {
        const EVENT: &str = "notification delivered";
        const MESSAGE: &str = "message delivered";
        let acts = vec![
            // Nobody hears that the nodes of an earlier run go.
            Act::measured("publishers' login", Who::Leaders, Deed::Join, Unit::Sessions),
            Act::between("nodes", Who::Leaders, Deed::Create),
            Act::measured("subscribers' login", Who::Members, Deed::Join, Unit::Sessions),
            Act::measured("subscription", Who::Members, Deed::Subscribe, Unit::Sessions),
            Act::measured(EVENT, Who::Leaders, Deed::Traffic(Topic::Event), Unit::Stanzas),
            Act::between("publications answered", Who::Leaders, Deed::Settle),
            Act::measured(MESSAGE, Who::Leaders, Deed::Traffic(Topic::Chat), Unit::Stanzas),
        ];
        let comparisons =
            vec![Comparison { name: "CPU, notification ÷ message", above: EVENT, below: MESSAGE, beyond: None }];
        Self { acts, comparisons, service, ..Self::default() }
    }
}

impl Stage {
    /// `decisions`: sessions ping the server, ask decision support of `service` whether somebody may read their things,
    /// each of which has so many `rules`, and ping again.
    pub(crate) fn decisions(service: String, rules: u32) -> Self {
        const PING: &str = "ping";
        const AGAIN: &str = "ping again";
        const DECISION: &str = "canRead";
        let ask =
            |name, question| Act::measured(name, Who::Leaders, Deed::Traffic(Topic::Ask(question)), Unit::Stanzas);
        let acts = vec![
            Act::measured("login", Who::All, Deed::Join, Unit::Sessions),
            ask(PING, Question::Ping),
            ask(DECISION, Question::Decision),
            ask(AGAIN, Question::Ping),
        ];
        let contrast = Some(Contrast { above: DECISION, below: [PING, AGAIN] });
        Self { acts, contrast, rules: Rules { service, rules }, ..Self::default() }
    }

    /// `searches`: leaders write to their members; then others search as well; then as before.
    pub(crate) fn searches(searches: Searches) -> Self {
        const ALONE: &str = "messages";
        const BESIDE: &str = "messages beside searches";
        const AGAIN: &str = "messages again";
        let write = |name, searching| {
            let deed = Deed::Traffic(Topic::Pairs { searching });
            Act::measured(name, Who::Leaders, deed, Unit::Stanzas)
        };
        let acts = vec![
            Act::measured("login", Who::All, Deed::Join, Unit::Sessions),
            Act::measured("first search", Who::Leaders, Deed::Search, Unit::Sessions),
            write(ALONE, false),
            write(BESIDE, true),
            write(AGAIN, false),
        ];
        let contrast = Some(Contrast { above: BESIDE, below: [ALONE, AGAIN] });
        Self { acts, contrast, searches, ..Self::default() }
    }

    /// `abuse`: leaders write to their members, beside one crowd after another and without any in between.
    pub(crate) fn abuse(cases: &[Abuse], recruiting: Recruiting) -> Self {
        let deed = Deed::Traffic(Topic::Pairs { searching: false });
        let write = |name, abuse| Act { abuse, ..Act::measured(name, Who::Leaders, deed, Unit::Stanzas) };
        let mut acts = vec![Act::measured("login", Who::All, Deed::Join, Unit::Sessions), write("messages", None)];
        for &abuse in cases {
            acts.extend([write(abuse.act(), Some(abuse)), write("messages again", None)]);
        }
        Self { acts, recruiting, ..Self::default() }
    }

    /// `register`: sessions create accounts with signed forms, one at a time each.
    pub(crate) fn register(sign_up: SignUp) -> Self {
        let sign = Deed::Traffic(Topic::Ask(Question::SignUp));
        let acts = vec![
            Act::measured("login", Who::All, Deed::Join, Unit::Sessions),
            Act::measured("account created", Who::Leaders, sign, Unit::Stanzas),
        ];
        Self { acts, sign_up: Some(sign_up), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaders_and_members_are_everybody_and_nobody_twice() {
        for group in [1, 2, 5] {
            let count = |who: Who| (0..20).filter(|&session| who.includes(session, group)).count() as u32;
            for who in [Who::Leaders, Who::Members, Who::All] {
                assert_eq!(count(who), who.count(20, group), "{who:?} of groups of {group}");
            }
            assert_eq!(count(Who::Leaders) + count(Who::Members), count(Who::All));
            let foremost = (0..20).filter(|&session| Who::Foremost.includes(session, group));
            assert!(foremost.clone().all(|session| Who::Members.includes(session, group)));
            assert_eq!(foremost.count() as u32, Who::Foremost.count(20, group));
        }
    }

    #[test]
    fn a_contrast_names_acts_that_are_measured() {
        for stage in [Stage::decisions("things.localhost".to_owned(), 10), Stage::searches(Searches::default())] {
            let Contrast { above, below: [before, after] } = stage.contrast.unwrap();
            for name in [above, before, after] {
                assert!(stage.acts.iter().any(|act| act.name == name && act.unit.is_some()), "{name}");
            }
        }
    }

    #[test]
    fn comparisons_name_acts_that_are_measured() {
        let resume = [(false, false), (false, true), (true, true)]
            .map(|(token, tls)| Stage::resume(Returns { inline: token || !tls, token, tls, contacts: !token }));
        for stage in resume.into_iter().chain([Stage::offline(1), Stage::contacts(), Stage::pubsub(None)]) {
            for Comparison { above, below, beyond, .. } in &stage.comparisons {
                for name in [above, below].into_iter().chain(beyond) {
                    assert!(stage.acts.iter().any(|act| act.name == *name && act.unit.is_some()), "{name}");
                }
            }
        }
    }
}
