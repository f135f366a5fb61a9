//! Conversations to text: by the model's template, or by one of the built-in renderers.

use super::{
    control::TokenSet,
    harmony::{self, native, openai},
    jinja::{self, Jinja, OverBudget},
    rendered::Rendered,
    turns::COMMENTARY,
};
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::{Conversation, Message};
use chrono::NaiveDate;
use serde_json::{Map, Value, json};
use std::{borrow::Cow, fs, io::Read, path::Path};

/// The variable of a conversation that is the day on which it was.
const DATE: &str = "current_date";

/// Which renderer to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Renderer {
    /// The model's template if it has one, else [`Renderer::Native`].
    #[default]
    Auto,
    /// The model's template; an error if there is none.
    Jinja,
    /// The built-in renderer that writes what the template of gpt-oss does.
    Native,
    /// The built-in renderer that writes what openai-harmony does.
    Harmony,
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
pub(crate) struct Variables(Map<String, Value>);

impl Variables {
    /// One that has to be text, if it is there.
    pub fn text(&self, name: &str) -> Result<Option<&str>> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => bail!("`{name}` must be text, found {other}"),
        }
    }

    /// Whether it is there and counts as true in Python.
    pub fn truthy(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(truthy)
    }
}

/// Python's truth of a value.
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

/// Variables that every template is given, whatever a conversation says.
const GIVEN: [&str; 4] = ["messages", "tools", "add_generation_prompt", "strftime_now"];

/// What writes conversations as text.
pub struct ChatTemplate {
    engine: Engine,
    /// Names of special tokens, which transformers gives to templates.
    tokens: Map<String, Value>,
}

enum Engine {
    Jinja(Box<Jinja>),
    Native,
    OpenAi,
}

impl ChatTemplate {
    /// The template of a model folder: chat_template.jinja, or `chat_template` in
    /// tokenizer_config.json; a built-in renderer if neither is there, or if it is asked for.
    ///
    /// # Errors
    /// A template that does not compile, a malformed tokenizer_config.json, or no template where
    /// `renderer` asks for one.
    pub fn load(dir: &Path, renderer: Renderer) -> Result<Self> {
        match renderer {
            Renderer::Native => return Ok(Self::native()),
            Renderer::Harmony => return Ok(Self::harmony()),
            Renderer::Auto | Renderer::Jinja => {}
        }
        let config_path = dir.join("tokenizer_config.json");
        let config = match read_if_there(&config_path)? {
            Some(text) => serde_json::from_str(&text)
                .with_context(|| format!("malformed JSON in {}", config_path.display()))?,
            None => Value::Null,
        };
        let path = dir.join("chat_template.jinja");
        let (from, source) = match read_if_there(&path)? {
            Some(source) => (path, Some(source)),
            None => {
                let source = jinja::source(&config);
                let of = || format!("chat template of {}", dir.display());
                (config_path, source.with_context(of)?)
            }
        };
        match source {
            None if renderer == Renderer::Jinja => bail!(
                "no chat template in {}: expected chat_template.jinja, or `chat_template` in \
                 tokenizer_config.json",
                dir.display()
            ),
            None => Ok(Self::native()),
            Some(source) => Self::jinja(source, &from.display().to_string(), &config),
        }
    }

    /// The built-in renderer that writes what the template of gpt-oss does.
    pub fn native() -> Self {
        Self::built_in(Engine::Native)
    }

    /// The built-in renderer that writes what openai-harmony does.
    pub fn harmony() -> Self {
        Self::built_in(Engine::OpenAi)
    }

    fn built_in(engine: Engine) -> Self {
        Self {
            engine,
            tokens: Map::new(),
        }
    }

    /// A template from its source, with what errors call it, and the value of tokenizer_config.json.
    ///
    /// # Errors
    /// A template that does not compile.
    pub fn jinja(source: String, name: &str, config: &Value) -> Result<Self> {
        let mut tokens = Map::new();
        for (key, value) in config.as_object().into_iter().flatten() {
            let text = value.as_str().or_else(|| value.get("content")?.as_str());
            if let (true, Some(text)) = (key.ends_with("_token"), text) {
                tokens.insert(key.clone(), Value::from(text));
            }
        }
        let engine = Engine::Jinja(Box::new(Jinja::new(source, name)?));
        Ok(Self { engine, tokens })
    }

    /// Whether a built-in renderer is used.
    pub fn is_built_in(&self) -> bool {
        !matches!(self.engine, Engine::Jinja(_))
    }

    /// Whether prompts are those of servers that are built on openai-harmony.
    pub fn is_harmony(&self) -> bool {
        matches!(self.engine, Engine::OpenAi)
    }

    /// Whether a conversation's variable of this name is looked at.
    pub fn reads(&self, name: &str) -> bool {
        let reads = match &self.engine {
            Engine::Native | Engine::OpenAi => harmony::VARIABLES.contains(&name),
            Engine::Jinja(jinja) => !GIVEN.contains(&name) && jinja.reads(name),
        };
        reads || name == DATE
    }

    /// The text of a conversation, and which of it are control tokens: exactly as transformers'
    /// `apply_chat_template` gives it, or as openai-harmony does. `control` are the control tokens of the
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
        match &self.engine {
            Engine::Native => native::render(conversation, options),
            Engine::OpenAi => openai::render(conversation, options),
            Engine::Jinja(jinja) => {
                let text = self.by_jinja(jinja, conversation, options, control)?;
                Ok(Rendered::read(text, control))
            }
        }
    }

    fn by_jinja(
        &self,
        jinja: &Jinja,
        conversation: &Conversation,
        options: &RenderOptions,
        control: &TokenSet,
    ) -> Result<String> {
        ensure!(
            !options.keep_thinking,
            "keep_thinking needs a built-in renderer (native or harmony): the model's template leaves \
             the reasoning of earlier turns out"
        );
        let mut variables = options.variables(conversation).0;
        for (name, value) in &variables {
            refuse_typed(value, control).with_context(|| format!("`{name}`"))?;
        }
        let as_template = |(i, message): (usize, &Message)| -> Result<Value> {
            fits_template(message)
                .and_then(|()| {
                    let fields = fields(message);
                    refuse_typed(&fields, control).map(|()| fields)
                })
                .with_context(|| format!("message {} ({})", i + 1, message.role))
        };
        let messages = options.messages(conversation);
        let messages = messages.iter().enumerate().map(as_template);
        let messages = messages.collect::<Result<Vec<Value>>>()?;
        let tools = match conversation.tools.as_slice() {
            [] => Value::Null,
            tools => Value::from(tools),
        };
        refuse_typed(&tools, control).context("`tools`")?;
        for (name, token) in &self.tokens {
            variables.entry(name).or_insert_with(|| token.clone());
        }
        variables.insert("messages".to_owned(), messages.into());
        variables.insert("tools".to_owned(), tools);
        variables.insert(
            "add_generation_prompt".to_owned(),
            Value::from(options.add_generation_prompt),
        );
        let date = options.today()?;
        match jinja.render(&variables, date) {
            Err(error) if !error.is::<OverBudget>() && describe(&mut variables["tools"]) => {
                jinja.render(&variables, date)
            }
            rendered => rendered,
        }
    }
}

/// Gives the tools that have no description an empty one, for templates that cannot do without. Returns
/// whether there was such a tool.
fn describe(tools: &mut Value) -> bool {
    let functions = tools.as_array_mut().into_iter().flatten();
    let functions = functions.filter_map(|tool| tool.get_mut("function")?.as_object_mut());
    let missing = functions.filter(|f| f.get("description").is_none_or(Value::is_null));
    let described = missing.map(|f| f.insert("description".to_owned(), Value::from("")));
    described.count() > 0
}

/// Refuses text in which a control token was typed, since a template's output is text alone.
fn refuse_typed(value: &Value, control: &TokenSet) -> Result<()> {
    let text = |text: &str| match control.first(text) {
        None => Ok(()),
        Some(token) => bail!(
            "the text holds {token}, a control token, and the model's chat template cannot tell what was \
             typed from what it writes itself; --template_backend native or harmony writes it as text"
        ),
    };
    match value {
        Value::String(found) => text(found),
        Value::Array(items) => items
            .iter()
            .try_for_each(|item| refuse_typed(item, control)),
        Value::Object(fields) => fields.iter().try_for_each(|(key, value)| {
            text(key)?;
            refuse_typed(value, control)
        }),
        _ => Ok(()),
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
        "{found}, for which the model's template has no place; --template_backend native or harmony writes it"
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

/// The most bytes that a template or tokenizer_config.json may have.
const LARGEST: u64 = 16 << 20;

fn read_if_there(path: &Path) -> Result<Option<String>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let mut text = String::new();
    file.take(LARGEST + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("reading {}", path.display()))?;
    ensure!(
        text.len() as u64 <= LARGEST,
        "{} has more than {} MiB, which no chat template needs",
        path.display(),
        LARGEST >> 20
    );
    Ok(Some(text))
}
