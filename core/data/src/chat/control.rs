//! Control tokens: the special tokens of a tokenizer, which only a renderer may write.
//!
//! A person who types the letters of a control token has written these letters, not the end of a message. So a control token is an id that a
//! renderer wrote, whatever a text looks like. Added tokens that tokenizer.json does not call special are words of the
//! vocabulary, in every text.

use aho_corasick::{AhoCorasick, MatchKind};
use anyhow::{Context, Result};
use std::{borrow::Cow, ops::Range};

/// A set of tokens that can be found in text. Of two tokens that begin at the same byte, the longer one is found.
pub struct TokenSet {
    finder: AhoCorasick,
    tokens: Vec<(String, u32)>,
}

impl TokenSet {
    /// Makes a set of these texts and ids.
    ///
    /// # Errors
    /// There are more tokens than can be searched for.
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

    /// The tokens in a text, in order, each with its range and id.
    pub fn find<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (Range<usize>, u32)> + 'a {
        let found = self.finder.find_iter(text);
        found.map(|found| (found.range(), self.tokens[found.pattern().as_usize()].1))
    }

    /// The first token in a text.
    pub fn first<'a>(&self, text: &'a str) -> Option<&'a str> {
        self.finder.find(text).map(|found| &text[found.range()])
    }

    /// The texts and ids of all tokens, in the order of the ids.
    pub fn tokens(&self) -> &[(String, u32)] {
        &self.tokens
    }

    /// The text with a space after the first character of each token in it, so that none is left.
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
