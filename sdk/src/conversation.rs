//! What a dataset row becomes: a conversation, or tokens that somebody already made.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One training example.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sample {
    /// Messages, still to be rendered by the chat template.
    Conversation(Conversation),
    /// Tokens with labels, trained as they are.
    Tokens(TokenRow),
}

impl From<Conversation> for Sample {
    fn from(conversation: Conversation) -> Self {
        Self::Conversation(conversation)
    }
}

impl From<TokenRow> for Sample {
    fn from(row: TokenRow) -> Self {
        Self::Tokens(row)
    }
}

/// A conversation in the form of the OpenAI messages API.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// The messages, oldest first. A first `system` or `developer` message holds the instructions.
    pub messages: Vec<Message>,
    /// Tool definitions (OpenAI's JSON schema form), empty if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
    /// Values for the chat template, such as `reasoning_effort` or `model_identity`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub template_kwargs: Map<String, Value>,
    /// Name of the group of rows under which this conversation's loss is reported (`enable_channel_loss`), if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
}

impl Conversation {
    /// A conversation of these messages, without tools.
    pub fn new(messages: Vec<Message>) -> Self {
        Self {
            messages,
            ..Self::default()
        }
    }

    /// The same in this [channel](Self::channel), or in none.
    #[must_use]
    pub fn of_channel(mut self, channel: Option<String>) -> Self {
        self.channel = channel;
        self
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text; `Null` for a bare tool call, or reasoning whose answer or call is a message of its own; any JSON
    /// for the result of a tool.
    #[serde(default)]
    pub content: Value,
    /// Harmony's channel of an assistant's content, where the dataset names it: `final`, or `commentary` for
    /// words to the user on the way to a call or an answer. `None`: `final`, or before a call what the
    /// chat template makes of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// The reasoning that goes before an assistant's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// Calls that an assistant makes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// `Some(false)`: never train this message; `Some(true)`: train it whatever the base strategy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<bool>,
    /// A weight for the whole message, in place of the loss scale's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
}

impl Message {
    /// A message of this role with this text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: Value::String(content.into()),
            ..Self::default()
        }
    }

    /// The same trained whatever the base strategy says, or never ([`loss`](Self::loss)).
    #[must_use]
    pub fn trained(mut self, trained: bool) -> Self {
        self.loss = Some(trained);
        self
    }

    /// The content if it is text.
    pub fn text(&self) -> Option<&str> {
        self.content.as_str()
    }
}

/// A call of a function, as the OpenAI API writes it (`{"function": {..}}` is unwrapped).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Name of the function.
    pub name: String,
    /// Its arguments: an object, or text as the dataset has it.
    #[serde(default)]
    pub arguments: Value,
}

/// A row that is already tokenised.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenRow {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// A label for each token, -100 where nothing is trained; same length as `input_ids`.
    pub labels: Vec<i64>,
    /// A weight for each label, or `None` for 1 everywhere; same length as `input_ids`.
    pub loss_scale: Option<Vec<f32>>,
    /// Name of the group of rows under which this row's loss is reported (`enable_channel_loss`), if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
}
