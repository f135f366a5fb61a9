//! Ranks that talk through MPI: this test's own binary, started again by mpirun.
#![cfg(feature = "mpi")]

mod common;

use apus_world::launch;
use apus_world::mpi::Mpi;
use apus_world::{Buffer, Collectives};
use common::{program, ranks};
use std::sync::atomic::AtomicUsize;

/// The body of a rank; started by the other test.
#[test]
#[ignore = "a rank of the other test"]
fn a_rank() {
    let mpi = Mpi::start().unwrap();
    let (rank, size) = mpi.place();
    assert_eq!(size, 3);
    assert_eq!(
        mpi.broadcast_bytes(if rank == 0 {
            b"at a port".to_vec()
        } else {
            Vec::new()
        }),
        b"at a port"
    );

    let mut values: Vec<f32> = (0..1000).map(|at| (at + rank) as f32).collect();
    mpi.sum(Buffer::F32(&mut values)).unwrap();
    assert!((0..1000).all(|at| values[at] == (3 * at + 3) as f32));

    let mut value = [if rank == 1 { 7.0 } else { 0.0 }];
    mpi.broadcast(Buffer::F64(&mut value), 1).unwrap();
    assert_eq!(value, [7.0]);

    let (mut part, mut all) = ([rank as u8; 2], [9; 6]);
    mpi.gather(Buffer::U8(&mut part), Buffer::U8(&mut all))
        .unwrap();
    assert_eq!(all, [0, 0, 1, 1, 2, 2]);
    assert!(
        mpi.gather(Buffer::U8(&mut part), Buffer::U8(&mut [0; 5]))
            .is_err()
    );
    println!("{} rank {rank} done", mpi.name());
    Box::new(mpi).leave().unwrap();
}

#[test]
fn ranks_of_mpirun_add_and_gather() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        launch::mpirun(&program("", dir.path()), &ranks(3), &AtomicUsize::new(0)).unwrap(),
        0
    );
}
