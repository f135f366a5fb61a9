//! What is said when a plugin's library ends the process: by `exit`, or by a fault.
//!
//! A library can do either, and then a run is over without a word. So a line says which component this thread was in. What
//! happens else stays: the exit status, the dump, what the system or a handler before this one says (that of the standard
//! library, which tells an overflown stack). Code outside of components is not talked about. A library that puts a handler of its
//! own later, as some builds of MPI do, takes the place of this one.

#[cfg(unix)]
pub use unix::watch;

/// Says from now on which component ends the process.
#[cfg(not(unix))]
pub fn watch() {}

#[cfg(unix)]
mod unix {
    use std::ffi::c_void;
    use std::ptr::null_mut;
    use std::sync::Once;
    use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

    /// Faults, with their names.
    const FAULTS: [(libc::c_int, &str); 5] = [
        (
            libc::SIGSEGV,
            "SIGSEGV, an access to memory that is not its own",
        ),
        (
            libc::SIGBUS,
            "SIGBUS, an access to memory that is not there",
        ),
        (libc::SIGFPE, "SIGFPE, a division that has no result"),
        (
            libc::SIGILL,
            "SIGILL, an instruction that the processor does not know",
        ),
        (libc::SIGABRT, "SIGABRT, it gave up"),
    ];

    /// What was done at each of them before.
    static BEFORE: [AtomicPtr<libc::sigaction>; FAULTS.len()] =
        [const { AtomicPtr::new(null_mut()) }; FAULTS.len()];

    /// Whether something was said: an overflown stack is a fault first, and then the standard library gives up.
    static SAID: AtomicBool = AtomicBool::new(false);

    /// Says from now on which component ends the process.
    pub fn watch() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: `at_exit` takes nothing and does not unwind; `handle` calls only what a handler may call, on the
            // stack for handlers, since its own may be what is full. Zeros are a value of these structures.
            unsafe {
                libc::atexit(at_exit);
                for ((signal, _), before) in FAULTS.iter().zip(&BEFORE) {
                    let mut action = std::mem::zeroed::<libc::sigaction>();
                    action.sa_sigaction = handle as *const () as libc::sighandler_t;
                    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                    libc::sigemptyset(&raw mut action.sa_mask);
                    let old = Box::into_raw(Box::new(std::mem::zeroed()));
                    before.store(old, Ordering::SeqCst);
                    libc::sigaction(*signal, &raw const action, old);
                }
            }
        });
    }

    extern "C" fn at_exit() {
        if let Some(component) = apus_sdk::abi::running()
            && !SAID.swap(true, Ordering::SeqCst)
        {
            say(&[
                "\nerror: ",
                component,
                ": it has ended the whole process by calling exit, where it should return an error\n",
            ]);
        }
    }

    extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
        let name = FAULTS.iter().find(|(known, _)| *known == signal);
        if let (Some(component), Some((_, name))) = (apus_sdk::abi::running(), name)
            && !SAID.swap(true, Ordering::SeqCst)
        {
            say(&[
                "\nerror: ",
                component,
                ": it ends the whole process by ",
                *name,
                "\n",
            ]);
        }
        // SAFETY: the system gives a handler its `info`; what was before came from boxes that stay. All that is called may be
        // called in a handler.
        unsafe {
            // Nothing is said a second time, and a handler inside of another could overflow the stack for handlers.
            for ((signal, _), before) in FAULTS.iter().zip(&BEFORE) {
                libc::sigaction(*signal, before.load(Ordering::SeqCst), null_mut());
            }
            // After a fault the instruction is run again, and then faults as if nobody had watched. Where somebody has sent the
            // signal nothing would fault again.
            let is_fault = signal != libc::SIGABRT && !info.is_null() && (*info).si_code > 0;
            if !is_fault {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
        }
    }

    /// Writes to standard error without anything that could wait or allocate.
    fn say(parts: &[&str]) {
        let mut line = [0; 1024];
        let mut end = 0;
        for part in parts {
            let part = &part.as_bytes()[..part.len().min(line.len() - end)];
            line[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
        // SAFETY: the bytes are there as long as the call.
        unsafe {
            libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), end);
        }
    }
}
