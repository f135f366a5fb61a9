//! Options of components: a struct with defaults, read by serde, described from its own source.

use crate::{Error, Result};
use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

/// A component's options, as the run configuration gives them.
pub type Options = Map<String, Value>;

/// One option, for lists and help.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OptionDoc {
    /// Its name.
    pub name: String,
    /// Its type for people: `number`, `whole number`, `true or false`, `text`, ...
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

    /// Checks the values that were given.
    ///
    /// # Errors
    /// A value that no option of this meaning can have; the error names the option, the value and what was expected.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// Declares a component with options: each with documentation, a type and a default.
///
/// A configuration may give any of them; another name is an error that lists them. `limits` says between which numbers
/// an option must be: a value outside of them is an error that names it, before anything is trained. What follows
/// `state` is not an option: it begins as its type's default and belongs to the component.
///
/// ```
/// apus_sdk::options! {
///     struct EarlyStop {
///         /// Saves in a row without a better metric.
///         interval: u64 = 1,
///     }
///     limits {
///         interval: 1.0..,
///     }
///     state {
///         best: Option<f64>,
///     }
/// }
///
/// let component = EarlyStop::default();
/// assert_eq!((component.interval, component.best), (1, None));
/// ```
#[macro_export]
macro_rules! options {
    (
        $(#[$meta:meta])* $vis:vis struct $name:ident {
            $($(#[doc = $doc:literal])* $field:ident: $type:ty = $default:expr),* $(,)?
        }
        $(limits { $($limited:ident: $range:expr),* $(,)? })?
        $(state { $($(#[$state_meta:meta])* $state:ident: $state_type:ty),* $(,)? })?
    ) => {
        $(#[$meta])*
        #[derive($crate::private::serde::Deserialize)]
        #[serde(crate = "apus_sdk::private::serde", default, deny_unknown_fields)]
        $vis struct $name {
            $($(#[doc = $doc])* $field: $type,)*
            $($($(#[$state_meta])* #[serde(skip)] $state: $state_type,)*)?
        }

        impl ::std::default::Default for $name {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                    $($($state: ::std::default::Default::default(),)*)?
                }
            }
        }

        impl $crate::Describe for $name {
            fn describe() -> ::std::vec::Vec<$crate::OptionDoc> {
                ::std::vec![$($crate::private::option(
                    ::std::stringify!($field),
                    ::std::stringify!($type),
                    &{
                        let default: $type = $default;
                        default
                    },
                    ::std::concat!("" $(, $doc)*),
                )),*]
            }

            fn check(&self) -> $crate::Result<()> {
                $($($crate::within(::std::stringify!($limited), &self.$limited, &($range))?;)*)?
                ::std::result::Result::Ok(())
            }
        }
    };
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

/// One option as `options!` describes it.
#[doc(hidden)]
pub fn option(name: &str, rust: &str, default: &impl Serialize, doc: &str) -> OptionDoc {
    OptionDoc {
        name: name.to_owned(),
        kind: for_people(rust),
        default: serde_json::to_value(default).ok(),
        doc: doc.trim().to_owned(),
    }
}

fn for_people(rust: &str) -> String {
    let rust: String = rust.split_whitespace().collect();
    let inner = |outer: &str| Some(rust.strip_prefix(outer)?.strip_suffix('>')?.to_owned());
    if let Some(inner) = inner("Option<") {
        return format!("{} or none", for_people(&inner));
    }
    if let Some(inner) = inner("Vec<") {
        return format!("list of {}", for_people(&inner));
    }
    match rust.rsplit("::").next().unwrap_or(&rust) {
        "f32" | "f64" => "number".to_owned(),
        "bool" => "true or false".to_owned(),
        "String" => "text".to_owned(),
        "PathBuf" => "path".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" => {
            "whole number".to_owned()
        }
        other => other.to_owned(),
    }
}

/// Finds a component's options: through [`Describe`] if the type implements it, otherwise from the names that serde knows.
#[doc(hidden)]
pub struct Probe<T>(PhantomData<T>);

impl<T> Probe<T> {
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

/// The choice for types with [`Describe`]: method lookup sees it first.
#[doc(hidden)]
pub trait ByDescription<T> {
    fn options(&self) -> Vec<OptionDoc>;
    fn build(&self, options: &Options) -> Result<T>;
}

impl<T: Describe + DeserializeOwned> ByDescription<T> for Probe<T> {
    fn options(&self) -> Vec<OptionDoc> {
        T::describe()
    }

    fn build(&self, options: &Options) -> Result<T> {
        let made: T = build(options)?;
        made.check()?;
        Ok(made)
    }
}

/// The choice for all others.
#[doc(hidden)]
pub trait BySerde<T> {
    fn options(&self) -> Vec<OptionDoc>;
    fn build(&self, options: &Options) -> Result<T>;
}

impl<T: DeserializeOwned> BySerde<T> for &Probe<T> {
    fn build(&self, options: &Options) -> Result<T> {
        build(options)
    }

    fn options(&self) -> Vec<OptionDoc> {
        let mut fields: &'static [&'static str] = &[];
        let _ = T::deserialize(Fields(&mut fields));
        let undocumented = |name: &&str| OptionDoc {
            name: (*name).to_owned(),
            kind: String::new(),
            default: None,
            doc: String::new(),
        };
        fields.iter().map(undocumented).collect()
    }
}

/// Reads nothing; learns which fields a struct asks for.
struct Fields<'a>(&'a mut &'static [&'static str]);

impl<'de> serde::Deserializer<'de> for Fields<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(
        self,
        _visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("only fields are looked at"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Reads a component from its options; a unit struct takes none.
///
/// # Errors
/// An option that the component does not have, or of the wrong type.
#[doc(hidden)]
pub fn build<T: DeserializeOwned>(options: &Options) -> Result<T> {
    match serde_json::from_value(Value::Object(options.clone())) {
        Ok(component) => Ok(component),
        Err(error) if options.is_empty() => {
            serde_json::from_value(Value::Null).map_err(|_| Error::from(error))
        }
        Err(error) => match serde_json::from_value::<T>(Value::Null) {
            Ok(_) => Err(Error::new(format!(
                "takes no options, found {}",
                options
                    .keys()
                    .map(|key| format!("`{key}`"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ))),
            Err(_) => Err(named::<T>(options, error)),
        },
    }
}

/// The error with the option that it is about, which serde does not say of a value of the wrong type.
fn named<T: DeserializeOwned>(options: &Options, error: serde_json::Error) -> Error {
    let alone = |options: Options| serde_json::from_value::<T>(Value::Object(options)).err();
    if alone(Options::new()).is_some() {
        return error.into();
    }
    let mut faults = options.iter().filter_map(|(name, value)| {
        let fault = alone(Options::from_iter([(name.clone(), value.clone())]))?.to_string();
        match fault.contains(&format!("`{name}`")) {
            true => Some(Error::new(fault)),
            false => Some(Error::new(format!("option {name}: {fault}"))),
        }
    });
    faults.next().unwrap_or_else(|| error.into())
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
        assert_eq!(
            error.to_string(),
            "option share: invalid type: string \"x\", expected f64"
        );
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
