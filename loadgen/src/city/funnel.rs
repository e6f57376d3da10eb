//! How far everybody in the city has come, how long things took, and what went wrong: what the report tells.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use crate::stats::{Latencies, LatencySummary};

/// What is to be reached, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    /// An account was created, or was there, and has logged in.
    Created,
    /// The registry has the thing.
    Registered,
    /// Its owner has claimed it, and the thing was told.
    Claimed,
    /// A service has found it in the registry: those that are public.
    Found,
    /// A service sees a device's presence.
    Befriended,
    /// A service has read a thing.
    Read,
    /// A service has controlled a thing that can be.
    Controlled,
    /// A device that went away came back and was read again.
    Returned,
}

impl Stage {
    /// All of them, in order.
    pub(crate) const ALL: [Self; 8] = [
        Self::Created,
        Self::Registered,
        Self::Claimed,
        Self::Found,
        Self::Befriended,
        Self::Read,
        Self::Controlled,
        Self::Returned,
    ];

    /// What the report calls it, and what is counted.
    pub(crate) const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Created => ("created", "accounts"),
            Self::Registered => ("registered", "things"),
            Self::Claimed => ("claimed", "things"),
            Self::Found => ("found", "public things, by each service"),
            Self::Befriended => ("befriended", "devices, by each service"),
            Self::Read => ("read", "things, by each service"),
            Self::Controlled => ("controlled", "things that can be, by each service"),
            Self::Returned => ("returned", "devices that went away"),
        }
    }
}

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Timing {
    /// From the time to come until bound, the account created on the way.
    Arrival,
    /// From the time to come back until bound.
    Return,
    /// A thing is registered.
    Register,
    /// A thing is claimed.
    Claim,
    /// A search.
    Search,
    /// A question about a friend, a read-out or a control request is decided.
    Decision,
    /// A read-out by somebody who may, on schedule.
    Read,
    /// A control request by somebody who may, on schedule.
    Control,
    /// A ping, on schedule.
    Ping,
}

impl Timing {
    /// What the report calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Arrival => "arrival with sign-up",
            Self::Return => "return",
            Self::Register => "registration",
            Self::Claim => "claim",
            Self::Search => "search",
            Self::Decision => "decision",
            Self::Read => "read-out",
            Self::Control => "control",
            Self::Ping => "ping",
        }
    }
}

/// Troubles of one kind.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Trouble {
    /// Its kind.
    pub kind: &'static str,
    /// How many there were.
    pub count: u64,
    /// Who had the first, and what it was.
    pub first: String,
}

/// A stage as the report has it.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Step {
    /// Which.
    pub stage: Stage,
    /// How many are to come so far.
    pub goal: u64,
    /// How many have.
    pub reached: u64,
    /// When the last of them did, in seconds of the run.
    pub seconds: f64,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Funnel {
    goals: BTreeMap<Stage, u64>,
    reached: BTreeMap<Stage, HashSet<(u32, u32)>>,
    last_ns: BTreeMap<Stage, u64>,
    timings: BTreeMap<Timing, Latencies>,
    troubles: BTreeMap<&'static str, Trouble>,
    notes: BTreeMap<&'static str, u64>,
}

impl Funnel {
    /// With what is to be reached.
    pub(crate) fn new(goals: impl IntoIterator<Item = (Stage, u64)>) -> Self {
        Self { goals: goals.into_iter().collect(), ..Self::default() }
    }

    /// Somebody has come to a stage; gives whether that was new.
    pub(crate) fn reach(&mut self, stage: Stage, who: u32, what: u32, now_ns: u64) -> bool {
        let new = self.reached.entry(stage).or_default().insert((who, what));
        if new {
            self.last_ns.insert(stage, now_ns);
        }
        new
    }

    /// Something took so long.
    pub(crate) fn time(&mut self, timing: Timing, ns: u64) {
        self.timings.entry(timing).or_insert_with(Latencies::new).record(ns);
    }

    /// Something went wrong for somebody.
    pub(crate) fn trouble(&mut self, kind: &'static str, who: &str, what: &str) {
        let fresh = || Trouble { kind, count: 0, first: format!("{who}: {what}") };
        self.troubles.entry(kind).or_insert_with(fresh).count += 1;
    }

    /// Something happened that is no fault.
    pub(crate) fn note(&mut self, what: &'static str) {
        *self.notes.entry(what).or_default() += 1;
    }

    /// How many troubles there were.
    pub(crate) fn trouble_count(&self) -> u64 {
        self.troubles.values().map(|trouble| trouble.count).sum()
    }

    /// How far things are, over all stages.
    pub(crate) fn progress(&self) -> u64 {
        self.reached.values().map(|reached| reached.len() as u64).sum()
    }

    /// Whether all is reached.
    pub(crate) fn is_complete(&self) -> bool {
        self.steps().iter().all(|step| step.reached >= step.goal)
    }

    /// The stages that have a goal.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let step = |stage: Stage| {
            let goal = self.goals.get(&stage).copied().filter(|&goal| goal > 0)?;
            let reached = self.reached.get(&stage).map_or(0, HashSet::len) as u64;
            let seconds = self.last_ns.get(&stage).map_or(0.0, |&ns| ns as f64 / 1e9);
            Some(Step { stage, goal, reached, seconds })
        };
        Stage::ALL.into_iter().filter_map(step).collect()
    }

    /// What took how long.
    pub(crate) fn timings(&self) -> Vec<(&'static str, LatencySummary)> {
        self.timings.iter().filter_map(|(timing, latencies)| Some((timing.name(), latencies.summary()?))).collect()
    }

    /// What went wrong.
    pub(crate) fn troubles(&self) -> Vec<Trouble> {
        self.troubles.values().cloned().collect()
    }

    /// What happened beside.
    pub(crate) fn notes(&self) -> Vec<(&'static str, u64)> {
        self.notes.iter().map(|(&what, &count)| (what, count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_reached_once_by_each_and_all_must() {
        let mut funnel = Funnel::new([(Stage::Created, 2), (Stage::Read, 1), (Stage::Found, 0)]);
        assert!(funnel.reach(Stage::Created, 1, 0, 5));
        assert!(!funnel.reach(Stage::Created, 1, 0, 6));
        assert!(funnel.reach(Stage::Read, 1, 7, 2_000_000_000));
        assert!(!funnel.is_complete());
        funnel.reach(Stage::Created, 2, 0, 9);
        assert!(funnel.is_complete());
        let steps = funnel.steps();
        assert_eq!(steps.len(), 2, "what has no goal is no step");
        assert_eq!((steps[1].stage, steps[1].goal, steps[1].reached, steps[1].seconds), (Stage::Read, 1, 1, 2.0));
        assert_eq!(funnel.progress(), 3);
    }

    #[test]
    fn troubles_are_counted_by_kind_and_the_first_is_kept() {
        let mut funnel = Funnel::default();
        for what in ["one", "two"] {
            funnel.trouble("claim refused", "a@b", what);
        }
        funnel.note("declined at first");
        assert_eq!(funnel.trouble_count(), 2);
        assert_eq!(funnel.troubles()[0].first, "a@b: one");
        assert_eq!(funnel.notes(), [("declined at first", 1)]);
    }
}
