//! A number of steps as flags give it: so many, or a share of the run.

use anyhow::{Error, bail};
use serde::{Deserialize, Serialize};

/// A number of steps; in a file and on the command line a number, which is a share below 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "serde_json::Number")]
pub enum StepsOrShare {
    /// So many.
    Steps(u64),
    /// A share of all steps of the run, rounded up.
    Share(f64),
}

impl StepsOrShare {
    /// How many of `total` steps these are.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Steps(steps) => steps,
            Self::Share(share) => (total as f64 * share).ceil() as u64,
        }
    }

    /// Whether what happens each time so many steps are over falls on the ends of `other`, as transformers asks for it: it
    /// cannot be known of a share and a number.
    pub fn is_multiple_of(self, other: Self) -> bool {
        // Shares are compared in whole parts of the run, as 0.3 is no multiple of 0.1 otherwise.
        let parts = |share: f64| (share * 1e6).round() as u64;
        match (self, other) {
            (Self::Steps(steps), Self::Steps(other)) => steps.is_multiple_of(other),
            (Self::Share(share), Self::Share(other)) => parts(share).is_multiple_of(parts(other)),
            _ => false,
        }
    }

    /// Whether it is no step at all.
    pub fn is_zero(self) -> bool {
        matches!(self, Self::Steps(0))
    }
}

impl TryFrom<f64> for StepsOrShare {
    type Error = Error;

    fn try_from(number: f64) -> Result<Self, Error> {
        // Beyond this, numbers of a file are no longer exact.
        const MOST: f64 = (1u64 << 53) as f64;
        match number {
            0.0 => Ok(Self::Steps(0)),
            share if share > 0.0 && share < 1.0 => Ok(Self::Share(share)),
            steps if (1.0..=MOST).contains(&steps) && steps.fract() == 0.0 => {
                Ok(Self::Steps(steps as u64))
            }
            other => bail!(
                "expected a whole number of steps, or below 1 a share of all steps, found {other}"
            ),
        }
    }
}

impl From<StepsOrShare> for serde_json::Number {
    fn from(steps: StepsOrShare) -> Self {
        match steps {
            StepsOrShare::Steps(steps) => steps.into(),
            // Only finite numbers become a share.
            StepsOrShare::Share(share) => Self::from_f64(share).unwrap_or_else(|| 0.into()),
        }
    }
}

impl std::fmt::Display for StepsOrShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Steps(steps) => steps.fmt(f),
            Self::Share(share) => share.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_steps_or_a_share_and_stays_what_it_is() {
        for (text, expected) in [
            ("0", StepsOrShare::Steps(0)),
            ("1", StepsOrShare::Steps(1)),
            ("500", StepsOrShare::Steps(500)),
            ("0.05", StepsOrShare::Share(0.05)),
            ("0.999", StepsOrShare::Share(0.999)),
        ] {
            assert_eq!(
                serde_json::from_str::<StepsOrShare>(text).unwrap(),
                expected
            );
            assert_eq!(serde_json::to_string(&expected).unwrap(), text);
            assert_eq!(expected.to_string(), text);
        }
        assert_eq!(
            serde_json::from_str::<StepsOrShare>("500.0").unwrap(),
            StepsOrShare::Steps(500)
        );
        for text in ["-1", "-0.5", "1.5", "1e300"] {
            let error = serde_json::from_str::<StepsOrShare>(text)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("expected a whole number of steps"),
                "{error}"
            );
        }
    }

    /// `math.ceil(max_steps * share)`.
    #[test]
    fn a_share_is_rounded_up() {
        let of = |share, total| StepsOrShare::Share(share).of(total);
        assert_eq!(
            [of(0.1, 10), of(0.1, 11), of(0.25, 7), of(0.001, 7)],
            [1, 2, 2, 1]
        );
        assert_eq!(StepsOrShare::Steps(20).of(7), 20);
    }

    #[test]
    fn multiples() {
        let (steps, share) = (StepsOrShare::Steps, StepsOrShare::Share);
        for (a, b, expected) in [
            (steps(6), steps(2), true),
            (steps(5), steps(2), false),
            (share(0.3), share(0.1), true),
            (share(0.6), share(0.2), true),
            (share(0.25), share(0.1), false),
            (steps(100), share(0.1), false),
            (share(0.1), steps(1), false),
        ] {
            assert_eq!(a.is_multiple_of(b), expected, "{a} of {b}");
        }
    }
}
