//! `apus plugin new|check|install|remove|list`

mod install;
mod new;
mod options;

use crate::components::{given_plugins, kind, lines, plugins_argument};
use crate::{Ended, Failure};
use apus_components::config::load_plugins;
use apus_components::plugin::{self, PluginSpec};
use apus_components::registry::{self, Entry, Source};
use apus_engine::plugin_check;
use apus_sdk::{Kind, out, outln};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use options::OptionsByName;
use std::path::PathBuf;
use std::time::Duration;

/// What clap needs to know about it.
pub fn command() -> Command {
    Command::new("plugin")
        .about("Makes, checks, installs and lists plugin libraries")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("new")
                .about("Writes a crate with one component, a test and a README")
                .arg(
                    Arg::new("name")
                        .value_name("NAME")
                        .required(true)
                        .help("Name of the crate"),
                )
                .arg(
                    Arg::new("kind")
                        .long("kind")
                        .value_name("KIND")
                        .required(true)
                        .help(format!("Kind of its component: {}", words().join(", "))),
                )
                .arg(
                    Arg::new("dir")
                        .long("dir")
                        .value_name("DIR")
                        .help("Folder to make [./NAME]"),
                )
                .arg(
                    Arg::new("sdk")
                        .long("sdk")
                        .value_name("DIR")
                        .help("Folder of the crate apus-sdk to build against"),
                )
                .arg(
                    Arg::new("shared_target")
                        .long("shared_target")
                        .value_name("DIR")
                        .help("Folder to compile into, which several plugins may share, so that what they depend on is compiled once"),
                ),
        )
        .subcommand(
            Command::new("check")
                .about("Loads plugins and exercises each of their components")
                .arg(
                    Arg::new("files")
                        .value_name("FILE")
                        .num_args(1..)
                        .required(true),
                )
                .arg(
                    Arg::new("device")
                        .long("device")
                        .value_name("DEVICE")
                        .default_value("cpu")
                        .help("auto, cpu, cuda or cuda:N"),
                )
                .arg(
                    Arg::new("options")
                        .long("options")
                        .value_name("JSON")
                        .help("Options that components are made with: {\"focal\": {\"gamma\": 3}}, or {\"loss focal\": ..} where two have one name"),
                )
                .arg(
                    Arg::new("timeout")
                        .long("timeout")
                        .value_name("SECONDS")
                        .value_parser(value_parser!(u64).range(1..))
                        .default_value("120")
                        .help("How long the checks of a component may take"),
                ),
        )
        .subcommand(install::install_command())
        .subcommand(install::remove_command())
        .subcommand(
            Command::new("list")
                .about(
                    "Lists plugins with version, hash and components, and those that are installed",
                )
                .arg(plugins_argument())
                .arg(
                    Arg::new("available")
                        .long("available")
                        .action(ArgAction::SetTrue)
                        .help("Lists the plugins of the index"),
                )
                .arg(install::index_argument()),
        )
}

/// The kinds as one types them.
fn words() -> Vec<String> {
    let kinds = Kind::ALL.iter();
    kinds.map(|kind| kind.name().replace(' ', "-")).collect()
}

/// Runs the command.
pub fn run(matches: &ArgMatches) -> Result<Ended, Failure> {
    match matches.subcommand() {
        Some(("new", matches)) => new_crate(matches),
        Some(("check", matches)) => check_files(matches),
        Some(("install", matches)) => done(install::run_install(matches)),
        Some(("remove", matches)) => done(install::run_remove(matches)),
        Some(("list", matches)) if matches.get_flag("available") => {
            done(install::list_available(matches))
        }
        Some(("list", matches)) => list(matches),
        _ => Ok(Ended::Done),
    }
}

fn done(result: anyhow::Result<()>) -> Result<Ended, Failure> {
    result.map(|()| Ended::Done).map_err(Failure::Run)
}

fn new_crate(matches: &ArgMatches) -> Result<Ended, Failure> {
    let text = |id: &str| matches.get_one::<String>(id);
    let (Some(name), Some(wanted)) = (text("name"), text("kind")) else {
        return Ok(Ended::Done);
    };
    let options = new::NewOptions {
        dir: text("dir").map(PathBuf::from),
        sdk: text("sdk").map(PathBuf::from),
        shared_target: text("shared_target").map(PathBuf::from),
    };
    let dir = new::run(name, kind(wanted)?, &options).map_err(Failure::Run)?;
    outln!("written: {}", dir.display());
    outln!(
        "next: cd {} && cargo test && cargo build --release",
        dir.display()
    );
    if options.shared_target.is_none() {
        outln!(
            "note: it compiles what it depends on for itself; --shared_target DIR, or CARGO_TARGET_DIR, lets several plugins share that"
        );
    }
    Ok(Ended::Done)
}

fn check_files(matches: &ArgMatches) -> Result<Ended, Failure> {
    let files = matches.get_many::<String>("files").unwrap_or_default();
    let specs: Vec<PluginSpec> = files.map(PluginSpec::new).collect();
    let device = matches
        .get_one::<String>("device")
        .map_or("cpu", String::as_str);
    let device = apus_model::device::open(device).map_err(Failure::Run)?;
    let seconds = matches.get_one::<u64>("timeout").copied().unwrap_or(120);
    let options = matches.get_one::<String>("options").map(String::as_str);
    let options = OptionsByName::read(options.unwrap_or("{}")).map_err(Failure::Usage)?;
    load_plugins(&specs).map_err(Failure::Run)?;
    let mut all = Vec::new();
    for plugin in plugin::loaded() {
        all.push((plugin, entries(plugin).map_err(Failure::Run)?));
    }
    let of = |(_, entries): &(_, Vec<Entry>)| entries.clone();
    let known: Vec<Entry> = all.iter().flat_map(of).collect();
    options.check(&known).map_err(Failure::Usage)?;
    let mut failed = 0;
    for (plugin, entries) in all {
        print_plugin(plugin);
        for entry in entries {
            out!("{} {}", entry.doc.kind, lines(&entry).trim_start());
            let time = Duration::from_secs(seconds);
            let findings = plugin_check::check_within(&entry, &options.of(&entry), &device, time);
            for finding in findings.map_err(Failure::Run)? {
                failed += usize::from(finding.is_failure());
                outln!("      {finding}");
            }
        }
    }
    match failed {
        0 => Ok(Ended::Done),
        failed => Err(Failure::Run(anyhow::anyhow!("{failed} checks failed"))),
    }
}

fn list(matches: &ArgMatches) -> Result<Ended, Failure> {
    load_plugins(&given_plugins(matches)).map_err(Failure::Run)?;
    let loaded = plugin::loaded();
    let installed = install::list_installed().map_err(Failure::Run)?;
    if loaded.is_empty() && !installed {
        outln!(
            "no plugins; give some with --plugin FILE, name a folder in APUS_PLUGIN_PATH, or install some"
        );
    }
    for plugin in loaded {
        print_plugin(plugin);
        for entry in entries(plugin).map_err(Failure::Run)? {
            let needs = match entry.doc.needs.is_empty() {
                true => String::new(),
                false => format!(" (needs {})", entry.doc.needs.join(", ")),
            };
            outln!(
                "  {} {}{needs}: {}",
                entry.doc.kind,
                entry.name,
                entry.doc.doc
            );
        }
    }
    Ok(Ended::Done)
}

fn print_plugin(plugin: &plugin::Plugin) {
    let description = plugin.description();
    outln!(
        "{} {}  {}\n  apus-sdk {}, sha256 {}",
        description.name,
        description.version,
        plugin.file.display(),
        description.sdk,
        plugin.sha256
    );
}

/// The components of one plugin, by kind.
fn entries(of: &plugin::Plugin) -> anyhow::Result<Vec<registry::Entry>> {
    let mut found = Vec::new();
    for &kind in Kind::ALL {
        let all = registry::all(kind)?.into_iter();
        found.extend(all.filter(|entry| match entry.source {
            Source::Plugin(plugin) => plugin.canonical == of.canonical,
            Source::BuiltIn(_) => false,
        }));
    }
    Ok(found)
}
