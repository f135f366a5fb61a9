//! The model's tokenizer: byte-level BPE from tokenizer.json, with the ids of its special tokens.
//!
//! Every id, special ones included, is read from the model's files; none is known beforehand. Which
//! places of a text are special tokens is never guessed from its letters: a [`Rendered`] text says it.

use super::{
    control::TokenSet,
    rendered::{Rendered, RenderedPiece},
    word_tokenizer::WordTokenizer,
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use apus_base::limits::MOST_TOKENS;
use apus_sdk::small_file::{self, Limit};
use serde_json::Value;
use std::{collections::BTreeSet, ops::Range, path::Path};
use tokenizers::DecoderWrapper;

/// The largest tokenizers take a tenth of it.
const LIMIT: Limit = Limit::of(512 << 20);

/// A byte-level tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The fast way, for tokenizers that split texts as it does.
    word_tokenizer: Option<WordTokenizer>,
    /// The bytes of all tokens, one after another.
    bytes: Vec<u8>,
    /// Where each token's bytes stand in `bytes`, by id.
    ranges: Vec<Range<u32>>,
    special: BTreeSet<u32>,
    /// The special tokens.
    control: TokenSet,
    /// The other added tokens, which are words of the vocabulary.
    added: TokenSet,
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
        let json = small_file::bytes(&path, LIMIT)?;
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
            "expected a byte-level BPE tokenizer (a decoder of type ByteLevel)"
        );
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| anyhow!("{error}"))?;
        // Special tokens are put between texts by their ids; what looks like one in a text is text.
        inner.set_encode_special_tokens(true);
        let (bytes, ranges) = token_bytes(&inner)?;
        let all = inner.get_added_tokens_decoder();
        let tokens = |special: bool| {
            let chosen = all.iter().filter(move |(_, t)| t.special == special);
            chosen.map(|(id, token)| (token.content.clone(), *id))
        };
        let special = tokens(true).map(|(_, id)| id).collect();
        let (control, added) = (TokenSet::new(tokens(true))?, TokenSet::new(tokens(false))?);
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
        let word_tokenizer = WordTokenizer::new(&inner, letters());
        Ok(Self {
            inner,
            word_tokenizer,
            bytes,
            ranges,
            special,
            control,
            added,
            bos,
            pad,
            eos,
        })
    }

    /// The special tokens: no text of a dataset may give one of their ids.
    pub fn control(&self) -> &TokenSet {
        &self.control
    }

    /// The ids of a rendered text, and where each token ends in it; nothing is added around it.
    ///
    /// # Errors
    /// A control token that the tokenizer does not have, a failure of the tokenizer, or one that does
    /// not keep every byte of the text.
    pub fn encode(&self, rendered: &Rendered) -> Result<Tokens> {
        let mut ids = Vec::with_capacity(rendered.text.len() / 4);
        for piece in rendered.pieces() {
            match piece {
                RenderedPiece::Text("") => {}
                RenderedPiece::Text(text) => self.plain(text, &mut ids)?,
                RenderedPiece::Control(token) => {
                    let missing =
                        || format!("the tokenizer has no token {token}, which frames messages");
                    ids.push(self.id(token).with_context(missing)?);
                }
            }
        }
        let mut end = 0;
        let ends = ids.iter().map(|id| {
            end += self.token(*id).len();
            end
        });
        let ends: Vec<_> = ends.collect();
        let length = rendered.text.len();
        if end != length {
            bail!(
                "the tokenizer changes the text: its tokens cover {end} bytes of {length}; normalizers \
                 are not supported"
            );
        }
        Ok(Tokens { ids, ends })
    }

    /// Adds the ids of ordinary text, whatever it looks like.
    fn plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        if let Some(word_tokenizer) = &self.word_tokenizer {
            return word_tokenizer.encode(&self.inner, &self.added, text, ids);
        }
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| anyhow!("tokenising: {error}"))?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// The text of these ids, with the places of the special ones. Bytes that are not UTF-8 become
    /// replacement characters.
    pub fn rendered(&self, ids: &[u32]) -> Rendered {
        let mut rendered = Rendered::default();
        for run in ids.chunk_by(|a, b| !self.is_special(*a) && !self.is_special(*b)) {
            let text = self.decode(run, true);
            match run {
                [id] if self.is_special(*id) => rendered.mark(&text),
                _ => rendered.text(&text),
            }
        }
        rendered
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

    /// The ids at which generation of an answer stops: [`eos`](Self::eos), and those of these tokens that the tokenizer
    /// has.
    pub fn stop_ids(&self, tokens: &[&str]) -> Vec<u32> {
        let mut ids = self.eos.clone();
        ids.extend(tokens.iter().filter_map(|token| self.id(token)));
        dedup(&mut ids);
        ids
    }

    /// The tokenizer underneath.
    pub fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }
}

fn optional(path: &Path) -> Result<Option<Value>> {
    let malformed = || format!("malformed JSON in {}", path.display());
    let text = small_file::text_if_there(path, Limit::STORED)?;
    text.map(|text| serde_json::from_str(&text).with_context(malformed))
        .transpose()
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
pub(super) fn letters() -> Vec<char> {
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
    use std::fs;
    use std::path::PathBuf;

    fn dir() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny/model_mxfp4")
    }

    fn tiny() -> Tokenizer {
        Tokenizer::load(&dir()).unwrap()
    }

    /// The ids that the tokenizers crate gives a text in which special tokens count as special.
    fn general(text: &str) -> Vec<u32> {
        thread_local! {
            static INNER: tokenizers::Tokenizer =
                tokenizers::Tokenizer::from_file(dir().join("tokenizer.json")).unwrap();
        }
        INNER.with(|inner| inner.encode_fast(text, false).unwrap().get_ids().to_vec())
    }

    fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        let rendered = Rendered::read(text.to_owned(), tokenizer.control());
        tokenizer.encode(&rendered).unwrap().ids
    }

    /// The ids of text that nobody rendered.
    fn typed(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        let mut rendered = Rendered::default();
        rendered.text(text);
        tokenizer.encode(&rendered).unwrap().ids
    }

    #[test]
    fn an_id_that_no_vocabulary_has_is_refused_before_room_is_made_for_it() {
        let tiny = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/goldens/tiny/model_mxfp4/tokenizer.json"
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
        assert!(tokenizer.word_tokenizer.is_some());
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
            assert_eq!(encode(&tokenizer, text), general(text), "{text:?}");
        }
    }

    #[test]
    fn text_that_looks_like_a_special_token_is_text() {
        let mut tokenizer = tiny();
        for words in [true, false] {
            for (text, id) in tokenizer.control().tokens() {
                let ids = typed(&tokenizer, &format!("a{text}b {text}"));
                assert!(
                    !ids.iter().any(|id| tokenizer.is_special(*id)),
                    "{text} {words}"
                );
                assert_eq!(tokenizer.decode(&ids, true), format!("a{text}b {text}"));
                assert_eq!(encode(&tokenizer, text), [*id]);
                let back = tokenizer.rendered(&[ids.as_slice(), &[*id]].concat());
                assert_eq!(back.text, format!("a{text}b {text}{text}"));
                let mark = back.text.len() - text.len()..back.text.len();
                assert_eq!(back.marks, std::iter::once(mark).collect::<Vec<_>>());
            }
            // The way of tokenizers of another make.
            tokenizer.word_tokenizer = None;
        }
    }

    #[test]
    fn an_added_token_that_is_not_special_is_a_word() {
        let json = fs::read(dir().join("tokenizer.json")).unwrap();
        let mut json: Value = serde_json::from_slice(&json).unwrap();
        let mut token = json["added_tokens"][0].clone();
        token["id"] = 750.into();
        token["content"] = "<acme>".into();
        token["special"] = false.into();
        json["added_tokens"].as_array_mut().unwrap().push(token);
        let mut tokenizer = Tokenizer::new(json.to_string().as_bytes(), None, None).unwrap();
        for _ in 0..2 {
            assert!(typed(&tokenizer, "an <acme> <|end|>").contains(&750));
            tokenizer.word_tokenizer = None;
        }
    }

    #[test]
    fn a_frame_without_its_token_is_an_error() {
        let mut rendered = Rendered::default();
        rendered.mark("<|nowhere|>");
        let error = tiny().encode(&rendered).unwrap_err().to_string();
        assert!(error.contains("no token <|nowhere|>"), "{error}");
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
                prop_assert_eq!(encode(tokenizer, &text), general(&text));
                let typed = typed(tokenizer, &text);
                prop_assert!(!typed.iter().any(|id| tokenizer.is_special(*id)));
                prop_assert_eq!(tokenizer.decode(&typed, true), text);
                Ok(())
            })?;
        }
    }
}
