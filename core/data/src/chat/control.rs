//! Control tokens: the special tokens of a tokenizer, which mean something to the model that no text
//! can mean. A person who types `<|end|>` has written seven letters, not the end of a message, so a
//! control token is an id that a renderer wrote, never what text happens to look like. Added tokens that
//! tokenizer.json does not call special are words of the vocabulary, and stay that in every text.

use aho_corasick::{AhoCorasick, MatchKind};
use anyhow::{Context, Result};
use std::{borrow::Cow, ops::Range};

/// Tokens that are looked for in text as they are: of two that begin at one place the longer one.
pub struct TokenSet {
    finder: AhoCorasick,
    tokens: Vec<(String, u32)>,
}

impl TokenSet {
    /// Of these texts and ids.
    ///
    /// # Errors
    /// More of them than can be searched for.
    pub fn new(tokens: impl IntoIterator<Item = (String, u32)>) -> Result<Self> {
        let tokens = tokens.into_iter().filter(|(text, _)| !text.is_empty());
        let mut tokens: Vec<_> = tokens.collect();
        tokens.sort_by_key(|(_, id)| *id);
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|(text, _)| text))
            .context("searching for added tokens")?;
        Ok(Self { finder, tokens })
    }

    /// The tokens in a text, in order: where they stand, and their ids.
    pub fn find<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (Range<usize>, u32)> + 'a {
        let found = self.finder.find_iter(text);
        found.map(|found| (found.range(), self.tokens[found.pattern().as_usize()].1))
    }

    /// The first token in a text.
    pub fn first<'a>(&self, text: &'a str) -> Option<&'a str> {
        self.finder.find(text).map(|found| &text[found.range()])
    }

    /// Texts and ids of all of them, in the order of the ids.
    pub fn tokens(&self) -> &[(String, u32)] {
        &self.tokens
    }

    /// The text with each token in it broken by a space behind its first character, so that none is left.
    pub fn broken<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        while let Some(found) = self.finder.find(text.as_ref()) {
            let first = text[found.start()..].chars().next();
            let behind = found.start() + first.map_or(0, char::len_utf8);
            text.to_mut().insert(behind, ' ');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> TokenSet {
        let tokens = [("<|a|>", 1), ("<|a|>b", 2), ("<s>", 3), ("", 4)];
        TokenSet::new(tokens.map(|(text, id)| (text.to_owned(), id))).unwrap()
    }

    #[test]
    fn the_longest_token_is_found() {
        let tokens = tokens();
        let found: Vec<_> = tokens.find("x<|a|>b<|a|><s").collect();
        assert_eq!(found, [(1..7, 2), (7..12, 1)]);
        assert_eq!(tokens.first("<|a<s>"), Some("<s>"));
        assert_eq!(tokens.first("<|a|"), None);
        assert_eq!(TokenSet::new([]).unwrap().first("<s>"), None);
    }

    #[test]
    fn a_broken_text_holds_none() {
        let tokens = tokens();
        assert_eq!(tokens.broken("<|a|>b <s>"), "< |a|>b < s>");
        assert_eq!(tokens.broken("plain"), "plain");
    }
}
