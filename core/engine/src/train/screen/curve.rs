//! A curve of bounded length, however long the run: where it grows too long, neighbours become their mean.

use apus_board::draw::smooth;

/// How many points a curve holds at most; more than any terminal has columns.
const MOST: usize = 2048;

/// Points of a run, each the mean of equally many steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    points: Vec<(f64, f64)>,
    /// Steps in a point.
    each: u32,
    /// Sum of those that do not make a point yet, and their count.
    open: (f64, f64, u32),
}

impl Curve {
    /// No points.
    pub fn new() -> Self {
        Self {
            points: Vec::new(),
            each: 1,
            open: (0.0, 0.0, 0),
        }
    }

    /// One step more. What is not finite has no place on a curve.
    pub fn push(&mut self, x: f64, y: f64) {
        if !y.is_finite() {
            return;
        }
        let (xs, ys, count) = self.open;
        self.open = (xs + x, ys + y, count + 1);
        if self.open.2 < self.each {
            return;
        }
        let (xs, ys, count) = std::mem::take(&mut self.open);
        self.points
            .push((xs / f64::from(count), ys / f64::from(count)));
        if self.points.len() == MOST {
            self.points = self
                .points
                .chunks(2)
                .map(|two| {
                    let count = two.len() as f64;
                    let sum = two.iter().fold((0.0, 0.0), |s, p| (s.0 + p.0, s.1 + p.1));
                    (sum.0 / count, sum.1 / count)
                })
                .collect();
            self.each *= 2;
        }
    }

    /// The points as they are.
    pub fn raw(&self) -> &[(f64, f64)] {
        &self.points
    }

    /// The points as TensorBoard smooths them: an exponential mean without the pull of its start.
    pub fn smoothed(&self, weight: f64) -> Vec<(f64, f64)> {
        let (xs, ys): (Vec<f64>, Vec<f64>) = self.points.iter().copied().unzip();
        xs.into_iter().zip(smooth(&ys, weight)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_keeps_its_mean_and_ends() {
        let mut curve = Curve::new();
        for step in 1..=100_000 {
            curve.push(f64::from(step), f64::from(step % 10));
        }
        curve.push(0.0, f64::NAN);
        let points = curve.raw();
        assert!((MOST / 2..MOST).contains(&points.len()));
        assert!(points.iter().all(|point| (3.0..6.0).contains(&point.1)));
        assert!(points[0].0 < 200.0 && points[points.len() - 1].0 > 99_800.0);
        assert!(points.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn smoothing_starts_at_the_first_value() {
        let mut curve = Curve::new();
        [4.0, 4.0, 0.0].iter().for_each(|&y| curve.push(1.0, y));
        let smooth: Vec<f64> = curve.smoothed(0.5).iter().map(|point| point.1).collect();
        // (0.5 * 0.5 * 4 + 0.25 * 4) / (0.5 + 0.25 + 0.125), as in TensorBoard's documentation of debiasing.
        assert_eq!(smooth[..2], [4.0, 4.0]);
        assert!((smooth[2] - 1.5 / 0.875).abs() < 1e-12);
    }
}
