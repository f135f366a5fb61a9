//! A component is asked what it has against the set-up of a command (`Need::Check`).

use anyhow::Result;
use apus_base::doing;
use apus_components::registry::Named;
use apus_sdk::Setup;

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
