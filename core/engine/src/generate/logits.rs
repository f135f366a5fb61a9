//! Writes the logits of token ids to a file, for comparison with other implementations
//! (`tests/compare_with_transformers.py`).

use anyhow::{Context, Result, ensure};
use apus_model::model::CausalLm;
use apus_model::nn::ForwardOptions;
use apus_model::ops::SeqLayout;
use apus_model::weights;
use candle_core::{DType, Tensor};
use std::collections::HashMap;
use std::path::Path;

/// Parses token ids from words. A word is one id, or several separated by commas.
///
/// # Errors
/// No ids, a word that is not a number, or an id outside the vocabulary.
pub fn ids(words: &[String], vocabulary: usize) -> Result<Vec<u32>> {
    let words = words.iter().flat_map(|word| word.split([',', ' ']));
    let ids = words
        .filter(|word| !word.is_empty())
        .map(|word| {
            let id: u32 = word
                .parse()
                .with_context(|| format!("input_ids: {word:?} is no token id"))?;
            ensure!(
                (id as usize) < vocabulary,
                "input_ids: {id} is beyond the vocabulary of {vocabulary}"
            );
            Ok(id)
        })
        .collect::<Result<Vec<_>>>()?;
    ensure!(
        !ids.is_empty(),
        "--input_ids is missing: the token ids whose logits to dump"
    );
    Ok(ids)
}

/// Writes `logits` `[T, V]` f32 and `input_ids` `[T]` u32 as safetensors.
pub fn dump(model: &CausalLm, ids: &[u32], path: &Path) -> Result<()> {
    let seqs = SeqLayout::new(&[ids.len()], model.device())?;
    let tokens = Tensor::new(ids, model.device())?;
    let (hidden, _) = model
        .decoder()
        .forward(&tokens, &seqs, &ForwardOptions::default())?;
    let (normed, _) = model.head().forward(&hidden)?;
    let logits = model.head().logits(&normed)?.to_dtype(DType::F32)?;
    let all = HashMap::from([
        ("logits".to_owned(), logits),
        ("input_ids".to_owned(), tokens),
    ]);
    weights::save(&all, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_from_words() {
        let read = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            ids(&words, 10).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(read(&["1,2", "3"]).unwrap(), [1, 2, 3]);
        assert!(read(&["1,x"]).unwrap_err().contains("\"x\" is no token id"));
        assert!(read(&["10"]).unwrap_err().contains("beyond the vocabulary"));
        assert!(read(&[]).unwrap_err().contains("missing"));
    }
}
