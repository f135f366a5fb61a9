//! Components are read from their options; an error names the option that it is about.

use super::fields::asked;
use super::words::plain;
use super::{Describe, OptionDoc, Options};
use crate::{Error, Result};
use serde::de::{self, DeserializeOwned, MapAccess, Visitor};
use serde_json::{Value, map};
use std::cell::Cell;
use std::marker::PhantomData;

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
    fn flags(&self) -> Vec<(String, String)>;
    fn build(&self, options: &Options) -> Result<T>;
}

impl<T: Describe + DeserializeOwned> ByDescription<T> for Probe<T> {
    fn options(&self) -> Vec<OptionDoc> {
        T::describe()
    }

    fn flags(&self) -> Vec<(String, String)> {
        T::flags()
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
    fn flags(&self) -> Vec<(String, String)>;
    fn build(&self, options: &Options) -> Result<T>;
}

impl<T: DeserializeOwned> BySerde<T> for &Probe<T> {
    fn flags(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn build(&self, options: &Options) -> Result<T> {
        match asked::<T>().fields.contains(&"name") {
            true => Err(Error::new(
                "it has an option called `name`, which no configuration can give: that is the component's own name",
            )),
            false => build(options),
        }
    }

    fn options(&self) -> Vec<OptionDoc> {
        let undocumented = |name: &&str| OptionDoc {
            name: (*name).to_owned(),
            kind: String::new(),
            default: None,
            doc: String::new(),
        };
        asked::<T>().fields.iter().map(undocumented).collect()
    }
}

/// Reads a component from its options; a unit struct takes none.
///
/// # Errors
/// An option that the component does not have, or of the wrong type; the error names the option.
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
    let at = Cell::new(None);
    let tracked = Tracked {
        rest: options.iter(),
        value: None,
        at: &at,
    };
    match (T::deserialize(tracked).err(), at.get()) {
        (Some(error), Some((name, value))) => Error::new(format!(
            "option {name}: {}",
            plain(&error.to_string(), value)
        )),
        _ => error.into(),
    }
}

/// Reads options one by one and knows at which one it is.
struct Tracked<'a> {
    rest: map::Iter<'a>,
    value: Option<(&'a str, &'a Value)>,
    at: &'a Cell<Option<(&'a str, &'a Value)>>,
}

impl<'de> de::Deserializer<'de> for Tracked<'_> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        visitor.visit_map(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Tracked<'_> {
    type Error = serde_json::Error;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> std::result::Result<Option<K::Value>, Self::Error> {
        let Some((name, value)) = self.rest.next() else {
            return Ok(None);
        };
        self.value = Some((name, value));
        let name = de::value::StrDeserializer::new(name);
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        let (name, value) = self
            .value
            .take()
            .ok_or_else(|| de::Error::custom("a value without a name"))?;
        self.at.set(Some((name, value)));
        let read = seed.deserialize(value.clone())?;
        self.at.set(None);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Required {
        must: u32,
        inner: Inner,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Inner {
        share: f64,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    #[allow(dead_code)]
    struct Called {
        name: String,
    }

    #[test]
    fn an_option_that_no_configuration_could_give_is_refused() {
        let made = (&Probe::<Called>::new()).build(&Options::new());
        assert!(made.unwrap_err().to_string().contains("called `name`"));
    }

    #[test]
    fn errors_name_the_option_also_where_others_are_required() {
        let said = |options: Value| {
            let options = options.as_object().expect("an object");
            build::<Required>(options).unwrap_err().to_string()
        };
        let inner = json!({"share": 0.5});
        assert_eq!(
            said(json!({"must": "x", "inner": inner})),
            "option must: expected u32, found \"x\""
        );
        assert_eq!(
            said(json!({"must": 1, "inner": {"share": true}})),
            "option inner: invalid type: boolean `true`, expected f64"
        );
        assert_eq!(said(json!({"inner": inner})), "missing field `must`");
    }
}
