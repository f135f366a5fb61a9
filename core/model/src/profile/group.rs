//! The groups of operations that a profile divides the time of a step into.

/// A group of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpGroup {
    /// Attention itself.
    Attention,
    /// Products with the matrices of attention and of the router.
    Projections,
    /// Products with the experts' matrices.
    Experts,
    /// Unpacking MXFP4.
    Dequantise,
    /// Choosing experts, and moving rows to them and back.
    Routing,
    /// The experts' activation.
    Activation,
    /// Norms of layers.
    Norms,
    /// Rotary embedding.
    Rope,
    /// Output head and loss, with all that is inside them.
    Head,
    /// Low-rank updates, with all that is inside them.
    Lora,
    /// Gradient norm and update, with all that is inside them.
    Optimizer,
}

impl OpGroup {
    /// All groups, in the order of tables.
    pub const ALL: [Self; 11] = [
        Self::Attention,
        Self::Projections,
        Self::Experts,
        Self::Dequantise,
        Self::Routing,
        Self::Activation,
        Self::Norms,
        Self::Rope,
        Self::Head,
        Self::Lora,
        Self::Optimizer,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Projections => "projections",
            Self::Experts => "experts",
            Self::Dequantise => "dequantise",
            Self::Routing => "routing",
            Self::Activation => "activation",
            Self::Norms => "norms",
            Self::Rope => "rope",
            Self::Head => "head and loss",
            Self::Lora => "LoRA",
            Self::Optimizer => "optimizer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stand_at_their_place() {
        for (at, group) in OpGroup::ALL.into_iter().enumerate() {
            assert_eq!(group as usize, at, "{}", group.name());
        }
    }
}
