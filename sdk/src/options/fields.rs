//! What a type asks a reader for: the fields of a struct, the words of an enum.

use serde::de::{self, DeserializeOwned, SeqAccess, Visitor};

/// What serde asks for while it reads a type.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Asked {
    /// Names of a struct's fields, other names for them among these.
    pub fields: &'static [&'static str],
    /// Names of an enum's variants; those of the innermost type of an `Option`, a list or a wrapper.
    pub variants: &'static [&'static str],
}

/// What reading a `T` asks for.
pub fn asked<T: DeserializeOwned>() -> Asked {
    let mut found = Asked::default();
    let _ = T::deserialize(Asks(&mut found));
    found
}

/// Reads nothing; notes what it is asked for.
struct Asks<'a>(&'a mut Asked);

type Nothing = de::value::Error;

impl<'de> de::Deserializer<'de> for Asks<'_> {
    type Error = Nothing;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Nothing> {
        Err(de::Error::custom("only names are looked at"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Nothing> {
        self.0.fields = fields;
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Nothing> {
        self.0.variants = variants;
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Nothing> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Nothing> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Nothing> {
        visitor.visit_seq(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct tuple tuple_struct map identifier ignored_any
    }
}

impl<'de> SeqAccess<'de> for Asks<'_> {
    type Error = Nothing;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Nothing> {
        seed.deserialize(Asks(self.0)).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    #[allow(dead_code)]
    enum Word {
        A,
        B,
    }

    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Wrapped(Vec<Option<Word>>);

    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Fields {
        a: Word,
        #[serde(alias = "c")]
        b: u32,
    }

    #[test]
    fn names_are_found_without_a_value() {
        assert_eq!(asked::<Word>().variants, ["A", "B"]);
        assert_eq!(asked::<Wrapped>().variants, ["A", "B"]);
        assert_eq!(asked::<Fields>().fields, ["a", "b", "c"]);
        assert_eq!(asked::<Fields>().variants, [""; 0]);
        assert_eq!(asked::<u32>(), Asked::default());
    }
}
