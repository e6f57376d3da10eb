//! The log's way out: lines are queued, and a thread of their own writes them to standard error.
//!
//! Whoever logs never waits for whoever reads: if the pipe behind standard error is not read, lines wait up to a bound and
//! are dropped beyond it, with a number. And nobody outside makes the log grow as they like: of what one place in the code
//! says at INFO or above, so many lines in a while are written and the others counted, in the next line that is.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Level, Metadata, error, warn};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written, at most.
const LINES_MAX: usize = 2_048;
/// Bytes of them, at most: some two thousand lines as they are, and no more memory than that if they are not.
const BYTES_MAX: usize = 256 * 1024;
/// How long the end of the process waits for lines to be written: a reader that is there takes them at once.
pub const FLUSH_MAX: Duration = Duration::from_secs(1);
/// Lines of one place in the code at once, at INFO and above: enough to see what happens.
const SAID_MAX: u32 = 50;
/// The time in which it may say one more: of a store that fails under a storm a line a second, rather than one for each
/// request.
const SAID_EACH: Duration = Duration::from_secs(1);

/// The one that [`start`] made.
static LOG: OnceLock<Log> = OnceLock::new();

/// Where lines are put. A writer for `tracing_subscriber`.
#[derive(Debug, Clone)]
pub struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lines: SyncSender<Vec<u8>>,
    /// Lines and bytes that wait.
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    dropped: AtomicU64,
    left_out: AtomicU64,
    said: Mutex<HashMap<Identifier, Said>>,
}

/// What one place in the code may still say, since when, and what it did not.
#[derive(Debug)]
struct Said {
    since: Instant,
    lines_left: u32,
    left_out: u64,
}

/// What became of lines that are not in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Missing {
    /// Nobody read what came before them.
    pub dropped: u64,
    /// There were many like them.
    pub left_out: u64,
}

/// Starts the log of this process, on standard error. Afterwards [`say`] and [`flush`] go there.
///
/// # Errors
/// The system's: no thread, no descriptor.
pub fn start() -> io::Result<Log> {
    // A descriptor of its own: standard error's lock would be held while a write waits.
    let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let (log, lines) = Log::new();
    let writer = log.clone();
    thread::Builder::new().name("plaza-log".to_owned()).spawn(move || writer.write_lines(&lines, out))?;
    Ok(LOG.get_or_init(|| log).clone())
}

/// What is missing from this process's log.
pub fn missing() -> Missing {
    LOG.get().map(Log::missing).unwrap_or_default()
}

/// Says something to the operator that is no log line: through the log's queue if there is one, so that it comes in order
/// and waits for nobody.
pub fn say(text: &str) {
    match LOG.get() {
        Some(log) => log.0.push(format!("{text}\n").into_bytes()),
        None => eprintln!("{text}"),
    }
}

/// Waits until all is written, at most for [`FLUSH_MAX`].
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.flush(FLUSH_MAX);
    }
}

/// Tells of a panic, as the standard library would, without waiting for anybody.
pub fn panicked(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let (thread, text) = (thread.name().unwrap_or("?"), info.payload_as_str().unwrap_or("no text"));
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = std::backtrace::Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        error!(thread, location, %backtrace, "panicked: {text}");
    } else {
        error!(thread, location, "panicked: {text}");
    }
    // The process ends with its main thread; a shard goes on, and must not wait.
    if thread == "main" {
        flush();
    }
}

impl Log {
    fn new() -> (Self, Receiver<Vec<u8>>) {
        let (lines, out) = sync_channel(LINES_MAX);
        let shared = Shared {
            lines,
            waiting: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
            said: Mutex::default(),
        };
        (Self(Arc::new(shared)), out)
    }

    fn missing(&self) -> Missing {
        Missing { dropped: self.0.dropped.load(Ordering::Relaxed), left_out: self.0.left_out.load(Ordering::Relaxed) }
    }

    /// Writes lines as they come, for ever.
    fn write_lines(&self, lines: &Receiver<Vec<u8>>, mut out: impl Write) {
        let mut told = 0;
        while let Ok(line) = lines.recv() {
            if out.write_all(&line).is_err() {
                self.0.dropped.fetch_add(1, Ordering::Relaxed);
            }
            self.0.waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            let left = self.0.waiting.fetch_sub(1, Ordering::Release) - 1;
            let dropped = self.0.dropped.load(Ordering::Relaxed);
            // Once there is room again, so that this line has some.
            if left == 0 && dropped > told {
                told = dropped;
                warn!(dropped, "lines of this log were dropped, since it was not read; so many since the start");
            }
        }
    }

    fn flush(&self, within: Duration) {
        let end = Instant::now() + within;
        while self.0.waiting.load(Ordering::Acquire) > 0 && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Shared {
    /// Queues a line, or drops it.
    fn push(&self, line: Vec<u8>) {
        let len = line.len();
        let bytes = self.waiting_bytes.fetch_add(len, Ordering::Relaxed);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if bytes.saturating_add(len) > BYTES_MAX || self.lines.try_send(line).is_err() {
            self.waiting_bytes.fetch_sub(len, Ordering::Relaxed);
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a place in the code may say something now: then how much of it was left out before.
    fn may_say(&self, place: &Metadata<'_>, now: Instant) -> Option<u64> {
        if *place.level() > Level::INFO {
            return Some(0);
        }
        // Held for a few instructions only.
        let mut places = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let said = places.entry(place.callsite()).or_insert(Said { since: now, lines_left: SAID_MAX, left_out: 0 });
        let more = now.saturating_duration_since(said.since).as_secs() / SAID_EACH.as_secs();
        if more > 0 {
            said.lines_left = said.lines_left.saturating_add(u32::try_from(more).unwrap_or(u32::MAX)).min(SAID_MAX);
            said.since = now;
        }
        if said.lines_left > 0 {
            said.lines_left -= 1;
            return Some(std::mem::take(&mut said.left_out));
        }
        said.left_out += 1;
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Takes one line.
#[derive(Debug)]
pub struct Line<'a> {
    log: &'a Shared,
    /// How many like it were left out before; `None`: this one is as well.
    left_out: Option<u64>,
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { log: &self.0, left_out: Some(0) }
    }

    fn make_writer_for(&'a self, place: &Metadata<'_>) -> Line<'a> {
        Line { log: &self.0, left_out: self.0.may_say(place, Instant::now()) }
    }
}

impl Write for Line<'_> {
    /// A line as it was formatted, all of it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.left_out {
            None => {}
            Some(0) => self.log.push(line.to_vec()),
            Some(others) => self.log.push(with_left_out(line, others)),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The line, of text or JSON, with one field more.
fn with_left_out(line: &[u8], others: u64) -> Vec<u8> {
    let mut longer = Vec::with_capacity(line.len() + 32);
    if let Some(object) = line.strip_suffix(b"}\n").filter(|object| object.starts_with(b"{")) {
        longer.extend_from_slice(object);
        longer.extend_from_slice(format!(",\"left_out\":{others}}}\n").as_bytes());
    } else {
        longer.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        longer.extend_from_slice(format!(" left_out={others}\n").as_bytes());
    }
    longer
}

#[cfg(test)]
mod tests {
    use tracing::{debug, info};

    use super::*;

    /// What is queued.
    fn queued(lines: &Receiver<Vec<u8>>) -> Vec<String> {
        lines.try_iter().map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn a_log_that_nobody_reads_holds_so_much_and_counts_the_rest() {
        let (log, lines) = Log::new();
        for number in 0..LINES_MAX + 7 {
            log.0.push(format!("{number}\n").into_bytes());
        }
        assert_eq!(log.missing(), Missing { dropped: 7, left_out: 0 });
        let waiting = queued(&lines);
        assert_eq!((waiting.len(), waiting.last().unwrap().as_str()), (LINES_MAX, "2047\n"));

        let (log, lines) = Log::new();
        for _ in 0..10 {
            log.0.push(vec![b'x'; BYTES_MAX / 4]);
        }
        assert_eq!((log.missing().dropped, queued(&lines).len()), (6, 4));
    }

    /// A writer that can be held up, into a text that can be read.
    #[derive(Clone, Default)]
    struct Pipe(Arc<Mutex<Vec<u8>>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_logs_waits_for_nobody_and_the_end_waits_for_so_long() {
        let (log, lines) = Log::new();
        let pipe = Pipe::default();
        let stalled = pipe.0.lock().unwrap();
        let (writer, out) = (log.clone(), pipe.clone());
        let written = thread::spawn(move || writer.write_lines(&lines, out));
        let begun = Instant::now();
        for number in 0..LINES_MAX * 2 {
            log.0.push(format!("{number}\n").into_bytes());
        }
        assert!(log.missing().dropped >= LINES_MAX as u64 - 1);
        log.flush(Duration::from_millis(50));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        drop(stalled);
        log.flush(Duration::from_secs(20));
        let text = String::from_utf8(pipe.0.lock().unwrap().clone()).unwrap();
        let numbers: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert!(numbers.len() >= LINES_MAX && numbers.is_sorted(), "{} lines", numbers.len());
        assert_eq!(numbers.len() as u64 + log.missing().dropped, LINES_MAX as u64 * 2);
        drop((log, written));
    }

    #[test]
    fn what_one_place_says_at_will_is_bounded_and_others_are_heard() {
        let (log, lines) = Log::new();
        let subscriber = tracing_subscriber::fmt().with_max_level(Level::DEBUG).with_writer(log.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..100 {
                info!(number, "again");
                debug!(number, "asked for");
            }
            warn!("another");
        });
        let said = queued(&lines);
        let count = |text: &str| said.iter().filter(|line| line.contains(text)).count();
        assert_eq!((count("again"), count("asked for"), count("another")), (SAID_MAX as usize, 100, 1));
        assert_eq!(log.missing(), Missing { dropped: 0, left_out: 50 });
    }

    #[test]
    fn the_next_line_says_how_many_were_left_out() {
        let (log, _lines) = Log::new();
        let (now, place) = (Instant::now(), place());
        for _ in 0..SAID_MAX {
            assert_eq!(log.0.may_say(place, now), Some(0));
        }
        for _ in 0..5 {
            assert_eq!(log.0.may_say(place, now + SAID_EACH / 2), None);
        }
        assert_eq!(log.0.may_say(place, now + SAID_EACH), Some(5));
        assert_eq!(log.0.may_say(place, now + SAID_EACH), None);
        let later = now + SAID_EACH * 1_000;
        assert_eq!(log.0.may_say(place, later), Some(1));
        assert_eq!((1..100).filter(|_| log.0.may_say(place, later).is_some()).count(), SAID_MAX as usize - 1);
        assert_eq!(with_left_out(b"INFO again\n", 5), b"INFO again left_out=5\n");
        assert_eq!(with_left_out(b"{\"level\":\"INFO\"}\n", 5), b"{\"level\":\"INFO\",\"left_out\":5}\n");
    }

    /// Some place in the code.
    fn place() -> &'static Metadata<'static> {
        struct Places(Mutex<Option<&'static Metadata<'static>>>);
        impl tracing::Subscriber for Places {
            fn enabled(&self, _: &Metadata<'_>) -> bool {
                true
            }
            fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
                tracing::span::Id::from_u64(1)
            }
            fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
            fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
            fn event(&self, event: &tracing::Event<'_>) {
                *self.0.lock().unwrap() = Some(event.metadata());
            }
            fn enter(&self, _: &tracing::span::Id) {}
            fn exit(&self, _: &tracing::span::Id) {}
        }
        let places = Arc::new(Places(Mutex::new(None)));
        tracing::subscriber::with_default(Arc::clone(&places), || info!("here"));
        places.0.lock().unwrap().unwrap()
    }
}
