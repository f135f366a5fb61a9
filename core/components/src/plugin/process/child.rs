//! The program itself: questions and answers, time limits, its end.
//!
//! Questions of several threads are under way at once, and answers come in their order. Whatever goes wrong ends the program,
//! and every later question has the same error.

use super::PREFIX;
use super::answer::{self, Answer};
use super::group::Group;
use super::pipes::{self, LONGEST, Line, Said};
use anyhow::{Context, Result};
use apus_base::lines::{info, warning};
use apus_sdk::Error;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take to end once it was told to, and once it has closed its output.
const ENDING: Duration = Duration::from_secs(5);
const CLOSED: Duration = Duration::from_secs(1);
/// How long the last lines of a program that has ended are waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a program may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// To say what it has, and to make a component.
    pub start: Duration,
    /// To answer any other question.
    pub call: Duration,
}

/// What a limit is called in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`Limits::start`].
    Start,
    /// [`Limits::call`].
    Call,
}

/// A program that was started.
pub struct Child {
    command: String,
    limits: Limits,
    group: Mutex<Group>,
    state: Arc<Mutex<State>>,
    components: AtomicU64,
    said: Arc<Said>,
}

struct State {
    /// Lines for the program; gone once it was told the end.
    questions: Option<Sender<Vec<u8>>>,
    /// Who waits for answers, in their order.
    waiting: VecDeque<Waiting>,
    /// When the program could begin with the first of them.
    since: Instant,
    asked: u64,
    /// Components that are not used any more, told with the next question.
    forgotten: Vec<u64>,
    /// No more lines come from the program.
    closed: bool,
    /// A line that nobody has asked for.
    stray: Option<String>,
    /// Why it answers nothing any more.
    broken: Option<String>,
}

/// One who waits for an answer.
struct Waiting(SyncSender<Reply>);

/// A line of the program, and how long it took for it.
struct Reply {
    line: Line,
    took: Duration,
}

impl Child {
    /// Starts it.
    ///
    /// # Errors
    /// The system does not start it.
    pub fn start(command: &str, words: &[String], limits: Limits) -> Result<Self> {
        let mut start = Command::new(&words[0]);
        start
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut group = Group::start(&mut start).with_context(|| {
            format!(
                "plugin {PREFIX}{command}: {} cannot be started; is it there, executable, and does its first line name \
                 an interpreter that is there?",
                words[0]
            )
        })?;
        let process = group.process();
        let pipes = (
            process.stdin.take(),
            process.stdout.take(),
            process.stderr.take(),
        );
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            anyhow::bail!("plugin {PREFIX}{command}: it has no pipes");
        };
        let (questions, to_write) = channel();
        let state = Arc::new(Mutex::new(State {
            questions: Some(questions),
            waiting: VecDeque::new(),
            since: Instant::now(),
            asked: 0,
            forgotten: Vec::new(),
            closed: false,
            stray: None,
            broken: None,
        }));
        thread::spawn(move || pipes::write(stdin, &to_write));
        let reading = Arc::clone(&state);
        thread::spawn(move || pipes::read(stdout, LONGEST, |line| lock(&reading).came(line)));
        let said = Arc::<Said>::default();
        let (saying, name) = (Arc::clone(&said), format!("{PREFIX}{command}"));
        thread::spawn(move || pipes::pass_on(stderr, &name, &saying));
        Ok(Self {
            command: command.to_owned(),
            limits,
            group: Mutex::new(group),
            state,
            components: AtomicU64::new(0),
            said,
        })
    }

    /// How many questions have no answer yet.
    pub fn waiting(&self) -> usize {
        lock(&self.state).waiting.len()
    }

    /// A number for a component.
    pub fn new_component(&self) -> u64 {
        self.components.fetch_add(1, Ordering::Relaxed)
    }

    /// The program may forget this component.
    pub fn forget(&self, component: u64) {
        lock(&self.state).forgotten.push(component);
    }

    /// Asks a question, an object; `what` is what is asked, for the error.
    ///
    /// # Errors
    /// The program says that it failed, or it does not answer as it should: then it is a mistake of the component, and the
    /// program is ended.
    pub fn ask(&self, what: &str, limit: Limit, question: &Value) -> apus_sdk::Result<Value> {
        let question = serde_json::to_vec(question)?;
        let (answer, _) = self.ask_by(what, limit, &question, answer::read)?;
        Ok(answer)
    }

    /// As [`Self::ask`] with a question as text, whose answer is read out of its line by `read`. With the answer comes how long
    /// it took.
    ///
    /// # Errors
    /// As there.
    pub fn ask_by<T>(
        &self,
        what: &str,
        limit: Limit,
        question: &[u8],
        read: impl FnOnce(&[u8], u64) -> Result<Answer<T>, String>,
    ) -> apus_sdk::Result<(T, Duration)> {
        let (number, reply) = lock(&self.state)
            .send(question)
            .map_err(|why| mistake(what, &why))?;
        let reply = self.wait(&reply, limit);
        let found = reply.and_then(|reply| {
            let line = self.whole(reply.line)?;
            Ok((read(&line, number)?, reply.took))
        });
        match found {
            Ok((Ok(answer), took)) => Ok((answer, took)),
            Ok((Err(failed), _)) => Err(Error::new(format!("{what}: {failed}"))),
            Err(why) => Err(self.fails(what, why)),
        }
    }

    /// Ends the program, which has answered wrongly.
    pub fn fails(&self, what: &str, why: String) -> Error {
        // Of several threads that wait, the first one says why.
        let is_first = {
            let mut state = lock(&self.state);
            state.waiting.clear();
            state.questions = None;
            let is_first = state.broken.is_none();
            state.broken.get_or_insert(why);
            is_first
        };
        self.group().kill();
        let said = self.said.last(LAST_WORDS);
        let mut state = lock(&self.state);
        let why = state.broken.get_or_insert_default();
        if is_first && !said.is_empty() {
            why.push_str(". Its last lines on standard error:\n");
            why.push_str(&said.join("\n"));
        }
        mistake(what, why)
    }

    /// Tells the program that nothing more is asked, and waits for its end for a moment.
    pub fn end(&self) {
        let is_well = {
            let mut state = lock(&self.state);
            state.questions = None;
            if let (Some(why), None) = (&state.stray, &state.broken) {
                warning!("plugin {PREFIX}{}: {why}", self.command);
            }
            let is_well = state.stray.is_none() && state.broken.is_none();
            state.broken.get_or_insert("the run is over".to_owned());
            is_well
        };
        let mut group = self.group();
        if is_well && group.wait(ENDING).is_none() {
            info!(
                "plugin {PREFIX}{}: it did not end when its input ended, and was stopped",
                self.command
            );
        }
        group.kill();
    }

    /// Waits for a line, as long as the program may take for it from when it could begin with it.
    fn wait(&self, reply: &Receiver<Reply>, limit: Limit) -> Result<Reply, String> {
        let (limit, called) = match limit {
            Limit::Start => (self.limits.start, "start_timeout"),
            Limit::Call => (self.limits.call, "timeout"),
        };
        let mut left = limit;
        loop {
            match reply.recv_timeout(left) {
                Ok(reply) => return Ok(reply),
                // Another thread has found what is wrong.
                Err(RecvTimeoutError::Disconnected) => return Err(String::new()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let taken = lock(&self.state).since.elapsed();
            if taken >= limit {
                return Err(format!(
                    "it gave no answer within {} s; plugins = [{{ path = \"{PREFIX}...\", {called} = SECONDS }}] gives it \
                     longer",
                    limit.as_secs_f64()
                ));
            }
            left = limit - taken;
        }
    }

    /// A line, if it is one.
    fn whole(&self, line: Line) -> Result<Vec<u8>, String> {
        match line {
            Line::Whole(line) => Ok(line),
            Line::TooLong => Err(format!("it wrote a line of more than {LONGEST} bytes")),
            Line::Cut(line) => {
                let start = answer::start(&String::from_utf8_lossy(&line));
                Err(format!(
                    "{}, in the middle of a line: {start}",
                    self.ended()
                ))
            }
            Line::End => Err(self.ended()),
        }
    }

    /// How a program ended whose output has ended.
    fn ended(&self) -> String {
        match self.group().wait(CLOSED) {
            Some(status) => format!("the program has ended ({status})"),
            None => "it has closed its standard output".to_owned(),
        }
    }

    fn group(&self) -> MutexGuard<'_, Group> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Sends a question, with its number and what the program may forget.
    fn send(&mut self, question: &[u8]) -> Result<(u64, Receiver<Reply>), String> {
        if let Some(why) = self.broken.as_ref().or(self.stray.as_ref()) {
            return Err(why.clone());
        }
        self.asked += 1;
        let number = self.asked;
        let mut head = json!({"id": number});
        if !self.forgotten.is_empty() {
            head["forget"] = json!(std::mem::take(&mut self.forgotten));
        }
        // Two objects become one.
        let mut line = head.to_string().into_bytes();
        line.pop();
        line.push(b',');
        line.extend_from_slice(&question[1..]);
        line.push(b'\n');
        // A program that is gone is noticed by its answer.
        let _ = self
            .questions
            .as_ref()
            .map(|questions| questions.send(line));
        let (reply, receiver) = sync_channel(1);
        let waiting = Waiting(reply);
        match self.closed {
            true => waiting.gets(Line::End, Duration::ZERO),
            false if self.waiting.is_empty() => {
                self.since = Instant::now();
                self.waiting.push_back(waiting);
            }
            false => self.waiting.push_back(waiting),
        }
        Ok((number, receiver))
    }

    /// A line came from the program, for the one who has waited longest; whether more lines are wanted.
    fn came(&mut self, line: Line) -> bool {
        let took = self.since.elapsed();
        self.since = Instant::now();
        let first = self.waiting.pop_front();
        match (&line, first) {
            (Line::Whole(_), Some(first)) => first.gets(line, took),
            (Line::Whole(extra), None) => {
                let start = answer::start(&String::from_utf8_lossy(extra));
                self.stray = Some(format!(
                    "after its answer to question {} it wrote a line that nobody has asked for: {start:?}; its standard \
                     output is for answers, whatever else it prints has to go to standard error",
                    self.asked
                ));
                return false;
            }
            (_, first) => {
                self.closed = true;
                if let Some(first) = first {
                    first.gets(line, took);
                }
                for waiting in self.waiting.drain(..) {
                    waiting.gets(Line::End, took);
                }
            }
        }
        true
    }
}

impl Waiting {
    /// Gives a line to whoever waits, who may have given up.
    fn gets(self, line: Line, took: Duration) {
        let _ = self.0.send(Reply { line, took });
    }
}

fn mistake(what: &str, why: &str) -> Error {
    Error::new(format!("{what}: {why}")).of_component()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
