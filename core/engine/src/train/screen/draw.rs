//! The panel's picture.

use super::super::clock::human;
use super::panel::Shown;
use apus_base::memory;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, BorderType, Chart, Dataset, GraphType, LineGauge};
use serde_json::Value;
use std::time::Duration;

/// Lines of the panel.
pub const HEIGHT: u16 = 14;

/// How strongly the curve is smoothed.
const SMOOTHING: f64 = 0.9;

/// Draws the panel into a frame.
pub fn draw(frame: &mut Frame, shown: &Shown) {
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(Style::new().dark_gray())
        .title(Line::from(vec![
            " ".into(),
            shown.title.as_str().bold(),
            " ".into(),
        ]))
        .title(Line::from(position(shown)).right_aligned());
    let inner = block.inner(frame.area());
    frame.render_widget(block, frame.area());
    let rows = [
        Constraint::Min(4),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
    ];
    let [chart, gauge, numbers, machine] = Layout::vertical(rows).areas(inner);
    draw_curves(frame, chart, shown);
    draw_gauge(frame, gauge, shown);
    frame.render_widget(Line::from(parts(&numbers_of(shown))), numbers);
    frame.render_widget(Line::from(parts(&machine_of(shown))), machine);
}

fn position(shown: &Shown) -> String {
    let (step, epoch) = shown
        .last
        .map_or((shown.made, None), |last| (last.step, Some(last.epoch)));
    let epoch = epoch.map_or(String::new(), |epoch| format!(", epoch {epoch:.2}"));
    format!(" step {step} of {}{epoch} ", shown.total)
}

fn draw_curves(frame: &mut Frame, area: Rect, shown: &Shown) {
    let raw = shown.losses.raw();
    let smoothed = shown.losses.smoothed(SMOOTHING);
    let evaluations = &shown.evaluations;
    let values = || raw.iter().chain(evaluations).map(|point| point.1);
    let (low, high) = (
        values().fold(f64::INFINITY, f64::min),
        values().fold(f64::NEG_INFINITY, f64::max),
    );
    if low > high {
        frame.render_widget(Line::from("the first step is on its way").dark_gray(), area);
        return;
    }
    let margin = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-6);
    let floor = if low >= 0.0 { 0.0 } else { f64::NEG_INFINITY };
    let (low, high) = ((low - margin).max(floor), high + margin);
    let first = shown.made as f64;
    let last = shown
        .last
        .map_or(first + 1.0, |last| last.step as f64)
        .max(first + 1.0);
    let curve = |name: &'static str, points, color, kind| {
        Dataset::default()
            .name(name)
            .marker(Marker::Braille)
            .graph_type(kind)
            .style(Style::new().fg(color))
            .data(points)
    };
    let mut curves = vec![
        curve("loss", raw, Color::DarkGray, GraphType::Line),
        curve("smoothed", &smoothed, Color::Cyan, GraphType::Line),
    ];
    if !evaluations.is_empty() {
        curves.push(curve(
            "eval_loss",
            evaluations,
            Color::Yellow,
            GraphType::Line,
        ));
    }
    let chart = Chart::new(curves)
        .x_axis(
            Axis::default()
                .bounds([first, last])
                .style(Style::new().dark_gray())
                .labels([format!("{first:.0}"), format!("{last:.0}")]),
        )
        .y_axis(
            Axis::default()
                .bounds([low, high])
                .style(Style::new().dark_gray())
                .labels([label(low), label((low + high) / 2.0), label(high)]),
        )
        .hidden_legend_constraints((Constraint::Percentage(60), Constraint::Percentage(60)));
    frame.render_widget(chart, area);
}

/// A number on the axis, as wide as the others.
fn label(value: f64) -> String {
    match value.abs() {
        0.0 => format!("{:>8}", 0),
        a if a >= 1000.0 => format!("{value:8.0}"),
        a if a >= 0.01 => format!("{value:8.4}"),
        _ => format!("{value:8.1e}"),
    }
}

fn draw_gauge(frame: &mut Frame, area: Rect, shown: &Shown) {
    let step = shown.last.map_or(shown.made, |last| last.step);
    let share = (step as f64 / shown.total.max(1) as f64).clamp(0.0, 1.0);
    let made = step.saturating_sub(shown.made);
    let left = match made {
        0 => String::new(),
        made => {
            let each = shown.elapsed.as_secs_f64() / made as f64;
            let left = each * shown.total.saturating_sub(step) as f64;
            let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
            format!("{} left", human(left))
        }
    };
    let text = format!(
        "{:3.0} %  {}  {left}  ",
        share * 100.0,
        human(shown.elapsed)
    );
    let gauge = LineGauge::default()
        .ratio(share)
        .label(text)
        .filled_symbol("━")
        .unfilled_symbol("─")
        .filled_style(Style::new().fg(Color::Cyan))
        .unfilled_style(Style::new().dark_gray());
    frame.render_widget(gauge, area);
}

/// Names and values that a line shows.
type Parts = Vec<(&'static str, String)>;

fn numbers_of(shown: &Shown) -> Parts {
    let mut parts = Parts::new();
    if let Some(last) = shown.last {
        parts.push(("loss", format!("{:.4}", last.loss)));
        parts.push(("lr", format!("{:.2e}", last.lr)));
        let rate = match last.loads {
            Some(loads) => format!(
                "{:.0} ({:.0} a rank)",
                last.rate,
                last.rate / loads.ranks as f64
            ),
            None => format!("{:.0}", last.rate),
        };
        parts.push(("tok/s", rate));
    }
    for (name, label, digits) in [
        ("eval_loss", "eval", 4),
        ("token_acc", "acc", 3),
        ("grad_norm", "grad", 3),
    ] {
        if let Some(value) = number(shown, name) {
            parts.push((label, format!("{value:.digits$}")));
        }
    }
    parts
}

fn machine_of(shown: &Shown) -> Parts {
    let mut parts = Parts::new();
    let loads = shown.last.and_then(|last| last.loads);
    if let Some((rank, bytes)) = loads.and_then(|loads| loads.fullest) {
        parts.push(("peak", format!("{} (rank {rank})", memory::gib(bytes))));
    } else if let Some(gib) = number(shown, "memory(GiB)") {
        parts.push(("peak", format!("{gib:.2} GiB")));
    }
    if let Some(loads) = loads {
        parts.push(("collectives", format!("{:.3} s", loads.collectives)));
    }
    for (name, label, unit) in [("pct", "gpu", "%"), ("power", "", "W"), ("temp", "", "°C")] {
        if let Some(range) = of_cards(shown, name) {
            parts.push((label, format!("{range} {unit}")));
        }
    }
    for (name, label) in [("cpu.pct", "cpu"), ("mem.pct", "memory")] {
        if let Some(value) = number(shown, name) {
            parts.push((label, format!("{value:.0} %")));
        }
    }
    parts
}

/// A number of the cards: of one what it is, of several the least and the greatest.
fn of_cards(shown: &Shown, name: &str) -> Option<String> {
    let of_card = |key: &str| -> bool {
        let key = key.rsplit_once('/').map_or(key, |(_, key)| key);
        let card = key.strip_prefix("gpu.").and_then(|key| key.split_once('.'));
        card.is_some_and(|(_, number)| number == name)
    };
    let values = shown.values.iter().filter(|(key, _)| of_card(key));
    let values: Vec<f64> = values.filter_map(|(_, value)| value.as_f64()).collect();
    let least = values.iter().copied().reduce(f64::min)?;
    let greatest = values.iter().copied().reduce(f64::max)?;
    Some(match values.len() {
        1 => format!("{least:.0}"),
        _ => format!("{least:.0} to {greatest:.0}"),
    })
}

fn number(shown: &Shown, name: &str) -> Option<f64> {
    shown.values.get(name).and_then(Value::as_f64)
}

fn parts(parts: &Parts) -> Vec<Span<'_>> {
    let mut spans = Vec::new();
    for (label, value) in parts {
        if !label.is_empty() {
            spans.push(format!("{label} ").dark_gray());
        }
        spans.push(value.as_str().into());
        spans.push("  ".into());
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::super::StepNumbers;
    use super::*;
    use crate::train::ranks::Loads;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    fn picture(shown: &Shown, width: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, HEIGHT)).unwrap();
        terminal.draw(|frame| draw(frame, shown)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_run_in_the_middle() {
        let mut shown = Shown::new("v3-run", 200, 0);
        assert!(picture(&shown, 80).contains("the first step is on its way"));
        for step in 1..=50u64 {
            shown.step(StepNumbers {
                step,
                total: 200,
                epoch: step as f64 / 100.0,
                loss: 3.0 - step as f64 / 50.0,
                lr: 1e-4,
                rate: 12_345.0,
                loads: None,
            });
        }
        let Value::Object(values) = json!({"eval_loss": 2.5, "token_acc": 0.61, "gpu.0.mem_mib": 9.0,
            "gpu.0.pct": 97, "memory(GiB)": 17.25, "cpu.pct": 40})
        else {
            unreachable!()
        };
        shown.note(&values);
        shown.elapsed = Duration::from_secs(60);
        let drawn = picture(&shown, 80);
        for text in [
            "v3-run",
            "step 50 of 200, epoch 0.50",
            " 25 %  1m 0s  3m 0s left",
            "tok/s 12345",
            "eval 2.5000  acc 0.610",
            "peak 17.25 GiB  gpu 97 %  cpu 40 %",
        ] {
            assert!(drawn.contains(text), "{text:?} is not in\n{drawn}");
        }
        assert!(
            drawn
                .chars()
                .any(|c| ('\u{2801}'..='\u{28ff}').contains(&c))
        );
        // However small the terminal is.
        for width in [1, 2, 5, 20, 300] {
            picture(&shown, width);
        }
    }

    #[test]
    fn several_ranks() {
        let mut shown = Shown::new("run", 9, 0);
        let loads = Loads {
            ranks: 4,
            fullest: Some((3, 5 << 28)),
            collectives: 0.25,
        };
        shown.step(StepNumbers {
            step: 1,
            total: 9,
            epoch: 0.5,
            loss: 2.0,
            lr: 1e-4,
            rate: 20_000.0,
            loads: Some(loads),
        });
        let Value::Object(values) = json!({"memory(GiB)": 1.0, "gpu.0.pct": 97, "gpu.1.pct": 99, "b/gpu.0.pct": 95,
            "b/gpu.0.temp": 60, "rank.1.process_mib": 7, "cpu.pct": 40, "b/cpu.pct": 50})
        else {
            unreachable!()
        };
        shown.note(&values);
        let drawn = picture(&shown, 100);
        for text in [
            "tok/s 20000 (5000 a rank)",
            "peak 1.25 GiB (rank 3)  collectives 0.250 s  gpu 95 to 99 %  60 °C  cpu 40 %",
        ] {
            assert!(drawn.contains(text), "{text:?} is not in\n{drawn}");
        }
    }

    #[test]
    fn losses_that_cannot_be_drawn_are_no_trouble() {
        let mut shown = Shown::new("run", 0, 0);
        for loss in [f64::NAN, f64::INFINITY] {
            let (epoch, lr, rate) = (0.0, 0.0, f64::INFINITY);
            shown.step(StepNumbers {
                step: 1,
                total: 0,
                epoch,
                loss,
                lr,
                rate,
                loads: None,
            });
        }
        picture(&shown, 60);
        shown.losses.push(1.0, 0.0);
        picture(&shown, 60);
    }
}
