//! The data of a run for the page and the report: everything, or only what a page does not have yet.

use super::folder::FolderPath;
use super::sample::Sample;
use super::table::Rows;
use super::{Run, State};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Seek, SeekFrom};

/// The most rows of a table in one response. The page requests the rest.
const MOST_ROWS: usize = 20_000;
/// How many bytes of the end of a log a page gets first, and at most in one response.
const MOST_LOG: u64 = 256 << 10;

/// How much of a run a page has already.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Cursor {
    /// The reading that the page's data is from. If it is not the run's current one, the page has nothing.
    pub generation: String,
    /// The version of the facts that the page has.
    pub facts: String,
    /// Rows of training.
    pub train: usize,
    /// Evaluations.
    pub eval: usize,
    /// Rows of system metrics.
    pub system: usize,
    /// Samples.
    pub samples: usize,
    /// Bytes of the log.
    pub log: Option<u64>,
}

/// The part of a run that is new to a page.
#[derive(Serialize)]
pub struct View<'a> {
    id: &'a str,
    generation: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    facts: Option<Facts<'a>>,
    step: u64,
    max_steps: Option<u64>,
    remaining: Option<&'a str>,
    train: Rows<'a>,
    eval: Rows<'a>,
    system: Rows<'a>,
    samples: Samples<'a>,
    log: Text,
    /// Whether more is left than fits into one response.
    more: bool,
}

#[derive(Serialize)]
struct Facts<'a> {
    version: String,
    name: String,
    folder: String,
    state: State,
    why: Option<&'a str>,
    info: &'a Map<String, Value>,
    args: &'a Map<String, Value>,
    summary: Option<&'a Map<String, Value>>,
    checkpoints: &'a [u64],
    trouble: Vec<String>,
}

#[derive(Serialize)]
struct Samples<'a> {
    from: usize,
    items: &'a [Sample],
}

#[derive(Serialize, Default)]
struct Text {
    from: u64,
    to: u64,
    text: String,
}

impl Run {
    /// The part that is new to a page with this cursor.
    pub fn since(&self, known: &Cursor) -> View<'_> {
        let generation = self.generation();
        let nothing = Cursor::default();
        let known = match known.generation == generation {
            true => known,
            false => &nothing,
        };
        let (train, eval) = (&self.log.train, &self.log.eval);
        let train = train.since(known.train, MOST_ROWS);
        let eval = eval.since(known.eval, MOST_ROWS);
        let system = self.metrics.table.since(known.system, MOST_ROWS);
        let from = known.samples.min(self.samples.len());
        let more = train.is_cut() || eval.is_cut() || system.is_cut() || self.is_unread();
        View {
            id: &self.id,
            facts: self.facts(&known.facts),
            step: self.log.step,
            max_steps: self.max_steps(),
            remaining: self.log.remaining.as_deref(),
            train,
            eval,
            system,
            samples: Samples {
                from,
                items: &self.samples[from..],
            },
            log: text(&self.place, known.log).unwrap_or_default(),
            more,
            generation,
        }
    }

    fn facts(&self, known: &str) -> Option<Facts<'_>> {
        let mut facts = Facts {
            version: String::new(),
            name: self.name(),
            folder: self.dir.display().to_string(),
            state: self.state,
            why: self.why.as_deref(),
            info: &self.info,
            args: &self.args,
            summary: self.log.summary.as_ref(),
            checkpoints: &self.checkpoints,
            trouble: self.trouble(),
        };
        let mut hasher = DefaultHasher::new();
        serde_json::to_string(&facts).ok()?.hash(&mut hasher);
        facts.version = format!("{:x}", hasher.finish());
        (facts.version != known).then_some(facts)
    }
}

/// The text of a log after the known part, up to the end of its last line. If nothing is known, only the end of the log.
fn text(place: &FolderPath, known: Option<u64>) -> io::Result<Text> {
    let Some((mut file, facts)) = place.open()?.file("run.log")? else {
        return Ok(Text::default());
    };
    let length = facts.len;
    let begin = length.saturating_sub(MOST_LOG);
    let from = known.filter(|&known| known >= begin && known <= length);
    let mut start = from.unwrap_or(begin);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(MOST_LOG).read_to_end(&mut bytes)?;
    if from.is_none() && begin > 0 {
        let cut = bytes.iter().position(|&byte| byte == b'\n');
        let cut = cut.map_or(bytes.len(), |at| at + 1);
        bytes.drain(..cut);
        start += cut as u64;
    }
    let end = bytes.iter().rposition(|&byte| byte == b'\n');
    bytes.truncate(end.map_or(0, |at| at + 1));
    Ok(Text {
        from: start,
        to: start + bytes.len() as u64,
        text: String::from_utf8_lossy(&bytes).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_what_is_new_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let line = |step| format!("{{\"loss\": 1, \"global_step/max_steps\": \"{step}/9\"}}\n");
        fs::write(at("logging.jsonl"), line(1) + &line(2)).unwrap();
        fs::write(at("run.log"), "one\ntw").unwrap();
        let mut run = Run::open("x", dir.path());
        let first = serde_json::to_value(run.since(&Cursor::default())).unwrap();
        assert_eq!(first["train"]["rows"], 2);
        assert_eq!(first["log"]["text"], "one\n");
        let known = Cursor {
            generation: first["generation"].as_str().unwrap().to_owned(),
            facts: first["facts"]["version"].as_str().unwrap().to_owned(),
            train: 2,
            log: first["log"]["to"].as_u64(),
            ..Cursor::default()
        };
        let nothing = serde_json::to_value(run.since(&known)).unwrap();
        assert_eq!(nothing["train"]["rows"], 0);
        assert_eq!(nothing.get("facts"), None);
        assert_eq!(nothing["log"]["text"], "");

        fs::write(at("run.log"), "one\ntwo\n").unwrap();
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(at("logging.jsonl"))
            .unwrap();
        io::Write::write_all(&mut file, line(3).as_bytes()).unwrap();
        run.refresh();
        let new = serde_json::to_value(run.since(&known)).unwrap();
        assert_eq!(new["train"]["columns"]["step"], serde_json::json!([3]));
        assert_eq!(new["log"]["text"], "two\n");

        // The run goes on from step 1: what the page knows is no longer so.
        io::Write::write_all(&mut file, line(1).as_bytes()).unwrap();
        run.refresh();
        let anew = serde_json::to_value(run.since(&known)).unwrap();
        assert_eq!(
            (&anew["train"]["from"], &anew["train"]["rows"]),
            (&0.into(), &1.into())
        );
        assert!(anew.get("facts").is_some());
    }

    #[test]
    fn of_a_long_log_the_end_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.log");
        fs::write(&path, "a line of text\n".repeat(40_000)).unwrap();
        let place = FolderPath::from(dir.path());
        let end = text(&place, None).unwrap();
        assert!(end.text.starts_with("a line") && end.text.len() > 200_000);
        assert_eq!(end.to, 600_000);
        assert_eq!(text(&place, Some(end.to)).unwrap().text, "");
        fs::write(&path, "short\n").unwrap();
        let anew = text(&place, Some(end.to)).unwrap();
        assert_eq!((anew.from, anew.text.as_str()), (0, "short\n"));
    }
}
