//! A process as a plugin: a program that speaks lines of JSON over standard input and output.
//!
//! It says what components it has, makes them, and is called, one line a question and one line an answer
//! (docs/process-plugins.md). Here a component of it is a component as any other: each kind has a file that turns calls of its
//! trait into questions.

mod answer;
mod asked;
mod callback;
mod child;
mod dataset_format;
mod group;
mod loss_scale;
mod metric;
mod needs;
mod pace;
mod pipes;
mod remote;
mod sampler;
mod schedule;
mod tracker;

use super::inspect;
use anyhow::{Context, Result, ensure};
use apus_base::checksums::hex;
use apus_sdk::abi::{ComponentDoc, Description, SDK_VERSION};
use apus_sdk::{Error, Kind, OptionDoc, Options};
pub use child::Limits;
use child::{Child, Limit};
use remote::{About, Remote};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What the path of a plugin begins with if it is a command.
pub const PREFIX: &str = "cmd:";

/// The version of the lines, which a program is told first.
const PROTOCOL: u64 = 1;

/// How long a program may take, if the configuration does not say.
pub const LIMITS: Limits = Limits {
    start: Duration::from_secs(60),
    call: Duration::from_secs(60),
};

/// The most processes of a program.
pub const MOST: usize = 64;

/// A program that runs, and what it says that it has.
pub struct Process {
    /// The same program, as often as was asked for.
    children: Vec<Arc<Child>>,
    description: Description,
    /// Whether it takes calls in batches.
    batches: bool,
}

/// What a program says of itself.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Announced {
    name: String,
    #[serde(default)]
    version: String,
    /// Whether it takes many calls in a line.
    #[serde(default)]
    batches: bool,
    components: Vec<AnnouncedComponent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnnouncedComponent {
    kind: String,
    name: String,
    #[serde(default)]
    doc: String,
    /// What of SDK 1.1 it uses, by name.
    #[serde(default)]
    needs: Vec<String>,
    #[serde(default)]
    options: Vec<AnnouncedOption>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnnouncedOption {
    name: String,
    default: Value,
    #[serde(default)]
    doc: String,
    /// The flag of the command line that stands for it.
    flag: Option<String>,
}

impl AnnouncedOption {
    fn doc(self) -> OptionDoc {
        let kind = match &self.default {
            Value::Bool(_) => "true or false",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "whole number",
            Value::String(_) => "text",
            Value::Array(_) => "list",
            _ => "any value",
        };
        OptionDoc {
            name: self.name,
            kind: kind.to_owned(),
            default: Some(self.default),
            doc: self.doc,
        }
    }
}

/// The words of a command, the first of which is the program.
///
/// # Errors
/// A quote that is not closed, no word.
pub fn words(command: &str) -> Result<Vec<String>> {
    let words = shell_words::split(command)
        .with_context(|| format!("plugin {PREFIX}{command}: the command cannot be read"))?;
    ensure!(
        !words.is_empty(),
        "plugin {PREFIX}: it names no command; write {PREFIX}./mine.py, or {PREFIX}'python3 mine.py'"
    );
    Ok(words)
}

/// The SHA-256 of the first word of a command that is the path of a file, which is the script where an interpreter is
/// named first; `None` without one.
///
/// # Errors
/// The file cannot be read.
pub fn sha256(words: &[String]) -> Result<Option<String>> {
    let is_path = |(i, word): &(usize, &String)| {
        let path = Path::new(word.as_str());
        (*i > 0 || path.components().count() > 1) && path.is_file()
    };
    let paths: Vec<&String> = words
        .iter()
        .enumerate()
        .filter(is_path)
        .map(|(_, word)| word)
        .collect();
    let scripts = paths
        .iter()
        .find(|word| Path::new(word.as_str()).extension().is_some());
    let Some(file) = scripts.or(paths.first()) else {
        return Ok(None);
    };
    let bytes = inspect::read(Path::new(file.as_str()))?;
    Ok(Some(hex(&Sha256::digest(&bytes))))
}

impl Process {
    /// Starts a program, so many times and once at least, and asks what it has.
    ///
    /// # Errors
    /// It cannot be started, or its answer is no description, or not the same each time.
    pub fn start(command: &str, limits: Limits, processes: usize) -> Result<Self> {
        let words = words(command)?;
        let what = format!("plugin {PREFIX}{command}, announce");
        let start = |_| Child::start(command, &words, limits).map(Arc::new);
        let children: Vec<Arc<Child>> = (0..processes.max(1)).map(start).collect::<Result<_>>()?;
        let question = json!({"do": "announce", "apus": PROTOCOL});
        let ask = |child: &Arc<Child>| child.ask(&what, Limit::Start, &question);
        let answers: Vec<Value> = children.iter().map(ask).collect::<apus_sdk::Result<_>>()?;
        ensure!(
            answers.iter().all(|answer| *answer == answers[0]),
            "{what}: it announces something else each time that it is started"
        );
        let announced: Announced =
            answer::shaped(&answers[0]).map_err(|why| children[0].fails(&what, why))?;
        let kinds: Vec<&str> = Kind::ALL
            .iter()
            .filter(|&&kind| can_be(kind))
            .map(|kind| kind.name())
            .collect();
        let mut components = Vec::new();
        for component in announced.components {
            let kind = Kind::from_name(&component.kind).filter(|&kind| can_be(kind));
            let kind = kind.with_context(|| {
                format!(
                    "{what}: it has a {:?} called {:?}; a process can be a {}",
                    component.kind,
                    component.name,
                    kinds.join(", ")
                )
            })?;
            needs::read(kind, &component.needs)
                .map_err(|why| anyhow::anyhow!("{what}: {kind} {:?}: {why}", component.name))?;
            let options = component.options.iter();
            let flags = options.filter_map(|own| Some((own.flag.clone()?, own.name.clone())));
            components.push(ComponentDoc {
                flags: flags.collect(),
                kind: component.kind,
                name: component.name,
                doc: component.doc,
                needs: component.needs,
                options: component
                    .options
                    .into_iter()
                    .map(AnnouncedOption::doc)
                    .collect(),
            });
        }
        components.sort_by(|a, b| (&a.kind, &a.name).cmp(&(&b.kind, &b.name)));
        Ok(Self {
            children,
            batches: announced.batches,
            description: Description {
                name: announced.name,
                version: announced.version,
                sdk: SDK_VERSION.to_owned(),
                components,
            },
        })
    }

    /// Its description of itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Tells the program that nothing more is asked, and waits for its end for a moment.
    pub fn end(&self) {
        self.children.iter().for_each(|child| child.end());
    }

    /// What the program has announced of a component, which has these options; the program need not check them.
    fn announced(&self, kind: Kind, name: &str, options: &Options) -> Result<&ComponentDoc> {
        let mut components = self.description.components.iter();
        let component = components.find(|known| known.kind == kind.name() && known.name == name);
        let component = component.context("the program has not announced it")?;
        let names: Vec<&str> = component
            .options
            .iter()
            .map(|option| option.name.as_str())
            .collect();
        for name in options.keys() {
            ensure!(
                names.contains(&name.as_str()),
                "there is no option {name}; there are {}",
                names.join(", ")
            );
        }
        Ok(component)
    }

    /// Makes a component; `K` is the trait object of its kind.
    ///
    /// # Errors
    /// The program does not make it.
    pub fn make<K: ?Sized + 'static>(
        &self,
        kind: Kind,
        name: &str,
        options: &Options,
        label: &str,
    ) -> apus_sdk::Result<Box<K>> {
        let announced = self
            .announced(kind, name, options)
            .map_err(|error| Error::new(format!("{label}: {error}")))?;
        // Only these are called by several threads, and in any order.
        let children = match kind {
            Kind::DatasetFormat | Kind::LossScale => &self.children[..],
            _ => &self.children[..1],
        };
        let about = About {
            kind,
            name: name.to_owned(),
            needs: announced.known_needs().0,
            label: label.to_owned(),
            batches: self.batches,
        };
        let remote = Remote::make(children, about, options)?;
        let made: Box<dyn Any> = match kind {
            Kind::DatasetFormat => Box::new(dataset_format::new(remote)?),
            Kind::LossScale => Box::new(loss_scale::new(remote)?),
            Kind::LrSchedule => Box::new(schedule::new(remote)),
            Kind::Sampler => Box::new(sampler::new(remote)?),
            Kind::Callback => Box::new(callback::new(remote)?),
            Kind::Metric => Box::new(metric::new(remote)?),
            Kind::Tracker => Box::new(tracker::new(remote)?),
            _ => return Err(Error::new(format!("{label}: a process cannot be a {kind}"))),
        };
        match made.downcast::<Box<K>>() {
            Ok(made) => Ok(*made),
            Err(_) => Err(Error::new(format!(
                "{label}: it is a {kind}, something else was asked for"
            ))),
        }
    }
}

fn can_be(kind: Kind) -> bool {
    !needs::given(kind).is_empty()
}
