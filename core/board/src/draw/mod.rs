//! Pictures of a run: `images/*.png` in its folder, one for each number that it logs, named as ms-swift names them.
//!
//! The engine draws them on a thread, at each save and at the end. [`pictures`] reads the run's log, takes some hundredths
//! of a second per picture, and does not panic whatever is logged.

mod axis;
mod picture;
mod smooth;

pub use picture::{Curve, png};
pub use smooth::smooth;

use crate::run::{Run, Table};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Weight of the smoothed line, as in ms-swift.
const SMOOTHING: f64 = 0.9;

/// A picture that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// The number that it shows, by its name in the log.
    pub scalar: String,
    /// The path of its file.
    pub path: PathBuf,
    /// The bytes of the file, for trackers.
    pub png: Vec<u8>,
}

/// Draws each number of a run's log into `images/` of its folder. A name without any finite value gets no picture.
pub fn pictures(run_folder: &Path) -> Result<Vec<Picture>> {
    let run = Run::open("", run_folder);
    let dir = run_folder.join("images");
    let mut written = Vec::new();
    for table in [&run.log.train, &run.log.eval] {
        for scalar in table.names() {
            let Some(png) = drawn(table, scalar)? else {
                continue;
            };
            fs::create_dir_all(&dir)
                .with_context(|| format!("{}: cannot be made", dir.display()))?;
            let path = dir.join(file_name(scalar));
            // Whoever looks at the folder never sees half a picture.
            let new = path.with_extension("png.new");
            fs::write(&new, &png)
                .and_then(|()| fs::rename(&new, &path))
                .with_context(|| format!("{}: cannot be written", path.display()))?;
            written.push(Picture {
                scalar: scalar.to_owned(),
                path,
                png,
            });
        }
    }
    Ok(written)
}

fn drawn(table: &Table, scalar: &str) -> Result<Option<Vec<u8>>> {
    // What the others are drawn over.
    if matches!(scalar, "step" | "time" | "epoch") {
        return Ok(None);
    }
    let is_eval = scalar.starts_with("eval_");
    let steady = is_eval || is_steady(scalar);
    let title = match is_eval {
        true => scalar.replacen('_', " ", 1),
        false => format!("train {scalar}"),
    };
    png(&Curve {
        title: &title,
        x: table.get("step").unwrap_or_default(),
        y: table.get(scalar).unwrap_or_default(),
        smoothing: if steady { 0.0 } else { SMOOTHING },
        may_be_log: !is_steady(scalar),
    })
}

/// Names whose values have no noise. Smoothing would only distort them.
fn is_steady(scalar: &str) -> bool {
    matches!(
        scalar,
        "learning_rate" | "memory(GiB)" | "train_speed(s/it)"
    ) || scalar.starts_with("learning_rate")
}

/// `train_loss.png`, `eval_loss.png`: the name under which TensorBoard would show it, without slashes.
fn file_name(scalar: &str) -> String {
    let mut name: String = scalar
        .chars()
        .map(|c| match c {
            '/' | '\\' => '_',
            c if c.is_control() => '_',
            c => c,
        })
        .take(60)
        .collect();
    if !name.starts_with("eval_") {
        name.insert_str(0, "train_");
    }
    name + ".png"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_picture_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let lines = r#"{"loss": 2.0, "learning_rate": 0.1, "grad_norm": null, "train_speed(s/it)": 1, "global_step/max_steps": "1/2"}
            {"eval_loss": 2.0, "global_step/max_steps": "1/2"}
            {"loss": 1.0, "learning_rate": 0.05, "grad_norm": null, "global_step/max_steps": "2/2"}
            {"train_runtime": 1.5, "global_step": 2"#;
        fs::write(dir.path().join("logging.jsonl"), lines).unwrap();
        let pictures = pictures(dir.path()).unwrap();
        let names: Vec<&str> = pictures
            .iter()
            .filter_map(|picture| picture.path.file_name()?.to_str())
            .collect();
        assert_eq!(
            names,
            [
                "train_loss.png",
                "train_learning_rate.png",
                "train_train_speed(s_it).png",
                "eval_loss.png"
            ]
        );
        assert_eq!(pictures[0].scalar, "loss");
        for picture in &pictures {
            assert_eq!(fs::read(&picture.path).unwrap(), picture.png);
        }
        assert_eq!(fs::read_dir(dir.path().join("images")).unwrap().count(), 4);
    }

    #[test]
    fn a_run_without_numbers_has_no_pictures() {
        let dir = tempfile::tempdir().unwrap();
        assert!(pictures(dir.path()).unwrap().is_empty());
        assert!(!dir.path().join("images").exists());
    }

    #[test]
    fn a_name_is_always_one_of_a_file() {
        assert_eq!(file_name("../../x\n"), "train_.._.._x_.png");
        assert!(file_name(&"ü".repeat(500)).len() < 255);
    }
}
