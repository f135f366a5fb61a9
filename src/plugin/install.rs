//! `apus plugin install|remove` and `apus plugin list --available`.

use anyhow::{Context, Result, bail, ensure};
use apus_components::plugin::installed::{Installed, PluginHome};
use apus_engine::install::{INDEX_VARIABLE, Index, Wanted, install};
use apus_sdk::{errln, outln};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::io::{IsTerminal, stderr, stdin};

/// `apus plugin install`
pub fn install_command() -> Command {
    Command::new("install")
        .about("Installs a plugin for --plugin NAME: a library, a crate that is built, or a name in an index")
        .arg(
            Arg::new("what")
                .value_name("NAME|DIR|FILE")
                .required(true)
                .help("A library, the folder of a crate, or a name in the index"),
        )
        .arg(index_argument())
        .arg(
            Arg::new("name")
                .long("name")
                .value_name("NAME")
                .help("Name to install a library or crate under, in place of its own"),
        )
        .arg(
            Arg::new("yes")
                .long("yes")
                .action(ArgAction::SetTrue)
                .help("Builds without asking"),
        )
}

/// `apus plugin remove`
pub fn remove_command() -> Command {
    Command::new("remove")
        .about("Removes an installed plugin")
        .arg(Arg::new("name").value_name("NAME").required(true))
}

/// `--index INDEX`
pub fn index_argument() -> Arg {
    Arg::new("index").long("index").value_name("INDEX").help(
        "Index of plugins: a folder, the https URL of one, or the URL of a git repository [APUS_PLUGIN_INDEX]",
    )
}

/// Runs `apus plugin install`.
pub fn run_install(matches: &ArgMatches) -> Result<()> {
    let text = |id: &str| matches.get_one::<String>(id).map(String::as_str);
    let index = index(matches);
    let yes = matches.get_flag("yes");
    let wanted = Wanted {
        what: text("what").unwrap_or_default(),
        name: text("name"),
        index: index.as_deref(),
        may: &|what| may(what, yes),
    };
    let home = home()?;
    let record = install(&home, &wanted)?;
    outln!(
        "installed: {}\n  in {}",
        line(&record),
        home.folder().display()
    );
    outln!("next: give it with --plugin {}", record.name);
    Ok(())
}

/// Runs `apus plugin remove`.
pub fn run_remove(matches: &ArgMatches) -> Result<()> {
    let name = matches.get_one::<String>("name").map_or("", String::as_str);
    let home = home()?;
    ensure!(
        home.remove(name)?,
        "{name}: no plugin of this name is installed in {}",
        home.folder().display()
    );
    outln!("removed: {name}");
    Ok(())
}

/// Lists the entries of an index.
pub fn list_available(matches: &ArgMatches) -> Result<()> {
    let index = index(matches).with_context(|| {
        format!("there is no index to list: give one with --index, or in {INDEX_VARIABLE}")
    })?;
    for entry in Index::open(&index)?.all()? {
        match entry {
            Ok(entry) => outln!(
                "{} {}  {}\n  {}; apus-sdk {}, {}, {}",
                entry.name,
                entry.version,
                entry.about,
                entry.kinds.join(", "),
                entry.sdk,
                entry.licence,
                entry.way()
            ),
            Err(error) => errln!("warning: {error:#}"),
        }
    }
    Ok(())
}

/// Lists the installed plugins, without opening them; whether there is one.
pub fn list_installed() -> Result<bool> {
    let Some(home) = PluginHome::from_environment() else {
        return Ok(false);
    };
    let all = home.all()?;
    for found in &all {
        match found {
            Ok(record) => outln!("installed: {}", line(record)),
            Err(error) => errln!("warning: {error:#}"),
        }
    }
    Ok(!all.is_empty())
}

fn line(record: &Installed) -> String {
    let version = record.version.as_ref();
    format!(
        "{}{}\n  from {}\n  apus-sdk {}, sha256 {}",
        record.name,
        version.map_or(String::new(), |version| format!(" {version}")),
        record.origin,
        record.sdk,
        record.sha256
    )
}

fn index(matches: &ArgMatches) -> Option<String> {
    let given = matches.get_one::<String>("index").cloned();
    given
        .or_else(|| std::env::var(INDEX_VARIABLE).ok())
        .filter(|index| !index.is_empty())
}

fn home() -> Result<PluginHome> {
    PluginHome::from_environment().context(
        "there is no folder for plugins: neither APUS_PLUGIN_HOME nor XDG_DATA_HOME nor HOME is set",
    )
}

/// Asks at the terminal; where there is none, only `--yes` allows it.
fn may(what: &str, yes: bool) -> Result<()> {
    if yes {
        errln!("{what}");
        return Ok(());
    }
    ensure!(
        stdin().is_terminal() && stderr().is_terminal(),
        "{what}: this has to be allowed; there is no terminal to ask at, give --yes"
    );
    errln!("{what}. Go on? [y/N]");
    let mut answer = String::new();
    stdin().read_line(&mut answer).context("standard input")?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => bail!("nothing was built"),
    }
}
