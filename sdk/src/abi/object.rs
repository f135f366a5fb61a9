//! A component on its way from a plugin to its host: a pointer and the table of its functions.

use super::PluginRootRef;
use super::guard::{PANICKED, guard};
use crate::{Error, Kind, Make, Options, Result, Wire};
use abi_stable::StableAbi;
use abi_stable::std_types::{RResult, RStr, RString};
use std::fmt;
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

impl<T: Copy> Object<T> {
    /// Packs a component for its way to the host.
    pub(super) fn new<K: ?Sized>(component: Box<K>, table: T) -> Self {
        unsafe extern "C" fn release<K: ?Sized>(this: *mut ()) -> Wire<()> {
            guard(|| {
                // SAFETY: `this` came from `Box::into_raw` below with the same type, and is dropped once.
                drop(unsafe { Box::from_raw(this.cast::<Box<K>>()) });
                Ok(())
            })
        }
        Self {
            this: Box::into_raw(Box::new(component)).cast(),
            table,
            release: release::<K>,
        }
    }

    /// The pointer that goes with the table's functions.
    pub(super) fn this(&self) -> *mut () {
        self.this
    }

    pub(super) fn table(&self) -> T {
        self.table
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
#[derive(Clone)]
pub struct Origin(Arc<str>);

impl Origin {
    /// An origin of this text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// What came out of `event`, with this origin in the error.
    pub(super) fn context<T>(&self, event: &str, wire: Wire<T>) -> Result<T> {
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
    pub(super) object: Object<T>,
    pub(super) origin: Origin,
}

/// A kind of component: how it is made, linked in or through a plugin.
pub trait Crosses: 'static {
    /// Refers to the table of its functions.
    type Table: Copy + 'static;

    /// Its kind.
    const KIND: Kind;

    /// Makes one, if `make` makes this kind.
    fn make(make: &Make, options: &Options) -> Option<Result<Box<Self>>>;

    /// Packs one for its way to the host.
    fn export(component: Box<Self>) -> Object<Self::Table>;

    /// Lets a plugin make one.
    #[doc(hidden)]
    fn ask(root: PluginRootRef, name: RStr<'_>, options: RStr<'_>) -> Wire<Object<Self::Table>>;

    /// The host's component on top of a plugin's.
    fn import(object: Object<Self::Table>, origin: Origin) -> Box<Self>;
}

macro_rules! crosses {
    ($($kind:ident, $table:ty, $make:ident, $export:expr, $import:expr;)*) => {$(
        impl Crosses for dyn crate::$kind {
            type Table = $table;
            const KIND: Kind = Kind::$kind;

            fn make(make: &Make, options: &Options) -> Option<Result<Box<Self>>> {
                match make {
                    Make::$kind(make) => Some(make(options)),
                    _ => None,
                }
            }

            fn export(component: Box<Self>) -> Object<$table> {
                ($export)(component)
            }

            fn ask(root: PluginRootRef, name: RStr<'_>, options: RStr<'_>) -> Wire<Object<$table>> {
                // SAFETY: both texts outlive the call.
                unsafe { root.$make()(name, options) }
            }

            fn import(object: Object<$table>, origin: Origin) -> Box<Self> {
                ($import)(object, origin)
            }
        }
    )*};
}
crosses! {
    DatasetFormat, super::format::FormatTableRef, make_format, |component| Object::new(component, super::format::table()), |object, origin| Box::new(Imported { object, origin });
    LossScale, super::loss_scale::LossScaleTableRef, make_loss_scale, |component| Object::new(component, super::loss_scale::table()), |object, origin| Box::new(Imported { object, origin });
    Loss, super::loss::LossTableRef, make_loss, |component| Object::new(component, super::loss::table()), |object, origin| Box::new(Imported { object, origin });
    Optimizer, super::optimizer::OptimizerTableRef, make_optimizer, |component| Object::new(component, super::optimizer::table()), |object, origin| Box::new(Imported { object, origin });
    LrSchedule, super::schedule::ScheduleTableRef, make_schedule, |component| Object::new(component, super::schedule::table()), |object, origin| Box::new(Imported { object, origin });
    Callback, super::callback::CallbackTableRef, make_callback, super::callback::export, super::callback::import;
    Metric, super::metric::MetricTableRef, make_metric, |component| Object::new(component, super::metric::table()), |object, origin| Box::new(Imported { object, origin });
    Tracker, super::tracker::TrackerTableRef, make_tracker, |component| Object::new(component, super::tracker::table()), |object, origin| Box::new(Imported { object, origin });
}

/// The component behind an object's pointer.
///
/// # Safety
/// `this` is the pointer of an object that [`Object::new`] made from a `Box<K>`.
pub(super) unsafe fn component<'a, K: ?Sized>(this: *const ()) -> &'a K {
    // SAFETY: by the contract above.
    unsafe { &*this.cast::<Box<K>>() }
}

/// As [`component`], to be changed.
///
/// # Safety
/// As there; and nobody else uses the component meanwhile.
pub(super) unsafe fn component_mut<'a, K: ?Sized>(this: *mut ()) -> &'a mut K {
    // SAFETY: by the contract above.
    unsafe { &mut *this.cast::<Box<K>>() }
}

/// JSON text of a value.
pub(super) fn to_json(value: &impl serde::Serialize) -> Result<RString> {
    Ok(serde_json::to_string(value)?.into())
}
