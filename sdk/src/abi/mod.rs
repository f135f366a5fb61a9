//! The boundary between a plugin library and its host.
//!
//! A plugin exports one root module ([`PluginRoot`]). Tables of functions (prefix types of
//! `abi_stable`) only grow at their end; whatever people will want to extend (rows, run states,
//! options, descriptions) crosses as JSON, where a new field breaks nobody. Each kind of component has
//! one file with both of its sides: the functions that a plugin exports, and the trait's
//! implementation on top of them for the host.
//!
//! No panic crosses: every exported function runs inside a guard that was compiled
//! into the plugin.

mod callback;
mod dataset;
mod dataset_format;
mod describe;
mod export;
mod exporter;
pub(crate) mod guard;
mod lines;
mod loss;
mod loss_scale;
mod metric;
mod object;
mod open;
mod optimizer;
mod root;
mod run;
mod running;
mod sampler;
mod samples;
mod schedule;
mod tracker;
mod tuner;

pub use describe::{ComponentDoc, Description};
pub use lines::print_warnings_by;
pub use object::{Crosses, Object, Origin};
pub use open::{Library, OpenError, layout, open};
pub use root::{PluginRoot, PluginRootRef};
pub use running::running;

/// Name of the section of a library that says which SDK it was built with.
pub const SECTION: &str = ".apus.sdk";

/// The symbol through which a host finds the root module.
pub const ROOT_SYMBOL: &str = abi_stable::library::ROOT_MODULE_LOADER_NAME;

/// This SDK's version.
pub const SDK_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Its minor version, for [`TensorHost::minor`](crate::TensorHost).
pub fn sdk_minor() -> u32 {
    let minor = SDK_VERSION.split('.').nth(1);
    minor.and_then(|minor| minor.parse().ok()).unwrap_or(0)
}

/// What `export_plugin!` needs from the outside.
#[doc(hidden)]
pub mod private {
    pub use super::export::{TAG, root};
}
