//! SwanLab (<https://swanlab.cn>), natively: runs of this tracker look there as those of its Python SDK do.
//!
//! Everything that a run reports is written to the run's file first (`store`, in the format that `swanlab sync`
//! reads), and that is all the tracker's calls do. A thread (`upload`) reads the file and sends it; it alone waits for
//! the network. So a server that is slow, unreachable or refuses a request costs the run nothing, memory stays small however
//! long it is unreachable, and what was not sent is on disk for `apus swanlab sync`.

#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

mod batch;
mod flags;
mod framing;
mod http;
mod link;
mod lock;
mod login;
mod machine;
mod netrc;
mod notify;
mod part;
mod progress;
mod record;
mod remote;
mod retry;
mod run;
mod secret;
mod session;
mod settings;
mod store;
mod sync;
mod terminal;
mod upload;
mod values;

use apus_sdk::{EndState, Level, Result, RunInfo, Tracker, register};
pub use login::{login, verify};
use run::Run;
pub use secret::Secret;
use serde_json::{Map, Value};
use settings::process_env;
pub use sync::{SyncRequest, sync};

/// Keeps the registration of the tracker in the binary that calls this.
pub fn link() {}

apus_sdk::options! {
    struct Swanlab {
        /// Key of the account; better in SWANLAB_API_KEY or stored by `apus swanlab login`.
        token: Option<Secret> = None,
        /// Project; SWANLAB_PROJ_NAME, or ms-swift, if not given.
        project: Option<String> = None,
        /// Workspace; SWANLAB_WORKSPACE, or the account's own, if not given.
        workspace: Option<String> = None,
        /// Name of the experiment; SWANLAB_EXP_NAME, or the run's name, if not given.
        exp_name: Option<String> = None,
        /// cloud; offline or local (the file alone); disabled. SWANLAB_MODE, or cloud, if not given.
        mode: Option<String> = None,
        /// Address of a server of one's own; SWANLAB_API_HOST if not given.
        host: Option<String> = None,
        /// Seconds that the end of a run waits for what is not sent yet.
        finish_timeout: f64 = 20.0,
        /// Seconds between two shipments.
        interval: f64 = 1.5,
        /// Who tells that the run is over: dingtalk, lark, wxwork, slack, discord or email.
        notification_method: Option<String> = None,
        /// Address that the message is posted to.
        webhook_url: Option<Secret> = None,
        /// Signs messages to dingtalk and lark; for email, the password.
        secret: Option<Secret> = None,
        /// Address that the email comes from.
        sender_email: Option<String> = None,
        /// Address that the email goes to.
        receiver_email: Option<String> = None,
        /// Server that sends the email.
        smtp_server: Option<String> = None,
        /// Its port: 465 for TLS from the start, others for STARTTLS.
        smtp_port: Option<u16> = None,
        /// Language of the message: zh or en.
        email_language: Option<String> = None,
    }
    state {
        run: Option<Run>,
    }
}

impl Tracker for Swanlab {
    fn start(&mut self, run: &RunInfo) -> Result<()> {
        self.run = Run::begin(self, run, &process_env)?;
        Ok(())
    }

    fn log(&mut self, step: u64, values: &Map<String, Value>) -> Result<()> {
        self.run
            .as_mut()
            .map_or(Ok(()), |run| run.log(step, values))
    }

    fn text(&mut self, step: u64, name: &str, text: &str) -> Result<()> {
        self.run
            .as_mut()
            .map_or(Ok(()), |run| run.text(step, name, text))
    }

    fn image(&mut self, step: u64, name: &str, png: &[u8]) -> Result<()> {
        self.run
            .as_mut()
            .map_or(Ok(()), |run| run.image(step, name, png))
    }

    fn line(&mut self, level: Level, line: &str) -> Result<()> {
        let error = matches!(level, Level::Error);
        self.run
            .as_mut()
            .map_or(Ok(()), |run| run.line(error, line))
    }

    fn system(&mut self, values: &Map<String, Value>) -> Result<()> {
        self.run.as_mut().map_or(Ok(()), |run| run.system(values))
    }

    fn finish(&mut self, end: &EndState) -> Result<()> {
        self.run.take().map_or(Ok(()), |run| run.finish(end))
    }
}

register! {
    /// SwanLab: numbers, texts, lines and the machine, to its server and to a file.
    Tracker, "swanlab", Swanlab
}
