//! Finds components by kind and name.

use crate::config::{Spec, nearest};
use anyhow::{Context, Result, bail};
use apus_sdk::{
    Callback, Component, DatasetFormat, Kind, Loss, LossScale, LrSchedule, Make, Metric, Optimizer,
    Tracker, components,
};

/// A kind of component that can be made.
pub trait Buildable {
    /// Its kind.
    const KIND: Kind;

    /// Makes one, if `make` makes this kind.
    fn make(make: &Make, options: &apus_sdk::Options) -> Option<apus_sdk::Result<Box<Self>>>;
}

macro_rules! buildable {
    ($($kind:ident),*) => {$(
        impl Buildable for dyn $kind {
            const KIND: Kind = Kind::$kind;

            fn make(
                make: &Make,
                options: &apus_sdk::Options,
            ) -> Option<apus_sdk::Result<Box<Self>>> {
                match make {
                    Make::$kind(make) => Some(make(options)),
                    _ => None,
                }
            }
        }
    )*};
}
buildable!(
    DatasetFormat,
    LossScale,
    Loss,
    Optimizer,
    LrSchedule,
    Callback,
    Metric,
    Tracker
);

/// All components of a kind, by name.
///
/// # Errors
/// Two of the same name; the error names both sources.
pub fn all(kind: Kind) -> Result<Vec<&'static Component>> {
    let mut found: Vec<_> = components().filter(|c| c.kind() == kind).collect();
    found.sort_by_key(|c| c.name);
    for pair in found.windows(2) {
        if pair[0].name == pair[1].name {
            bail!(
                "two components are called {kind} {:?}: one from {} {}, one from {} {}",
                pair[0].name,
                pair[0].source,
                pair[0].version,
                pair[1].source,
                pair[1].version
            );
        }
    }
    Ok(found)
}

/// Makes the component of this name with these options.
///
/// # Errors
/// An unknown name (the known ones are listed, nearest first), or options that it does not take.
pub fn build<T: Buildable + ?Sized>(spec: &Spec) -> Result<Box<T>> {
    let known = all(T::KIND)?;
    let Some(component) = known.iter().find(|c| c.name == spec.name) else {
        let names: Vec<&str> = known.iter().map(|c| c.name).collect();
        let mut order = nearest(&spec.name, &names);
        order.extend(
            names
                .iter()
                .filter(|n| !order.contains(n))
                .copied()
                .collect::<Vec<_>>(),
        );
        bail!(
            "there is no {} {:?}; there are {}",
            T::KIND,
            spec.name,
            order.join(", ")
        );
    };
    match T::make(&component.make, &spec.options) {
        Some(made) => made.with_context(|| format!("{} {}", T::KIND, spec.name)),
        None => bail!("{} is registered under the wrong kind", spec.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_and_options_are_explained() {
        apus_plugins::link();
        assert!(build::<dyn Optimizer>(&Spec::named("adamw")).is_ok());
        let error = build::<dyn Optimizer>(&Spec::named("adamv")).err().unwrap();
        let text = error.to_string();
        assert!(
            text.contains("no optimizer \"adamv\"; there are adamw, "),
            "{text}"
        );
        let mut spec = Spec::named("adamw");
        spec.options.insert("beta3".to_owned(), 0.9.into());
        let text = format!("{:#}", build::<dyn Optimizer>(&spec).err().unwrap());
        assert!(
            text.contains("optimizer adamw") && text.contains("beta3"),
            "{text}"
        );
    }

    #[test]
    fn the_built_ins_are_linked() {
        apus_plugins::link();
        let names = |kind| {
            all(kind)
                .unwrap()
                .iter()
                .map(|c| c.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(Kind::Optimizer), ["adamw", "lion", "sgd"]);
        assert_eq!(names(Kind::Loss), ["cross_entropy", "dft"]);
        assert_eq!(names(Kind::LrSchedule).len(), 9);
    }
}
