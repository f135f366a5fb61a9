//! The plugin's side of the root module.

use super::describe::describe;
use super::guard::{guard, report_panics};
use super::lines::follow;
use super::object::{Crosses, Object, to_json};
use super::root::{PluginRoot, PluginRootRef};
use crate::{Error, Wire, components};
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{RStr, RString};
use std::sync::OnceLock;

/// Makes this library a plugin: exports its components to a host that loads it.
///
/// One line, at the top of the library; everything that is registered with
/// [`register!`](crate::register) in the library or in crates that it uses goes along. The crate needs
///
/// ```toml
/// [lib]
/// crate-type = ["cdylib"]
/// ```
#[macro_export]
macro_rules! export_plugin {
    () => {
        const _: () = {
            #[cfg(panic = "abort")]
            ::std::compile_error!(
                "a plugin that aborts on a panic would take the whole run with it; build it with \
                 panic = \"unwind\", the default"
            );

            extern "C" fn constructor() -> $crate::private::abi_stable::library::RootModuleResult {
                fn root() -> $crate::abi::PluginRootRef {
                    $crate::private::root(
                        ::std::env!("CARGO_PKG_NAME"),
                        ::std::env!("CARGO_PKG_VERSION"),
                    )
                }
                $crate::private::abi_stable::library::__call_root_module_loader(root)
            }

            // SAFETY: the name is the one that abi_stable looks for (a test compares them), and
            // belongs to it alone; the constructor gives the root module of the type named.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            pub static HEADER: $crate::private::abi_stable::library::LibHeader = unsafe {
                $crate::private::abi_stable::library::LibHeader::from_constructor::<
                    $crate::abi::PluginRootRef,
                >(
                    constructor,
                    $crate::private::abi_stable::library::CheckTypeLayout::Yes,
                )
            };

            // SAFETY: the section is Apus's own and holds bytes that nothing runs.
            #[used]
            #[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__apus_sdk"))]
            #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".apus.sdk"))]
            static TAG: [u8; $crate::private::TAG.len()] = $crate::private::TAG;
        };
    };
}

/// What the section [`SECTION`](super::SECTION) holds.
pub const TAG: [u8; LINE.len()] = {
    let mut tag = [0; LINE.len()];
    let mut i = 0;
    while i < tag.len() {
        tag[i] = LINE.as_bytes()[i];
        i += 1;
    }
    tag
};

const LINE: &str = concat!("apus-sdk ", env!("CARGO_PKG_VERSION"), "\0");

static NAME: OnceLock<(&str, &str)> = OnceLock::new();

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
        PluginRoot {
            describe: description,
            $(
                $make: make::<dyn crate::$Trait>,
                $($then: follow,)?
            )*
        }
    };
}

/// The root module of the library of this crate.
pub fn root(name: &'static str, version: &'static str) -> PluginRootRef {
    static ROOT: OnceLock<PluginRootRef> = OnceLock::new();
    *ROOT.get_or_init(|| {
        NAME.get_or_init(|| (name, version));
        report_panics((name, version));
        crate::kinds!(root_module).leak_into_prefix()
    })
}

extern "C" fn description() -> Wire<RString> {
    guard(|| {
        let (name, version) = NAME.get().copied().unwrap_or_default();
        to_json(&describe(name, version))
    })
}

unsafe extern "C" fn make<K: Crosses + ?Sized>(
    name: RStr<'_>,
    options: RStr<'_>,
) -> Wire<Object<K::Table>> {
    guard(|| {
        let options = serde_json::from_str(options.as_str())?;
        let made = components()
            .filter(|component| component.name == name.as_str())
            .find_map(|component| {
                let made = K::make(&component.make, &options)?;
                Some(made.map(|made| K::export(made, (component.needs)())))
            });
        match made {
            Some(made) => made,
            None => Err(Error::new(format!("there is no {} {name}", K::KIND))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_symbol_is_the_one_that_is_looked_for() {
        assert_eq!(
            crate::abi::ROOT_SYMBOL,
            "_1as_0lib_1header_0root_bmodule_bloader"
        );
        assert!(TAG.starts_with(b"apus-sdk 1.") && TAG.ends_with(&[0]));
    }
}
