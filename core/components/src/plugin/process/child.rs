//! The program itself: its pipes, its time limits, its end.
//!
//! One thread writes, so that a program that does not read cannot stop the run; one reads answers; one passes on what it
//! prints on standard error. Whatever goes wrong ends the program, and every later question has the same error.

use super::PREFIX;
use anyhow::{Context, Result};
use apus_base::lines::info;
use apus_sdk::Error;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The longest line that is read.
const LONGEST: u64 = 256 << 20;
/// How many lines of standard error stand in an error.
const TAIL: usize = 5;
/// How long a program may take to end once it was told to.
const ENDING: Duration = Duration::from_secs(5);

/// A program that was started.
pub struct Child {
    timeout: Duration,
    command: String,
    state: Mutex<State>,
    components: AtomicU64,
    said: Arc<Mutex<VecDeque<String>>>,
}

struct State {
    process: std::process::Child,
    /// Lines for the program; gone once it was told the end.
    questions: Option<Sender<Vec<u8>>>,
    answers: Receiver<Line>,
    asked: u64,
    /// Components that are not used any more, told with the next question.
    forgotten: Vec<u64>,
    /// Why it answers nothing any more.
    broken: Option<String>,
}

/// What was read from the program.
enum Line {
    Whole(Vec<u8>),
    TooLong,
    End,
}

impl Child {
    /// Starts it.
    ///
    /// # Errors
    /// The system does not start it.
    pub fn start(command: &str, words: &[String], timeout: Duration) -> Result<Self> {
        let mut start = Command::new(&words[0]);
        start
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Ctrl-C is for the run, which tells the program when to end.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut start, 0);
        let mut process = start.spawn().with_context(|| {
            format!(
                "plugin {PREFIX}{command}: {} cannot be started; is it there, executable, and does its first line name \
                 an interpreter that is there?",
                words[0]
            )
        })?;
        let (stdin, stdout, stderr) = (
            process.stdin.take(),
            process.stdout.take(),
            process.stderr.take(),
        );
        let (stdin, stdout, stderr) = match (stdin, stdout, stderr) {
            (Some(stdin), Some(stdout), Some(stderr)) => (stdin, stdout, stderr),
            _ => anyhow::bail!("plugin {PREFIX}{command}: it has no pipes"),
        };
        let (questions, to_write) = channel();
        thread::spawn(move || write(stdin, &to_write));
        let (found, answers) = channel();
        thread::spawn(move || read(stdout, &found));
        let said = Arc::default();
        let (tail, name) = (Arc::clone(&said), format!("{PREFIX}{command}"));
        thread::spawn(move || pass_on(stderr, &name, &tail));
        Ok(Self {
            timeout,
            command: command.to_owned(),
            state: Mutex::new(State {
                process,
                questions: Some(questions),
                answers,
                asked: 0,
                forgotten: Vec::new(),
                broken: None,
            }),
            components: AtomicU64::new(0),
            said,
        })
    }

    /// A number for a component.
    pub fn new_component(&self) -> u64 {
        self.components.fetch_add(1, Ordering::Relaxed)
    }

    /// The program may forget this component.
    pub fn forget(&self, component: u64) {
        self.state().forgotten.push(component);
    }

    /// Asks a question; `what` is what is asked, for the error.
    ///
    /// # Errors
    /// The program says that it failed, or it does not answer as it should: then it is a mistake of the component, and the
    /// program is ended.
    pub fn ask(&self, what: &str, mut question: Value) -> apus_sdk::Result<Value> {
        let mut state = self.state();
        if let Some(why) = &state.broken {
            return Err(Error::new(format!("{what}: {why}")).of_component());
        }
        state.asked += 1;
        let number = state.asked;
        question["id"] = number.into();
        if !state.forgotten.is_empty() {
            question["forget"] = json!(std::mem::take(&mut state.forgotten));
        }
        let mut line = serde_json::to_vec(&question)?;
        line.push(b'\n');
        // A program that is gone is noticed by its answer.
        let _ = state
            .questions
            .as_ref()
            .map(|questions| questions.send(line));
        let read = match state.answers.recv_timeout(self.timeout) {
            Ok(Line::Whole(line)) => answer(&line, number),
            Ok(Line::TooLong) => Err(format!("it wrote a line of more than {LONGEST} bytes")),
            Ok(Line::End) | Err(RecvTimeoutError::Disconnected) => Err(ended(&mut state.process)),
            Err(RecvTimeoutError::Timeout) => Err(format!(
                "it gave no answer within {} s; plugins = [{{ path = \"{PREFIX}...\", timeout = SECONDS }}] gives it longer",
                self.timeout.as_secs_f64()
            )),
        };
        match read {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(failed)) => Err(Error::new(format!("{what}: {failed}"))),
            Err(why) => {
                let _ = state.process.kill();
                let _ = state.process.wait();
                let why = format!("{why}{}", self.last_words());
                let error = Error::new(format!("{what}: {why}")).of_component();
                state.broken = Some(why);
                Err(error)
            }
        }
    }

    /// Tells the program that nothing more is asked, and waits for its end for a moment.
    pub fn end(&self) {
        let mut state = self.state();
        if state.broken.is_some() {
            return;
        }
        state.questions = None;
        let since = Instant::now();
        while let Ok(None) = state.process.try_wait() {
            if since.elapsed() > ENDING {
                info!(
                    "plugin {PREFIX}{}: it did not end when its input ended, and was stopped",
                    self.command
                );
                let _ = state.process.kill();
                let _ = state.process.wait();
            }
            thread::sleep(Duration::from_millis(5));
        }
        state.broken = Some("the run is over".to_owned());
    }

    fn last_words(&self) -> String {
        // What a program says before it ends may still be on its way.
        thread::sleep(Duration::from_millis(50));
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match said.is_empty() {
            true => String::new(),
            false => format!(
                ". Its last lines on standard error:\n{}",
                said.iter().cloned().collect::<Vec<_>>().join("\n")
            ),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer in a line, or what the program says has failed; an error if it is no answer to this question.
fn answer(line: &[u8], number: u64) -> Result<Result<Value, String>, String> {
    let start = || {
        String::from_utf8_lossy(line)
            .chars()
            .take(200)
            .collect::<String>()
    };
    let found: Value = serde_json::from_slice(line).map_err(|error| {
        format!(
            "it wrote a line that is no JSON ({error}): {:?}; its standard output is for answers, whatever else it prints \
             has to go to standard error",
            start()
        )
    })?;
    if found["id"].as_u64() != Some(number) {
        return Err(format!(
            "it answered something else than question {number}: {}",
            start()
        ));
    }
    match (found.get("ok"), found.get("error")) {
        (Some(answer), None) => Ok(Ok(answer.clone())),
        (None, Some(Value::String(error))) => Ok(Err(error.clone())),
        _ => Err(format!(
            "an answer has `ok`, or `error` with a text; it is {}",
            start()
        )),
    }
}

fn ended(process: &mut std::process::Child) -> String {
    let since = Instant::now();
    loop {
        match process.try_wait() {
            Ok(Some(status)) => return format!("the program has ended ({status})"),
            Ok(None) if since.elapsed() < Duration::from_secs(1) => {
                thread::sleep(Duration::from_millis(5))
            }
            _ => return "it has closed its standard output".to_owned(),
        }
    }
}

fn write(mut stdin: impl Write, lines: &Receiver<Vec<u8>>) {
    for line in lines {
        if stdin.write_all(&line).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

fn read(stdout: impl Read, found: &Sender<Line>) {
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let read = stdout.by_ref().take(LONGEST).read_until(b'\n', &mut line);
        let next = match read {
            Ok(0) | Err(_) => Line::End,
            Ok(_) if line.ends_with(b"\n") => Line::Whole(line),
            Ok(_) if line.len() as u64 == LONGEST => Line::TooLong,
            Ok(_) => Line::End,
        };
        let goes_on = matches!(next, Line::Whole(_));
        if found.send(next).is_err() || !goes_on {
            return;
        }
    }
}

fn pass_on(stderr: impl Read, name: &str, tail: &Mutex<VecDeque<String>>) {
    let mut stderr = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match stderr.by_ref().take(64 << 10).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        info!("{name}: {line}");
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
    }
}
