//! `NPROC_PER_NODE=N apus ...`: starts the ranks of this host and waits for them.
//!
//! The terminal is rank 0's; what the others print goes to a file each. A signal reaches every rank once, through the
//! launcher alone: a rank that got Ctrl-C from the terminal and from the launcher would take it for the second one, which
//! ends without saving.

use crate::outputs::{OUTPUTS, last_lines, tidy};
pub use crate::outputs::{output, print_apart};
use crate::place::{Children, LAUNCHED};
use anyhow::{Context, Result, ensure};
use apus_sdk::errln;
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long ranks may take to end after one of them has failed.
const GRACE: Duration = Duration::from_secs(25);

/// Time between two looks at the ranks.
const PAUSE: Duration = Duration::from_millis(50);

/// What runs as a rank.
#[derive(Debug, Clone)]
pub struct Program {
    /// The file.
    pub file: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The folder for the output of all ranks but 0.
    pub outputs: PathBuf,
}

/// Starts a process for each rank of this host and waits for all of them. Returns the exit status of the one that failed
/// first, or 0. `signals` counts those that came, as [`count_signals`] does.
///
/// # Errors
/// A rank cannot be started.
pub fn cards(program: &Program, children: &Children, signals: &AtomicUsize) -> Result<i32> {
    let (host, port) = &children.master;
    let port = match port {
        Some(port) => *port,
        None => free_port()?,
    };
    let mut ranks = Ranks::default();
    for local in 0..children.local {
        let rank = children.first + local;
        let mut command = Command::new(&program.file);
        command.args(&program.arguments);
        let variables = [
            (LAUNCHED, "1".to_owned()),
            ("RANK", rank.to_string()),
            ("LOCAL_RANK", local.to_string()),
            ("WORLD_SIZE", children.size.to_string()),
            ("LOCAL_WORLD_SIZE", children.local.to_string()),
            ("MASTER_ADDR", host.clone()),
            ("MASTER_PORT", port.to_string()),
        ];
        command.envs(variables).env(OUTPUTS, &program.outputs);
        ignore_terminal_signals(&mut command);
        ranks.start(rank, command)?;
    }
    Ok(ranks.wait(&program.outputs, signals))
}

/// Runs the ranks through mpirun of Open MPI, which passes SIGUSR1 on to them.
///
/// # Errors
/// There is no mpirun, or ranks on several hosts, which mpirun has to be told by its own options.
pub fn mpirun(program: &Program, children: &Children, signals: &AtomicUsize) -> Result<i32> {
    ensure!(
        children.local == children.size,
        "NNODES is above 1 ({} ranks, of which NPROC_PER_NODE starts {} on this host), and CPU ranks are started through mpirun, \
         which reaches other hosts by itself: leave NPROC_PER_NODE and NNODES out and start all of them once, mpirun -np {} \
         --hostfile HOSTS apus ..., where HOSTS has a line \"HOST slots=N\" for each host",
        children.size,
        children.local,
        children.size
    );
    let mut command = Command::new("mpirun");
    command
        .args([
            "--allow-run-as-root",
            "--quiet",
            "--oversubscribe",
            "--bind-to",
            "none",
            "-np",
        ])
        .arg(children.local.to_string())
        .arg(&program.file)
        .args(&program.arguments)
        .env(LAUNCHED, "1")
        .env(OUTPUTS, &program.outputs)
        // It would end all ranks at the Ctrl-C of the terminal.
        .process_group(0);
    let child = command.spawn().context(
        "mpirun cannot be started: CPU ranks need Open MPI (openmpi-bin), which apus was built for by the feature mpi",
    )?;
    let mut ranks = Ranks::default();
    ranks.running.push((0, child));
    ranks.signal = libc::SIGUSR1;
    Ok(ranks.wait(&program.outputs, signals))
}

/// A port of this host that nobody listens at.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port of this host is free")?;
    Ok(listener.local_addr()?.port())
}

/// Lets the process hear of signals from the launcher alone, which sends SIGTERM.
fn ignore_terminal_signals(command: &mut Command) {
    let ignore = || {
        for signal in [libc::SIGINT, libc::SIGHUP] {
            // SAFETY: no code runs at a signal that is ignored, and signal is safe between fork and exec.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        Ok(())
    };
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(ignore) };
}

/// Counts the signals that come from now on, each of which is passed on to the ranks.
///
/// # Errors
/// Signals are caught already.
pub fn count_signals() -> Result<Arc<AtomicUsize>> {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    apus_base::signals::on_signal(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    })?;
    Ok(count)
}

/// The processes of the ranks.
struct Ranks {
    running: Vec<(usize, Child)>,
    signal: i32,
}

impl Default for Ranks {
    fn default() -> Self {
        Self {
            running: Vec::new(),
            signal: libc::SIGTERM,
        }
    }
}

impl Ranks {
    fn start(&mut self, rank: usize, mut command: Command) -> Result<()> {
        let child = command.spawn();
        let child = child.with_context(|| format!("rank {rank} cannot be started"));
        match child {
            Ok(child) => {
                self.running.push((rank, child));
                Ok(())
            }
            Err(error) => {
                self.kill();
                Err(error)
            }
        }
    }

    /// Waits for all; the exit status of the first that failed.
    fn wait(mut self, outputs: &Path, signals: &AtomicUsize) -> i32 {
        let (mut passed_on, mut failed) = (0, None);
        while !self.running.is_empty() {
            while passed_on < signals.load(Ordering::SeqCst) {
                passed_on += 1;
                self.send_signal();
            }
            let mut ended = Vec::new();
            self.running
                .retain_mut(|(rank, child)| match child.try_wait() {
                    Ok(Some(status)) => {
                        ended.push((*rank, status));
                        false
                    }
                    _ => true,
                });
            for (rank, status) in ended {
                if !status.success() && failed.is_none() {
                    failed = Some((code(status), Instant::now()));
                    if rank > 0 {
                        errln!("{}", obituary(rank, status, outputs));
                    }
                }
            }
            if failed.is_some_and(|(_, since)| since.elapsed() > GRACE) {
                self.kill();
            }
            std::thread::sleep(PAUSE);
        }
        tidy(outputs);
        failed.map_or(0, |(code, _)| code)
    }

    fn send_signal(&self) {
        for (_, child) in &self.running {
            if let Ok(pid) = i32::try_from(child.id()) {
                // SAFETY: kill has no requirement; the child is not waited for yet, so that its number is still its own.
                unsafe { libc::kill(pid, self.signal) };
            }
        }
    }

    fn kill(&mut self) {
        for (_, child) in &mut self.running {
            // One that has ended meanwhile is waited for like the others.
            let _ = child.kill();
        }
    }
}

/// The status of a process as a shell has it: 128 and the signal that ended it.
fn code(status: ExitStatus) -> i32 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    }
}

/// What became of a rank, with the last lines that it printed.
fn obituary(rank: usize, status: ExitStatus, outputs: &Path) -> String {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    format!("rank {rank} {how}; {}", last_lines(outputs, rank))
}
