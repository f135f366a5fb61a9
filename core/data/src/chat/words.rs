//! Tokenising word by word, remembering each thread's words.
//!
//! A byte-level BPE tokenizer cuts a text into words by a regular expression and then merges the bytes
//! of each word by itself. Texts repeat their words, so a thread that remembers what a word became has
//! little to merge; and the text does not have to be carried through the general pipeline of normalizers
//! and offsets, which costs several times more than the merging. A word that is new goes to the model of
//! the tokenizers crate, so that the ids are its ids. Tokenizers of another make are left to that crate.

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

/// How the expressions of gpt-oss and its relatives end: white space before a word gives its last
/// character to the word.
const SPACE: &str = r"\s+(?!\S)|\s+";
/// Words that a thread remembers.
const WORDS: usize = 1 << 17;
/// Bytes of the longest word that is remembered.
const LONG: usize = 64;

/// The words of one tokenizer.
pub struct Words {
    /// Which tokenizer a thread's memory belongs to.
    number: u64,
    words: Regex,
    letters: Vec<char>,
}

/// What a thread remembers.
struct Memory {
    number: u64,
    /// A copy of its own: threads that share one wait for each other.
    words: Regex,
    known: HashMap<Box<str>, Range<u32>, FixedState>,
    ids: Vec<u32>,
}

thread_local! {
    static MEMORY: RefCell<Option<Memory>> = const { RefCell::new(None) };
}

impl Words {
    /// For a tokenizer that cuts texts in this way; `letters` are the characters that its vocabulary
    /// writes the 256 bytes with. `None` for any other, and where added tokens take space around them.
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

    /// Adds the ids of a text, those `added` tokens in it included that tokenizers take out of a text
    /// before they cut it into words.
    ///
    /// # Errors
    /// A failure of the model.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        added: &TokenSet,
        text: &str,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        MEMORY.with_borrow_mut(|memory| {
            if memory.as_ref().is_none_or(|old| old.number != self.number) {
                *memory = Some(Memory {
                    number: self.number,
                    words: self.words.clone(),
                    known: HashMap::default(),
                    ids: Vec::new(),
                });
            }
            if let Some(memory) = memory {
                let mut from = 0;
                for (place, id) in added.find(text) {
                    self.plain(tokenizer, memory, &text[from..place.start], ids)?;
                    ids.push(id);
                    from = place.end;
                }
                self.plain(tokenizer, memory, &text[from..], ids)?;
            }
            Ok(())
        })
    }

    /// Text without added tokens.
    fn plain(
        &self,
        tokenizer: &Tokenizer,
        memory: &mut Memory,
        text: &str,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let mut at = 0;
        while at < text.len() {
            let found = memory.words.find_at(text, at).map(|found| found.range());
            let word = match found {
                Some(found) if found.start > at => at..found.start,
                Some(found) if !found.is_empty() => found.start..give_back(text, found),
                _ => at..text.len(),
            };
            at = word.end;
            self.word(tokenizer, memory, &text[word], ids)?;
        }
        Ok(())
    }

    fn word(
        &self,
        tokenizer: &Tokenizer,
        memory: &mut Memory,
        word: &str,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        if let Some(known) = memory.known.get(word) {
            ids.extend_from_slice(&memory.ids[known.start as usize..known.end as usize]);
            return Ok(());
        }
        let spelled: String = word.bytes().map(|b| self.letters[b as usize]).collect();
        let tokens = tokenizer.get_model().tokenize(&spelled);
        let tokens = tokens.map_err(|error| anyhow!("tokenising: {error}"))?;
        let new = tokens.iter().map(|token| token.id);
        ids.extend(new.clone());
        if word.len() <= LONG && memory.known.len() < WORDS {
            let from = memory.ids.len() as u32;
            memory.ids.extend(new);
            let range = from..memory.ids.len() as u32;
            memory.known.insert(word.into(), range);
        }
        Ok(())
    }
}

/// The expression that cuts words, with what its lookahead does left to [`give_back`].
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

/// Where a word ends: white space with a word after it ends before its last character, unless that is
/// all of it. White space that ends a line has been taken by an alternative before, and stays.
fn give_back(text: &str, word: Range<usize>) -> usize {
    let last = text[word.clone()].chars().next_back();
    match last.filter(|c| c.is_whitespace() && !matches!(c, '\r' | '\n')) {
        Some(last) if word.end < text.len() && word.len() > last.len_utf8() => {
            word.end - last.len_utf8()
        }
        _ => word.end,
    }
}
