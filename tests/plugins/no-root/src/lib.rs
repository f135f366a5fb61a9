//! A library that is no plugin: a host must say so rather than run it.

/// Does nothing of use.
#[unsafe(no_mangle)]
pub extern "C" fn answer() -> i32 {
    42
}
