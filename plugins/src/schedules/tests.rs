//! Values by the formulas of `transformers.optimization`, for 20 steps, 4 of warm-up, at lr 1e-3.

use apus_sdk::{LrSchedule, Make, Options, Progress, components};

fn make(name: &str, options: &str) -> Box<dyn LrSchedule> {
    let options: Options = serde_json::from_str(options).unwrap();
    let component = components()
        .find(|c| c.name == name && matches!(c.make, Make::LrSchedule(_)))
        .unwrap_or_else(|| panic!("{name} is not registered"));
    let Make::LrSchedule(make) = component.make else {
        unreachable!()
    };
    make(&options).unwrap()
}

fn at(name: &str, options: &str, step: u64) -> f64 {
    let progress = Progress {
        step,
        total: 20,
        warmup: 4,
        learning_rate: 1e-3,
    };
    make(name, options).factor(&progress).unwrap()
}

#[track_caller]
fn check(name: &str, options: &str, expected: [f64; 5]) {
    for (step, expected) in [0, 3, 4, 12, 20].into_iter().zip(expected) {
        let found = at(name, options, step);
        assert!(
            (found - expected).abs() < 1e-12,
            "{name} at {step}: {found}, expected {expected}"
        );
    }
}

#[test]
fn curves() {
    check("constant", "{}", [1.0; 5]);
    check("constant_with_warmup", "{}", [0.0, 0.75, 1.0, 1.0, 1.0]);
    check("linear", "{}", [0.0, 0.75, 1.0, 0.5, 0.0]);
    check("cosine", "{}", [0.0, 0.75, 1.0, 0.5, 0.0]);
    check(
        "cosine_with_min_lr",
        r#"{"min_lr_rate": 0.1}"#,
        [0.0, 0.75, 1.0, 0.55, 0.1],
    );
    check(
        "cosine_with_min_lr",
        r#"{"min_lr": 2e-4}"#,
        [0.0, 0.75, 1.0, 0.6, 0.2],
    );
    check(
        "cosine_with_restarts",
        r#"{"num_cycles": 2}"#,
        [0.0, 0.75, 1.0, 1.0, 0.0],
    );
    check(
        "polynomial",
        r#"{"power": 2.0}"#,
        [0.0, 0.75, 1.0, 0.250075, 1e-4],
    );
    check(
        "inverse_sqrt",
        "{}",
        [
            0.0,
            0.75,
            1.0,
            (4.0f64 / 12.0).sqrt(),
            (4.0f64 / 20.0).sqrt(),
        ],
    );
    check(
        "warmup_stable_decay",
        r#"{"num_decay_steps": 8}"#,
        [0.0, 0.75, 1.0, 1.0, 0.0],
    );
    check(
        "warmup_stable_decay",
        r#"{"num_decay_steps": 16, "decay_type": "1-sqrt", "min_lr_ratio": 0.1}"#,
        [0.1, 0.775, 1.0, (1.0 - 0.5f64.sqrt()) * 0.9 + 0.1, 0.1],
    );
}

#[test]
fn missing_options_are_said() {
    let progress = Progress {
        step: 0,
        total: 20,
        warmup: 0,
        learning_rate: 1e-3,
    };
    for (name, wanted) in [
        ("cosine_with_min_lr", "min_lr_rate"),
        ("warmup_stable_decay", "num_decay_steps"),
    ] {
        let error = make(name, "{}").factor(&progress).unwrap_err().to_string();
        assert!(error.contains(wanted), "{name}: {error}");
    }
}
