//! A panic in a plugin becomes an error.
//!
//! The guard has to be compiled into the plugin: a panic that leaves the library that it was raised
//! in is a foreign exception to the host, which nothing there can catch.

use crate::{Result, Wire, needs};
use abi_stable::std_types::RResult;
use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The beginning of the message of a panic; part of the boundary.
pub(crate) const PANICKED: &str = "panicked";

thread_local! {
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the location of a panic for the host to report, and does not print the panic. Called once in a library.
pub(super) fn silence_panics() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let location = info.location().map(ToString::to_string);
        LOCATION.with(|slot| *slot.borrow_mut() = location);
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            loud(info);
        }
    }));
}

/// Runs `act`; an error or a panic of it becomes a message.
pub(crate) fn guard<T>(act: impl FnOnce() -> Result<T>) -> Wire<T> {
    match catch_unwind(AssertUnwindSafe(|| needs::scoped(act))) {
        Ok(Ok(value)) => RResult::ROk(value),
        Ok(Err(error)) => RResult::RErr(error.to_string().into()),
        Err(payload) => RResult::RErr(panicked(payload).into()),
    }
}

fn panicked(payload: Box<dyn Any + Send>) -> String {
    let message = match (
        payload.downcast_ref::<&str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "something that is no text".to_owned(),
    };
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
