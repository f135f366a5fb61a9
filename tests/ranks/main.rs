//! Several ranks on the CPU train what one process with as many times the accumulation trains, and end as they should. They talk
//! through MPI, so that these tests need the feature `mpi`: `cargo test --features mpi --test ranks`.
#![cfg(all(unix, feature = "mpi"))]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/curves.rs"]
mod golden;

mod context;
mod control;
mod curves;
mod faults;
mod hosts;
mod kills;
mod kinds;
mod launch;
mod processes;
mod recipe;
mod runs;
