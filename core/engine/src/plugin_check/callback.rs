//! Callbacks: every event of a run, and state that comes back from a checkpoint as it went in.

use super::run::{STEPS, SmallRun};
use super::{Checked, Findings, map, push};
use crate::train::{Events, OtherWeight};
use anyhow::{Context, Result, ensure};
use apus_sdk::{Answer, Callback, Control, RunState};
use serde_json::{Map, Value, json};

/// The step after which a run is interrupted and goes on from its checkpoint.
const INTERRUPTED: u64 = 4;

/// Plays a run of six steps in two epochs, with evaluations and saves, in the trainer's order.
pub(super) fn check(checked: &Checked, findings: &mut Findings) -> Result<()> {
    let run = SmallRun::new(checked.device)?;
    let mut callback = checked.make::<dyn Callback>()?;
    if !run.begins(findings, &mut callback, |callback, run| callback.begin(run)) {
        return Ok(());
    }
    let mut events = Events::new(vec![callback]);
    let played = play(&mut events, &run, beginning(&run));
    let whole = match played {
        Ok(whole) => whole,
        Err(error) => {
            push(findings, "every event of a run", Err(error));
            return Ok(());
        }
    };
    push(findings, "every event of a run", Ok(whole.asked()));
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
    let goes_on = goes_on(checked, &run, &whole);
    push(findings, "goes on from a checkpoint", goes_on);
    Ok(())
}

/// A run that was interrupted and goes on asks for the same as one that was not.
fn goes_on(checked: &Checked, run: &SmallRun, whole: &Played) -> Result<String> {
    let made = || -> Result<Events> {
        let mut events = Events::new(vec![checked.make()?]);
        events.begin(run.view())?;
        Ok(events)
    };
    let again = play(&mut made()?, run, beginning(run))?;
    if again.steps != whole.steps {
        return Ok(
            "two runs alike ask for different things, so nothing can be compared".to_owned(),
        );
    }
    let (Some(state), Some(saved)) = (again.state, again.saved) else {
        return Ok(String::new());
    };
    // As in a checkpoint, state passes through a file.
    let saved = serde_json::from_str(&serde_json::to_string(&saved)?)?;
    let mut resumed = Events::new(vec![checked.make()?]);
    resumed.load_state(saved)?;
    resumed.begin(run.view())?;
    let resumed = play(&mut resumed, run, state)?;
    for (step, (whole, resumed)) in (INTERRUPTED + 1..).zip(
        whole.steps[INTERRUPTED as usize..]
            .iter()
            .zip(&resumed.steps),
    ) {
        ensure!(
            whole == resumed,
            "a run that goes on from the checkpoint of step {INTERRUPTED} asks at step {step} for {resumed}, one that was not \
             interrupted for {whole}: what has to survive goes through save_state and load_state"
        );
    }
    Ok("it asks for the same".to_owned())
}

/// What came of a run.
#[derive(Default)]
struct Played {
    /// What was asked for and reported at each step.
    steps: Vec<Value>,
    /// What was asked for at all, in words.
    words: Vec<&'static str>,
    /// The run when its checkpoint was made, and what the callback kept in that.
    state: Option<RunState>,
    saved: Option<Map<String, Value>>,
}

impl Played {
    fn asked(&self) -> String {
        match self.words.is_empty() {
            true => "it asked for nothing".to_owned(),
            false => format!("it asked to {}", self.words.join(", ")),
        }
    }
}

fn beginning(run: &SmallRun) -> RunState {
    RunState {
        max_steps: STEPS,
        num_train_epochs: 2.0,
        output_dir: run.folder().to_owned(),
        ..RunState::default()
    }
}

/// Plays a run from this state on.
fn play(events: &mut Events, run: &SmallRun, mut state: RunState) -> Result<Played> {
    let folder = run.folder();
    let (mut played, begins_at) = (Played::default(), state.global_step);
    let asked = &mut played.words;
    events.on_init_end(&state)?;
    events.on_train_begin(&state)?;
    if begins_at > 0 {
        events.control = Control::default();
        events.take_questions();
    }
    for step in begins_at..STEPS {
        if step % 3 == 0 || step == begins_at {
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
        let logged = values.clone();
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
            if state.global_step == INTERRUPTED && begins_at == 0 {
                played.state = Some(state.clone());
                played.saved = Some(events.save_state()?);
            }
            events.on_save(&folder.join(format!("checkpoint-{}", step + 1)), &state)?;
        }
        let control = std::mem::take(&mut events.control);
        for prompt in &control.generate {
            events.on_generate(prompt, "an answer", &state)?;
        }
        let questions = events.take_questions();
        played.steps.push(json!({
            "control": control,
            "logged": logged,
            "questions": questions.len(),
        }));
        for (asker, question) in questions {
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
    Ok(played)
}
