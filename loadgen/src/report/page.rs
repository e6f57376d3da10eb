//! The page: tables, and plots as SVG in it, so that it needs nothing else.

use std::fmt::Write;

use plotters::prelude::*;

use super::{Report, mib};
use crate::conductor::{Outcome, Sample};
use crate::host::Host;
use crate::plan::TlsMode;
use crate::stats::LatencySummary;

/// A line of a plot.
struct Line<'a> {
    name: &'a str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

const BROKER: RGBColor = RGBColor(31, 119, 180);
const RELAY: RGBColor = RGBColor(214, 120, 30);
/// Colours of the acts, in turn.
const SCENES: [RGBColor; 5] = [BROKER, RELAY, RGBColor(44, 140, 60), RGBColor(148, 80, 170), RGBColor(120, 120, 120)];

/// A plot as SVG; `quantiles`: the x axis counts nines, and both axes are logarithms.
fn plot(title: &str, x: &str, y: &str, lines: &[Line<'_>], quantiles: bool) -> Result<String, String> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let Some(&(first, _)) = points().next() else { return Ok(String::new()) };
    let (left, right) = points().fold((first, first), |(low, high), point| (low.min(point.0), high.max(point.0)));
    let highest = points().map(|point| point.1).fold(0.0, f64::max).max(1e-9);
    let lowest = points().map(|point| point.1).fold(highest, f64::min);
    let (bottom, top) = if quantiles { (lowest.floor(), highest + 0.1) } else { (0.0, highest * 1.08) };
    let mut svg = String::new();
    {
        let failed = |error: &dyn std::fmt::Display| format!("plotting {title}: {error}");
        let area = SVGBackend::with_string(&mut svg, (760, 320)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(10)
            .margin_right(36)
            .x_label_area_size(38)
            .y_label_area_size(72)
            .build_cartesian_2d(left..right.max(left + 1e-6), bottom..top)
            .map_err(|error| failed(&error))?;
        let nines = |x: &f64| match *x {
            x if x < 0.05 => "0 %".to_owned(),
            x => format!("{} %", (100.0 - 100.0 / 10_f64.powf(x)) * 1e4_f64.round() / 1e4),
        };
        let plain = |x: &f64| format!("{x:.0}");
        let value = |y: &f64| if top < 10.0 { format!("{y:.2}") } else { format!("{y:.0}") };
        let micros = |y: &f64| match 10_f64.powf(*y) {
            us if us < 999.0 => format!("{us:.0} µs"),
            us if us < 999e3 => format!("{:.1} ms", us / 1e3),
            us => format!("{:.1} s", us / 1e6),
        };
        let labels: &dyn Fn(&f64) -> String = if quantiles { &nines } else { &plain };
        let values: &dyn Fn(&f64) -> String = if quantiles { &micros } else { &value };
        chart
            .configure_mesh()
            .x_desc(x)
            .y_desc(y)
            .x_labels(8)
            .y_labels(6)
            .x_label_formatter(&labels)
            .y_label_formatter(&values)
            .light_line_style(WHITE)
            .draw()
            .map_err(|error| failed(&error))?;
        for line in lines {
            let color = line.color;
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), color.stroke_width(2)))
                .map_err(|error| failed(&error))?
                .label(line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        }
        if lines.len() > 1 {
            chart
                .configure_series_labels()
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.3))
                .position(if quantiles { SeriesLabelPosition::UpperLeft } else { SeriesLabelPosition::LowerRight })
                .draw()
                .map_err(|error| failed(&error))?;
        }
        area.present().map_err(|error| failed(&error))?;
    }
    Ok(svg)
}

/// One self-contained page.
///
/// # Errors
/// In words: a plot could not be drawn.
pub(crate) fn html(report: &Report) -> Result<String, String> {
    let mut page = String::from(HEAD);
    let settings = &report.settings;
    let sides: Vec<(&str, RGBColor, &Outcome)> =
        [("broker", BROKER, Some(&report.broker)), ("raw relay", RELAY, report.relay.as_ref())]
            .into_iter()
            .filter_map(|(name, color, outcome)| Some((name, color, outcome?)))
            .collect();
    push(&mut page, format_args!("<h1>plaza-loadgen {}</h1>", escape(&settings.scenario)));
    let verdict = if report.is_clean() {
        "<p class=ok>Everything sent arrived once, in order, intact and from the right sender.</p>"
    } else {
        "<p class=bad>Something went wrong: see the failures below.</p>"
    };
    page.push_str(verdict);
    table(&mut page, "Figures", &report.figures());

    let series = |value: &dyn Fn(&Sample) -> Option<f64>| -> Vec<Line<'_>> {
        let points = |outcome: &Outcome| -> Vec<(f64, f64)> {
            outcome.samples.iter().filter_map(|sample| Some((sample.seconds, value(sample)?))).collect()
        };
        let lines = sides.iter().map(|&(name, color, outcome)| Line { name, color, points: points(outcome) });
        lines.filter(|line| !line.points.is_empty()).collect()
    };
    let time = "seconds since measuring began";
    let points = |latency: &LatencySummary| {
        let points = latency.curve.iter().map(|&(quantile, us)| (-(1.0 - quantile).log10(), us.max(0.1).log10()));
        points.collect()
    };
    let curves = sides
        .iter()
        .filter_map(|&(name, color, outcome)| Some(Line { name, color, points: points(outcome.latency.as_ref()?) }));
    let scenes =
        report.broker.acts.iter().zip(SCENES.iter().cycle()).filter_map(|(scene, &color)| {
            Some(Line { name: scene.name, color, points: points(scene.latency.as_ref()?) })
        });
    for svg in [
        plot("Throughput", time, "stanzas per second", &series(&|sample| Some(sample.per_second)), false)?,
        plot("Latency", "percentile", "", &curves.chain(scenes).collect::<Vec<_>>(), true)?,
        plot("Server CPU", time, "cores", &series(&|sample| sample.server_cores), false)?,
        plot(
            "Server memory",
            time,
            "MiB resident",
            &series(&|sample| Some(sample.server_rss? as f64 / 1048576.0)),
            false,
        )?,
        plot("Memory held", "sessions", "MiB private to the server", &levels(&report.broker), false)?,
    ] {
        if !svg.is_empty() {
            push(&mut page, format_args!("<figure>{svg}</figure>"));
        }
    }

    let text = serde_json::to_value(settings).map_err(|error| error.to_string())?;
    let mut rows: Vec<(String, String)> = text
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.replace('_', " "), value.as_str().map_or(value.to_string(), str::to_owned)))
        .collect();
    rows.extend(host_rows(&report.host));
    table(&mut page, "Settings", &rows);
    if settings.tls != TlsMode::None && !settings.verified {
        page.push_str("<p>Certificates were not verified (no <code>--ca</code>).</p>");
    }
    page.push_str(
        "<p>Open loop: latency counts from the time a stanza was scheduled for, whether or not it could leave then. \
         The raw relay passes the same bytes in plaintext through one io_uring and looks at none of them; server CPU is \
         the scheduler's count of the server process, kernel time included.</p>",
    );
    for (name, _, outcome) in &sides {
        let rows: Vec<(String, String)> = outcome
            .failures
            .iter()
            .map(|failure| (failure.jid.clone(), format!("{} {}", failure.what, failure.bytes)))
            .collect();
        if !rows.is_empty() {
            table(&mut page, &format!("The first of {} failures with the {name}", outcome.failure_count), &rows);
        }
    }
    page.push_str("</body></html>\n");
    Ok(page)
}

fn levels(outcome: &Outcome) -> Vec<Line<'static>> {
    let points: Vec<(f64, f64)> = outcome
        .levels
        .iter()
        .filter_map(|level| Some((level.sessions as f64, level.server?.private as f64 / 1048576.0)))
        .collect();
    if points.len() < 2 { Vec::new() } else { vec![Line { name: "server", color: BROKER, points }] }
}

/// The beginning of a page.
pub(crate) const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>plaza-loadgen</title><style>\
body{font:15px/1.5 system-ui,sans-serif;max-width:800px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;width:100%}td{padding:.2em .6em;border-bottom:1px solid #ddd;vertical-align:top;\
overflow-wrap:anywhere}td:first-child{color:#666;white-space:nowrap}figure{margin:1.5em 0}svg{max-width:100%;height:auto}\
.ok{color:#176b2c}.bad{color:#a11;font-weight:bold}</style><body>";

/// Where a run was made, and how.
pub(crate) fn host_rows(host: &Host) -> impl Iterator<Item = (String, String)> {
    let rows = [
        ("cpu", format!("{} × {}", host.cpus, host.cpu)),
        ("memory", mib(host.memory)),
        ("kernel", host.kernel.clone()),
        ("commit", host.commit.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("time", host.time.clone()),
        ("command", host.command.clone()),
    ];
    rows.into_iter().map(|(name, value)| (name.to_owned(), value))
}

/// Appends a table with a title.
pub(crate) fn table(page: &mut String, title: &str, rows: &[(String, String)]) {
    push(page, format_args!("<h2>{}</h2><table>", escape(title)));
    for (name, value) in rows {
        push(page, format_args!("<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(value)));
    }
    page.push_str("</table>");
}

/// Appends formatted text.
pub(crate) fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("writing to a string cannot fail");
}

/// Text as it stands in a page.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
