//! What a tensor is for, and how PEFT treats the module that it belongs to.

/// What a tensor is for. The order is that in which a token meets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The token embedding.
    Embedding,
    /// The norm before attention.
    AttentionNorm,
    /// The projection to queries.
    Query,
    /// The projection to keys.
    Key,
    /// The projection to values.
    Value,
    /// The projection of attention's output.
    Output,
    /// A logit for each query head, which takes part in its softmax.
    Sinks,
    /// The norm of each query head.
    QueryNorm,
    /// The norm of each key head.
    KeyNorm,
    /// The norm before the MLP.
    MlpNorm,
    /// The router, which chooses experts.
    Router,
    /// The gate of a dense MLP.
    Gate,
    /// The matrix of a dense MLP beside its gate.
    Up,
    /// The matrix of a dense MLP that comes last.
    Down,
    /// A matrix of all experts.
    Experts(ExpertMatrix),
    /// The norm behind the last layer.
    FinalNorm,
    /// The output head.
    Head,
}

/// Which of the two matrices of an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExpertMatrix {
    /// The one before the activation: gate and up in one.
    GateUp,
    /// The one behind it.
    Down,
}

/// Whether a tensor is multiplied or added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// It is a matrix, or the weight of a norm, or sinks.
    Weight,
    /// It is a bias.
    Bias,
}

/// The kinds of modules, as far as adapters treat them differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKind {
    /// `nn.Linear`: may carry an update.
    Linear,
    /// The output head, an `nn.Linear` that `all-linear` leaves out.
    Head,
    /// A router whose weight and bias are bare parameters, so that PEFT does not wrap it.
    Router,
    /// Experts whose matrices are 3-D parameters, which PEFT reaches by `target_parameters`.
    Experts,
    /// An RMS norm.
    Norm,
    /// The token embedding.
    Embedding,
    /// Holds other modules, and perhaps parameters of its own.
    Container,
}

impl Role {
    /// The kind of the module that such a tensor belongs to.
    pub fn module_kind(self) -> ModuleKind {
        match self {
            Self::Embedding => ModuleKind::Embedding,
            Self::AttentionNorm
            | Self::QueryNorm
            | Self::KeyNorm
            | Self::MlpNorm
            | Self::FinalNorm => ModuleKind::Norm,
            Self::Query
            | Self::Key
            | Self::Value
            | Self::Output
            | Self::Gate
            | Self::Up
            | Self::Down => ModuleKind::Linear,
            Self::Sinks => ModuleKind::Container,
            Self::Router => ModuleKind::Router,
            Self::Experts(_) => ModuleKind::Experts,
            Self::Head => ModuleKind::Head,
        }
    }

    /// Whether what it computes is added to the residual stream.
    pub fn writes_residual(self) -> bool {
        matches!(
            self,
            Self::Output | Self::Down | Self::Experts(ExpertMatrix::Down)
        )
    }
}
