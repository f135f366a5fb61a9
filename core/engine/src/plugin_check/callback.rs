//! Callbacks: every event of a run, and state that comes back from a checkpoint as it went in.

use super::run::{STEPS, SmallRun};
use super::{Checked, Findings, map, push};
use crate::train::{Events, OtherWeight};
use anyhow::{Context, Result, ensure};
use apus_sdk::{Answer, Callback, RunState};
use serde_json::json;

/// Plays a run of six steps in two epochs, with evaluations and saves, in the trainer's order.
pub(super) fn check(checked: &Checked, findings: &mut Findings) -> Result<()> {
    let run = SmallRun::new(checked.device)?;
    let mut callback = checked.make::<dyn Callback>()?;
    if !run.begins(findings, &mut callback, |callback, run| callback.begin(run)) {
        return Ok(());
    }
    let mut events = Events::new(vec![callback]);
    let played = play(&mut events, &run);
    push(findings, "every event of a run", played);
    let kept = (|| -> Result<String> {
        let kept = events.save_state()?;
        let mut again = Events::new(vec![checked.make()?]);
        again.load_state(kept.clone())?;
        again.begin(run.view())?;
        ensure!(
            again.save_state()? == kept,
            "what load_state was given is not what save_state gives then"
        );
        Ok(match kept.values().next() {
            Some(kept) => kept.to_string(),
            None => "nothing is kept".to_owned(),
        })
    })();
    push(findings, "state for checkpoints", kept);
    Ok(())
}

fn play(events: &mut Events, run: &SmallRun) -> Result<String> {
    let folder = run.folder();
    let mut state = RunState {
        max_steps: STEPS,
        num_train_epochs: 2.0,
        output_dir: folder.to_owned(),
        ..RunState::default()
    };
    let mut asked = Vec::new();
    events.on_init_end(&state)?;
    events.on_train_begin(&state)?;
    for step in 0..STEPS {
        if step % 3 == 0 {
            events.on_epoch_begin(&state)?;
        }
        events.on_step_begin(&state)?;
        let busy = run.busy();
        events.on_substep_end(&state)?;
        run.make_gradients()?;
        events.on_pre_optimizer_step(&state)?;
        run.forget_gradients();
        drop(busy);
        events.on_optimizer_step(&state)?;
        let loss = 2.0 / (step + 1) as f64;
        state.global_step = step + 1;
        state.epoch = (step + 1) as f64 / 3.0;
        (state.loss, state.grad_norm, state.learning_rate) = (Some(loss), Some(0.5), 1e-4);
        events.on_step_end(&state)?;
        if step % 3 == 2 {
            events.on_epoch_end(&state)?;
        }
        let mut values = map(json!({"loss": loss, "learning_rate": 1e-4, "epoch": state.epoch}));
        events.on_log(&mut values, &state)?;
        state.log_history.push(values);
        if step % 2 == 1 {
            events.on_prediction_step(&state)?;
            let metrics = map(json!({"eval_loss": loss, "eval_token_acc": 0.5}));
            state.best_metric = Some(loss);
            state.best_model_checkpoint = Some(folder.join(format!("checkpoint-{}", step + 1)));
            for OtherWeight { by, name, value } in events.evaluated_weights()? {
                run.fits(&name, &value).with_context(|| by)?;
                if !asked.contains(&"evaluate other weights") {
                    asked.push("evaluate other weights");
                }
            }
            events.on_evaluate(&metrics, &state)?;
            state.log_history.push(metrics);
            events.on_save(&folder.join(format!("checkpoint-{}", step + 1)), &state)?;
        }
        let control = std::mem::take(&mut events.control);
        for prompt in &control.generate {
            events.on_generate(prompt, "an answer", &state)?;
        }
        for (asker, question) in events.take_questions() {
            let answers =
                (0..question.count()).map(|at| Answer::new(question.id(), at, "an answer"));
            events.on_answers(asker, &answers.collect::<Vec<_>>(), &state)?;
            asked.retain(|&what| what != "answer questions");
            asked.push("answer questions");
        }
        if !events.take_kept().is_empty() && !asked.contains(&"keep checkpoints") {
            asked.push("keep checkpoints");
        }
        let what = "change what is trained or how fast";
        if !events.take_of_parameters().is_empty() && !asked.contains(&what) {
            asked.push(what);
        }
        for (what, is) in [
            ("save", control.should_save),
            ("evaluate", control.should_evaluate),
            ("log", control.should_log),
            ("stop", control.should_training_stop),
            ("another learning rate", control.lr_factor.is_some()),
            ("answers", !control.generate.is_empty()),
        ] {
            if is && !asked.contains(&what) {
                asked.push(what);
            }
        }
    }
    events.on_train_end(&state)?;
    Ok(match asked.is_empty() {
        true => "it asked for nothing".to_owned(),
        false => format!("it asked to {}", asked.join(", ")),
    })
}
