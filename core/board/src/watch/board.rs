//! Keeps the list of runs below a folder up to date, and finds what of it is new to a page.

use crate::run::{Cursor, FileStamps, FoundRun, Run, RunOverview, State, find};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The most runs whose data stays in memory. Others are read again when they are requested.
const MOST_OPEN: usize = 24;
/// How often known runs are checked for changes.
const LOOK: Duration = Duration::from_millis(500);
/// The least time between two searches for new runs.
const SEARCH: Duration = Duration::from_secs(3);

/// The runs.
pub struct Board {
    root: PathBuf,
    /// Identifies this process: versions begin anew in the next one.
    epoch: String,
    version: u64,
    listed: BTreeMap<String, Listed>,
    removed: Vec<(u64, String)>,
    open: HashMap<String, (Arc<Mutex<Run>>, Instant)>,
    looked: Option<Instant>,
    search_at: Option<Instant>,
}

struct Listed {
    found: FoundRun,
    stamp: FileStamps,
    glance: RunOverview,
    version: u64,
}

/// The part of the list of runs that is new to a page.
#[derive(Serialize)]
pub struct Listing<'a> {
    epoch: &'a str,
    version: u64,
    root: String,
    runs: Vec<Entry<'a>>,
    removed: Vec<&'a str>,
}

#[derive(Serialize)]
struct Entry<'a> {
    version: u64,
    #[serde(flatten)]
    glance: &'a RunOverview,
}

impl Board {
    /// The runs below a folder.
    pub fn new(root: &Path) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_nanos();
        Self {
            root: root.to_owned(),
            epoch: format!("{:x}-{now:x}", std::process::id()),
            version: 0,
            listed: BTreeMap::new(),
            removed: Vec::new(),
            open: HashMap::new(),
            looked: None,
            search_at: None,
        }
    }

    /// Count of runs.
    pub fn count(&mut self) -> usize {
        self.look();
        self.listed.len()
    }

    /// The changes since a version of the list; the whole list for a page that has the version of another process.
    pub fn list(&mut self, since: u64, epoch: &str) -> Listing<'_> {
        self.look();
        let since = if epoch == self.epoch { since } else { 0 };
        let runs = self.listed.values().filter(|run| run.version > since);
        let removed = self.removed.iter().filter(|(version, _)| *version > since);
        Listing {
            epoch: &self.epoch,
            version: self.version,
            root: self.root.display().to_string(),
            runs: runs
                .map(|run| Entry {
                    version: run.version,
                    glance: &run.glance,
                })
                .collect(),
            removed: removed.map(|(_, id)| id.as_str()).collect(),
        }
    }

    /// A run of this name, if there is one. Its files are read only in [`news`], so that the list does not wait for a
    /// long log.
    pub fn run(&mut self, id: &str) -> Option<Arc<Mutex<Run>>> {
        self.look();
        let found = &self.listed.get(id)?.found;
        let now = Instant::now();
        let opened = || Arc::new(Mutex::new(Run::new(id, found.place.clone())));
        let (run, used) = self
            .open
            .entry(id.to_owned())
            .or_insert_with(|| (opened(), now));
        *used = now;
        let run = Arc::clone(run);
        if self.open.len() > MOST_OPEN {
            let oldest = self.open.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                self.open.remove(&oldest);
            }
        }
        Some(run)
    }

    /// Searches for new runs and checks known ones, unless that was just done.
    fn look(&mut self) {
        let start = Instant::now();
        if self.looked.is_some_and(|at| start - at < LOOK) {
            return;
        }
        self.looked = Some(start);
        if self.search_at.is_none_or(|at| start >= at) {
            self.search();
            // A folder that takes long to search is searched less often.
            self.search_at = Some(Instant::now() + SEARCH.max(start.elapsed() * 20));
        }
        for run in self.listed.values_mut() {
            let Ok(folder) = run.found.place.open() else {
                continue;
            };
            let stamp = FileStamps::of(&folder);
            // A process may end without a word.
            if stamp == run.stamp && run.glance.state != State::Running {
                continue;
            }
            let glance = RunOverview::at(&run.found, &folder, &stamp);
            if glance != run.glance || stamp != run.stamp {
                self.version += 1;
                run.version = self.version;
                (run.glance, run.stamp) = (glance, stamp);
            }
        }
    }

    fn search(&mut self) {
        let all = find(&self.root);
        let gone: Vec<String> = self
            .listed
            .keys()
            .filter(|id| all.iter().all(|found| found.id != **id))
            .cloned()
            .collect();
        for id in gone {
            self.version += 1;
            self.listed.remove(&id);
            self.open.remove(&id);
            self.removed.push((self.version, id));
        }
        for found in all {
            if self.listed.contains_key(&found.id) {
                continue;
            }
            let Ok(folder) = found.place.open() else {
                continue;
            };
            self.version += 1;
            let stamp = FileStamps::of(&folder);
            let listed = Listed {
                glance: RunOverview::at(&found, &folder, &stamp),
                version: self.version,
                stamp,
                found,
            };
            self.removed.retain(|(_, id)| *id != listed.found.id);
            self.listed.insert(listed.found.id.clone(), listed);
        }
    }
}

/// Reads on in a run and returns, as JSON, what is new to a page with this cursor.
pub fn news(run: &Mutex<Run>, known: &Cursor) -> Option<String> {
    let mut run = run.lock().unwrap_or_else(PoisonError::into_inner);
    run.refresh();
    serde_json::to_string(&run.since(known)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::fs;

    /// Looks again at once.
    fn listed(board: &mut Board, since: u64) -> Value {
        (board.looked, board.search_at) = (None, None);
        let epoch = board.epoch.clone();
        serde_json::to_value(board.list(since, &epoch)).unwrap()
    }

    fn ids(listing: &Value) -> Vec<&str> {
        let runs = listing["runs"].as_array().unwrap();
        runs.iter().filter_map(|run| run["id"].as_str()).collect()
    }

    #[test]
    fn runs_come_change_and_go() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let mut board = Board::new(root.path());
        assert!(ids(&listed(&mut board, 0)).is_empty());
        for name in ["a", "b"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("run.json"), r#"{"state": "finished"}"#).unwrap();
        }
        let first = listed(&mut board, 0);
        assert_eq!(ids(&first), ["a", "b"]);
        let version = first["version"].as_u64().unwrap();
        assert!(ids(&listed(&mut board, version)).is_empty());

        let line = "{\"loss\": 1.5, \"global_step/max_steps\": \"3/9\"}\n";
        fs::write(at("b").join("logging.jsonl"), line).unwrap();
        let changed = listed(&mut board, version);
        assert_eq!(ids(&changed), ["b"]);
        assert_eq!(changed["runs"][0]["step"], 3);

        fs::remove_dir_all(at("a")).unwrap();
        let gone = listed(&mut board, changed["version"].as_u64().unwrap());
        assert_eq!(gone["removed"], serde_json::json!(["a"]));
        assert_eq!(
            ids(&serde_json::to_value(board.list(99, "another")).unwrap()),
            ["b"]
        );
    }

    #[test]
    fn only_runs_that_were_found_are_read() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["in/run", "out"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
            fs::write(root.path().join(dir).join("run.json"), "{}").unwrap();
        }
        let mut board = Board::new(&root.path().join("in"));
        let run = board.run("run").unwrap();
        assert!(news(&run, &Cursor::default()).is_some());
        let out = root.path().join("out");
        for id in [
            "../out",
            "run/../../out",
            "",
            ".",
            "/",
            out.to_str().unwrap(),
        ] {
            assert!(board.run(id).is_none(), "{id}");
        }
    }

    /// A page that reads a long log holds its run; the list goes on without it.
    #[test]
    fn the_list_does_not_wait_for_a_run() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("a/run.json"), "{}").unwrap();
        let mut board = Board::new(root.path());
        let run = board.run("a").unwrap();
        let reading = run.lock().unwrap();
        assert_eq!(ids(&listed(&mut board, 0)), ["a"]);
        assert!(board.run("a").is_some());
        drop(reading);
    }

    #[test]
    fn few_runs_are_held_in_memory() {
        let root = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..MOST_OPEN + 5).map(|n| format!("run{n:03}")).collect();
        for name in &names {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("run.json"), "{}").unwrap();
        }
        let mut board = Board::new(root.path());
        for name in &names {
            assert!(board.run(name).is_some());
        }
        assert_eq!(board.open.len(), MOST_OPEN);
    }
}
