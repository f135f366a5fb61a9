//! The connections between rank 0 and the others while a run goes on: bytes that travel between them, and the watch over
//! who is alive.
//!
//! Tensors do not come this way: cards and CPU processes have faster ones ([`Collectives`](crate::Collectives)). What does
//! is small and belongs to the course of a run: settings, what callbacks ask for, how a run ends. A rank that dies is
//! seen here within seconds, also while all others wait in a collective that would never end.

use crate::frame::{Activity, Frame};
use crate::rendezvous::{Hello, Met};
use crate::watch::{Board, Limits, Verdict};
use anyhow::{Context, Result, bail, ensure};
use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Time between two beats.
const BEAT: Duration = Duration::from_secs(1);

/// Between two beats of this process itself: what is longer means that it was stopped, as by Ctrl-Z or a machine that sleeps.
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

/// The connections of a rank.
pub struct Control {
    shared: Arc<Shared>,
    /// Nanoseconds in [`Control::waiting`].
    waited: AtomicU64,
    /// What the others have sent, in the order of [`Met::links`].
    inboxes: Vec<Receiver<Vec<u8>>>,
}

struct Shared {
    rank: usize,
    ranks: Vec<Hello>,
    /// The sending side of each connection.
    links: Vec<Mutex<TcpStream>>,
    board: Mutex<Board>,
    /// The newest report of each rank, empty before the first.
    reports: Mutex<Vec<Vec<u8>>>,
    ended: AtomicBool,
    /// The process that has started this one, if its end is that of the run.
    parent: Mutex<Option<u32>>,
    on_failure: OnFailure,
}

/// Numbers that ranks tell rank 0 whenever they have new ones, from any thread and whatever else travels: who asks gets the
/// newest.
#[derive(Clone)]
pub struct Reports(Arc<Shared>);

impl Reports {
    /// Tells rank 0 newer numbers; those of rank 0 itself go nowhere. A run that is ending needs none.
    pub fn send(&self, bytes: Vec<u8>) {
        let Self(shared) = self;
        if shared.rank > 0 && !shared.ended.load(Ordering::SeqCst) {
            // The reader of this connection says why it is gone.
            let _ = shared.send(0, &Frame::Report(bytes));
        }
    }

    /// At rank 0 the newest of every rank; empty where there is none.
    pub fn newest(&self) -> Vec<Vec<u8>> {
        locked(&self.0.reports).clone()
    }
}

impl Control {
    /// Takes the connections and watches over them. `silence` is how long a rank may be without a sign of life, and
    /// `patience` how long a rank may wait in a collective for one that does not come (`ddp_timeout`).
    ///
    /// # Errors
    /// A connection that is gone already.
    pub fn new(met: Met, rank: usize, limits: Limits, on_failure: OnFailure) -> Result<Self> {
        let readers = met.links.iter().map(TcpStream::try_clone);
        let readers = readers.collect::<std::io::Result<Vec<_>>>()?;
        let peers: Vec<usize> = match rank {
            0 => (1..met.ranks.len()).collect(),
            _ => vec![0],
        };
        let shared = Arc::new(Shared {
            rank,
            board: Mutex::new(Board::new(met.ranks.len(), limits)),
            reports: Mutex::new(vec![Vec::new(); met.ranks.len()]),
            ranks: met.ranks,
            links: met.links.into_iter().map(Mutex::new).collect(),
            ended: AtomicBool::new(false),
            parent: Mutex::new(None),
            on_failure,
        });
        let mut inboxes = Vec::new();
        for (stream, peer) in readers.into_iter().zip(peers) {
            stream.set_read_timeout(None)?;
            // A rank takes what it is sent at all times, or has stopped.
            stream.set_write_timeout(Some(limits.silence))?;
            let (sender, inbox) = mpsc::channel();
            let shared = Arc::clone(&shared);
            let name = format!("rank {peer}");
            thread::Builder::new()
                .name(name)
                .spawn(move || shared.read(stream, peer, &sender))?;
            inboxes.push(inbox);
        }
        let beating = Arc::clone(&shared);
        thread::Builder::new()
            .name("beat".to_owned())
            .spawn(move || beating.beat())?;
        Ok(Self {
            shared,
            waited: AtomicU64::new(0),
            inboxes,
        })
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.shared.rank
    }

    /// All ranks.
    pub fn ranks(&self) -> &[Hello] {
        &self.shared.ranks
    }

    /// What ranks report beside their work.
    pub fn reports(&self) -> Reports {
        Reports(Arc::clone(&self.shared))
    }

    /// Ends the run if the process ends that has started this one.
    pub fn watch_parent(&self, parent: u32) {
        *locked(&self.shared.parent) = Some(parent);
    }

    /// Tells the others of the newest checkpoint, at once: a rank that is killed tells nothing any more.
    pub fn note_checkpoint(&self, path: String) {
        locked(&self.shared.board).own(self.shared.rank).saved = Some(path);
        self.shared.send_beat(true);
    }

    /// The newest checkpoint of the run.
    pub fn saved(&self) -> Option<String> {
        locked(&self.shared.board).saved()
    }

    /// Says what this rank does from now on.
    pub fn enter(&self, name: &str, unhurried: bool) {
        let mut board = locked(&self.shared.board);
        let own = board.own(self.shared.rank);
        own.name.clear();
        own.name.push_str(name);
        own.unhurried = unhurried;
    }

    /// Runs what all ranks have to come to; the watch knows that this one waits there.
    pub fn waiting<R>(&self, run: impl FnOnce() -> R) -> R {
        let began = Instant::now();
        let result = self.watched(run);
        let time = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.waited.fetch_add(time, Ordering::Relaxed);
        result
    }

    /// As [`waiting`](Self::waiting), where the time is counted elsewhere: a card may compute meanwhile.
    pub fn watched<R>(&self, run: impl FnOnce() -> R) -> R {
        let set = |waits: bool| {
            let mut board = locked(&self.shared.board);
            board.wait(self.shared.rank, waits);
        };
        set(true);
        let result = run();
        set(false);
        result
    }

    /// How long this rank was there in all.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    /// At rank 0 what all ranks have given, by rank; elsewhere nothing.
    ///
    /// # Errors
    /// A connection is gone.
    pub fn gather(&self, bytes: Vec<u8>) -> Result<Option<Vec<Vec<u8>>>> {
        self.waiting(|| match self.rank() {
            0 => {
                let mut all = vec![bytes];
                for at in 0..self.inboxes.len() {
                    all.push(self.receive(at)?);
                }
                Ok(Some(all))
            }
            _ => self.shared.send(0, &Frame::Data(bytes)).map(|()| None),
        })
    }

    /// What rank 0 gives, at every rank; the others' argument does not count.
    ///
    /// # Errors
    /// A connection is gone.
    pub fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        self.waiting(|| match self.rank() {
            0 => {
                let frame = Frame::Data(bytes);
                for at in 0..self.inboxes.len() {
                    self.shared.send(at, &frame)?;
                }
                match frame {
                    Frame::Data(bytes) => Ok(bytes),
                    _ => bail!("the frame is of data"),
                }
            }
            _ => self.receive(0),
        })
    }

    /// Gives each rank its own from rank 0, whose list has one for every rank; the others' argument does not count.
    ///
    /// # Errors
    /// A connection is gone, or a list of another length.
    pub fn scatter(&self, all: Vec<Vec<u8>>) -> Result<Vec<u8>> {
        self.waiting(|| {
            if self.rank() != 0 {
                return self.receive(0);
            }
            ensure!(
                all.len() == self.ranks().len(),
                "{} parts for {} ranks",
                all.len(),
                self.ranks().len()
            );
            let mut parts = all.into_iter();
            let own = parts.next().unwrap_or_default();
            for (at, part) in parts.enumerate() {
                self.shared.send(at, &Frame::Data(part))?;
            }
            Ok(own)
        })
    }

    /// Returns when all ranks have come here.
    ///
    /// # Errors
    /// A connection is gone.
    pub fn barrier(&self) -> Result<()> {
        self.gather(Vec::new())?;
        self.broadcast(Vec::new()).map(drop)
    }

    /// Refuses ranks that differ in what has to be the same: names and values, in the same order on all ranks.
    ///
    /// # Errors
    /// Ranks differ; every rank gets the same error, which names the first difference.
    pub fn agree(&self, values: &[(String, String)]) -> Result<()> {
        let verdict = match self.gather(serde_json::to_vec(values)?)? {
            None => Vec::new(),
            Some(all) => {
                let all = all.iter().map(|bytes| serde_json::from_slice(bytes));
                let all = all.collect::<serde_json::Result<Vec<Vec<(String, String)>>>>()?;
                difference(&all, self.ranks())
                    .unwrap_or_default()
                    .into_bytes()
            }
        };
        let verdict = String::from_utf8(self.broadcast(verdict)?)?;
        if !verdict.is_empty() {
            // Nobody needs to be told.
            self.finish();
            bail!("{verdict}");
        }
        Ok(())
    }

    fn receive(&self, at: usize) -> Result<Vec<u8>> {
        self.inboxes[at]
            .recv()
            .with_context(|| format!("{} is gone", self.shared.peer(at).described()))
    }

    /// Ends the run on all other ranks: this one cannot go on, for this reason, and ends by itself.
    pub fn fail(&self, cause: &str) {
        if self.shared.ended.swap(true, Ordering::SeqCst) {
            return;
        }
        let who = self.shared.ranks[self.shared.rank].described();
        self.shared.tell_all(&format!("{who}: {cause}"));
    }

    /// This rank has finished: from now on connections may close.
    pub fn finish(&self) {
        self.shared.end();
    }
}

/// The first value that a rank has otherwise than rank 0.
fn difference(all: &[Vec<(String, String)>], ranks: &[Hello]) -> Option<String> {
    let (zero, others) = all.split_first()?;
    for (other, rank) in others.iter().zip(&ranks[1..]) {
        let count = zero.len().max(other.len());
        let pair = |values: &[(String, String)], at: usize| {
            let none = || ("nothing more".to_owned(), String::new());
            values.get(at).cloned().unwrap_or_else(none)
        };
        for at in 0..count {
            let (here, there) = (pair(zero, at), pair(other, at));
            if here != there {
                return Some(format!(
                    "{} has {} {}, {} has {} {}: all ranks have to be started with the same configuration, data and plugins",
                    ranks[0].described(),
                    here.0,
                    here.1,
                    rank.described(),
                    there.0,
                    there.1
                ));
            }
        }
    }
    None
}

impl Shared {
    fn send(&self, at: usize, frame: &Frame) -> Result<()> {
        let sent = frame.write(&mut *locked(&self.links[at]));
        sent.with_context(|| format!("{} is gone", self.peer(at).described()))
    }

    /// The rank at the other end of a connection.
    fn peer(&self, at: usize) -> &Hello {
        match self.rank {
            0 => &self.ranks[at + 1],
            _ => &self.ranks[0],
        }
    }

    /// Reads what a peer sends, until it has finished or is gone.
    fn read(&self, stream: TcpStream, peer: usize, inbox: &Sender<Vec<u8>>) {
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
    fn beat(&self) {
        let mut last = Instant::now();
        while !self.ended.load(Ordering::SeqCst) {
            // It was stopped itself, perhaps with all others, and has heard nobody.
            if last.elapsed() > STOPPED {
                locked(&self.board).begin_anew();
            }
            last = Instant::now();
            if let Some(text) = self.judge() {
                return self.spread(&text, false);
            }
            self.send_beat(false);
            thread::sleep(BEAT);
        }
    }

    /// Sends what this rank is at, by connections that are being used only if it `waits` for them: what is being sent is as good a
    /// sign of life, and may be more than a rank that has stopped takes.
    fn send_beat(&self, waits: bool) {
        let beat = {
            let mut board = locked(&self.board);
            let own = board.own(self.rank);
            own.component = apus_base::doing::now();
            own.asked = apus_base::signals::asked();
            serde_json::to_vec(own).unwrap_or_default()
        };
        let frame = Frame::Beat(beat);
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

    fn tell_all(&self, text: &str) {
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

    fn end(&self) {
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

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
