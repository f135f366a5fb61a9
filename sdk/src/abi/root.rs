//! The root module of a plugin library.

use super::lines::WireLines;
use super::object::Object;
use crate::Wire;
use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::package_version_strings;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RStr, RString};

macro_rules! root_module {
    ($($Trait:ident {
        file: $file:ident,
        table: $table:ident,
        $(#[$in_root:meta])?
        make: $make:ident,
        $(then: $then:ident,)?
        name: $name:literal,
        flag: $flag:literal,
        decides: $decides:literal,
    })*) => {
        /// What a plugin library exports. Makers take a component's name and its options as JSON.
        #[repr(C)]
        #[derive(StableAbi)]
        #[sabi(kind(Prefix(prefix_ref = PluginRootRef)))]
        #[allow(missing_docs)]
        pub struct PluginRoot {
            /// A [`Description`](super::Description) as JSON.
            pub describe: extern "C" fn() -> Wire<RString>,
            $(
                $(#[$in_root])?
                pub $make: unsafe extern "C" fn(
                    RStr<'_>,
                    RStr<'_>,
                ) -> Wire<Object<super::$file::$table>>,
                $(
                    /// Takes how the host prints lines.
                    pub $then: extern "C" fn(WireLines),
                )?
            )*
        }
    };
}
crate::kinds!(root_module);

impl RootModule for PluginRootRef {
    abi_stable::declare_root_module_statics! {PluginRootRef}
    const BASE_NAME: &'static str = "apus_plugin";
    const NAME: &'static str = "apus_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}
