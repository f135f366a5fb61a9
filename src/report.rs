//! `apus report RUN... [--out FILE]`

use crate::{Ended, Failure};
use apus_sdk::outln;
use clap::{Arg, ArgMatches, Command, value_parser};
use std::path::PathBuf;

/// What clap needs to know about it.
pub fn command() -> Command {
    Command::new("report")
        .about("Writes report.html: the curves, configuration and samples of runs in one file")
        .arg(
            Arg::new("runs")
                .value_name("RUN")
                .num_args(1..)
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Folders of runs; one that is no run's stands for those below it"),
        )
        .arg(
            Arg::new("out")
                .long("out")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Where to write it [default: report.html in the run's folder; of several runs, here]"),
        )
}

/// Runs the command.
pub fn run(matches: &ArgMatches) -> Result<Ended, Failure> {
    let runs = matches.get_many::<PathBuf>("runs").unwrap_or_default();
    let runs: Vec<PathBuf> = runs.cloned().collect();
    let out = matches.get_one::<PathBuf>("out");
    let file = apus_board::report::write(&runs, out.map(PathBuf::as_path)).map_err(Failure::Run)?;
    outln!("{}", file.display());
    Ok(Ended::Done)
}
