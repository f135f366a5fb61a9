//! The run that a component is part of: a handle that is given to `begin` and may be kept.

use crate::{Error, Need, Result, RunInfo, Tensor, needs};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// The run, for components that declare [`Need::Run`] or a need that implies it.
///
/// `begin` of a component is given one before training, after the model is there and, in a run that goes on from a
/// checkpoint, after its state was put back. It may be kept, cloned and used on other threads until the run is over;
/// after that every use is an error.
///
/// ```
/// use apus_sdk::{Callback, Control, Need, Result, Run, RunState, options, register, testing};
/// use serde_json::json;
///
/// options! {
///     struct GradNorms {}
///     state {
///         run: Option<Run>,
///     }
/// }
///
/// impl Callback for GradNorms {
///     fn needs() -> &'static [Need] {
///         &[Need::Parameters]
///     }
///
///     fn begin(&mut self, run: &Run) -> Result<()> {
///         self.run = Some(run.clone());
///         Ok(())
///     }
///
///     fn on_pre_optimizer_step(&mut self, _: &RunState, control: &mut Control) -> Result<()> {
///         let run = self.run.as_ref().ok_or("begin comes first")?;
///         for parameter in run.parameters()? {
///             let square = run.gradient(parameter.name())?.sqr()?.sum_all()?.item()?;
///             let name = format!("norm/{}", parameter.name());
///             control.metrics.insert(name, json!(square.sqrt()));
///         }
///         Ok(())
///     }
/// }
///
/// register! {
///     /// The norm of the gradient of each parameter.
///     Callback, "grad_norms", GradNorms
/// }
///
/// let host = testing::Host::new().parameter("w", &[0.0, 0.0], &[2]).gradient("w", &[3.0, 4.0]);
/// let mut callback = testing::make::<dyn Callback>("grad_norms", json!({}))?;
/// callback.begin(&host.run())?;
/// let played = testing::Run::new(1).play(&mut *callback)?;
/// assert_eq!(played.logs[0]["norm/w"], 5.0);
/// # Ok::<(), apus_sdk::Error>(())
/// ```
#[derive(Clone)]
pub struct Run {
    about: Arc<About>,
    host: Arc<dyn RunHost>,
    /// What the component declares that this one was given to; `None` if it may do everything.
    declared: Option<Arc<[Need]>>,
}

struct About {
    config: Value,
    info: RunInfo,
}

impl Run {
    /// A handle; made by the host and by tests. The one that a component gets is made of it by
    /// [`for_needs`](Self::for_needs).
    pub fn new(config: Value, info: RunInfo, host: Arc<dyn RunHost>) -> Self {
        Self {
            about: Arc::new(About { config, info }),
            host,
            declared: None,
        }
    }

    /// The same for a component that declares these needs.
    #[must_use]
    pub fn for_needs(&self, declared: &[Need]) -> Self {
        Self {
            declared: Some(declared.into()),
            ..self.clone()
        }
    }

    /// What the component declares that this was given to.
    pub(crate) fn declared(&self) -> Option<&[Need]> {
        self.declared.as_deref()
    }

    fn require(&self, need: Need) -> Result<()> {
        if let Some(declared) = &self.declared
            && !need.is_in(declared)
        {
            return Err(need.undeclared(declared));
        }
        needs::require(need)
    }

    fn note(&self) {
        match &self.declared {
            Some(declared) if !Need::Run.is_in(declared) => needs::miss(Need::Run),
            _ => needs::note(Need::Run),
        }
    }

    /// The configuration as `args.json` has it: every flag by name, paths and dates resolved, without secrets.
    pub fn config(&self) -> &Value {
        self.note();
        &self.about.config
    }

    /// Folder, rank, number of ranks and more. On ranks other than 0 only configuration, rank and number are known, and where a
    /// model is measured after its run, the configuration alone.
    pub fn info(&self) -> &RunInfo {
        self.note();
        &self.about.info
    }

    /// The ids of a text; what looks like a control token is text.
    ///
    /// # Errors
    /// The component does not declare [`Need::Run`]; the run is over.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.require(Need::Run)?;
        self.host.encode(text)
    }

    /// The text of ids, without special tokens.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.require(Need::Run)?;
        self.host.decode(tokens)
    }

    /// The parameters of the run, in the order in which an optimizer gets them.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn parameters(&self) -> Result<Vec<Parameter>> {
        self.require(Need::Run)?;
        self.host.parameters()
    }

    /// The value of a parameter, as it is now and as it will be: it is not copied, and cannot be changed by
    /// [`Tensor::set`]. To keep a value, make a tensor of it (`value.affine(1.0, 0.0)`).
    ///
    /// # Errors
    /// The component does not declare [`Need::Parameters`]; there is no such parameter; the run is over.
    pub fn value(&self, name: &str) -> Result<Tensor> {
        self.require(Need::Parameters)?;
        self.host.value(name)
    }

    /// The gradient of a parameter: in `on_pre_optimizer_step`, when it is complete and clipped. It is not copied.
    ///
    /// # Errors
    /// As [`value`](Self::value); there are no gradients now; another rank has this one.
    pub fn gradient(&self, name: &str) -> Result<Tensor> {
        self.require(Need::Parameters)?;
        self.host.gradient(name)
    }

    /// Sets a parameter to a tensor of its shape and type. Between steps only: not while the gradients of a step or an
    /// evaluation are computed. With several ranks callbacks are on rank 0, which gives the others what was set before anything
    /// else is done; a loss or an optimizer of another rank can set nothing.
    ///
    /// # Errors
    /// The component does not declare [`Need::SetParameters`]; another shape or type; numbers that are not finite;
    /// called from within a step.
    pub fn set(&self, name: &str, value: &Tensor) -> Result<()> {
        self.require(Need::SetParameters)?;
        self.host.set(name, value)
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Run({:?})", self.about.info.name)
    }
}

/// A parameter of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    name: String,
    shape: Vec<usize>,
    group: String,
    #[serde(default = "yes")]
    trainable: bool,
}

fn yes() -> bool {
    true
}

impl Parameter {
    /// One of this name and shape; its group follows from the name.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>, trainable: bool) -> Self {
        let name = name.into();
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let group = name.split('.').map(|part| match is_number(part) {
            true => "*",
            false => part,
        });
        Self {
            group: group.collect::<Vec<_>>().join("."),
            name,
            shape: shape.into(),
            trainable,
        }
    }

    /// Its name, as checkpoints hold it: `...layers.0.self_attn.q_proj.lora_A.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length of each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// What it has in common with those of other layers: its name with `*` for numbers, a pattern of all of them.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Whether it is trained now.
    pub fn trainable(&self) -> bool {
        self.trainable
    }
}

/// What stands behind a [`Run`]; implemented by the host.
pub trait RunHost: Send + Sync {
    /// See [`Run::encode`].
    ///
    /// # Errors
    /// As there.
    fn encode(&self, text: &str) -> Result<Vec<u32>>;

    /// See [`Run::decode`].
    ///
    /// # Errors
    /// As there.
    fn decode(&self, tokens: &[u32]) -> Result<String>;

    /// See [`Run::parameters`].
    ///
    /// # Errors
    /// As there.
    fn parameters(&self) -> Result<Vec<Parameter>>;

    /// See [`Run::value`].
    ///
    /// # Errors
    /// As there.
    fn value(&self, name: &str) -> Result<Tensor>;

    /// See [`Run::gradient`].
    ///
    /// # Errors
    /// As there.
    fn gradient(&self, name: &str) -> Result<Tensor>;

    /// See [`Run::set`].
    ///
    /// # Errors
    /// As there.
    fn set(&self, name: &str, value: &Tensor) -> Result<()>;
}

/// The error of a parameter that there is not.
#[doc(hidden)]
pub fn no_parameter<'a>(name: &str, there: impl Iterator<Item = &'a str>) -> Error {
    let some: Vec<&str> = there.take(3).collect();
    Error::new(format!(
        "there is no parameter {name:?} in this run; Run::parameters lists them: {}, ...",
        some.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_the_pattern_of_a_parameter_in_all_layers() {
        let parameter = Parameter::new(
            "model.layers.11.self_attn.q_proj.lora_A.weight",
            [8, 4],
            true,
        );
        assert_eq!(
            parameter.group(),
            "model.layers.*.self_attn.q_proj.lora_A.weight"
        );
        assert_eq!(
            (parameter.shape(), parameter.trainable()),
            (&[8, 4][..], true)
        );
    }
}
