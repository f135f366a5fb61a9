//! The fields of requests that say how tokens are chosen, which all endpoints have in common.

use super::http::ApiError;
use super::http::body::Refused;
use crate::generate::Sampling;
use apus_data::chat::Tokenizer;
use apus_sdk::within;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::ops::Bound;

/// OpenAI's fields, and those that vLLM adds.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SamplingFields {
    /// The temperature.
    pub temperature: Option<f64>,
    /// The share of probability that is kept.
    pub top_p: Option<f64>,
    /// How many tokens are kept; 0 and -1 keep all.
    pub top_k: Option<i64>,
    /// The share of the greatest probability from which on tokens are kept.
    pub min_p: Option<f64>,
    /// The penalty on tokens of prompt and answer.
    pub repetition_penalty: Option<f64>,
    /// The penalty on tokens that the answer has.
    pub presence_penalty: Option<f64>,
    /// The penalty on tokens for each time that the answer has them.
    pub frequency_penalty: Option<f64>,
    /// What is added to logits, by token id.
    pub logit_bias: Option<Map<String, Value>>,
    /// The seed.
    pub seed: Option<i64>,
    /// Strings at which the answer ends.
    pub stop: Option<OneOrMany>,
    /// Tokens at which the answer ends.
    pub stop_token_ids: Option<Vec<u32>>,
    /// Whether to go on after the tokens at which answers end.
    pub ignore_eos: Option<bool>,
}

/// A text, or a list of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected text, or a list of texts")]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// The most stop strings, and the most bytes of each.
const STOP: (usize, usize) = (16, 1024);

/// Fields of vLLM's that would change an answer and are not built.
pub const REFUSED: &[Refused] = &[
    refused(
        "use_beam_search",
        &["false"],
        "answers are sampled, or greedy at temperature 0",
    ),
    refused("length_penalty", &["1", "1.0"], "it belongs to beam search"),
    refused("early_stopping", &["false"], "it belongs to beam search"),
    refused(
        "min_tokens",
        &["0"],
        "an answer ends where the model ends it",
    ),
    refused(
        "bad_words",
        &["[]"],
        "logit_bias with -100 keeps a token away",
    ),
    refused(
        "allowed_token_ids",
        &["[]"],
        "logit_bias with -100 keeps a token away",
    ),
    refused(
        "prompt_logprobs",
        &["0"],
        "/v1/completions has echo with logprobs",
    ),
    refused(
        "truncate_prompt_tokens",
        &["-1"],
        "a prompt that is too long is refused, not cut",
    ),
    refused(
        "include_stop_str_in_output",
        &["false"],
        "a stop string is not part of the answer",
    ),
    refused(
        "skip_special_tokens",
        &["true"],
        "control tokens are not part of the answer",
    ),
    refused(
        "guided_json",
        &[],
        "response_format holds answers to a schema",
    ),
    refused(
        "guided_regex",
        &[],
        "response_format holds answers to a schema",
    ),
    refused(
        "guided_choice",
        &[],
        "response_format holds answers to a schema with an enum",
    ),
    refused(
        "guided_grammar",
        &[],
        "response_format holds answers to a schema",
    ),
    refused(
        "structured_outputs",
        &[],
        "response_format holds answers to a schema",
    ),
    refused("logits_processors", &["[]"], "no code of clients is run"),
    refused("kv_transfer_params", &[], "there is one server"),
];

/// A row of a table of refused fields.
pub const fn refused(
    name: &'static str,
    harmless: &'static [&'static str],
    why: &'static str,
) -> Refused {
    Refused {
        name,
        harmless,
        why,
    }
}

impl SamplingFields {
    /// How tokens are chosen: these fields over the server's defaults.
    ///
    /// # Errors
    /// A value out of its range.
    pub fn sampling(
        &self,
        defaults: &Sampling,
        tokenizer: &Tokenizer,
    ) -> Result<Sampling, ApiError> {
        let share = (Bound::Excluded(0.0), Bound::Included(1.0));
        let above_0 = (Bound::Excluded(0.0), Bound::Unbounded);
        let both = -2.0..=2.0;
        let number =
            |name: &str, value: Option<f64>, range: &dyn Fn(f64) -> anyhow::Result<()>| match value
            {
                None => Ok(None),
                Some(value) if !value.is_finite() => {
                    Err(ApiError::of(name, "expected a finite number"))
                }
                Some(value) => match range(value) {
                    Ok(()) => Ok(Some(value)),
                    Err(error) => Err(ApiError::invalid(error).at(name)),
                },
            };
        let temperature = number("temperature", self.temperature, &|v| {
            Ok(within("temperature", &v, &(0.0..=2.0))?)
        })?;
        let top_p = number("top_p", self.top_p, &|v| Ok(within("top_p", &v, &share)?))?;
        let min_p = number("min_p", self.min_p, &|v| {
            Ok(within("min_p", &v, &(0.0..=1.0))?)
        })?;
        let repetition = number("repetition_penalty", self.repetition_penalty, &|v| {
            Ok(within("repetition_penalty", &v, &above_0)?)
        })?;
        let presence = number("presence_penalty", self.presence_penalty, &|v| {
            Ok(within("presence_penalty", &v, &both)?)
        })?;
        let frequency = number("frequency_penalty", self.frequency_penalty, &|v| {
            Ok(within("frequency_penalty", &v, &both)?)
        })?;
        let top_k = match self.top_k {
            None => defaults.top_k,
            Some(k) if k >= -1 => usize::try_from(k).unwrap_or(0),
            Some(k) => {
                return Err(ApiError::of(
                    "top_k",
                    format!("is {k}, expected a number of tokens, or -1 for all"),
                ));
            }
        };
        Ok(Sampling {
            temperature: temperature.unwrap_or(defaults.temperature),
            top_p: top_p.unwrap_or(defaults.top_p),
            top_k,
            min_p: min_p.unwrap_or(defaults.min_p),
            repetition_penalty: repetition.unwrap_or(defaults.repetition_penalty),
            presence_penalty: presence.unwrap_or(defaults.presence_penalty),
            frequency_penalty: frequency.unwrap_or(defaults.frequency_penalty),
            logit_bias: self.bias(tokenizer)?,
            seed: self.seed.map_or(defaults.seed, i64::cast_unsigned),
            max_new_tokens: defaults.max_new_tokens,
        })
    }

    fn bias(&self, tokenizer: &Tokenizer) -> Result<Vec<(u32, f32)>, ApiError> {
        let tokens = tokenizer.len();
        let one = |(id, value): (&String, &Value)| {
            let param = format!("logit_bias.{id}");
            let token: Option<u32> = id.parse().ok();
            let token = token
                .filter(|token| (*token as usize) < tokens)
                .ok_or_else(|| {
                    ApiError::of(&param, format!("expected token ids below {tokens}"))
                })?;
            let bias = value.as_f64().filter(|bias| bias.abs() <= 100.0);
            let bias = bias.ok_or_else(|| {
                ApiError::of(
                    &param,
                    format!("is {value}, expected a number from -100 to 100"),
                )
            })?;
            Ok((token, bias as f32))
        };
        self.logit_bias.iter().flatten().map(one).collect()
    }

    /// The strings at which an answer ends.
    ///
    /// # Errors
    /// Too many, or one that is empty or too long.
    pub fn stop_strings(&self) -> Result<Vec<String>, ApiError> {
        let strings = match &self.stop {
            None => Vec::new(),
            Some(OneOrMany::One(text)) => vec![text.clone()],
            Some(OneOrMany::Many(texts)) => texts.clone(),
        };
        let (most, bytes) = STOP;
        if strings.len() > most {
            return Err(ApiError::of(
                "stop",
                format!("{} strings, expected at most {most}", strings.len()),
            ));
        }
        match strings
            .iter()
            .find(|text| text.is_empty() || text.len() > bytes)
        {
            Some(text) => Err(ApiError::of(
                "stop",
                format!("a string of {} bytes, expected 1 to {bytes}", text.len()),
            )),
            None => Ok(strings),
        }
    }

    /// The tokens at which an answer ends beside the dialect's.
    pub fn stop_ids(&self) -> Vec<u32> {
        self.stop_token_ids.clone().unwrap_or_default()
    }
}
