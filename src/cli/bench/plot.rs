//! A report as a picture: curves of rates and latencies, as SVG, or in a page of HTML with all figures. Neither needs anything else to be shown.
//!
//! Begin with [`render`].

use std::fmt::Write as _;

use anyhow::Result;
use clap::ValueEnum;
use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::prelude::SVGBackend;
use plotters::series::LineSeries;
use plotters::style::{BLUE, Color, GREEN, RED, RGBColor, WHITE};

use super::meter::{Sample, Series};
use super::report::Report;
use crate::cli::output::Row;

/// Pixels of a panel.
const WIDTH: u32 = 900;
const HEIGHT: u32 = 260;

/// What a report is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// Curves
    Svg,
    /// A page with curves and figures
    Html,
}

/// The report in this form.
pub(super) fn render(report: &Report, form: Form) -> Result<String> {
    let svg = draw(report)?;
    match form {
        Form::Svg => Ok(svg),
        Form::Html => page(report, &svg),
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A curve of a panel.
type Curve = (RGBColor, fn(&Sample) -> f64);

fn draw(report: &Report) -> Result<String> {
    let mut svg = String::new();
    let panels = report.series.len() * 2;
    let height = HEIGHT.saturating_mul(u32::try_from(panels)?);
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let areas = root.split_evenly((panels, 1));
        for (series, pair) in report.series.iter().zip(areas.chunks(2)) {
            let [rates, latencies] = pair else { continue };
            let name = format!("{}: messages per second", series.name);
            panel(rates, &name, series, &[(BLUE, |sample| sample.rate)])?;
            let name = format!("{}: p50 (green) and p99 (red), ms", series.name);
            let curves: [Curve; 2] = [
                (GREEN, |sample| millis(sample.p50_us)),
                (RED, |sample| millis(sample.p99_us)),
            ];
            panel(latencies, &name, series, &curves)?;
        }
        root.present()?;
    }
    Ok(svg)
}

#[expect(clippy::cast_precision_loss, reason = "a pixel is wider")]
fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

fn panel(area: &Area<'_>, name: &str, series: &Series, curves: &[Curve]) -> Result<()> {
    let seconds = |sample: &Sample| sample.at.as_secs_f64();
    let end = series.samples.last().map_or(1.0, seconds);
    let values = curves
        .iter()
        .flat_map(|(_, value)| series.samples.iter().map(value));
    // An empty range cannot be drawn.
    let most = values.fold(0.0_f64, f64::max).max(f64::MIN_POSITIVE);
    let mut chart = ChartBuilder::on(area)
        .caption(name, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..end, 0.0..most * 1.1)?;
    chart.configure_mesh().x_desc("seconds").draw()?;
    for (color, value) in curves {
        let points = series
            .samples
            .iter()
            .map(|sample| (seconds(sample), value(sample)));
        chart.draw_series(LineSeries::new(points, color.filled()))?;
    }
    Ok(())
}

fn page(report: &Report, svg: &str) -> Result<String> {
    let mut page = String::new();
    let name = report.name;
    write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>cubecast bench {name}</title>\n\
         <style>body{{font-family:sans-serif;margin:2em}}td,th{{padding:.2em .8em;text-align:right}}</style></head>\n\
         <body><h1>cubecast bench {name}</h1>\n<table>"
    )?;
    for (setting, value) in &report.settings {
        write!(
            page,
            "<tr><th>{setting}</th><td>{}</td></tr>",
            escaped(&value.to_string())
        )?;
    }
    page.push_str("</table>\n<table>");
    row(&mut page, "th", super::report::Outcome::HEADER.iter());
    for outcome in report.outcomes() {
        row(&mut page, "td", outcome.cells().iter());
    }
    write!(page, "</table>\n{svg}\n</body></html>\n")?;
    Ok(page)
}

fn row(page: &mut String, tag: &str, cells: impl Iterator<Item = impl AsRef<str>>) {
    page.push_str("<tr>");
    for cell in cells {
        // Writing into a text does not fail.
        let _always = write!(page, "<{tag}>{}</{tag}>", escaped(cell.as_ref()));
    }
    page.push_str("</tr>\n");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::super::meter::Tally;
    use super::*;
    use std::time::Duration;

    #[test]
    fn page_has_figures_and_curves_and_needs_nothing_else() {
        let samples = [1, 2].map(|second| Sample {
            at: Duration::from_secs(second),
            rate: 1000.0,
            p50_us: 500,
            p99_us: 900,
        });
        let report = Report {
            name: "publish",
            settings: serde_json::Map::from_iter([("name".to_owned(), "<&>".into())]),
            size: 128,
            series: vec![Series {
                name: "publish",
                samples: samples.to_vec(),
                total: Tally::new(),
                rate: 1234.0,
                measured: Duration::from_secs(2),
            }],
        };
        let svg = render(&report, Form::Svg).unwrap();
        assert!(svg.starts_with("<svg"), "{svg}");
        let html = render(&report, Form::Html).unwrap();
        for part in ["<td>1234</td>", "&lt;&amp;>", "<polyline", "</html>"] {
            assert!(html.contains(part), "{part} is missing in {html}");
        }
        assert!(!html.contains("src="), "{html}");
    }
}
