//! Optimizers: they minimise a quadratic, and a resumed run is exactly the one that was not interrupted.

use super::run::SmallRun;
use super::{Checked, Findings, push};
use crate::train::OptimizerHost;
use anyhow::{Result, ensure};
use apus_model::nn::Param;
use apus_model::ops::fill;
use apus_sdk::Optimizer;
use candle_core::{DType, Tensor};

const STEPS: usize = 40;
const LR: f64 = 0.02;

pub(super) fn check(checked: &Checked, findings: &mut Findings) -> Result<()> {
    let mut made = checked.make::<dyn Optimizer>()?;
    let run = SmallRun::new(checked.device)?;
    if !run.begins(findings, &mut made, |optimizer, run| optimizer.begin(run)) {
        return Ok(());
    }
    push(findings, "a quadratic goes down", descends(checked));
    push(
        findings,
        "goes on exactly from a checkpoint",
        resumes(checked),
    );
    push(findings, "zero gradients", zero_gradients(checked));
    Ok(())
}

/// A quadratic, `0.5 * |x - target|^2`, over parameters with the shapes of adapters.
struct Quadratic {
    host: OptimizerHost,
    run: SmallRun,
    targets: Vec<Tensor>,
}

impl Quadratic {
    fn new(checked: &Checked) -> Result<Self> {
        Self::made(checked)?.begun()
    }

    /// One whose optimizer has not begun.
    fn made(checked: &Checked) -> Result<Self> {
        let device = checked.device;
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
            host: OptimizerHost::new(checked.make()?, params),
            targets,
        })
    }

    fn begun(mut self) -> Result<Self> {
        self.host.begin(self.run.view())?;
        Ok(self)
    }

    /// Makes a step; returns the value before it.
    fn step(&mut self) -> Result<f64> {
        let mut value = 0.0;
        for (param, target) in self.host.params().zip(&self.targets) {
            let gap = (param.value() - target)?;
            value += f64::from(gap.sqr()?.sum_all()?.to_scalar::<f32>()?) / 2.0;
            param.accumulate(gap)?;
        }
        let busy = self.run.busy();
        self.host.step(LR)?;
        drop(busy);
        self.host.zero_grad();
        Ok(value)
    }

    fn values(&self) -> Result<Vec<Vec<f32>>> {
        let flat = self
            .host
            .params()
            .map(|p| Ok(p.value().flatten_all()?.to_vec1()?));
        flat.collect()
    }
}

fn descends(checked: &Checked) -> Result<String> {
    let mut quadratic = Quadratic::new(checked)?;
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

fn resumes(checked: &Checked) -> Result<String> {
    let mut whole = Quadratic::new(checked)?;
    let mut halves = Quadratic::new(checked)?;
    for _ in 0..3 {
        whole.step()?;
        halves.step()?;
    }
    let (state, values) = (halves.host.state()?, halves.host.params());
    let values = values
        .map(|p| Ok(p.value().copy()?))
        .collect::<Result<Vec<_>>>()?;
    let kept = state.len();
    // As in a checkpoint, state passes through a file.
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("optimizer.safetensors");
    candle_core::safetensors::save(&state.into_iter().collect(), &file)?;
    let state = candle_core::safetensors::load(&file, checked.device)?;
    let state = state.into_iter().collect();
    let mut resumed = Quadratic::made(checked)?;
    for (param, value) in resumed.host.params().zip(values) {
        param.set(&value)?;
    }
    resumed.host.restore(3, state, checked.device)?;
    let mut resumed = resumed.begun()?;
    for _ in 0..3 {
        whole.step()?;
        resumed.step()?;
    }
    ensure!(
        whole.values()? == resumed.values()?,
        "three steps, a checkpoint and three steps end elsewhere than six steps: what has to survive \
         goes into param.state, not into the optimizer"
    );
    Ok(format!("{kept} tensors kept"))
}

/// Gradients are zero where nothing reached a parameter; values must stay finite.
fn zero_gradients(checked: &Checked) -> Result<String> {
    let mut quadratic = Quadratic::new(checked)?;
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
