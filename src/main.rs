//! The command line of Apus: one file per command, each of which only calls the engine.

mod components;
mod export;
mod infer;
mod model;
mod sft;

use apus_core::config::{self, Command as Tool, ComponentOptions, Config, Resolved, split_options};
use clap::{ArgMatches, Command};
use std::process::ExitCode;

/// How a command ended.
enum Ended {
    /// As it should.
    Done,
    /// By a signal, with everything saved.
    Interrupted,
}

/// Why a command ended with an error.
enum Failure {
    /// It was called wrongly.
    Usage(anyhow::Error),
    /// It failed.
    Run(anyhow::Error),
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        eprintln!("apus has a bug, please report it with the command and configuration: {info}");
    }));
    apus_plugins::link();
    let words: Vec<String> = std::env::args().collect();
    let (words, options) = split_options(&words);
    let matches = command().get_matches_from(words);
    match run(&matches, &options) {
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

fn command() -> Command {
    Command::new("apus")
        .about("Fine-tunes gpt-oss with LoRA from one native binary")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(config::command(Tool::Sft))
        .subcommand(config::command(Tool::Infer))
        .subcommand(config::command(Tool::Export))
        .subcommand(
            Command::new("model")
                .about("Makes models")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(config::command(Tool::ModelNew)),
        )
        .subcommand(components::command())
}

fn run(matches: &ArgMatches, options: &ComponentOptions) -> Result<Ended, Failure> {
    match matches.subcommand() {
        Some(("sft", matches)) => sft::run(&resolve(matches, options)?),
        Some(("infer", matches)) => infer::run(&resolve(matches, options)?),
        Some(("export", matches)) => export::run(&resolve(matches, options)?),
        Some(("model", matches)) => match matches.subcommand() {
            Some(("new", matches)) => model::run(&resolve(matches, options)?),
            _ => Ok(Ended::Done),
        },
        Some(("components", matches)) => components::run(matches),
        _ => Ok(Ended::Done),
    }
}

/// The typed configuration of a command.
fn resolve<T: Config>(
    matches: &ArgMatches,
    options: &ComponentOptions,
) -> Result<Resolved<T>, Failure> {
    config::from_matches(matches, options).map_err(Failure::Usage)
}
