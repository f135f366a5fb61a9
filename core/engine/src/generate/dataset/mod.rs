//! Answers the rows of a dataset and writes a file with the keys that ms-swift uses. A row that cannot be answered does
//! not stop the others.
//!
//! The file grows in the order of the rows and says how far they are answered: the same command goes on where it ends. An answer
//! is a function of its row, its number and what the file was made with, so it does not matter where that was.

mod lines;
mod order;
mod rows;

pub use rows::{fits, most, question};

use super::logprobs::logprobs_of;
use super::results::{MadeWith, Results};
use super::score::Scores;
use super::{Answer, Counts, Engine, Job, answers, respond};
use crate::host::{RunView, Shown};
use crate::progress_bar::Progress;
use anyhow::{Result, bail, ensure};
use apus_base::lines::{info, warning};
use apus_base::signals;
use apus_components::config::{InferConfig, values};
use apus_data::chat::Encoder;
use apus_data::chat::dialect::ViewOptions;
use apus_sdk::{Conversation, RunInfo, out, outln};
use order::InOrder;
use rows::Row;
use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The bits of an answer's number that the row has; what is above is which of its answers it is.
const ROW_BITS: u32 = 40;

/// The rows of a dataset.
pub struct Questions {
    rows: Vec<Row>,
    /// How many answers each row gets.
    each: usize,
    path: PathBuf,
    at_once: usize,
    strict: bool,
    /// What reads the answers when all are there.
    scores: Option<Scores>,
}

/// What of the rows is answered already.
pub struct Begun {
    results: Results,
    lines: usize,
    missing: Vec<String>,
}

/// How the rows are answered.
pub struct Asking<'a> {
    /// What becomes of a conversation; its own and its number are set for each row.
    pub job: Job,
    /// With view options, answers are shown one after another while they are generated.
    pub view: Option<ViewOptions>,
    /// Turns conversations into tokens.
    pub encoder: &'a Encoder,
}

/// What metrics see that read the answers.
fn run_of(config: &InferConfig, encoder: &Encoder) -> RunView {
    let info = RunInfo {
        config: values(config),
        ..RunInfo::default()
    };
    let shown = Shown {
        params: Vec::new(),
        own: None,
        tokenizer: Some(encoder.tokenizer().clone()),
    };
    RunView::new(info, shown)
}

impl Questions {
    /// Reads the rows. All errors in them are found here, before a model is loaded. A row that cannot be asked gets the
    /// reason in place of an answer; with `strict` it is an error.
    ///
    /// # Errors
    /// Files that cannot be read, no rows, no row that can be asked.
    pub fn open(
        config: &InferConfig,
        encoder: &Encoder,
        positions: usize,
        home: &Path,
    ) -> Result<Self> {
        let rows = rows::read(config, encoder, positions)?;
        let time = chrono::Local::now().format("%Y%m%d-%H%M%S");
        let default = || home.join("infer_result").join(format!("{time}.jsonl"));
        let path = config.result_path.as_ref();
        Ok(Self {
            rows,
            each: config.n,
            path: path.map_or_else(default, PathBuf::from),
            at_once: usize::try_from(config.write_batch_size)
                .ok()
                .filter(|&size| size > 0)
                .unwrap_or(usize::MAX),
            strict: config.strict,
            scores: Scores::of(&config.metrics)?
                .map(|scores| scores.begin(run_of(config, encoder)))
                .transpose()?,
        })
    }

    /// Opens the file of answers, which may hold some of them.
    ///
    /// # Errors
    /// A file that cannot be written, or that holds something else; it is as it was.
    pub fn begin(&self, made_with: &MadeWith) -> Result<Begun> {
        if self.path.metadata().is_ok_and(|found| found.len() > 0) {
            made_with.check(MadeWith::beside(&self.path)?.as_ref(), &self.path)?;
        }
        let mut missing = Vec::new();
        let file = self.path.display();
        let (results, lines) = Results::go_on(&self.path, &mut |number, line| {
            let Some(row) = self.rows.get(number / self.each) else {
                bail!(
                    "{file} holds more than the {} answers of these rows; choose another --result_path",
                    self.lines()
                );
            };
            if let Some(key) = lines::difference(row, &line) {
                bail!(
                    "{file}:{}: its `{key}` is not that of {}: the file answers other rows; choose another --result_path",
                    number + 1,
                    row.place
                );
            }
            missing.extend(
                line.get("error")
                    .map(|why| why.as_str().unwrap_or_default().to_owned()),
            );
            Ok(())
        })?;
        if lines == 0 && results.is_file() {
            made_with.write(&self.path)?;
        }
        Ok(Begun {
            results,
            lines,
            missing,
        })
    }

    /// The tokens of the longest prompt.
    pub fn longest(&self) -> usize {
        self.rows.iter().map(|row| row.tokens).max().unwrap_or(0)
    }

    /// How many lines the file will have.
    fn lines(&self) -> usize {
        self.rows.len() * self.each
    }

    /// Whether the file has all its lines.
    pub fn are_answered(&self, begun: &Begun) -> bool {
        begun.lines == self.lines()
    }

    /// Answers the rows that the file has no line of. Each answer is appended as a line as soon as it and those before it are
    /// there. The line of a row without an answer has the reason.
    ///
    /// # Errors
    /// The file cannot be written, the model failed, a signal, or, when all are through, rows without an answer.
    pub fn answer(self, begun: Begun, engine: &mut Engine, how: &Asking) -> Result<()> {
        let Begun {
            results,
            lines,
            mut missing,
        } = begun;
        let total = self.lines();
        if lines > 0 {
            info!(
                "{}: {lines} of {total} answers are there",
                self.path.display()
            );
        }
        let (start, progress) = (Instant::now(), Progress::open(total, lines));
        let order = RefCell::new(InOrder::new(results, lines, self.at_once));
        let counts = RefCell::new(Counts::default());
        let mut asked = Vec::new();
        for number in lines..total {
            let row = &self.rows[number / self.each];
            match &row.question {
                Ok(_) => asked.push(number),
                Err(why) => {
                    order
                        .borrow_mut()
                        .push(number, lines::unanswered(row, why))?;
                    missing.push(why.clone());
                }
            }
        }
        let mut on_answer = |index: usize, answer: Result<Answer>| {
            let row = &self.rows[asked[index] / self.each];
            let line = match (&row.question, answer) {
                (Ok(question), Ok(answer)) => {
                    counts.borrow_mut().add(&answer.counts);
                    let logprobs = logprobs_of(&answer, &how.job, how.encoder);
                    lines::answered(row, question, answer, logprobs)
                }
                (_, Err(error)) if self.strict => return Err(error.context(row.place.clone())),
                (Err(why), Ok(_)) => lines::unanswered(row, why),
                (_, Err(error)) => {
                    let why = format!("{}: {error:#}", row.place);
                    warning!("{why}; not answered");
                    missing.push(why.clone());
                    lines::unanswered(row, &why)
                }
            };
            let mut order = order.borrow_mut();
            order.push(asked[index], line)?;
            progress.set(order.lines(), || {
                let seconds = start.elapsed().as_secs_f64();
                format!(
                    "{:.0} tok/s",
                    counts.borrow().generated as f64 / seconds.max(1e-9)
                )
            });
            Ok(())
        };
        let mut at = 0;
        let mut jobs = || {
            // Nothing for now where the answers before it are missing.
            let number = *asked
                .get(at)
                .filter(|&&number| order.borrow().is_near(number))?;
            at += 1;
            Some(self.job(number, how))
        };
        let answered = match how.view {
            None => answers(
                engine,
                how.encoder,
                std::iter::from_fn(jobs),
                &mut on_answer,
            )
            .map(drop),
            Some(view) => std::iter::from_fn(&mut jobs)
                .enumerate()
                .try_for_each(|(index, job)| {
                    let answer = shown(engine, how.encoder, job, view);
                    match answer {
                        Err(error) if signals::is_interrupted(&error) => Err(error),
                        answer => on_answer(index, answer),
                    }
                }),
        };
        let mut order = order.into_inner();
        order.flush()?;
        drop(progress);
        outln!(
            "{}",
            counts.into_inner().line(start.elapsed().as_secs_f64())
        );
        outln!("answers: {}", self.path.display());
        if let Err(error) = answered {
            let written = order.lines();
            info!(
                "{written} of {total} answers are in {}; the same command with --result_path goes on there",
                self.path.display()
            );
            return Err(error);
        }
        if let Some(scores) = self.scores {
            scores.print(&self.path)?;
        }
        complete(&missing, total)
    }

    /// Ends a run that found all answers in the file.
    ///
    /// # Errors
    /// Rows without an answer.
    pub fn leave(self, begun: &Begun) -> Result<()> {
        let total = self.lines();
        info!("all {total} answers are there already");
        outln!("answers: {}", self.path.display());
        if let Some(scores) = self.scores {
            scores.print(&self.path)?;
        }
        complete(&begun.missing, total)
    }

    /// What is asked for a line of the file.
    fn job(&self, number: usize, how: &Asking) -> Job {
        let (row, which) = (number / self.each, number % self.each);
        let conversation = match &self.rows[row].question {
            Ok(question) => question.conversation.clone(),
            Err(_) => Conversation::default(),
        };
        Job {
            conversation,
            number: row as u64 | (which as u64) << ROW_BITS,
            ..how.job.clone()
        }
    }
}

/// Answers and shows the answer meanwhile.
fn shown(engine: &mut Engine, encoder: &Encoder, job: Job, view: ViewOptions) -> Result<Answer> {
    let mut view = encoder.dialect().view(view);
    let answer = respond(engine, encoder, job, &mut |text| {
        out!("{}", view.next(text));
        ControlFlow::Continue(())
    })?;
    outln!("{}", view.end());
    Ok(answer)
}

/// # Errors
/// Rows without an answer.
fn complete(missing: &[String], total: usize) -> Result<()> {
    let first = missing.first().map_or("", String::as_str);
    ensure!(
        missing.is_empty(),
        "{} of {total} rows have no answer; `error` in their lines says why, in the first: {first}",
        missing.len()
    );
    Ok(())
}
