//! Conversations to text: by the model's template if it has one, by the built-in renderer if not.

use super::{
    harmony,
    jinja::{self, Jinja},
    turns::COMMENTARY,
};
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::{Conversation, Message};
use chrono::NaiveDate;
use serde_json::{Map, Value, json};
use std::{borrow::Cow, fs, path::Path};

/// The variable of a conversation that is the day on which it was.
const DATE: &str = "current_date";

/// Which renderer to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Renderer {
    /// The model's template if it has one, else the built-in renderer.
    #[default]
    Auto,
    /// The model's template; an error if there is none.
    Jinja,
    /// The built-in harmony renderer.
    Native,
}

/// What a conversation does not say itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RenderOptions {
    /// End with the opening of an assistant message, for the model to go on from.
    pub add_generation_prompt: bool,
    /// The current date as `2025-08-05`; today if `None`.
    pub date: Option<String>,
    /// `low`, `medium` or `high`; a conversation's own `template_kwargs` come first.
    pub reasoning_effort: Option<String>,
    /// Who the model is told it is; a conversation's own `template_kwargs` come first.
    pub model_identity: Option<String>,
    /// The system message of conversations that have none.
    pub system: Option<String>,
    /// Keep the reasoning of earlier turns, which the model's template leaves out. Only the
    /// built-in renderer can.
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

    /// These options for a conversation, which may say itself on which day it was.
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
    pub(crate) fn variables(&self, conversation: &Conversation) -> Map<String, Value> {
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
        variables
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

pub(crate) fn is_system(message: &Message) -> bool {
    message.role == "system" || message.role == "developer"
}

/// A model's chat template.
pub struct ChatTemplate {
    jinja: Option<Jinja>,
    /// Names of special tokens, which transformers gives to templates.
    tokens: Map<String, Value>,
}

impl ChatTemplate {
    /// The template of a model folder: chat_template.jinja, or `chat_template` in
    /// tokenizer_config.json; the built-in renderer if neither is there.
    ///
    /// # Errors
    /// A template that does not compile, a malformed tokenizer_config.json, or no template where
    /// `renderer` asks for one.
    pub fn load(dir: &Path, renderer: Renderer) -> Result<Self> {
        let config_path = dir.join("tokenizer_config.json");
        let config = match read_if_there(&config_path)? {
            Some(text) => serde_json::from_str(&text)
                .with_context(|| format!("malformed JSON in {}", config_path.display()))?,
            None => Value::Null,
        };
        let path = dir.join("chat_template.jinja");
        let source = match renderer {
            Renderer::Native => None,
            _ => jinja::source(read_if_there(&path)?, &config)
                .with_context(|| format!("chat template of {}", dir.display()))?,
        };
        if source.is_none() && renderer == Renderer::Jinja {
            bail!(
                "no chat template in {}: expected chat_template.jinja, or `chat_template` in \
                 tokenizer_config.json",
                dir.display()
            );
        }
        Self::new(source, &config).with_context(|| format!("chat template of {}", dir.display()))
    }

    /// The built-in harmony renderer.
    pub fn native() -> Self {
        Self {
            jinja: None,
            tokens: Map::new(),
        }
    }

    /// A template from its source (`None`: the built-in renderer) and the value of
    /// tokenizer_config.json.
    ///
    /// # Errors
    /// A template that does not compile.
    pub fn new(source: Option<String>, config: &Value) -> Result<Self> {
        let mut tokens = Map::new();
        for (key, value) in config.as_object().into_iter().flatten() {
            let text = value.as_str().or_else(|| value.get("content")?.as_str());
            if let (true, Some(text)) = (key.ends_with("_token"), text) {
                tokens.insert(key.clone(), Value::from(text));
            }
        }
        let jinja = source.map(Jinja::new).transpose()?;
        Ok(Self { jinja, tokens })
    }

    /// Whether the built-in renderer is used.
    pub fn is_native(&self) -> bool {
        self.jinja.is_none()
    }

    /// The text of a conversation, exactly as transformers' `apply_chat_template` gives it.
    ///
    /// # Errors
    /// A conversation that the template refuses, or a date that is none.
    pub fn render(&self, conversation: &Conversation, options: &RenderOptions) -> Result<String> {
        let Some(jinja) = &self.jinja else {
            return harmony::render(conversation, options);
        };
        ensure!(
            !options.keep_thinking,
            "keep_thinking needs the native renderer: the model's template leaves the reasoning of \
             earlier turns out"
        );
        let mut variables = self.tokens.clone();
        variables.extend(options.variables(conversation));
        let messages = options.messages(conversation);
        for (i, message) in messages.iter().enumerate() {
            fits_template(message)
                .with_context(|| format!("message {} ({})", i + 1, message.role))?;
        }
        variables.insert("messages".to_owned(), messages.iter().map(fields).collect());
        let tools = if conversation.tools.is_empty() {
            Value::Null
        } else {
            Value::from(conversation.tools.clone())
        };
        variables.insert("tools".to_owned(), tools);
        variables.insert(
            "add_generation_prompt".to_owned(),
            Value::from(options.add_generation_prompt),
        );
        jinja.render(variables, options.today()?)
    }
}

/// Templates have no place for some of what harmony can hold, and would write it as something else.
fn fits_template(message: &Message) -> Result<()> {
    let reasons_only =
        message.thinking.is_some() && message.content.is_null() && message.tool_calls.is_empty();
    let found = if message.channel.as_deref() == Some(COMMENTARY) {
        "commentary"
    } else if reasons_only {
        "reasoning without an answer or a call after it"
    } else {
        return Ok(());
    };
    bail!(
        "{found}, for which the model's template has no place; the native renderer writes it \
         (--template_backend native)"
    )
}

/// A message as templates expect it: keys that have no value are left out.
fn fields(message: &Message) -> Value {
    let mut fields = Map::new();
    fields.insert("role".to_owned(), Value::from(message.role.as_str()));
    if !message.content.is_null() || message.role == "tool" {
        fields.insert("content".to_owned(), message.content.clone());
    }
    if let Some(thinking) = &message.thinking {
        fields.insert("thinking".to_owned(), Value::from(thinking.as_str()));
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            json!({"type": "function", "function": {"name": call.name, "arguments": call.arguments}})
        });
        fields.insert("tool_calls".to_owned(), calls.collect());
    }
    Value::Object(fields)
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}
