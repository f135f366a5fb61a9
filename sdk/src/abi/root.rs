//! The root module of a plugin library.

use super::callback::CallbackTableRef;
use super::format::FormatTableRef;
use super::loss::LossTableRef;
use super::loss_scale::LossScaleTableRef;
use super::metric::MetricTableRef;
use super::object::Object;
use super::optimizer::OptimizerTableRef;
use super::schedule::ScheduleTableRef;
use super::tracker::TrackerTableRef;
use crate::Wire;
use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::package_version_strings;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RStr, RString};

/// What a plugin library exports. Makers take a component's name and its options as JSON.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRootRef)))]
#[allow(missing_docs)]
pub struct PluginRoot {
    /// A [`Description`](super::Description) as JSON.
    pub describe: extern "C" fn() -> Wire<RString>,
    pub make_format: unsafe extern "C" fn(RStr<'_>, RStr<'_>) -> Wire<Object<FormatTableRef>>,
    pub make_loss_scale:
        unsafe extern "C" fn(RStr<'_>, RStr<'_>) -> Wire<Object<LossScaleTableRef>>,
    pub make_loss: unsafe extern "C" fn(RStr<'_>, RStr<'_>) -> Wire<Object<LossTableRef>>,
    pub make_optimizer: unsafe extern "C" fn(RStr<'_>, RStr<'_>) -> Wire<Object<OptimizerTableRef>>,
    pub make_schedule: unsafe extern "C" fn(RStr<'_>, RStr<'_>) -> Wire<Object<ScheduleTableRef>>,
    pub make_callback: unsafe extern "C" fn(RStr<'_>, RStr<'_>) -> Wire<Object<CallbackTableRef>>,
    pub make_metric: unsafe extern "C" fn(RStr<'_>, RStr<'_>) -> Wire<Object<MetricTableRef>>,
    #[sabi(last_prefix_field)]
    pub make_tracker: unsafe extern "C" fn(RStr<'_>, RStr<'_>) -> Wire<Object<TrackerTableRef>>,
}

impl RootModule for PluginRootRef {
    abi_stable::declare_root_module_statics! {PluginRootRef}
    const BASE_NAME: &'static str = "apus_plugin";
    const NAME: &'static str = "apus_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}
