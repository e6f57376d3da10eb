//! The watchdog: sees a shard that does not go on, says so, and lets the service manager know by saying nothing to it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, warn};

use super::notify;
use crate::mesh::Bell;
use crate::pulse::{Beat, Pulse, Step};

/// Time between two looks at the shards.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Looks that find a shard at the same step, with which it is stalled: ten seconds, a thousand times what a long turn takes.
/// Looks are counted, not time: while the process or the host is stopped, there are none.
const STALLED_LOOKS: u32 = 10;

/// Where a shard is watched.
#[derive(Clone)]
pub(crate) struct Watched {
    /// What it says of itself.
    pub(crate) pulse: Arc<Pulse>,
    /// Wakes it.
    pub(crate) bell: Arc<Bell>,
}

/// What is known of stalls, for the metrics.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    /// Shards that are stalled now.
    pub(super) now: Cell<u64>,
    /// How often one was found stalled.
    pub(super) total: Cell<u64>,
}

/// What a look at a shard finds.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// It goes on, or has ended; or it is too early to say.
    Well,
    /// It rests for long: is it woken, it has to begin a turn.
    Wake,
    /// It is stalled, as was not known.
    Stalled,
    /// It was stalled, and goes on.
    GoesOn,
}

/// What the watchdog remembers of a shard.
#[derive(Debug, Default)]
struct Memory {
    last: Option<Beat>,
    /// How often it was seen at that.
    looks: u32,
    stalled: bool,
}

impl Memory {
    fn look(&mut self, beat: Beat) -> Finding {
        if self.last.replace(beat) != Some(beat) || matches!(beat.step, Step::Starting | Step::Ended) {
            self.looks = 0;
            return if std::mem::take(&mut self.stalled) { Finding::GoesOn } else { Finding::Well };
        }
        self.looks = self.looks.saturating_add(1);
        let rests = beat.step == Step::Resting;
        if rests && self.looks == STALLED_LOOKS {
            return Finding::Wake;
        }
        // Who rests has had to hear the bell first.
        let looks_max = if rests { 2 * STALLED_LOOKS } else { STALLED_LOOKS };
        if self.looks >= looks_max && !std::mem::replace(&mut self.stalled, true) {
            return Finding::Stalled;
        }
        Finding::Well
    }
}

/// Looks at the shards, for ever.
pub(super) async fn watch(shards: Vec<Watched>, stalls: Rc<Stalls>) {
    let mut memories: Vec<_> = shards.iter().map(|_| (Memory::default(), Instant::now())).collect();
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        for (shard, (watched, (memory, since))) in shards.iter().zip(&mut memories).enumerate() {
            let beat = watched.pulse.beat();
            match memory.look(beat) {
                Finding::Well => {}
                Finding::Wake => watched.bell.ring(),
                Finding::Stalled => {
                    *since = Instant::now();
                    stalls.now.set(stalls.now.get() + 1);
                    stalls.total.set(stalls.total.get() + 1);
                    let (doing, turn, thread) = (beat.step.name(), beat.turn, watched.pulse.thread());
                    error!(shard, doing, turn, %thread, "a shard is stalled: its turn has no end for {STALLED_LOOKS} s");
                }
                Finding::GoesOn => {
                    stalls.now.set(stalls.now.get().saturating_sub(1));
                    warn!(shard, stalled = ?(LOOK_INTERVAL * STALLED_LOOKS + since.elapsed()), "a shard goes on");
                }
            }
        }
    }
}

/// Tells systemd twice per interval that the broker lives, if it asks: not while a shard is stalled, so that it ends the
/// broker, with a core, and starts it again.
pub(super) async fn feed(stalls: Rc<Stalls>) {
    let Some(asked) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = interval(asked / 2);
    loop {
        ticks.tick().await;
        if stalls.now.get() == 0 {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(memory: &mut Memory, times: u32, turn: u64, step: Step) -> Vec<Finding> {
        let found = (0..times).map(|_| memory.look(Beat { turn, step }));
        found.filter(|finding| *finding != Finding::Well).collect()
    }

    #[test]
    fn a_shard_that_goes_on_or_has_not_begun_or_has_ended_is_well() {
        let mut memory = Memory::default();
        assert_eq!(looks(&mut memory, 100, 0, Step::Starting), []);
        for turn in 0..100 {
            assert_eq!(looks(&mut memory, STALLED_LOOKS, turn, Step::Receiving), []);
        }
        assert_eq!(looks(&mut memory, 100, 100, Step::Ended), []);
    }

    #[test]
    fn a_shard_at_the_same_step_is_stalled_once_and_then_goes_on() {
        let mut memory = Memory::default();
        assert_eq!(looks(&mut memory, 100, 7, Step::Feeding), [Finding::Stalled]);
        assert_eq!(looks(&mut memory, 1, 7, Step::Timers), [Finding::GoesOn]);
        assert_eq!(looks(&mut memory, 100, 7, Step::Timers), [Finding::Stalled]);
        assert_eq!(looks(&mut memory, 1, 8, Step::Ended), [Finding::GoesOn]);
    }

    #[test]
    fn a_shard_that_rests_is_woken_and_stalled_if_it_does_not_wake() {
        let mut memory = Memory::default();
        assert_eq!(looks(&mut memory, STALLED_LOOKS + 1, 7, Step::Resting), [Finding::Wake]);
        assert_eq!(looks(&mut memory, STALLED_LOOKS + 1, 8, Step::Resting), [Finding::Wake]);
        assert_eq!(looks(&mut memory, 100, 9, Step::Resting), [Finding::Wake, Finding::Stalled]);
        assert_eq!(looks(&mut memory, 1, 10, Step::Resting), [Finding::GoesOn]);
    }
}
