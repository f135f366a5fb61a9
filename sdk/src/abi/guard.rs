//! A panic in a plugin becomes an error; on a thread of the plugin's own, where no call has an error, a line for people.
//!
//! The guard has to be compiled into the plugin: a panic that leaves the library that it was raised
//! in is a foreign exception to the host, which nothing there can catch.

use super::lines;
use crate::{Result, Wire, needs};
use abi_stable::std_types::RResult;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};

/// The beginning of the message of a panic; part of the boundary.
pub(crate) const PANICKED: &str = "panicked";

thread_local! {
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
    /// How many calls of a host this thread is in.
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

/// A call of a host, as long as this is kept.
struct Call;

impl Call {
    fn begin() -> Self {
        CALLS.set(CALLS.get() + 1);
        Self
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        CALLS.set(CALLS.get() - 1);
    }
}

/// Keeps the location of a panic in a call for the host to report, and does not print that panic. One on another thread is
/// told at once. Called once in a library; `library` is its name and version.
pub(super) fn report_panics(library: (&'static str, &'static str)) {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        match CALLS.get() {
            0 => lines::warn(&on_own_thread(library, info)),
            _ => {
                let location = info.location().map(ToString::to_string);
                LOCATION.with(|slot| *slot.borrow_mut() = location);
            }
        }
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            loud(info);
        }
    }));
}

fn on_own_thread((name, version): (&str, &str), info: &PanicHookInfo) -> String {
    let thread = std::thread::current();
    let thread = match thread.name() {
        Some(name) => format!("{name:?}"),
        None => "without a name".to_owned(),
    };
    let location = match info.location() {
        Some(location) => format!(" at {location}"),
        None => String::new(),
    };
    format!(
        "plugin {name} {version}: its own thread {thread} {PANICKED}{location}: {}. What it was doing is not done; the run \
         goes on",
        message(info.payload())
    )
}

/// Runs `act`; an error or a panic of it becomes a message.
pub(crate) fn guard<T>(act: impl FnOnce() -> Result<T>) -> Wire<T> {
    let _call = Call::begin();
    match catch_unwind(AssertUnwindSafe(|| needs::scoped(act))) {
        Ok(Ok(value)) => RResult::ROk(value),
        Ok(Err(error)) => RResult::RErr(error.to_string().into()),
        Err(payload) => RResult::RErr(panicked(payload).into()),
    }
}

fn message(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("something that is no text")
}

fn panicked(payload: Box<dyn Any + Send>) -> String {
    let message = message(&*payload).to_owned();
    // Dropping a payload could panic once more.
    std::mem::forget(payload);
    match LOCATION.with(|slot| slot.borrow_mut().take()) {
        Some(location) => format!("{PANICKED} at {location}: {message}"),
        None => format!("{PANICKED}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn errors_and_panics_become_messages() {
        let said = |result: Wire<()>| result.into_result().unwrap_err().into_string();
        assert_eq!(said(guard(|| Err(Error::new("no")))), "no");
        assert_eq!(
            said(guard(|| panic!("boom at {}", 3))),
            "panicked: boom at 3"
        );
        assert!(said(guard(|| std::panic::panic_any(7))).contains("no text"));
        assert_eq!(guard(|| Ok(5)).into_result().unwrap(), 5);
    }
}
