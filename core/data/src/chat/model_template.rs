//! The chat template that comes with a model: the variables that it gets of a conversation, and a check for what it
//! would lose.

use super::{
    control::TokenSet,
    dialect::Dialect,
    jinja::{Jinja, OverBudget},
    template::RenderOptions,
};
use anyhow::{Context, Result, bail};
use apus_base::checksums::hex;
use apus_sdk::{Conversation, Message};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Variables that every template is given, whatever a conversation says.
const GIVEN: [&str; 4] = ["messages", "tools", "add_generation_prompt", "strftime_now"];

/// A model's own template.
pub struct ModelTemplate {
    jinja: Jinja,
    dialect: &'static dyn Dialect,
    sha256: String,
    /// Names of special tokens, which transformers gives to templates.
    tokens: Map<String, Value>,
}

impl ModelTemplate {
    /// Compiles a template; `name` is for errors, and `config` is tokenizer_config.json.
    pub fn new(
        dialect: &'static dyn Dialect,
        source: String,
        name: &str,
        config: &Value,
    ) -> Result<Self> {
        let mut tokens = Map::new();
        for (key, value) in config.as_object().into_iter().flatten() {
            let text = value.as_str().or_else(|| value.get("content")?.as_str());
            if let (true, Some(text)) = (key.ends_with("_token"), text) {
                tokens.insert(key.clone(), Value::from(text));
            }
        }
        Ok(Self {
            sha256: hex(&Sha256::digest(&source)),
            jinja: Jinja::new(source, name, dialect.advise(", or ", ", which need none"))?,
            dialect,
            tokens,
        })
    }

    /// SHA-256 of its source.
    pub fn sha256(&self) -> &str {
        &self.sha256
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
        self.holds(messages.iter().enumerate(), conversation, options, control)
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
        if options.keep_thinking {
            let built_in = match self.dialect.renderer_names() {
                names if names.is_empty() => format!("{} has none", self.dialect.name()),
                names => names,
            };
            bail!(
                "keep_thinking needs a built-in renderer ({built_in}): the model's template leaves \
                 the reasoning of earlier turns out"
            );
        }
        let messages = options.messages(conversation);
        self.holds(written(&messages, options), conversation, options, control)?;
        let mut variables = options.variables(conversation).0;
        for (name, token) in &self.tokens {
            variables.entry(name).or_insert_with(|| token.clone());
        }
        let key = self.dialect.reasoning_key();
        let messages = written(&messages, options).map(|(_, message)| fields(message, key));
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

    fn holds<'a>(
        &self,
        messages: impl Iterator<Item = (usize, &'a Message)>,
        conversation: &Conversation,
        options: &RenderOptions,
        control: &TokenSet,
    ) -> Result<()> {
        for (name, value) in &options.variables(conversation).0 {
            self.refuse_typed(value, control)
                .with_context(|| format!("`{name}`"))?;
        }
        let key = self.dialect.reasoning_key();
        for (i, message) in messages {
            self.fits(message)
                .and_then(|()| self.refuse_typed(&fields(message, key), control))
                .with_context(|| format!("message {} ({})", i + 1, message.role))?;
        }
        let mut tools = conversation.tools.iter();
        tools
            .try_for_each(|tool| self.refuse_typed(tool, control))
            .context("`tools`")
    }

    /// Refuses text in which a control token was typed, since a template's output is text alone.
    fn refuse_typed(&self, value: &Value, control: &TokenSet) -> Result<()> {
        let Some(token) = typed(value, control) else {
            return Ok(());
        };
        let advice = self.dialect.advise("; ", " writes it as text");
        bail!(
            "the text holds {token}, a control token, and the model's chat template cannot tell what was \
             typed from what it writes itself{advice}"
        )
    }

    /// Templates have no place for some of what a conversation can hold, and would write it as something else.
    fn fits(&self, message: &Message) -> Result<()> {
        let found = match self.dialect.without_place(message) {
            Some(found) => found,
            None if only_reasons(message) => "reasoning without an answer or a call after it",
            None => return Ok(()),
        };
        let advice = self.dialect.advise("; ", " writes it");
        bail!("{found}, for which the model's template has no place{advice}")
    }
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

/// The first control token that was typed in a value.
fn typed<'a>(value: &'a Value, control: &TokenSet) -> Option<&'a str> {
    match value {
        Value::String(text) => control.first(text),
        Value::Array(items) => items.iter().find_map(|item| typed(item, control)),
        Value::Object(fields) => fields
            .iter()
            .find_map(|(key, value)| control.first(key).or_else(|| typed(value, control))),
        _ => None,
    }
}

fn only_reasons(message: &Message) -> bool {
    message.thinking.is_some() && message.content.is_null() && message.tool_calls.is_empty()
}

/// A message as templates expect it, with its reasoning under `reasoning_key`: keys that have no value are left out.
fn fields(message: &Message, reasoning_key: &str) -> Value {
    let mut fields = Map::new();
    fields.insert("role".to_owned(), Value::from(message.role.as_str()));
    if !message.content.is_null() || message.role == "tool" {
        fields.insert("content".to_owned(), message.content.clone());
    }
    if let Some(thinking) = &message.thinking {
        fields.insert(reasoning_key.to_owned(), Value::from(thinking.as_str()));
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            json!({"type": "function", "function": {"name": call.name, "arguments": call.arguments}})
        });
        fields.insert("tool_calls".to_owned(), calls.collect());
    }
    Value::Object(fields)
}
