//! Who waits until accounts here have stored what they were sent (XEP-0198: what is acknowledged is stored).
//!
//! Time is cut into epochs: whoever asks ends one. An account counts in each in which it was given something to store, until
//! it has stored that, and an asker is told when no account counts in the epoch it ended, nor in one before. So a question
//! costs as much as an answer, however many accounts are storing something.

use std::collections::VecDeque;

use super::session::SessionId;
use crate::mesh::ShardId;

/// Epochs, the last of which is now.
#[derive(Debug)]
pub(super) struct Settling {
    /// The number of the first.
    first: u64,
    epochs: VecDeque<Epoch>,
}

#[derive(Debug, Default)]
struct Epoch {
    /// Accounts that are storing something of it.
    accounts: usize,
    /// Who is told when there is none, nor one of an epoch before; not of the last.
    askers: Vec<(ShardId, SessionId)>,
}

impl Settling {
    pub(super) fn new() -> Self {
        Self { first: 0, epochs: VecDeque::from([Epoch::default()]) }
    }

    /// Whether an account is storing something.
    pub(super) fn is_storing(&self) -> bool {
        self.epochs.iter().any(|epoch| epoch.accounts > 0)
    }

    /// The epoch it is.
    pub(super) fn now(&self) -> u64 {
        self.first + self.epochs.len() as u64 - 1
    }

    /// An account has the first thing of this epoch to store: it counts until [`Self::end`] is told of [`Self::now`].
    pub(super) fn begin(&mut self) {
        if let Some(last) = self.epochs.back_mut() {
            last.accounts += 1;
        }
    }

    /// Has a session told when all that is being stored is; `false` if nothing is.
    pub(super) fn ask(&mut self, shard: ShardId, session: SessionId) -> bool {
        let is_new = self.epochs.back().is_some_and(|last| last.accounts > 0);
        let Some(asked) = self.epochs.len().checked_sub(if is_new { 1 } else { 2 }) else { return false };
        if let Some(epoch) = self.epochs.get_mut(asked) {
            epoch.askers.push((shard, session));
        }
        if is_new {
            self.epochs.push_back(Epoch::default());
        }
        true
    }

    /// An account has stored all that it was given in an epoch; who is told is taken with [`Self::next_settled`].
    pub(super) fn end(&mut self, epoch: u64) {
        let at = epoch.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some(found) = at.and_then(|at| self.epochs.get_mut(at)) {
            found.accounts = found.accounts.saturating_sub(1);
        }
    }

    /// Whose question is answered.
    pub(super) fn next_settled(&mut self) -> Option<(ShardId, SessionId)> {
        while self.epochs.len() > 1 {
            let first = self.epochs.front_mut().filter(|first| first.accounts == 0)?;
            if let Some(asker) = first.askers.pop() {
                return Some(asker);
            }
            self.epochs.pop_front();
            self.first += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The ways of a shard: an account is given something, has stored the oldest of what it was given, or somebody asks.
    #[derive(Debug, Clone)]
    enum Step {
        Give(usize),
        Store(usize),
        Ask,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0_usize..4).prop_map(Step::Give),
            3 => (0_usize..4).prop_map(Step::Store),
            2 => Just(Step::Ask),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn who_asks_is_told_when_what_was_there_is_stored_and_not_before(steps in steps()) {
            let mut settling = Settling::new();
            // What each account has been given, as (number, epoch), oldest first; a question waits for all given before it.
            let mut given: [VecDeque<(usize, u64)>; 4] = Default::default();
            let mut questions: Vec<(SessionId, usize)> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Give(account) => {
                        let (now, queue) = (settling.now(), &mut given[account]);
                        if queue.back().is_none_or(|&(_, epoch)| epoch < now) {
                            settling.begin();
                        }
                        queue.push_back((number, now));
                    }
                    Step::Store(account) => {
                        let queue = &mut given[account];
                        if let Some((_, epoch)) = queue.pop_front()
                            && queue.front().is_none_or(|&(_, next)| next > epoch)
                        {
                            settling.end(epoch);
                        }
                    }
                    Step::Ask => {
                        let session = SessionId::from_token(number as u64);
                        let waits = settling.ask(ShardId(0), session);
                        prop_assert_eq!(waits, given.iter().any(|queue| !queue.is_empty()));
                        if waits {
                            questions.push((session, number));
                        }
                    }
                }
                let mut told = Vec::new();
                while let Some((_, session)) = settling.next_settled() {
                    told.push(session);
                }
                let oldest = given.iter().filter_map(|queue| queue.front()).map(|&(number, _)| number).min();
                for &(session, asked) in &questions {
                    prop_assert_eq!(told.contains(&session), oldest.is_none_or(|oldest| oldest > asked));
                }
                questions.retain(|(session, _)| !told.contains(session));
                prop_assert_eq!(settling.is_storing(), oldest.is_some());
            }
        }
    }
}
