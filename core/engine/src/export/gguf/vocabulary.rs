//! The vocabulary of a model as llama.cpp wants it: byte-level BPE, which it knows as that of GPT-2, with the way in which texts are
//! split into words by name.

use super::header::Value as Fact;
use anyhow::{Context, Result, bail, ensure};
use apus_data::chat::template::TemplateFile;
use apus_sdk::errln;
use apus_sdk::small_file::{self, Limit};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::Path;

/// The largest tokenizers take a tenth of it.
const LIMIT: Limit = Limit::of(512 << 20);

/// The ways in which llama.cpp splits texts, by the regular expressions of tokenizer.json: that of o200k.
const SPLITS: &[(&str, &str)] = &[(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt-4o",
)];

/// An ordinary token.
const NORMAL: i32 = 1;
/// A token that frames texts.
const CONTROL: i32 = 3;
/// A word that was added to the vocabulary.
const USER_DEFINED: i32 = 4;
/// An id without a token.
const UNUSED: i32 = 5;

/// tokenizer.json, as far as it goes into a file.
#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    added_tokens: Vec<Added>,
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: Vec<Merge>,
}

/// A merge is two tokens, or both in one text with a space between them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Text(String),
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

/// What a file says about the vocabulary and the template of the model in `dir`, whose config.json has the fields `raw`. The vocabulary has
/// `size` ids.
///
/// # Errors
/// tokenizer.json is missing or malformed, or llama.cpp has no such tokenizer.
pub fn facts(dir: &Path, raw: &Map<String, Value>, size: usize) -> Result<Vec<(String, Fact)>> {
    let path = dir.join("tokenizer.json");
    let text = small_file::text(&path, LIMIT)
        .context("a GGUF file holds the tokenizer, so the model's folder needs one")?;
    let file: TokenizerFile =
        serde_json::from_str(&text).with_context(|| format!("{}: malformed", path.display()))?;
    let template = TemplateFile::of(dir)?;
    if template.text.is_none() {
        errln!(
            "note: {} has no chat template, and so the file has none; llama.cpp then frames messages in a way of its own",
            dir.display()
        );
    }
    let mut facts = file
        .facts(size)
        .with_context(|| path.display().to_string())?;
    for kind in ["bos", "eos", "pad"] {
        let named = template.config.get(format!("{kind}_token"));
        let id = file.id_of(named).or_else(|| {
            let id = raw.get(&format!("{kind}_token_id"))?.as_u64()?;
            u32::try_from(id).ok()
        });
        let key = match kind {
            "pad" => "tokenizer.ggml.padding_token_id".to_owned(),
            kind => format!("tokenizer.ggml.{kind}_token_id"),
        };
        facts.extend(id.map(|id| (key, Fact::U32(id))));
    }
    if let Some(template) = template.text {
        facts.push(("tokenizer.chat_template".to_owned(), Fact::Text(template)));
    }
    Ok(facts)
}

impl TokenizerFile {
    fn facts(&self, size: usize) -> Result<Vec<(String, Fact)>> {
        let split = self.split()?;
        let (tokens, kinds) = self.tokens(size)?;
        let merges: Result<Vec<String>> = self.model.merges.iter().map(Merge::text).collect();
        let facts = [
            ("model", Fact::from("gpt2")),
            ("pre", Fact::from(split)),
            ("tokens", Fact::Texts(tokens)),
            ("token_type", Fact::I32s(kinds)),
            ("merges", Fact::Texts(merges?)),
            ("add_bos_token", Fact::Bool(false)),
            ("add_eos_token", Fact::Bool(false)),
        ];
        Ok(facts
            .map(|(key, fact)| (format!("tokenizer.ggml.{key}"), fact))
            .to_vec())
    }

    /// llama.cpp's name for the way in which texts are split.
    fn split(&self) -> Result<&'static str> {
        ensure!(
            self.normalizer.is_null(),
            "normalizer is {}, expected none, as llama.cpp has it for byte-level BPE",
            self.normalizer
        );
        let steps = &self.pre_tokenizer["pretokenizers"];
        let steps = steps.as_array().map_or(&[][..], Vec::as_slice);
        let expression = steps
            .iter()
            .find_map(|step| step["pattern"]["Regex"].as_str());
        let bytes = steps.iter().any(|step| step["type"] == "ByteLevel");
        let found = expression.with_context(|| {
            format!(
                "pre_tokenizer is {}, expected words by a regular expression and then bytes",
                self.pre_tokenizer
            )
        })?;
        let name = SPLITS.iter().find(|(known, _)| *known == found && bytes);
        let (_, name) = name.with_context(|| {
            format!(
                "texts are split by {found:?}, a way to which no name of llama.cpp is known here (it has {})",
                SPLITS[0].1
            )
        })?;
        Ok(name)
    }

    /// All tokens by id, and their kinds.
    fn tokens(&self, size: usize) -> Result<(Vec<String>, Vec<i32>)> {
        ensure!(!self.model.vocab.is_empty(), "model.vocab is empty");
        let mut tokens: Vec<String> = (0..size).map(|id| format!("[PAD{id}]")).collect();
        let mut kinds = vec![UNUSED; size];
        let mut put = |id: u32, token: &str, kind: i32| -> Result<()> {
            let (Some(place), Some(kind_of)) =
                (tokens.get_mut(id as usize), kinds.get_mut(id as usize))
            else {
                bail!("token {token:?} has the id {id}, and vocab_size is {size}")
            };
            (*place, *kind_of) = (token.to_owned(), kind);
            Ok(())
        };
        for (token, id) in &self.model.vocab {
            put(*id, token, NORMAL)?;
        }
        for added in &self.added_tokens {
            let framing = added.content.starts_with("<|") && added.content.ends_with("|>");
            let kind = match added.special || framing {
                true => CONTROL,
                false => USER_DEFINED,
            };
            put(added.id, &added.content, kind)?;
        }
        Ok((tokens, kinds))
    }

    /// The id of a token that tokenizer_config.json names, as text or as an object.
    fn id_of(&self, named: Option<&Value>) -> Option<u32> {
        let named = named?;
        let content = named.as_str().or_else(|| named.get("content")?.as_str())?;
        let mut added = self.added_tokens.iter();
        added
            .find(|token| token.content == content)
            .map(|token| token.id)
    }
}

impl Merge {
    fn text(&self) -> Result<String> {
        let (left, right) = match self {
            Self::Pair(left, right) => (left.as_str(), right.as_str()),
            Self::Text(text) => text
                .split_once(' ')
                .with_context(|| format!("the merge {text:?} is no two tokens"))?,
        };
        ensure!(
            !left.contains(' ') && !right.contains(' '),
            "the merge of {left:?} and {right:?} holds a space, which no byte is in byte-level BPE"
        );
        Ok(format!("{left} {right}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tokenizer() -> Value {
        json!({
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLITS[0].0}},
                {"type": "ByteLevel"},
            ]},
            "model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
            "added_tokens": [
                {"id": 4, "content": "<|end|>", "special": true},
                {"id": 5, "content": "<|odd|>"},
                {"id": 6, "content": "word"},
            ],
        })
    }

    fn facts_of(tokenizer: &Value, size: usize) -> Result<Vec<(String, Fact)>> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string())?;
        std::fs::write(
            dir.path().join("tokenizer_config.json"),
            json!({"eos_token": {"content": "<|end|>"}, "pad_token": "<|odd|>"}).to_string(),
        )?;
        std::fs::write(dir.path().join("chat_template.jinja"), "{{ x }}")?;
        let raw = json!({"bos_token_id": 2, "eos_token_id": 3});
        facts(dir.path(), raw.as_object().unwrap(), size)
    }

    #[test]
    fn every_id_has_a_token_and_a_kind() {
        let facts: HashMap<_, _> = facts_of(&tokenizer(), 8).unwrap().into_iter().collect();
        let texts = |words: [&str; 8]| Fact::Texts(words.map(str::to_owned).to_vec());
        let found = |key: &str| facts[&format!("tokenizer.ggml.{key}")].clone();
        let tokens = [
            "a", "b", "ab", "[PAD3]", "<|end|>", "<|odd|>", "word", "[PAD7]",
        ];
        assert_eq!(found("tokens"), texts(tokens));
        assert_eq!(
            found("token_type"),
            Fact::I32s(vec![1, 1, 1, 5, 3, 3, 4, 5])
        );
        assert_eq!(found("merges"), Fact::Texts(vec!["a b".to_owned()]));
        assert_eq!(found("pre"), Fact::from("gpt-4o"));
        let ids = ["bos_token_id", "eos_token_id", "padding_token_id"].map(found);
        assert_eq!(ids, [2, 4, 5].map(Fact::U32));
        assert_eq!(facts["tokenizer.chat_template"], Fact::from("{{ x }}"));
    }

    #[test]
    fn merges_of_either_spelling_are_the_same() {
        let mut older = tokenizer();
        older["model"]["merges"] = json!(["a b"]);
        assert_eq!(
            facts_of(&older, 8).unwrap(),
            facts_of(&tokenizer(), 8).unwrap()
        );
    }

    #[test]
    fn what_llama_cpp_has_not_is_refused() {
        for (pointer, value, says) in [
            ("/normalizer", json!({"type": "NFC"}), "normalizer is"),
            (
                "/pre_tokenizer",
                json!({"type": "ByteLevel"}),
                "pre_tokenizer is",
            ),
            (
                "/pre_tokenizer/pretokenizers/0/pattern/Regex",
                json!("\\s+"),
                "no name of llama.cpp",
            ),
            (
                "/pre_tokenizer/pretokenizers/1/type",
                json!("Digits"),
                "no name of llama.cpp",
            ),
            ("/model/vocab", json!({}), "model.vocab is empty"),
            (
                "/model/vocab/a",
                json!(8),
                "token \"a\" has the id 8, and vocab_size is 8",
            ),
            (
                "/added_tokens/2/id",
                json!(9),
                "token \"word\" has the id 9",
            ),
            ("/model/merges/0", json!("ab"), "is no two tokens"),
            ("/model/merges/0", json!(["a", "b c"]), "holds a space"),
            ("/model", json!(3), "malformed"),
        ] {
            let mut bad = tokenizer();
            bad["normalizer"] = Value::Null;
            *bad.pointer_mut(pointer).unwrap() = value;
            let error = format!("{:#}", facts_of(&bad, 8).unwrap_err());
            assert!(
                error.contains(says) && error.contains("tokenizer.json"),
                "{error}"
            );
        }
    }
}
