//! A model with more layers, which compute nothing new until they are trained (LLaMA Pro, <https://arxiv.org/abs/2401.02415>).

use apus_sdk::built_in::{Answer, Argument};
use apus_sdk::{Exporter, Writes, register};

apus_sdk::options! {
    struct LlamaPro {
        /// The number of layers that are added, one after each of so many equal groups; it divides that of the model's layers.
        num_new_blocks: usize = 4,
    }
    limits {
        num_new_blocks: 1.0..,
    }
}

register! {
    /// A model with copies of layers that compute nothing new until they are trained (LLaMA Pro).
    Exporter, "llamapro", LlamaPro
}

apus_sdk::built_in! {
    Exporter, "llamapro",
    gives_way: true,
    arguments: &[Argument {
        commands: &["sft"],
        names: &["llamapro_num_new_blocks", "llamapro_num_groups"],
        answer: Answer::Refused(
            &[],
            "a model with new blocks is one of its own: apus export --to llamapro --to.num_new_blocks N writes it, one block after \
             each of N equal groups of layers, and says how these are trained alone",
        ),
    }],
}

impl Exporter for LlamaPro {
    fn writes(&self) -> Writes {
        Writes::AddedBlocks(self.num_new_blocks)
    }
}
