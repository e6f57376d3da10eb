//! Ranges and what else a value must be, so that nothing downstream validates again.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use plaza_core::jid::Jid;
use tracing_subscriber::EnvFilter;

use super::text::{ByteSize, Span};
use super::{CertificateFiles, Config, Listener, ListenerConfig, Problem, TlsFiles, TlsMode, path};

/// Collects what is wrong, so that the operator sees all of it at once.
#[derive(Default)]
pub(super) struct Checks {
    pub(super) problems: Vec<Problem>,
}

impl Checks {
    pub(super) fn refuse(&mut self, key: &str, value: impl Display, expected: impl Display) {
        self.problems.push(Problem { key: key.into(), value: value.to_string(), expected: expected.to_string() });
    }

    pub(super) fn within<T: PartialOrd + Display + Copy>(
        &mut self,
        key: &str,
        value: T,
        range: RangeInclusive<T>,
    ) -> T {
        if !range.contains(&value) {
            self.refuse(key, value, format_args!("between {} and {}", range.start(), range.end()));
        }
        value
    }

    pub(super) fn bytes(&mut self, key: &str, value: ByteSize, range: RangeInclusive<u64>) -> u64 {
        if !range.contains(&value.0) {
            let (least, most) = (ByteSize(*range.start()), ByteSize(*range.end()));
            self.refuse(key, value, format_args!("between {least} and {most}"));
        }
        value.0
    }

    /// Like [`Self::bytes`], for a range that fits `u32`.
    pub(super) fn bytes_u32(&mut self, key: &str, value: ByteSize, range: RangeInclusive<u32>) -> u32 {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        u32::try_from(self.bytes(key, value, range)).unwrap_or(u32::MAX)
    }

    pub(super) fn seconds(&mut self, key: &str, value: Span, range: RangeInclusive<u64>) -> Duration {
        self.time(key, value, Duration::from_secs(*range.start())..=Duration::from_secs(*range.end()))
    }

    pub(super) fn millis(&mut self, key: &str, value: Span, range: RangeInclusive<u64>) -> Duration {
        self.time(key, value, Duration::from_millis(*range.start())..=Duration::from_millis(*range.end()))
    }

    pub(super) fn time(&mut self, key: &str, value: Span, range: RangeInclusive<Duration>) -> Duration {
        if !range.contains(&value.0) {
            self.refuse(key, value, format_args!("between {} and {}", Span(*range.start()), Span(*range.end())));
        }
        value.0
    }

    pub(super) fn domains(&mut self, domains: &[String]) -> Vec<Jid> {
        if domains.is_empty() {
            self.refuse("domains", "[]", "at least one domain");
        }
        let mut checked: Vec<Jid> = Vec::new();
        for domain in domains {
            match Jid::parse(domain) {
                Ok(jid) if checked.contains(&jid) => self.refuse("domains", domain, "named once"),
                Ok(jid) if jid.as_jid().domain() == jid.as_str() => checked.push(jid),
                Ok(_) | Err(_) => self.refuse("domains", domain, "a domain name such as `things.example`"),
            }
        }
        checked
    }

    pub(super) fn cpus(&mut self, config: &Config) -> Vec<usize> {
        let distinct: BTreeSet<usize> = config.cpus.iter().copied().collect();
        if distinct.len() != config.cpus.len() {
            self.refuse("cpus", format_args!("{:?}", config.cpus), "CPUs named once each");
        } else if !config.cpus.is_empty() && usize::from(config.shards) > config.cpus.len() {
            self.refuse("cpus", format_args!("{:?}", config.cpus), "a CPU for every shard");
        }
        config.cpus.clone()
    }

    pub(super) fn listeners(&mut self, listeners: &[ListenerConfig]) -> Vec<Listener> {
        if listeners.is_empty() {
            self.refuse("listeners", "[]", "at least one listener");
        }
        let mut seen = BTreeSet::new();
        for listener in listeners {
            if !seen.insert(listener.address) {
                self.refuse("listeners.address", listener.address, "used once");
            }
            if listener.tls == TlsMode::None && !listener.address.ip().is_loopback() {
                self.refuse("listeners.address", listener.address, "a loopback address, since `tls` is \"none\"");
            }
        }
        let checked = |listener: &ListenerConfig| Listener {
            address: listener.address,
            kind: listener.kind,
            tls: listener.tls,
            plain: listener.plain,
        };
        listeners.iter().map(checked).collect()
    }

    pub(super) fn certificate(&mut self, files: &TlsFiles) -> Option<CertificateFiles> {
        match (path(&files.certificate), path(&files.key)) {
            (Some(certificate), Some(key)) => Some(CertificateFiles { certificate, key }),
            (None, None) => None,
            (Some(certificate), None) => {
                self.refuse("tls.certificate", certificate.display(), "accompanied by `tls.key`");
                None
            }
            (None, Some(key)) => {
                self.refuse("tls.key", key.display(), "accompanied by `tls.certificate`");
                None
            }
        }
    }

    pub(super) fn metrics(&mut self, address: &str) -> Option<SocketAddr> {
        if address == "none" {
            return None;
        }
        let parsed = address.parse().ok();
        if parsed.is_none() {
            self.refuse("metrics.address", address, "an address with its port such as `127.0.0.1:9464`, or `none`");
        }
        parsed
    }

    pub(super) fn log_level(&mut self, level: &str) -> String {
        if let Err(error) = EnvFilter::builder().parse(level) {
            self.refuse("log.level", level, format_args!("error, warn, info, debug or trace, or filters ({error})"));
        }
        level.to_owned()
    }
}
