//! What a long run costs.

use super::*;
use std::time::Instant;

/// Memory of this process, in MiB.
fn resident(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap();
    line.trim()
        .trim_end_matches(" kB")
        .trim()
        .parse::<f64>()
        .unwrap()
        / 1024.0
}

/// 100,000 steps with 20 numbers each, to a file while no server answers; run alone:
/// `cargo test -p apus-plugins --test swanlab -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn a_long_run() {
    const STEPS: u64 = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let mut values = Map::new();
    for number in 0..20 {
        values.insert(format!("metric_{number}"), json!(number as f64 + 0.5));
    }
    let before = resident("VmRSS:");
    let mut tracker = tracker_at("http://127.0.0.1:9", json!({"finish_timeout": 0.0}));
    tracker.start(&info(dir.path())).unwrap();
    let began = Instant::now();
    for step in 1..=STEPS {
        tracker.log(step, &values).unwrap();
    }
    let seconds = began.elapsed().as_secs_f64();
    tracker.finish(&finished()).unwrap();
    let peak = resident("VmHWM:") - before;
    let file = folders(dir.path())[0].join("run-abcd1234.swanlab");
    let size = std::fs::metadata(file).unwrap().len() as f64 / (1 << 20) as f64;
    println!(
        "{:.1} us a step, {:.0} records/s, {peak:.1} MiB more at the peak, file {size:.0} MiB",
        seconds * 1e6 / STEPS as f64,
        20.0 * STEPS as f64 / seconds
    );
    assert!(peak < 50.0);
}
