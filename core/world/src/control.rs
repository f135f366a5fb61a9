//! The connections between rank 0 and the others while a run goes on: bytes that travel between them, and the watch over
//! who is alive.
//!
//! Tensors do not come this way: cards and CPU processes have faster ones ([`Collectives`](crate::Collectives)). What does
//! is small and belongs to the course of a run: settings, what callbacks ask for, how a run ends. A rank that dies is
//! seen here within seconds, also while all others wait in a collective that would never end.

pub use crate::alive::{Failure, OnFailure, exit_at_once};
use crate::alive::{Shared, locked};
use crate::frame::Frame;
use crate::rendezvous::{Hello, Met};
use crate::watch::{Board, Limits};
use anyhow::{Context, Result, bail, ensure};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The connections of a rank.
pub struct Control {
    shared: Arc<Shared>,
    /// Nanoseconds in [`Control::waiting`].
    waited: AtomicU64,
    /// What the others have sent, in the order of [`Met::links`].
    inboxes: Vec<Receiver<Vec<u8>>>,
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
