//! Log-probabilities in a line of answers, in the form of OpenAI's API, which ms-swift writes too.

use super::{Answer, Job, TokenLogprobs};
use apus_data::chat::{Encoder, Tokenizer};
use serde_json::{Map, Value, json};

/// The log-probabilities of the tokens of an answer, if the job asks for them.
pub(super) fn logprobs_of(answer: &Answer, job: &Job, encoder: &Encoder) -> Option<Value> {
    let most = job.logprobs?;
    let tokens = answer.tokens.iter().zip(&answer.logprobs);
    let content: Vec<Value> = tokens
        .map(|(token, logprobs)| entry(*token, logprobs, most, encoder.tokenizer()))
        .collect();
    Some(json!({"content": content}))
}

fn entry(token: u32, logprobs: &TokenLogprobs, most: usize, tokenizer: &Tokenizer) -> Value {
    let mut entry = one(token, logprobs.logprob, tokenizer);
    if most > 0 {
        let top = logprobs
            .top
            .iter()
            .filter(|(_, logprob)| logprob.is_finite());
        let top = top.map(|(token, logprob)| Value::Object(one(*token, *logprob, tokenizer)));
        entry.insert("top_logprobs".to_owned(), top.collect());
    }
    Value::Object(entry)
}

fn one(token: u32, logprob: f32, tokenizer: &Tokenizer) -> Map<String, Value> {
    let bytes = tokenizer.token(token);
    Map::from_iter([
        ("token".to_owned(), String::from_utf8_lossy(bytes).into()),
        ("logprob".to_owned(), logprob.into()),
        ("bytes".to_owned(), json!(bytes)),
    ])
}
