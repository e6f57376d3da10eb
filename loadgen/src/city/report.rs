//! What became of a city, for people and for machines: a few lines, JSON, and one self-contained page with the funnel.

use plaza_core::iot::Interface;
use serde::Serialize;

use super::Cost;
use super::funnel::{Funnel, Step, Trouble};
use super::town::{Kind, Town};
use crate::host::Host;
use crate::report::{HEAD, escape, host_rows, latencies, mib, push, table};
use crate::stats::LatencySummary;

/// A report.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// Version of the load tool.
    pub version: &'static str,
    /// Where it was made.
    pub host: Host,
    /// What was asked for, by name.
    pub settings: Vec<(&'static str, String)>,
    /// How long the city lived, in seconds.
    pub seconds: f64,
    /// How far it came.
    pub funnel: Vec<Step>,
    /// What took how long.
    pub timings: Vec<(&'static str, LatencySummary)>,
    /// What went wrong, by kind.
    pub troubles: Vec<Trouble>,
    /// What happened beside.
    pub notes: Vec<(&'static str, u64)>,
    /// What the server spent.
    pub cost: Cost,
}

impl Report {
    /// Of a city that has lived; `seconds`: how long.
    pub(crate) fn new(town: &Town, server: &str, funnel: &Funnel, seconds: f64, cost: Cost) -> Self {
        let census = &town.census;
        let count = |kind: Kind| town.things.iter().filter(|thing| thing.kind == kind).count();
        let things = format!(
            "{}: {} meters, {} lamps, {} sensors, {} concentrators",
            town.things.len(),
            count(Kind::Meter),
            count(Kind::Lamp),
            count(Kind::Sensor),
            count(Kind::Concentrator)
        );
        let spoken: Vec<&str> =
            census.generations.iter().map(|&generation| Interface::Discovery.ns(generation)).collect();
        let settings = vec![
            ("server", format!("{} at {server}", census.domain)),
            ("registry", town.registry.clone()),
            ("seed", census.seed.to_string()),
            ("namespaces", spoken.join(", ")),
            ("devices", census.devices.to_string()),
            ("things", things),
            ("owners", census.owners.to_string()),
            ("services", format!("{}, {} for each device", census.services, census.friends)),
            ("makers", census.makers.len().to_string()),
            ("read every", format!("{} s", census.interval_ns as f64 / 1e9)),
        ];
        Self {
            version: env!("CARGO_PKG_VERSION"),
            host: Host::read(),
            settings,
            seconds,
            funnel: funnel.steps(),
            timings: funnel.timings(),
            troubles: funnel.troubles(),
            notes: funnel.notes(),
            cost,
        }
    }

    /// Whether all was reached and nothing went wrong.
    pub(crate) fn is_green(&self) -> bool {
        self.troubles.is_empty() && self.funnel.iter().all(|step| step.reached >= step.goal)
    }

    /// The figures, as `(name, value)`.
    fn figures(&self) -> Vec<(String, String)> {
        let mut figures: Vec<(String, String)> = Vec::new();
        for (name, latency) in &self.timings {
            figures.push(((*name).to_owned(), format!("{} times: {}", latency.count, latencies(latency))));
        }
        if let Some(cpu) = self.cost.cpu_seconds {
            let cores = cpu / self.seconds.max(1e-9);
            figures.push(("server CPU".to_owned(), format!("{cpu:.2} s in {:.1} s: {cores:.2} cores", self.seconds)));
        }
        if let Some(memory) = self.cost.memory {
            figures.push(("server memory".to_owned(), format!("{} private", mib(memory.private))));
        }
        for (what, count) in &self.notes {
            figures.push(((*what).to_owned(), count.to_string()));
        }
        figures
    }
}

/// Prints how far the city came, the figures, and what went wrong.
pub(crate) fn print(report: &Report) {
    for (name, value) in report.settings.iter().filter(|(name, _)| matches!(*name, "server" | "things")) {
        println!("city: {name} {value}");
    }
    for step in &report.funnel {
        let (name, what) = step.stage.names();
        let mark = if step.reached >= step.goal { "ok" } else { "MISSED" };
        println!("  {name:<28} {} of {} {what} after {:.1} s: {mark}", step.reached, step.goal, step.seconds);
    }
    for (name, value) in report.figures() {
        println!("  {name:<28} {value}");
    }
    for trouble in &report.troubles {
        eprintln!("{} × {}; the first: {}", trouble.count, trouble.kind, trouble.first);
    }
    println!("{}", if report.is_green() { "all green" } else { "NOT all green" });
}

/// One self-contained page.
pub(crate) fn html(report: &Report) -> String {
    let mut page = String::from(HEAD);
    page.push_str("<h1>plaza-loadgen city</h1>");
    page.push_str(if report.is_green() {
        "<p class=ok>All green: everybody came as far as planned, and nothing went wrong.</p>"
    } else {
        "<p class=bad>Not all green: see what is missing in the funnel, and what went wrong below.</p>"
    });
    push(&mut page, format_args!("<figure>{}</figure>", funnel(&report.funnel)));
    if !report.troubles.is_empty() {
        let rows: Vec<(String, String)> = report
            .troubles
            .iter()
            .map(|trouble| (format!("{} × {}", trouble.count, trouble.kind), trouble.first.clone()))
            .collect();
        table(&mut page, "What went wrong, by kind, and the first of each", &rows);
    }
    table(&mut page, "Figures", &report.figures());
    let mut rows: Vec<(String, String)> =
        report.settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    rows.extend(host_rows(&report.host));
    table(&mut page, "Settings", &rows);
    page.push_str(
        "<p>Everybody comes, pings and reads on schedule: times count from when something was due. Who asks first is \
         refused, since nobody may do anything until an owner allows it; what was refused at first is no fault.</p>\
         </body></html>\n",
    );
    page
}

/// Height of a stage's bar and the space to the next.
const ROW: usize = 34;
const WIDTH: f64 = 760.0;
/// Where bars begin and end.
const LEFT: f64 = 110.0;
const RIGHT: f64 = 560.0;

/// The funnel as SVG: a bar for each stage, as wide as the share of those who came, behind it the whole.
fn funnel(steps: &[Step]) -> String {
    let height = steps.len() * ROW + 10;
    let mut svg = String::new();
    push(
        &mut svg,
        format_args!(
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}' \
             font-family='system-ui,sans-serif' font-size='14' role='img'><title>Funnel</title>"
        ),
    );
    for (row, step) in steps.iter().enumerate() {
        let (name, what) = step.stage.names();
        let top = row * ROW + 8;
        let share = (step.reached as f64 / step.goal.max(1) as f64).min(1.0);
        let color = if step.reached >= step.goal { "#7cc98b" } else { "#e79a90" };
        let whole = RIGHT - LEFT;
        push(
            &mut svg,
            format_args!(
                "<text x='{x}' y='{y}' text-anchor='end'>{name}</text>\
                 <rect x='{LEFT}' y='{top}' width='{whole}' height='20' fill='#eee'/>\
                 <rect x='{LEFT}' y='{top}' width='{width:.1}' height='20' fill='{color}'/>\
                 <text x='{after}' y='{y}'>{reached} / {goal}</text>\
                 <text x='{inside}' y='{y}' font-size='11' fill='#222'>{what}</text>",
                x = LEFT - 8.0,
                y = top + 15,
                width = whole * share,
                after = RIGHT + 8.0,
                inside = LEFT + 6.0,
                reached = step.reached,
                goal = step.goal,
                what = escape(what),
            ),
        );
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::super::funnel::{Stage, Timing};
    use super::super::town::tests::census;
    use super::*;

    fn report(reached: bool, trouble: bool) -> Report {
        let town = Town::new(census(20));
        let mut funnel = Funnel::new([(Stage::Created, 1), (Stage::Read, 2)]);
        funnel.reach(Stage::Created, 0, 0, 1);
        funnel.reach(Stage::Read, 0, 0, 1);
        if reached {
            funnel.reach(Stage::Read, 1, 0, 1);
        }
        if trouble {
            funnel.trouble("wrong data", "a@b", "<resp/> & co");
        }
        funnel.time(Timing::Ping, 5_000);
        funnel.note("asked to wait");
        Report::new(&town, "127.0.0.1:5222", &funnel, 2.0, Cost { cpu_seconds: Some(1.0), memory: None })
    }

    #[test]
    fn a_city_is_green_if_all_came_as_far_as_planned_and_nothing_went_wrong() {
        assert!(report(true, false).is_green());
        assert!(!report(false, false).is_green());
        assert!(!report(true, true).is_green());
    }

    #[test]
    fn the_page_shows_the_funnel_and_loads_nothing() {
        let page = html(&report(false, true));
        assert_eq!(page.matches("<svg").count(), 1);
        for text in ["1 / 2", "width='225.0'", "wrong data", "&lt;resp/&gt; &amp; co", "asked to wait", "0.50 cores"] {
            assert!(page.contains(text), "{text}");
        }
        assert!(page.contains("class=bad") && !page.contains("src="));
        assert!(html(&report(true, false)).contains("class=ok"));
        assert!(serde_json::to_string(&report(true, true)).unwrap().contains("\"stage\":\"read\""));
    }
}
