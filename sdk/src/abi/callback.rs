//! Callbacks across the boundary: an event goes by its name with everything as JSON, so that an event
//! that one side does not know harms nobody.
//!
//! The log history grows with the run; only its new lines cross, and the plugin's side keeps the rest.

use super::guard::guard;
use super::object::{Known, Object, Origin, check_by, component_mut, imported_check, to_json};
use super::optimizer::Kept;
use super::run::WireRun;
use crate::{Answer, Callback, Control, Need, Result, Run, RunState, Setup, Tensor, Wire, needs};
use abi_stable::StableAbi;
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{RStr, RString, RVec};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

type Line = Map<String, Value>;

/// A callback's functions.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = CallbackTableRef)))]
pub struct CallbackTable {
    /// The event of this name with an [`Event`]; gives an [`Asked`].
    pub event: unsafe extern "C" fn(*mut (), RStr<'_>, RStr<'_>) -> Wire<RString>,
    /// See [`Callback::save_state`].
    pub save_state: unsafe extern "C" fn(*mut ()) -> Wire<RString>,
    /// See [`Callback::load_state`].
    #[sabi(last_prefix_field)]
    pub load_state: unsafe extern "C" fn(*mut (), RStr<'_>) -> Wire<()>,
    /// See [`Callback::begin`]; since 1.1.
    pub begin: unsafe extern "C" fn(*mut (), WireRun) -> Wire<()>,
    /// See [`Callback::evaluated_weights`].
    pub evaluated_weights: unsafe extern "C" fn(*mut ()) -> Wire<RVec<Kept>>,
    /// See [`Callback::check`]; since 1.1.
    pub check: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<()>,
}

/// What goes out, as the host writes it.
#[derive(Serialize)]
struct Sent<'a> {
    state: &'a RunState,
    control: &'a Control,
    lines: &'a [Line],
    fresh: bool,
    about: About,
}

/// What goes out, as the plugin reads it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Event {
    state: RunState,
    control: Control,
    /// Lines of the log since the last event; all of them if `fresh`.
    lines: Vec<Line>,
    fresh: bool,
    about: About,
}

/// What an event is about, by event.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct About {
    /// Metrics of an evaluation, or values about to be logged.
    values: Line,
    checkpoint: PathBuf,
    prompt: String,
    answer: String,
    answers: Vec<Answer>,
}

/// What comes back.
#[derive(Serialize)]
struct Asked {
    control: Control,
    values: Line,
}

/// The same, as the host reads it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answered {
    control: Value,
    values: Line,
}

/// A callback in the plugin, with the log so far.
struct Remembering {
    callback: Box<dyn Callback>,
    history: Vec<Line>,
}

/// What the object's pointer points to, as any component's: a box of a trait object.
trait Events: Send {
    fn event(&mut self, name: &str, event: Event) -> Result<Asked>;
    fn callback(&mut self) -> &mut dyn Callback;
    fn check(&self, setup: &Setup) -> Result<()>;
}

pub(super) fn export(
    callback: Box<dyn Callback>,
    needs: &'static [Need],
) -> Object<CallbackTableRef> {
    let remembering: Box<dyn Events> = Box::new(Remembering {
        callback,
        history: Vec::new(),
    });
    Object::new(remembering, needs, table())
}

fn table() -> CallbackTableRef {
    static TABLE: OnceLock<CallbackTableRef> = OnceLock::new();
    *TABLE.get_or_init(|| {
        CallbackTable {
            event,
            save_state,
            load_state,
            begin,
            evaluated_weights,
            check,
        }
        .leak_into_prefix()
    })
}

/// The callback behind the host's pointer.
unsafe fn events<'a>(this: *mut ()) -> &'a mut dyn Events {
    // SAFETY: the host gives the object's own pointer and uses it nowhere else meanwhile.
    unsafe { component_mut::<dyn Events>(this) }
}

unsafe extern "C" fn event(this: *mut (), name: RStr<'_>, event: RStr<'_>) -> Wire<RString> {
    guard(|| {
        let event = serde_json::from_str(event.as_str())?;
        // SAFETY: see `events`.
        to_json(&unsafe { events(this) }.event(name.as_str(), event)?)
    })
}

unsafe extern "C" fn save_state(this: *mut ()) -> Wire<RString> {
    // SAFETY: see `events`.
    guard(|| to_json(&unsafe { events(this) }.callback().save_state()?))
}

unsafe extern "C" fn load_state(this: *mut (), saved: RStr<'_>) -> Wire<()> {
    guard(|| {
        let saved = serde_json::from_str(saved.as_str())?;
        // SAFETY: see `events`.
        unsafe { events(this) }.callback().load_state(saved)
    })
}

check_by!(dyn Events);

unsafe extern "C" fn begin(this: *mut (), run: WireRun) -> Wire<()> {
    guard(|| {
        let run = run.take()?;
        // SAFETY: see `events`.
        unsafe { events(this) }.callback().begin(&run)
    })
}

unsafe extern "C" fn evaluated_weights(this: *mut ()) -> Wire<RVec<Kept>> {
    guard(|| {
        // SAFETY: see `events`.
        let weights = unsafe { events(this) }.callback().evaluated_weights()?;
        if !weights.is_empty() {
            needs::require(Need::Hooks)?;
        }
        let weights = weights.into_iter().map(|(name, tensor)| Kept {
            name: name.into(),
            tensor,
        });
        Ok(weights.collect())
    })
}

macro_rules! plain_events {
    ($($event:ident),*) => {
        impl Events for Remembering {
            fn event(&mut self, name: &str, event: Event) -> Result<Asked> {
                let Event { mut state, mut control, lines, fresh, about } = event;
                let About { mut values, checkpoint, prompt, answer, answers } = about;
                if fresh {
                    self.history.clear();
                }
                self.history.extend(lines);
                state.log_history = std::mem::take(&mut self.history);
                let callback = &mut self.callback;
                let result = match name {
                    $(stringify!($event) => callback.$event(&state, &mut control),)*
                    "on_evaluate" => callback.on_evaluate(&values, &state, &mut control),
                    "on_save" => callback.on_save(&checkpoint, &state, &mut control),
                    "on_log" => callback.on_log(&mut values, &state, &mut control),
                    "on_generate" => {
                        callback.on_generate(&prompt, &answer, &state, &mut control)
                    }
                    "on_answers" => callback.on_answers(&answers, &state, &mut control),
                    _ => Ok(()),
                };
                self.history = state.log_history;
                result?;
                control.check()?;
                Ok(Asked { control, values })
            }

            fn callback(&mut self) -> &mut dyn Callback {
                self.callback.as_mut()
            }

            fn check(&self, setup: &Setup) -> Result<()> {
                self.callback.check(setup)
            }
        }

        impl Callback for ImportedCallback {
            imported_check!();

            $(fn $event(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
                self.send(stringify!($event), About::default(), state, control).map(drop)
            })*

            fn on_evaluate(
                &mut self,
                metrics: &Line,
                state: &RunState,
                control: &mut Control,
            ) -> Result<()> {
                let about = About { values: metrics.clone(), ..About::default() };
                self.send("on_evaluate", about, state, control).map(drop)
            }

            fn on_save(
                &mut self,
                checkpoint: &Path,
                state: &RunState,
                control: &mut Control,
            ) -> Result<()> {
                let about = About { checkpoint: checkpoint.to_owned(), ..About::default() };
                self.send("on_save", about, state, control).map(drop)
            }

            fn on_log(
                &mut self,
                values: &mut Line,
                state: &RunState,
                control: &mut Control,
            ) -> Result<()> {
                let about = About { values: std::mem::take(values), ..About::default() };
                *values = self.send("on_log", about, state, control)?;
                Ok(())
            }

            fn on_generate(
                &mut self,
                prompt: &str,
                answer: &str,
                state: &RunState,
                control: &mut Control,
            ) -> Result<()> {
                let about = About {
                    prompt: prompt.to_owned(),
                    answer: answer.to_owned(),
                    ..About::default()
                };
                self.send("on_generate", about, state, control).map(drop)
            }

            fn begin(&mut self, run: &Run) -> Result<()> {
                let Some(call) = self.object.table().begin() else {
                    return Ok(());
                };
                // SAFETY: pointer and table belong together.
                let wire = unsafe { call(self.object.this(), WireRun::give(run)) };
                self.origin.context("begin", wire)
            }

            fn on_answers(
                &mut self,
                answers: &[Answer],
                state: &RunState,
                control: &mut Control,
            ) -> Result<()> {
                let about = About { answers: answers.to_vec(), ..About::default() };
                self.send("on_answers", about, state, control).map(drop)
            }

            fn evaluated_weights(&self) -> Result<Vec<(String, Tensor)>> {
                let Some(call) = self.object.table().evaluated_weights() else {
                    return Ok(Vec::new());
                };
                // SAFETY: pointer and table belong together.
                let weights = unsafe { call(self.object.this()) };
                let weights = self.origin.context("evaluated_weights", weights)?.into_iter();
                Ok(weights.map(|Kept { name, tensor }| (name.into_string(), tensor)).collect())
            }

            fn save_state(&self) -> Result<Value> {
                let (this, call) = (self.object.this(), self.object.table().save_state());
                // SAFETY: pointer and table belong together.
                let json = self.origin.context("save_state", unsafe { call(this) })?;
                Ok(serde_json::from_str(&json)?)
            }

            fn load_state(&mut self, saved: Value) -> Result<()> {
                let json = to_json(&saved)?;
                let (this, call) = (self.object.this(), self.object.table().load_state());
                // SAFETY: pointer and table belong together; the text outlives the call.
                self.origin.context("load_state", unsafe { call(this, json.as_rstr()) })
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

/// The host's callback on top of a plugin's, and how much of the log that one has seen.
struct ImportedCallback {
    object: Known<CallbackTableRef>,
    origin: Origin,
    seen: usize,
}

pub(super) fn import(object: Object<CallbackTableRef>, origin: Origin) -> Box<dyn Callback> {
    Box::new(ImportedCallback {
        object: Known::new(object, origin),
        origin,
        seen: 0,
    })
}

impl ImportedCallback {
    /// Sends an event; gives back its values.
    fn send(
        &mut self,
        name: &str,
        about: About,
        state: &RunState,
        control: &mut Control,
    ) -> Result<Line> {
        let fresh = state.log_history.len() < self.seen;
        let seen = if fresh { 0 } else { self.seen };
        // What others asked for is not this one's to see, and one with an older SDK would lose it.
        let others = std::mem::take(&mut control.requests);
        let json = to_json(&Sent {
            state,
            control,
            lines: &state.log_history[seen..],
            fresh,
            about,
        })?;
        let (this, call) = (self.object.this(), self.object.table().event());
        // SAFETY: pointer and table belong together; the texts outlive the call.
        let json = self
            .origin
            .context(name, unsafe { call(this, name.into(), json.as_rstr()) })?;
        self.seen = state.log_history.len();
        let failed = |error: &dyn std::fmt::Display| self.origin.failed(name, error);
        let asked: Answered = serde_json::from_str(&json).map_err(|error| failed(&error))?;
        let own = Control::read(asked.control).map_err(|error| failed(&error))?;
        let requests = others.into_iter().chain(own.requests).collect();
        *control = Control { requests, ..own };
        Ok(asked.values)
    }
}
