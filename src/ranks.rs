//! `NPROC_PER_NODE=N apus ...`: this process starts the ranks and waits for them.

use anyhow::{Context, Result};
use apus_world::launch::{self, Program};
use apus_world::place::{Children, Role, role};
use std::path::PathBuf;

/// Starts the ranks that the environment asks for, on cards or on the CPU by `device`, and returns the exit status of the
/// first that failed; nothing if this process is a run or a rank itself.
pub fn launch(device: &str) -> Result<Option<u8>> {
    let Role::Launcher(children) = role()? else {
        launch::print_apart()?;
        return Ok(None);
    };
    let program = Program {
        file: std::env::current_exe().context("the path of this program is not known")?,
        arguments: std::env::args_os().skip(1).collect(),
        outputs: outputs()?,
    };
    let signals = launch::count_signals()?;
    let status = match on_cards(device) {
        true => launch::cards(&program, &children, &signals),
        false => on_cpu(&program, &children, &signals),
    };
    if status.is_err() {
        // No rank has printed anything; it stays if one has.
        let _ = std::fs::remove_dir(&program.outputs);
    }
    Ok(Some(u8::try_from(status?).unwrap_or(1)))
}

/// A new folder for what ranks print. It must not be one that was there, as a name by the number of this process would be some
/// day: what another run has left behind in it would be taken for this one's.
fn outputs() -> Result<PathBuf> {
    let folder = tempfile::Builder::new().prefix("apus-ranks-").tempdir();
    let folder = folder.with_context(|| {
        let temporary = std::env::temp_dir();
        format!(
            "no folder for the output of ranks can be made in {} (TMPDIR names another)",
            temporary.display()
        )
    })?;
    Ok(folder.keep())
}

fn on_cards(device: &str) -> bool {
    cfg!(feature = "cuda") && device != "cpu"
}

#[cfg(feature = "mpi")]
fn on_cpu(
    program: &Program,
    children: &Children,
    signals: &std::sync::atomic::AtomicUsize,
) -> Result<i32> {
    launch::mpirun(program, children, signals)
}

#[cfg(not(feature = "mpi"))]
fn on_cpu(
    _program: &Program,
    children: &Children,
    _signals: &std::sync::atomic::AtomicUsize,
) -> Result<i32> {
    anyhow::bail!(
        "NPROC_PER_NODE is {}: ranks on the CPU talk through MPI, and this apus was built without it. Build it with --features \
         mpi (it needs libopenmpi-dev, openmpi-bin and libclang-dev), or with --features cuda for cards",
        children.local
    )
}
