//! One curve as a PNG.
//!
//! The picture is drawn at twice its size and then scaled down, because plotters does not antialias thick lines. Lines are
//! drawn segment by segment in opaque colours, because plotters fills a whole path as one polygon, which leaves holes
//! where it crosses itself. The font is part of the binary: Ubuntu Light, under the Ubuntu Font Licence 1.0, from
//! `epaint_default_fonts`.

use super::axis::{Axis, number};
use super::smooth::smooth;
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use std::sync::OnceLock;

/// Size of a picture.
const SIZE: (u32, u32) = (960, 560);
/// The factor by which it is drawn larger.
const SCALE: u32 = 2;

const INK: RGBColor = RGBColor(32, 36, 44);
const QUIET: RGBColor = RGBColor(84, 92, 104);
const GRID: RGBColor = RGBColor(230, 233, 238);
const LINE: RGBColor = RGBColor(0, 114, 178);
const FAINT: RGBColor = RGBColor(178, 210, 230);

/// The contents of a picture.
#[derive(Debug, Clone, Copy)]
pub struct Curve<'a> {
    /// Its title.
    pub title: &'a str,
    /// Steps.
    pub x: &'a [f64],
    /// Values. Those that are not finite are left out.
    pub y: &'a [f64],
    /// Weight of the smoothed line over the raw one; 0 for the raw one alone.
    pub smoothing: f64,
    /// Whether the y axis may be logarithmic.
    pub may_be_log: bool,
}

/// Draws a curve as a PNG; `None` if there is no number to draw.
pub fn png(curve: &Curve) -> Result<Option<Vec<u8>>> {
    let points: Vec<(f64, f64)> = curve
        .x
        .iter()
        .copied()
        .zip(curve.y.iter().copied())
        .filter(|(x, y)| x.is_finite() && y.is_finite())
        .collect();
    let values = || points.iter().map(|(_, y)| *y);
    let log = curve.may_be_log && spans_decades(values());
    let x_axis = Axis::around(points.iter().map(|(x, _)| *x), 8, false);
    let (Some(x_axis), Some(y_axis)) = (x_axis, Axis::around(values(), 6, log)) else {
        return Ok(None);
    };
    let mut pixels = vec![255; (SIZE.0 * SIZE.1 * SCALE * SCALE * 3) as usize];
    let drawn = draw(&mut pixels, curve, &points, x_axis, y_axis);
    drawn.map_err(|error| anyhow!("{}: {error}", curve.title))?;
    packed(&halved(&pixels)).map(Some)
}

/// Whether numbers differ so much that a linear axis would hide most of them.
fn spans_decades(values: impl Iterator<Item = f64>) -> bool {
    let bounds = values.fold((f64::INFINITY, 0f64), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    bounds.0 > 0.0 && bounds.1 / bounds.0 >= 100.0
}

fn draw(
    pixels: &mut [u8],
    curve: &Curve,
    points: &[(f64, f64)],
    x_axis: Axis,
    y_axis: Axis,
) -> Result<()> {
    font()?;
    let s = SCALE;
    let wrong = |error: &dyn std::fmt::Display| anyhow!("cannot be drawn: {error}");
    let size = (SIZE.0 * s, SIZE.1 * s);
    let area = BitMapBackend::with_buffer(pixels, size).into_drawing_area();
    area.fill(&WHITE).map_err(|e| wrong(&e))?;
    let style = |size: u32, color: RGBColor| ("sans-serif", size * s).into_font().color(&color);
    let at = |x: u32, y: u32| ((x * s) as i32, (y * s) as i32);
    area.draw(&Text::new(curve.title, at(28, 20), style(25, INK)))
        .map_err(|e| wrong(&e))?;
    let ys: Vec<f64> = points.iter().map(|(_, y)| *y).collect();
    let smoothed = smooth(&ys, curve.smoothing);
    area.draw(&Text::new(
        caption(points, &smoothed, curve.smoothing, y_axis.is_log()),
        at(28, 52),
        style(16, QUIET),
    ))
    .map_err(|e| wrong(&e))?;
    let mut chart = ChartBuilder::on(&area)
        .margin_top(86 * s)
        .margin_right(28 * s)
        .margin_bottom(10 * s)
        .margin_left(14 * s)
        .x_label_area_size(46 * s)
        .y_label_area_size(64 * s)
        .build_cartesian_2d(x_axis.clone(), y_axis)
        .map_err(|e| wrong(&e))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID.stroke_width(s))
        .light_line_style(TRANSPARENT)
        .axis_style(GRID.stroke_width(s))
        .label_style(style(15, QUIET))
        .x_desc("step")
        .axis_desc_style(style(15, QUIET))
        .draw()
        .map_err(|e| wrong(&e))?;
    let lines: [(&[f64], RGBColor, u32); 2] = [(&ys, FAINT, 1), (&smoothed, LINE, 2)];
    let smooths = curve.smoothing > 0.0 && points.len() > 1;
    for (values, color, width) in lines.into_iter().skip(usize::from(!smooths)) {
        let line: Vec<(f64, f64)> = points
            .iter()
            .zip(values)
            .map(|((x, _), y)| (*x, *y))
            .collect();
        let line = thinned(&line, |x| (x_axis.place(x) * f64::from(SIZE.0)) as u32);
        let pieces = line
            .windows(2)
            .map(|pair| PathElement::new(pair.to_vec(), color.stroke_width(width * s)));
        chart.draw_series(pieces).map_err(|e| wrong(&e))?;
        // Round joints; and dots where there are few points.
        let dot = match points.len() {
            0..=40 => 4 * s,
            _ => width * s / 2,
        };
        if dot > 1 {
            let dots = line.iter().map(|&at| Circle::new(at, dot, color.filled()));
            chart.draw_series(dots).map_err(|e| wrong(&e))?;
        }
    }
    drop(chart);
    area.present().map_err(|e| wrong(&e))
}

/// The caption of a curve: its last value, the smoothed one, the least and the greatest.
fn caption(points: &[(f64, f64)], smoothed: &[f64], weight: f64, log: bool) -> String {
    let mut parts = Vec::new();
    if let Some((step, last)) = points.last() {
        parts.push(format!("{} at step {}", number(*last), number(*step)));
    }
    if let Some(last) = smoothed.last().filter(|_| weight > 0.0 && points.len() > 1) {
        parts.push(format!("smoothed {}", number(*last)));
    }
    if points.len() > 1 {
        let by = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        for (name, point) in [
            ("min", points.iter().min_by(by)),
            ("max", points.iter().max_by(by)),
        ] {
            parts.extend(point.map(|(_, value)| format!("{name} {}", number(*value))));
        }
    }
    if log {
        parts.push("logarithmic axis".to_owned());
    }
    parts.join("   ·   ")
}

/// The visible points of one column of pixels: the first, the least, the greatest and the last.
fn thinned(points: &[(f64, f64)], column: impl Fn(f64) -> u32) -> Vec<(f64, f64)> {
    let mut kept = Vec::new();
    for group in points.chunk_by(|a, b| column(a.0) == column(b.0)) {
        if group.len() <= 4 {
            kept.extend_from_slice(group);
            continue;
        }
        let by = |a: &usize, b: &usize| group[*a].1.total_cmp(&group[*b].1);
        let least = (0..group.len()).min_by(by).unwrap_or(0);
        let greatest = (0..group.len()).max_by(by).unwrap_or(0);
        let mut seen = [0, least.min(greatest), least.max(greatest), group.len() - 1].to_vec();
        seen.dedup();
        kept.extend(seen.into_iter().map(|at| group[at]));
    }
    kept
}

/// Registers the font, once.
fn font() -> Result<()> {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        let font = epaint_default_fonts::UBUNTU_LIGHT;
        register_font("sans-serif", FontStyle::Normal, font).is_ok()
    });
    match known {
        true => Ok(()),
        false => Err(anyhow!("the font in the binary cannot be read")),
    }
}

/// Scales the picture down to half its size: each pixel is the mean of four.
fn halved(pixels: &[u8]) -> Vec<u8> {
    let row = (SIZE.0 * SCALE * 3) as usize;
    let mut out = Vec::with_capacity(pixels.len() / 4);
    for rows in pixels.chunks_exact(2 * row) {
        let (upper, lower) = rows.split_at(row);
        for (upper, lower) in upper.chunks_exact(6).zip(lower.chunks_exact(6)) {
            for color in 0..3 {
                let sum: u16 = [
                    upper[color],
                    upper[color + 3],
                    lower[color],
                    lower[color + 3],
                ]
                .map(u16::from)
                .iter()
                .sum();
                out.push(((sum + 2) / 4) as u8);
            }
        }
    }
    out
}

fn packed(pixels: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, SIZE.0, SIZE.1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(x: &[f64], y: &[f64]) -> Option<Vec<u8>> {
        let curve = Curve {
            title: "loss",
            x,
            y,
            smoothing: 0.9,
            may_be_log: true,
        };
        png(&curve).unwrap()
    }

    /// The pixels of a PNG, three numbers each.
    fn pixels(png: &[u8]) -> Vec<[u8; 3]> {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png))
            .read_info()
            .unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        assert_eq!((info.width, info.height), SIZE);
        bytes.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect()
    }

    #[test]
    fn a_curve_is_drawn_where_it_lies() {
        let x: Vec<f64> = (0..100).map(f64::from).collect();
        let rising = pixels(&drawn(&x, &x).unwrap());
        let at = |color: RGBColor| {
            let like = |p: &[u8; 3]| *p == [color.0, color.1, color.2];
            let found = rising.iter().enumerate().filter(move |(_, p)| like(p));
            let width = SIZE.0 as usize;
            found
                .map(move |(n, _)| (n % width, n / width))
                .collect::<Vec<_>>()
        };
        let line = at(LINE);
        let left = line.iter().min_by_key(|(x, _)| x).unwrap();
        let right = line.iter().max_by_key(|(x, _)| x).unwrap();
        assert!(right.0 - left.0 > 600, "it crosses the picture");
        assert!(left.1 > right.1 + 200, "it rises: {left:?} {right:?}");
        assert!(at(FAINT).len() > 100, "the raw curve is there");
    }

    #[test]
    fn strange_curves_are_drawn_or_left_out() {
        let nan = f64::NAN;
        assert!(drawn(&[], &[]).is_none());
        assert!(drawn(&[1.0, 2.0], &[nan, f64::INFINITY]).is_none());
        for (x, y) in [
            (vec![1.0], vec![2.0]),
            (vec![1.0, 2.0, 3.0], vec![2.0, 2.0, 2.0]),
            (vec![1.0, 2.0, 3.0], vec![nan, 2.0, nan]),
            (vec![0.0, 0.0, 0.0], vec![1.0, 2.0, 3.0]),
            (vec![1.0, 2.0], vec![f64::MAX, f64::MIN]),
            (vec![1.0, 2.0], vec![1e-320, 1e300]),
            (vec![f64::MAX, 0.0, -1.0], vec![0.0, -0.0, 1e-9]),
            (vec![1.0, 2.0, 3.0], vec![5.0]),
        ] {
            assert!(drawn(&x, &y).is_some(), "{x:?} {y:?}");
        }
    }

    #[test]
    fn many_points_are_thinned_without_losing_peaks() {
        let points: Vec<(f64, f64)> = (0..20_000)
            .map(|n| (f64::from(n), if n == 777 { 50.0 } else { f64::from(n % 7) }))
            .collect();
        let thin = thinned(&points, |x| (x / 20_000.0 * 960.0) as u32);
        assert!(thin.len() <= 4 * 960);
        assert!(thin.contains(&(777.0, 50.0)));
        assert_eq!(thin.last(), points.last());
    }
}
