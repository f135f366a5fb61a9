//! Components are asked what they have against the set-up of a command (`Need::Check`): in one way, whatever the command and
//! whatever the kind.

use anyhow::{Context, Result};
use apus_base::doing;
use apus_components::config::{FLAGS, Resolved};
use apus_components::registry::Named;
use apus_components::secrets::forget_secrets;
use apus_sdk::{Kind, RunInfo, Setup};
use serde_json::{Map, Value};

/// Asks one component.
///
/// # Errors
/// What it says against the set-up, with its name.
pub fn ask<T: ?Sized>(
    of: &Named<T>,
    setup: &Setup,
    check: impl FnOnce(&T, &Setup) -> apus_sdk::Result<()>,
) -> Result<()> {
    let _inside = doing::enter(&of.label, "check");
    let found = setup.ask(&of.needs, |setup| check(&of.component, setup));
    of.context("check", found)
}

/// A component, whatever its kind.
pub trait OfAnyKind {
    /// Its kind.
    fn kind(&self) -> Kind;

    /// Its name.
    fn called(&self) -> &str;

    /// As [`ask`].
    ///
    /// # Errors
    /// What it says against the set-up, with its name.
    fn ask(&self, setup: &Setup) -> Result<()>;
}

macro_rules! of_any_kind {
    ($($Trait:ident { $($columns:tt)* })*) => {$(
        impl OfAnyKind for Named<dyn apus_sdk::$Trait> {
            fn kind(&self) -> Kind {
                Kind::$Trait
            }

            fn called(&self) -> &str {
                &self.name
            }

            fn ask(&self, setup: &Setup) -> Result<()> {
                ask(self, setup, |component, setup| component.check(setup))
            }
        }
    )*};
}
apus_sdk::kinds!(of_any_kind);

/// The set-up of a command with these flags, which is one process; components are added by [`Chosen::check`].
pub fn setup_of(mut config: Map<String, Value>) -> Setup {
    forget_secrets(&mut config);
    let info = RunInfo {
        config: config.clone(),
        ..RunInfo::default()
    };
    Setup::new(config.into()).with_info(info)
}

/// The components that a command has made, each with the flags that may have chosen it.
#[derive(Default)]
pub struct Chosen<'a> {
    components: Vec<(&'static [&'static str], &'a dyn OfAnyKind)>,
    /// Of those that are made later, too.
    names: Vec<(Kind, &'a str)>,
}

impl<'a> Chosen<'a> {
    /// Adds components, which one of these flags chooses.
    pub fn add<T: ?Sized + 'a>(
        &mut self,
        flags: &'static [&'static str],
        components: impl IntoIterator<Item = &'a Named<T>>,
    ) where
        Named<T>: OfAnyKind,
    {
        for of in components {
            self.add_name(of.kind(), of.called());
            self.components.push((flags, of));
        }
    }

    /// Adds the name of a component that is not asked.
    pub fn add_name(&mut self, kind: Kind, name: &'a str) {
        if !self.names.contains(&(kind, name)) {
            self.names.push((kind, name));
        }
    }

    /// Shows all of them the set-up, to which it adds their names.
    ///
    /// # Errors
    /// What one of them says against it, with its name, and the place where it was chosen.
    pub fn check<T>(&self, mut setup: Setup, resolved: &Resolved<T>) -> Result<()> {
        for &kind in Kind::ALL {
            let names = self.names.iter().filter(|(of, _)| *of == kind);
            let names: Vec<&str> = names.map(|(_, name)| *name).collect();
            if !names.is_empty() {
                setup = setup.with_components(kind, names);
            }
        }
        for (flags, of) in &self.components {
            let asked = of.ask(&setup);
            let mut flags = flags.iter().flat_map(|flag| with_shorthands(flag));
            match flags.find_map(|flag| resolved.place(flag)) {
                Some(place) => asked.with_context(|| place.to_owned())?,
                None => asked?,
            }
        }
        Ok(())
    }
}

/// A flag, and those that choose the same component.
fn with_shorthands(flag: &'static str) -> impl Iterator<Item = &'static str> {
    let found = FLAGS.iter().find(|known| known.name == flag);
    let others = found.map_or(&[][..], |found| found.over);
    std::iter::once(flag).chain(others.iter().copied())
}
