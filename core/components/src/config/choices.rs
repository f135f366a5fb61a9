//! Flags that take one of a few words: a type for each, whose values are read once, where they are written.

use super::flag::ValueKind;
use super::value::{FlagValue, Unexpected};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Makes enums of words. The row
///
/// ```text
/// /// What of a model is trained.
/// TrainType { Lora = "lora", Full = "full" | "all" }
/// ```
///
/// becomes `enum TrainType { Lora, Full }`, whose texts are `lora` and `full`, and `all` as another spelling: on the command
/// line, in files and in args.json. Another word is an error that lists the texts and suggests a similar one.
macro_rules! choices {
    ($($(#[$meta:meta])* $name:ident {
        $($(#[$choice_meta:meta])* $choice:ident = $text:literal $(| $spelling:literal)*),+ $(,)?
    })+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "&'static str")]
        pub enum $name {
            $($(#[$choice_meta])* $choice),+
        }

        impl $name {
            /// As flags and args.json have it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$choice => $text),+
                }
            }
        }

        impl FromStr for $name {
            type Err = Unexpected;

            fn from_str(text: &str) -> Result<Self, Unexpected> {
                match text {
                    $($text $(| $spelling)* => Ok(Self::$choice),)+
                    other => Err(Unexpected::word(other, &[$($text),+])),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = Unexpected;

            fn try_from(text: String) -> Result<Self, Unexpected> {
                text.parse()
            }
        }

        impl From<$name> for &'static str {
            fn from(choice: $name) -> Self {
                choice.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FlagValue for $name {
            const KIND: ValueKind = ValueKind::Text;

            fn check(text: &str) -> Result<(), Unexpected> {
                text.parse::<Self>().map(drop)
            }
        }
    )+};
}

choices! {
    /// `torch_dtype`: the type of weights and activations.
    TorchDtype {
        /// What the device computes in.
        Auto = "auto",
        /// 32 bits, on the CPU.
        Float32 = "float32" | "fp32",
        /// 16 bits, on CUDA.
        Bfloat16 = "bfloat16" | "bf16",
    }

    /// `experts_dtype`, `format`: how expert matrices are kept.
    ExpertsForm {
        /// Packed in four bits.
        Mxfp4 = "mxfp4",
        /// Dense.
        Bf16 = "bf16" | "bfloat16",
    }

    /// `offload_embedding`: whether the embedding is in host memory.
    Offload {
        /// Always.
        True = "true",
        /// Never.
        False = "false",
        /// If the memory plan does not fit otherwise.
        Auto = "auto",
    }

    /// `shard_base`: whether the frozen base is spread over the ranks.
    ShardBase {
        /// If the whole does not fit a card.
        Auto = "auto",
        /// Always.
        True = "true",
        /// Never.
        False = "false",
    }

    /// `stopping_strategy`: when the rows of mixed datasets end.
    #[derive(Default)]
    StoppingStrategy {
        /// With the last row of the dataset that is exhausted first.
        #[default]
        FirstExhausted = "first_exhausted",
        /// When each dataset was exhausted once; those that are begin again.
        AllExhausted = "all_exhausted",
    }

    /// `truncation_strategy`: what happens to samples longer than `max_length`.
    #[derive(Default)]
    Truncation {
        /// Drop the sample.
        #[default]
        Delete = "delete",
        /// Keep its last tokens.
        Left = "left",
        /// Keep its first tokens.
        Right = "right",
        /// Make several samples of it, none longer than allowed.
        Split = "split",
        /// Stop with an error.
        Raise = "raise",
    }

    /// `train_header`: which tokens of an assistant's header are trained, if the message is trained.
    #[derive(Default)]
    TrainHeader {
        /// No token of the header, only the body and the token that ends it.
        None = "none",
        /// What the model has to write itself: everything after the opening that a prompt ends with, and the opening too
        /// between the messages of one turn.
        #[default]
        AfterPrompt = "channel",
        /// The whole header, with the opening.
        Full = "full",
    }

    /// `train_stop`: what is trained where an earlier answer ends and the dialect ends it with another token there, because
    /// the conversation goes on, than a model that answers has to write. The token ids stay as rendered in any case.
    #[derive(Default)]
    TrainStop {
        /// The label is the token that the model has to write.
        #[default]
        AsGenerated = "return",
        /// The label is the token that is there.
        AsRendered = "end",
        /// The token is not trained.
        None = "none",
    }

    /// `save_strategy`: when checkpoints are saved.
    SaveStrategy {
        /// Every `save_steps`.
        Steps = "steps",
        /// After each epoch.
        Epoch = "epoch",
        /// After each evaluation that is the best so far.
        Best = "best",
        /// Never.
        No = "no",
    }

    /// `eval_strategy`: when evaluations are made.
    EvalStrategy {
        /// Every `eval_steps`.
        Steps = "steps",
        /// After each epoch.
        Epoch = "epoch",
        /// Never.
        No = "no",
    }

    /// `outtype`: what a GGUF file holds.
    GgufType {
        /// Experts that an adapter touches in 16 bits, the others as they are; other matrices in 16 bits.
        Auto = "auto",
        /// Everything in 32 bits.
        F32 = "f32" | "float32",
        /// Matrices in 16 bits.
        Bf16 = "bf16" | "bfloat16",
        /// Experts in four bits, other matrices in 16.
        Mxfp4 = "mxfp4",
    }

    /// `quantize`: what a model's experts are packed as.
    Quantize {
        /// Four bits.
        Mxfp4 = "mxfp4",
    }
}

/// `init_weights`: how the matrices A and B of an adapter start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum InitWeights {
    /// A is Kaiming uniform, B is zero.
    KaimingUniform,
    /// A is normal, B is zero.
    Gaussian,
    /// Both are the principal singular values and vectors of the weight; found in so many iterations, or until they stay.
    Pissa(Option<usize>),
    /// Both are the first columns and rows of the weight's QR decomposition.
    Olora,
}

impl TryFrom<String> for InitWeights {
    type Error = Unexpected;

    fn try_from(text: String) -> Result<Self, Unexpected> {
        let lower = text.to_lowercase();
        match (lower.as_str(), lower.strip_prefix("pissa_niter_")) {
            ("true", _) => Ok(Self::KaimingUniform),
            ("gaussian", _) => Ok(Self::Gaussian),
            ("pissa", _) => Ok(Self::Pissa(None)),
            ("olora", _) => Ok(Self::Olora),
            (_, Some(count)) => match count.parse() {
                Ok(count) => Ok(Self::Pissa(Some(count))),
                Err(_) => Err(Unexpected::new(
                    "a number of iterations behind pissa_niter_",
                )),
            },
            _ => {
                let known = ["true", "gaussian", "pissa", "pissa_niter_16", "olora"];
                Err(Unexpected::word(&text, &known))
            }
        }
    }
}

impl From<InitWeights> for String {
    fn from(init: InitWeights) -> Self {
        match init {
            InitWeights::KaimingUniform => "true".to_owned(),
            InitWeights::Gaussian => "gaussian".to_owned(),
            InitWeights::Pissa(None) => "pissa".to_owned(),
            InitWeights::Pissa(Some(count)) => format!("pissa_niter_{count}"),
            InitWeights::Olora => "olora".to_owned(),
        }
    }
}

impl FlagValue for InitWeights {
    const KIND: ValueKind = ValueKind::Text;

    fn check(text: &str) -> Result<(), Unexpected> {
        Self::try_from(text.to_owned()).map(drop)
    }
}

/// `gradient_checkpointing_skip_layers`: how many layers keep everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SkippedLayers {
    /// As many as fit.
    Auto,
    /// This many.
    Count(usize),
}

impl TryFrom<String> for SkippedLayers {
    type Error = Unexpected;

    fn try_from(text: String) -> Result<Self, Unexpected> {
        match (text.as_str(), text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(count)) => Ok(Self::Count(count)),
            _ => Err(Unexpected::new("a number of layers or auto")),
        }
    }
}

impl From<SkippedLayers> for String {
    fn from(layers: SkippedLayers) -> Self {
        match layers {
            SkippedLayers::Auto => "auto".to_owned(),
            SkippedLayers::Count(count) => count.to_string(),
        }
    }
}

impl FlagValue for SkippedLayers {
    const KIND: ValueKind = ValueKind::Text;

    fn check(text: &str) -> Result<(), Unexpected> {
        Self::try_from(text.to_owned()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FLAGS, SftConfig, from_arguments, values};

    #[test]
    fn an_unknown_word_is_an_error_with_the_known_ones() {
        let said = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            from_arguments::<SftConfig>(&words).unwrap_err().to_string()
        };
        for (line, expected) in [
            (
                "--experts_dtype fp8",
                "experts_dtype is \"fp8\", expected mxfp4 or bf16",
            ),
            (
                "--eval_strategy step",
                "eval_strategy is \"step\", expected steps, epoch or no; did you mean steps?",
            ),
            (
                "--save_strategy never",
                "save_strategy is \"never\", expected steps, epoch, best or no",
            ),
            (
                "--init_weights pissa_niter_few",
                "expected a number of iterations behind pissa_niter_",
            ),
            (
                "--init_weights loftq",
                "expected true, gaussian, pissa, pissa_niter_16 or olora",
            ),
            (
                "--gradient_checkpointing_skip_layers some",
                "expected a number of layers or auto",
            ),
        ] {
            assert!(said(line).ends_with(expected), "{line}: {}", said(line));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "model = 'm'\ntrain_stop = 'now'\n").unwrap();
        let said = format!(
            "{:#}",
            from_arguments::<SftConfig>(&[
                "--config".to_owned(),
                file.path().display().to_string()
            ])
            .unwrap_err()
        );
        assert!(
            said.ends_with(
                "line 2, key train_stop: train_stop is \"now\", expected return, end or none"
            ),
            "{said}"
        );
    }

    /// A value stays what it is through a file, with every spelling.
    #[test]
    fn texts_are_read_as_they_are_written() {
        for (line, flag, text) in [
            ("--torch_dtype bf16", "torch_dtype", "bfloat16"),
            ("--experts_dtype bfloat16", "experts_dtype", "bf16"),
            ("--init_weights True", "init_weights", "true"),
            ("--init_weights pissa", "init_weights", "pissa"),
            (
                "--init_weights PiSSA_niter_4",
                "init_weights",
                "pissa_niter_4",
            ),
            ("--init_weights olora", "init_weights", "olora"),
            ("--offload_embedding true", "offload_embedding", "true"),
            (
                "--gradient_checkpointing_skip_layers 3",
                "gradient_checkpointing_skip_layers",
                "3",
            ),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let config = from_arguments::<SftConfig>(&words).unwrap().config;
            assert_eq!(values(&config)[flag], text, "{line}");
        }
    }

    /// The defaults of all flags are values that these take.
    #[test]
    fn defaults_are_taken() {
        let defaults = values(&SftConfig::default());
        for flag in FLAGS.iter().filter(|flag| defaults.contains_key(flag.name)) {
            flag.check(&defaults[flag.name]).unwrap();
        }
    }
}
