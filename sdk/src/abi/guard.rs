//! A panic in a plugin becomes an error.
//!
//! The guard has to be compiled into the plugin: a panic that leaves the library that it was raised
//! in is a foreign exception to the host, which nothing there can catch.

use crate::{Result, Wire};
use abi_stable::std_types::RResult;
use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How the message of a panic begins; part of the boundary.
pub(crate) const PANICKED: &str = "panicked";

thread_local! {
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Remembers where a panic arose in place of printing it; the host reports it. Once a library.
pub(super) fn quieten() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let place = info.location().map(ToString::to_string);
        PLACE.with(|slot| *slot.borrow_mut() = place);
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            loud(info);
        }
    }));
}

/// Runs `act`; an error or a panic of it becomes a message.
pub(crate) fn guard<T>(act: impl FnOnce() -> Result<T>) -> Wire<T> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(value)) => RResult::ROk(value),
        Ok(Err(error)) => RResult::RErr(error.to_string().into()),
        Err(payload) => RResult::RErr(panicked(payload).into()),
    }
}

fn panicked(payload: Box<dyn Any + Send>) -> String {
    let said = match (
        payload.downcast_ref::<&str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "something that is no text".to_owned(),
    };
    // Dropping a payload could panic once more.
    std::mem::forget(payload);
    match PLACE.with(|slot| slot.borrow_mut().take()) {
        Some(place) => format!("{PANICKED} at {place}: {said}"),
        None => format!("{PANICKED}: {said}"),
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
