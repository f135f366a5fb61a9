//! The chat template that comes with a model: the variables that it gets of a conversation, and a check for what it
//! would lose.

use super::{
    control::TokenSet,
    jinja::{Jinja, OverBudget},
    template::RenderOptions,
    turns::COMMENTARY,
};
use anyhow::{Context, Result, bail, ensure};
use apus_base::checksums::hex;
use apus_sdk::{Conversation, Message};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// SHA-256 of chat_template.jinja of openai/gpt-oss-20b and -120b, revision of 2025-08-08, which the native renderer
/// follows.
const GPT_OSS: &str = "a4c9919cbbd4acdd51ccffe22da049264b1b73e59055fa58811a99efbd7c8146";

/// Variables that every template is given, whatever a conversation says.
const GIVEN: [&str; 4] = ["messages", "tools", "add_generation_prompt", "strftime_now"];

/// A model's own template.
pub struct ModelTemplate {
    jinja: Jinja,
    is_of_gpt_oss: bool,
    /// Names of special tokens, which transformers gives to templates.
    tokens: Map<String, Value>,
}

impl ModelTemplate {
    /// Compiles a template; `name` is for errors, and `config` is tokenizer_config.json.
    pub fn new(source: String, name: &str, config: &Value) -> Result<Self> {
        let mut tokens = Map::new();
        for (key, value) in config.as_object().into_iter().flatten() {
            let text = value.as_str().or_else(|| value.get("content")?.as_str());
            if let (true, Some(text)) = (key.ends_with("_token"), text) {
                tokens.insert(key.clone(), Value::from(text));
            }
        }
        Ok(Self {
            is_of_gpt_oss: hex(&Sha256::digest(&source)) == GPT_OSS,
            jinja: Jinja::new(source, name)?,
            tokens,
        })
    }

    /// Whether it is the template of gpt-oss itself, byte for byte.
    pub fn is_of_gpt_oss(&self) -> bool {
        self.is_of_gpt_oss
    }

    /// Whether the template reads a conversation's variable of this name.
    pub fn reads(&self, name: &str) -> bool {
        !GIVEN.contains(&name) && self.jinja.reads(name)
    }

    /// Checks that the template renders everything that a conversation holds.
    ///
    /// # Errors
    /// It would leave something out or write it as something else; the error says what and where.
    pub fn has_place(
        &self,
        conversation: &Conversation,
        options: &RenderOptions,
        control: &TokenSet,
    ) -> Result<()> {
        let messages = options.messages(conversation);
        has_place(messages.iter().enumerate(), conversation, options, control)
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// As for [`Self::has_place`], except for answers of a prompt that were cut off; or the template refuses the conversation.
    pub fn render(
        &self,
        conversation: &Conversation,
        options: &RenderOptions,
        control: &TokenSet,
    ) -> Result<String> {
        ensure!(
            !options.keep_thinking,
            "keep_thinking needs a built-in renderer (native or harmony): the model's template leaves \
             the reasoning of earlier turns out"
        );
        let messages = options.messages(conversation);
        has_place(written(&messages, options), conversation, options, control)?;
        let mut variables = options.variables(conversation).0;
        for (name, token) in &self.tokens {
            variables.entry(name).or_insert_with(|| token.clone());
        }
        let messages = written(&messages, options).map(|(_, message)| fields(message));
        variables.insert("messages".to_owned(), messages.collect());
        let tools = match conversation.tools.as_slice() {
            [] => Value::Null,
            tools => Value::from(tools),
        };
        variables.insert("tools".to_owned(), tools);
        variables.insert(
            "add_generation_prompt".to_owned(),
            Value::from(options.add_generation_prompt),
        );
        let date = options.today()?;
        match self.jinja.render(&variables, date) {
            Err(error) if !error.is::<OverBudget>() && describe(&mut variables["tools"]) => {
                self.jinja.render(&variables, date)
            }
            rendered => rendered,
        }
    }
}

fn has_place<'a>(
    messages: impl Iterator<Item = (usize, &'a Message)>,
    conversation: &Conversation,
    options: &RenderOptions,
    control: &TokenSet,
) -> Result<()> {
    for (name, value) in &options.variables(conversation).0 {
        refuse_typed(value, control).with_context(|| format!("`{name}`"))?;
    }
    for (i, message) in messages {
        fits(message)
            .and_then(|()| refuse_typed(&fields(message), control))
            .with_context(|| format!("message {} ({})", i + 1, message.role))?;
    }
    let mut tools = conversation.tools.iter();
    tools
        .try_for_each(|tool| refuse_typed(tool, control))
        .context("`tools`")
}

/// The messages that a template is given, with their indices. In a prompt, an answer that was cut off inside its
/// reasoning is none of them, since the template leaves the reasoning of earlier turns out.
fn written<'a>(
    messages: &'a [Message],
    options: &RenderOptions,
) -> impl Iterator<Item = (usize, &'a Message)> {
    let is_prompt = options.add_generation_prompt;
    let is_cut_off = move |i: usize| {
        let goes_on = messages.get(i + 1).is_some_and(|m| m.role == "assistant");
        is_prompt && only_reasons(&messages[i]) && !goes_on
    };
    let all = messages.iter().enumerate();
    all.filter(move |(i, _)| !is_cut_off(*i))
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

fn only_reasons(message: &Message) -> bool {
    message.thinking.is_some() && message.content.is_null() && message.tool_calls.is_empty()
}

/// Templates have no place for some of what harmony can hold, and would write it as something else.
fn fits(message: &Message) -> Result<()> {
    let found = if message.channel.as_deref() == Some(COMMENTARY) {
        "commentary"
    } else if only_reasons(message) {
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
