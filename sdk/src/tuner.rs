//! Tuners: parameters that are added to layers of a frozen model, and what is computed with them.

use crate::{Need, Options, Result, Setup, Tensor};
use serde::{Deserialize, Serialize};

/// Adds parameters to layers of a model whose own weights stay as they are, and computes with them.
///
/// The host asks [`parameters`](Self::parameters) for each layer that `--target_modules` names: linear layers, and blocks
/// ([`LayerKind`]). In a pass a layer with
/// parameters reads [`input`](Self::input) in place of its input and gives [`output`](Self::output) in place of its output.
/// Both are written with operations of [`Tensor`]; the host differentiates them, runs them again where a layer keeps only its
/// input, adds up gradients over ranks, and saves, resumes and answers with the parameters.
///
/// ```
/// use apus_sdk::{AddedParam, Init, LayerInfo, Result, Tensor, Tuner, options, register, testing};
/// use serde_json::json;
///
/// options! {
///     struct Shift {
///         /// What every number of the added vector begins with.
///         start: f64 = 0.0,
///     }
/// }
///
/// impl Tuner for Shift {
///     fn parameters(&self, layer: &LayerInfo) -> Result<Vec<AddedParam>> {
///         Ok(vec![AddedParam::new("shift", &[layer.outputs()], Init::Constant(self.start))])
///     }
///
///     fn output(&self, _layer: &LayerInfo, _x: &Tensor, y: &Tensor, params: &[Tensor]) -> Result<Tensor> {
///         y.add(&params[0])
///     }
/// }
///
/// register! {
///     /// Adds a vector to what a layer gives.
///     Tuner, "shift", Shift
/// }
///
/// let shift = testing::make::<dyn Tuner>("shift", json!({"start": 0.5}))?;
/// let layer = LayerInfo::new("model.layers.0.self_attn.q_proj", 4, 2);
/// let x = testing::tensor(&[1.0, 2.0, 3.0, 4.0], &[1, 4]);
/// let y = testing::tensor(&[1.0, -1.0], &[1, 2]);
/// let vector = testing::tensor(&[0.5, 0.5], &[2]);
/// let out = shift.output(&layer, &x, &y, &[vector])?;
/// assert_eq!(out.to_vec::<f32>()?, [1.5, -0.5]);
/// # Ok::<(), apus_sdk::Error>(())
/// ```
pub trait Tuner: Send + Sync {
    /// What of later SDKs it uses.
    fn needs() -> &'static [Need]
    where
        Self: Sized,
    {
        &[]
    }

    /// Looks at the set-up of a run before its model is read; with [`Need::Check`]. Without it nothing is checked.
    ///
    /// # Errors
    /// What contradicts the component; it ends the command.
    fn check(&self, setup: &Setup) -> Result<()> {
        setup.leave();
        Ok(())
    }

    /// The parameters that it adds to a layer. A layer without any stays as it is.
    ///
    /// # Errors
    /// A layer that it cannot be added to, or options that do not go with it.
    fn parameters(&self, layer: &LayerInfo) -> Result<Vec<AddedParam>>;

    /// The values that a layer's parameters begin with, in the order of [`parameters`](Self::parameters) and in the shapes that they say,
    /// f32; with [`Need::Initial`]. Without it they are `drawn`, as the parameters' [`Init`]s say.
    ///
    /// `weight` is the layer's own, `[O, I]`; a block has none. The matrices of experts come one after another, each with what was drawn
    /// for it; where a low-rank update is computed for all of them [together](LayerInfo::matrices) this is not asked. It is asked once,
    /// when a run begins, and neither when one goes on nor for answers.
    ///
    /// # Errors
    /// Whatever an operation returns.
    fn initial(
        &self,
        layer: &LayerInfo,
        weight: Option<&Tensor>,
        drawn: &[Tensor],
    ) -> Result<Vec<Tensor>> {
        let _ = (layer, weight);
        Ok(drawn.to_vec())
    }

    /// What the layer reads in place of `x` `[T, I]`, in the same shape; `x` itself unless this is written. `params` are the
    /// values of the layer's parameters, in the order of [`parameters`](Self::parameters). All tensors are f32, here and below.
    ///
    /// A row is a token, and all rows have to be treated alike: answers are computed with fewer of them at a time. Before the
    /// model is loaded, this and [`output`](Self::output) are called with a row of zeros for each layer, to see what they do; what they
    /// do must not depend on the numbers.
    ///
    /// # Errors
    /// Whatever an operation returns.
    fn input(&self, layer: &LayerInfo, x: &Tensor, params: &[Tensor]) -> Result<Tensor> {
        let _ = (layer, params);
        Ok(x.clone())
    }

    /// What the layer gives in place of its output `y` `[T, O]`, in the same shape; `y` itself unless this is written. `x`
    /// `[T, I]` is the layer's input as it was before [`input`](Self::input).
    ///
    /// # Errors
    /// Whatever an operation returns.
    fn output(
        &self,
        layer: &LayerInfo,
        x: &Tensor,
        y: &Tensor,
        params: &[Tensor],
    ) -> Result<Tensor> {
        let _ = (layer, x, params);
        Ok(y.clone())
    }

    /// The weight `[O, I]` of a layer that computes without this tuner what it computes with it, from the layer's own; all f32.
    /// `None`, as it is unless this is written, if there is no such weight: then a model with it is not merged. Of a block this is
    /// not asked.
    ///
    /// # Errors
    /// Whatever an operation returns.
    fn merged_weight(
        &self,
        layer: &LayerInfo,
        weight: &Tensor,
        params: &[Tensor],
    ) -> Result<Option<Tensor>> {
        let _ = (layer, weight, params);
        Ok(None)
    }

    /// The same for the bias `[O]` of a layer that has one; the bias itself unless this is written. Where
    /// [`merged_weight`](Self::merged_weight) gives none this is not asked.
    ///
    /// # Errors
    /// Whatever an operation returns.
    fn merged_bias(&self, layer: &LayerInfo, bias: &Tensor, params: &[Tensor]) -> Result<Tensor> {
        let _ = (layer, params);
        Ok(bias.clone())
    }

    /// A `[R, I]` and B `[O, R]`, f32, of the low-rank update that the layer computes the same with as with this tuner: `W + B A` in
    /// place of `W`, and the bias as it is. `None`, as it is unless this is written, if there is no such update: then what it has
    /// trained answers alone, and formats that have low-rank updates alone refuse it. Of a block this is not asked, nor where the output
    /// is a [low-rank update](Tensor::low_rank) and nothing else.
    ///
    /// # Errors
    /// Whatever an operation returns.
    fn low_rank_update(&self, layer: &LayerInfo, params: &[Tensor]) -> Result<Option<[Tensor; 2]>> {
        let _ = (layer, params);
        Ok(None)
    }

    /// The layers that it is added to where `--target_modules` does not say, by the ends of their names: `q_proj`, `mlp`,
    /// `layers.3.mlp.experts`, or `all-linear` and `all-layers`.
    ///
    /// # Errors
    /// Options that do not go together.
    fn targets(&self) -> Result<Vec<String>> {
        Ok(vec!["all-linear".to_owned()])
    }

    /// The fields of PEFT's adapter_config.json for the same method, `peft_type` among them, if PEFT has it and reads these
    /// parameters: then PEFT can load what was trained. None unless this is written.
    ///
    /// # Errors
    /// Options that do not go together.
    fn peft_config(&self) -> Result<Options> {
        Ok(Options::new())
    }
}

/// What a layer that a [`Tuner`] is added to computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LayerKind {
    /// A matrix `[O, I]`, perhaps with a bias `[O]`.
    #[default]
    Linear,
    /// The whole MLP of a decoder layer; a mixture of experts with its router. Its output is added to the residual stream.
    Mlp,
    /// The experts of a decoder layer together, without the router, which goes on reading what it read. The output is their
    /// weighted sum.
    Experts,
    /// A whole decoder layer: input and output are the residual stream.
    Decoder,
}

/// A layer as a [`Tuner`] sees it: a matrix, or a block that has none of its own ([`kind`](Self::kind)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    name: String,
    #[serde(default)]
    kind: LayerKind,
    inputs: usize,
    outputs: usize,
    #[serde(default)]
    bias: bool,
    #[serde(default)]
    experts: Option<usize>,
    #[serde(default = "one")]
    matrices: usize,
}

fn one() -> usize {
    1
}

impl LayerInfo {
    /// A linear layer without a bias; made by the host and by tests.
    pub fn new(name: impl Into<String>, inputs: usize, outputs: usize) -> Self {
        Self {
            name: name.into(),
            kind: LayerKind::Linear,
            inputs,
            outputs,
            bias: false,
            experts: None,
            matrices: 1,
        }
    }

    /// A block that reads and gives rows of `width` numbers; made by the host and by tests.
    pub fn block(name: impl Into<String>, kind: LayerKind, width: usize) -> Self {
        Self {
            kind,
            ..Self::new(name, width, width)
        }
    }

    /// The same layer with a bias, or without.
    #[must_use]
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// The same block with so many experts in it.
    #[must_use]
    pub fn with_experts(mut self, experts: usize) -> Self {
        self.experts = Some(experts);
        self
    }

    /// The same layer as a parameter that holds the matrices of so many experts.
    #[must_use]
    pub fn with_matrices(mut self, matrices: usize) -> Self {
        self.matrices = matrices;
        self
    }

    /// Its path in the model: `model.layers.0.self_attn.q_proj`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it computes. A block has no weight to merge into.
    pub fn kind(&self) -> LayerKind {
        self.kind
    }

    /// The number of its inputs, I.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The number of its outputs, O.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Whether it has a bias.
    pub fn has_bias(&self) -> bool {
        self.bias
    }

    /// The number of experts in it, if it is a block with experts.
    pub fn experts(&self) -> Option<usize> {
        self.experts
    }

    /// The number of its matrices `[O, I]`: 1 of a linear layer, and one of each expert where it is a parameter of experts
    /// (`--target_parameters mlp.experts.gate_up_proj`), of which each row goes to one. Such a layer is asked about as a whole first,
    /// for [`Tensor::low_rank`] of [all of them](Self::low_rank_shapes). A tuner that does anything else is asked again about one
    /// matrix, as of a linear layer of the parameter's name: each expert then has parameters of its own, saved together as
    /// `[E, ..]`, and in a pass the tuner is asked once for each expert that has rows.
    pub fn matrices(&self) -> usize {
        self.matrices
    }

    /// The shapes of A and B of a low-rank update of this rank, as PEFT has them: `[R, I]` and `[O, R]`, and where there are several
    /// [matrices](Self::matrices) `[R E, I]`, the rows of a matrix together, and `[O, R E]`, the columns of a rank together.
    pub fn low_rank_shapes(&self, rank: usize) -> [[usize; 2]; 2] {
        let ranks = rank * self.matrices;
        [[ranks, self.inputs], [self.outputs, ranks]]
    }
}

/// A parameter that a [`Tuner`] adds to a layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AddedParam {
    name: String,
    shape: Vec<usize>,
    init: Init,
    #[serde(default)]
    frozen: bool,
    #[serde(default = "unchanged")]
    lr_factor: f64,
}

fn unchanged() -> f64 {
    1.0
}

impl AddedParam {
    /// A parameter of this name, which tells it from others of the layer: letters, digits, `_` and `.`. It is kept in f32, and
    /// saved as the layer's name, a dot and this one.
    pub fn new(name: impl Into<String>, shape: &[usize], init: Init) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            init,
            frozen: false,
            lr_factor: unchanged(),
        }
    }

    /// The same parameter, which stays as it begins and is saved with the others (A of LoRA-FA).
    #[must_use]
    pub fn frozen(mut self) -> Self {
        self.frozen = true;
        self
    }

    /// The same parameter with a learning rate that is so many times that of the run (B of LoRA+).
    #[must_use]
    pub fn with_lr_factor(mut self, factor: f64) -> Self {
        self.lr_factor = factor;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How it begins.
    pub fn init(&self) -> Init {
        self.init
    }

    /// Whether it stays as it begins.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// The factor on its learning rate.
    pub fn lr_factor(&self) -> f64 {
        self.lr_factor
    }
}

/// The values that a parameter begins with. Random ones follow from the run's seed and the parameter's name.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Init {
    /// All the same.
    Constant(f64),
    /// Uniform between minus this and this.
    Uniform(f64),
    /// Uniform between the first and the second.
    Between(f64, f64),
    /// Normal around 0 with this standard deviation.
    Normal(f64),
    /// The norm of each row of the layer's weight: of a parameter `[O]`.
    RowNorms,
}
