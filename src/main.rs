//! The command line of Apus.

mod components;
mod export;
mod infer;
mod model;
mod sft;

use apus_core::config::Command as Tool;
use std::process::ExitCode;

/// How a command ended.
enum Ended {
    /// As it should.
    Done,
    /// By a signal, with everything saved.
    Interrupted,
}

const USAGE: &str = "\
apus: fine-tune gpt-oss with LoRA from one native binary

  apus sft --model DIR --dataset FILE [--config FILE.toml] [flags]    train
  apus infer --adapters CHECKPOINT [flags]                            talk, or answer a dataset
  apus export --adapters CHECKPOINT --merge_lora true                 merge an adapter into its model
  apus model new --arch gpt-oss-20b --out DIR                         a checkpoint of random weights
  apus components [KIND]                                              everything that can be named in a run

apus COMMAND --help lists the flags of a command.";

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        eprintln!("apus has a bug, please report it with the command and configuration: {info}");
    }));
    apus_plugins::link();
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Interrupted) => ExitCode::from(130),
        Err(Failure::Usage(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
        Err(Failure::Run(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Why a command ended with an error.
enum Failure {
    /// It was called wrongly.
    Usage(anyhow::Error),
    /// It failed.
    Run(anyhow::Error),
}

fn run(words: &[String]) -> Result<Ended, Failure> {
    let (command, rest) = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["--help" | "-h" | "help", ..] => {
            println!("{USAGE}");
            return Ok(Ended::Done);
        }
        ["--version" | "-V" | "version", ..] => {
            println!("apus {}", env!("CARGO_PKG_VERSION"));
            return Ok(Ended::Done);
        }
        ["model", "new", ..] => ("model new", &words[2..]),
        [command, ..] => (command, &words[1..]),
    };
    let wants_help = rest.iter().any(|word| word == "--help" || word == "-h");
    let tool = match command {
        "sft" => Tool::Sft,
        "infer" => Tool::Infer,
        "export" => Tool::Export,
        "model new" => Tool::ModelNew,
        "components" => return components::run(rest),
        other => {
            let known = ["sft", "infer", "export", "model", "components"];
            let near = apus_core::config::nearest(other, &known);
            let hint = near
                .first()
                .map_or(String::new(), |near| format!("; did you mean {near}?"));
            return Err(Failure::Usage(anyhow::anyhow!(
                "there is no command {other:?}{hint}\n\n{USAGE}"
            )));
        }
    };
    match (wants_help, tool) {
        (true, tool) => {
            println!("{}", apus_core::config::help(tool));
            Ok(Ended::Done)
        }
        (false, Tool::Sft) => sft::run(rest),
        (false, Tool::Infer) => infer::run(rest),
        (false, Tool::Export) => export::run(rest),
        (false, Tool::ModelNew) => model::run(rest),
    }
}
