//! `city`: devices that sign up with their maker's key, find their owners, and let services read and control them as far as
//! the owners allow: the whole life of things behind a broker, to be watched and to be judged.
//!
//! [`town`] plans it from a seed; [`entry`], [`device`], [`owner`] and [`service`] are state machines without I/O that say
//! what XMPP clients in the field say, and [`life`] is what all of them have in common; [`streets`] lets them live on one
//! ring; [`funnel`] counts how far they come, and [`report`] tells.

mod device;
mod entry;
mod funnel;
mod life;
mod link;
mod owner;
#[cfg(test)]
mod rehearsal;
mod report;
mod service;
mod sign;
mod streets;
mod town;
mod wire;

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::host::{self, Memory};
use crate::ring::process_cpu_ns;

use funnel::{Funnel, Step};
pub(crate) use report::{Report, html, print};
pub(crate) use sign::{ApiKey, fill};
pub(crate) use streets::Roads;
pub(crate) use town::{Census, Town};

/// How often the progress is shown.
const SHOWN_NS: u64 = 100_000_000;

/// What the server spent.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(crate) struct Cost {
    /// CPU time in seconds.
    pub cpu_seconds: Option<f64>,
    /// Memory at the end.
    pub memory: Option<Memory>,
}

/// Lets a city live; gives how far it came, how long that was in seconds, and what the server process `pid` spent on it.
///
/// # Errors
/// In words: it could not begin, or the kernel failed it.
pub(crate) fn live(town: &Town, roads: &Roads, pid: Option<u32>) -> Result<(Funnel, f64, Cost), String> {
    let failed = |error: std::io::Error| {
        let remedy = match error.raw_os_error() {
            Some(libc::EMFILE) => "; raise the descriptor limit (ulimit -n)",
            Some(libc::EPERM | libc::ENOSYS) => "; io_uring is missing or forbidden here (kernel.io_uring_disabled)",
            Some(libc::ENOMEM) => "; raise the limit of locked memory (ulimit -l)",
            _ => "",
        };
        format!("the city: {error}{remedy}")
    };
    let cpu_before = pid.and_then(process_cpu_ns);
    let mut streets = streets::Streets::new(town, roads).map_err(failed)?;
    let mut bars = Bars::new(&streets.funnel.steps());
    let (mut shown_ns, mut lived_ns) = (0, 0);
    let mut cost = Cost::default();
    let lived = streets.live(|funnel, now_ns| {
        lived_ns = now_ns;
        if now_ns >= shown_ns + SHOWN_NS {
            shown_ns = now_ns;
            bars.show(funnel);
        }
    });
    if let Some((after, before)) = pid.and_then(process_cpu_ns).zip(cpu_before) {
        cost.cpu_seconds = Some(after.saturating_sub(before) as f64 / 1e9);
    }
    cost.memory = pid.and_then(host::memory);
    bars.clear();
    lived.map_err(failed)?;
    Ok((streets.funnel, Duration::from_nanos(lived_ns).as_secs_f64(), cost))
}

/// A line for each stage, and one for what goes wrong.
struct Bars {
    all: MultiProgress,
    stages: Vec<ProgressBar>,
    troubles: ProgressBar,
}

impl Bars {
    fn new(steps: &[Step]) -> Self {
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template("{prefix:>12} {wide_bar} {pos}/{len} {msg}")
            .unwrap_or(ProgressStyle::default_bar());
        let stage = |step: &Step| {
            let bar = all.add(ProgressBar::new(step.goal).with_style(style.clone()));
            bar.set_prefix(step.stage.names().0);
            bar
        };
        let stages = steps.iter().map(stage).collect();
        let troubles = ProgressStyle::with_template("{msg}").unwrap_or(ProgressStyle::default_bar());
        let troubles = all.add(ProgressBar::new(0).with_style(troubles));
        Self { all, stages, troubles }
    }

    fn show(&mut self, funnel: &Funnel) {
        for (bar, step) in self.stages.iter().zip(funnel.steps()) {
            bar.set_position(step.reached);
        }
        let troubles = funnel.troubles();
        let told: Vec<String> = troubles.iter().map(|trouble| format!("{} {}", trouble.count, trouble.kind)).collect();
        self.troubles.set_message(told.join(", "));
    }

    fn clear(&mut self) {
        self.troubles.finish_and_clear();
        self.stages.iter().for_each(ProgressBar::finish_and_clear);
        // Nothing is lost if a terminal does not do it.
        let _ = self.all.clear();
    }
}
