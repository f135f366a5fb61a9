//! `report.html`: a self-contained page about one or more runs.

use crate::assets::{REPORT, REPORT_PAGE, SHARED, STYLE};
use crate::run::{Cursor, Run, View, find};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// Name of the file.
pub const FILE: &str = "report.html";

/// The most rows of a table. More are reduced to about this many: a curve has fewer pixels, and no browser opens a file of
/// hundreds of MiB.
const MOST_ROWS: usize = 19_000;

/// Writes the report of one run into its folder. The engine calls it at the end of a run.
///
/// # Errors
/// The folder is not a run's, or the file cannot be written.
pub fn of_run(run_folder: &Path) -> Result<PathBuf> {
    write(&[run_folder.to_owned()], None)
}

/// Writes the report of the runs in these folders and returns its path. A folder that is not a run's stands for all runs
/// below it. The path is `out`; without it, `report.html` in the run's folder, or in the working folder for several runs.
///
/// # Errors
/// A folder does not exist or contains no run, or the file cannot be written.
pub fn write(folders: &[PathBuf], out: Option<&Path>) -> Result<PathBuf> {
    let (mut runs, mut alone) = (Vec::<Run>::new(), None);
    for folder in folders {
        if !folder.is_dir() {
            bail!(
                "{}: is no folder; expected the folder of a run, or one with runs in it",
                folder.display()
            );
        }
        let found = find(folder);
        if found.is_empty() {
            bail!(
                "{}: holds no run; a run's folder has run.json, args.json or logging.jsonl in it, as `apus sft` \
                 writes them below --output_dir",
                folder.display()
            );
        }
        for run in found {
            alone = (run.id == ".").then(|| folder.clone());
            let path = run.place.path();
            if runs.iter().all(|known| known.dir != path) {
                runs.push(Run::open(path.display().to_string(), run.place));
            }
        }
    }
    let file = match (out, alone) {
        (Some(out), _) => out.to_owned(),
        (None, Some(folder)) if folders.len() == 1 => folder.join(FILE),
        (None, _) => PathBuf::from(FILE),
    };
    let html = page(&mut runs)?;
    // A browser that reloads never sees half a report.
    let mut new = file.clone().into_os_string();
    new.push(".new");
    fs::write(&new, html)
        .and_then(|()| fs::rename(&new, &file))
        .with_context(|| format!("{}: cannot be written", file.display()))?;
    Ok(file)
}

#[derive(Serialize)]
struct Data<'a> {
    version: &'static str,
    thinned: String,
    runs: Vec<View<'a>>,
}

/// The whole page.
fn page(runs: &mut [Run]) -> Result<String> {
    let mut thinned = Vec::new();
    for run in runs.iter_mut() {
        let before = run.log.train.rows();
        run.log.train = run.log.train.thinned(MOST_ROWS, "loss");
        run.log.eval = run.log.eval.thinned(MOST_ROWS, "eval_loss");
        run.metrics.table = run.metrics.table.thinned(MOST_ROWS, "gpu.0.pct");
        let now = run.log.train.rows();
        if now < before {
            thinned.push(format!(
                "Of {} it shows {now} of {before} logged steps, all peaks of the loss among them.",
                run.name()
            ));
        }
    }
    let runs = &*runs;
    let title = match runs {
        [run] => run.name(),
        runs => format!("{} runs", runs.len()),
    };
    let data = Data {
        version: env!("CARGO_PKG_VERSION"),
        thinned: thinned.join(" "),
        runs: runs
            .iter()
            .map(|run| run.since(&Cursor::default()))
            .collect(),
    };
    let scripts: Vec<&str> = SHARED
        .iter()
        .chain([&REPORT])
        .map(|asset| asset.text)
        .collect();
    // The data comes last, so that nothing in it is taken for a place to fill.
    Ok(REPORT_PAGE
        .replace("/* style */", STYLE.text)
        .replace("/* script */", &scripts.join("\n"))
        .replace("<!-- title -->", &escaped(&title))
        .replacen("<!-- data -->", &embedded(&data)?, 1))
}

/// JSON that is safe inside a `<script>` element. In JSON, `<` occurs only in strings, where it is written as `\u003c`.
fn embedded(data: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(data)?.replace('<', "\\u003c"))
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn run(dir: &Path, name: &str) -> PathBuf {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("args.json"), r#"{"learning_rate": 0.1}"#).unwrap();
        let line = r#"{"loss": 1.5, "global_step/max_steps": "1/1"}"#;
        fs::write(dir.join("logging.jsonl"), format!("{line}\n")).unwrap();
        dir
    }

    /// The data in a page.
    fn data(page: &str) -> Value {
        let (_, rest) = page.split_once("id=\"data\">").unwrap();
        let (json, _) = rest.split_once("</script>").unwrap();
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_report_lies_in_its_run() {
        let root = tempfile::tempdir().unwrap();
        let dir = run(root.path(), "a");
        let file = of_run(&dir).unwrap();
        assert_eq!(file, dir.join("report.html"));
        let page = fs::read_to_string(&file).unwrap();
        let data = data(&page);
        assert_eq!(data["runs"][0]["train"]["columns"]["loss"][0], 1.5);
        assert_eq!(data["runs"][0]["facts"]["args"]["learning_rate"], 0.1);
        assert!(!page.contains("<!-- ") && !page.contains("/* script */"));
        assert!(!page.contains("http://") && !page.contains("https://"));
        of_run(&dir).unwrap();
        assert_eq!(
            fs::read_dir(&dir).unwrap().count(),
            3,
            "nothing else is left there"
        );
    }

    #[test]
    fn a_folder_stands_for_its_runs() {
        let root = tempfile::tempdir().unwrap();
        for name in ["b", "a", "c/d"] {
            run(root.path(), name);
        }
        let out = root.path().join("all.html");
        let folders = [root.path().to_owned(), root.path().join("a")];
        write(&folders, Some(&out)).unwrap();
        let data = data(&fs::read_to_string(&out).unwrap());
        let runs = data["runs"].as_array().unwrap();
        let names: Vec<&str> = runs
            .iter()
            .filter_map(|run| run["facts"]["name"].as_str())
            .collect();
        assert_eq!(names, ["a", "b", "d"]);
    }

    #[test]
    fn what_a_run_says_stays_data() {
        let root = tempfile::tempdir().unwrap();
        let dir = run(root.path(), "a");
        let hostile = "</script><script>alert(1)</script><!-- data -->\u{2028}";
        let line = serde_json::json!({"step": 1, "prompt": hostile, "answer": hostile});
        fs::write(dir.join("samples.jsonl"), format!("{line}\n")).unwrap();
        fs::write(
            dir.join("run.json"),
            serde_json::json!({"name": hostile}).to_string(),
        )
        .unwrap();
        let page = fs::read_to_string(of_run(&dir).unwrap()).unwrap();
        assert_eq!(
            data(&page)["runs"][0]["samples"]["items"][0]["answer"],
            hostile
        );
        assert_eq!(page.matches("</script>").count(), 2);
        assert!(!page.contains("<script>alert"));
    }

    #[test]
    fn what_is_no_run_is_said() {
        let root = tempfile::tempdir().unwrap();
        let error = of_run(root.path()).unwrap_err().to_string();
        assert!(error.contains("holds no run"), "{error}");
        let error = of_run(&root.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("is no folder"), "{error}");
    }

    #[test]
    fn a_long_run_is_thinned_and_says_so() {
        let root = tempfile::tempdir().unwrap();
        let dir = run(root.path(), "a");
        let line =
            |step| format!("{{\"loss\": 1.5, \"global_step/max_steps\": \"{step}/60000\"}}\n");
        fs::write(
            dir.join("logging.jsonl"),
            (1..=60_000).map(line).collect::<String>(),
        )
        .unwrap();
        let data = data(&fs::read_to_string(of_run(&dir).unwrap()).unwrap());
        assert!(data["runs"][0]["train"]["rows"].as_u64().unwrap() <= 20_000);
        assert_eq!(data["runs"][0]["more"], false);
        assert!(data["thinned"].as_str().unwrap().contains("60000"));
    }
}
