//! The settings of SwanLab for a run: from the options, then from the environment that SwanLab's own tools read, then
//! from the `.netrc` files.

use super::Swanlab;
use super::netrc::{self, Entry};
use super::record::{Start, Timestamp, resume};
use super::secret::Secret;
use super::values::digest;
use apus_sdk::RunInfo;
use std::path::PathBuf;
use std::time::Duration;

/// SwanLab's own server.
pub const API_HOST: &str = "https://api.swanlab.cn";
/// The address of its pages.
pub const WEB_HOST: &str = "https://swanlab.cn";

/// Where the run goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The run is written to the file and sent to the server.
    Cloud,
    /// The run is written to the file alone.
    Offline,
    /// The run is not written.
    Disabled,
}

/// Environment variables.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The variables of this process; an empty one counts as not set, and quotes around a value are removed.
pub fn process_env(name: &str) -> Option<String> {
    let value = std::env::var(name).ok()?;
    let value = value.trim();
    let inner = ['"', '\'']
        .iter()
        .find_map(|&quote| value.strip_prefix(quote)?.strip_suffix(quote));
    let value = inner.unwrap_or(value);
    (!value.is_empty()).then(|| value.to_owned())
}

/// The server and the key for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The server.
    pub api_host: String,
    /// Where its pages are.
    pub web_host: String,
    /// The key, if there is one.
    pub key: Option<Secret>,
}

impl Account {
    /// Finds them: `host` and `key` as they were given, the environment, the `.netrc` files.
    pub fn find(host: Option<&str>, key: Option<&Secret>, env: Env) -> Self {
        let host = host.map(str::to_owned).or_else(|| env("SWANLAB_API_HOST"));
        let host = host.as_deref().map(netrc::host);
        let key = key.cloned();
        let key = key.or_else(|| env("SWANLAB_API_KEY").map(Secret::from));
        let stored = || netrc::files(env).iter().find_map(|file| netrc::read(file));
        let fits = |entry: &Entry| host.as_ref().is_none_or(|host| *host == entry.api_host);
        let stored = match key {
            Some(_) => None,
            None => stored().filter(fits),
        };
        let api_host = host.or_else(|| stored.as_ref().map(|entry| entry.api_host.clone()));
        let api_host = api_host.unwrap_or_else(|| API_HOST.to_owned());
        let web_host = env("SWANLAB_WEB_HOST").map(|host| netrc::host(&host));
        let web_host = web_host.or_else(|| stored.as_ref().map(|entry| entry.web_host.clone()));
        let web_host = web_host.unwrap_or_else(|| match api_host.as_str() {
            API_HOST => WEB_HOST.to_owned(),
            own => own.to_owned(),
        });
        Self {
            api_host,
            web_host,
            key: key.or(stored.map(|entry| entry.key)),
        }
    }
}

/// All settings, resolved.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the run goes.
    pub mode: Mode,
    /// The server.
    pub account: Account,
    /// How the run begins.
    pub start: Start,
    /// Folder of the files.
    pub log_dir: PathBuf,
    /// Which keys go to one section of the page.
    pub section_rule: i64,
    /// How long the end of a run waits for the server.
    pub finish_timeout: Duration,
    /// Time between two shipments.
    pub interval: Duration,
    /// Notes for the user.
    pub notes: Vec<String>,
}

impl Settings {
    /// Resolves them for a run. What does not fit is named in the notes and left out: a name that a server
    /// would refuse must not stop a training.
    pub fn resolve(options: &Swanlab, run: &RunInfo, env: Env) -> Self {
        let mut notes = Vec::new();
        let mode = options.mode.clone().or_else(|| env("SWANLAB_MODE"));
        let mode = mode.map(|mode| mode.to_ascii_lowercase());
        let mode = match mode.as_deref() {
            None | Some("cloud" | "online") => Mode::Cloud,
            Some("offline") => Mode::Offline,
            Some("local") => {
                notes.push(
                    "mode local writes the run's file, as offline does: the old local dashboard is no longer \
                     maintained and not fed"
                        .to_owned(),
                );
                Mode::Offline
            }
            Some("disabled") => Mode::Disabled,
            Some(other) => {
                notes.push(format!(
                    "mode is {other:?}, expected cloud, local, offline or disabled; only the file is written"
                ));
                Mode::Offline
            }
        };
        let account = Account::find(options.host.as_deref(), options.token.as_ref(), env);
        let text = |given: &Option<String>, names: &[&str]| {
            let given = given.clone().filter(|text| !text.trim().is_empty());
            given.or_else(|| names.iter().find_map(|name| env(name)))
        };
        let project = text(
            &options.project,
            &["SWANLAB_PROJ_NAME", "SWANLAB_PROJECT_NAME"],
        );
        let project = project.or_else(|| env("SWANLAB_PROJECT"));
        let project = project.unwrap_or_else(|| "ms-swift".to_owned());
        let name = text(
            &options.exp_name,
            &["SWANLAB_EXP_NAME", "SWANLAB_EXPERIMENT_NAME"],
        );
        let name = name.unwrap_or_else(|| run.name.clone());
        let (id, resume) = identity(run, env, &mut notes);
        let short = |text: Option<String>, most: usize| -> String {
            text.unwrap_or_default().chars().take(most).collect()
        };
        let tags = env("SWANLAB_TAGS").unwrap_or_default();
        let tags = tags.split(',').map(str::trim).filter(|tag| !tag.is_empty());
        let start = Start {
            project: fitting(&project, "-_.+", 100, "project", &mut notes),
            workspace: text(&options.workspace, &["SWANLAB_WORKSPACE"]).unwrap_or_default(),
            public: env("SWANLAB_PUBLIC").is_some_and(|value| truth(&value)),
            name: short(Some(name), 512),
            description: short(env("SWANLAB_DESCRIPTION"), 1024),
            tags: tags
                .take(30)
                .map(|tag| short(Some(tag.to_owned()), 512))
                .collect(),
            group: short(env("SWANLAB_GROUP"), 512),
            job_type: short(env("SWANLAB_JOB_TYPE"), 512),
            color: env("SWANLAB_EXP_COLOR").unwrap_or_default(),
            id,
            resume,
            started_at: Some(Timestamp::now()),
        };
        let log_dir = env("SWANLAB_LOG_DIR").or_else(|| env("SWANLAB_LOGDIR"));
        let rule = env("SWANLAB_SECTION_RULE_IDX").and_then(|rule| rule.parse().ok());
        let seconds = |given: f64, default: f64| {
            Duration::try_from_secs_f64(given).unwrap_or(Duration::from_secs_f64(default))
        };
        Self {
            mode,
            account,
            start,
            log_dir: log_dir.map_or_else(|| run.dir.join("swanlog"), PathBuf::from),
            section_rule: rule.unwrap_or(0),
            finish_timeout: seconds(options.finish_timeout, 20.0),
            interval: seconds(options.interval, 1.5),
            notes,
        }
    }
}

/// The run's id, and what to do if the server has it.
fn identity(run: &RunInfo, env: Env, notes: &mut Vec<String>) -> (String, i32) {
    let continued = match run.resumed_at {
        0 => resume::NEVER,
        _ => resume::ALLOW,
    };
    let bad = |c: char| c.is_control() || r#"<>:"/\|?*#%"#.contains(c);
    let named = env("SWANLAB_RUN_ID").filter(|id| {
        let good = !id.contains(bad) && id.chars().count() <= 512;
        if !good {
            notes.push(format!(
                "SWANLAB_RUN_ID is {id:?}, which is no run id; it is not used"
            ));
        }
        good
    });
    let wish = env("SWANLAB_RESUME").or_else(|| env("SWANLAB_RUN_RESUME"));
    let wish = wish.map(|wish| wish.to_ascii_lowercase());
    match (named, wish.as_deref()) {
        (Some(id), Some("must")) => (id, resume::MUST),
        (Some(id), _) => (id, resume::ALLOW),
        (None, Some("never" | "false" | "no" | "0")) => (fresh_id(run), resume::NEVER),
        (None, _) if run.id.is_empty() => (fresh_id(run), resume::NEVER),
        (None, _) => (run.id.clone(), continued),
    }
}

/// An id that no other run has.
fn fresh_id(run: &RunInfo) -> String {
    let seed = format!(
        "{:?}{}{}",
        std::time::SystemTime::now(),
        std::process::id(),
        run.dir.display()
    );
    let hash = digest(seed.as_bytes());
    hash.chars().take(8).collect()
}

/// A name with only the characters that are allowed in it.
fn fitting(name: &str, extra: &str, most: usize, what: &str, notes: &mut Vec<String>) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || extra.contains(c);
    let fits: String = name
        .chars()
        .take(most)
        .map(|c| if good(c) { c } else { '-' })
        .collect();
    if fits != name {
        notes.push(format!(
            "{what} is {name:?}; SwanLab takes letters, digits and {extra}, at most {most}: {fits:?} is used"
        ));
    }
    fits
}

fn truth(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resolve(options: serde_json::Value, variables: &[(&str, &str)]) -> Settings {
        let options: Swanlab = serde_json::from_value(options).unwrap();
        let env = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        };
        let run = RunInfo {
            name: "output/v0".to_owned(),
            dir: PathBuf::from("output/v0"),
            ..RunInfo::default()
        };
        Settings::resolve(&options, &run, &env)
    }

    #[test]
    fn options_go_before_the_environment() {
        let env = [
            ("SWANLAB_PROJ_NAME", "theirs"),
            ("SWANLAB_MODE", "offline"),
            ("SWANLAB_TAGS", "a, b,"),
            ("SWANLAB_API_KEY", "from-env"),
            ("SWANLAB_API_HOST", "http://lab:8000/api"),
            ("SWANLAB_RUN_ID", "run1"),
        ];
        let found = resolve(json!({}), &env);
        assert_eq!(found.mode, Mode::Offline);
        assert_eq!(
            (found.start.project.as_str(), found.start.name.as_str()),
            ("theirs", "output/v0")
        );
        assert_eq!(found.start.tags, ["a", "b"]);
        assert_eq!(
            (found.start.id.as_str(), found.start.resume),
            ("run1", resume::ALLOW)
        );
        assert_eq!(found.account.api_host, "http://lab:8000");
        assert_eq!(found.account.web_host, "http://lab:8000");
        assert_eq!(found.account.key, Some("from-env".to_owned().into()));
        let given = json!({"project": "p", "mode": "cloud", "exp_name": "e", "token": "t"});
        let found = resolve(given, &env);
        assert_eq!(
            (found.mode, found.start.project.as_str()),
            (Mode::Cloud, "p")
        );
        assert_eq!(found.start.name, "e");
        assert_eq!(found.account.key, Some("t".to_owned().into()));
    }

    #[test]
    fn defaults_and_what_does_not_fit() {
        let found = resolve(
            json!({"mode": "clod", "project": "my project"}),
            &[("SWANLAB_ROOT", "/nowhere")],
        );
        assert_eq!(
            (found.mode, found.start.project.as_str()),
            (Mode::Offline, "my-project")
        );
        assert_eq!(found.notes.len(), 2);
        assert_eq!(found.start.id.len(), 8);
        let found = resolve(json!({}), &[("SWANLAB_ROOT", "/nowhere")]);
        assert_eq!(
            (found.mode, found.start.project.as_str()),
            (Mode::Cloud, "ms-swift")
        );
        assert_eq!(found.account.web_host, WEB_HOST);
        assert_eq!(found.log_dir, PathBuf::from("output/v0/swanlog"));
        assert!(found.notes.is_empty());
    }

    #[test]
    fn a_stored_key_is_for_its_server_only() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().display().to_string();
        let entry = Entry {
            api_host: "http://lab:8000".to_owned(),
            web_host: "http://pages".to_owned(),
            key: "stored".to_owned().into(),
        };
        netrc::write(&home.path().join(".netrc"), &entry).unwrap();
        let found = resolve(json!({}), &[("SWANLAB_ROOT", &root)]).account;
        assert_eq!(
            (found.api_host.as_str(), found.web_host.as_str()),
            ("http://lab:8000", "http://pages")
        );
        assert_eq!(found.key, Some("stored".to_owned().into()));
        let other = resolve(json!({"host": "http://other"}), &[("SWANLAB_ROOT", &root)]).account;
        assert_eq!((other.key, other.api_host.as_str()), (None, "http://other"));
    }
}
