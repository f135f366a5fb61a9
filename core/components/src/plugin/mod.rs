//! Finds, checks and opens plugin libraries, and registers their components; starts programs that are plugins.
//!
//! A file is checked before it is opened: opening it runs its constructors, and a truncated file can kill the
//! process. A library stays open until the process ends.

pub mod inspect;
pub mod installed;
pub mod process;
mod record;
mod spec;

pub use record::{compare, records};
pub use spec::{PATH_VARIABLE, PluginSpec, from_environment};

use anyhow::{Context, Result, bail, ensure};
use apus_base::checksums::hex;
use apus_base::lines::warning;
use apus_sdk::abi::{self, Description, Library, OpenError, Origin};
use apus_sdk::{Kind, Options};
use process::{Limits, Process};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A plugin that was loaded.
pub struct Plugin {
    /// The path of the file as the configuration names it, or `cmd:` and a command.
    pub file: PathBuf,
    /// The absolute path of the file, or `cmd:` and a command.
    pub canonical: PathBuf,
    /// SHA-256 of the file, in hexadecimal digits; of a command that of its script, empty if it names no file.
    pub sha256: String,
    /// The prefix of the names of its components.
    pub prefix: String,
    code: Code,
}

/// What a plugin is.
enum Code {
    /// A library that was opened.
    Library(Library),
    /// A program that was started.
    Process(Process),
}

static LOADED: Mutex<Vec<&'static Plugin>> = Mutex::new(Vec::new());

/// Tells the programs among the plugins that the run is over, and waits for them to end.
pub fn end_processes() {
    for plugin in loaded() {
        if let Code::Process(process) = &plugin.code {
            process.end();
        }
    }
}

/// Every plugin that was loaded, in the order of loading.
pub fn loaded() -> Vec<&'static Plugin> {
    LOADED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// Loads these plugins and those in the folders of [`PATH_VARIABLE`]. A plugin that is loaded already is not loaded
/// again. One of a folder that cannot be used is left out with a warning, since nobody has asked for that one.
///
/// # Errors
/// A plugin that cannot be used; the error says what was found, what was expected and what to do.
pub fn load(specs: &[PluginSpec]) -> Result<()> {
    // One at a time, or two threads would both find a plugin not loaded yet.
    static LOADING: Mutex<()> = Mutex::new(());
    let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    load_environment();
    specs.iter().try_for_each(load_one)
}

/// Loads what the environment names; what is wrong with it is told once.
fn load_environment() {
    static TOLD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    for (path, found) in from_environment() {
        if told.contains(&path) {
            continue;
        }
        if let Err(error) = found.and_then(|spec| load_one(&spec)) {
            warning!("{error:#}. It is left out; {PATH_VARIABLE} has named it");
            told.insert(path);
        }
    }
}

fn load_one(spec: &PluginSpec) -> Result<()> {
    if let Some(command) = spec.command() {
        return start(spec, command);
    }
    refuse_python(&spec.path)?;
    let (file, recorded) = &spec.locate()?;
    let bytes = inspect::read(file)?;
    let sha256 = hex(&Sha256::digest(&bytes));
    if let Some(pin) = &spec.sha256 {
        ensure!(
            pin.eq_ignore_ascii_case(&sha256),
            "plugin {}: its sha256 is {sha256}, the configuration pins {pin}. It was not opened. Put \
             back the file that was pinned, or look at what has changed and pin the new one",
            file.display()
        );
    }
    if let Some(recorded) = recorded {
        ensure!(
            *recorded == sha256,
            "plugin {}: its sha256 is {sha256}, it was installed with {recorded}. It was not opened. \
             Look at what has changed the file, and install the plugin again",
            file.display()
        );
    }
    let canonical = file
        .canonicalize()
        .with_context(|| format!("plugin {}", file.display()))?;
    let prefix = spec.prefix.clone().unwrap_or_default();
    if let Some(plugin) = loaded().iter().find(|plugin| plugin.canonical == canonical) {
        ensure!(
            plugin.sha256 == sha256,
            "plugin {}: the file has changed since it was loaded; start apus again",
            file.display()
        );
    }
    // The same bytes are one plugin, by however many paths they are named.
    let same = |plugin: &&Plugin| plugin.sha256 == sha256 && plugin.prefix == prefix;
    if loaded().into_iter().any(|plugin| same(&plugin)) {
        return Ok(());
    }
    inspect::check(file, &bytes)?;
    apus_base::crashes::watch();
    abi::print_warnings_by(|text| warning!("{text}"));
    let library = abi::open(&canonical).map_err(|error| explain(file, &error))?;
    let plugin = Plugin {
        file: file.clone(),
        canonical,
        sha256,
        prefix,
        code: Code::Library(library),
    };
    keep(plugin)
}

/// Refuses a file of Python, as `--external_plugins` of ms-swift names one, and says how its functions are kept.
fn refuse_python(file: &Path) -> Result<()> {
    ensure!(
        file.extension().is_none_or(|extension| extension != "py"),
        "plugin {file}: this is a file of Python, and what is loaded here is a library. Formats, loss scales, \
         schedules, samplers, callbacks, metrics and trackers stay Python, in a program: --plugin cmd:./{name}, with apus_plugin.py beside it and \
         `@component(...)` over each function; docs/process-plugins.md, \"From --external_plugins\", shows how. A loss or an \
         optimizer works on tensors and becomes a library: docs/plugin-guide.md",
        file = file.display(),
        name = file.file_name().unwrap_or_default().to_string_lossy(),
    );
    Ok(())
}

/// Starts a program, unless it runs already.
fn start(spec: &PluginSpec, command: &str) -> Result<()> {
    let prefix = spec.prefix.clone().unwrap_or_default();
    let same = |plugin: &&Plugin| plugin.file == spec.path && plugin.prefix == prefix;
    if loaded().into_iter().any(|plugin| same(&plugin)) {
        return Ok(());
    }
    let sha256 = process::sha256(&process::words(command)?)?;
    if let Some(pin) = &spec.sha256 {
        ensure!(
            sha256
                .as_ref()
                .is_some_and(|found| pin.eq_ignore_ascii_case(found)),
            "plugin {}: the sha256 of its script is {}, the configuration pins {pin}. It was not started. Put back the \
             file that was pinned, or look at what has changed and pin the new one",
            spec.path.display(),
            sha256
                .as_deref()
                .unwrap_or("not there: the command names no file"),
        );
    }
    let processes = spec.processes.unwrap_or(1);
    ensure!(
        (1..=process::MOST).contains(&processes),
        "plugin {}: processes is {processes}; it is a number from 1 to {}",
        spec.path.display(),
        process::MOST
    );
    let seconds = |given: Option<u64>, usual| given.map_or(usual, Duration::from_secs);
    let limits = Limits {
        start: seconds(spec.start_timeout, process::LIMITS.start),
        call: seconds(spec.timeout, process::LIMITS.call),
    };
    keep(Plugin {
        file: spec.path.clone(),
        canonical: spec.path.clone(),
        sha256: sha256.unwrap_or_default(),
        prefix,
        code: Code::Process(Process::start(
            command,
            limits,
            spec.processes.unwrap_or(1),
        )?),
    })
}

/// Keeps a plugin until the end, once all of its components are of kinds that are known.
fn keep(plugin: Plugin) -> Result<()> {
    let file = &plugin.file;
    for component in &plugin.description().components {
        ensure!(
            Kind::from_name(&component.kind).is_some(),
            "plugin {}: it has a {}, a kind of component that this Apus, with apus-sdk {}, does not \
             know; it was built with apus-sdk {}: update Apus",
            file.display(),
            component.kind,
            abi::SDK_VERSION,
            plugin.description().sdk
        );
        let (_, unknown) = component.known_needs();
        ensure!(
            unknown.is_empty(),
            "plugin {}: its {} {} needs {}, which this Apus, with apus-sdk {}, does not have; the plugin is newer, \
             it was built with apus-sdk {}: update Apus",
            file.display(),
            component.kind,
            component.name,
            unknown.join(", "),
            abi::SDK_VERSION,
            plugin.description().sdk
        );
    }
    LOADED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Box::leak(Box::new(plugin)));
    Ok(())
}

fn explain(file: &Path, error: &OpenError) -> anyhow::Error {
    let file = file.display();
    let host = abi::SDK_VERSION;
    match error {
        OpenError::NoRoot => anyhow::anyhow!(inspect::no_root(&file)),
        OpenError::Abi { sdk, what } => anyhow::anyhow!(
            "plugin {file}: it was built with apus-sdk {sdk}, this Apus has {host}, and the two do not \
             fit: {what}. Build the plugin again with apus-sdk {host}, or update Apus if the plugin is \
             the newer one"
        ),
        OpenError::Start(message) => anyhow::anyhow!(
            "plugin {file}: it failed while it was started: {message}. This is a mistake in the plugin"
        ),
        OpenError::Load(message) => anyhow::anyhow!(refused(&file.to_string(), message)),
    }
}

/// The message of the system's loader, in plain words.
fn refused(file: &str, message: &str) -> String {
    let missing = message
        .split_once(": cannot open shared object file")
        .and_then(|(before, _)| before.rsplit([' ', '"']).next());
    let symbol = message
        .split_once("undefined symbol: ")
        .map(|(_, after)| after.trim_end_matches(['"', '}', ')']).trim());
    match (missing, symbol) {
        (Some(missing), _) if !file.ends_with(missing) => format!(
            "plugin {file}: it depends on {missing}, which is not there. Install the package that has \
             {missing}, or name its folder in LD_LIBRARY_PATH"
        ),
        (_, Some(symbol)) => format!(
            "plugin {file}: it needs the symbol {symbol}, which none of the libraries it is linked with \
             has. Link it with the library that defines {symbol}, or build it again against the \
             versions that this machine has"
        ),
        _ => format!("plugin {file}: the system refuses to load it: {message}"),
    }
}

impl Plugin {
    /// The plugin's description of itself.
    pub fn description(&self) -> &Description {
        match &self.code {
            Code::Library(library) => library.description(),
            Code::Process(process) => process.description(),
        }
    }

    /// For messages: `plugin mine 0.1.0 (libmine.so)`.
    pub fn label(&self) -> String {
        let Description { name, version, .. } = self.description();
        let file = match &self.code {
            Code::Library(_) => self.file.file_name().unwrap_or(self.file.as_os_str()),
            Code::Process(_) => self.file.as_os_str(),
        };
        format!("plugin {name} {version} ({})", file.display())
    }

    /// Makes the plugin's component of this name, without prefix. The component's errors name `label`.
    ///
    /// # Errors
    /// Options that do not fit.
    pub fn make<K: abi::Crosses + ?Sized>(
        &self,
        name: &str,
        options: &Options,
        label: &str,
    ) -> Result<Box<K>> {
        let made = match &self.code {
            Code::Library(library) => library.make(name, options, Origin::new(label)),
            Code::Process(process) => process.make::<K>(K::KIND, name, options, label),
        };
        match made {
            Ok(component) => Ok(component),
            Err(error) => bail!("{error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_words_are_explained() {
        let said = refused(
            "a/libmine.so",
            "libdep.so.1: cannot open shared object file: No such file",
        );
        assert!(
            said.contains("depends on libdep.so.1, which is not there"),
            "{said}"
        );
        let said = refused("a/libmine.so", "/x/libmine.so: undefined symbol: nope");
        assert!(said.contains("needs the symbol nope,"), "{said}");
        let said = refused("a/libmine.so", "/x/libmine.so: something else");
        assert!(
            said.contains("refuses to load it: /x/libmine.so: something else"),
            "{said}"
        );
    }
}
