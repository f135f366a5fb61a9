//! A run in progress: each report is written to the file, and the thread that sends it is woken.

use super::Swanlab;
use super::lock::Lock;
use super::machine;
use super::notify::{Facts, Notification};
use super::part;
use super::record::{Timestamp, kind, number, save, state};
use super::secret::Secret;
use super::settings::{Env, Mode, Settings};
use super::store::Store;
use super::terminal::Terminal;
use super::upload::{Task, Uploader};
use super::values;
use apus_sdk::{EndState, Error, Result, RunInfo};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// The thread that sends the notification of the end.
type NotificationThread = JoinHandle<std::result::Result<(), String>>;

/// A run in progress.
pub struct Run {
    settings: Settings,
    store: Store,
    uploader: Option<Uploader>,
    notification: Option<Notification>,
    terminal: Terminal,
    /// The lock of the folder, if no thread holds it.
    lock: Option<Lock>,
    /// Whether a warning has told that the file cannot be written.
    stuck: bool,
}

impl Run {
    /// Makes the file and starts the thread; `None` if the mode is disabled.
    pub fn begin(options: &Swanlab, run: &RunInfo, env: Env) -> Result<Option<Self>> {
        let settings = Settings::resolve(options, run, env);
        let given = [&options.token, &options.secret, &options.webhook_url];
        let mut secrets: Vec<Secret> = given.into_iter().flatten().cloned().collect();
        secrets.extend(settings.account.key.clone());
        let terminal = Terminal {
            interactive: run.interactive,
            secrets,
        };
        for note in &settings.notes {
            terminal.note(note);
        }
        if settings.mode == Mode::Disabled {
            return Ok(None);
        }
        if options.token.is_some() {
            terminal.warn(
                "the key stands in a command or a file, where others may see it; SWANLAB_API_KEY, ~/.swanlab/.netrc \
                 or `apus swanlab login` keep it to yourself",
            );
        }
        let notification = Notification::new(options).unwrap_or_else(|error| {
            terminal.warn(&format!(
                "{error}; nobody will be told when the run is over"
            ));
            None
        });
        let log_dir = &settings.log_dir;
        let store = Store::create(log_dir, settings.start.clone(), settings.section_rule);
        let mut store = store.map_err(|e| Error::new(format!("{}: {e}", log_dir.display())))?;
        let config = terminal.hide(values::yaml(&values::config(run)));
        store.save(number::CONFIG, save::CONFIG, "config.yaml", config);
        let machine = terminal.hide(machine::metadata(run, store.dir()).to_string());
        let name = "swanlab-metadata.json";
        store.save(number::METADATA, save::METADATA, name, machine);
        store.flush()?;
        let mut begun = Self {
            lock: Lock::take(store.dir()),
            uploader: None,
            settings,
            store,
            notification,
            terminal,
            stuck: false,
        };
        if begun.settings.mode == Mode::Cloud {
            begun.connect(run);
        }
        Ok(Some(begun))
    }

    /// Starts the thread.
    fn connect(&mut self, run: &RunInfo) {
        let account = self.settings.account.clone();
        if account.key.is_none() {
            self.terminal.warn(&format!(
                "there is no key for {}, so the run goes to {} only. `apus swanlab login` stores one, SWANLAB_API_KEY \
                 gives one",
                account.api_host,
                self.store.dir().display()
            ));
            return;
        }
        let Some(lock) = self.lock.take() else {
            return;
        };
        let task = Task {
            account,
            earlier: earlier(
                &self.settings.log_dir,
                run,
                &self.settings.start.id,
                self.store.dir(),
            ),
            dir: self.store.dir().to_owned(),
            _lock: lock,
            interval: self.settings.interval,
            terminal: self.terminal.clone(),
        };
        match Uploader::start(task, self.store.end()) {
            Ok(uploader) => self.uploader = Some(uploader),
            Err(error) => self
                .terminal
                .warn(&format!("nothing is sent: no thread: {error}")),
        }
    }

    /// Writes the records that were added and wakes the thread. While the disk is full, records are lost.
    fn write(&mut self) -> Result<()> {
        if let Err(error) = self.store.flush() {
            if !self.stuck {
                let dir = self.store.dir().display();
                self.terminal
                    .warn(&format!("{dir}: {error}; what is logged now is lost"));
            }
            self.stuck = true;
            return Ok(());
        }
        self.stuck = false;
        if let Some(uploader) = &self.uploader {
            uploader.written(self.store.end());
        }
        Ok(())
    }

    /// Numbers of a step. JSON has no NaN; null stands for it.
    pub fn log(&mut self, step: u64, values: &Map<String, Value>) -> Result<()> {
        let now = Timestamp::now();
        for (name, value) in values {
            let number = match value {
                Value::Null => f64::NAN,
                value => match value.as_f64() {
                    Some(number) => number,
                    None => continue,
                },
            };
            self.store.scalar(&values::metric(name), step, number, now);
        }
        self.write()
    }

    /// A text.
    pub fn text(&mut self, step: u64, name: &str, text: &str) -> Result<()> {
        let text = self.terminal.hide(text.to_owned()).into_bytes();
        self.store.media(&values::key(name), step, kind::TEXT, text);
        self.write()
    }

    /// A picture.
    pub fn image(&mut self, step: u64, name: &str, png: &[u8]) -> Result<()> {
        self.store
            .media(&values::key(name), step, kind::IMAGE, png.to_vec());
        self.write()
    }

    /// A line of the terminal.
    pub fn line(&mut self, error: bool, line: &str) -> Result<()> {
        let line = values::line(&self.terminal.hide(line.to_owned()));
        self.store.line(error, line);
        self.write()
    }

    /// Numbers of the machine.
    pub fn system(&mut self, values: &Map<String, Value>) -> Result<()> {
        self.store.system(&values::system(values));
        self.write()
    }

    /// Ends the file, waits for the thread up to the time limit, and sends the notification.
    pub fn finish(mut self, end: &EndState) -> Result<()> {
        let until = Instant::now() + self.settings.finish_timeout;
        let (how, error) = match end {
            EndState::Finished(_) => (state::FINISHED, String::new()),
            EndState::Interrupted => (state::ABORTED, "interrupted".to_owned()),
            EndState::Crashed(error) => (state::CRASHED, self.terminal.hide(error.clone())),
        };
        let written = self.store.finish(how, error);
        let notification = self.notify(end);
        let mut say_sync = false;
        if let Some(uploader) = &self.uploader {
            match uploader.finish(self.store.end(), self.settings.finish_timeout) {
                Some(Ok(())) => {}
                Some(Err(failure)) => {
                    self.terminal
                        .warn(&format!("not everything was sent: {failure}"));
                    say_sync = true;
                }
                None => {
                    let seconds = self.settings.finish_timeout.as_secs_f64();
                    self.terminal.warn(&format!(
                        "not everything could be sent within {seconds} s (finish_timeout)"
                    ));
                    say_sync = true;
                }
            }
        } else {
            say_sync = true;
        }
        if say_sync {
            self.terminal.note(&format!(
                "the run is kept whole; send it with: apus swanlab sync {}",
                self.store.dir().display()
            ));
        }
        self.await_notification(notification, until);
        Ok(written?)
    }

    /// Starts sending the notification.
    fn notify(&mut self, end: &EndState) -> Option<NotificationThread> {
        let notification = self.notification.take()?;
        let start = &self.settings.start;
        let facts = Facts {
            project: start.project.clone(),
            workspace: start.workspace.clone(),
            name: start.name.clone(),
            description: start.description.clone(),
            page: self.uploader.as_ref().and_then(Uploader::page),
        };
        let end = match end {
            EndState::Crashed(error) => EndState::Crashed(self.terminal.hide(error.clone())),
            end => end.clone(),
        };
        let tell = move || notification.send(&facts, &end);
        Builder::new()
            .name("swanlab notice".to_owned())
            .spawn(tell)
            .ok()
    }

    fn await_notification(&self, notification: Option<NotificationThread>, until: Instant) {
        let Some(notification) = notification else {
            return;
        };
        while !notification.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        if !notification.is_finished() {
            self.terminal
                .warn("the notification is not through yet and left alone");
        } else if let Ok(Err(error)) = notification.join() {
            self.terminal
                .warn(&format!("the notification was not sent: {error}"));
        }
    }
}

/// Folders of the run's earlier files, beside this one and beside the checkpoint that it goes on from.
fn earlier(log_dir: &Path, run: &RunInfo, id: &str, own: &Path) -> Vec<(PathBuf, Lock)> {
    if run.resumed_at == 0 {
        return Vec::new();
    }
    let mut places = vec![log_dir.to_owned()];
    let checkpoint = run
        .config
        .get("resume_from_checkpoint")
        .and_then(Value::as_str);
    if let Some(before) = checkpoint.and_then(|checkpoint| Path::new(checkpoint).parent()) {
        places.push(before.join("swanlog"));
    }
    let found = part::folders(&places, id);
    let others = found.into_iter().filter(|dir| dir != own);
    others
        .filter_map(|dir| Lock::take(&dir).map(|lock| (dir, lock)))
        .collect()
}
