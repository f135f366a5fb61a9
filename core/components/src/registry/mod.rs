//! All components: those linked into this binary, and those of loaded plugins.

mod option_flags;
mod options;
mod spec;

pub use option_flags::{OptionFlag, flags_of, option_flags};
pub use spec::Spec;

use crate::plugin::{self, Plugin, PluginSpec};
use crate::similar::similar_names;
use anyhow::{Context, Result, bail};
use apus_sdk::abi::{ComponentDoc, Crosses};
use apus_sdk::built_in::{BuiltIn, built_ins};
use apus_sdk::{Component, Kind, Need, components};

/// A component that a configuration can name.
#[derive(Clone)]
pub struct Entry {
    /// Its name in a configuration. The name of a plugin's component has the plugin's prefix.
    pub name: String,
    /// Its description and its options.
    pub doc: ComponentDoc,
    /// Where it comes from.
    pub source: Source,
}

/// Where a component comes from.
#[derive(Clone, Copy)]
pub enum Source {
    /// Linked into this binary.
    BuiltIn(&'static Component),
    /// From a loaded plugin.
    Plugin(&'static Plugin),
}

impl Source {
    /// For messages: `apus-plugins 0.1.0 (built in)`, `plugin mine 0.1.0 (libmine.so)`.
    pub fn label(self) -> String {
        match self {
            Self::BuiltIn(component) => {
                format!("{} {} (built in)", component.source, component.version)
            }
            Self::Plugin(plugin) => plugin.label(),
        }
    }
}

impl Source {
    /// As [`label`](Self::label), the file with its folders: `plugin mine 0.1.0 (/a/libmine.so)`.
    fn located(self) -> String {
        match self {
            Self::BuiltIn(_) => self.label(),
            Self::Plugin(plugin) => {
                let description = plugin.description();
                let file = plugin.canonical.display();
                format!(
                    "plugin {} {} ({file})",
                    description.name, description.version
                )
            }
        }
    }
}

/// A component of a run, with the names that messages and configurations use for it.
pub struct Named<T: ?Sized> {
    /// Its name in the configuration.
    pub name: String,
    /// For messages: `loss dft`, or `loss focal of plugin mine 0.1.0 (libmine.so)`.
    pub label: String,
    /// Whether it comes from a plugin.
    pub from_plugin: bool,
    /// What of SDK 1.1 and later it declares to use; nothing else of that is given to it.
    pub needs: Vec<Need>,
    /// The component.
    pub component: Box<T>,
}

impl<T: ?Sized> Named<T> {
    /// A component of this host.
    pub fn new(label: &str, component: Box<T>) -> Self {
        Self {
            name: label.to_owned(),
            label: label.to_owned(),
            from_plugin: false,
            needs: Vec::new(),
            component,
        }
    }

    /// The same, with these needs.
    pub fn with(self, needs: &[Need]) -> Self {
        Self {
            needs: needs.to_vec(),
            ..self
        }
    }

    /// Whether it declares this.
    pub fn declares(&self, need: Need) -> bool {
        need.is_in(&self.needs)
    }

    /// Adds this component and `event` to an error. An error of a plugin names its component already. What it used
    /// without declaring it is an error too.
    pub fn context<R>(&self, event: &str, result: apus_sdk::Result<R>) -> Result<R> {
        match apus_sdk::private::checked(result) {
            Ok(value) => Ok(value),
            Err(error) if self.from_plugin => Err(error.into()),
            Err(error) => bail!("{}, {event}: {error}", self.label),
        }
    }
}

/// Loads plugins, and checks that the names of all components are unique.
///
/// # Errors
/// As [`plugin::load`]; two components of one kind and name.
pub fn load(specs: &[PluginSpec]) -> Result<()> {
    plugin::load(specs)?;
    for &kind in Kind::ALL {
        all(kind)?;
    }
    Ok(())
}

/// All components of a kind, by name.
///
/// # Errors
/// Two of the same name; the error names both sources.
pub fn all(kind: Kind) -> Result<Vec<Entry>> {
    let linked = components()
        .filter(|component| component.kind() == kind)
        .map(|component| Entry {
            name: component.name.to_owned(),
            doc: ComponentDoc::from(component),
            source: Source::BuiltIn(component),
        });
    let loaded = plugin::loaded().into_iter().flat_map(|plugin| {
        let docs = plugin.description().components.iter();
        docs.filter(|doc| doc.kind == kind.name())
            .map(|doc| Entry {
                name: format!("{}{}", plugin.prefix, doc.name),
                doc: doc.clone(),
                source: Source::Plugin(plugin),
            })
            .collect::<Vec<_>>()
    });
    let loaded: Vec<Entry> = loaded.collect();
    let gives_way = |entry: &Entry| {
        let mut declared = built_ins().into_iter();
        let is_it = |of: &&BuiltIn| of.kind == kind && of.name == entry.name && of.gives_way;
        declared.any(|of| is_it(&of)) && loaded.iter().any(|own| own.name == entry.name)
    };
    let linked: Vec<Entry> = linked.filter(|entry| !gives_way(entry)).collect();
    let mut found: Vec<Entry> = linked.into_iter().chain(loaded).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    for pair in found.windows(2) {
        if let [a, b] = pair
            && a.name == b.name
        {
            bail!(
                "two components are called {kind} {:?}: one from {}, one from {}. Names are unique: give \
                 one of the plugins a prefix in the configuration, \
                 plugins = [{{ path = \"...\", prefix = \"mine_\" }}], or leave one out",
                a.name,
                a.source.located(),
                b.source.located()
            );
        }
    }
    Ok(found)
}

/// Whether there is a component of this kind and name.
pub fn is_known(kind: Kind, name: &str) -> Result<bool> {
    Ok(all(kind)?.iter().any(|entry| entry.name == name))
}

/// Makes the component of this name with these options.
///
/// # Errors
/// An unknown name (the known ones are listed, nearest first), or options that it does not take.
pub fn build<T: Crosses + ?Sized>(spec: &Spec) -> Result<Box<T>> {
    Ok(named(spec)?.component)
}

/// As [`build`], with what it is called.
pub fn named<T: Crosses + ?Sized>(spec: &Spec) -> Result<Named<T>> {
    let known = all(T::KIND)?;
    let Some(entry) = known.iter().find(|entry| entry.name == spec.name) else {
        return Err(unknown(T::KIND, &spec.name, &known));
    };
    make(entry, spec)
}

/// The names of the options that a component says it has.
///
/// # Errors
/// An unknown name; the known ones are listed, nearest first.
pub fn options(kind: Kind, name: &str) -> Result<Vec<String>> {
    let known = all(kind)?;
    let Some(entry) = known.iter().find(|entry| entry.name == name) else {
        return Err(unknown(kind, name, &known));
    };
    let options = entry.doc.options.iter();
    Ok(options.map(|option| option.name.clone()).collect())
}

/// Whether a component declares this; not if there is none of this name.
pub fn declares(kind: Kind, name: &str, need: Need) -> bool {
    let known = all(kind).unwrap_or_default();
    let entry = known.iter().find(|entry| entry.name == name);
    entry.is_some_and(|entry| need.is_in(&entry.doc.known_needs().0))
}

fn make<T: Crosses + ?Sized>(entry: &Entry, spec: &Spec) -> Result<Named<T>> {
    let mut label = format!("{} {}", T::KIND, spec.name);
    let options =
        options::coerce(&spec.options, &entry.doc.options).with_context(|| label.clone())?;
    let component = match entry.source {
        Source::BuiltIn(component) => match T::make(&component.make, &options) {
            Some(made) => made.with_context(|| label.clone())?,
            None => bail!("{} is registered under the wrong kind", spec.name),
        },
        Source::Plugin(plugin) => {
            label = format!("{label} of {}", plugin.label());
            plugin
                .make(&entry.doc.name, &options, &label)
                .with_context(|| label.clone())?
        }
    };
    Ok(Named {
        name: spec.name.clone(),
        label,
        from_plugin: matches!(entry.source, Source::Plugin(_)),
        needs: entry.doc.known_needs().0,
        component,
    })
}

fn unknown(kind: Kind, name: &str, known: &[Entry]) -> anyhow::Error {
    let names: Vec<&str> = known.iter().map(|entry| entry.name.as_str()).collect();
    let mut order = similar_names(name, &names);
    let others = names.iter().filter(|name| !order.contains(name));
    order.extend(others.copied().collect::<Vec<_>>());
    anyhow::anyhow!(
        "there is no {kind} {name:?}; there are {}. A plugin's are there once it is given with \
         --plugin",
        order.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::Optimizer;

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
                .map(|entry| entry.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(Kind::Optimizer),
            [
                "adafactor",
                "adamw",
                "adamw_8bit",
                "galore",
                "lion",
                "muon",
                "schedule_free_adamw",
                "sgd"
            ]
        );
        assert_eq!(names(Kind::Loss), ["cross_entropy", "dft"]);
        assert_eq!(names(Kind::LrSchedule).len(), 11);
    }

    #[test]
    fn every_option_of_the_built_ins_is_documented() {
        apus_plugins::link();
        for &kind in Kind::ALL {
            for entry in all(kind).unwrap() {
                assert!(!entry.doc.doc.is_empty(), "{kind} {}", entry.name);
                for option in &entry.doc.options {
                    assert!(
                        !option.doc.is_empty() && option.default.is_some(),
                        "{kind} {}: {}",
                        entry.name,
                        option.name
                    );
                }
            }
        }
    }
}
