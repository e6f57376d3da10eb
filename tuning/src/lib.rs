//! Host tuning: what the broker needs of the machine it runs on, and whether this machine has it.
//!
//! [`preflight`] looks at the host once, before anything is started, and says in one line per [`Finding`] what is wrong
//! and what to do about it. [`host`] gathers the facts, [`profile`] is the table they are judged by. Nothing here changes
//! the host but [`raise_limits`], which lifts the process's own soft limits as far as it may.
#![forbid(unsafe_code)]

use std::fmt;

pub mod host;
pub mod profile;

pub use host::{Host, raise_limits};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Info,
    /// The broker runs, but less well than it could.
    Warn,
    /// The broker can't run here.
    Fatal,
}

impl fmt::Display for Severity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Info => "ok",
            Self::Warn => "warning",
            Self::Fatal => "fatal",
        })
    }
}

/// One thing looked at, on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What was looked at: `io_uring`, `open files`.
    pub subject: &'static str,
    /// What was found.
    pub found: String,
    /// What to do about it; empty if nothing.
    pub remedy: String,
}

impl Finding {
    /// Something is as it should be.
    pub fn info(subject: &'static str, found: impl Into<String>) -> Self {
        Self { severity: Severity::Info, subject, found: found.into(), remedy: String::new() }
    }

    /// Something costs performance or capacity.
    pub fn warn(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Warn, subject, found: found.into(), remedy: remedy.into() }
    }

    /// Something keeps the broker from running.
    pub fn fatal(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Fatal, subject, found: found.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}: {}", self.severity, self.subject, self.found)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(out, "; {}", self.remedy) }
    }
}

/// What the broker is going to ask of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Shards, each a pinned thread with rings of its own.
    pub shards: u16,
    /// CPUs to pin them to; empty: any.
    pub cpus: Vec<usize>,
    /// Direct descriptors each shard registers.
    pub descriptors_per_shard: u32,
}

impl Needs {
    /// Connections over all shards.
    pub fn connections(&self) -> u64 {
        u64::from(self.shards) * u64::from(self.descriptors_per_shard)
    }
}

/// Looks at this host and judges it: every finding, the worst first.
pub fn preflight(needs: &Needs) -> Vec<Finding> {
    let mut findings = profile::judge(&Host::read(needs), needs);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_with_its_remedy() {
        let finding = Finding::fatal("io_uring", "off", "switch it on");
        assert_eq!(finding.to_string(), "fatal: io_uring: off; switch it on");
        assert_eq!(Finding::info("kernel", "6.18").to_string(), "ok: kernel: 6.18");
    }

    #[test]
    fn the_worst_findings_come_first_on_this_very_host() {
        let findings = preflight(&Needs { shards: 1, cpus: vec![], descriptors_per_shard: 64 });
        assert!(findings.windows(2).all(|pair| pair[0].severity >= pair[1].severity));
        assert!(findings.iter().all(|finding| !finding.to_string().contains('\n')));
        assert!(findings.iter().all(|finding| (finding.severity == Severity::Info) == finding.remedy.is_empty()));
    }
}
