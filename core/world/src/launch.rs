//! `NPROC_PER_NODE=N apus ...`: starts the ranks of this host and waits for them.
//!
//! The terminal is rank 0's; what the others print goes to a file each. A signal reaches every rank once, through the
//! launcher alone: a rank that got Ctrl-C from the terminal and from the launcher would take it for the second one, which
//! ends without saving.

use crate::outputs::{OUTPUTS, last_lines, take_last_words, tidy};
pub use crate::outputs::{last_words, output, print_apart};
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

/// How long ranks may take to end after one of them has failed. One that has stopped is known after the silence that is allowed,
/// and both together stay below half a minute.
const GRACE: Duration = Duration::from_secs(8);

/// The status of a run that a signal has ended.
const INTERRUPTED: i32 = 130;

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
        // Nobody else would end one that has stopped.
        end_with_this_process(&mut command, libc::SIGKILL);
        ranks.start(format!("rank {rank}"), (rank > 0).then_some(rank), command)?;
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
    // It ends its ranks before it ends itself.
    end_with_this_process(&mut command, libc::SIGTERM);
    let mut ranks = Ranks {
        signal: libc::SIGUSR1,
        ..Ranks::default()
    };
    ranks.start("mpirun".to_owned(), None, command).context(
        "CPU ranks need Open MPI (openmpi-bin), which apus was built for by the feature mpi",
    )?;
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

/// Lets the process get a signal when this one ends in whatever way, as by a kill -9 that it cannot pass on.
#[cfg(target_os = "linux")]
fn end_with_this_process(command: &mut Command, signal: i32) {
    let parent = std::process::id();
    let bind = move || {
        // SAFETY: two system calls without memory of ours, which are safe between fork and exec.
        let bound = unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, signal) == 0
                && u32::try_from(libc::getppid()) == Ok(parent)
        };
        match bound {
            true => Ok(()),
            false => Err(std::io::Error::from_raw_os_error(libc::ESRCH)),
        }
    };
    // SAFETY: the closure makes system calls and allocates nothing.
    unsafe { command.pre_exec(bind) };
}

/// Elsewhere ranks see it themselves, by [`Control::watch_parent`](crate::Control::watch_parent).
#[cfg(not(target_os = "linux"))]
fn end_with_this_process(_: &mut Command, _: i32) {}

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

/// A process that was started.
struct Started {
    name: String,
    /// Its rank, if it prints apart.
    apart: Option<usize>,
    child: Child,
}

/// The processes of the ranks.
struct Ranks {
    running: Vec<Started>,
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
    fn start(&mut self, name: String, apart: Option<usize>, mut command: Command) -> Result<()> {
        let child = command.spawn();
        match child.with_context(|| format!("{name} cannot be started")) {
            Ok(child) => {
                self.running.push(Started { name, apart, child });
                Ok(())
            }
            Err(error) => {
                self.kill();
                Err(error)
            }
        }
    }

    /// Waits for all; the exit status of the first that failed. After a signal it is that of the first process, which is rank 0
    /// on its host: others may not have come so far that they catch signals.
    fn wait(mut self, outputs: &Path, signals: &AtomicUsize) -> i32 {
        let first = self.running.first().map(|started| started.child.id());
        let (mut passed_on, mut failed, mut of_first) = (0, None, None);
        while !self.running.is_empty() {
            while passed_on < signals.load(Ordering::SeqCst) {
                passed_on += 1;
                self.send_signal();
            }
            let ended = self.running.extract_if(.., |started| {
                matches!(started.child.try_wait(), Ok(Some(_)))
            });
            for mut started in ended.collect::<Vec<_>>() {
                let Ok(status) = started.child.wait() else {
                    continue;
                };
                let code = match code(status) {
                    // It did not catch it yet.
                    code if passed_on > 0 && code == 128 + self.signal => INTERRUPTED,
                    code => code,
                };
                if Some(started.child.id()) == first {
                    of_first = Some(code);
                }
                if code != 0 && failed.is_none() {
                    failed = Some((code, Instant::now()));
                    if passed_on > 0 && (of_first.is_none() || code == INTERRUPTED) {
                        continue;
                    }
                    if let Some(text) = obituary(&started, status, outputs) {
                        errln!("{text}");
                    }
                }
            }
            // After a signal, ranks lose each other because they end.
            let is_news = passed_on == 0 || failed.is_some_and(|(code, _)| code != INTERRUPTED);
            if let Some(text) = take_last_words(outputs).filter(|_| is_news) {
                errln!("{text}");
            }
            if failed.is_some_and(|(_, since)| since.elapsed() > GRACE) {
                self.kill();
            }
            std::thread::sleep(PAUSE);
        }
        tidy(outputs);
        match (failed, of_first) {
            (Some(_), Some(code)) if passed_on > 0 => code,
            (Some((code, _)), _) => code,
            (None, _) => 0,
        }
    }

    fn send_signal(&self) {
        for started in &self.running {
            if let Ok(pid) = i32::try_from(started.child.id()) {
                // SAFETY: kill has no requirement; the child is not waited for yet, so that its number is still its own.
                unsafe { libc::kill(pid, self.signal) };
            }
        }
    }

    fn kill(&mut self) {
        for started in &mut self.running {
            // One that has ended meanwhile is waited for like the others.
            let _ = started.child.kill();
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

/// What became of a process, with the last lines that it printed; nothing where it has said so itself at the terminal.
fn obituary(started: &Started, status: ExitStatus, outputs: &Path) -> Option<String> {
    let how = match (status.code(), status.signal()) {
        (_, Some(libc::SIGKILL)) => {
            "was killed (signal 9), as when the host's memory is full".to_owned()
        }
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        (Some(_), None) if started.apart.is_none() => return None,
        (Some(code), None) => format!("ended with status {code}"),
        (None, None) => "ended".to_owned(),
    };
    let who = format!("{} (process {})", started.name, started.child.id());
    let last = started.apart.map(|rank| last_lines(outputs, rank));
    Some(match last {
        Some(last) => format!("error: {who} {how}; {last}"),
        None => format!("error: {who} {how}"),
    })
}
