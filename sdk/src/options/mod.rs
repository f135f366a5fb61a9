//! Options of components: a struct with defaults, read by serde, described from its own source.

mod declare;
mod fields;
mod read;
mod words;

pub use declare::{allowed_flag, allowed_name, allowed_option};
pub use read::{ByDescription, BySerde, Probe, build};
pub use words::{Values, ValuesOfAny, flags, option, read_as};

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::ops::{Bound, RangeBounds};

/// A component's options, as the run configuration gives them.
pub type Options = Map<String, Value>;

/// One option, for lists and help.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OptionDoc {
    /// Its name.
    pub name: String,
    /// Its type for people: `number`, `whole number`, `true or false`, `text`, `one of linear, cosine`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Its value if it is not given; `None` if the component was written without [`options!`](crate::options).
    pub default: Option<Value>,
    /// What it does.
    pub doc: String,
}

/// A type that knows its options; [`options!`](crate::options) implements it.
pub trait Describe {
    /// The options.
    fn describe() -> Vec<OptionDoc>;

    /// Flags of the command line that stand for options, each with the option's name.
    fn flags() -> Vec<(String, String)> {
        Vec::new()
    }

    /// Checks the values that were given.
    ///
    /// # Errors
    /// A value that no option of this meaning can have; the error names the option, the value and what was expected.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// An option that `limits` may be given for: a number, or none.
pub trait Limited {
    /// The number.
    fn number(&self) -> Option<f64>;
}

macro_rules! limited {
    ($($type:ty),*) => {$(
        impl Limited for $type {
            fn number(&self) -> Option<f64> {
                Some(*self as f64)
            }
        }
    )*};
}
limited!(f32, f64, u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);

impl<T: Limited> Limited for Option<T> {
    fn number(&self) -> Option<f64> {
        self.as_ref().and_then(Limited::number)
    }
}

/// Checks a number against its limits; one that is not finite is never within them.
///
/// # Errors
/// The number is not within them; the error names it, and what was expected.
pub fn within(name: &str, value: &impl Limited, range: &impl RangeBounds<f64>) -> Result<()> {
    match value.number() {
        Some(number) if !number.is_finite() || !range.contains(&number) => Err(Error::new(
            format!("{name} is {number}, expected {}", limits(range)),
        )),
        _ => Ok(()),
    }
}

/// `a number of 0 or more and below 1`.
fn limits(range: &impl RangeBounds<f64>) -> String {
    let low = match range.start_bound() {
        Bound::Included(&low) if low == f64::MIN_POSITIVE => Some("above 0".to_owned()),
        Bound::Included(low) => Some(format!("of {low} or more")),
        Bound::Excluded(low) => Some(format!("above {low}")),
        Bound::Unbounded => None,
    };
    let high = match range.end_bound() {
        Bound::Included(high) => Some(format!("up to {high}")),
        Bound::Excluded(high) => Some(format!("below {high}")),
        Bound::Unbounded => None,
    };
    match (low, high) {
        (Some(low), Some(high)) => format!("a number {low} and {high}"),
        (Some(one), None) | (None, Some(one)) => format!("a number {one}"),
        (None, None) => "a finite number".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::options! {
        struct Documented {
            /// How much
            /// of it.
            share: f64 = 0.25,
            names: Vec<String> = vec!["a".to_owned()],
            limit: Option<usize> = None,
        }
        limits {
            share: 0.0..1.0,
            limit: 1.0..=10.0,
        }
        state {
            seen: u64,
        }
    }

    #[derive(Deserialize)]
    #[serde(default, deny_unknown_fields)]
    #[derive(Default)]
    #[allow(dead_code)]
    struct Plain {
        alpha: f64,
        beta: bool,
    }

    #[derive(Deserialize)]
    struct Unit;

    #[test]
    fn options_are_described_as_far_as_they_are_known() {
        let documented = Probe::<Documented>::new().options();
        let row = |i: usize| (documented[i].name.as_str(), documented[i].kind.as_str());
        assert_eq!(row(0), ("share", "number"));
        assert_eq!(row(1), ("names", "list of text"));
        assert_eq!(row(2), ("limit", "whole number or none"));
        assert_eq!(documented[0].default, Some(0.25.into()));
        assert_eq!(documented[0].doc, "How much of it.");
        let plain = (&Probe::<Plain>::new()).options();
        assert_eq!(
            plain.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(),
            ["alpha", "beta"]
        );
        assert_eq!((&Probe::<Unit>::new()).options(), []);
    }

    #[test]
    fn options_are_read_with_defaults_and_without_strangers() {
        let options = |json: &str| serde_json::from_str::<Options>(json).unwrap();
        let made: Documented = build(&options(r#"{"limit": 3}"#)).unwrap();
        assert_eq!((made.share, made.limit, made.seen), (0.25, Some(3), 0));
        assert_eq!(made.names, ["a"]);
        let error = build::<Documented>(&options(r#"{"seen": 3}"#))
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("unknown field `seen`"),
            "{error}"
        );
        let error = build::<Documented>(&options(r#"{"limit": 3, "share": "x"}"#))
            .err()
            .unwrap();
        assert_eq!(error.to_string(), "option share: expected f64, found \"x\"");
        assert!(build::<Unit>(&Options::new()).is_ok());
        let error = build::<Unit>(&options(r#"{"x": 3}"#)).err().unwrap();
        assert_eq!(error.to_string(), "takes no options, found `x`");
    }

    #[test]
    fn values_outside_of_their_limits_are_named() {
        let made = |json: &str| {
            let options = serde_json::from_str(json).unwrap();
            Probe::<Documented>::new().build(&options)
        };
        for fine in [
            "{}",
            r#"{"share": 0}"#,
            r#"{"share": 0.999, "limit": 10}"#,
            r#"{"limit": null}"#,
        ] {
            made(fine).unwrap();
        }
        for (json, error) in [
            (
                r#"{"share": 1}"#,
                "share is 1, expected a number of 0 or more and below 1",
            ),
            (r#"{"share": -1e300}"#, "share is -1"),
            (
                r#"{"limit": 0}"#,
                "limit is 0, expected a number of 1 or more and up to 10",
            ),
        ] {
            let found = made(json).err().unwrap().to_string();
            assert!(found.starts_with(error), "{found}");
        }
        assert!(
            within("x", &f64::NAN, &(..))
                .unwrap_err()
                .to_string()
                .contains("a finite number")
        );
        assert!(
            within("x", &0.0, &(f64::MIN_POSITIVE..))
                .unwrap_err()
                .to_string()
                .contains("above 0")
        );
        within("x", &1e-300, &(f64::MIN_POSITIVE..)).unwrap();
    }
}
