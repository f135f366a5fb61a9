//! Panics of a library that only mean bad input.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside [`catch`]: what panics there is no bug to be reported.
pub fn expected() -> bool {
    EXPECTED.get()
}

/// What `act` gives, or what its panic said.
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
