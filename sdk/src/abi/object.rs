//! A component on its way from a plugin to its host: a pointer and the table of its functions.

use super::PluginRootRef;
use super::guard::{PANICKED, guard};
use super::running;
use crate::{Error, Kind, Make, Need, Options, Result, Setup, Wire, needs};
use abi_stable::StableAbi;
use abi_stable::std_types::{RResult, RStr, RString};
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;

/// A component that a plugin made; `T` refers to the table of its kind.
#[repr(C)]
#[derive(StableAbi)]
pub struct Object<T> {
    this: *mut (),
    table: T,
    release: unsafe extern "C" fn(*mut ()) -> Wire<()>,
}

// SAFETY: every component kind is `Send`; its object is made by `Object::new` from one.
unsafe impl<T> Send for Object<T> {}
// SAFETY: tables of kinds that are not `Sync` are only called through `&mut` of the importing
// component, those of the others go to `&self` methods of a `Sync` component.
unsafe impl<T> Sync for Object<T> {}

/// What an object's pointer points to; only the library that made it looks behind it.
struct Held<K: ?Sized> {
    component: Box<K>,
    needs: &'static [Need],
}

impl<T: Copy> Object<T> {
    /// Packs a component, which declares these needs, for its way to the host.
    pub(super) fn new<K: ?Sized>(component: Box<K>, needs: &'static [Need], table: T) -> Self {
        unsafe extern "C" fn release<K: ?Sized>(this: *mut ()) -> Wire<()> {
            guard(|| {
                // SAFETY: `this` came from `Box::into_raw` below with the same type, and is dropped once.
                drop(unsafe { Box::from_raw(this.cast::<Held<K>>()) });
                Ok(())
            })
        }
        Self {
            this: Box::into_raw(Box::new(Held { component, needs })).cast(),
            table,
            release: release::<K>,
        }
    }
}

impl<T> Drop for Object<T> {
    fn drop(&mut self) {
        // SAFETY: the object is this one's and is not used after.
        if let RResult::RErr(message) = unsafe { (self.release)(self.this) } {
            crate::errln!("warning: a plugin's component failed while it was dropped: {message}");
        }
    }
}

/// Where a component came from, for messages: `loss focal of plugin mine 0.1.0 (libmine.so)`.
#[derive(Clone, Copy)]
pub struct Origin(&'static str);

impl Origin {
    /// An origin of this text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        let text: Arc<str> = text.into();
        Self(running::lasting(&text))
    }

    /// The text, which stays for good.
    pub(super) fn label(self) -> &'static str {
        self.0
    }

    /// What came out of `event`, with this origin in the error. The call is over.
    pub(super) fn context<T>(&self, event: &str, wire: Wire<T>) -> Result<T> {
        running::leave(self.0);
        match wire {
            RResult::ROk(value) => Ok(value),
            RResult::RErr(message) => {
                let panicked = message.starts_with(PANICKED);
                Err(self.failed(event, &message).of_panic(panicked))
            }
        }
    }

    pub(super) fn failed(&self, event: &str, message: &dyn fmt::Display) -> Error {
        Error::new(format!("{}, {event}: {message}", self.0))
    }
}

/// A component of the host on top of a plugin's object.
pub(super) struct Imported<T> {
    pub(super) object: Known<T>,
    pub(super) origin: Origin,
}

impl<T> Imported<T> {
    pub(super) fn new(object: Object<T>, origin: Origin) -> Self {
        Self {
            object: Known::new(object, origin),
            origin,
        }
    }
}

/// A plugin's object, in which this thread is known to be from when its pointer is asked for until
/// [`Origin::context`] has what came out.
pub(super) struct Known<T> {
    object: ManuallyDrop<Object<T>>,
    origin: Origin,
}

impl<T> Known<T> {
    pub(super) fn new(object: Object<T>, origin: Origin) -> Self {
        Self {
            object: ManuallyDrop::new(object),
            origin,
        }
    }
}

impl<T: Copy> Known<T> {
    /// The pointer that goes with the table's functions, for a call.
    pub(super) fn this(&self) -> *mut () {
        running::enter(self.origin.label());
        self.object.this
    }

    pub(super) fn table(&self) -> T {
        self.object.table
    }
}

impl<T> Drop for Known<T> {
    fn drop(&mut self) {
        running::inside(self.origin.label(), || {
            // SAFETY: it is dropped here and nowhere else.
            unsafe { ManuallyDrop::drop(&mut self.object) }
        });
    }
}

/// A kind of component as a type, `dyn Loss`: how one is made, linked in or through a plugin.
pub trait Crosses: 'static {
    /// The reference to the table of its functions.
    type Table: Copy + 'static;

    /// Its kind.
    const KIND: Kind;

    /// Makes one, if `make` makes this kind.
    fn make(make: &Make, options: &Options) -> Option<Result<Box<Self>>>;

    /// Packs one, which declares these needs, for its way to the host.
    fn export(component: Box<Self>, needs: &'static [Need]) -> Object<Self::Table>;

    /// The function of a plugin that makes one; `None` if the SDK of the plugin does not have this kind.
    #[doc(hidden)]
    fn maker(root: PluginRootRef) -> Option<Maker<Self::Table>>;

    /// The host's component on top of a plugin's.
    fn import(object: Object<Self::Table>, origin: Origin) -> Box<Self>;
}

/// Makes a component out of its name and its options as JSON. Both texts have to outlive the call.
#[doc(hidden)]
pub type Maker<T> = unsafe extern "C" fn(RStr<'_>, RStr<'_>) -> Wire<Object<T>>;

macro_rules! crosses {
    ($($Trait:ident {
        file: $file:ident,
        table: $table:ident,
        $(#[$in_root:meta])?
        make: $make:ident,
        $($texts:tt)*
    })*) => {$(
        impl Crosses for dyn crate::$Trait {
            type Table = super::$file::$table;
            const KIND: Kind = Kind::$Trait;

            fn make(make: &Make, options: &Options) -> Option<Result<Box<Self>>> {
                match make {
                    Make::$Trait(make) => Some(make(options)),
                    _ => None,
                }
            }

            fn export(component: Box<Self>, needs: &'static [Need]) -> Object<Self::Table> {
                super::$file::export(component, needs)
            }

            fn maker(root: PluginRootRef) -> Option<Maker<Self::Table>> {
                // Every plugin has the functions of SDK 1.0; those that came later are an `Option` here.
                root.$make().into()
            }

            fn import(object: Object<Self::Table>, origin: Origin) -> Box<Self> {
                super::$file::import(object, origin)
            }
        }
    )*};
}
crate::kinds!(crosses);

/// Writes `export` and `import` for a kind whose components need no wrapper on either side. The table has these
/// functions.
macro_rules! crosses_by {
    ($Table:ident { $($function:ident),* $(,)? } as $TableRef:ident for dyn $Trait:ident) => {
        pub(super) fn export(
            component: Box<dyn $Trait>,
            needs: &'static [$crate::Need],
        ) -> $crate::abi::Object<$TableRef> {
            static TABLE: std::sync::OnceLock<$TableRef> = std::sync::OnceLock::new();
            let table = || {
                let table = $Table { $($function),* };
                abi_stable::prefix_type::PrefixTypeTrait::leak_into_prefix(table)
            };
            $crate::abi::Object::new(component, needs, *TABLE.get_or_init(table))
        }

        pub(super) fn import(
            object: $crate::abi::Object<$TableRef>,
            origin: $crate::abi::Origin,
        ) -> Box<dyn $Trait> {
            Box::new($crate::abi::object::Imported::new(object, origin))
        }
    };
}
pub(super) use crosses_by;

/// The component behind an object's pointer. Until the guard around it ends this thread is in that component.
///
/// # Safety
/// `this` is the pointer of an object that [`Object::new`] made from a `Box<K>`.
pub(super) unsafe fn component<'a, K: ?Sized>(this: *const ()) -> &'a K {
    // SAFETY: by the contract above.
    let held = unsafe { &*this.cast::<Held<K>>() };
    needs::declare(held.needs);
    &held.component
}

/// As [`component`], to be changed.
///
/// # Safety
/// As there; and nobody else uses the component meanwhile.
pub(super) unsafe fn component_mut<'a, K: ?Sized>(this: *mut ()) -> &'a mut K {
    // SAFETY: by the contract above.
    let held = unsafe { &mut *this.cast::<Held<K>>() };
    needs::declare(held.needs);
    &mut held.component
}

/// Asks a component about a set-up, which is JSON.
///
/// # Safety
/// As of [`component`].
pub(super) unsafe fn ask<K: ?Sized>(
    this: *const (),
    setup: RStr<'_>,
    check: impl FnOnce(&K, &Setup) -> Result<()>,
) -> Wire<()> {
    guard(|| {
        let setup: Setup = serde_json::from_str(setup.as_str())?;
        // SAFETY: by the contract above.
        let held = unsafe { &*this.cast::<Held<K>>() };
        needs::declare(held.needs);
        setup.ask(held.needs, |setup| check(&held.component, setup))
    })
}

/// Writes the function `check` of a table.
macro_rules! check_by {
    (dyn $Trait:ident) => {
        unsafe extern "C" fn check(this: *const (), setup: RStr<'_>) -> Wire<()> {
            // SAFETY: the host gives the object's own pointer.
            unsafe {
                $crate::abi::object::ask::<dyn $Trait>(this, setup, |component, setup| {
                    component.check(setup)
                })
            }
        }
    };
}
pub(super) use check_by;

/// Writes the method `check` of a host's component, whose fields are `object` and `origin`. What it leaves undone its plugin
/// has said.
macro_rules! imported_check {
    () => {
        fn check(&self, setup: &$crate::Setup) -> Result<()> {
            setup.leave();
            let Some(call) = self.object.table().check() else {
                return Ok(());
            };
            let json = $crate::abi::object::to_json(setup)?;
            // SAFETY: pointer and table belong together; the text outlives the call.
            let wire = unsafe { call(self.object.this(), json.as_rstr()) };
            self.origin.context("check", wire)
        }
    };
}
pub(super) use imported_check;

/// JSON text of a value.
pub(super) fn to_json(value: &impl serde::Serialize) -> Result<RString> {
    Ok(serde_json::to_string(value)?.into())
}
