//! The processes of a program: the one that was started, and whatever it has started itself. They end together.
//!
//! A program is the first of a group of processes of its own, so that Ctrl-C is for the run, which tells the program when to
//! end, and so that what the program leaves behind can be found. Whatever ends this process, by `exit` or by a signal that can
//! be caught, ends the groups too.

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long is waited between two looks at a process.
const LOOK: Duration = Duration::from_millis(2);

/// Numbers of the groups that may have processes; 0 is none. A signal handler reads them, so there is no lock.
static ALL: [AtomicU32; 64] = [const { AtomicU32::new(0) }; 64];

/// A program and what it has started.
pub struct Group {
    process: Child,
    status: Option<ExitStatus>,
}

impl Group {
    /// Starts a program as the first of a group.
    ///
    /// # Errors
    /// The system does not start it.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        system::lead_a_group(command);
        system::end_with_this_process();
        let process = command.spawn()?;
        replace(0, process.id());
        Ok(Self {
            process,
            status: None,
        })
    }

    /// The program itself, for its pipes.
    pub fn process(&mut self) -> &mut Child {
        &mut self.process
    }

    /// Waits for the end of the program; what it has left behind is ended with it.
    pub fn wait(&mut self, at_most: Duration) -> Option<ExitStatus> {
        let since = Instant::now();
        while self.status.is_none() {
            if system::has_ended(&mut self.process) {
                self.kill();
            } else if since.elapsed() > at_most {
                return None;
            } else {
                thread::sleep(LOOK);
            }
        }
        self.status
    }

    /// Ends the program and what it has started.
    pub fn kill(&mut self) {
        if self.status.is_some() {
            return;
        }
        // Before it is waited for: until then the number is this group's.
        system::kill(self.process.id());
        let _ = self.process.kill();
        replace(self.process.id(), 0);
        self.status = self.process.wait().ok();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Puts a number in the place of another. A group that finds no place lives on if this process is ended by a signal.
fn replace(old: u32, new: u32) {
    for place in &ALL {
        let changed = place.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst);
        if changed.is_ok() {
            return;
        }
    }
}

#[cfg(unix)]
mod system {
    use super::ALL;
    use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};
    use std::sync::Once;
    use std::sync::atomic::Ordering;

    /// The signals that end this process while nobody has asked for them, as Ctrl-C does before there is anything to save.
    const ENDING: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

    pub(super) fn lead_a_group(command: &mut Command) {
        command.process_group(0);
    }

    fn pid(number: u32) -> Option<Pid> {
        i32::try_from(number).ok().and_then(Pid::from_raw)
    }

    pub(super) fn kill(number: u32) {
        if let Some(group) = pid(number) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// Whether the program has ended. It stays to be waited for, so that its number remains its own.
    pub(super) fn has_ended(process: &mut Child) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let found = pid(process.id()).map(|pid| waitid(WaitId::Pid(pid), options));
        !matches!(found, Some(Ok(None)))
    }

    extern "C" fn kill_all() {
        for number in &ALL {
            kill(number.load(Ordering::SeqCst));
        }
    }

    extern "C" fn kill_all_and_end(signal: libc::c_int) {
        kill_all();
        // SAFETY: both may be called in a handler; the signal ends this process as it would have without it.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }

    /// Has all groups ended when this process ends. Signals that somebody handles or ignores are left to that; whoever
    /// handles them later takes the place of this.
    pub(super) fn end_with_this_process() {
        static ONCE: Once = Once::new();
        // SAFETY: `kill_all` does not unwind and takes nothing. A handler is put only where the default action was, which
        // zeros are a place for; what it calls may be called in a handler.
        ONCE.call_once(|| unsafe {
            libc::atexit(kill_all);
            for signal in ENDING {
                let mut present = std::mem::zeroed::<libc::sigaction>();
                let read = libc::sigaction(signal, std::ptr::null(), &raw mut present);
                if read == 0 && present.sa_sigaction == libc::SIG_DFL {
                    libc::signal(signal, kill_all_and_end as *const () as libc::sighandler_t);
                }
            }
        });
    }
}

#[cfg(not(unix))]
mod system {
    use std::process::{Child, Command};

    pub(super) fn lead_a_group(_command: &mut Command) {}

    pub(super) fn kill(_number: u32) {}

    pub(super) fn has_ended(process: &mut Child) -> bool {
        !matches!(process.try_wait(), Ok(None))
    }

    pub(super) fn end_with_this_process() {}
}
