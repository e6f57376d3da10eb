//! The control thread's look at memory: twice a second it takes a reading, and tells the shards what follows of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Running;
use crate::memory::host::Host;
use crate::memory::{Gauge, Level, Reading, Sample, Watermarks};
use crate::metrics::Label as _;

/// Between two readings. In that time the broker takes tens of megabytes at most, which the watermarks leave room for.
const INTERVAL: Duration = Duration::from_millis(500);

/// What is known of the broker's memory.
#[derive(Debug, Default)]
pub(super) struct Watch {
    host: Host,
    marks: Cell<Watermarks>,
    gauge: RefCell<Gauge>,
    last: Cell<Sample>,
}

impl Watch {
    /// From now on these hold.
    pub(super) fn set_marks(&self, marks: Watermarks) {
        self.marks.set(marks);
    }

    /// The last sample, and the bound.
    pub(super) fn last(&self) -> (Sample, u64) {
        (self.last.get(), self.marks.get().limit)
    }
}

/// The bound in force: the one that was configured, or what the host says. A host that says nothing has none.
pub(super) fn found(configured: Watermarks) -> Watermarks {
    if configured.limit > 0 {
        return configured;
    }
    Watermarks { limit: Host::default().limit().unwrap_or(u64::MAX), ..configured }
}

/// Looks at memory for ever.
pub(super) async fn watch(running: Rc<Running>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(resident) = running.memory.host.resident() else {
            return warn!("how much memory is used cannot be read here, so that nothing is done if it is too much");
        };
        running.look(resident);
    }
}

impl Running {
    fn look(&self, resident: u64) {
        let broker = self.broker.borrow();
        let Some(broker) = broker.as_ref() else { return };
        let accounted = broker.memory_bytes() + self.index.progress().bytes + self.store.memory_bytes();
        let marks = self.memory.marks.get();
        let reading = Reading { resident, accounted };
        let sample = self.memory.gauge.borrow_mut().take(Instant::now(), reading, &marks);
        let was = self.memory.last.replace(sample).level;
        if sample.kept {
            broker.give_back();
        }
        // While memory is short each look has the shards give back what they have freed.
        if sample.level == was && sample.level < Level::Short {
            return;
        }
        broker.press(sample.level, sample.excess);
        if sample.level > was {
            let (level, used, limit) = (sample.level.name(), sample.used, marks.limit);
            warn!(level, used, limit, "memory runs short: {}", done(sample.level));
        } else if sample.level < was {
            let (level, used, limit) = (sample.level.name(), sample.used, marks.limit);
            info!(level, used, limit, "there is more memory again: {}", done(sample.level));
        }
    }
}

/// What is done at a level.
const fn done(level: Level) -> &'static str {
    match level {
        Level::Ample => "all is done",
        Level::Scarce => "no connection is accepted",
        Level::Short => "no connection is accepted, and neither presence nor offline messages are taken",
        Level::Critical => "in addition the oldest sessions that wait to be resumed are given up",
    }
}
