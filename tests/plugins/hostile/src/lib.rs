//! Components that fail in every way that a host has to survive.

apus_sdk::export_plugin!();

mod bad;
mod crash;
mod exporter;
mod rank;
mod wrong;
