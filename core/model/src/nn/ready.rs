//! When the gradient of a parameter is complete: a backward pass goes from the output to the input, and nothing that comes
//! later adds to what was complete. So gradients can travel to other ranks while the pass goes on.

use anyhow::Result;
use std::cmp::Ordering;

/// A part of the model whose gradients are complete. The order is that of a backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// The final norm, and the head where it is not the embedding.
    Head,
    /// A layer.
    Layer(usize),
    /// The embedding, and with it everything.
    Embedding,
}

/// Hears of each part in turn.
pub type OnReady<'a> = &'a mut dyn FnMut(Ready) -> Result<()>;

impl Ready {
    fn key(self) -> (u8, std::cmp::Reverse<usize>) {
        let (part, layer) = match self {
            Self::Head => (0, 0),
            Self::Layer(layer) => (1, layer),
            Self::Embedding => (2, 0),
        };
        (part, std::cmp::Reverse(layer))
    }
}

impl Ord for Ready {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Ready {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::Ready::{Embedding, Head, Layer};

    #[test]
    fn the_order_is_that_of_a_backward_pass() {
        let order = [Head, Layer(2), Layer(1), Layer(0), Embedding];
        assert!(order.is_sorted());
        assert!(Layer(0) > Layer(1) && Layer(23) > Head && Embedding > Layer(0));
    }
}
