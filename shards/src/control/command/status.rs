//! How a broker is doing.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a broker is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Draining before its end.
    pub stopping: bool,
    /// Domains served.
    pub domains: Vec<String>,
    /// Numbers of each shard, as [`crate::metrics::Counters::to_json`] gives them.
    pub shards: Vec<Value>,
}

/// Columns of the status table: heading, and the field of the shard's numbers; a labelled field shows its sum.
const COLUMNS: [(&str, &str); 13] = [
    ("sessions", "sessions"),
    ("conns", "connections"),
    ("login", "negotiating"),
    ("st in", "stanzas_in"),
    ("st out", "stanzas_out"),
    ("B in", "bytes_in"),
    ("B out", "bytes_out"),
    ("handoffs", "handoffs_out"),
    ("queue", "queue_depth"),
    ("outbox B", "outbox_bytes"),
    ("B/sess", "bytes_per_session"),
    ("drops", "drops"),
    ("late", "late_turns"),
];

impl Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minutes, hours) = (self.uptime_seconds / 60, self.uptime_seconds / 3_600);
        write!(out, "Plaza {}, pid {}, ", self.version, self.pid)?;
        write!(out, "up {} d {} h {} min", hours / 24, hours % 24, minutes % 60)?;
        writeln!(out, "{}, serving {}", if self.stopping { ", stopping" } else { "" }, self.domains.join(", "))?;
        write!(out, "shard")?;
        for (heading, _) in COLUMNS {
            write!(out, " {heading:>9}")?;
        }
        for (shard, numbers) in self.shards.iter().enumerate() {
            write!(out, "\n{shard:>5}")?;
            for (_, field) in COLUMNS {
                write!(out, " {:>9}", short(sum(numbers.get(field).unwrap_or(&Value::Null))))?;
            }
        }
        Ok(())
    }
}

fn sum(value: &Value) -> u64 {
    match value {
        Value::Number(number) => number.as_u64().unwrap_or(0),
        Value::Object(labelled) => labelled.values().map(sum).sum(),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) => 0,
    }
}

/// At most four digits and a unit: 9 999, 10k, 123M.
fn short(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..10_000_000 => format!("{}k", number / 1_000),
        10_000_000..10_000_000_000 => format!("{}M", number / 1_000_000),
        _ => format!("{}G", number / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Counters;

    #[test]
    fn status_is_a_table_with_a_line_per_shard() {
        let mut counters = Counters { sessions: 12_345, session_bytes: 12_345_000, ..Counters::default() };
        counters.stanzas_in[plaza_core::stanza::Kind::Iq] = 7;
        let status = Status {
            version: "0.1.0".into(),
            pid: 1,
            uptime_seconds: 90_061,
            stopping: false,
            domains: vec!["localhost".into()],
            shards: vec![counters.to_json(), Counters::default().to_json()],
        };
        let text = status.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Plaza 0.1.0, pid 1, up 1 d 1 h 1 min, serving localhost");
        assert_eq!(lines.len(), 4);
        assert!(lines[2].split_whitespace().eq("0 12k 0 0 7 0 0 0 0 0 0 1000 0 0".split(' ')), "{}", lines[2]);
        assert!(lines.iter().skip(1).all(|line| line.len() == lines[1].len()));
    }

    #[test]
    fn every_column_is_a_field_of_the_numbers() {
        let numbers = Counters::default().to_json();
        assert!(COLUMNS.iter().all(|(_, field)| numbers.get(field).is_some()));
    }
}
