//! `apus swanlab login`, `verify` and `sync`

use crate::{Ended, Failure};
use anyhow::{Context, anyhow};
use apus_sdk::{errln, outln};
use apus_swanlab::{self as swanlab, Secret, SyncRequest};
use clap::{Arg, ArgMatches, Command};
use std::io::{IsTerminal, stdin};
use std::path::PathBuf;

/// What clap needs to know about it.
pub fn command() -> Command {
    Command::new("swanlab")
        .about("Stores a key for SwanLab, and sends runs that are not there yet")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("login")
                .about("Checks a key and stores it where every run finds it")
                .arg(key("The key; asked for if it is not given, which keeps it out of the shell's history"))
                .arg(host()),
        )
        .subcommand(
            Command::new("verify")
                .about("Says whose key a run would use, and for which server")
                .arg(host()),
        )
        .subcommand(
            Command::new("sync")
                .about("Sends runs to the server, as far as it does not have them")
                .arg(
                    Arg::new("dirs")
                        .value_name("DIR")
                        .num_args(1..)
                        .required(true)
                        .help("Folders swanlog/run-..., or folders that hold some"),
                )
                .arg(text("id", "ID", "The run that it goes to; the one in the file if not given"))
                .arg(text("project", "NAME", "Another project than the file names").short('p'))
                .arg(text("workspace", "NAME", "Another workspace than the file names").short('w'))
                .arg(key("A key in place of the stored one"))
                .arg(host()),
        )
}

fn text(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn host() -> Arg {
    text(
        "host",
        "URL",
        "A server of one's own, such as http://lab:8000",
    )
}

fn key(help: &'static str) -> Arg {
    text("key", "KEY", help).short('k').visible_alias("api-key")
}

/// Runs the command.
pub fn run(matches: &ArgMatches) -> Result<Ended, Failure> {
    let done = match matches.subcommand() {
        Some(("login", matches)) => login(matches),
        Some(("verify", matches)) => verify(matches),
        Some(("sync", matches)) => sync(matches),
        _ => Ok(()),
    };
    done.map(|()| Ended::Done).map_err(Failure::Run)
}

fn given(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}

fn login(matches: &ArgMatches) -> anyhow::Result<()> {
    let key = match given(matches, "key") {
        Some(key) => key,
        None => ask()?,
    };
    if key.trim().is_empty() {
        return Err(anyhow!("the key is empty"));
    }
    let (user, file) = swanlab::login(given(matches, "host").as_deref(), Secret::from(key))?;
    outln!("logged in as {user}; the key is in {}", file.display());
    if std::env::var_os("SWANLAB_API_KEY").is_some() {
        errln!("note: SWANLAB_API_KEY is set and goes before the stored key");
    }
    Ok(())
}

/// The key, typed without being shown, or from a pipe.
fn ask() -> anyhow::Result<String> {
    if stdin().is_terminal() {
        let key = rpassword::prompt_password("key (from the settings page of the web site): ");
        return key.context("the key cannot be read from the terminal; give it with --key");
    }
    let mut line = String::new();
    stdin().read_line(&mut line).context("standard input")?;
    Ok(line)
}

fn verify(matches: &ArgMatches) -> anyhow::Result<()> {
    let (user, host) = swanlab::verify(given(matches, "host").as_deref())?;
    outln!("logged in as {user} at {host}");
    Ok(())
}

fn sync(matches: &ArgMatches) -> anyhow::Result<()> {
    let dirs = matches.get_many::<String>("dirs").unwrap_or_default();
    let what = SyncRequest {
        dirs: dirs.map(PathBuf::from).collect(),
        id: given(matches, "id"),
        host: given(matches, "host"),
        key: given(matches, "key").map(Secret::from),
        project: given(matches, "project"),
        workspace: given(matches, "workspace"),
    };
    swanlab::sync(&what, &mut |line| outln!("{line}"))?;
    Ok(())
}
