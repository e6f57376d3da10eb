//! A crowd that abuses a server while others go on with their traffic: `plaza-loadgen crowd`, which `plaza-loadgen abuse`
//! starts as a process of its own, at the lowest priority, so that it takes the CPU that the traffic leaves.
//!
//! Strangers connect again and again and follow a [`script`]; members are logged in and [`flood`]. Neither waits for its
//! turn: the server has to see to that.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::ring;

mod flood;
mod script;

/// What a crowd does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Abuse {
    /// Opens streams and leaves them.
    Connects,
    /// Sends a byte of a stream header every two seconds.
    Slow,
    /// Begins TLS handshakes, and leaves once the server has signed (needs a listener with TLS from the first byte).
    Handshakes,
    /// Opens streams with what is no XML.
    Malformed,
    /// Tries wrong passwords, by SCRAM.
    Passwords,
    /// Sends white space between stanzas, as fast as it is taken.
    Whitespace,
    /// Sends presence, likewise.
    Presence,
    /// Subscribes to the presence of ever more accounts, likewise.
    Subscribe,
    /// Searches the Thing Registry by an expression, likewise.
    Searches,
    /// Is written to and never reads.
    Unread,
    /// Writes to one of its own, who reads.
    Hot,
}

impl Abuse {
    /// What the act beside it is called.
    pub(crate) const fn act(self) -> &'static str {
        match self {
            Self::Connects => "messages beside connects",
            Self::Slow => "messages beside slow",
            Self::Handshakes => "messages beside handshakes",
            Self::Malformed => "messages beside malformed",
            Self::Passwords => "messages beside passwords",
            Self::Whitespace => "messages beside whitespace",
            Self::Presence => "messages beside presence",
            Self::Subscribe => "messages beside subscribe",
            Self::Searches => "messages beside searches",
            Self::Unread => "messages beside unread",
            Self::Hot => "messages beside hot",
        }
    }

    /// Whether its crowd is strangers, who need no accounts.
    const fn is_strange(self) -> bool {
        match self {
            Self::Connects | Self::Slow | Self::Handshakes | Self::Malformed | Self::Passwords => true,
            Self::Whitespace | Self::Presence | Self::Subscribe | Self::Searches | Self::Unread | Self::Hot => false,
        }
    }
}

/// What a crowd did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deeds {
    /// Connections begun.
    pub connections: u64,
    /// Scripts gone through to their end.
    pub scripts: u64,
    /// Connections that the server ended, refused ones among them.
    pub ended: u64,
    /// Bytes that the server's side took.
    pub written: u64,
    /// Bytes that came from it.
    pub read: u64,
}

/// How long the crowd does nothing when the server takes nothing and says nothing.
const NAP: Duration = Duration::from_millis(2);

/// `plaza-loadgen crowd`: is in place, says so, goes on until standard input ends, and says what it did. The accounts of
/// members are those from number `first` on.
///
/// # Errors
/// In words: it cannot begin.
pub(crate) fn run(abuse: Abuse, plan: &mut Plan, first: u32) -> Result<(), String> {
    ring::yield_to_others().map_err(|error| format!("the crowd's priority: {error}"))?;
    let count = plan.sessions;
    plan.accounts = first.saturating_add(count);
    let stop = Arc::new(AtomicBool::new(false));
    let mut strangers = Vec::new();
    let mut members = None;
    if abuse.is_strange() {
        strangers = script::strangers(abuse, plan)?;
    } else {
        members = Some(flood::gather(abuse, plan, first..plan.accounts)?);
    }
    let ended = Arc::clone(&stop);
    std::thread::spawn(move || {
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        ended.store(true, Ordering::Relaxed);
    });
    println!("{READY}");
    io::stdout().flush().map_err(|error| error.to_string())?;
    let mut deeds = Deeds::default();
    while !stop.load(Ordering::Relaxed) {
        let mut moved = false;
        for stranger in &mut strangers {
            moved |= stranger.turn(&mut deeds);
        }
        if let Some(members) = &mut members {
            moved |= members.turn(&mut deeds);
        }
        if !moved {
            std::thread::sleep(NAP);
        }
    }
    println!("{}", serde_json::to_string(&deeds).map_err(|error| error.to_string())?);
    Ok(())
}

/// What a crowd says when it is in place.
const READY: &str = "in place";

/// How a crowd is started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recruiting {
    /// Arguments of `plaza-loadgen crowd` behind what it does.
    pub arguments: Vec<String>,
    /// Those for strangers who want TLS, instead.
    pub tls_arguments: Vec<String>,
}

/// A crowd in a process of its own. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Crowd {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Crowd {
    /// Starts this program as a crowd, and waits until it is in place.
    ///
    /// # Errors
    /// What the system said, or that it is not in place.
    pub(crate) fn gather(abuse: Abuse, recruiting: &Recruiting) -> io::Result<Self> {
        use clap::ValueEnum;
        let name = abuse.to_possible_value().ok_or_else(|| io::Error::other("it has no name"))?;
        let arguments = if abuse == Abuse::Handshakes { &recruiting.tls_arguments } else { &recruiting.arguments };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["crowd", name.get_name()]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut crowd = Self {
            child,
            stdin,
            stdout: BufReader::new(stdout.ok_or_else(|| io::Error::other("its output is not to be had"))?),
        };
        let mut line = String::new();
        crowd.stdout.read_line(&mut line)?;
        if line.trim() == READY { Ok(crowd) } else { Err(io::Error::other("the crowd is not in place")) }
    }

    /// Ends it, and gives what it did.
    ///
    /// # Errors
    /// What the system said, or that it ended by itself.
    pub(crate) fn disperse(mut self) -> io::Result<Deeds> {
        drop(self.stdin.take());
        let mut text = String::new();
        self.stdout.read_to_string(&mut text)?;
        let status = self.child.wait()?;
        serde_json::from_str(text.trim()).map_err(|_| io::Error::other(format!("the crowd ended with {status}")))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
