//! `apus components [KIND]`

use crate::{Ended, Failure};
use apus_core::registry;
use apus_sdk::Kind;
use clap::{Arg, ArgMatches, Command};

/// What clap needs to know about it.
pub fn command() -> Command {
    Command::new("components")
        .about("Lists everything that can be named in a run")
        .arg(
            Arg::new("kind")
                .value_name("KIND")
                .num_args(0..)
                .help("Only this kind"),
        )
}

/// Runs the command.
pub fn run(matches: &ArgMatches) -> Result<Ended, Failure> {
    let words: Vec<&str> = matches
        .get_many::<String>("kind")
        .unwrap_or_default()
        .map(String::as_str)
        .collect();
    let wanted = words.join(" ").replace(['-', '_'], " ");
    let kinds: Vec<Kind> = Kind::ALL
        .iter()
        .copied()
        .filter(|kind| wanted.is_empty() || kind.name() == wanted)
        .collect();
    if kinds.is_empty() {
        let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        return Err(Failure::Usage(anyhow::anyhow!(
            "there is no kind of component {wanted:?}; there are {}",
            names.join(", ")
        )));
    }
    for kind in kinds {
        println!("{kind}");
        for component in registry::all(kind).map_err(Failure::Run)? {
            let (name, doc) = (component.name, component.doc);
            println!(
                "  {name:24} {doc}  ({} {})",
                component.source, component.version
            );
        }
    }
    Ok(Ended::Done)
}
