//! Words of a text as jieba of Python cuts them, since ms-swift counts in these words, Chinese or not.
//!
//! The crate jieba-rs has the same dictionary and the same model of unknown words. Where it differs from jieba 0.42.1,
//! texts are cut here: it takes more characters for Chinese, and keeps `tiny-gpt` and `1.2.3` whole.

use jieba_rs::Jieba;
use std::sync::LazyLock;

static JIEBA: LazyLock<Jieba> = LazyLock::new(Jieba::new);

/// The words of a text; white space other than a space is a word, as in ms-swift.
pub fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_block = is_of_block(first);
        let length = match is_block {
            true => rest.find(|c| !is_of_block(c)).unwrap_or(rest.len()),
            false if rest.starts_with("\r\n") => 2,
            false => first.len_utf8(),
        };
        let (part, after) = rest.split_at(length);
        match is_block {
            true => cut(part, &mut words),
            false => words.push(part),
        }
        rest = after;
    }
    words.retain(|word| *word != " ");
    words
}

/// What jieba cuts by its dictionary; every other character is a word.
fn is_of_block(c: char) -> bool {
    matches!(
        c,
        '\u{4E00}'..='\u{9FD5}' | '+' | '#' | '&' | '.' | '_' | '%' | '-'
    ) || c.is_ascii_alphanumeric()
}

fn cut<'a>(block: &'a str, words: &mut Vec<&'a str>) {
    for token in JIEBA.cut(block, true) {
        let word = &block[token.byte_start..token.byte_end];
        match word.len() > 1 && word.is_ascii() && !JIEBA.has_word(word) {
            true => cut_ascii(word, words),
            false => words.push(word),
        }
    }
}

/// Letters and digits, with a fraction and a percent sign behind them, and what stands between.
fn cut_ascii<'a>(text: &'a str, words: &mut Vec<&'a str>) {
    let mut rest = text;
    while !rest.is_empty() {
        let end_of =
            |from: usize, is: fn(&char) -> bool| from + rest[from..].chars().take_while(is).count();
        let mut end = end_of(0, char::is_ascii_alphanumeric);
        if end == 0 {
            end = end_of(0, |c| !c.is_ascii_alphanumeric());
        } else {
            if rest[end..].starts_with('.') {
                let fraction = end_of(end + 1, char::is_ascii_digit);
                end = if fraction > end + 1 { fraction } else { end };
            }
            end += usize::from(rest[end..].starts_with('%'));
        }
        let (word, after) = rest.split_at(end);
        words.push(word);
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::goldens;
    use proptest::prelude::*;

    #[test]
    fn words_are_those_of_jieba() {
        let cases = goldens::words();
        assert!(cases.len() > 100);
        for (text, expected) in cases {
            assert_eq!(words(&text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn words_are_all_of_the_text_but_spaces(text in "[a1.%_ \r\n我们在学习-]{0,12}|\\PC{0,12}") {
            prop_assert_eq!(words(&text).concat(), text.replace(' ', ""));
        }
    }
}
