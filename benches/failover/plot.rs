//! How long the gaps after a SIGKILL were, as SVG: a histogram for each system, over one logarithmic axis.

use std::path::Path;
use std::time::Duration;

use plotters::chart::ChartBuilder;
use plotters::coord::combinators::IntoLogRange;
use plotters::drawing::IntoDrawingArea;
use plotters::element::Rectangle;
use plotters::prelude::SVGBackend;
use plotters::style::{BLUE, Color, WHITE};

use crate::Outcome;
use crate::round::Case;
use crate::series::{Summary, millis};

/// Pixels.
const WIDTH: u32 = 900;
const HEIGHT_EACH: u32 = 300;
/// The axis, in milliseconds.
const FROM: f64 = 1.0;
const TO: f64 = 100_000.0;
/// Bars in a factor of ten.
const BARS_PER_DECADE: i32 = 10;
const DECADES: i32 = 5;

/// Draws all systems into a file.
pub fn draw(outcomes: &[Outcome], path: &Path) -> anyhow::Result<()> {
    let panels = outcomes.len().max(1);
    let height = HEIGHT_EACH * u32::try_from(panels)?;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, outcome) in root.split_evenly((panels, 1)).iter().zip(outcomes) {
        let times = outcome.times.get(&Case::KillWrite);
        let times = times.map_or(&[][..], Vec::as_slice);
        let bars = bars(times);
        let most = bars.iter().map(|(_, _, count)| *count).max().unwrap_or(0);
        let mut chart = ChartBuilder::on(area)
            .caption(caption(outcome, times), ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(40)
            .build_cartesian_2d((FROM..TO).log_scale(), 0_u32..most + 1)?;
        chart
            .configure_mesh()
            .x_desc("longest gap between acknowledged publishes, ms")
            .y_desc("kills")
            .draw()?;
        let drawn = bars.iter().map(|(left, right, count)| {
            Rectangle::new([(*left, 0), (*right, *count)], BLUE.filled())
        });
        chart.draw_series(drawn)?;
    }
    root.present()?;
    Ok(())
}

fn caption(outcome: &Outcome, times: &[Duration]) -> String {
    Summary::of(times).map_or_else(
        || outcome.name.clone(),
        |Summary {
             count, p50, p99, ..
         }| {
            format!(
                "{}: {count} leaders killed, p50 {p50:.0} ms, p99 {p99:.0} ms",
                outcome.name
            )
        },
    )
}

/// From, to, how many.
fn bars(times: &[Duration]) -> Vec<(f64, f64, u32)> {
    let edge = |place: i32| 10_f64.powf(f64::from(place) / f64::from(BARS_PER_DECADE));
    let times: Vec<f64> = times
        .iter()
        .map(|time| millis(*time).clamp(FROM, TO - 1.0))
        .collect();
    (0..DECADES * BARS_PER_DECADE)
        .map(|place| (edge(place), edge(place + 1)))
        .map(|(from, to)| {
            let within = times.iter().filter(|time| (from..to).contains(*time));
            (from, to, u32::try_from(within.count()).unwrap_or(u32::MAX))
        })
        .filter(|(_, _, count)| *count > 0)
        .collect()
}
