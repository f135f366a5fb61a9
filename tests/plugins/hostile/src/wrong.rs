//! Components that neither panic nor return an error, and are wrong all the same.

use crate::bad::descend;
use apus_sdk::{
    Callback, Control, EvalBatch, Loss, LossChunk, LossScale, LrSchedule, Metric, Optimizer, Param,
    Progress, Result, RunInfo, RunState, Segment, StepInfo, Tensor, Tracker, Turn, register,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::thread::sleep;
use std::time::Duration;

#[derive(Deserialize)]
struct Nan;

register! {
    /// A loss that is not a number.
    Loss, "nan", Nan
}

impl Loss for Nan {
    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
        chunk.cross_entropy()?.affine(f64::NAN, 0.0)
    }
}

register! {
    /// Sets parameters to what is not a number, from step 2 on.
    Optimizer, "nan", Nan
}

impl Optimizer for Nan {
    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        params.iter().try_for_each(|param| match info.step {
            0 | 1 => descend(param),
            _ => param.value.set(&param.value.full_like(f64::NAN)?),
        })
    }
}

register! {
    /// A factor that is not a number.
    LrSchedule, "nan", Nan
}

impl LrSchedule for Nan {
    fn factor(&self, _progress: &Progress) -> Result<f64> {
        Ok(f64::NAN)
    }
}

register! {
    /// A value that is not a number.
    Metric, "nan", Nan
}

impl Metric for Nan {
    fn update(&mut self, _batch: &EvalBatch) -> Result<()> {
        Ok(())
    }

    fn compute(&mut self) -> Result<Vec<(String, f64)>> {
        Ok(vec![("nan".to_owned(), f64::NAN)])
    }
}

#[derive(Deserialize)]
struct Short;

register! {
    /// One token too few.
    Loss, "short", Short
}

impl Loss for Short {
    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
        let ce = chunk.cross_entropy()?;
        ce.narrow(0, 1, ce.elements() - 1)
    }
}

#[derive(Deserialize)]
struct Constant;

register! {
    /// A loss of 1, which has no gradient.
    Loss, "constant", Constant
}

impl Loss for Constant {
    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
        chunk.weights.full_like(1.0)
    }
}

#[derive(Deserialize)]
struct Half;

register! {
    /// From step 2 on changes the first parameter, then panics.
    Optimizer, "half", Half
}

impl Optimizer for Half {
    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        for param in params {
            descend(param)?;
            assert!(info.step < 2, "hostile after {}", param.name);
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct ByProcess;

register! {
    /// Adds the number of its process to a parameter at step 3.
    Optimizer, "by_process", ByProcess
}

impl Optimizer for ByProcess {
    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        for param in params {
            descend(param)?;
            if info.step == 3 && param.name.contains("layers.1.self_attn.v_proj.lora_B") {
                let process = f64::from(std::process::id());
                param.value.set(&param.value.affine(1.0, process * 1e-9)?)?;
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct RefusesOne;

register! {
    /// Fails from step 3 on where it is given a certain parameter, after it has changed others.
    Optimizer, "refuses_one", RefusesOne
}

impl Optimizer for RefusesOne {
    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        params.iter().try_for_each(descend)?;
        let refused = |param: &Param| param.name.contains("layers.1.self_attn.v_proj.lora_B");
        match params.iter().find(|param| refused(param)) {
            Some(param) if info.step > 2 => Err(format!("no step of {}", param.name).into()),
            _ => Ok(()),
        }
    }
}

#[derive(Deserialize)]
struct AllAtOnce;

register! {
    /// Divides every step by the norm of all gradients together.
    Optimizer, "all_at_once", AllAtOnce
}

impl Optimizer for AllAtOnce {
    fn step(&mut self, params: &mut [Param], _info: &StepInfo) -> Result<()> {
        let mut squares = 0.0;
        for param in params.iter() {
            squares += f64::from(param.grad.sqr()?.sum_all()?.to_vec_f32()?[0]);
        }
        for param in params {
            let step = param
                .grad
                .affine(param.lr / squares.sqrt().max(1e-6), 0.0)?;
            param.value.set(&param.value.sub(&step)?)?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct LosesText;

register! {
    /// Loses the first character of a text.
    LossScale, "loses_text", LosesText
}

impl LossScale for LosesText {
    fn segments(&self, text: &str, _turn: &Turn) -> Result<Vec<Segment>> {
        let rest: String = text.chars().skip(1).collect();
        Ok(vec![Segment::new(rest, 1.0)])
    }
}

#[derive(Deserialize)]
struct BadFactor;

register! {
    /// Asks for a factor that is not a number at step 2.
    Callback, "bad_factor", BadFactor
}

impl Callback for BadFactor {
    fn on_step_end(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        control.lr_factor = (state.global_step >= 2).then_some(f64::NAN);
        Ok(())
    }
}

apus_sdk::options! {
    struct Slow {
        /// What a log takes.
        milliseconds: u64 = 50,
    }
}

register! {
    /// Takes its time for each log.
    Tracker, "slow", Slow
}

impl Tracker for Slow {
    fn start(&mut self, _run: &RunInfo) -> Result<()> {
        Ok(())
    }

    fn log(&mut self, _step: u64, _values: &Map<String, Value>) -> Result<()> {
        sleep(Duration::from_millis(self.milliseconds));
        Ok(())
    }
}

#[derive(Deserialize)]
struct Hangs;

register! {
    /// Takes an hour for each log.
    Tracker, "hangs", Hangs
}

impl Tracker for Hangs {
    fn start(&mut self, _run: &RunInfo) -> Result<()> {
        Ok(())
    }

    fn log(&mut self, _step: u64, _values: &Map<String, Value>) -> Result<()> {
        sleep(Duration::from_secs(3600));
        Ok(())
    }
}

#[derive(Deserialize)]
struct HangsAfterStep;

register! {
    /// Does not come back from the end of step 2.
    Callback, "hangs", HangsAfterStep
}

impl Callback for HangsAfterStep {
    fn on_step_end(&mut self, state: &RunState, _control: &mut Control) -> Result<()> {
        if state.global_step >= 2 {
            sleep(Duration::from_secs(3600));
        }
        Ok(())
    }
}
