//! The default sampling: that of the model's generation_config.json, read as transformers and ms-swift read it.
//!
//! Without the file, or if it does not set `do_sample`, the most probable tokens are taken unless a temperature is given.
//! If tokens are sampled, `top_k` is 50 unless the file or a flag sets it. Any other setting of the file that would change
//! the answer is an error, because it is not implemented.

use super::Sampling;
use anyhow::{Context, Result, bail, ensure};
use apus_components::config::InferConfig;
use apus_sdk::small_file::{self, Limit};
use apus_sdk::within;
use serde_json::{Map, Value};
use std::path::Path;

/// The default `top_k` of transformers.
const TOP_K: usize = 50;

/// Keys of the file that can change the answer, with the values that change nothing.
const CHANGING: [(&str, &[f64]); 22] = [
    ("num_beams", &[1.0]),
    ("num_beam_groups", &[1.0]),
    ("no_repeat_ngram_size", &[0.0]),
    ("encoder_no_repeat_ngram_size", &[0.0]),
    ("encoder_repetition_penalty", &[1.0]),
    ("top_h", &[]),
    ("typical_p", &[1.0]),
    ("epsilon_cutoff", &[0.0]),
    ("eta_cutoff", &[0.0]),
    ("penalty_alpha", &[0.0]),
    ("min_length", &[0.0]),
    ("min_new_tokens", &[0.0]),
    ("guidance_scale", &[1.0]),
    ("num_return_sequences", &[1.0]),
    ("bad_words_ids", &[]),
    ("force_words_ids", &[]),
    ("suppress_tokens", &[]),
    ("begin_suppress_tokens", &[]),
    ("forced_eos_token_id", &[]),
    ("sequence_bias", &[]),
    ("exponential_decay_length_penalty", &[]),
    ("stop_strings", &[]),
];

/// The sampling of a run, and a line about it if the file decides.
///
/// # Errors
/// A file that cannot be read or that needs what is not implemented, or values out of range in the file or in flags.
pub fn sampling(config: &InferConfig, model: Option<&Path>) -> Result<(Sampling, Option<String>)> {
    let path = model.map(|dir| dir.join("generation_config.json"));
    let text = match &path {
        Some(path) => small_file::text_if_there(path, Limit::STORED)?,
        None => None,
    };
    let in_file = || {
        path.as_ref()
            .map_or_else(String::new, |path| path.display().to_string())
    };
    let saved = match text {
        Some(text) => serde_json::from_str(&text)
            .with_context(|| format!("{}: expected a JSON object", in_file()))?,
        None => Map::new(),
    };
    let saved = GenerationConfig::read(&saved).with_context(in_file)?;
    within("top_k", &config.top_k, &(-1.0..))?;
    let temperature = config.temperature.unwrap_or(match saved.samples {
        true => saved.sampling.temperature,
        false => 0.0,
    });
    let sampling = Sampling {
        temperature,
        top_p: config.top_p.unwrap_or(saved.sampling.top_p),
        top_k: match config.top_k {
            Some(k) => usize::try_from(k).unwrap_or(0),
            None => saved.sampling.top_k,
        },
        repetition_penalty: config
            .repetition_penalty
            .unwrap_or(saved.sampling.repetition_penalty),
        min_p: config.min_p.unwrap_or(saved.sampling.min_p),
        presence_penalty: config.presence_penalty,
        frequency_penalty: config.frequency_penalty,
        seed: config.seed,
        ..Sampling::greedy(config.max_new_tokens)
    };
    sampling.check()?;
    let idle = [
        ("top_p", config.top_p.is_some_and(|p| p < 1.0)),
        ("top_k", config.top_k.is_some_and(|k| k > 1)),
        ("min_p", config.min_p.is_some_and(|p| p > 0.0)),
    ];
    let idle = idle.iter().find(|(_, given)| *given && !sampling.draws());
    let note = idle.map(|(name, _)| {
        format!(
            "{name} changes nothing at temperature 0, which {}; --temperature 1 samples",
            match config.temperature {
                Some(_) => "is given",
                None => "is the model's own default",
            }
        )
    });
    Ok((sampling, note))
}

/// The sampling settings of a generation_config.json.
struct GenerationConfig {
    samples: bool,
    sampling: Sampling,
}

impl GenerationConfig {
    fn read(saved: &Map<String, Value>) -> Result<Self> {
        for (key, harmless) in CHANGING {
            let value = saved.get(key).unwrap_or(&Value::Null);
            let is_empty = match value {
                Value::Null => true,
                Value::Bool(flag) => !flag,
                Value::Number(number) => number.as_f64().is_some_and(|n| harmless.contains(&n)),
                Value::Array(items) => items.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                Value::String(text) => text.is_empty(),
            };
            ensure!(
                is_empty,
                "`{key}` is {value}, which would change the answers and is not built; take it out of the file to \
                 answer without it"
            );
        }
        let sampling = Sampling {
            temperature: number(saved, "temperature")?.unwrap_or(1.0),
            top_p: number(saved, "top_p")?.unwrap_or(1.0),
            repetition_penalty: number(saved, "repetition_penalty")?.unwrap_or(1.0),
            min_p: number(saved, "min_p")?.unwrap_or(0.0),
            top_k: match saved.get("top_k") {
                None | Some(Value::Null) => TOP_K,
                Some(value) => match value.as_i64() {
                    Some(k) if k >= -1 => usize::try_from(k).unwrap_or(0),
                    _ => bail!("`top_k` is {value}, expected a number of tokens, or 0 for all"),
                },
            },
            ..Sampling::greedy(1)
        };
        sampling.check()?;
        let samples = match saved.get("do_sample") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(samples)) => *samples,
            Some(other) => bail!("`do_sample` is {other}, expected true or false"),
        };
        Ok(Self { samples, sampling })
    }
}

fn number(saved: &Map<String, Value>, key: &str) -> Result<Option<f64>> {
    match saved.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) => Ok(Some(number)),
            None => bail!("`{key}` is {value}, expected a number"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: Option<&str>, config: &InferConfig) -> Result<(f64, usize, f64)> {
        let dir = tempfile::tempdir().unwrap();
        if let Some(text) = file {
            std::fs::write(dir.path().join("generation_config.json"), text).unwrap();
        }
        let (found, _) = sampling(config, Some(dir.path()))?;
        Ok((found.temperature, found.top_k, found.top_p))
    }

    fn flags(temperature: Option<f64>, top_k: Option<i64>, top_p: Option<f64>) -> InferConfig {
        InferConfig {
            temperature,
            top_k,
            top_p,
            ..InferConfig::default()
        }
    }

    /// `prepare_generation_config` of ms-swift, with the defaults of transformers' GenerationConfig.
    #[test]
    fn the_file_and_the_flags() {
        let none = flags(None, None, None);
        let samples =
            r#"{"do_sample": true, "eos_token_id": [200002], "transformers_version": "4.55"}"#;
        let full = r#"{"do_sample": true, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.0}"#;
        for (file, config, expected) in [
            (None, &none, (0.0, 50, 1.0)),
            (Some("{}"), &none, (0.0, 50, 1.0)),
            (Some(r#"{"temperature": 0.7}"#), &none, (0.0, 50, 1.0)),
            (Some(r#"{"do_sample": false}"#), &none, (0.0, 50, 1.0)),
            (Some(samples), &none, (1.0, 50, 1.0)),
            (Some(full), &none, (0.7, 20, 0.8)),
            (Some(full), &flags(Some(0.0), None, None), (0.0, 20, 0.8)),
            (
                Some(full),
                &flags(Some(1.5), Some(5), Some(0.5)),
                (1.5, 5, 0.5),
            ),
            (Some(full), &flags(None, Some(-1), Some(1.0)), (0.7, 0, 1.0)),
            (None, &flags(Some(0.5), None, None), (0.5, 50, 1.0)),
            (
                Some(r#"{"do_sample": true, "top_k": 0}"#),
                &none,
                (1.0, 0, 1.0),
            ),
        ] {
            assert_eq!(
                found(file, config).unwrap(),
                expected,
                "{file:?} {config:?}"
            );
        }
    }

    /// It counts where nothing is drawn, too.
    #[test]
    fn the_penalty_of_the_file_and_of_the_flag() {
        let dir = tempfile::tempdir().unwrap();
        let penalty = |file: &str, repetition_penalty| {
            std::fs::write(dir.path().join("generation_config.json"), file).unwrap();
            let config = InferConfig {
                repetition_penalty,
                ..InferConfig::default()
            };
            let (sampling, _) = sampling(&config, Some(dir.path())).unwrap();
            sampling.repetition_penalty
        };
        assert_eq!(penalty("{}", None), 1.0);
        assert_eq!(penalty("{}", Some(1.2)), 1.2);
        assert_eq!(penalty(r#"{"repetition_penalty": 1.1}"#, None), 1.1);
        assert_eq!(penalty(r#"{"repetition_penalty": 1.1}"#, Some(1.0)), 1.0);
    }

    #[test]
    fn what_cannot_be_meant_or_is_not_built() {
        let error = |file: &str, config: &InferConfig| {
            format!("{:#}", found(Some(file), config).unwrap_err())
        };
        let none = flags(None, None, None);
        assert!(error("{}", &flags(Some(-1.0), None, None)).starts_with("temperature is -1"));
        assert!(error("{}", &flags(None, None, Some(1.5))).starts_with("top_p is 1.5"));
        assert!(error("{}", &flags(None, Some(-2), None)).starts_with("top_k is -2"));
        for (file, expected) in [
            (r#"{"temperature": -1}"#, "temperature is -1"),
            (r#"{"top_p": 2}"#, "top_p is 2"),
            (r#"{"top_p": "x"}"#, "`top_p` is \"x\", expected a number"),
            (r#"{"top_k": 1.5}"#, "`top_k` is 1.5"),
            (r#"{"do_sample": 1}"#, "`do_sample` is 1"),
            (
                r#"{"repetition_penalty": 0}"#,
                "repetition_penalty is 0, expected a number above 0",
            ),
            (r#"{"bad_words_ids": [[1]]}"#, "`bad_words_ids` is [[1]]"),
            ("[]", "expected a JSON object"),
        ] {
            let bad = error(file, &none);
            assert!(
                bad.contains("generation_config.json") && bad.contains(expected),
                "{bad}"
            );
        }
    }

    #[test]
    fn flags_without_effect_are_said() {
        let note = |config| sampling(&config, None).unwrap().1;
        let said = note(flags(None, None, Some(0.9))).unwrap();
        assert!(
            said.contains("top_p") && said.contains("own default"),
            "{said}"
        );
        assert!(
            note(flags(Some(0.0), Some(5), None))
                .unwrap()
                .contains("is given")
        );
        assert_eq!(note(flags(Some(1.0), Some(5), None)), None);
        assert_eq!(note(flags(None, None, None)), None);
    }
}
