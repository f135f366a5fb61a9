//! A component that ends the whole process, or a thread of its own.

use apus_sdk::{Callback, Control, Result, RunState, options, register};
use std::hint::black_box;

options! {
    struct Crashes {
        /// exit, abort, memory, stack, instruction, signal or thread.
        how: String = "exit".to_owned(),
        /// The signal that it sends itself.
        signal: i32 = 0,
    }
}

register! {
    /// Ends the process at the end of step 2, or panics on a thread of its own.
    Callback, "crashes", Crashes
}

unsafe extern "C" {
    fn raise(signal: i32) -> i32;
}

impl Callback for Crashes {
    fn on_step_end(&mut self, state: &RunState, _control: &mut Control) -> Result<()> {
        if state.global_step != 2 {
            return Ok(());
        }
        match self.how.as_str() {
            "exit" => std::process::exit(7),
            "abort" => std::process::abort(),
            // SAFETY: it is meant to fault: nothing is at this address.
            "memory" => {
                black_box(unsafe { std::ptr::read_volatile(black_box(8_usize) as *const u8) });
            }
            "stack" => {
                black_box(deep(black_box(1)));
            }
            "instruction" => unknown_instruction(),
            // SAFETY: raising a signal has no conditions.
            "signal" => {
                black_box(unsafe { raise(self.signal) });
            }
            "thread" => {
                let thread = std::thread::Builder::new().name("watcher".to_owned());
                let ended = thread.spawn(|| panic!("hostile on its own"))?.join();
                assert!(ended.is_err());
            }
            _ => {}
        }
        Ok(())
    }
}

/// Calls itself for ever.
#[allow(unconditional_recursion)]
fn deep(level: usize) -> usize {
    let place = black_box([level; 64]);
    deep(place[level % 64] + 1) + place[0]
}

fn unknown_instruction() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: it is meant to fault.
    unsafe {
        std::arch::asm!("ud2");
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: it is meant to fault.
    unsafe {
        std::arch::asm!("udf #0");
    }
}
