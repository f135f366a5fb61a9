//! The command line of Apus: one file per command, each of which only calls the engine.

// Printing panics where nobody reads along: `outln!` and `errln!` of the SDK do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

mod bench;
mod components;
mod data;
mod deploy;
mod eval;
mod export;
mod infer;
mod model;
mod plugin;
mod ranks;
mod report;
mod sft;
mod swanlab;
mod watch;

use apus_components::config::{self, Command as Tool, ComponentOptions, Config, Resolved};
use apus_sdk::{errln, lines};
use clap::{ArgMatches, Command};
use std::process::ExitCode;

/// How a command ended.
enum Ended {
    /// As it should.
    Done,
    /// By a signal, with everything saved.
    Interrupted,
    /// With this exit status of a rank that it has started, which said why.
    Status(u8),
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
        if !apus_base::panics::expected() {
            errln!("apus has a bug, please report it with the command and configuration: {info}");
        }
    }));
    apus_plugins::link();
    let words: Vec<String> = std::env::args().collect();
    let result = match config::parse(&|| command(&words), &words) {
        Ok((matches, options)) => run(&matches, &options).and_then(|ended| shown(&matches, ended)),
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(error) => error.exit(),
            Err(error) => Err(Failure::Usage(error)),
        },
    };
    apus_components::plugin::end_processes();
    match result {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Interrupted) => ExitCode::from(130),
        Ok(Ended::Status(status)) => ExitCode::from(status),
        Err(Failure::Usage(error)) => {
            errln!("error: {error:#}");
            ExitCode::from(2)
        }
        Err(Failure::Run(error)) => {
            errln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How the command ended, unless its result could not be shown.
fn shown(matches: &ArgMatches, ended: Ended) -> Result<Ended, Failure> {
    match lines::output_failed() {
        Some(error) if shows(matches) => Err(Failure::Run(anyhow::anyhow!(
            "standard output cannot be written: {error}"
        ))),
        _ => Ok(ended),
    }
}

/// Whether the result of this command stands on standard output, and nowhere else.
fn shows(matches: &ArgMatches) -> bool {
    !matches!(matches.subcommand_name(), Some("sft" | "infer" | "deploy"))
}

/// The command line; where its help is asked for, with all components in it.
fn command(words: &[String]) -> Command {
    let mut sft = config::command(Tool::Sft);
    if words.iter().any(|word| word == "--help") && words.iter().any(|word| word == "sft") {
        sft = sft.after_long_help(help(words));
    }
    Command::new("apus")
        .about("Fine-tunes gpt-oss with LoRA from one native binary")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(sft)
        .subcommand(config::command(Tool::Infer))
        .subcommand(config::command(Tool::Deploy))
        .subcommand(config::command(Tool::Export))
        .subcommand(
            Command::new("model")
                .about("Makes models")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(config::command(Tool::ModelNew)),
        )
        .subcommand(config::command(Tool::Data))
        .subcommand(config::command(Tool::Bench))
        .subcommand(config::command(Tool::Eval))
        .subcommand(report::command())
        .subcommand(watch::command())
        .subcommand(components::command())
        .subcommand(plugin::command())
        .subcommand(swanlab::command())
}

/// The components, those of plugins on the command line among them.
fn help(words: &[String]) -> String {
    match config::load_plugins(&config::plugins_of(words)) {
        Ok(()) => components::help(),
        Err(error) => format!("{error:#}\n\n{}", components::help()),
    }
}

fn run(matches: &ArgMatches, options: &ComponentOptions) -> Result<Ended, Failure> {
    match matches.subcommand() {
        Some(("sft", matches)) => sft::run(&resolve(matches, options)?),
        Some(("infer", matches)) => infer::run(&resolve(matches, options)?),
        Some(("deploy", matches)) => deploy::run(&resolve(matches, options)?),
        Some(("export", matches)) => export::run(&resolve(matches, options)?),
        Some(("model", matches)) => match matches.subcommand() {
            Some(("new", matches)) => model::run(&resolve(matches, options)?),
            _ => Ok(Ended::Done),
        },
        Some(("data", matches)) => data::run(&resolve(matches, options)?),
        Some(("bench", matches)) => bench::run(&resolve(matches, options)?),
        Some(("eval", matches)) => eval::run(&resolve(matches, options)?),
        Some(("report", matches)) => report::run(matches),
        Some(("watch", matches)) => watch::run(matches),
        Some(("components", matches)) => components::run(matches),
        Some(("plugin", matches)) => plugin::run(matches),
        Some(("swanlab", matches)) => swanlab::run(matches),
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
