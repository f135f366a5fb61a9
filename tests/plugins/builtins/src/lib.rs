//! Every built-in component in a library, so that tests can compare each with itself across the boundary.

apus_sdk::export_plugin!();

/// Keeps the built-in components in this library.
#[used]
static LINK: fn() = apus_plugins::link;
