//! What a run found, for people and for machines: a few lines on standard output, JSON, and one self-contained page ([`page`]).

use serde::Serialize;

use crate::conductor::{Course, Crowded, Level, Outcome, Scene};
use crate::host::Host;
use crate::plan::{Mechanism, Plan, Scenario, TlsMode};
use crate::stage::{Comparison, Contrast, Stage, Unit};
use crate::stats::{self, LatencySummary};

mod page;

pub(crate) use page::{HEAD, escape, host_rows, html, push, table};

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Settings {
    /// Name of the scenario.
    pub scenario: String,
    /// The server.
    pub server: String,
    /// Its domain.
    pub domain: String,
    /// TLS.
    pub tls: TlsMode,
    /// Whether certificates were verified.
    pub verified: bool,
    /// The mechanism, if only one was allowed.
    pub mechanism: Option<Mechanism>,
    /// Sessions.
    pub sessions: u32,
    /// Accounts they share.
    pub accounts: u32,
    /// Stanzas outstanding per direction, in a closed loop.
    pub window: Option<u32>,
    /// Stanzas per second asked for, in an open loop.
    pub rate: Option<f64>,
    /// Bytes of a body or status.
    pub bytes: Option<usize>,
    /// Sessions that belong together.
    pub group: u32,
    /// Share of the sessions that took part in the traffic.
    pub fraction: f64,
    /// Logins in progress at once.
    pub concurrency: u32,
    /// Whether logins were pipelined.
    pub pipeline: bool,
    /// Load threads.
    pub threads: u32,
    /// CPUs they were pinned to.
    pub cpus: Vec<usize>,
    /// Source addresses used.
    pub sources: usize,
    /// Seconds of warm-up and measurement.
    pub seconds: Option<(f64, f64)>,
}

impl Settings {
    /// Of a plan and its course.
    pub(crate) fn of(scenario: &str, plan: &Plan, course: &Course, verified: bool) -> Self {
        let traffic = course.traffic.is_some();
        Self {
            scenario: scenario.to_owned(),
            server: plan.server.to_string(),
            domain: plan.domain.clone(),
            tls: plan.tls,
            verified,
            mechanism: plan.mechanism,
            sessions: plan.sessions,
            accounts: plan.accounts,
            window: (traffic && plan.rate.is_none()).then_some(plan.window),
            rate: plan.rate,
            bytes: matches!(plan.scenario, Scenario::Pairs | Scenario::Presence | Scenario::Staged)
                .then_some(plan.bytes),
            group: plan.group,
            fraction: plan.fraction,
            concurrency: plan.concurrency,
            pipeline: plan.pipeline,
            threads: plan.threads,
            cpus: plan.cpus.clone(),
            sources: plan.sources.len(),
            seconds: course.traffic.map(|(warmup, duration)| (warmup.as_secs_f64(), duration.as_secs_f64())),
        }
    }
}

/// A login beside the bare TLS handshake.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Storm {
    /// Server CPU per login, in µs.
    pub login_us: f64,
    /// CPU of a bare rustls server per full TLS 1.3 handshake (ECDSA P-256), in µs, measured in this run.
    pub handshake_us: f64,
    /// Login ÷ handshake.
    pub ratio: f64,
}

impl Storm {
    /// From µs per login and ns per handshake.
    pub(crate) fn new(login_us: f64, handshake_ns: u64) -> Self {
        let handshake_us = handshake_ns.max(1) as f64 / 1e3;
        Self { login_us, handshake_us, ratio: login_us / handshake_us }
    }
}

/// The return of all who were cut off at once.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Returned {
    /// Seconds until 95 % of the sessions were back.
    pub most_seconds: f64,
    /// Seconds until all were.
    pub seconds: f64,
    /// Pings of those who were back, once a second each, from when each was due to its answer, or to the end of the run.
    pub ping: Option<LatencySummary>,
    /// Of them, how many were not answered.
    pub unanswered: u64,
    /// Messages that the server had acknowledged before the cut.
    pub acknowledged: u64,
    /// Of them, how many did not arrive after the return.
    pub lost: u64,
    /// Most resident memory of the server during the return ÷ what it was with all sessions there before.
    pub memory: Option<f64>,
}

impl Returned {
    /// From the acts of [`Stage::back`].
    pub(crate) fn new(broker: &Outcome, acknowledged: u64) -> Option<Self> {
        let act = |name: &str| broker.acts.iter().find(|scene| scene.name == name);
        let (there, back) = (act(Stage::THERE)?, act(Stage::BACK)?);
        let memory = there.server_rss.zip(back.server_rss);
        Some(Self {
            most_seconds: back.most_seconds?,
            seconds: back.seconds,
            ping: broker.pings.as_ref().map(|(latency, _)| latency.clone()),
            unanswered: broker.pings.as_ref().map_or(0, |(_, unanswered)| *unanswered),
            acknowledged,
            lost: broker.undelivered,
            memory: memory.map(|((steady, _), (_, peak))| peak as f64 / steady.max(1) as f64),
        })
    }
}

/// Broker beside relay.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Ratio {
    /// Stanzas per server-CPU-second, broker ÷ relay.
    pub per_cpu_second: Option<f64>,
    /// p99 latency, broker ÷ relay.
    pub p99: Option<f64>,
}

/// Server CPU of one act's unit ÷ that of another's.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct SceneRatio {
    /// What is compared.
    pub name: &'static str,
    /// The quotient.
    pub ratio: f64,
}

/// An act held against the mean of two others of the same run.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Contrasted {
    /// Its name.
    pub above: &'static str,
    /// Theirs.
    pub below: [&'static str; 2],
    /// Server CPU of one, less that of one of theirs, in µs.
    pub cpu_us: Option<f64>,
    /// Median of its latency ÷ theirs.
    pub p50: Option<f64>,
    /// 99th percentile, likewise.
    pub p99: Option<f64>,
}

/// An act beside a crowd, held against those before and after it.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Bystanding {
    /// Its name.
    pub name: &'static str,
    /// 99th percentile of its latency ÷ the mean of theirs.
    pub p99: Option<f64>,
    /// Its stanzas per second ÷ the mean of theirs.
    pub throughput: f64,
    /// What the crowd did, and the server's memory meanwhile.
    pub crowd: Crowded,
}

/// Server user-space memory per session in bytes: slopes between two levels each.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Rosters {
    /// With an empty roster.
    pub empty: f64,
    /// With contacts, all of them online.
    pub filled: f64,
    /// How many contacts.
    pub contacts: u32,
}

impl Rosters {
    /// From four levels: two while sessions with empty rosters log in, two while others do.
    pub(crate) fn new(levels: &[Level], contacts: u32) -> Option<Self> {
        let private = |level: &Level| Some((level.sessions, level.server?.private));
        let [first, second, third, fourth] = levels else { return None };
        Some(Self {
            empty: stats::slope(private(first)?, private(second)?)?,
            filled: stats::slope(private(third)?, private(fourth)?)?,
            contacts,
        })
    }
}

/// A report.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// Version of the load tool.
    pub version: &'static str,
    /// Where it was made.
    pub host: Host,
    /// What was asked for.
    pub settings: Settings,
    /// What the broker did.
    pub broker: Outcome,
    /// What the raw relay did.
    pub relay: Option<Outcome>,
    /// One beside the other.
    pub ratio: Option<Ratio>,
    /// Server user-space memory per session in bytes: the slope between the first and the last level.
    pub memory_per_session: Option<f64>,
    /// The load tool's own, likewise.
    pub load_per_session: Option<f64>,
    /// Machine memory per session in bytes, both ends and the kernel, likewise.
    pub machine_per_session: Option<f64>,
    /// Logins beside handshakes.
    pub storm: Option<Storm>,
    /// The return of all at once.
    pub returned: Option<Returned>,
    /// Acts beside each other.
    pub scene_ratios: Vec<SceneRatio>,
    /// CPU of deriving the keys of a password, in µs, by the load tool on its own CPU after the run.
    pub derivation_us: Option<f64>,
    /// An act held against two others.
    pub contrast: Option<Contrasted>,
    /// Server memory per session by roster.
    pub rosters: Option<Rosters>,
    /// Acts beside crowds.
    pub bystanders: Vec<Bystanding>,
}

impl Report {
    /// Of the broker alone.
    pub(crate) fn new(settings: Settings, broker: Outcome) -> Self {
        let ends = broker.levels.first().zip(broker.levels.last());
        let private = |index: &crate::conductor::Level| Some((index.sessions, index.server?.private));
        let memory = ends.and_then(|(low, high)| stats::slope(private(low)?, private(high)?));
        let load = ends
            .and_then(|(low, high)| stats::slope((low.sessions, low.load.private), (high.sessions, high.load.private)));
        let machine =
            ends.and_then(|(low, high)| stats::slope((low.sessions, low.machine), (high.sessions, high.machine)));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            host: Host::read(),
            settings,
            broker,
            relay: None,
            ratio: None,
            memory_per_session: memory,
            load_per_session: load,
            machine_per_session: machine,
            storm: None,
            returned: None,
            scene_ratios: Vec::new(),
            derivation_us: None,
            contrast: None,
            rosters: None,
            bystanders: Vec::new(),
        }
    }

    /// Holds each act beside a crowd against its neighbours.
    pub(crate) fn compare_bystanders(&mut self) {
        let scene = |number: u32| self.broker.acts.iter().find(|scene| scene.number == number);
        let held = self.broker.crowds.iter().filter_map(|&crowd| {
            let (before, beside, after) =
                (scene(crowd.number.checked_sub(1)?)?, scene(crowd.number)?, scene(crowd.number + 1)?);
            let p99 = |scene: &Scene| Some(scene.latency.as_ref()?.p99_us);
            let both = p99(before).zip(p99(after)).map(|(before, after)| (before + after) / 2.0);
            Some(Bystanding {
                name: beside.name,
                p99: p99(beside).zip(both).map(|(beside, both)| beside / both.max(0.1)),
                throughput: beside.per_second / ((before.per_second + after.per_second) / 2.0).max(1e-9),
                crowd,
            })
        });
        self.bystanders = held.collect();
    }

    /// Puts acts beside each other.
    pub(crate) fn compare_scenes(&mut self, comparisons: &[Comparison]) {
        let cpu_us =
            |name: &str| self.broker.acts.iter().find(|scene| scene.name == name).and_then(|scene| scene.server_cpu_us);
        let ratios = comparisons.iter().filter_map(|comparison| {
            let common = comparison.beyond.map_or(Some(0.0), cpu_us)?;
            let below = (cpu_us(comparison.below)? - common).max(0.0);
            let ratio = (cpu_us(comparison.above)? - common) / below;
            ratio.is_finite().then_some(SceneRatio { name: comparison.name, ratio })
        });
        self.scene_ratios = ratios.collect();
    }

    /// Holds an act against two others.
    pub(crate) fn contrast_scenes(&mut self, Contrast { above, below }: Contrast) {
        let of = |name: &str, value: &dyn Fn(&Scene) -> Option<f64>| {
            self.broker.acts.iter().find(|scene| scene.name == name).and_then(value)
        };
        let both = |value: &dyn Fn(&Scene) -> Option<f64>| {
            let [before, after] = below;
            Some((of(above, value)?, (of(before, value)? + of(after, value)?) / 2.0))
        };
        let ratio = |value: &dyn Fn(&Scene) -> Option<f64>| both(value).map(|(above, below)| above / below.max(0.1));
        let contrast = Contrasted {
            above,
            below,
            cpu_us: both(&|scene| scene.server_cpu_us).map(|(above, below)| above - below),
            p50: ratio(&|scene| Some(scene.latency.as_ref()?.p50_us)),
            p99: ratio(&|scene| Some(scene.latency.as_ref()?.p99_us)),
        };
        self.contrast = Some(contrast);
    }

    /// Puts the relay beside it.
    pub(crate) fn compare(&mut self, relay: Outcome) {
        let throughputs = self.broker.throughput.zip(relay.throughput);
        let latencies = self.broker.latency.as_ref().zip(relay.latency.as_ref());
        self.ratio = Some(Ratio {
            per_cpu_second: throughputs.and_then(|(broker, relay)| broker.ratio(&relay)),
            p99: latencies.map(|(broker, relay)| broker.p99_us / relay.p99_us.max(0.1)),
        });
        self.relay = Some(relay);
    }

    /// Whether nothing went wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.broker.failure_count == 0 && self.relay.as_ref().is_none_or(|relay| relay.failure_count == 0)
    }

    /// The figures, as `(name, value)`.
    fn figures(&self) -> Vec<(String, String)> {
        let mut figures = Vec::new();
        let mut add = |name: &str, value: String| figures.push((name.to_owned(), value));
        let logins = &self.broker.logins;
        if logins.count > 0 {
            let cpu = logins.server_cpu_us.map_or(String::new(), |us| format!(", server CPU {us:.1} µs each"));
            add("logins", format!("{} in {:.2} s: {:.0}/s{cpu}", logins.count, logins.seconds, logins.per_second));
        }
        if let Some(latency) = &logins.latency {
            add("login latency", format!("p50 {:.1} ms, p99 {:.1} ms", latency.p50_us / 1e3, latency.p99_us / 1e3));
        }
        if let Some(storm) = self.storm {
            add("bare TLS 1.3 handshake", format!("{:.1} µs of server CPU", storm.handshake_us));
            add("login ÷ bare handshake", format!("{:.2}", storm.ratio));
        }
        if let Some(returned) = &self.returned {
            add("95 % back", format!("{:.2} s", returned.most_seconds));
            add("all back", format!("{:.2} s", returned.seconds));
            let (acknowledged, lost) = (returned.acknowledged, returned.lost);
            add("acknowledged messages lost", format!("{lost} of {acknowledged}"));
            if let Some(latency) = &returned.ping {
                let unanswered = returned.unanswered;
                add("ping of those back", format!("{}; {unanswered} not answered", latencies(latency)));
            }
            if let Some(memory) = returned.memory {
                add("server memory, peak ÷ steady", format!("{memory:.2}"));
            }
        }
        for level in &self.broker.levels {
            let server = level.server.map_or(String::new(), |memory| {
                format!("server {} private, {} resident; ", mib(memory.private), mib(memory.rss))
            });
            let (load, machine) = (mib(level.load.private), mib(level.machine));
            add(&format!("memory at {} sessions", level.sessions), format!("{server}load {load}; machine {machine}"));
        }
        if let Some(bytes) = self.memory_per_session {
            add("server memory per session", format!("{bytes:.0} B of user space (slope)"));
        }
        if let Some(bytes) = self.load_per_session {
            add("load memory per session", format!("{bytes:.0} B of user space (slope)"));
        }
        if let Some(bytes) = self.machine_per_session {
            add("machine memory per session", format!("{bytes:.0} B, both ends and the kernel (slope)"));
        }
        if let Some(cores) = self.broker.hold.and_then(|hold| hold.server_cores) {
            add("server CPU while idle", format!("{:.3} % of one core", cores * 100.0));
        }
        if let Some(Rosters { empty, filled, contacts }) = self.rosters {
            add("with an empty roster", format!("{empty:.0} B of user space per session (slope)"));
            add(
                &format!("with {contacts} contacts online"),
                format!("{filled:.0} B of user space per session (slope)"),
            );
            add("what the contacts add", format!("{:.0} B per session", filled - empty));
        }
        for scene in &self.broker.acts {
            scene_figures(scene, &mut add);
        }
        for (kind, latency) in &self.broker.searches {
            add(&format!("search, {kind}"), format!("{} answered: {}", latency.count, latencies(latency)));
        }
        for SceneRatio { name, ratio } in &self.scene_ratios {
            add(name, format!("{ratio:.3}"));
        }
        if let Some(us) = self.derivation_us {
            add("deriving keys", format!("{us:.1} µs, by the load tool after the run"));
            let created = self.broker.acts.iter().rev().find_map(|scene| scene.server_cpu_us);
            if let Some(created) = created {
                add("account created − deriving keys", format!("{:.1} µs of server CPU", created - us));
            }
        }
        if let Some(Contrasted { above, below: [before, _], cpu_us, p50, p99 }) = self.contrast {
            if let Some(us) = cpu_us {
                add(&format!("{above} − {before}"), format!("{us:.3} µs of server CPU"));
            }
            for (name, ratio) in [("p50", p50), ("p99", p99)] {
                if let Some(ratio) = ratio {
                    add(&format!("{above} ÷ {before}, {name}"), format!("{ratio:.2}"));
                }
            }
        }
        for Bystanding { name, p99, throughput, crowd: Crowded { deeds, server_rss, .. } } in &self.bystanders {
            let p99 = p99.map_or(String::new(), |ratio| format!("p99 × {ratio:.2}, "));
            add(name, format!("{p99}throughput × {throughput:.3} of those before and after"));
            let memory = server_rss.map_or(String::new(), |(before, most, after)| {
                format!("; server {} before, {} at most, {} after", mib(before), mib(most), mib(after))
            });
            let (connections, ended, scripts) = (deeds.connections, deeds.ended, deeds.scripts);
            let said = format!("{} written, {} read", mib(deeds.written), mib(deeds.read));
            add("  the crowd", format!("{connections} connections, {ended} ended, {scripts} scripts, {said}{memory}"));
        }
        let sides = [("broker", Some(&self.broker)), ("relay", self.relay.as_ref())];
        for (name, outcome) in sides.into_iter().filter_map(|(name, outcome)| Some((name, outcome?))) {
            if let Some(throughput) = outcome.throughput {
                let cpu =
                    throughput.cpu_us_per_message.zip(throughput.per_cpu_second).map_or(String::new(), |(us, rate)| {
                        format!("; {us:.3} µs of server CPU each, {rate:.0} per server-CPU-second")
                    });
                add(name, format!("{} stanzas, {:.0}/s{cpu}", throughput.messages, throughput.per_second));
                let load = throughput.load_cpu_seconds / throughput.seconds.max(1e-9);
                let server = throughput
                    .server_cpu_seconds
                    .map_or(String::new(), |cpu| format!("server {:.2} cores, ", cpu / throughput.seconds.max(1e-9)));
                add(&format!("{name} load"), format!("{server}load tool {load:.2} cores"));
            }
            if let Some(latency) = &outcome.latency {
                add(&format!("{name} latency"), latencies(latency));
            }
        }
        if let Some(ratio) = self.ratio {
            if let Some(ratio) = ratio.per_cpu_second {
                add("broker ÷ relay", format!("{ratio:.3} in stanzas per server-CPU-second"));
            }
            if let Some(ratio) = ratio.p99 {
                add("broker ÷ relay, p99", format!("{ratio:.2}"));
            }
        }
        figures
    }
}

fn scene_figures(scene: &Scene, add: &mut impl FnMut(&str, String)) {
    let unit = match scene.unit {
        Unit::Sessions => "sessions",
        Unit::Stanzas => "stanzas",
    };
    let cpu = scene.server_cpu_us.map_or(String::new(), |us| {
        format!("; {us:.3} µs of server CPU each, {:.0} per server-CPU-second", 1e6 / us.max(1e-9))
    });
    let Scene { name, count, seconds, per_second, .. } = scene;
    add(name, format!("{count} {unit} in {seconds:.2} s: {per_second:.0}/s{cpu}"));
    if let Some(latency) = &scene.latency {
        add(&format!("{name}, latency"), latencies(latency));
    }
}

/// Percentiles in words.
pub(crate) fn latencies(latency: &LatencySummary) -> String {
    format!(
        "p50 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs, max {:.0} µs",
        latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us
    )
}

/// Bytes in words.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Prints the figures, and what went wrong.
pub(crate) fn print(report: &Report) {
    let settings = &report.settings;
    println!(
        "{}: {} sessions, {} at {}, TLS {:?}",
        settings.scenario, settings.sessions, settings.domain, settings.server, settings.tls
    );
    for (name, value) in report.figures() {
        println!("  {name:<28} {value}");
    }
    for (name, outcome) in [("broker", Some(&report.broker)), ("relay", report.relay.as_ref())] {
        let Some(outcome) = outcome.filter(|outcome| outcome.failure_count > 0) else { continue };
        eprintln!("{} failures with the {name}; the first:", outcome.failure_count);
        for failure in &outcome.failures {
            eprintln!("  {} {}", failure.jid, failure.what);
            if !failure.bytes.is_empty() {
                eprintln!("    {}", failure.bytes.escape_debug());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::conductor::{Logins, Sample};
    use crate::crowd::Deeds;
    use crate::host::Memory;
    use crate::plan::tests::plan;
    use crate::stats::{Latencies, Throughput};

    fn outcome(cpu_ns: u64) -> Outcome {
        let mut latencies = Latencies::new();
        (1..1000).for_each(|value| latencies.record(value * cpu_ns / 1_000_000));
        let level = |sessions, private| Level {
            sessions,
            server: Some(Memory { rss: private * 2, pss: private, private }),
            load: Memory::default(),
            machine: private * 8,
        };
        let sample = |seconds| Sample {
            seconds,
            per_second: 1000.0 + seconds,
            server_cores: Some(0.5),
            server_rss: Some(1 << 24),
        };
        Outcome {
            logins: Logins {
                count: 5,
                seconds: 1.0,
                per_second: 5.0,
                server_cpu_us: Some(200.0),
                latency: None,
                handshake_ns: None,
            },
            levels: vec![level(2_000, 10_000_000), level(18_000, 26_000_000)],
            hold: None,
            throughput: Some(Throughput::new(100_000, 1_000_000_000, Some(cpu_ns), 1)),
            latency: latencies.summary(),
            acts: Vec::new(),
            crowds: Vec::new(),
            searches: Vec::new(),
            pings: None,
            undelivered: 0,
            samples: (0..20).map(|index| sample(f64::from(index) / 2.0 - 2.0)).collect(),
            failure_count: 0,
            failures: Vec::new(),
        }
    }

    /// A scene that is named and nothing else.
    fn scene(name: &'static str) -> Scene {
        Scene {
            name,
            number: 1,
            unit: Unit::Stanzas,
            count: 10,
            seconds: 1.0,
            per_second: 10.0,
            server_cpu_us: None,
            load_cpu_seconds: 0.0,
            most_seconds: None,
            server_rss: None,
            latency: None,
        }
    }

    /// Latencies of one, in µs.
    fn one_of(us: u64) -> Option<LatencySummary> {
        let mut latencies = Latencies::new();
        latencies.record(us * 1_000);
        latencies.summary()
    }

    fn report() -> Report {
        let plan = plan(Scenario::Pairs, 1000, 1, 2);
        let course = Course {
            title: String::new(),
            warm_logins: 0,
            levels: Vec::new(),
            settle: Duration::ZERO,
            hold: None,
            traffic: Some((Duration::from_secs(1), Duration::from_secs(2))),
            pid: None,
            patience: Duration::ZERO,
            handshakes: false,
        };
        Report::new(Settings::of("pairs", &plan, &course, false), outcome(900_000_000))
    }

    #[test]
    fn what_was_beside_a_crowd_is_held_against_before_and_after() {
        let scene = |number, per_second, us| Scene {
            number,
            per_second,
            latency: one_of(us),
            ..scene(if number == 3 { "messages beside slow" } else { "messages" })
        };
        let mut report = report();
        report.broker.acts = vec![scene(2, 100.0, 100), scene(3, 99.0, 180), scene(4, 120.0, 140)];
        let deeds = Deeds { connections: 7, ..Deeds::default() };
        report.broker.crowds = vec![Crowded { number: 3, deeds, server_rss: Some((1 << 20, 3 << 20, 2 << 20)) }];
        report.compare_bystanders();
        let [beside] = report.bystanders.as_slice() else { panic!("{:?}", report.bystanders) };
        assert!((beside.p99.unwrap() - 1.5).abs() < 0.01 && (beside.throughput - 0.9).abs() < 0.001, "{beside:?}");
        let figures = report.figures();
        assert!(figures.iter().any(|(_, value)| value.contains("7 connections") && value.contains("3.0 MiB at most")));
    }

    #[test]
    fn the_page_holds_every_plot_and_the_ratio() {
        let mut report = report();
        report.compare(outcome(450_000_000));
        let page = html(&report).unwrap();
        assert_eq!(page.matches("<svg").count(), 5);
        for text in ["broker ÷ relay", "0.500 in stanzas", "1000 B of user space", "kernel", "Throughput", "Latency"] {
            assert!(page.contains(text), "{text}");
        }
        assert!(!page.contains("http://") || page.contains("xmlns"), "nothing is loaded from elsewhere");
        assert!(report.is_clean());
    }

    #[test]
    fn failures_show_in_the_page_and_in_the_verdict() {
        let mut report = report();
        report.broker.failure_count = 3;
        report.broker.failures.push(crate::plan::Failure {
            what: "lost <one>".to_owned(),
            jid: "load1@localhost/r1".to_owned(),
            bytes: "<message>".to_owned(),
        });
        let page = html(&report).unwrap();
        assert!(page.contains("lost &lt;one&gt;") && page.contains("class=bad"));
        assert!(!report.is_clean());
        assert!(serde_json::to_string(&report).unwrap().contains("\"failure_count\":3"));
    }

    #[test]
    fn acts_are_put_beside_each_other_and_plotted() {
        let mut report = report();
        let scene = |name, server_cpu_us| Scene { server_cpu_us, latency: one_of(5), ..scene(name) };
        report.broker.latency = None;
        report.broker.acts =
            vec![scene("cheap", Some(2.0)), scene("dear", Some(5.0)), scene("base", Some(1.0)), scene("unknown", None)];
        report.compare_scenes(&[
            Comparison { name: "dear ÷ cheap", above: "dear", below: "cheap", beyond: None },
            Comparison { name: "cheap ÷ unknown", above: "cheap", below: "unknown", beyond: None },
            Comparison { name: "beyond the unknown", above: "dear", below: "cheap", beyond: Some("unknown") },
            Comparison { name: "beyond the base", above: "dear", below: "cheap", beyond: Some("base") },
            Comparison { name: "nothing beyond", above: "dear", below: "cheap", beyond: Some("cheap") },
        ]);
        let ratios: Vec<_> = report.scene_ratios.iter().map(|ratio| (ratio.name, ratio.ratio)).collect();
        assert_eq!(ratios, [("dear ÷ cheap", 2.5), ("beyond the base", 4.0)]);
        let page = html(&report).unwrap();
        assert!(page.contains("<td>dear ÷ cheap</td><td>2.500</td>"));
        assert_eq!(page.matches("<svg").count(), 5);
    }

    #[test]
    fn a_return_is_read_from_its_acts() {
        let mut report = report();
        let scene = |name, most_seconds, server_rss| Scene {
            seconds: 3.0,
            most_seconds: Some(most_seconds),
            server_rss: Some(server_rss),
            ..scene(name)
        };
        assert!(Returned::new(&report.broker, 5).is_none());
        report.broker.acts = vec![scene(Stage::THERE, 1.0, (100, 110)), scene(Stage::BACK, 2.5, (120, 150))];
        report.broker.undelivered = 1;
        let returned = Returned::new(&report.broker, 5).unwrap();
        assert_eq!((returned.most_seconds, returned.seconds, returned.lost), (2.5, 3.0, 1));
        assert_eq!(returned.memory, Some(1.5));
        assert!(returned.ping.is_none());
    }

    #[test]
    fn an_act_is_held_against_the_mean_of_two_others() {
        let mut report = report();
        let scene = |name, server_cpu_us, us| Scene { server_cpu_us, latency: one_of(us), ..scene(name) };
        report.broker.acts =
            vec![scene("ping", Some(2.0), 100), scene("canRead", Some(5.5), 300), scene("ping again", Some(3.0), 200)];
        report.contrast_scenes(Contrast { above: "canRead", below: ["ping", "ping again"] });
        let Contrasted { cpu_us, p50, p99, .. } = report.contrast.unwrap();
        assert_eq!(cpu_us, Some(3.0));
        assert!(p50.is_some_and(|ratio| (1.99..2.01).contains(&ratio)) && p50 == p99, "{p50:?} {p99:?}");
        assert!(html(&report).unwrap().contains("<td>canRead − ping</td><td>3.000 µs of server CPU</td>"));
        report.contrast_scenes(Contrast { above: "canRead", below: ["ping", "pong"] });
        assert!(report.contrast.unwrap().cpu_us.is_none());
    }

    #[test]
    fn rosters_are_compared_by_the_slopes_of_their_own_levels() {
        let level = |sessions: u64, bytes: u64| Level {
            sessions,
            server: Some(Memory { rss: bytes, pss: bytes, private: bytes }),
            load: Memory::default(),
            machine: 0,
        };
        let levels = [level(10, 1_000), level(20, 2_000), level(30, 90_000), level(40, 93_000)];
        let rosters = Rosters::new(&levels, 20).unwrap();
        assert_eq!((rosters.empty, rosters.filled), (100.0, 300.0));
        assert!(Rosters::new(&levels[1..], 20).is_none());
    }

    #[test]
    fn a_storm_is_put_beside_the_bare_handshake() {
        assert_eq!(Storm::new(150.0, 100_000).ratio, 1.5);
    }
}
