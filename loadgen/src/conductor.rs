//! A run from beginning to end: starts the load threads, takes them through the phases, samples the server meanwhile,
//! and makes sure that what was sent arrived.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::crowd::{Crowd, Deeds};
use crate::host::{self, Memory};
use crate::plan::{Control, Failure, Phase, Plan, Scenario};
use crate::ring::{pin, process_cpu_ns};
use crate::search::KINDS;
use crate::stage::{Act, Topic, Unit};
use crate::stats::{Latencies, LatencySummary, Throughput};
use crate::tls::BareHandshake;
use crate::worker::{self, Yield};

/// The course a run takes.
#[derive(Debug, Clone)]
pub(crate) struct Course {
    /// What the progress line calls it.
    pub title: String,
    /// Logins before the clock starts: they compute what is then cached.
    pub warm_logins: u32,
    /// Sessions to hold and look at, rising; the last is all of them.
    pub levels: Vec<u32>,
    /// How long to let things settle before a look at memory.
    pub settle: Duration,
    /// Hold the sessions idle for so long and measure the server's CPU.
    pub hold: Option<Duration>,
    /// Traffic: how long before it is measured, and how long it is.
    pub traffic: Option<(Duration, Duration)>,
    /// The server's process.
    pub pid: Option<u32>,
    /// Without progress for so long, logging in or draining has failed.
    pub patience: Duration,
    /// While sessions log in, measure bare handshakes on the load's first CPU: beside the same traffic, on a machine as
    /// busy, so that the two can be compared.
    pub handshakes: bool,
}

/// A look at the server and the machine while sessions are held.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Level {
    /// Sessions held.
    pub sessions: u64,
    /// The server's memory.
    pub server: Option<Memory>,
    /// The load tool's memory.
    pub load: Memory,
    /// Memory in use on the machine, kernel included.
    pub machine: u64,
}

/// Logging in.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Logins {
    /// Logins counted.
    pub count: u64,
    /// How long they took.
    pub seconds: f64,
    /// Per second.
    pub per_second: f64,
    /// Server CPU per login, in µs.
    pub server_cpu_us: Option<f64>,
    /// From connect to bound.
    pub latency: Option<LatencySummary>,
    /// CPU of a bare TLS handshake meanwhile, in ns.
    pub handshake_ns: Option<u64>,
}

/// The server's CPU while sessions are idle.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Hold {
    /// How long.
    pub seconds: f64,
    /// Share of one core, 1 being all of it.
    pub server_cores: Option<f64>,
}

/// One sample during the traffic.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    /// Seconds since the measured phase began; negative while warming up.
    pub seconds: f64,
    /// Stanzas per second since the last sample.
    pub per_second: f64,
    /// Cores the server used since then.
    pub server_cores: Option<f64>,
    /// The server's resident memory in bytes.
    pub server_rss: Option<u64>,
}

/// An act that was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Scene {
    /// Its name.
    pub name: &'static str,
    /// Its number, from 1.
    pub number: u32,
    /// What it counts.
    pub unit: Unit,
    /// How many of them.
    pub count: u64,
    /// How long it took.
    pub seconds: f64,
    /// Per second.
    pub per_second: f64,
    /// Server CPU of one, in µs.
    pub server_cpu_us: Option<f64>,
    /// CPU time of the load tool, in seconds.
    pub load_cpu_seconds: f64,
    /// How long until all but one in twenty of its participants were done with it.
    pub most_seconds: Option<f64>,
    /// The server's resident memory at its end, and the most of it meanwhile, in bytes.
    pub server_rss: Option<(u64, u64)>,
    /// From the beginning to the end of one.
    pub latency: Option<LatencySummary>,
}

/// A crowd beside an act.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Crowded {
    /// The number of the act.
    pub number: u32,
    /// What the crowd did.
    pub deeds: Deeds,
    /// The server's resident memory in bytes: before the crowd came, at its highest, and after the act that followed.
    pub server_rss: Option<(u64, u64, u64)>,
}

/// What a run found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    /// Logging in.
    pub logins: Logins,
    /// Memory at each level.
    pub levels: Vec<Level>,
    /// Idle CPU.
    pub hold: Option<Hold>,
    /// Traffic.
    pub throughput: Option<Throughput>,
    /// Its latency.
    pub latency: Option<LatencySummary>,
    /// Its course over time, or that of the acts.
    pub samples: Vec<Sample>,
    /// The acts that were measured.
    pub acts: Vec<Scene>,
    /// The crowds beside them.
    pub crowds: Vec<Crowded>,
    /// Searches by kind: from when each was due to its answer.
    pub searches: Vec<(&'static str, LatencySummary)>,
    /// Pings of those who are back, from when each was due to its answer, and how many were not answered.
    pub pings: Option<(LatencySummary, u64)>,
    /// Stanzas that were owed and did not arrive.
    pub undelivered: u64,
    /// Failures in all.
    pub failure_count: u64,
    /// The first of them.
    pub failures: Vec<Failure>,
}

const TICK: Duration = Duration::from_millis(10);
/// Bare handshakes measured between two looks at the progress: a tenth of the CPU or less.
const HANDSHAKES_PER_TICK: u32 = 3;
const SAMPLE: Duration = Duration::from_millis(250);
/// How long closing the streams may take.
const CLOSING: Duration = Duration::from_secs(3);

/// Makes a run.
pub(crate) fn conduct(plan: &Plan, course: &Course) -> Outcome {
    let control = Control::new(plan.threads);
    let bar = ProgressBar::new(u64::from(plan.sessions));
    bar.set_style(
        ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg}").unwrap_or(ProgressStyle::default_bar()),
    );
    bar.set_prefix(course.title.clone());
    std::thread::scope(|scope| {
        let control = &control;
        let threads: Vec<_> = (0..plan.threads)
            .map(|thread| {
                std::thread::Builder::new()
                    .name(format!("load-{thread}"))
                    .spawn_scoped(scope, move || worker::run(plan, control, thread))
            })
            .collect();
        let bare = course.handshakes.then(|| beside_load(plan)).transpose();
        let bare = bare.unwrap_or_else(|what| {
            control.fail(Failure { what, jid: String::new(), bytes: String::new() });
            None
        });
        let mut outcome = Conductor { plan, course, control, bar: &bar, bare: RefCell::new(bare) }.lead();
        control.enter(Phase::Stop);
        let mut latencies = vec![Latencies::new(); plan.stage.acts.len() + 1];
        let mut logins = Latencies::new();
        let mut searches = vec![Latencies::new(); KINDS.len()];
        let mut pings = (Latencies::new(), 0);
        let mut talks = Vec::new();
        for thread in threads {
            let joined = thread
                .map_err(|error| error.to_string())
                .and_then(|handle| handle.join().map_err(|_| "a load thread panicked".to_owned()));
            match joined {
                Err(what) => control.fail(Failure { what, jid: String::new(), bytes: String::new() }),
                Ok(Yield {
                    latencies: more,
                    logins: begun,
                    searches: found,
                    pings: (more_pings, unanswered),
                    talks: said,
                }) => {
                    pings.0.add(&more_pings);
                    pings.1 += unanswered;
                    latencies.iter_mut().zip(&more).for_each(|(all, more)| all.add(more));
                    logins.add(&begun);
                    searches.iter_mut().zip(&found).for_each(|(all, more)| all.add(more));
                    talks.extend(said);
                }
            }
        }
        if course.traffic.is_some() {
            outcome.latency = latencies.first().and_then(Latencies::summary);
            find_losses(plan, control, talks);
        }
        for scene in &mut outcome.acts {
            scene.latency = latencies.get(scene.number as usize).and_then(Latencies::summary);
        }
        let found = KINDS.into_iter().zip(&searches);
        outcome.searches = found.filter_map(|(kind, latencies)| Some((kind, latencies.summary()?))).collect();
        outcome.undelivered =
            control.sum(|counters| &counters.owed).saturating_sub(control.sum(|counters| &counters.arrived));
        outcome.pings = pings.0.summary().map(|latency| (latency, pings.1));
        outcome.logins.latency = logins.summary().filter(|_| outcome.logins.count > 0);
        (outcome.failure_count, outcome.failures) = control.failures();
        bar.finish_and_clear();
        outcome
    })
}

/// Handshakes to measure on the CPU where the load runs.
fn beside_load(plan: &Plan) -> Result<BareHandshake, String> {
    pin(plan.cpus.first().copied()).map_err(|error| error.to_string())?;
    BareHandshake::new()
}

/// What one of a pair said and the other did not hear, or heard too often.
fn find_losses(plan: &Plan, control: &Control, mut talks: Vec<(u32, u64, u64)>) {
    if !matches!(plan.scenario, Scenario::Pairs | Scenario::Iq) || control.is_aborted() {
        return;
    }
    talks.sort_unstable();
    for &(me, _, heard) in &talks {
        let partner = talks.binary_search_by_key(&(me ^ 1), |talk| talk.0).ok().and_then(|index| talks.get(index));
        if let Some(&(partner, sent, _)) = partner.filter(|partner| partner.1 != heard) {
            let what = format!("{} sent {sent}, {heard} arrived", plan.jid(partner));
            control.fail(Failure { what, jid: plan.jid(me), bytes: String::new() });
        }
    }
}

struct Conductor<'a> {
    plan: &'a Plan,
    course: &'a Course,
    control: &'a Control,
    bar: &'a ProgressBar,
    bare: RefCell<Option<BareHandshake>>,
}

impl Conductor<'_> {
    fn lead(&self) -> Outcome {
        let (logins, levels) = self.log_in();
        if self.control.failures().0 > 0 {
            self.control.abort(); // What a part of the sessions does would be compared with nothing.
        }
        let hold = self.course.hold.filter(|_| !self.is_over()).map(|time| self.hold(time));
        let (mut throughput, mut samples) = (None, Vec::new());
        let traffic = self.course.traffic.filter(|_| self.plan.stage.acts.is_empty() && !self.is_over());
        if let Some((warmup, duration)) = traffic {
            throughput = Some(self.traffic(warmup, duration, None, None, &mut samples));
        }
        let (acts, crowds) = self.acts(&mut samples);
        if !self.is_over() {
            self.close();
        }
        Outcome {
            logins,
            levels,
            hold,
            throughput,
            latency: None,
            samples,
            acts,
            crowds,
            searches: Vec::new(),
            pings: None,
            undelivered: 0,
            failure_count: 0,
            failures: Vec::new(),
        }
    }

    /// Goes through the acts; one that fails is the last.
    fn acts(&self, samples: &mut Vec<Sample>) -> (Vec<Scene>, Vec<Crowded>) {
        let begun = Instant::now();
        let (mut scenes, mut crowds) = (Vec::new(), Vec::<Crowded>::new());
        for (act, number) in self.plan.stage.acts.iter().zip(1..) {
            if self.is_over() {
                break;
            }
            let (before, sampled) = (self.server_rss(), samples.len());
            let crowd = match act.abuse.map(|abuse| Crowd::gather(abuse, &self.plan.stage.recruiting)).transpose() {
                Ok(crowd) => crowd,
                Err(error) => {
                    let what = format!("{}: {error}", act.name);
                    self.control.fail(Failure { what, jid: String::new(), bytes: String::new() });
                    self.control.abort();
                    break;
                }
            };
            let scene = match act.deed.topic() {
                Some(topic) => self.go_on(act, topic, number, begun, scenes.last(), samples),
                None => self.act(act, number, begun, samples),
            };
            scenes.extend(scene);
            let rss = self.server_rss();
            let followed = crowds.last_mut().filter(|crowded| crowded.number + 1 == number);
            if let Some(Crowded { server_rss: Some((_, _, after)), .. }) = followed {
                *after = rss.unwrap_or_default();
            }
            match crowd.map(Crowd::disperse).transpose() {
                Ok(deeds) => crowds.extend(deeds.map(|deeds| {
                    let during = samples.get(sampled..).unwrap_or_default();
                    let most = during.iter().filter_map(|sample| sample.server_rss).chain(rss).max();
                    Crowded { number, deeds, server_rss: before.zip(most).map(|(before, most)| (before, most, most)) }
                })),
                Err(error) => {
                    let what = format!("{}: {error}", act.name);
                    self.control.fail(Failure { what, jid: String::new(), bytes: String::new() });
                }
            }
            if self.control.failures().0 > 0 {
                self.control.abort();
            }
            std::thread::sleep(self.course.settle);
        }
        (scenes, crowds)
    }

    /// An act of traffic. Messages go on until there were as many as in the act before, whatever that takes.
    fn go_on(
        &self,
        act: &Act,
        topic: Topic,
        number: u32,
        begun: Instant,
        before: Option<&Scene>,
        samples: &mut Vec<Sample>,
    ) -> Option<Scene> {
        let (warmup, duration) = self.course.traffic?;
        let count = match topic {
            Topic::Presence | Topic::Event | Topic::Pairs { .. } | Topic::Ask(_) => None,
            Topic::Chat => before.map(|scene| scene.count),
        };
        self.control.perform(number);
        let throughput = self.traffic(warmup, duration, count, Some((begun, act.name)), samples);
        Some(Scene {
            name: act.name,
            number,
            unit: act.unit?,
            count: throughput.messages,
            seconds: throughput.seconds,
            per_second: throughput.per_second,
            server_cpu_us: throughput.cpu_us_per_message,
            load_cpu_seconds: throughput.load_cpu_seconds,
            most_seconds: None,
            server_rss: None,
            latency: None,
        })
    }

    fn act(&self, act: &Act, number: u32, begun: Instant, samples: &mut Vec<Sample>) -> Option<Scene> {
        let participants = u64::from(act.who.count(self.plan.sessions, self.plan.group));
        let done = || self.control.sum(|counters| &counters.done);
        let count = || match act.unit {
            Some(Unit::Stanzas) => self.control.sum(|counters| &counters.arrived),
            Some(Unit::Sessions) | None => done(),
        };
        let load = || process_cpu_ns(std::process::id()).unwrap_or_default();
        self.bar.set_length(participants);
        self.bar.set_message(act.name);
        let (done_before, count_before, server_before, load_before) = (done(), count(), self.server_cpu(), load());
        let start = Instant::now();
        let mut sampler = Sampler::new(self, begun, count());
        self.control.perform(number);
        let (mut last, mut since) = ((0, 0), start);
        let rss = || self.course.pid.and_then(host::rss);
        let (mut most, mut peak) = (None, rss());
        while done() < done_before + participants {
            if self.is_over() || self.control.failures().0 > 0 {
                return None;
            }
            let progress = (done(), self.control.sum(|counters| &counters.arrived));
            if progress != last {
                (last, since) = (progress, Instant::now());
            } else if since.elapsed() > self.course.patience {
                let (owed, arrived) =
                    (self.control.sum(|counters| &counters.owed), self.control.sum(|counters| &counters.arrived));
                let what = format!(
                    "{}: {} of {participants} sessions were done; {arrived} stanzas of {owed} arrived",
                    act.name,
                    done().saturating_sub(done_before)
                );
                self.control.fail(Failure { what, jid: String::new(), bytes: String::new() });
                return None;
            }
            if most.is_none() && 20 * (done() - done_before) >= 19 * participants {
                most = Some(start.elapsed().as_secs_f64());
            }
            peak = peak.max(rss());
            self.bar.set_position(done().saturating_sub(done_before));
            if act.unit.is_some() && sampler.is_due() {
                samples.push(sampler.take(self, act.name, count()));
            }
            std::thread::sleep(TICK);
        }
        let unit = act.unit?;
        samples.push(sampler.take(self, act.name, count()));
        let server = self.server_cpu().zip(server_before).map(|(after, before)| after.saturating_sub(before));
        let (counted, seconds) = (count() - count_before, start.elapsed().as_secs_f64());
        Some(Scene {
            name: act.name,
            number,
            unit,
            count: counted,
            seconds,
            per_second: counted as f64 / seconds.max(1e-9),
            server_cpu_us: server.filter(|_| counted > 0).map(|ns| ns as f64 / 1e3 / counted as f64),
            load_cpu_seconds: load().saturating_sub(load_before) as f64 / 1e9,
            most_seconds: most.or(Some(seconds)),
            server_rss: rss().map(|end| (end, peak.unwrap_or_default().max(end))),
            latency: None,
        })
    }

    fn is_over(&self) -> bool {
        self.control.is_aborted()
    }

    fn server_rss(&self) -> Option<u64> {
        self.course.pid.and_then(host::rss)
    }

    fn server_cpu(&self) -> Option<u64> {
        self.course.pid.and_then(process_cpu_ns)
    }

    /// Waits until `progress` reaches `goal`; says so if it stands still for too long.
    fn wait(&self, what: &str, goal: impl Fn() -> u64, progress: impl Fn() -> u64) -> bool {
        let (mut last, mut since) = (progress(), Instant::now());
        while !self.is_over() {
            let now = progress();
            if now >= goal() {
                return true;
            }
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() > self.course.patience {
                let what = format!("{what} stands still at {now} of {}", goal());
                self.control.fail(Failure { what, jid: String::new(), bytes: String::new() });
                return false;
            }
            self.bar.tick();
            std::thread::sleep(TICK);
        }
        false
    }

    fn reach(&self, sessions: u32) -> bool {
        self.control.aim(sessions);
        self.wait(
            "logging in",
            || u64::from(sessions),
            || {
                let ready = self.control.sum(|counters| &counters.ready);
                self.bar.set_position(ready);
                if let Some(bare) = &mut *self.bare.borrow_mut()
                    && ready > u64::from(self.course.warm_logins)
                    && let Err(what) = (0..HANDSHAKES_PER_TICK).try_for_each(|_| bare.round())
                {
                    self.control.fail(Failure { what, jid: String::new(), bytes: String::new() });
                }
                ready + self.control.failures().0
            },
        )
    }

    fn log_in(&self) -> (Logins, Vec<Level>) {
        let mut levels = Vec::new();
        if self.course.warm_logins > 0 && self.reach(self.course.warm_logins) {
            std::thread::sleep(self.course.settle);
        }
        let ready = || self.control.sum(|counters| &counters.ready);
        let (before, cpu_before) = (ready(), self.server_cpu());
        let mut time = Duration::ZERO;
        for &sessions in &self.course.levels {
            let start = Instant::now();
            if !self.reach(sessions) {
                break;
            }
            time += start.elapsed();
            std::thread::sleep(self.course.settle);
            levels.push(Level {
                sessions: ready(),
                server: self.course.pid.and_then(host::memory),
                load: host::memory(std::process::id()).unwrap_or_default(),
                machine: host::machine_used(),
            });
        }
        let count = ready() - before;
        let cpu = self.server_cpu().zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
        let logins = Logins {
            count,
            seconds: time.as_secs_f64(),
            per_second: count as f64 / time.as_secs_f64().max(1e-9),
            server_cpu_us: cpu.filter(|_| count > 0).map(|ns| ns as f64 / 1e3 / count as f64),
            latency: None,
            handshake_ns: self.bare.borrow().as_ref().and_then(BareHandshake::mean_ns),
        };
        (logins, levels)
    }

    fn hold(&self, time: Duration) -> Hold {
        self.bar.set_message("idle");
        let (start, before) = (Instant::now(), self.server_cpu());
        while start.elapsed() < time && !self.is_over() {
            self.bar.tick();
            std::thread::sleep(TICK.max(time.saturating_sub(start.elapsed()).min(SAMPLE)));
        }
        let seconds = start.elapsed().as_secs_f64();
        let spent = self.server_cpu().zip(before).map(|(after, before)| after.saturating_sub(before) as f64 / 1e9);
        Hold { seconds, server_cores: spent.map(|spent| spent / seconds) }
    }

    /// Traffic for `duration`, or until `count` stanzas arrived; `scene`: when the acts began, and this one's name.
    fn traffic(
        &self,
        warmup: Duration,
        duration: Duration,
        count: Option<u64>,
        scene: Option<(Instant, &str)>,
        samples: &mut Vec<Sample>,
    ) -> Throughput {
        self.control.enter(Phase::Warmup);
        self.sample(Span::Time(warmup), -warmup.as_secs_f64(), scene, samples);
        let load = || process_cpu_ns(std::process::id()).unwrap_or_default();
        let arrived = || self.control.sum(|counters| &counters.arrived);
        self.control.enter(Phase::Measure);
        let (start, arrived_before, server_before, load_before) =
            (Instant::now(), arrived(), self.server_cpu(), load());
        self.sample(count.map_or(Span::Time(duration), Span::Count), 0.0, scene, samples);
        let (server_after, messages, load_after) = (self.server_cpu(), arrived() - arrived_before, load());
        let window_ns = start.elapsed().as_nanos() as u64;
        self.control.enter(Phase::Drain);
        let server = server_after.zip(server_before).map(|(after, before)| after.saturating_sub(before));
        let throughput = Throughput::new(messages, window_ns, server, load_after.saturating_sub(load_before));
        self.drain();
        throughput
    }

    fn sample(&self, span: Span, origin: f64, scene: Option<(Instant, &str)>, samples: &mut Vec<Sample>) {
        let start = Instant::now();
        let arrived = || self.control.sum(|counters| &counters.arrived);
        let (begun, origin, title) = scene.map_or((start, origin, ""), |(begun, title)| (begun, 0.0, title));
        let mut sampler = Sampler::new(self, begun, arrived());
        let arrived_before = arrived();
        let (mut last, mut since) = (arrived_before, start);
        while !self.is_over() {
            let rest = match span {
                Span::Time(time) => time.saturating_sub(start.elapsed()),
                Span::Count(count) if arrived() - arrived_before >= count => Duration::ZERO,
                Span::Count(_) => TICK,
            };
            if rest.is_zero() {
                break;
            }
            std::thread::sleep(SAMPLE.min(rest));
            if arrived() != last {
                (last, since) = (arrived(), Instant::now());
            } else if matches!(span, Span::Count(_)) && since.elapsed() > self.course.patience {
                let what = format!("{title} stands still at {}", last - arrived_before);
                self.control.fail(Failure { what, jid: String::new(), bytes: String::new() });
                self.control.abort();
            }
            if matches!(span, Span::Time(_)) || sampler.is_due() {
                let sample = sampler.take(self, title, arrived());
                samples.push(Sample { seconds: origin + sample.seconds, ..sample });
            }
        }
    }

    /// Waits for what is under way, twice: answers may follow what arrives last.
    fn drain(&self) {
        self.bar.set_message("draining");
        let owed = || self.control.sum(|counters| &counters.owed);
        let arrived = || self.control.sum(|counters| &counters.arrived);
        for _ in 0..2 {
            std::thread::sleep(TICK * 5);
            if !self.wait("draining: stanzas were lost; it", owed, arrived) {
                return;
            }
        }
        if arrived() != owed() && !self.is_over() {
            let what = format!("{} stanzas were sent, {} arrived", owed(), arrived());
            self.control.fail(Failure { what, jid: String::new(), bytes: String::new() });
        }
    }

    fn close(&self) {
        self.bar.set_message("closing");
        self.control.enter(Phase::Close);
        let start = Instant::now();
        let open = || self.control.sum(|counters| &counters.ready) > self.control.sum(|counters| &counters.closed);
        while !self.plan.raw && open() && start.elapsed() < CLOSING && !self.is_over() {
            std::thread::sleep(TICK);
        }
    }
}

/// How long traffic goes on.
#[derive(Debug, Clone, Copy)]
enum Span {
    /// For so long.
    Time(Duration),
    /// Until so many stanzas have arrived.
    Count(u64),
}

/// Makes the samples: what happened since the last one.
struct Sampler {
    begun: Instant,
    last: Instant,
    last_count: u64,
    last_cpu: Option<u64>,
}

impl Sampler {
    /// From now on, at `count`; samples give their time since `begun`.
    fn new(conductor: &Conductor<'_>, begun: Instant, count: u64) -> Self {
        Self { begun, last: Instant::now(), last_count: count, last_cpu: conductor.server_cpu() }
    }

    fn is_due(&self) -> bool {
        self.last.elapsed() >= SAMPLE
    }

    /// A sample, shown behind `title` on the progress line as well.
    fn take(&mut self, conductor: &Conductor<'_>, title: &str, count: u64) -> Sample {
        let (now, cpu) = (Instant::now(), conductor.server_cpu());
        let seconds = (now - self.last).as_secs_f64().max(1e-6);
        let per_second = count.saturating_sub(self.last_count) as f64 / seconds;
        let cores = cpu.zip(self.last_cpu).map(|(now, before)| now.saturating_sub(before) as f64 / 1e9 / seconds);
        (self.last, self.last_count, self.last_cpu) = (now, count, cpu);
        let title = if title.is_empty() { String::new() } else { format!("{title}: ") };
        let busy = cores.map_or(String::new(), |cores| format!(", server {cores:.2} cores"));
        conductor.bar.set_message(format!("{title}{per_second:.0}/s{busy}"));
        Sample {
            seconds: (now - self.begun).as_secs_f64(),
            per_second,
            server_cores: cores,
            server_rss: conductor.course.pid.and_then(host::rss),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::plan::tests::plan;
    use crate::relay;

    fn over_a_relay(change: impl Fn(&mut Plan)) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(server) = listener.local_addr().unwrap() else { unreachable!("IPv4 was bound") };
        let mut plan = plan(Scenario::Pairs, 8, 2, 2);
        plan.raw = true;
        plan.server = server;
        plan.sources = vec!["127.0.3.1".parse().unwrap(), "127.0.3.2".parse().unwrap()];
        change(&mut plan);
        let course = Course {
            title: "test".to_owned(),
            warm_logins: 0,
            levels: vec![plan.sessions],
            settle: Duration::ZERO,
            hold: None,
            traffic: Some((Duration::from_millis(50), Duration::from_millis(200))),
            pid: Some(std::process::id()),
            patience: Duration::from_secs(5),
            handshakes: false,
        };
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| relay::serve(&listener, 32, &stop).unwrap());
            let outcome = conduct(&plan, &course);
            stop.store(true, Ordering::Relaxed);
            outcome
        })
    }

    #[test]
    fn pairs_over_a_relay_lose_nothing_in_a_closed_loop() {
        for window in [1, 16] {
            let outcome = over_a_relay(|plan| plan.window = window);
            assert_eq!(outcome.failure_count, 0, "{:?}", outcome.failures);
            let throughput = outcome.throughput.unwrap();
            assert!(throughput.messages > 100, "{throughput:?}");
            assert!(throughput.per_cpu_second.is_some());
            assert!(outcome.latency.unwrap().count > 100);
        }
    }

    #[test]
    fn an_open_loop_keeps_its_rate_over_many_rings() {
        let outcome = over_a_relay(|plan| {
            plan.rate = Some(2_000.0);
            plan.ring_sessions_max = 2;
        });
        assert_eq!(outcome.failure_count, 0, "{:?}", outcome.failures);
        let rate = outcome.throughput.unwrap().per_second;
        assert!((1_500.0..2_500.0).contains(&rate), "{rate}");
    }

    #[test]
    fn read_outs_go_both_ways() {
        let outcome = over_a_relay(|plan| plan.scenario = Scenario::Iq);
        assert_eq!(outcome.failure_count, 0, "{:?}", outcome.failures);
        assert!(outcome.latency.unwrap().count > 100);
    }

    #[test]
    fn a_server_that_is_not_there_is_a_failure() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let SocketAddr::V4(free) = free else { unreachable!("IPv4 was bound") };
        let outcome = over_a_relay(|plan| plan.server = free);
        assert_eq!(outcome.failure_count, 8);
        assert!(outcome.failures[0].what.contains("failed"), "{:?}", outcome.failures);
    }
}
