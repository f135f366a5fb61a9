//! Turns panics of a library into errors, where they only mean bad input.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside [`catch`]. A panic there is not reported as a bug.
pub fn expected() -> bool {
    EXPECTED.get()
}

/// The result of `act`, or the message of its panic.
pub fn catch<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    let before = EXPECTED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(act));
    EXPECTED.set(before);
    result.map_err(|said| {
        let text = said.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| said.downcast_ref::<String>().cloned());
        text.unwrap_or_else(|| "no reason given".to_owned())
    })
}
