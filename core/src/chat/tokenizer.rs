//! The model's tokenizer: byte-level BPE from tokenizer.json, with the ids of its special tokens.
//!
//! Every id, special ones included, is read from the model's files; none is known beforehand.

use super::words::Words;
use crate::model::config::MOST_TOKENS;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use std::{collections::BTreeSet, fs, ops::Range, path::Path};
use tokenizers::DecoderWrapper;

/// A byte-level tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The fast way, for tokenizers that are made as gpt-oss' is.
    words: Option<Words>,
    /// The bytes of all tokens, one after another.
    bytes: Vec<u8>,
    /// Where each token's bytes stand in `bytes`, by id.
    ranges: Vec<Range<u32>>,
    special: BTreeSet<u32>,
    bos: Option<u32>,
    pad: Option<u32>,
    eos: Vec<u32>,
}

/// Token ids of a text and where they end in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The byte after the last one of each token.
    pub ends: Vec<usize>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder, and beside it, where they exist,
    /// `tokenizer_config.json` and `generation_config.json`.
    ///
    /// # Errors
    /// A file that is missing (tokenizer.json) or malformed; a tokenizer that is not byte-level.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let json = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let config = optional(&dir.join("tokenizer_config.json"))?;
        let generation = optional(&dir.join("generation_config.json"))?;
        Self::new(&json, config.as_ref(), generation.as_ref())
            .with_context(|| format!("tokenizer {}", path.display()))
    }

    /// A tokenizer from the text of tokenizer.json and the values of the two other files.
    ///
    /// # Errors
    /// A malformed file, or a tokenizer that is not byte-level.
    pub fn new(json: &[u8], config: Option<&Value>, generation: Option<&Value>) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json)
            .map_err(|error| anyhow!("malformed tokenizer.json: {error}"))?;
        ensure!(
            matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))),
            "expected a byte-level BPE tokenizer (a decoder of type ByteLevel), as gpt-oss has"
        );
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| anyhow!("{error}"))?;
        let (bytes, ranges) = token_bytes(&inner)?;
        let added = inner.get_added_tokens_decoder();
        let special = added
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(id, _)| *id)
            .collect();
        let named = |key: &str| {
            let content = text_of(config?.get(key)?)?;
            inner.token_to_id(content)
        };
        let in_generation = |key: &str| ids(generation.and_then(|g| g.get(key)));
        let mut eos = in_generation("eos_token_id");
        eos.extend(named("eos_token"));
        let first = |key: &str| in_generation(key).first().copied();
        let bos = named("bos_token").or_else(|| first("bos_token_id"));
        let pad = named("pad_token").or_else(|| first("pad_token_id"));
        dedup(&mut eos);
        let words = Words::new(&inner, letters());
        Ok(Self {
            inner,
            words,
            bytes,
            ranges,
            special,
            bos,
            pad,
            eos,
        })
    }

    /// The ids of a text in which special tokens count as special; nothing is added around it.
    ///
    /// # Errors
    /// A failure of the tokenizer.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if let Some(words) = &self.words {
            return words.encode(&self.inner, text);
        }
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| anyhow!("tokenising: {error}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The same ids, and where each token ends in the text.
    ///
    /// # Errors
    /// A failure of the tokenizer, or a tokenizer that does not keep every byte of the text.
    pub fn encode_with_ends(&self, text: &str) -> Result<Tokens> {
        let ids = self.encode(text)?;
        let mut end = 0;
        let ends = ids.iter().map(|id| {
            end += self.token(*id).len();
            end
        });
        let ends: Vec<_> = ends.collect();
        if end != text.len() {
            bail!(
                "the tokenizer changes the text: its tokens cover {end} bytes of {}; normalizers \
                 are not supported",
                text.len()
            );
        }
        Ok(Tokens { ids, ends })
    }

    /// The bytes of a token; empty for an id without one.
    pub fn token(&self, id: u32) -> &[u8] {
        let range = self.ranges.get(id as usize).cloned().unwrap_or(0..0);
        &self.bytes[range.start as usize..range.end as usize]
    }

    /// The text of these ids, special tokens included if `special` is set. Bytes that are not
    /// UTF-8 become replacement characters.
    pub fn decode(&self, ids: &[u32], special: bool) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids, special)).into_owned()
    }

    /// The bytes of these ids, special tokens included if `special` is set.
    pub fn decode_bytes(&self, ids: &[u32], special: bool) -> Vec<u8> {
        let keep = |id: &&u32| special || !self.is_special(**id);
        let kept = ids.iter().filter(keep);
        kept.flat_map(|id| self.token(*id).iter().copied())
            .collect()
    }

    /// The id of a token, special or not, by its text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether this id is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// One more than the highest id that has a token.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The first token of a text, if the model names one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The padding token, if the model names one.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// The ids that end a generation, as generation_config.json and tokenizer_config.json say.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The ids at which generation of an answer stops: [`eos`](Self::eos), and harmony's
    /// `<|return|>` and `<|call|>` if the tokenizer has them.
    pub fn stop_ids(&self) -> Vec<u32> {
        let mut ids = self.eos.clone();
        ids.extend(["<|return|>", "<|call|>"].iter().filter_map(|t| self.id(t)));
        dedup(&mut ids);
        ids
    }

    /// The tokenizer underneath.
    pub fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }
}

fn optional(path: &Path) -> Result<Option<Value>> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .with_context(|| format!("malformed JSON in {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// A token in tokenizer_config.json is its text, or an object with `content`.
fn text_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A token id in generation_config.json is a number or a list of them.
fn ids(value: Option<&Value>) -> Vec<u32> {
    let one = |value: &Value| u32::try_from(value.as_u64()?).ok();
    match value {
        Some(Value::Array(items)) => items.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}

fn dedup(ids: &mut Vec<u32>) {
    let mut seen = BTreeSet::new();
    ids.retain(|id| seen.insert(*id));
}

/// The bytes of every token. A byte-level vocabulary writes each byte as a character.
fn token_bytes(inner: &tokenizers::Tokenizer) -> Result<(Vec<u8>, Vec<Range<u32>>)> {
    let alphabet = alphabet();
    let added = inner.get_added_tokens_decoder();
    let vocabulary = inner.get_vocab(true);
    let highest = match vocabulary.iter().max_by_key(|(_, id)| **id) {
        Some((token, id)) if *id as usize >= MOST_TOKENS => {
            bail!("token {token:?} has the id {id}, expected one below {MOST_TOKENS}")
        }
        Some((_, id)) => *id as usize + 1,
        None => 0,
    };
    let mut bytes = Vec::with_capacity(8 * vocabulary.len());
    let mut ranges = vec![0..0; highest];
    for (token, id) in vocabulary {
        let from = u32::try_from(bytes.len())?;
        if added.contains_key(&id) {
            bytes.extend_from_slice(token.as_bytes());
        } else {
            for c in token.chars() {
                let byte = alphabet.get(c as usize).copied().flatten();
                bytes.push(byte.with_context(|| {
                    format!("token {id} holds `{c}`, which is not in the byte-level alphabet")
                })?);
            }
        }
        ranges[id as usize] = from..u32::try_from(bytes.len())?;
    }
    Ok((bytes, ranges))
}

/// The character of each byte: the alphabet the other way round.
fn letters() -> Vec<char> {
    let mut letters = vec!['\0'; 256];
    for (character, byte) in ('\0'..).zip(alphabet()) {
        if let Some(byte) = byte {
            letters[byte as usize] = character;
        }
    }
    letters
}

/// GPT-2's alphabet of bytes: printable Latin-1 stands for itself, the other bytes for the
/// characters from U+0100 on, in order.
fn alphabet() -> Vec<Option<u8>> {
    let mut bytes = vec![None; 0x144];
    let mut next = 0x100;
    for byte in 0..=255u8 {
        if matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
            bytes[byte as usize] = Some(byte);
        } else {
            bytes[next] = Some(byte);
            next += 1;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tiny() -> Tokenizer {
        let dir = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/goldens/tiny/model_mxfp4"
        );
        Tokenizer::load(Path::new(dir)).unwrap()
    }

    fn general(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        let encoding = tokenizer.inner.encode_fast(text, false).unwrap();
        encoding.get_ids().to_vec()
    }

    #[test]
    fn an_id_that_no_vocabulary_has_is_refused_before_room_is_made_for_it() {
        let tiny = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/goldens/tiny/model_mxfp4/tokenizer.json"
        );
        let mut json: Value = serde_json::from_str(&fs::read_to_string(tiny).unwrap()).unwrap();
        json["model"]["vocab"]["zzq"] = 4_000_000_000u32.into();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        let error = format!("{:#}", Tokenizer::load(dir.path()).err().unwrap());
        assert!(
            error.contains("token \"zzq\" has the id 4000000000"),
            "{error}"
        );
    }

    #[test]
    fn words_are_cut_as_the_expression_says() {
        let tokenizer = tiny();
        assert!(tokenizer.words.is_some());
        for text in [
            "",
            " ",
            "  a",
            "a  b   ",
            " \n x\t\t y\r\n\r\n  z",
            "\u{a0}\u{3000} x\u{2028}\u{2028}y",
            "I'm 12345 -- 'LL/\n/ don't",
            "<|start|>user<|message|>a <|end|> <|end|>\n",
            "<|start|<|startoftext|>",
            "e\u{301}e\u{301} \u{1f600}\u{1f600}",
        ] {
            let (fast, slow) = (tokenizer.encode(text).unwrap(), general(&tokenizer, text));
            assert_eq!(fast, slow, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_fast_way_gives_the_same_ids(
            parts in prop::collection::vec(
                prop_oneof![
                    any::<String>(),
                    "[a-zA-Z' ]{0,12}",
                    "[ \t\r\n\u{a0}\u{3000}]{0,5}",
                    "[0-9/.,-]{0,6}",
                    Just("<|end|>".to_owned()),
                    Just("<|start|>assistant".to_owned()),
                ],
                0..12,
            )
        ) {
            thread_local! { static TINY: Tokenizer = tiny(); }
            let text = parts.concat();
            TINY.with(|tokenizer| {
                prop_assert_eq!(tokenizer.encode(&text).unwrap(), general(tokenizer, &text));
                Ok(())
            })?;
        }
    }
}
