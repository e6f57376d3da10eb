//! A shard's pulse: which turn it is at and what it does in it, for whoever watches from outside.
//!
//! One store a step into a cache line of the shard's own, and no look at a clock: how long something takes is counted by
//! whoever watches.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a shard does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// It has not begun.
    Starting,
    /// It waits in its ring, for whatever comes.
    Resting,
    /// It hands to the kernel what it has for it, and takes what is there, without waiting.
    Submitting,
    /// It takes what its connections received, and what became of what they sent.
    Receiving,
    /// It takes what other shards and the control thread have for it.
    Taking,
    /// It runs tasks, and takes what they brought.
    Tasks,
    /// It goes on with sessions that had to wait.
    Feeding,
    /// It does what is due.
    Timers,
    /// It tells recipients of events.
    Fanning,
    /// It writes to its connections, and to other shards.
    Writing,
    /// It has stopped.
    Ended,
}

impl Step {
    const ALL: [Self; 11] = [
        Self::Starting,
        Self::Resting,
        Self::Submitting,
        Self::Receiving,
        Self::Taking,
        Self::Tasks,
        Self::Feeding,
        Self::Timers,
        Self::Fanning,
        Self::Writing,
        Self::Ended,
    ];

    /// For the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Resting => "resting",
            Self::Submitting => "submitting",
            Self::Receiving => "receiving",
            Self::Taking => "taking",
            Self::Tasks => "running tasks",
            Self::Feeding => "feeding",
            Self::Timers => "keeping time",
            Self::Fanning => "fanning out",
            Self::Writing => "writing",
            Self::Ended => "ended",
        }
    }
}

/// A turn, and where in it a shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// Turns so far.
    pub turn: u64,
    /// What it does.
    pub step: Step,
}

/// What a shard says of itself. Only its shard writes.
#[derive(Debug, Default)]
#[repr(align(128))] // Never on a cache line of another shard's.
pub struct Pulse {
    beat: AtomicU64,
    task: OnceLock<PathBuf>,
}

impl Pulse {
    /// Says which thread the shard is, so that the kernel can be asked about it. To be called on that thread.
    pub fn settle(&self) {
        if let Ok(task) = fs::read_link("/proc/thread-self") {
            _ = self.task.set(PathBuf::from("/proc").join(task));
        }
    }

    /// The shard begins with a step.
    ///
    /// Relaxed, since it stands for itself.
    pub fn at(&self, turn: u64, step: Step) {
        self.beat.store(turn << 8 | step as u64, Ordering::Relaxed);
    }

    /// Where the shard is.
    pub fn beat(&self) -> Beat {
        let beat = self.beat.load(Ordering::Relaxed);
        let step = Step::ALL.get((beat & 0xff) as usize).copied().unwrap_or(Step::Starting);
        Beat { turn: beat >> 8, step }
    }

    /// What the kernel tells of its thread, in one line: its state, the system call it is in and where in the kernel that
    /// waits, and, for who may see it (CAP_SYS_ADMIN), the kernel's stack. Nobody tells the stack above the system call:
    /// that is in the core that a service manager's watchdog makes, or a debugger's.
    pub fn thread(&self) -> String {
        let Some(task) = self.task.get() else { return "unknown".to_owned() };
        let read = |file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
        let status = read("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let mut told = format!("{} {}", field("Name:"), field("State:"));
        for (name, text) in [("wchan", read("wchan")), ("syscall", read("syscall")), ("stack", read("stack"))] {
            let text =
                text.lines().map(|line| line.trim_start_matches("[<0>] ").trim()).collect::<Vec<_>>().join(" < ");
            if !text.is_empty() && text != "0" {
                told.push_str(&format!("; {name}: {text}"));
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_a_shard_says_is_read_back() {
        let pulse = Pulse::default();
        assert_eq!(pulse.beat(), Beat { turn: 0, step: Step::Starting });
        for (turn, step) in (1..).zip(Step::ALL) {
            pulse.at(turn, step);
            assert_eq!(pulse.beat(), Beat { turn, step });
        }
    }

    #[test]
    fn the_kernel_tells_of_another_thread_where_it_waits() {
        assert_eq!(Pulse::default().thread(), "unknown");
        let pulse = Arc::new(Pulse::default());
        let (there, here) = std::sync::mpsc::channel();
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let shard = Arc::clone(&pulse);
        let thread = std::thread::Builder::new().name("shard-7".to_owned()).spawn(move || {
            shard.settle();
            there.send(()).unwrap();
            _ = ends.recv();
        });
        here.recv().unwrap();
        let mut told = String::new();
        for _ in 0..200 {
            told = pulse.thread();
            if told.starts_with("shard-7 S (sleeping)") {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(told.starts_with("shard-7 S (sleeping)") && !told.contains('\n'), "{told}");
        drop(end);
        thread.unwrap().join().unwrap();
    }
}
