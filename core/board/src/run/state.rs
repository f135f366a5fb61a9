//! The state of a run, concluded from its files: a run that was killed could not write its state.

use serde::Serialize;
use serde_json::{Map, Value};
use std::time::Duration;

/// A run whose files have not changed for this long counts as gone, if nothing else is known of it.
const QUIET: Duration = Duration::from_secs(300);

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its process is working.
    Running,
    /// It made all of its steps.
    Finished,
    /// A signal ended it, and it saved everything.
    Interrupted,
    /// An error ended it.
    Crashed,
    /// It neither works nor ended: it was killed, or its machine went away.
    Gone,
}

/// What the files other than `run.json` tell of a run's state.
#[derive(Debug, Clone, Copy)]
pub struct Evidence {
    /// Whether `logging.jsonl` ends with a summary.
    pub summary: bool,
    /// How long none of its files has changed.
    pub quiet: Duration,
    /// Whether it writes system metrics, and so changes every few seconds.
    pub ticks: bool,
}

/// The state, with a reason where it is not obvious.
pub fn judge(info: &Map<String, Value>, evidence: Evidence) -> (State, Option<String>) {
    let text = |name: &str| info.get(name).and_then(Value::as_str);
    let error = || text("error").map(str::to_owned);
    match text("state") {
        Some("finished") => return (State::Finished, None),
        Some("interrupted") => return (State::Interrupted, error()),
        Some("crashed") => return (State::Crashed, error()),
        _ if evidence.summary => return (State::Finished, None),
        _ => {}
    }
    let quiet = (evidence.quiet > QUIET).then(|| {
        let minutes = evidence.quiet.as_secs() / 60;
        format!("nothing was written for {}", span(minutes))
    });
    let pid = info.get("pid").and_then(Value::as_i64);
    let here = text("host").is_some_and(|host| host == host_name());
    let alive = pid.filter(|_| here).map(is_alive);
    match (alive, quiet) {
        (Some(false), _) => {
            let pid = pid.unwrap_or_default();
            let why = format!("its process {pid} is no more and left no word");
            (State::Gone, Some(why))
        }
        // The number may have gone to another process; a run that ticks would have written.
        (Some(true), quiet) if quiet.is_none() || !evidence.ticks => (State::Running, None),
        (_, Some(quiet)) => (State::Gone, Some(quiet)),
        (_, None) => (State::Running, None),
    }
}

fn span(minutes: u64) -> String {
    match minutes {
        0..120 => format!("{minutes} minutes"),
        120..2_880 => format!("{} hours", minutes / 60),
        _ => format!("{} days", minutes / 1_440),
    }
}

#[cfg(unix)]
fn host_name() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned()
}

#[cfg(unix)]
fn is_alive(pid: i64) -> bool {
    use rustix::io::Errno;
    use rustix::process::{Pid, test_kill_process};
    let pid = i32::try_from(pid).ok().filter(|&pid| pid > 0);
    let Some(pid) = pid.and_then(Pid::from_raw) else {
        return false;
    };
    // One of another user may not be signalled, and is there.
    matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM))
}

#[cfg(not(unix))]
fn host_name() -> String {
    String::new()
}

#[cfg(not(unix))]
fn is_alive(_: i64) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn state(info: Value, quiet: u64, summary: bool) -> (State, Option<String>) {
        let Value::Object(info) = info else {
            panic!("an object")
        };
        let evidence = Evidence {
            summary,
            quiet: Duration::from_secs(quiet),
            ticks: true,
        };
        judge(&info, evidence)
    }

    #[test]
    fn what_a_run_says_of_itself_is_believed() {
        for (said, expected) in [
            ("finished", State::Finished),
            ("interrupted", State::Interrupted),
            ("crashed", State::Crashed),
        ] {
            let info = json!({"state": said, "error": "boom", "pid": 1, "host": host_name()});
            assert_eq!(state(info, 9_999, false).0, expected);
        }
        let crashed = state(json!({"state": "crashed", "error": "boom"}), 0, false);
        assert_eq!(crashed.1.as_deref(), Some("boom"));
    }

    #[test]
    fn a_process_that_is_no_more_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let info = json!({"state": "running", "pid": pid, "host": host_name()});
        let (gone, why) = state(info, 0, false);
        assert_eq!(gone, State::Gone);
        assert!(why.unwrap().contains(&pid.to_string()));
    }

    #[test]
    fn a_process_that_lives_is_running_while_it_writes() {
        let info = json!({"state": "running", "pid": std::process::id(), "host": host_name()});
        assert_eq!(state(info.clone(), 0, false), (State::Running, None));
        assert_eq!(state(info, 900, false).0, State::Gone);
    }

    #[test]
    fn elsewhere_and_in_old_runs_the_files_tell() {
        let elsewhere = json!({"state": "running", "pid": 1, "host": "another machine"});
        assert_eq!(state(elsewhere.clone(), 10, false).0, State::Running);
        let (gone, why) = state(elsewhere, 900, false);
        assert_eq!(gone, State::Gone);
        assert_eq!(why.unwrap(), "nothing was written for 15 minutes");
        assert_eq!(state(json!({}), 10, false).0, State::Running);
        assert_eq!(state(json!({}), 900, false).0, State::Gone);
        assert_eq!(state(json!({}), 10, true).0, State::Finished);
    }
}
