//! Three curves over the same time, as SVG.

use std::path::Path;

use plotters::chart::ChartBuilder;
use plotters::drawing::IntoDrawingArea;
use plotters::prelude::SVGBackend;
use plotters::series::LineSeries;
use plotters::style::{BLUE, Color, GREEN, RED, RGBColor, WHITE};

use crate::Sample;

/// Pixels.
const SIZE: (u32, u32) = (900, 780);

/// A curve.
struct Panel {
    name: &'static str,
    color: RGBColor,
    value: fn(&Sample) -> f64,
}

const PANELS: [Panel; 3] = [
    Panel {
        name: "p99 of a publish, ms",
        color: RED,
        value: |sample| sample.p99_us / 1000.0,
    },
    Panel {
        name: "memory of the largest peer, MiB",
        color: BLUE,
        value: |sample| sample.rss_mib,
    },
    Panel {
        name: "disk of all peers, MiB",
        color: GREEN,
        value: |sample| sample.disk_mib,
    },
];

/// Draws all panels into a file.
pub fn draw(samples: &[Sample], path: &Path) -> anyhow::Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let minutes = |sample: &Sample| sample.at.as_secs_f64() / 60.0;
    let end = samples.last().map_or(1.0, minutes);
    for (area, panel) in root.split_evenly((PANELS.len(), 1)).iter().zip(PANELS) {
        let most = samples.iter().map(panel.value).fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption(panel.name, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..end, 0.0..most * 1.1)?;
        chart.configure_mesh().x_desc("minutes").draw()?;
        let curve = samples
            .iter()
            .map(|sample| (minutes(sample), (panel.value)(sample)));
        chart.draw_series(LineSeries::new(curve, panel.color.filled()))?;
    }
    root.present()?;
    Ok(())
}
