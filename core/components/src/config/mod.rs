//! Configuration of the commands.
//!
//! One table of flags (`table`) is the source of the typed configurations, parsing, help and documentation. Flags
//! override the values of a TOML file.

mod bench;
mod bounds;
mod check;
mod choices;
mod cli;
mod coerce;
mod data;
mod datasets;
mod declare;
mod defaults;
mod eval;
mod file;
mod flag;
mod flags;
mod generation_loads;
mod lengths;
mod merged;
mod ms_swift;
mod of_components;
mod option_flags;
mod resolve;
mod sft;
mod sharding;
mod shorthand;
mod steps_or_share;
mod suggestion;
mod table;
mod tools;
mod train_type;
mod value;

pub use choices::{
    EvalStrategy, ExpertsForm, GgufType, InitWeights, Offload, Quantize, SaveStrategy, ShardBase,
    SkippedLayers, StoppingStrategy, TorchDtype, TrainHeader, TrainStop, Truncation,
};
pub use cli::{command, help};
pub use datasets::{DatasetParts, DatasetSpec, listed as listed_datasets};
pub use defaults::{TRACKERS, TUNER};
pub use flag::{Change, Command, Flag, Group, Topic, Use, ValueKind};
pub use flags::FLAGS;

pub use generation_loads::{GenerationLoad, GenerationLoads};
pub use lengths::Lengths;
pub use ms_swift::{Answer, MsSwiftArguments, ms_swift_arguments};
pub use option_flags::{load as load_plugins, parse, plugins_of};
pub use resolve::{
    ComponentOptions, GivenOption, Origin, Resolved, WrittenAt, from_arguments, from_matches,
};
pub use sharding::{Sharding, sharding};
pub use shorthand::OptimizerOptions;
pub use steps_or_share::StepsOrShare;
pub use table::{
    BenchConfig, DataConfig, DeployConfig, EvalConfig, ExportConfig, InferConfig, ModelNewConfig,
    SftConfig,
};
pub use train_type::TrainType;
pub use value::{FlagValue, ScaleChain, Unexpected};

use anyhow::{Context, Result, ensure};
use apus_sdk::small_file::{self, Limit};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::Path;

/// The typed configuration of a command.
pub trait Config: Serialize + DeserializeOwned + Default {
    /// The command.
    const COMMAND: Command;

    /// The values of flags that built-in components declare, where the command takes such flags.
    fn of_components(&self) -> Option<&Map<String, Value>> {
        None
    }

    /// Takes the values of flags that built-in components declare; none is null.
    fn set_of_components(&mut self, _values: Map<String, Value>) {}

    /// Makes the values independent of what may change while the command runs, such as the working folder.
    fn resolve_values(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The values of a configuration by flag, in the order of the flags; null where nothing is given.
pub fn values<T: Config>(config: &T) -> Map<String, Value> {
    let mut fields = match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let flags = FLAGS.iter().filter(|flag| flag.accepted_by(T::COMMAND));
    flags
        .map(|flag| {
            let declared = || config.of_components()?.get(flag.name).cloned();
            let value = fields.remove(flag.name).or_else(declared);
            (flag.name.to_owned(), value.unwrap_or_default())
        })
        .collect()
}

/// Makes the path of a folder to write absolute; `~` is the home folder, also in a file, where no shell sees it.
fn absolute(path: &mut String) -> Result<()> {
    ensure!(!path.is_empty(), "output_dir is empty, expected a folder");
    let whole = match (path.strip_prefix('~'), std::env::home_dir()) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            home.join(rest.trim_start_matches('/'))
        }
        _ => Path::new(path).to_owned(),
    };
    let whole = std::path::absolute(&whole)
        .with_context(|| format!("output_dir {path}: cannot be made absolute"))?;
    if let Some(whole) = whole.to_str() {
        whole.clone_into(path);
    }
    Ok(())
}

/// Instructions in a file, `x.txt`, become its text, and `\\n` in others a new line, as ms-swift reads them.
fn instructions(system: &mut Option<String>) -> Result<()> {
    if let Some(text) = system {
        *text = match text.ends_with(".txt") {
            true => small_file::text(Path::new(text.as_str()), Limit::WRITTEN).with_context(|| {
                format!(
                    "system is {text}, which ends as a text file's name does, but cannot be read"
                )
            })?,
            false => text.replace("\\n", "\n"),
        };
    }
    Ok(())
}
