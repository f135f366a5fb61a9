//! Constrained decoding: which tokens may come next if an answer has to have a shape, by llguidance.

use super::http::ApiError;
use super::worker::MakeMask;
use crate::generate::TokenMask;
use anyhow::{Context, Result, bail};
use apus_data::chat::dialect::AnswerShape;
use apus_data::chat::{Dialect, Tokenizer};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use std::sync::Arc;

/// The most bytes of a schema: compiling takes time and memory.
const SCHEMA: usize = 256 << 10;

/// Compiles shapes for one tokenizer.
pub struct Constraints {
    factory: ParserFactory,
    dialect: &'static dyn Dialect,
}

impl Constraints {
    /// For the tokens of this tokenizer, which ends answers with the dialect's tokens.
    ///
    /// # Errors
    /// The tokenizer has no special token but those.
    pub fn new(tokenizer: Arc<Tokenizer>, dialect: &'static dyn Dialect) -> Result<Self> {
        let env: TokEnv = Arc::new(Vocabulary::new(tokenizer, dialect)?);
        let mut factory = ParserFactory::new_simple(&env)?;
        factory.quiet();
        Ok(Self { factory, dialect })
    }

    /// What holds an answer to a shape. `param` is the field that asks for it.
    ///
    /// # Errors
    /// A schema that is none, or that has what cannot be held to.
    pub fn mask(&self, shape: &AnswerShape, param: &str) -> Result<MakeMask, ApiError> {
        let Some(grammar) = self.dialect.grammar(shape) else {
            let name = self.dialect.name();
            return Err(ApiError::of(
                param,
                format!("answers in {name} cannot be held to a shape"),
            ));
        };
        if grammar.len() > SCHEMA {
            return Err(ApiError::of(
                param,
                format!(
                    "the schemas have {} bytes, expected at most {SCHEMA}",
                    grammar.len()
                ),
            ));
        }
        let grammar = TopLevelGrammar::from_lark(grammar);
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        // What is wrong with a grammar is told at the first use.
        matcher.compute_mask().map_err(|error| {
            ApiError::of(param, format!("the schema cannot be held to: {error:#}"))
        })?;
        Ok(Box::new(move || Box::new(Mask(matcher.deep_clone()))))
    }
}

/// Holds one answer to its shape.
struct Mask(Matcher);

impl TokenMask for Mask {
    fn allowed(&mut self) -> Result<Vec<u32>> {
        let mask = self.0.compute_mask_or_eos()?;
        if mask.is_zero() {
            bail!("no token fits the shape of the answer");
        }
        Ok(mask.as_slice().to_vec())
    }

    fn accept(&mut self, token: u32) -> Result<()> {
        self.0.consume_token(token)
    }
}

/// A tokenizer as llguidance sees it.
struct Vocabulary {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
}

impl Vocabulary {
    fn new(tokenizer: Arc<Tokenizer>, dialect: &dyn Dialect) -> Result<Self> {
        let words: Vec<Vec<u8>> = (0..tokenizer.len() as u32)
            .map(|id| {
                let bytes = tokenizer.token(id);
                match tokenizer.is_special(id) {
                    true => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
                    false => bytes.to_vec(),
                }
            })
            .collect();
        // A grammar ends with the dialect's own tokens, so that one which no grammar has stands for the end.
        let stop: Vec<u32> = dialect
            .stop_tokens()
            .iter()
            .filter_map(|token| tokenizer.id(token))
            .collect();
        let end = tokenizer
            .pad()
            .into_iter()
            .chain(0..words.len() as u32)
            .find(|id| tokenizer.is_special(*id) && !stop.contains(id))
            .context("the tokenizer has no special token that ends a text")?;
        let info = TokRxInfo::new(words.len() as u32, end);
        Ok(Self {
            trie: TokTrie::from(&info, &words),
            tokenizer,
        })
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            let rendered = apus_data::chat::Rendered {
                text: text.to_owned(),
                marks: Vec::new(),
            };
            match self.tokenizer.encode(&rendered) {
                Ok(tokens) => tokens.ids,
                Err(_) => self.trie.greedy_tokenize(text.as_bytes()),
            }
        })
    }
}
