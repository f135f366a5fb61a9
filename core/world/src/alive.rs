//! Who is alive: the threads that read the connections, send beats and judge those of others.
//!
//! They never wait for the work of the rank, nor for one that takes no more of what it is sent: whatever a rank is in, it hears
//! within seconds that another one has failed.

use crate::frame::{Activity, Frame};
use crate::rendezvous::Hello;
use crate::watch::{Board, Verdict};
use anyhow::{Context, Result};
use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Time between two beats.
const BEAT: Duration = Duration::from_secs(1);

/// Between two beats of this process itself: what takes longer means that it was stopped, as by Ctrl-Z or a machine that sleeps.
const STOPPED: Duration = Duration::from_secs(4);

/// How long the last words to a rank may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why the run has failed elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which rank, where and why.
    pub text: String,
    /// The newest checkpoint.
    pub saved: Option<String>,
    /// Whether rank 0 has told this rank, and so says it itself.
    pub told: bool,
}

/// Ends the process of a rank when the run has failed elsewhere.
pub type OnFailure = Arc<dyn Fn(&Failure) + Send + Sync>;

/// Ends the process without what the end of a process usually runs: libraries that another thread is inside of, as CUDA's,
/// must not be taken down under it.
pub fn exit_at_once(status: i32) -> ! {
    #[cfg(unix)]
    // SAFETY: it returns to nobody, and runs no code of this process.
    unsafe {
        libc::_exit(status)
    }
    #[cfg(not(unix))]
    std::process::exit(status)
}

/// What the connections of a rank have in common.
pub(crate) struct Shared {
    pub rank: usize,
    pub ranks: Vec<Hello>,
    /// The sending side of each connection.
    pub links: Vec<Mutex<TcpStream>>,
    pub board: Mutex<Board>,
    /// The newest report of each rank, empty before the first.
    pub reports: Mutex<Vec<Vec<u8>>>,
    pub ended: AtomicBool,
    /// The process that has started this one, if its end is that of the run.
    pub parent: Mutex<Option<u32>>,
    pub on_failure: OnFailure,
}

impl Shared {
    /// Sends a frame by one of the connections.
    pub fn send(&self, at: usize, frame: &Frame) -> Result<()> {
        let sent = frame.write(&mut *locked(&self.links[at]));
        sent.with_context(|| format!("{} is gone", self.peer(at).described()))
    }

    /// The rank at the other end of a connection.
    pub fn peer(&self, at: usize) -> &Hello {
        match self.rank {
            0 => &self.ranks[at + 1],
            _ => &self.ranks[0],
        }
    }

    /// Reads what a peer sends, until it has finished or is gone.
    pub fn read(&self, stream: TcpStream, peer: usize, inbox: &Sender<Vec<u8>>) {
        let mut heard = Heard {
            stream,
            peer,
            board: &self.board,
        };
        loop {
            match Frame::read(&mut heard) {
                Ok(Frame::Data(bytes)) => {
                    if inbox.send(bytes).is_err() {
                        return;
                    }
                }
                Ok(Frame::Beat(bytes)) => {
                    let activity: Option<Activity> = serde_json::from_slice(&bytes).ok();
                    if self.rank == 0 && activity.as_ref().is_some_and(|activity| activity.asked) {
                        apus_base::signals::ask();
                    }
                    locked(&self.board).heard(peer, activity);
                }
                Ok(Frame::Report(bytes)) => locked(&self.reports)[peer] = bytes,
                Ok(Frame::Failed(text)) => return self.spread(&text, peer == 0),
                Ok(Frame::Bye) => return locked(&self.board).left(peer),
                Ok(Frame::Hello(_) | Frame::Welcome(_)) => {}
                Err(_) if self.ended.load(Ordering::SeqCst) => return,
                Err(error) => {
                    let who = self.ranks[peer].described();
                    let doing = locked(&self.board).doing(peer);
                    let text =
                        format!("the connection to {who} has ended ({error:#}); it was {doing}");
                    return self.spread(&text, false);
                }
            }
        }
    }

    /// Judges the beats of others, and sends its own.
    pub fn beat(&self) {
        let (mut last, mut sending) = (Instant::now(), Duration::ZERO);
        while !self.ended.load(Ordering::SeqCst) {
            // It was stopped itself, perhaps with all others, and has heard nobody.
            if last.elapsed() > STOPPED + sending {
                locked(&self.board).begin_anew();
            }
            last = Instant::now();
            if let Some(text) = self.judge() {
                return self.spread(&text, false);
            }
            sending = self.send_beat(false);
            thread::sleep(BEAT);
        }
    }

    /// Sends what this rank is at, by connections that are being used only if it `waits` for them: what is being sent is as good a
    /// sign of life, and may be more than a rank that has stopped takes.
    /// Returns how long that took.
    pub fn send_beat(&self, waits: bool) -> Duration {
        let beat = {
            let mut board = locked(&self.board);
            let own = board.own(self.rank);
            own.component = apus_base::doing::now();
            own.asked = apus_base::signals::asked();
            serde_json::to_vec(own).unwrap_or_default()
        };
        let frame = Frame::Beat(beat);
        let began = Instant::now();
        for link in &self.links {
            let link = match waits {
                true => Some(locked(link)),
                false => link.try_lock().ok(),
            };
            if let Some(mut link) = link {
                // The reader of this connection says why it is gone.
                let _ = frame.write(&mut *link);
            }
        }
        began.elapsed()
    }

    /// Why the run cannot go on.
    fn judge(&self) -> Option<String> {
        if let Some(parent) = *locked(&self.parent)
            && parent_now() != parent
        {
            return Some(format!(
                "{} has lost process {parent}, which has started it",
                self.ranks[self.rank].described()
            ));
        }
        match locked(&self.board).verdict(self.rank) {
            Verdict::GoesOn => None,
            Verdict::Failed(rank, why) => Some(format!("{} {why}", self.ranks[rank].described())),
        }
    }

    /// Ends the run everywhere, once. Rank 0 passes on to the others what one of them has told it.
    fn spread(&self, text: &str, told: bool) {
        if self.ended.swap(true, Ordering::SeqCst) {
            return;
        }
        self.tell_all(text);
        let failure = Failure {
            text: text.to_owned(),
            saved: locked(&self.board).saved(),
            told,
        };
        (self.on_failure)(&failure);
    }

    /// Tells all who listen that the run has ended, and why.
    pub fn tell_all(&self, text: &str) {
        let failed = Frame::Failed(text.to_owned());
        for link in &self.links {
            let until = Instant::now() + LAST_WORDS;
            // One that is held by a sender whose words are not taken is left to notice that the connection closes.
            while Instant::now() < until {
                if let Ok(mut link) = link.try_lock() {
                    let _ = link.set_write_timeout(Some(LAST_WORDS));
                    // Whoever is gone needs not be told.
                    let _ = failed.write(&mut *link);
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// This rank has finished.
    pub fn end(&self) {
        if self.ended.swap(true, Ordering::SeqCst) {
            return;
        }
        for link in &self.links {
            let mut link = locked(link);
            // A peer that has finished before is gone already.
            let _ = Frame::Bye.write(&mut *link);
            let _ = link.shutdown(Shutdown::Write);
        }
    }
}

/// A connection of which every byte that comes is a sign of life.
struct Heard<'a> {
    stream: TcpStream,
    peer: usize,
    board: &'a Mutex<Board>,
}

impl Read for Heard<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.stream.read(buffer);
        if read.as_ref().is_ok_and(|&count| count > 0) {
            locked(self.board).heard(self.peer, None);
        }
        read
    }
}

fn parent_now() -> u32 {
    #[cfg(unix)]
    return std::os::unix::process::parent_id();
    #[cfg(not(unix))]
    return 0;
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
