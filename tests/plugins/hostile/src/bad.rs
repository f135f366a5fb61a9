//! For each kind `panics`, `fails` and `exits`: the first panics, the second returns an error, the third ends the process.
//!
//! Each does so where its kind has most to do; the option `event` names another method. Losses and
//! optimizers fail from their second call on, callbacks from step 2 on, all others at once.

use apus_sdk::{
    Callback, Control, DatasetFormat, EndState, EvalBatch, Loss, LossChunk, LossScale, LrSchedule,
    Metric, Optimizer, Param, Progress, Result, Row, RunInfo, RunState, Sample, Segment, StepInfo,
    Tensor, Tracker, Turn, register,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How a component fails.
trait Way: Default + Send + Sync {
    const NAME: &str;
    fn fail(place: &str) -> Result<()>;
}

#[derive(Default)]
struct Panics;

impl Way for Panics {
    const NAME: &str = "panics";
    fn fail(place: &str) -> Result<()> {
        panic!("hostile in {place}")
    }
}

#[derive(Default)]
struct Fails;

impl Way for Fails {
    const NAME: &str = "fails";
    fn fail(place: &str) -> Result<()> {
        Err(format!("hostile in {place}").into())
    }
}

#[derive(Default)]
struct Exits;

impl Way for Exits {
    const NAME: &str = "exits";
    fn fail(_place: &str) -> Result<()> {
        std::process::exit(7)
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, bound = "W: Way")]
struct Bad<W> {
    event: Option<String>,
    #[serde(skip)]
    calls: AtomicU64,
    #[serde(skip)]
    way: PhantomData<W>,
}

impl<W: Way> Bad<W> {
    /// Fails in `place` if the options name it, or if they name none and it is the `usual` one.
    fn at(&self, place: &str, usual: &str) -> Result<()> {
        match self.event.as_deref().unwrap_or(usual) == place {
            true => W::fail(place),
            false => Ok(()),
        }
    }
}

impl<W: Way> DatasetFormat for Bad<W> {
    /// Rows with a column `panics`, `fails` or `exits`; asked about a column `panics_when_asked`, one does.
    fn recognises(&self, columns: &[&str]) -> bool {
        if columns.contains(&"panics_when_asked") {
            return W::fail("recognises").is_ok();
        }
        columns.contains(&W::NAME)
    }

    fn rank(&self) -> i32 {
        1000
    }

    fn convert(&self, _row: Row) -> Result<Vec<Sample>> {
        W::fail("convert").map(|()| Vec::new())
    }
}

impl<W: Way> LossScale for Bad<W> {
    fn segments(&self, _text: &str, _turn: &Turn) -> Result<Vec<Segment>> {
        W::fail("segments").map(|()| Vec::new())
    }
}

impl<W: Way> Loss for Bad<W> {
    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
        if self.calls.fetch_add(1, Relaxed) > 0 {
            W::fail("per_token")?;
        }
        chunk.cross_entropy()
    }
}

impl<W: Way> Optimizer for Bad<W> {
    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        if info.step > 1 {
            W::fail("step")?;
        }
        params.iter().try_for_each(descend)
    }
}

/// A step of gradient descent.
pub fn descend(param: &Param) -> Result<()> {
    let step = param.grad.affine(-param.lr, 0.0)?;
    param.value.set(&param.value.add(&step)?)
}

impl<W: Way> LrSchedule for Bad<W> {
    fn factor(&self, _progress: &Progress) -> Result<f64> {
        W::fail("factor").map(|()| 1.0)
    }
}

macro_rules! events {
    ($($event:ident($($arg:ident: $type:ty),*);)*) => {
        impl<W: Way> Callback for Bad<W> {
            $(fn $event(&mut self, $($arg: $type,)* _state: &RunState, _control: &mut Control) -> Result<()> {
                self.at(stringify!($event), "on_step_end")
            })*

            fn on_step_end(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
                if state.global_step < 2 {
                    return Ok(());
                }
                if self.event.as_deref() == Some("on_generate") {
                    control.generate.push("Hello?".to_owned());
                }
                self.at("on_step_end", "on_step_end")
            }

            fn save_state(&self) -> Result<Value> {
                self.at("save_state", "on_step_end")?;
                Ok(self.event.clone().into())
            }

            fn load_state(&mut self, _saved: Value) -> Result<()> {
                self.at("load_state", "on_step_end")
            }
        }
    };
}
events! {
    on_init_end();
    on_train_begin();
    on_train_end();
    on_epoch_begin();
    on_epoch_end();
    on_step_begin();
    on_substep_end();
    on_pre_optimizer_step();
    on_optimizer_step();
    on_prediction_step();
    on_evaluate(_metrics: &Map<String, Value>);
    on_save(_checkpoint: &Path);
    on_log(_values: &mut Map<String, Value>);
    on_generate(_prompt: &str, _answer: &str);
}

impl<W: Way> Metric for Bad<W> {
    fn update(&mut self, _batch: &EvalBatch) -> Result<()> {
        self.at("update", "update")
    }

    fn compute(&mut self) -> Result<Vec<(String, f64)>> {
        self.at("compute", "update").map(|()| Vec::new())
    }
}

impl<W: Way> Tracker for Bad<W> {
    fn start(&mut self, _run: &RunInfo) -> Result<()> {
        self.at("start", "log")
    }

    fn log(&mut self, _step: u64, _values: &Map<String, Value>) -> Result<()> {
        self.at("log", "log")
    }

    fn text(&mut self, _step: u64, _name: &str, _text: &str) -> Result<()> {
        self.at("text", "log")
    }

    fn finish(&mut self, _end: &EndState) -> Result<()> {
        self.at("finish", "log")
    }
}

macro_rules! register_all {
    ($($kind:ident),*) => {$(
        register! {
            /// Panics.
            $kind, "panics", Bad<Panics>
        }
        register! {
            /// Returns an error.
            $kind, "fails", Bad<Fails>
        }
        register! {
            /// Ends the process.
            $kind, "exits", Bad<Exits>
        }
    )*};
}
register_all!(
    DatasetFormat,
    LossScale,
    Loss,
    Optimizer,
    LrSchedule,
    Callback,
    Metric,
    Tracker
);
