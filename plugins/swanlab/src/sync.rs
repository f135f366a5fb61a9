//! `apus swanlab sync`: sends the records of a run's file that the server does not have.

use super::http::Failure;
use super::link::Link;
use super::lock::Lock;
use super::login::no_key;
use super::part::Part;
use super::record::state;
use super::retry::{Patience, pause};
use super::secret::Secret;
use super::settings::{Account, process_env};
use apus_sdk::{Error, Result};
use std::path::{Path, PathBuf};

/// How often a request is tried.
const TRIES: u32 = 6;

/// Which runs are sent, and where.
#[derive(Debug, Clone, Default)]
pub struct SyncRequest {
    /// Folders `swanlog/run-...`, or folders that hold such folders.
    pub dirs: Vec<PathBuf>,
    /// The id of the run on the server; the one of the file if not given.
    pub id: Option<String>,
    /// Another server than the one that runs use.
    pub host: Option<String>,
    /// A key for it.
    pub key: Option<Secret>,
    /// Another project than the file names.
    pub project: Option<String>,
    /// Another workspace than the file names.
    pub workspace: Option<String>,
}

/// Sends runs; `say` gets a line about each.
///
/// # Errors
/// A folder that holds no run, a server that refuses or does not answer. What was sent stays sent.
pub fn sync(what: &SyncRequest, say: &mut dyn FnMut(&str)) -> Result<()> {
    let mut dirs = Vec::new();
    for dir in &what.dirs {
        dirs.extend(runs_in(dir)?);
    }
    if what.id.is_some() && dirs.len() > 1 {
        return Err(Error::new(format!(
            "--id is for one run, and there are {}; give their folders one at a time",
            dirs.len()
        )));
    }
    let account = Account::find(what.host.as_deref(), what.key.as_ref(), &process_env);
    if account.key.is_none() {
        return Err(no_key(&account.api_host));
    }
    for dir in &dirs {
        let done = one(what, &account, dir, say);
        done.map_err(|error| Error::new(format!("{}: {error}", dir.display())))?;
    }
    Ok(())
}

/// The run that a folder is, or the runs that it holds, oldest first.
fn runs_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let here = super::part::file(dir);
    let Err(error) = here else {
        return Ok(vec![dir.to_owned()]);
    };
    let mut found = Vec::new();
    for place in [dir.to_owned(), dir.join("swanlog")] {
        let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
        let runs = entries.map(|entry| entry.path());
        found.extend(runs.filter(|run| super::part::file(run).is_ok()));
    }
    found.sort();
    match found.is_empty() {
        true => Err(Error::new(format!(
            "{}: {error}; expected a folder swanlog/run-..., or one that holds such folders",
            dir.display()
        ))),
        false => Ok(found),
    }
}

fn one(what: &SyncRequest, account: &Account, dir: &Path, say: &mut dyn FnMut(&str)) -> Result<()> {
    let Some(_lock) = Lock::take(dir) else {
        return Err(Error::new(
            "the run is still going on or being sent; a run in mode cloud sends by itself, others can be sent when they \
             are over",
        ));
    };
    let mut part = Part::open(dir)?;
    let replace = |place: &mut String, new: &Option<String>| {
        if let Some(new) = new {
            place.clone_from(new);
        }
    };
    replace(&mut part.start.id, &what.id);
    replace(&mut part.start.project, &what.project);
    replace(&mut part.start.workspace, &what.workspace);
    let id = part.start.id.clone();
    let length = std::fs::metadata(super::part::file(dir)?)?.len();
    if let Some(known) = super::progress::Progress::read(dir, &account.api_host, &id)
        && known.finished
        && known.sent >= length
    {
        say(&format!(
            "{}: everything is there already: {}",
            dir.display(),
            known.page
        ));
        return Ok(());
    }
    let mut patience = Tries { say };
    let mut link = Link::open(account, &part.start, &mut patience).map_err(Error::new)?;
    link.seek_unsent(&mut part);
    let mut end = None;
    loop {
        let batch = link
            .send(&mut part, u64::MAX, &mut patience)
            .map_err(Error::new)?;
        end = batch.finish.or(end);
        if part.reader.at() >= length || batch.records == 0 {
            break;
        }
    }
    let how = match end {
        Some(finish) => Some(finish.state),
        // The file ends in the middle: the run was killed, unless another process is still writing it.
        None if part.progress.finished || link.is_known() => None,
        None => Some(state::CRASHED),
    };
    if let Some(how) = how {
        link.finish(&mut part, how, &mut patience)
            .map_err(Error::new)?;
    }
    report(dir, &link, &part, say);
    Ok(())
}

fn report(dir: &Path, link: &Link, part: &Part, say: &mut dyn FnMut(&str)) {
    let mut line = format!(
        "{}: {} records sent: {}",
        dir.display(),
        link.records,
        link.page()
    );
    if link.skipped > 0 {
        line += &format!(
            "\n  {} were there already, or later steps of the same names are",
            link.skipped
        );
    }
    if let Some(complaint) = &link.complaint {
        line += &format!(
            "\n  the server did not take {} shipments: {complaint}",
            link.refused
        );
    }
    if part.reader.damaged() > 0 {
        line += &format!(
            "\n  {} damaged blocks of 32 KiB were left out",
            part.reader.damaged()
        );
    }
    say(&line);
}

/// A command for which a person waits tries a few times.
struct Tries<'a> {
    say: &'a mut dyn FnMut(&str),
}

impl Patience for Tries<'_> {
    fn again(&mut self, failure: &Failure, tried: u32) -> bool {
        if tried + 1 >= TRIES {
            return false;
        }
        let pause = pause(failure, tried);
        (self.say)(&format!(
            "{failure}; trying again in {:.0} s",
            pause.as_secs_f64()
        ));
        std::thread::sleep(pause);
        true
    }
}
