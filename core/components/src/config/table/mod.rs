//! The table of all flags, in the order of the help; a file has the groups of one idea. What a row is made of, `declare` says.

mod data;
mod generation;
mod model;
mod run;
mod serving;
mod tools;
mod training;

use super::bounds::{ANY, COUNT, SHARE, above, between, from, share_above};
use super::choices::{
    EvalStrategy, ExpertsForm, GgufType, InitWeights, Offload, Quantize, SaveStrategy, ShardBase,
    SkippedLayers, StoppingStrategy, TorchDtype, TrainHeader, TrainStop, Truncation,
};
use super::declare::{config, flags, given_or, type_given_or};
use super::defaults::{LOSS, LOSS_SCALE, LR_SCHEDULER, METRICS, OPTIM};
use super::flag::{AS_SFT, Change, Command, Flag, Group, Topic, Use};
use super::train_type::TrainType;
use super::value::{FlagValue, ScaleChain};
use super::values;
use super::{DatasetSpec, GenerationLoads, Lengths, StepsOrShare};
use crate::plugin::PluginSpec;
use crate::registry::Spec;
use apus_base::limits::MAX_RANK;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Makes the table of the rows that the files have, one after another.
macro_rules! table {
    ([] $($rows:tt)*) => {
        flags! { $($rows)* }
    };
    ([$next:ident $($others:ident)*] $($rows:tt)*) => {
        $next::rows! { table [$($others)*] $($rows)* }
    };
}
table! { [model data training run generation serving tools] }
