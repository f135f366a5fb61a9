//! The schedule in a run of the real trainer.

use apus_testing::train;

#[test]
fn a_run_learns_at_the_rates_of_the_schedule() {
    let run = train(&[
        "--lr_scheduler",
        "two_cosine_cycles",
        "--lr_scheduler.second",
        "0.8",
        "--max_steps",
        "4",
        "--warmup_ratio",
        "0",
        "--learning_rate",
        "1e-2",
    ])
    .unwrap();
    assert_eq!(run.numbers("learning_rate"), [0.01, 0.005, 0.008, 0.004]);
    let losses = run.losses();
    assert!(losses.len() == 4 && losses[3] < losses[0], "{losses:?}");
}

#[test]
fn an_option_that_it_does_not_have_ends_the_run() {
    let error = train(&[
        "--lr_scheduler",
        "two_cosine_cycles",
        "--lr_scheduler.third",
        "1",
    ]);
    let said = error.unwrap_err().to_string();
    assert!(
        said.contains("schedule two_cosine_cycles") && said.contains("third"),
        "{said}"
    );
}
