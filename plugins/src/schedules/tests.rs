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

/// What the function of transformers 5.24 gives, warm-up of 4, 1 and 0 steps.
#[test]
fn a_warm_up_above_zero() {
    let plain = r#"{"min_lr_rate": 0.1}"#;
    let start = r#"{"min_lr": 2e-4, "warmup_lr_rate": 0.25}"#;
    let waves = r#"{"min_lr_rate": 0.1, "num_cycles": 1.5}"#;
    let table: [(u64, &str, [f64; 5]); 9] = [
        (
            4,
            plain,
            [0.25, 1.0, 0.9913533761814537, 0.4622093550927423, 0.1],
        ),
        (
            4,
            start,
            [0.25, 1.0, 0.9923141121612922, 0.5219638711935488, 0.2],
        ),
        (
            4,
            waves,
            [0.25, 1.0, 0.9241613255361454, 0.8000066048588208, 0.1],
        ),
        (
            1,
            plain,
            [
                1.0,
                0.94576318804292,
                0.9051132292283771,
                0.3692370589061639,
                0.1,
            ],
        ),
        (
            1,
            start,
            [
                0.25,
                0.9517895004825956,
                0.9156562037585576,
                0.4393218301388123,
                0.2,
            ],
        ),
        (
            1,
            waves,
            [
                1.0,
                0.5871607054625496,
                0.3692370589061639,
                0.9756177587652856,
                0.1,
            ],
        ),
        (
            0,
            plain,
            [
                0.994459753267812,
                0.9140576474687263,
                0.8681980515339464,
                0.345704275117204,
                0.1,
            ],
        ),
        (
            0,
            start,
            [
                0.9950753362380551,
                0.9236067977499791,
                0.882842712474619,
                0.4184038001041813,
                0.2,
            ],
        ),
        (
            0,
            waves,
            [
                0.9509529358847655,
                0.41094235253127376,
                0.23180194846605365,
                0.994459753267812,
                0.1,
            ],
        ),
    ];
    for (warmup, options, expected) in table {
        let schedule = make("cosine_warmup_with_min_lr", options);
        for (step, expected) in [0, 3, 4, 12, 19].into_iter().zip(expected) {
            let progress = Progress {
                step,
                total: 20,
                warmup,
                learning_rate: 1e-3,
            };
            let found = schedule.factor(&progress).unwrap();
            assert!(
                (found - expected).abs() < 1e-12,
                "{options}, {warmup}, {step}: {found}, expected {expected}"
            );
        }
    }
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
        ("cosine_warmup_with_min_lr", "min_lr_rate"),
        ("warmup_stable_decay", "num_decay_steps"),
    ] {
        let error = make(name, "{}").factor(&progress).unwrap_err().to_string();
        assert!(error.contains(wanted), "{name}: {error}");
    }
}
