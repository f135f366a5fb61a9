//! A callback in a process. Only the events that it names when it is made are sent.

use super::{Remote, asked};
use apus_sdk::{Answer, Callback, Control, Error, Need, Result, Run, RunState, Setup};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The events of [`Callback`].
const EVENTS: [&str; 16] = [
    "on_init_end",
    "on_train_begin",
    "on_train_end",
    "on_epoch_begin",
    "on_epoch_end",
    "on_step_begin",
    "on_substep_end",
    "on_pre_optimizer_step",
    "on_optimizer_step",
    "on_step_end",
    "on_prediction_step",
    "on_evaluate",
    "on_save",
    "on_log",
    "on_generate",
    "on_answers",
];

struct ProcessCallback {
    remote: Remote,
    facts: Facts,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Facts {
    events: Vec<String>,
    /// Whether it has `save_state` and `load_state`.
    state: bool,
    metric_names: Option<Vec<String>>,
}

/// What comes back from an event: what it asks for, as far as it says so, and values of a log.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    control: Map<String, Value>,
    values: Option<Map<String, Value>>,
}

pub(super) fn new(remote: Remote) -> Result<Box<dyn Callback>> {
    let facts: Facts = remote.facts()?;
    if let Some(unknown) = facts
        .events
        .iter()
        .find(|event| !EVENTS.contains(&event.as_str()))
    {
        return Err(Error::new(format!(
            "{}: there is no event {unknown:?}; there are {}",
            remote.what("make"),
            EVENTS.join(", ")
        )));
    }
    let hears = facts.events.iter().any(|event| event == "on_answers");
    if hears && !remote.declares(Need::Generation) {
        let why = "it wants the event on_answers";
        return Err(remote.unannounced("make", why, Need::Generation));
    }
    Ok(Box::new(ProcessCallback { remote, facts }))
}

impl ProcessCallback {
    fn send(
        &self,
        event: &str,
        about: Value,
        state: &RunState,
        control: &mut Control,
    ) -> Result<Option<Map<String, Value>>> {
        if !self.facts.events.iter().any(|known| known == event) {
            return Ok(None);
        }
        let mut with = json!({"state": state, "control": control});
        if let (Value::Object(with), Value::Object(about)) = (&mut with, about) {
            with.extend(about);
        }
        let asked: Option<Asked> = self.remote.call(event, with)?;
        let Some(asked) = asked else {
            return Ok(None);
        };
        asked::add(control, asked.control, &self.remote, event)?;
        Ok(asked.values)
    }
}

macro_rules! plain_events {
    ($($event:ident),*) => {
        impl Callback for ProcessCallback {
            $(fn $event(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
                self.send(stringify!($event), Value::Null, state, control).map(drop)
            })*

            fn on_evaluate(
                &mut self,
                metrics: &Map<String, Value>,
                state: &RunState,
                control: &mut Control,
            ) -> Result<()> {
                self.send("on_evaluate", json!({"metrics": metrics}), state, control).map(drop)
            }

            fn on_save(
                &mut self,
                checkpoint: &Path,
                state: &RunState,
                control: &mut Control,
            ) -> Result<()> {
                self.send("on_save", json!({"checkpoint": checkpoint}), state, control).map(drop)
            }

            fn on_log(
                &mut self,
                values: &mut Map<String, Value>,
                state: &RunState,
                control: &mut Control,
            ) -> Result<()> {
                if let Some(changed) = self.send("on_log", json!({"values": values}), state, control)? {
                    *values = changed;
                }
                Ok(())
            }

            fn on_generate(
                &mut self,
                prompt: &str,
                answer: &str,
                state: &RunState,
                control: &mut Control,
            ) -> Result<()> {
                let about = json!({"prompt": prompt, "answer": answer});
                self.send("on_generate", about, state, control).map(drop)
            }

            fn on_answers(
                &mut self,
                answers: &[Answer],
                state: &RunState,
                control: &mut Control,
            ) -> Result<()> {
                self.send("on_answers", json!({"answers": answers}), state, control).map(drop)
            }

            fn check(&self, setup: &Setup) -> Result<()> {
                self.remote.check(setup)
            }

            fn begin(&mut self, run: &Run) -> Result<()> {
                self.remote.begin(run)
            }

            fn save_state(&self) -> Result<Value> {
                match self.facts.state {
                    true => self.remote.call("save_state", json!({})),
                    false => Ok(Value::Null),
                }
            }

            fn load_state(&mut self, saved: Value) -> Result<()> {
                match self.facts.state {
                    true => self.remote.call("load_state", json!({"saved": saved})),
                    false => Ok(()),
                }
            }

            fn metric_names(&self) -> Option<Vec<String>> {
                self.facts.metric_names.clone()
            }
        }
    };
}
plain_events!(
    on_init_end,
    on_train_begin,
    on_train_end,
    on_epoch_begin,
    on_epoch_end,
    on_step_begin,
    on_substep_end,
    on_pre_optimizer_step,
    on_optimizer_step,
    on_step_end,
    on_prediction_step
);
