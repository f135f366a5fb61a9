//! The macro that declares a component with its options.

/// Declares a component with options: each with documentation, a type and a default.
///
/// A configuration may give any of them; another name is an error that lists them. `limits` says between which numbers
/// an option must be: a value outside of them is an error that names it, before anything is trained. What follows
/// `state` is not an option: it begins as its type's default and belongs to the component, which may have a `Drop`.
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
///
/// `flags`, between `limits` and `state`, names flags of the command line that stand for options, such as those that
/// ms-swift has for the same: a run that names the component takes them.
///
/// ```
/// apus_sdk::options! {
///     struct Lisa {
///         /// Layers that are trained at a time.
///         activated_layers: usize = 2,
///     }
///     flags {
///         activated_layers: "lisa_activated_layers",
///     }
/// }
///
/// let flags = <Lisa as apus_sdk::Describe>::flags();
/// assert_eq!(flags, [("lisa_activated_layers".to_owned(), "activated_layers".to_owned())]);
/// ```
///
/// Attributes of serde say how it is read: `alias`, `rename`, `with`, `default` with a function, and `rename_all` of the
/// struct. An `enum` of words is declared the same way; lists and help name its words, in snake_case.
///
/// ```
/// apus_sdk::options! {
///     enum Shape {
///         Linear,
///         HalfCosine,
///     }
/// }
///
/// apus_sdk::options! {
///     struct Curve {
///         /// How it falls.
///         #[serde(rename = "type", alias = "form")]
///         shape: Shape = Shape::Linear,
///     }
/// }
///
/// let described = <Curve as apus_sdk::Describe>::describe();
/// assert_eq!((&*described[0].name, &*described[0].kind), ("type", "one of linear, half_cosine"));
/// ```
#[macro_export]
macro_rules! options {
    (
        $(#[$meta:meta])* $vis:vis enum $name:ident {
            $($(#[$word_meta:meta])* $word:ident),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Debug,
            Clone,
            Copy,
            PartialEq,
            Eq,
            Hash,
            $crate::private::serde::Serialize,
            $crate::private::serde::Deserialize,
        )]
        #[serde(crate = "apus_sdk::private::serde", rename_all = "snake_case")]
        $vis enum $name {
            $($(#[$word_meta])* $word,)*
        }
    };
    (
        $(#[$($meta:tt)*])* $vis:vis struct $name:ident {
            $($(#[$($attribute:tt)*])* $field:ident: $type:ty = $default:expr),* $(,)?
        }
        $(limits { $($limited:ident: $range:expr),* $(,)? })?
        $(flags { $($flagged:ident: $flag:literal),* $(,)? })?
        $(state { $($(#[$($state_attribute:tt)*])* $state:ident: $state_type:ty),* $(,)? })?
    ) => {
        $crate::options_struct! {
            of_others
            {}
            {
                $vis struct $name {
                    $(
                        #[allow(clippy::empty_docs)]
                        #[doc = $crate::options_doc!($(#[$($attribute)*])*)]
                        $field: $type,
                    )*
                    $($(
                        #[allow(clippy::empty_docs)]
                        #[doc = $crate::options_doc!($(#[$($state_attribute)*])*)]
                        #[allow(dead_code)]
                        $state: $state_type,
                    )*)?
                }
            }
            $(#[$($meta)*])*
        }

        const _: () = {
            // What is read: a struct of its own, since what has a `Drop` cannot be taken apart for its defaults.
            $crate::options_struct! {
                of_serde
                {
                    #[derive($crate::private::serde::Deserialize)]
                    #[serde(crate = "apus_sdk::private::serde", default, deny_unknown_fields)]
                }
                {
                    struct __ReadOptions {
                        $($(#[$($attribute)*])* $field: $type,)*
                        $($($(#[$($state_attribute)*])* #[serde(skip)] $state: $state_type,)*)?
                    }
                }
                $(#[$($meta)*])*
            }

            impl ::std::default::Default for __ReadOptions {
                fn default() -> Self {
                    Self {
                        $($field: $default,)*
                        $($($state: ::std::default::Default::default(),)*)?
                    }
                }
            }

            impl ::std::convert::From<__ReadOptions> for $name {
                fn from(read: __ReadOptions) -> Self {
                    Self {
                        $($field: read.$field,)*
                        $($($state: read.$state,)*)?
                    }
                }
            }

            impl ::std::default::Default for $name {
                fn default() -> Self {
                    <__ReadOptions as ::std::default::Default>::default().into()
                }
            }

            impl<'de> $crate::private::serde::Deserialize<'de> for $name {
                fn deserialize<D: $crate::private::serde::Deserializer<'de>>(
                    from: D,
                ) -> ::std::result::Result<Self, D::Error> {
                    <__ReadOptions as $crate::private::serde::Deserialize>::deserialize(from)
                        .map(::std::convert::Into::into)
                }
            }

            $(const _: () = $crate::private::allowed_option(
                $crate::options_name!($field $(#[$($attribute)*])*),
            );)*

            impl $crate::Describe for $name {
                fn describe() -> ::std::vec::Vec<$crate::OptionDoc> {
                    #[allow(unused_imports)]
                    use $crate::private::{Values, ValuesOfAny};
                    // Not what stands behind `=`, but what is read where nothing is given.
                    let defaults: __ReadOptions = $crate::private::build(&$crate::Options::new())
                        .unwrap_or_default();
                    let _ = &defaults;
                    $crate::private::read_as::<__ReadOptions>(::std::vec![$($crate::private::option(
                        $crate::options_name!($field $(#[$($attribute)*])*),
                        $crate::options_aliases!(@ [] $(#[$($attribute)*])*),
                        ::std::stringify!($type),
                        (&$crate::private::Probe::<$type>::new()).values(),
                        &defaults.$field,
                        $crate::options_doc!($(#[$($attribute)*])*),
                    )),*])
                }

                fn flags() -> ::std::vec::Vec<(::std::string::String, ::std::string::String)> {
                    $($(
                        const _: () = $crate::private::allowed_flag($flag);
                        let _ = |read: __ReadOptions| read.$flagged;
                    )*)?
                    $crate::private::flags(
                        &[$(::std::stringify!($field)),*],
                        <Self as $crate::Describe>::describe(),
                        &[$($((::std::stringify!($flagged), $flag)),*)?],
                    )
                }

                fn check(&self) -> $crate::Result<()> {
                    $($($crate::within(
                        ::std::stringify!($limited),
                        &self.$limited,
                        &($range),
                    )?;)*)?
                    ::std::result::Result::Ok(())
                }
            }
        };
    };
}

/// A struct with those attributes that are serde's, or with all others.
#[doc(hidden)]
#[macro_export]
macro_rules! options_struct {
    (of_serde { $($head:tt)* } $item:tt #[serde $($serde:tt)*] $($more:tt)*) => {
        $crate::options_struct! { of_serde { $($head)* #[serde $($serde)*] } $item $($more)* }
    };
    (of_serde $head:tt $item:tt #[$($other:tt)*] $($more:tt)*) => {
        $crate::options_struct! { of_serde $head $item $($more)* }
    };
    (of_others $head:tt $item:tt #[serde $($serde:tt)*] $($more:tt)*) => {
        $crate::options_struct! { of_others $head $item $($more)* }
    };
    (of_others { $($head:tt)* } $item:tt #[$($other:tt)*] $($more:tt)*) => {
        $crate::options_struct! { of_others { $($head)* #[$($other)*] } $item $($more)* }
    };
    ($which:ident { $($head:tt)* } { $($item:tt)* }) => {
        $($head)* $($item)*
    };
}

/// The documentation among attributes, as one text.
#[doc(hidden)]
#[macro_export]
macro_rules! options_doc {
    (@ [$($line:literal)*]) => {
        ::std::concat!("" $(, $line)*)
    };
    (@ [$($line:literal)*] #[doc = $next:literal] $($more:tt)*) => {
        $crate::options_doc!(@ [$($line)* $next] $($more)*)
    };
    (@ [$($line:literal)*] #[$($other:tt)*] $($more:tt)*) => {
        $crate::options_doc!(@ [$($line)*] $($more)*)
    };
    ($(#[$($attribute:tt)*])*) => {
        $crate::options_doc!(@ [] $(#[$($attribute)*])*)
    };
}

/// The name under which an option is read: its `rename`, or the field's.
#[doc(hidden)]
#[macro_export]
macro_rules! options_name {
    (@in $field:ident [$($more:tt)*] rename = $name:literal $($rest:tt)*) => {
        $name
    };
    (@in $field:ident [$($more:tt)*] $other:tt $($rest:tt)*) => {
        $crate::options_name!(@in $field [$($more)*] $($rest)*)
    };
    (@in $field:ident [$($more:tt)*]) => {
        $crate::options_name!($field $($more)*)
    };
    ($field:ident #[serde($($inner:tt)*)] $($more:tt)*) => {
        $crate::options_name!(@in $field [$($more)*] $($inner)*)
    };
    ($field:ident #[$($other:tt)*] $($more:tt)*) => {
        $crate::options_name!($field $($more)*)
    };
    ($field:ident) => {
        ::std::stringify!($field)
    };
}

/// Other names of an option.
#[doc(hidden)]
#[macro_export]
macro_rules! options_aliases {
    (@in [$($alias:literal)*] [$($more:tt)*] alias = $name:literal $($rest:tt)*) => {
        $crate::options_aliases!(@in [$($alias)* $name] [$($more)*] $($rest)*)
    };
    (@in [$($alias:literal)*] [$($more:tt)*] $other:tt $($rest:tt)*) => {
        $crate::options_aliases!(@in [$($alias)*] [$($more)*] $($rest)*)
    };
    (@in [$($alias:literal)*] [$($more:tt)*]) => {
        $crate::options_aliases!(@ [$($alias)*] $($more)*)
    };
    (@ [$($alias:literal)*] #[serde($($inner:tt)*)] $($more:tt)*) => {
        $crate::options_aliases!(@in [$($alias)*] [$($more)*] $($inner)*)
    };
    (@ [$($alias:literal)*] #[$($other:tt)*] $($more:tt)*) => {
        $crate::options_aliases!(@ [$($alias)*] $($more)*)
    };
    (@ [$($alias:literal)*]) => {
        &[$($alias),*]
    };
}

/// Refuses a name of a component that a configuration could not name. That of a dataset stands in the place of an id, and is
/// written as one.
///
/// # Panics
/// It is empty, or has a `+`, a `.` or white space in it: for a constant, the compiler says so.
pub const fn allowed_name(kind: crate::Kind, name: &str) {
    let bytes = name.as_bytes();
    let is_id = matches!(kind, crate::Kind::Dataset);
    assert!(!bytes.is_empty(), "the name of a component is empty");
    let mut at = 0;
    while at < bytes.len() {
        assert!(
            (is_id || !matches!(bytes[at], b'+' | b'.')) && !bytes[at].is_ascii_whitespace(),
            "the name of a component has a `+` (which joins names), a `.` (which stands before an option) or a space; \
             take `_` or `-`"
        );
        at += 1;
    }
}

/// Refuses a flag that a command line could not give.
///
/// # Panics
/// It is empty, or has something else in it than small letters, digits and `_`: for a constant, the compiler says so.
pub const fn allowed_flag(flag: &str) {
    let bytes = flag.as_bytes();
    assert!(!bytes.is_empty(), "the name of a flag is empty");
    let mut at = 0;
    while at < bytes.len() {
        assert!(
            bytes[at].is_ascii_lowercase() || bytes[at].is_ascii_digit() || bytes[at] == b'_',
            "the name of a flag, which stands without its dashes, has small letters, digits and `_` alone"
        );
        at += 1;
    }
}

/// Refuses an option that a configuration could not give.
///
/// # Panics
/// It is `name`, beside which options stand: for a constant, the compiler says so.
pub const fn allowed_option(option: &str) {
    assert!(
        !matches!(option.as_bytes(), b"name"),
        "an option cannot be called `name`, which is the component's own beside its options; call it otherwise, \
         or rename it with #[serde(rename = \"...\")]"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::read::build;
    use crate::{Describe, Kind};
    use serde_json::json;
    use std::cell::Cell;

    thread_local! {
        static DROPPED: Cell<u32> = const { Cell::new(0) };
    }

    fn seven() -> u32 {
        7
    }

    crate::options! {
        /// How it falls.
        enum Shape {
            Linear,
            HalfCosine,
        }
    }

    crate::options! {
        /// With attributes of each kind.
        #[derive(Debug)]
        #[serde(rename_all = "kebab-case")]
        struct Attributed {
            /// How
            #[serde(rename = "type", alias = "form")]
            /// it falls.
            shape: Shape = Shape::HalfCosine,
            /// Several.
            #[serde(alias = "all")]
            all_shapes: Vec<Shape> = vec![Shape::Linear],
            maybe: Option<Shape> = None,
            #[serde(default = "seven")]
            count: u32 = seven(),
            name_of_it: String = String::new(),
        }
        limits {
            count: 1.0..,
        }
        flags {
            shape: "fall",
            name_of_it: "fall_called",
        }
        state {
            #[serde(default = "seven")]
            left: u32,
        }
    }

    impl Drop for Attributed {
        fn drop(&mut self) {
            DROPPED.with(|dropped| dropped.set(dropped.get() + self.left));
        }
    }

    fn made(options: serde_json::Value) -> crate::Result<Attributed> {
        build(options.as_object().expect("an object"))
    }

    #[test]
    fn attributes_of_serde_say_how_it_is_read() {
        let read = made(json!({"form": "linear", "all": ["half_cosine"], "name-of-it": "x"}));
        let read = read.unwrap();
        assert_eq!(read.shape, Shape::Linear);
        assert_eq!(read.all_shapes, [Shape::HalfCosine]);
        assert_eq!((read.maybe, read.count, read.left), (None, 7, 7));
        assert_eq!(read.name_of_it, "x");
        assert_eq!(made(json!({})).unwrap().shape, Shape::HalfCosine);
        assert!(made(json!({"shape": "linear"})).is_err());
        let error = made(json!({"type": "cosine"})).unwrap_err().to_string();
        let expected = "option type: expected one of linear, half_cosine, found \"cosine\"";
        assert_eq!(error, expected);
    }

    #[test]
    fn descriptions_have_the_names_that_are_read_and_the_words_of_enums() {
        let described = Attributed::describe();
        let rows: Vec<_> = described
            .iter()
            .map(|option| (&*option.name, &*option.kind, &*option.doc))
            .collect();
        let words = "one of linear, half_cosine";
        let (list, maybe) = (format!("list of {words}"), format!("{words} or none"));
        assert_eq!(
            rows,
            [
                ("type", words, "How it falls. Also called `form`."),
                ("all-shapes", &*list, "Several. Also called `all`."),
                ("maybe", &*maybe, ""),
                ("count", "whole number", ""),
                ("name-of-it", "text", ""),
            ]
        );
        assert_eq!(described[0].default, Some(json!("half_cosine")));
        assert_eq!(described[3].default, Some(json!(7)));
    }

    #[test]
    fn flags_go_with_the_names_that_are_read() {
        let named = |(flag, option): &(&str, &str)| ((*flag).to_owned(), (*option).to_owned());
        let expected = [("fall", "type"), ("fall_called", "name-of-it")];
        assert_eq!(
            Attributed::flags(),
            expected.iter().map(named).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_component_may_have_a_drop() {
        let before = DROPPED.get();
        drop(made(json!({})).unwrap());
        assert_eq!(DROPPED.get(), before + 7);
        drop(Attributed::default());
        assert_eq!(
            DROPPED.get(),
            before + 7,
            "state begins as its type's default"
        );
    }

    #[test]
    fn names_that_no_configuration_could_give_are_refused() {
        let refused = |act: fn()| std::panic::catch_unwind(act).is_err();
        allowed_name(Kind::Loss, "focal-loss_2");
        allowed_name(Kind::Dataset, "mine/tickets.v2");
        assert!(refused(|| allowed_name(Kind::Dataset, "")));
        for name in ["a+b", "a.b", "a b", "a\tb", "+", "."] {
            assert!(
                std::panic::catch_unwind(|| allowed_name(Kind::Loss, name)).is_err(),
                "{name:?}"
            );
        }
        allowed_option("names");
        allowed_flag("lisa_activated_layers2");
        for flag in ["", "--x", "a.b", "a-b", "a b", "A", "a=b"] {
            assert!(
                std::panic::catch_unwind(|| allowed_flag(flag)).is_err(),
                "{flag:?}"
            );
        }
        assert!(refused(|| allowed_option("name")));
    }
}
