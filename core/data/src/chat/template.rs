//! Renders conversations as text, with the model's template or with one of the dialect's built-in renderers.

use super::{
    control::TokenSet,
    dialect::{BuiltInRenderer, Dialect},
    jinja,
    model_template::ModelTemplate,
    rendered::Rendered,
};
use anyhow::{Context, Result, bail};
use apus_sdk::small_file::{self, Limit};
use apus_sdk::{Conversation, Message};
use chrono::NaiveDate;
use serde_json::{Map, Value};
use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

/// The variable of a conversation that holds its date.
const DATE: &str = "current_date";

/// Which renderer to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Renderer<'a> {
    /// The model's template if it has one, else the dialect's first built-in renderer. A built-in renderer that writes the
    /// same as the model's template also writes the conversations that the template has no place for.
    #[default]
    Auto,
    /// The model's template; an error if there is none.
    Jinja,
    /// The built-in renderer of this name.
    BuiltIn(&'a str),
}

/// What is rendered that a conversation does not say itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RenderOptions {
    /// Whether the text ends with the opening of an assistant message, which the model continues.
    pub add_generation_prompt: bool,
    /// The current date as `2025-08-05`; today if `None`.
    pub date: Option<String>,
    /// `low`, `medium` or `high`; a conversation's own `template_kwargs` come first.
    pub reasoning_effort: Option<String>,
    /// The identity that the model is told; a conversation's own `template_kwargs` come first.
    pub model_identity: Option<String>,
    /// The system message of conversations that have none.
    pub system: Option<String>,
    /// Whether to keep the reasoning of earlier turns, which the model's template leaves out; only the built-in renderers
    /// can.
    pub keep_thinking: bool,
}

impl RenderOptions {
    pub(crate) fn today(&self) -> Result<NaiveDate> {
        match &self.date {
            None => Ok(chrono::Local::now().date_naive()),
            Some(date) => NaiveDate::parse_from_str(date, "%Y-%m-%d")
                .with_context(|| format!("the date must look like 2025-08-05, found `{date}`")),
        }
    }

    /// These options for a conversation, which may have a date of its own.
    ///
    /// # Errors
    /// A day that is no text.
    pub(crate) fn of(&self, conversation: &Conversation) -> Result<Cow<'_, Self>> {
        match conversation.template_kwargs.get(DATE) {
            None => Ok(Cow::Borrowed(self)),
            Some(Value::String(date)) => Ok(Cow::Owned(Self {
                date: Some(date.clone()),
                ..self.clone()
            })),
            Some(other) => bail!("`{DATE}` must look like 2025-08-05, found {other}"),
        }
    }

    /// The variables for the template: these options, overridden by the conversation's own.
    pub(crate) fn variables(&self, conversation: &Conversation) -> Variables {
        let mut variables = Map::new();
        for (name, value) in [
            ("reasoning_effort", &self.reasoning_effort),
            ("model_identity", &self.model_identity),
        ] {
            if let Some(value) = value {
                variables.insert(name.to_owned(), Value::from(value.as_str()));
            }
        }
        variables.extend(conversation.template_kwargs.clone());
        Variables(variables)
    }

    /// The conversation's messages, with [`system`](Self::system) in front if they have none.
    pub(crate) fn messages<'a>(&self, conversation: &'a Conversation) -> Cow<'a, [Message]> {
        let messages = conversation.messages.as_slice();
        let has_system = messages.first().is_some_and(is_system);
        match &self.system {
            Some(system) if !has_system => {
                let mut all = vec![Message::new("system", system.as_str())];
                all.extend_from_slice(messages);
                Cow::Owned(all)
            }
            _ => Cow::Borrowed(messages),
        }
    }
}

/// Variables for a template.
pub(crate) struct Variables(pub(super) Map<String, Value>);

impl Variables {
    /// A variable that has to be text, if it is there.
    pub fn text(&self, name: &str) -> Result<Option<&str>> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => bail!("`{name}` must be text, found {other}"),
        }
    }

    /// Whether a variable is there and is true in Python.
    pub fn truthy(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(truthy)
    }
}

/// Whether a value is true in Python.
pub(crate) fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

pub(crate) fn is_system(message: &Message) -> bool {
    message.role == "system" || message.role == "developer"
}

/// A renderer of conversations.
pub struct ChatTemplate {
    dialect: &'static dyn Dialect,
    engine: Engine,
}

enum Engine {
    Jinja(Box<ModelTemplate>),
    /// A published template, and for conversations that it cannot hold the built-in renderer that writes the same.
    JinjaThenBuiltIn(Box<ModelTemplate>, &'static BuiltInRenderer),
    BuiltIn(&'static BuiltInRenderer),
}

/// The template of a model folder as text.
pub struct TemplateFile {
    /// The file that it is in, or would be.
    pub path: PathBuf,
    /// The template, if there is one.
    pub text: Option<String>,
    /// tokenizer_config.json; null if there is none.
    pub config: Value,
}

impl TemplateFile {
    /// chat_template.jinja, or `chat_template` in tokenizer_config.json.
    ///
    /// # Errors
    /// tokenizer_config.json is malformed.
    pub fn of(dir: &Path) -> Result<Self> {
        let config_path = dir.join("tokenizer_config.json");
        let config = match small_file::text_if_there(&config_path, Limit::STORED)? {
            Some(text) => serde_json::from_str(&text)
                .with_context(|| format!("malformed JSON in {}", config_path.display()))?,
            None => Value::Null,
        };
        let path = dir.join("chat_template.jinja");
        let (path, text) = match small_file::text_if_there(&path, Limit::STORED)? {
            Some(text) => (path, Some(text)),
            None => {
                let text = jinja::source(&config);
                let of = || format!("chat template of {}", dir.display());
                (config_path, text.with_context(of)?)
            }
        };
        Ok(Self { path, text, config })
    }
}

impl ChatTemplate {
    /// The template of a model folder: chat_template.jinja, or `chat_template` in
    /// tokenizer_config.json; a built-in renderer if neither is there, or if it is asked for.
    ///
    /// # Errors
    /// The template does not compile, tokenizer_config.json is malformed, `renderer` asks for a template and there is
    /// none, or it names a renderer that the dialect does not have.
    pub fn load(dir: &Path, dialect: &'static dyn Dialect, renderer: Renderer) -> Result<Self> {
        if let Renderer::BuiltIn(name) = renderer {
            return dialect
                .renderer(name)
                .map(|renderer| Self::built_in(dialect, renderer))
                .with_context(|| unknown(name, dialect));
        }
        let TemplateFile {
            path: from,
            text: source,
            config,
        } = TemplateFile::of(dir)?;
        match (source, dialect.renderers().first()) {
            (None, Some(first)) if renderer == Renderer::Auto => Ok(Self::built_in(dialect, first)),
            (None, _) => bail!(
                "no chat template in {}: expected chat_template.jinja, or `chat_template` in \
                 tokenizer_config.json",
                dir.display()
            ),
            (Some(source), _) => {
                let name = from.display().to_string();
                let template = Box::new(ModelTemplate::new(dialect, source, &name, &config)?);
                let writes_alike = |known: &&BuiltInRenderer| {
                    renderer == Renderer::Auto && known.writes_as == Some(template.sha256())
                };
                Ok(Self {
                    dialect,
                    engine: match dialect.renderers().iter().find(writes_alike) {
                        Some(built_in) => Engine::JinjaThenBuiltIn(template, built_in),
                        None => Engine::Jinja(template),
                    },
                })
            }
        }
    }

    /// A built-in renderer of a dialect.
    pub fn built_in(dialect: &'static dyn Dialect, renderer: &'static BuiltInRenderer) -> Self {
        Self {
            dialect,
            engine: Engine::BuiltIn(renderer),
        }
    }

    /// Compiles a template; `name` is for errors, and `config` is tokenizer_config.json.
    pub fn jinja(
        dialect: &'static dyn Dialect,
        source: String,
        name: &str,
        config: &Value,
    ) -> Result<Self> {
        let template = ModelTemplate::new(dialect, source, name, config)?;
        Ok(Self {
            dialect,
            engine: Engine::Jinja(Box::new(template)),
        })
    }

    /// The dialect of the conversations.
    pub fn dialect(&self) -> &'static dyn Dialect {
        self.dialect
    }

    /// Whether a built-in renderer writes all conversations.
    pub fn is_built_in(&self) -> bool {
        matches!(self.engine, Engine::BuiltIn(_))
    }

    /// Whether a built-in renderer writes this conversation because the model's template cannot hold something in it.
    pub fn is_written_by_built_in(
        &self,
        conversation: &Conversation,
        options: &RenderOptions,
        control: &TokenSet,
    ) -> bool {
        self.stand_in(conversation, options, control).is_some()
    }

    /// Whether conversations are written as the model's template writes them.
    pub fn writes_as_template(&self) -> bool {
        match self.engine {
            Engine::BuiltIn(renderer) => renderer.writes_as.is_some(),
            Engine::Jinja(_) | Engine::JinjaThenBuiltIn(..) => true,
        }
    }

    /// Whether a conversation's variable of this name is read.
    pub fn reads(&self, name: &str) -> bool {
        let reads = match &self.engine {
            Engine::BuiltIn(renderer) => renderer.variables.contains(&name),
            Engine::Jinja(template) | Engine::JinjaThenBuiltIn(template, _) => template.reads(name),
        };
        reads || name == DATE
    }

    /// The text of a conversation, and which of it are control tokens: exactly as transformers'
    /// `apply_chat_template` gives it, or as a built-in renderer does. `control` are the control tokens of the
    /// tokenizer.
    ///
    /// # Errors
    /// A conversation that the template refuses; one with text that looks like a control token, where a
    /// Jinja template cannot tell it from its own; a date that is none.
    pub fn render(
        &self,
        conversation: &Conversation,
        options: &RenderOptions,
        control: &TokenSet,
    ) -> Result<Rendered> {
        if let Some(renderer) = self.stand_in(conversation, options, control) {
            return (renderer.render)(conversation, options);
        }
        match &self.engine {
            Engine::BuiltIn(renderer) => (renderer.render)(conversation, options),
            Engine::Jinja(template) | Engine::JinjaThenBuiltIn(template, _) => {
                let text = template.render(conversation, options, control)?;
                Ok(Rendered::read(text, control))
            }
        }
    }

    /// The built-in renderer that writes a conversation which the model's template has no place for.
    fn stand_in(
        &self,
        conversation: &Conversation,
        options: &RenderOptions,
        control: &TokenSet,
    ) -> Option<&'static BuiltInRenderer> {
        match &self.engine {
            Engine::JinjaThenBuiltIn(template, renderer) => {
                let has_place = template.has_place(conversation, options, control);
                has_place.is_err().then_some(*renderer)
            }
            _ => None,
        }
    }
}

/// Says which renderers there are in place of an unknown one.
fn unknown(name: &str, dialect: &dyn Dialect) -> String {
    let built_in = dialect.renderers().iter().map(|known| known.name);
    let mut known: Vec<&str> = ["auto", "jinja"].into_iter().chain(built_in).collect();
    let last = known.pop().unwrap_or_default();
    format!(
        "template_backend is {name:?}, expected {} or {last}",
        known.join(", ")
    )
}
