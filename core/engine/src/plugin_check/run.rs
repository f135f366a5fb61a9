//! The run that checked components are part of: a whole configuration, a tokenizer of bytes, and the parameters of adapters
//! on two small layers, with values and gradients.

use super::{Finding, Findings};
use crate::host::{Busy, RunView, Shown, fitting};
use crate::train::about;
use crate::train::args::args;
use anyhow::{Context, Result};
use apus_components::config::SftConfig;
use apus_components::registry::Named;
use apus_data::chat::Tokenizer;
use apus_model::nn::Param;
use apus_model::ops::fill;
use apus_sdk::private::no_parameter;
use apus_sdk::{Need, Run, RunInfo, Tensor};
use candle_core::{DType, Device};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// Steps of the run.
pub(super) const STEPS: u64 = 6;

const RANK: usize = 4;
const WIDTH: usize = 6;

/// A run of few small parameters.
pub(super) struct SmallRun {
    view: RunView,
    params: Vec<Arc<Param>>,
    folder: TempDir,
}

impl SmallRun {
    /// A run of the parameters that [`parameters`] makes.
    pub fn new(device: &Device) -> Result<Self> {
        Self::of(parameters(device)?)
    }

    /// A run of these parameters.
    pub fn of(params: Vec<Arc<Param>>) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for the run")?;
        let shown = Shown {
            params: params.clone(),
            own: None,
            tokenizer: Some(Arc::new(Tokenizer::of_bytes()?)),
        };
        Ok(Self {
            view: RunView::new(info(folder.path()), shown),
            params,
            folder,
        })
    }

    /// Gives the run to a component that was made, as a run does before its first step.
    ///
    /// # Errors
    /// The component failed; the error names it.
    pub fn begin<T: ?Sized>(
        &self,
        component: &mut Named<T>,
        begin: impl FnOnce(&mut T, &Run) -> apus_sdk::Result<()>,
    ) -> Result<()> {
        self.view.begin(component, begin)
    }

    /// As [`begin`](Self::begin), with what came of it among the findings; whether there is something left to check.
    pub fn begins<T: ?Sized>(
        &self,
        findings: &mut Findings,
        component: &mut Named<T>,
        begin: impl FnOnce(&mut T, &Run) -> apus_sdk::Result<()>,
    ) -> bool {
        let begun = self.begin(component, begin);
        match &begun {
            Err(error) => findings.push(Finding::Bad(format!("{error:#}"))),
            Ok(()) if component.declares(Need::Run) => {
                findings.push(Finding::Good("begins with its run".to_owned()));
            }
            Ok(()) => {}
        }
        begun.is_ok()
    }

    /// The handle behind it.
    pub fn view(&self) -> &RunView {
        &self.view
    }

    /// A step is computed as long as this is kept, in which nothing is set.
    pub fn busy(&self) -> Busy {
        self.view.busy()
    }

    /// The folder of the run.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether a parameter of this name can be set to a component's tensor.
    ///
    /// # Errors
    /// There is none, or another shape or type, or numbers that are not finite.
    pub fn fits(&self, name: &str, value: &Tensor) -> Result<()> {
        let param = self.params.iter().find(|param| param.name() == name);
        let there = self.params.iter().map(|param| param.name());
        let param = param.ok_or_else(|| no_parameter(name, there))?;
        fitting(param, value)?;
        Ok(())
    }

    /// Gives all parameters gradients.
    pub fn make_gradients(&self) -> Result<()> {
        for (stream, param) in (0..).zip(&self.params) {
            let value = param.value();
            let gradient =
                fill::normal(value.shape(), 0.1, (3, stream), DType::F32, value.device())?;
            param.accumulate(gradient)?;
        }
        Ok(())
    }

    /// Forgets the gradients.
    pub fn forget_gradients(&self) {
        for param in &self.params {
            param.take_grad();
        }
    }
}

/// What is said of the run in this folder.
pub(super) fn info(folder: &Path) -> RunInfo {
    let config = SftConfig {
        model: "tiny".to_owned(),
        dataset: vec!["a.jsonl".into()],
        lora_rank: RANK,
        max_steps: STEPS as i64,
        ..SftConfig::default()
    };
    RunInfo {
        name: "check".to_owned(),
        dir: folder.to_owned(),
        config: args(&config),
        max_steps: STEPS,
        id: about::new_id(),
        ..about::process()
    }
}

fn parameters(device: &Device) -> Result<Vec<Arc<Param>>> {
    let mut params = Vec::new();
    for layer in 0..2 {
        for module in ["q_proj", "v_proj"] {
            for (part, shape) in [("lora_A", [RANK, WIDTH]), ("lora_B", [WIDTH, RANK])] {
                let name = format!(
                    "base_model.model.model.layers.{layer}.self_attn.{module}.{part}.weight"
                );
                let stream = params.len() as u64;
                let value = fill::normal(&shape, 0.5, (1, stream), DType::F32, device)?;
                params.push(Param::new(name, &value, true)?);
            }
        }
    }
    Ok(params)
}
