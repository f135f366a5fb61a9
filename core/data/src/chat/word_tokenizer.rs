//! Tokenises word by word with a cache of words in each thread.
//!
//! A byte-level BPE tokenizer splits a text into words by a regular expression and then merges the bytes of each word.
//! Texts repeat their words, so a thread that caches the ids of words has little to merge; and the text does not go
//! through the general pipeline of normalizers and offsets, which costs several times more than merging. A new word is
//! tokenised by the model of the tokenizers crate, so that the ids are the same. Other kinds of tokenizers are left to that
//! crate.

use super::control::TokenSet;
use anyhow::{Result, anyhow};
use foldhash::fast::FixedState;
use regex::Regex;
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    collections::HashMap,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};
use tokenizers::{Model, Tokenizer};

/// The end of the regular expression of the tokenizers that this is made for: the last character of white space before a word
/// belongs to the word.
const SPACE: &str = r"\s+(?!\S)|\s+";
/// The number of words that a thread caches.
const WORDS: usize = 1 << 17;
/// The bytes of the longest word that is cached.
const LONG: usize = 64;

/// Splits texts into the words of one tokenizer.
pub struct WordTokenizer {
    /// A number of this tokenizer, by which a thread knows whether its cache belongs to it.
    number: u64,
    words: Regex,
    letters: Vec<char>,
}

/// The words that a thread has tokenised.
struct ThreadCache {
    number: u64,
    /// A copy for this thread, since threads that share one wait for each other.
    words: Regex,
    known: HashMap<Box<str>, Range<u32>, FixedState>,
    ids: Vec<u32>,
}

thread_local! {
    static CACHE: RefCell<Option<ThreadCache>> = const { RefCell::new(None) };
}

impl WordTokenizer {
    /// Makes one for a tokenizer that splits texts in this way; `letters` are the characters that its vocabulary has for the
    /// 256 bytes. Returns `None` for other tokenizers, and if added tokens strip space around them.
    pub fn new(tokenizer: &Tokenizer, letters: Vec<char>) -> Option<Self> {
        let cut = serde_json::to_value(tokenizer.get_pre_tokenizer()?).ok()?;
        let words = Regex::new(&without_lookahead(&cut)?).ok()?;
        let added = tokenizer.get_added_tokens_decoder();
        let plain = added.values().all(|token| {
            !(token.single_word || token.lstrip || token.rstrip || token.content.is_empty())
        });
        let mixed = added.values().any(|token| token.normalized)
            && added.values().any(|token| !token.normalized);
        if tokenizer.get_normalizer().is_some() || !plain || mixed {
            return None;
        }
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        Some(Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            words,
            letters,
        })
    }

    /// Appends the ids of a text. `added` tokens are found before the text is split into words.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        added: &TokenSet,
        text: &str,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        CACHE.with_borrow_mut(|cache| {
            if cache.as_ref().is_none_or(|old| old.number != self.number) {
                *cache = Some(ThreadCache {
                    number: self.number,
                    words: self.words.clone(),
                    known: HashMap::default(),
                    ids: Vec::new(),
                });
            }
            if let Some(cache) = cache {
                let mut from = 0;
                for (token, id) in added.find(text) {
                    self.plain(tokenizer, cache, &text[from..token.start], ids)?;
                    ids.push(id);
                    from = token.end;
                }
                self.plain(tokenizer, cache, &text[from..], ids)?;
            }
            Ok(())
        })
    }

    /// Appends the ids of text without added tokens.
    fn plain(
        &self,
        tokenizer: &Tokenizer,
        cache: &mut ThreadCache,
        text: &str,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let mut at = 0;
        while at < text.len() {
            let found = cache.words.find_at(text, at).map(|found| found.range());
            let word = match found {
                Some(found) if found.start > at => at..found.start,
                Some(found) if !found.is_empty() => found.start..word_end(text, found),
                _ => at..text.len(),
            };
            at = word.end;
            self.word(tokenizer, cache, &text[word], ids)?;
        }
        Ok(())
    }

    fn word(
        &self,
        tokenizer: &Tokenizer,
        cache: &mut ThreadCache,
        word: &str,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        if let Some(known) = cache.known.get(word) {
            ids.extend_from_slice(&cache.ids[known.start as usize..known.end as usize]);
            return Ok(());
        }
        let spelled: String = word.bytes().map(|b| self.letters[b as usize]).collect();
        let tokens = tokenizer.get_model().tokenize(&spelled);
        let tokens = tokens.map_err(|error| anyhow!("tokenising: {error}"))?;
        let new = tokens.iter().map(|token| token.id);
        ids.extend(new.clone());
        if word.len() <= LONG && cache.known.len() < WORDS {
            let from = cache.ids.len() as u32;
            cache.ids.extend(new);
            let range = from..cache.ids.len() as u32;
            cache.known.insert(word.into(), range);
        }
        Ok(())
    }
}

/// The regular expression that splits words, without its lookahead, which [`word_end`] replaces.
fn without_lookahead(cut: &Value) -> Option<String> {
    let [split, bytes] = cut.get("pretokenizers")?.as_array()?.as_slice() else {
        return None;
    };
    let has = |value: &Value, key: &str, expected: Value| value.get(key) == Some(&expected);
    let fits = has(split, "type", json!("Split"))
        && has(split, "behavior", json!("Isolated"))
        && has(split, "invert", json!(false))
        && has(bytes, "type", json!("ByteLevel"))
        && has(bytes, "add_prefix_space", json!(false))
        && has(bytes, "use_regex", json!(false));
    let pattern = split.get("pattern")?.get("Regex")?.as_str()?;
    let rest = pattern.strip_suffix(SPACE).filter(|_| fits)?;
    Some(format!(r"{rest}\s+"))
}

/// The end of a word: white space with a word after it ends before its last character, unless that is all of it. White
/// space that ends a line is matched by an earlier alternative and stays whole.
fn word_end(text: &str, word: Range<usize>) -> usize {
    let last = text[word.clone()].chars().next_back();
    match last.filter(|c| c.is_whitespace() && !matches!(c, '\r' | '\n')) {
        Some(last) if word.end < text.len() && word.len() > last.len_utf8() => {
            word.end - last.len_utf8()
        }
        _ => word.end,
    }
}
