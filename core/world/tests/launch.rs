//! Ranks as real processes: this test's own binary, started again by the launcher.
#![cfg(unix)]

mod common;

use apus_world::place::Children;
use apus_world::{launch, outputs};
use common::{launched, meet, program, ranks, scenario, this_rank};
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

/// The body of a rank; started by the other tests.
#[test]
#[ignore = "a rank of the other tests"]
fn a_rank() {
    let place = this_rank();
    let control = meet(&place, 3);
    let rank = control.rank();
    match scenario().as_str() {
        "work" => {
            for round in 0..50u8 {
                let gathered = control.gather(vec![rank as u8, round]).unwrap();
                if let Some(all) = gathered {
                    let expected: Vec<Vec<u8>> = (0..place.size)
                        .map(|rank| vec![rank as u8, round])
                        .collect();
                    assert_eq!(all, expected);
                }
                let given = control
                    .broadcast(vec![round; if rank == 0 { 1000 } else { 0 }])
                    .unwrap();
                assert_eq!(given, vec![round; 1000]);
                control.reports().send(vec![rank as u8, round]);
            }
            // What was sent before something else has arrived with it.
            control.barrier().unwrap();
            let newest = control.reports().newest();
            let reported = |rank: usize| match (control.rank(), rank) {
                (0, 1..) => vec![rank as u8, 49],
                _ => Vec::new(),
            };
            assert_eq!(newest, (0..place.size).map(reported).collect::<Vec<_>>());
            control
                .agree(&[("seed".to_owned(), "42".to_owned())])
                .unwrap();
            eprintln!("DONE");
        }
        "prints" => {
            eprintln!("BEFORE");
            control.barrier().unwrap();
            let outputs = std::env::var_os("APUS_RANK_OUTPUTS").unwrap();
            outputs::move_to(&Path::new(&outputs).with_file_name("run")).unwrap();
            eprintln!("AFTER");
            control.barrier().unwrap();
            if rank == 2 {
                control.finish();
                std::process::exit(9);
            }
        }
        "differs" => {
            let seed = if rank == 2 { "43" } else { "42" };
            let error = control
                .agree(&[("seed".to_owned(), seed.to_owned())])
                .unwrap_err();
            eprintln!("DIFFERS {error}");
        }
        "dies" => {
            control.enter("step 3", false);
            if rank == 1 {
                std::thread::sleep(Duration::from_millis(1500));
                // SAFETY: ends this process as a kill -9 from outside would.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            }
            let _ = control.barrier();
            std::thread::sleep(Duration::from_secs(60));
        }
        "hangs" => {
            control.enter(
                if rank == 1 {
                    "step 4, callback slow"
                } else {
                    "step 4, sum of gradients"
                },
                false,
            );
            if rank != 1 {
                let _ = control.barrier();
            }
            std::thread::sleep(Duration::from_secs(60));
        }
        other => panic!("{other}"),
    }
    control.finish();
}

#[test]
fn ranks_work_together() {
    let (status, outputs, _) = launched("work", 4);
    assert_eq!(status, 0, "{outputs:?}");
    assert!(
        outputs.iter().all(|output| output.contains("DONE")),
        "{outputs:?}"
    );
}

#[test]
fn every_rank_hears_of_a_difference() {
    let (status, outputs, _) = launched("differs", 3);
    assert_eq!(status, 0);
    for output in outputs {
        assert!(
            output.contains("has seed 42, rank 2 (host here"),
            "{output}"
        );
        assert!(output.contains("has seed 43: all ranks"), "{output}");
    }
}

#[test]
fn a_rank_that_dies_ends_all() {
    let (status, outputs, time) = launched("dies", 3);
    assert_ne!(status, 0);
    assert!(time < Duration::from_secs(20), "{time:?}");
    assert!(
        outputs[1].contains("FAILED the connection to rank 1"),
        "{outputs:?}"
    );
    assert!(outputs[1].contains("it was at step 3"), "{outputs:?}");
}

#[test]
fn a_rank_that_does_not_arrive_ends_all_and_is_named() {
    let (status, outputs, time) = launched("hangs", 3);
    assert_eq!(status, 7);
    assert!(time < Duration::from_secs(20), "{time:?}");
    for output in outputs {
        assert!(
            output.contains("has not come to step 4, sum of gradients"),
            "{output}"
        );
        assert!(
            output.contains("it is at step 4, callback slow since"),
            "{output}"
        );
    }
}

#[test]
fn ranks_print_into_the_folder_of_the_run_once_there_is_one() {
    for exists in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (outputs, run) = (dir.path().join("outputs"), dir.path().join("run"));
        if exists {
            std::fs::create_dir(&run).unwrap();
        }
        let program = program("prints", &outputs);
        let status = launch::cards(&program, &ranks(3), &AtomicUsize::new(0)).unwrap();
        assert_eq!(status, 9);
        // Nothing is left in the temporary folder of what has its place elsewhere.
        assert_eq!(outputs.exists(), !exists);
        let folder = match exists {
            true => run.join("ranks"),
            false => outputs,
        };
        for rank in [1, 2] {
            let text = std::fs::read_to_string(launch::output(&folder, rank)).unwrap();
            let (before, after) = (text.find("BEFORE"), text.find("AFTER"));
            assert!(before.is_some() && before < after, "{text}");
        }
        assert!(!launch::output(&folder, 0).exists());
    }
}

/// mpirun reaches other hosts by itself; one started on each of them would make a run on each.
#[test]
fn ranks_on_several_hosts_are_for_mpirun_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let children = Children {
        size: 4,
        ..ranks(2)
    };
    let none = AtomicUsize::new(0);
    let error = launch::mpirun(&program("work", dir.path()), &children, &none).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("4 ranks, of which NPROC_PER_NODE starts 2 on this host"),
        "{said}"
    );
    assert!(said.contains("mpirun -np 4 --hostfile"), "{said}");
}
