//! Numbers: latencies, rates, and the ratio of broker and relay.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies in ns, to three digits, up to a minute.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

const LATENCY_NS_MAX: u64 = 60_000_000_000;

impl Latencies {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(100, LATENCY_NS_MAX, 3).expect("the bounds are in order"))
    }

    /// One more, in ns.
    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Adds another's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// The figures a report prints, `None` if nothing was recorded.
    pub(crate) fn summary(&self) -> Option<LatencySummary> {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e3;
        (!self.0.is_empty()).then(|| LatencySummary {
            count: self.0.len(),
            mean_us: self.0.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.0.max() as f64 / 1e3,
            curve: CURVE.iter().map(|&quantile| (quantile, at(quantile))).collect(),
        })
    }
}

/// Quantiles of the plotted curve.
const CURVE: [f64; 25] = [
    0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.993, 0.995, 0.998,
    0.999, 0.9993, 0.9997, 0.9999, 0.99999,
];

/// Latency percentiles in µs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LatencySummary {
    /// Values recorded.
    pub count: u64,
    /// Their mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// The worst.
    pub max_us: f64,
    /// `(quantile, µs)` for the plot.
    pub curve: Vec<(f64, f64)>,
}

/// Throughput of a measured window, and what it cost the server.
#[derive(Debug, Clone, Copy, Serialize, PartialEq)]
pub(crate) struct Throughput {
    /// Stanzas delivered.
    pub messages: u64,
    /// Length of the window in seconds.
    pub seconds: f64,
    /// Stanzas per second.
    pub per_second: f64,
    /// Server CPU time in seconds, if a process id was given.
    pub server_cpu_seconds: Option<f64>,
    /// Stanzas per server-CPU-second.
    pub per_cpu_second: Option<f64>,
    /// Server CPU per stanza, in µs.
    pub cpu_us_per_message: Option<f64>,
    /// CPU time of the load tool, in seconds.
    pub load_cpu_seconds: f64,
}

impl Throughput {
    /// Of so many stanzas in a window; CPU times in ns.
    pub(crate) fn new(messages: u64, window_ns: u64, server_cpu_ns: Option<u64>, load_cpu_ns: u64) -> Self {
        let seconds = window_ns as f64 / 1e9;
        let cpu = server_cpu_ns.filter(|&ns| ns > 0).map(|ns| ns as f64 / 1e9);
        Self {
            messages,
            seconds,
            per_second: if seconds > 0.0 { messages as f64 / seconds } else { 0.0 },
            server_cpu_seconds: cpu,
            per_cpu_second: cpu.map(|cpu| messages as f64 / cpu),
            cpu_us_per_message: cpu.filter(|_| messages > 0).map(|cpu| cpu * 1e6 / messages as f64),
            load_cpu_seconds: load_cpu_ns as f64 / 1e9,
        }
    }

    /// Broker ÷ relay in stanzas per server-CPU-second.
    pub(crate) fn ratio(&self, relay: &Self) -> Option<f64> {
        Some(self.per_cpu_second? / relay.per_cpu_second.filter(|&rate| rate > 0.0)?)
    }
}

/// The slope of memory over sessions between two levels, in bytes per session.
pub(crate) fn slope(low: (u64, u64), high: (u64, u64)) -> Option<f64> {
    let sessions = high.0.checked_sub(low.0).filter(|&sessions| sessions > 0)?;
    Some((high.1 as f64 - low.1 as f64) / sessions as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut latencies = Latencies::new();
        assert!(latencies.summary().is_none());
        let mut more = Latencies::new();
        for value in 1..=1000_u64 {
            if value % 2 == 0 { &mut latencies } else { &mut more }.record(value * 1000);
        }
        latencies.add(&more);
        let summary = latencies.summary().unwrap();
        let close = |measured: f64, wanted: f64| assert!((measured - wanted).abs() < wanted * 0.002, "{measured}");
        assert_eq!(summary.count, 1000);
        close(summary.p50_us, 500.0);
        close(summary.p99_us, 990.0);
        close(summary.p999_us, 999.0);
        close(summary.max_us, 1000.0);
        close(summary.mean_us, 500.5);
    }

    #[test]
    fn the_ratio_compares_messages_per_cpu_second() {
        let broker = Throughput::new(1_000_000, 10_000_000_000, Some(8_000_000_000), 0);
        let relay = Throughput::new(3_000_000, 10_000_000_000, Some(6_000_000_000), 0);
        assert_eq!(broker.per_second, 100_000.0);
        assert_eq!(broker.cpu_us_per_message, Some(8.0));
        assert_eq!(broker.ratio(&relay), Some(0.25));
        assert_eq!(broker.ratio(&Throughput::new(1, 1, None, 0)), None);
        assert_eq!(Throughput::new(0, 0, Some(0), 0).per_second, 0.0);
    }

    #[test]
    fn memory_per_session_is_the_slope_between_levels() {
        assert_eq!(slope((2_000, 10_000_000), (18_000, 26_000_000)), Some(1000.0));
        assert_eq!(slope((5, 1), (5, 2)), None);
    }
}
