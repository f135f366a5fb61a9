//! The host's side of the root module: a library is opened and its ABI checked before any of its
//! types is touched.

use super::describe::Description;
use super::lines::WireLines;
use super::object::{Crosses, Origin};
use super::root::PluginRootRef;
use super::running;
use crate::{Error, Options, Result};
use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::check_layout_compatibility;
use abi_stable::library::{LibraryError, lib_header_from_path};
use abi_stable::std_types::RResult;
use abi_stable::type_layout::TypeLayout;
use std::fmt;
use std::path::Path;

/// An open plugin library. It stays open: nothing can tell when its last code has run.
#[derive(Clone)]
pub struct Library {
    root: PluginRootRef,
    description: Description,
}

/// Why a library could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenError {
    /// The system's loader refused the file; its message.
    Load(String),
    /// It has no root module.
    NoRoot,
    /// Its ABI is another one.
    Abi {
        /// Version of the SDK it was built with.
        sdk: String,
        /// Where the two differ.
        what: String,
    },
    /// It failed while it described itself; its message.
    Start(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(message) => write!(f, "cannot be loaded: {message}"),
            Self::NoRoot => f.write_str("has no root module"),
            Self::Abi { sdk, what } => write!(f, "was built with apus-sdk {sdk}: {what}"),
            Self::Start(message) => write!(f, "failed while it was started: {message}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Layout of everything that crosses the boundary, as this SDK has it.
pub fn layout() -> &'static TypeLayout {
    <PluginRootRef as StableAbi>::LAYOUT
}

/// Opens a plugin library.
///
/// Two layouts fit if either is the beginning of the other: tables only grow at their end, so that a
/// plugin may be older than its host, and newer.
///
/// # Errors
/// See [`OpenError`].
pub fn open(path: &Path) -> std::result::Result<Library, OpenError> {
    let label = running::lasting(&format!("the start of plugin {}", path.display()));
    running::inside(label, || start(path))
}

fn start(path: &Path) -> std::result::Result<Library, OpenError> {
    let header = lib_header_from_path(path).map_err(|error| match error {
        LibraryError::OpenError { err, .. } => OpenError::Load(chain(&*err)),
        LibraryError::GetSymbolError { .. } => OpenError::NoRoot,
        other => differs("unknown", &other.to_string()),
    })?;
    let sdk = header.version_strings().version.as_str();
    let of_plugin = header
        .layout()
        .ok_or_else(|| differs(sdk, "it hides the layout of its types"))?;
    if let Err(error) = check_layout_compatibility(layout(), of_plugin)
        && check_layout_compatibility(of_plugin, layout()).is_err()
    {
        return Err(differs(sdk, &error.to_string()));
    }
    // SAFETY: the layout was checked just now, in the way that suits tables that grow.
    let root = unsafe { header.init_root_module_with_unchecked_layout::<PluginRootRef>() }
        .map_err(|error| match error {
            LibraryError::RootModule { err, .. } => OpenError::Start(err.to_string()),
            other => differs(sdk, &other.to_string()),
        })?;
    if let Some(take) = root.lines() {
        take(WireLines::give());
    }
    match root.describe()() {
        RResult::ROk(json) => {
            let description =
                serde_json::from_str(&json).map_err(|error| OpenError::Start(error.to_string()))?;
            Ok(Library { root, description })
        }
        RResult::RErr(message) => Err(OpenError::Start(message.into_string())),
    }
}

impl Library {
    /// The description that the library gives of itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Makes one of its components. `origin` is named in its errors.
    ///
    /// # Errors
    /// Options that do not fit; a kind that the plugin's SDK does not have.
    pub fn make<K: Crosses + ?Sized>(
        &self,
        name: &str,
        options: &Options,
        origin: Origin,
    ) -> Result<Box<K>> {
        let Some(make) = K::maker(self.root) else {
            return Err(Error::new(format!(
                "the plugin was built with apus-sdk {}, which has no kind of component {:?} yet; \
                 build it again with apus-sdk {}",
                self.description.sdk,
                K::KIND.name(),
                super::SDK_VERSION
            )));
        };
        let json = serde_json::to_string(options)?;
        // SAFETY: both texts outlive the call.
        let call = || unsafe { make(name.into(), json.as_str().into()) };
        match running::inside(origin.label(), call) {
            RResult::ROk(object) => Ok(K::import(object, origin)),
            RResult::RErr(message) => Err(Error::new(message)),
        }
    }
}

fn differs(sdk: &str, report: &str) -> OpenError {
    OpenError::Abi {
        sdk: sdk.to_owned(),
        what: short(report),
    }
}

/// The errors of a layout report in one line; the report is thousands of characters long.
fn short(report: &str) -> String {
    let mut found: Vec<String> = Vec::new();
    let mut lines = report.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("Error:") {
            let more = lines.by_ref().take_while(|line| !line.is_empty());
            let text: Vec<&str> = std::iter::once(rest).chain(more).collect();
            let text = text
                .join(" ")
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ");
            if !found.contains(&text) {
                found.push(text);
            }
        }
    }
    found.truncate(3);
    match found.is_empty() {
        true => report
            .split_whitespace()
            .take(60)
            .collect::<Vec<_>>()
            .join(" "),
        false => found.join("; "),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        source = error.source();
    }
    text
}
