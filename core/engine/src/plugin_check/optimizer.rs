//! Optimizers: they minimise a quadratic, a resumed run is exactly the one that was not interrupted, a step that is taken back
//! leaves nothing, and what hooks show goes away again.

use super::run::SmallRun;
use super::{Checked, Finding, Findings, push};
use crate::train::{Hook, OptimizerHost, Passes};
use anyhow::{Context, Result, bail, ensure};
use apus_components::registry::Named;
use apus_model::nn::Param;
use apus_model::ops::fill;
use apus_sdk::{Need, Optimizer};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

const STEPS: usize = 40;
const LR: f64 = 0.02;

/// Makes another instance of the optimizer.
type Make<'a> = &'a dyn Fn() -> Result<Named<dyn Optimizer>>;

pub(super) fn check(checked: &Checked, findings: &mut Findings) -> Result<()> {
    check_made(&|| checked.make(), checked.device, findings)
}

fn check_made(make: Make, device: &Device, findings: &mut Findings) -> Result<()> {
    let mut optimizer = make()?;
    let run = SmallRun::new(device)?;
    if !run.begins(findings, &mut optimizer, |optimizer, run| {
        optimizer.begin(run)
    }) {
        return Ok(());
    }
    let new = || Quadratic::new(make, device);
    push(findings, "a quadratic goes down", descends(new));
    push(
        findings,
        "goes on exactly from a checkpoint",
        resumes(make, device),
    );
    if optimizer.from_plugin {
        push(
            findings,
            "a step that is taken back leaves nothing",
            is_taken_back(new),
        );
    }
    if optimizer.declares(Need::Hooks) {
        let both = [
            (
                "an evaluation",
                Hook::BeforeEvaluation,
                Hook::AfterEvaluation,
            ),
            ("a checkpoint", Hook::BeforeSaving, Hook::AfterSaving),
        ];
        for (name, before, after) in both {
            let check = format!("{name} changes nothing of what is trained");
            match comes_back(new, before, after) {
                Ok(false) => findings.push(Finding::Note(format!(
                    "Need::Hooks is declared, and {} shows the weights that are trained",
                    before.name()
                ))),
                found => push(findings, &check, found.map(|_| String::new())),
            }
        }
    }
    if optimizer.declares(Need::Closure) {
        match passes_of_steps(new) {
            Ok(0) => findings.push(Finding::Note(format!(
                "Need::Closure is declared, and no step of {STEPS} calls step.evaluate()"
            ))),
            found => push(
                findings,
                "makes the passes of a step again",
                found.map(|count| format!("{count} times in {STEPS} steps")),
            ),
        }
    }
    push(findings, "zero gradients", zero_gradients(new));
    Ok(())
}

/// A quadratic, `0.5 * |x - target|^2`, over parameters with the shapes of adapters.
struct Quadratic {
    host: OptimizerHost,
    run: SmallRun,
    targets: Vec<Tensor>,
    /// How often its passes were made again.
    again: usize,
}

/// What a run trains from: values, state, and what the optimizer keeps beside them.
#[derive(PartialEq)]
struct Kept {
    values: Vec<Vec<f32>>,
    state: BTreeMap<String, Vec<u8>>,
    own: Vec<serde_json::Value>,
}

impl Quadratic {
    fn new(make: Make, device: &Device) -> Result<Self> {
        Self::made(make, device)?.begun()
    }

    /// One whose optimizer has not begun.
    fn made(make: Make, device: &Device) -> Result<Self> {
        let shapes: [&[usize]; 3] = [&[4, 6], &[6, 4], &[5]];
        let (mut params, mut targets) = (Vec::new(), Vec::new());
        for (i, shape) in shapes.into_iter().enumerate() {
            let value = fill::normal(shape, 0.5, (1, i as u64), DType::F32, device)?;
            targets.push(fill::normal(shape, 0.5, (2, i as u64), DType::F32, device)?);
            let name = [
                "layers.0.q_proj.lora_A.weight",
                "layers.0.q_proj.lora_B.weight",
                "norm.weight",
            ];
            params.push(Param::new(name[i], &value, i < 2)?);
        }
        Ok(Self {
            run: SmallRun::of(params.clone())?,
            host: OptimizerHost::new(make()?, params),
            targets,
            again: 0,
        })
    }

    fn begun(mut self) -> Result<Self> {
        self.host.begin(self.run.view())?;
        Ok(self)
    }

    /// Makes a step; returns the value before it.
    fn step(&mut self) -> Result<f64> {
        self.step_as_agreed(|here| here)
    }

    /// The same; `agree` may find that another rank cannot make it.
    fn step_as_agreed(&mut self, agree: impl FnOnce(Result<()>) -> Result<()>) -> Result<f64> {
        let params: Vec<Arc<Param>> = self.host.params().cloned().collect();
        let targets = &self.targets;
        let pass = || {
            let mut value = 0.0;
            for (param, target) in params.iter().zip(targets) {
                let gap = (param.value() - target)?;
                value += f64::from(gap.sqr()?.sum_all()?.to_scalar::<f32>()?) / 2.0;
                param.accumulate(gap)?;
            }
            Ok(value)
        };
        let value = pass()?;
        let again = &mut self.again;
        let mut run = || {
            *again += 1;
            pass()
        };
        let passes = Passes {
            run: &mut run,
            total: &|here| Ok(here),
        };
        let busy = self.run.busy();
        let made = self.host.step_as_agreed(LR, passes, agree);
        drop(busy);
        self.host.zero_grad();
        made.map(|()| value)
    }

    fn hook(&mut self, hook: Hook) -> Result<()> {
        self.host.hook(hook, |here| here)
    }

    fn values(&self) -> Result<Vec<Vec<f32>>> {
        let flat = self
            .host
            .params()
            .map(|p| Ok(p.value().flatten_all()?.to_vec1()?));
        flat.collect()
    }

    fn kept(&self) -> Result<Kept> {
        let state = self.host.state()?.into_iter();
        let bytes = |tensor: Tensor| -> Result<Vec<u8>> {
            Ok(safetensors::serialize(
                [("tensor", tensor.contiguous()?)],
                None,
            )?)
        };
        Ok(Kept {
            values: self.values()?,
            state: state
                .map(|(name, tensor)| Ok((name, bytes(tensor)?)))
                .collect::<Result<_>>()?,
            own: self.host.own_state()?,
        })
    }
}

fn descends(new: impl Fn() -> Result<Quadratic>) -> Result<String> {
    let mut quadratic = new()?;
    let values = (0..=STEPS)
        .map(|_| quadratic.step())
        .collect::<Result<Vec<_>>>()?;
    let (first, last) = (values[0], values[STEPS]);
    ensure!(
        last.is_finite() && last < 0.9 * first,
        "it was {first:.4} and is {last:.4} after {STEPS} steps at a learning rate of {LR}"
    );
    Ok(format!(
        "{first:.4} to {last:.4} in {STEPS} steps at a learning rate of {LR}"
    ))
}

fn resumes(make: Make, device: &Device) -> Result<String> {
    let [mut whole, mut cut] = [Quadratic::new(make, device)?, Quadratic::new(make, device)?];
    for _ in 0..3 {
        whole.step()?;
        cut.step()?;
    }
    cut.hook(Hook::BeforeSaving)?;
    let (state, own) = (cut.host.state()?, cut.host.own_state()?);
    let values = cut.host.params().map(|p| Ok(p.value().copy()?));
    let values = values.collect::<Result<Vec<_>>>()?;
    let kept = state.len();
    // As in a checkpoint, both pass through files.
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("optimizer.safetensors");
    candle_core::safetensors::save(&state.into_iter().collect(), &file)?;
    let state = candle_core::safetensors::load(&file, device)?;
    let text = serde_json::to_string(&own)?;
    let mut resumed = Quadratic::made(make, device)?;
    for (param, value) in resumed.host.params().zip(values) {
        param.set(&value)?;
    }
    resumed
        .host
        .restore(3, state.into_iter().collect(), device)?;
    resumed
        .host
        .restore_own_state(serde_json::from_str(&text)?)?;
    let again = resumed.host.own_state()?;
    ensure!(
        again == own,
        "save_state gave {}, and gives {} after load_state was given that",
        text,
        serde_json::to_string(&again)?
    );
    let mut resumed = resumed.begun()?;
    resumed.hook(Hook::AfterSaving)?;
    for _ in 0..3 {
        whole.step()?;
        resumed.step()?;
    }
    ensure!(
        whole.values()? == resumed.values()?,
        "three steps, a checkpoint and three steps end elsewhere than six steps: what has to survive \
         goes into param.state, or into save_state and load_state with Need::State, not into the optimizer alone"
    );
    Ok(match own.is_empty() {
        true => format!("{kept} tensors kept"),
        false => format!("{kept} tensors and {text} kept"),
    })
}

/// A step that another rank could not make, or that left values that are not finite, is made by none.
fn is_taken_back(new: impl Fn() -> Result<Quadratic>) -> Result<String> {
    let (mut whole, mut other) = (new()?, new()?);
    for _ in 0..3 {
        whole.step()?;
        other.step()?;
    }
    if other.step_as_agreed(|_| bail!("taken back")).is_ok() {
        bail!("a step was made although it was to be taken back");
    }
    for _ in 0..3 {
        whole.step()?;
        other.step()?;
    }
    ensure!(
        whole.values()? == other.values()?,
        "the steps after one that was taken back are others than without it: the host puts back param.state, and with \
         Need::State what save_state gave; the rest follows from info.step"
    );
    Ok(String::new())
}

/// Whether other weights are there between two hooks; what is trained has to be as before, and so have the steps that follow.
fn comes_back(new: impl Fn() -> Result<Quadratic>, before: Hook, after: Hook) -> Result<bool> {
    let (mut whole, mut shown) = (new()?, new()?);
    let mut differs = false;
    for step in 1..=6 {
        whole.step()?;
        shown.step()?;
        let trained = shown.kept()?;
        shown.hook(before)?;
        differs |= shown.values()? != trained.values;
        shown
            .host
            .state()
            .with_context(|| format!("after {}", before.name()))?;
        shown.hook(after)?;
        let back = shown.kept()?;
        ensure!(
            back.values == trained.values,
            "after {} in step {step} the weights are not those that were trained",
            after.name()
        );
        let changed = trained
            .state
            .iter()
            .find(|(name, _)| !back.state.contains_key(*name));
        let changed = changed.or_else(|| {
            let mut both = back.state.iter();
            both.find(|(name, bytes)| trained.state.get(*name) != Some(bytes))
        });
        if let Some((name, _)) = changed {
            bail!(
                "after {} in step {step} the state {name} is not what it was before {}",
                after.name(),
                before.name()
            );
        }
        ensure!(
            back.own == trained.own,
            "after {} in step {step} save_state gives something else than before {}",
            after.name(),
            before.name()
        );
    }
    ensure!(
        whole.values()? == shown.values()?,
        "the steps after {} and {} are others than without them",
        before.name(),
        after.name()
    );
    Ok(differs)
}

fn passes_of_steps(new: impl Fn() -> Result<Quadratic>) -> Result<usize> {
    let mut quadratic = new()?;
    for _ in 0..STEPS {
        quadratic.step()?;
    }
    Ok(quadratic.again)
}

/// Gradients are zero where nothing reached a parameter; values must stay finite.
fn zero_gradients(new: impl Fn() -> Result<Quadratic>) -> Result<String> {
    let mut quadratic = new()?;
    for _ in 0..3 {
        quadratic.host.step(LR)?;
    }
    let sound = quadratic
        .values()?
        .iter()
        .flatten()
        .all(|value| value.is_finite());
    ensure!(sound, "values that are not finite");
    Ok(String::new())
}

#[cfg(test)]
mod tests;
