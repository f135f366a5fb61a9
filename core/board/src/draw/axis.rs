//! An axis with round numbers: its range, its ticks and how they are written, for any numbers at all.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use std::ops::Range;

/// The greatest magnitude of a value. Beyond it, sums and quotients overflow.
const GREATEST: f64 = 1e250;

/// A linear or logarithmic axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<f64>,
    step: f64,
}

impl Axis {
    /// An axis that contains all of these numbers, with about so many ticks; `None` if there is no number. It is
    /// logarithmic if that is wanted and possible.
    pub fn around(values: impl Iterator<Item = f64>, about: usize, log: bool) -> Option<Self> {
        let mut bounds: Option<(f64, f64)> = None;
        for value in values.filter(|value| value.is_finite()) {
            let value = value.clamp(-GREATEST, GREATEST);
            let (low, high) = bounds.unwrap_or((value, value));
            bounds = Some((low.min(value), high.max(value)));
        }
        let (low, high) = bounds?;
        Some(match log && low > 0.0 && high > low.max(1.0 / GREATEST) {
            true => Self::logarithmic(low, high),
            false => Self::linear(low, high, about),
        })
    }

    fn linear(low: f64, high: f64, about: usize) -> Self {
        // Equal numbers, or as good as equal ones, lie in the middle.
        let least = low.abs().max(high.abs()) * 1e-9;
        let margin = match high - low > least {
            true => (high - low) * 0.04,
            false => (low.abs() * 0.05).max(0.5 * f64::from(low == 0.0)),
        };
        let (low, high) = (low - margin, high + margin);
        let raw = (high - low) / about.max(2) as f64;
        let power = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|round| round * power)
            .into_iter()
            .find(|&step| step >= raw)
            .unwrap_or(10.0 * power);
        let (first, last) = ((low / step).ceil(), (high / step).floor());
        let count = (last - first).clamp(0.0, 20.0) as usize;
        let ticks = (0..=count).map(|n| (first + n as f64) * step);
        Self {
            low,
            high,
            log: false,
            ticks: ticks.collect(),
            step,
        }
    }

    fn logarithmic(low: f64, high: f64) -> Self {
        let low = low.max(1.0 / GREATEST);
        let margin = ((high.ln() - low.ln()) * 0.04).exp();
        let (low, high) = (low / margin, high * margin);
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let stride = ((last - first) / 8 + 1) as usize;
        let ticks = (first..=last)
            .step_by(stride)
            .map(|power| 10f64.powi(power))
            .filter(|tick| (low..=high).contains(tick));
        Self {
            low,
            high,
            log: true,
            ticks: ticks.collect(),
            step: 0.0,
        }
    }

    /// Whether it is logarithmic.
    pub fn is_log(&self) -> bool {
        self.log
    }

    /// The position of a number between the ends, from 0 to 1.
    pub fn place(&self, value: f64) -> f64 {
        let place = match self.log {
            true => (value.ln() - self.low.ln()) / (self.high.ln() - self.low.ln()),
            false => (value - self.low) / (self.high - self.low),
        };
        match place.is_finite() {
            true => place.clamp(0.0, 1.0),
            false => 0.0,
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let length = f64::from(limit.1 - limit.0);
        limit.0 + (self.place(*value) * length).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight().allow_light_points() {
            true => Vec::new(),
            false => self.ticks.clone(),
        }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        number(*value)
    }

    fn format_ext(&self, value: &f64) -> String {
        let greatest = self.low.abs().max(self.high.abs());
        if self.log || !(1e-3..1e7).contains(&greatest) || value.abs() < self.step * 0.5 {
            return number(*value);
        }
        let digits = (-self.step.log10().floor()).clamp(0.0, 9.0) as usize;
        grouped(&format!("{value:.digits$}"))
    }
}

/// A number in few digits: `1.0523`, `5,210`, `2e-5`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-3..1e7).contains(&size) {
        let text = format!("{value:.2e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{power}", trimmed(digits));
    }
    let digits = (3.0 - size.log10().floor()).clamp(0.0, 6.0) as usize;
    let text = format!("{value:.digits$}");
    grouped(trimmed(&text))
}

fn trimmed(digits: &str) -> &str {
    match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => digits,
    }
}

/// Commas between thousands.
fn grouped(text: &str) -> String {
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let start = usize::from(whole.starts_with('-'));
    let mut out = String::with_capacity(text.len() + 4);
    for (at, digit) in whole.char_indices() {
        if at > start && (whole.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(values: &[f64], log: bool) -> Vec<String> {
        let axis = Axis::around(values.iter().copied(), 5, log).unwrap();
        axis.ticks
            .iter()
            .map(|tick| axis.format_ext(tick))
            .collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(&[0.93, 2.61], false), ["1.0", "1.5", "2.0", "2.5"]);
        assert_eq!(ticks(&[0.0, 600.0], false), ["0", "200", "400", "600"]);
        assert_eq!(ticks(&[0.0, 1e-4], false), ["0", "5e-5", "1e-4"]);
        assert_eq!(ticks(&[4800.0, 5300.0], false), ["4,800", "5,000", "5,200"]);
        assert_eq!(ticks(&[0.02, 90.0], true), ["0.1", "1", "10", "100"]);
        assert_eq!(ticks(&[-3.0, 3.0], false), ["-2", "0", "2"]);
    }

    #[test]
    fn any_numbers_have_an_axis() {
        let strange = [
            vec![0.0],
            vec![7.0; 3],
            vec![f64::MAX, f64::MIN],
            vec![f64::MIN_POSITIVE],
            vec![1e16, 1e16 + 2.0],
            vec![-1e-300, 1e-300],
            vec![f64::NAN, 2.0, f64::INFINITY],
            vec![5e-324, 1.0],
        ];
        for values in &strange {
            for log in [false, true] {
                let axis = Axis::around(values.iter().copied(), 5, log).unwrap();
                assert!(axis.low < axis.high, "{values:?} {axis:?}");
                assert!(axis.ticks.len() <= 21, "{values:?}");
                for value in values.iter().chain(&[f64::NAN]) {
                    assert!((0..=100).contains(&axis.map(value, (0, 100))));
                }
                assert!(
                    axis.ticks
                        .iter()
                        .all(|tick| axis.format_ext(tick).len() < 24)
                );
            }
        }
        assert_eq!(Axis::around([f64::NAN].into_iter(), 5, false), None);
    }

    #[test]
    fn numbers_in_few_digits() {
        let cases = [
            (1.052_34, "1.052"),
            (5210.4, "5,210"),
            (2e-5, "2e-5"),
            (0.0, "0"),
            (-1_234_567.0, "-1,234,567"),
            (1.5e9, "1.5e9"),
            (100.0, "100"),
            (0.05, "0.05"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }
}
