//! The fields of a chat completion.

use super::calls::{ToolChoice, shape, tools};
use super::messages::{ChatMessage, conversation};
use crate::serve::http::ApiError;
use crate::serve::http::body::Refused;
use crate::serve::sampling::refused;
use crate::serve::server::Server;
use apus_data::chat::dialect::AnswerShape;
use apus_sdk::Conversation;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The field that names a schema.
pub const RESPONSE_FORMAT: &str = "response_format";

/// What a request has beside how tokens are chosen.
#[derive(Debug, Deserialize)]
pub struct ChatRequest {
    /// The model, or an adapter.
    pub model: Option<String>,
    /// The conversation.
    pub messages: Vec<ChatMessage>,
    /// Whether the answer is sent while it is generated.
    pub stream: Option<bool>,
    /// What a stream has beside the answer.
    pub stream_options: Option<StreamOptions>,
    /// Answers.
    pub n: Option<usize>,
    /// The most tokens of an answer, by its old name.
    pub max_tokens: Option<usize>,
    /// The most tokens of an answer.
    pub max_completion_tokens: Option<usize>,
    /// Whether log-probabilities are told.
    pub logprobs: Option<bool>,
    /// The most probable tokens to tell.
    pub top_logprobs: Option<usize>,
    /// Tools that may be called.
    pub tools: Option<Vec<Value>>,
    /// Which of them.
    pub tool_choice: Option<Value>,
    /// The form of the answer.
    pub response_format: Option<Value>,
    /// How much the model reasons.
    pub reasoning_effort: Option<String>,
    /// Whether the reasoning is told.
    pub include_reasoning: Option<bool>,
    /// Variables of the chat template.
    pub chat_template_kwargs: Option<Map<String, Value>>,
}

/// What a stream has beside the answer.
#[derive(Debug, Deserialize)]
pub struct StreamOptions {
    /// Whether a last chunk counts tokens.
    pub include_usage: Option<bool>,
    /// Whether chunks are padded against eavesdroppers, which a proxy does as well; they are not.
    #[serde(rename = "include_obfuscation")]
    _include_obfuscation: Option<bool>,
}

/// Fields that would change the answer and are not built.
pub const REFUSED: &[Refused] = &[
    refused("audio", &[], "there is text alone"),
    refused("modalities", &["[\"text\"]", "[]"], "there is text alone"),
    refused("prediction", &[], "nothing is predicted by clients"),
    refused(
        "web_search_options",
        &[],
        "the server searches nowhere; a client may offer a tool for it",
    ),
    refused("functions", &["[]"], "their name is tools"),
    refused(
        "function_call",
        &["\"none\"", "\"auto\""],
        "its name is tool_choice",
    ),
    refused("verbosity", &["\"medium\""], "say it in the instructions"),
    refused(
        "continue_final_message",
        &["false"],
        "an answer begins anew; /v1/completions goes on from any text",
    ),
    refused(
        "add_generation_prompt",
        &["true"],
        "the model always answers",
    ),
    refused(
        "add_special_tokens",
        &["false"],
        "the chat template writes all control tokens",
    ),
    refused("echo", &["false"], "/v1/completions has it"),
    refused("suffix", &[], "there is no text after the answer"),
    refused("documents", &["[]"], "put them into a message"),
    refused("chat_template", &[], "the template is the model's"),
    refused("mm_processor_kwargs", &[], "there is text alone"),
    refused("best_of", &["1"], "n gives several answers"),
];

/// The JSON schema that an answer has to fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema(pub Value);

impl Schema {
    /// Reads `response_format`, or the `text.format` of a response, which has the schema a level higher.
    ///
    /// # Errors
    /// Another type, or a schema that is none.
    pub fn read(format: &Value, param: &str) -> Result<Option<Self>, ApiError> {
        match format.get("type").and_then(Value::as_str) {
            Some("text") => Ok(None),
            Some("json_object") => Ok(Some(Self(json!({"type": "object"})))),
            Some("json_schema") => {
                let holder = format.get("json_schema").unwrap_or(format);
                match holder.get("schema") {
                    Some(schema @ (Value::Object(_) | Value::Bool(true))) => {
                        Ok(Some(Self(schema.clone())))
                    }
                    Some(other) => Err(ApiError::of(
                        param,
                        format!("the schema is {other}, expected an object"),
                    )),
                    None => Err(ApiError::of(param, "has no schema")),
                }
            }
            _ => Err(ApiError::of(
                param,
                "expected an object with type text, json_object or json_schema",
            )),
        }
    }
}

impl ChatRequest {
    fn choice(&self) -> Result<ToolChoice, ApiError> {
        ToolChoice::read(self.tool_choice.as_ref())
    }

    /// The conversation to answer.
    ///
    /// # Errors
    /// Messages or tools that cannot be meant.
    pub fn conversation(&self, server: &Server) -> Result<Conversation, ApiError> {
        let mut kwargs = self.chat_template_kwargs.clone().unwrap_or_default();
        if let Some(effort) = &self.reasoning_effort {
            kwargs.insert("reasoning_effort".to_owned(), effort.as_str().into());
        }
        let tools = match self.choice()? {
            ToolChoice::Never => Vec::new(),
            _ => tools(self.tools.as_deref().unwrap_or_default())?,
        };
        let mut conversation = conversation(&self.messages)?;
        conversation.tools = tools;
        conversation.template_kwargs = kwargs;
        server.dated(&mut conversation);
        Ok(conversation)
    }

    /// What the answer is held to, and the field that asks for it.
    ///
    /// # Errors
    /// A format or a choice that cannot be meant.
    pub fn shape(&self) -> Result<Option<(AnswerShape, &'static str)>, ApiError> {
        let schema = match &self.response_format {
            None | Some(Value::Null) => None,
            Some(format) => Schema::read(format, RESPONSE_FORMAT)?,
        };
        let tools = tools(self.tools.as_deref().unwrap_or_default())?;
        shape(schema, &tools, &self.choice()?)
    }

    /// Reads everything that needs no server.
    ///
    /// # Errors
    /// What cannot be meant.
    pub fn read_anything(&self) -> Result<(), ApiError> {
        conversation(&self.messages)?;
        self.shape().map(drop)
    }
}
