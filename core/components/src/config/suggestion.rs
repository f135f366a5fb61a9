//! Replaces the suggestions of clap by those of [`similar_names`], which all of Apus uses.

use crate::similar::similar_names;
use clap::Command;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

/// Gives clap's error about an unknown flag or command the most similar known name, and none where no name is similar.
pub fn with_suggestion(mut error: Error, command: &Command, words: &[String]) -> Error {
    let mut here = command;
    for word in words.iter().take_while(|word| !word.starts_with('-')) {
        here = here.find_subcommand(word).unwrap_or(here);
    }
    let context = |error: &Error, kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    match error.kind() {
        ErrorKind::UnknownArgument => {
            error.remove(ContextKind::Suggested);
            error.remove(ContextKind::SuggestedArg);
            let word = context(&error, ContextKind::InvalidArg);
            let flags: Vec<&str> = here
                .get_arguments()
                .flat_map(|argument| argument.get_long_and_visible_aliases().unwrap_or_default())
                .collect();
            if let Some(flag) = word.strip_prefix("--")
                && let Some(near) = similar_names(flag, &flags).first()
            {
                let near = ContextValue::String(format!("--{near}"));
                error.insert(ContextKind::SuggestedArg, near);
            }
        }
        ErrorKind::InvalidSubcommand => {
            error.remove(ContextKind::Suggested);
            error.remove(ContextKind::SuggestedSubcommand);
            let word = context(&error, ContextKind::InvalidSubcommand);
            let names: Vec<&str> = here.get_subcommands().map(Command::get_name).collect();
            if let Some(near) = similar_names(&word, &names).first() {
                let near = ContextValue::Strings(vec![(*near).to_owned()]);
                error.insert(ContextKind::SuggestedSubcommand, near);
            }
        }
        _ => {}
    }
    error
}

#[cfg(test)]
mod tests {
    use super::super::ms_swift::{find, ms_swift_arguments};
    use super::super::{FLAGS, command, flag::Command as Tool};
    use super::*;

    /// Words of people, and what they meant; nothing where nothing is near.
    const TYPED: &[(&str, Option<&str>)] = &[
        ("lora_rnk", Some("lora_rank")),
        ("lora-rnk", Some("lora_rank")),
        ("rank_lora", Some("lora_rank")),
        ("learning_rat", Some("learning_rate")),
        ("lerning_rate", Some("learning_rate")),
        ("datasets", Some("dataset")),
        ("maxlength", Some("max_length")),
        ("eval_step", Some("eval_steps")),
        (
            "gradient_accumulation_step",
            Some("gradient_accumulation_steps"),
        ),
        ("callback", Some("callbacks")),
        ("ouput_dir", Some("output_dir")),
        ("warmup_step", Some("warmup_steps")),
        ("ddp_backend", None),
        ("deepsped", Some("deepspeed")),
        ("rank", None),
        ("rope_theta", None),
        ("epochs", None),
        ("dataset_text_field", None),
        ("x", None),
    ];

    #[test]
    fn tips_are_near_or_silent() {
        let names: Vec<&str> = FLAGS
            .iter()
            .filter(|flag| flag.accepted_by(Tool::Sft))
            .flat_map(|flag| std::iter::once(flag.name).chain(flag.aliases.iter().copied()))
            .chain(ms_swift_arguments().flat_map(|theirs| theirs.names.iter().copied()))
            .filter(|name| !TYPED.iter().any(|(typed, _)| typed == name))
            .collect();
        for (typed, meant) in TYPED {
            assert_eq!(
                similar_names(typed, &names).first(),
                meant.as_ref(),
                "{typed}"
            );
        }
    }

    #[test]
    fn clap_says_the_same() {
        let sft = || Command::new("apus").subcommand(command(Tool::Sft));
        let unknown = |(typed, _): &&(&str, Option<&str>)| find(typed, Tool::Sft).is_none();
        for (typed, meant) in TYPED.iter().filter(unknown) {
            let words = ["apus", "sft"].map(str::to_owned);
            let line = words.iter().cloned().chain([format!("--{typed}")]);
            let error = sft().try_get_matches_from(line).unwrap_err();
            let said = with_suggestion(error, &sft(), &words[1..])
                .render()
                .to_string();
            match meant {
                Some(near) => assert!(said.contains(&format!("'--{near}'")), "{typed}: {said}"),
                None => assert!(!said.contains("tip"), "{typed}: {said}"),
            }
        }
        let words = |word: &str| [word.to_owned()];
        let said = |word: &str| {
            let line = ["apus", word];
            let error = sft().try_get_matches_from(line).unwrap_err();
            with_suggestion(error, &sft(), &words(word))
                .render()
                .to_string()
        };
        assert!(said("sfft").contains("'sft'"), "{}", said("sfft"));
        assert!(!said("deploy").contains("tip"), "{}", said("deploy"));
    }
}
