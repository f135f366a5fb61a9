//! Flags of the chat template and the loss scales, from the command line to what is trained.

use apus_components::config::{SftConfig, from_arguments};
use apus_data::chat::preview::{MarkStyle, marked};
use apus_engine::setup::{self, ChatOptions};
use apus_sdk::{Conversation, Message, Sample};
use std::path::Path;

/// A question and its answer.
fn row(answer: &str) -> Sample {
    let messages = vec![Message::new("user", "a"), Message::new("assistant", answer)];
    Sample::Conversation(Conversation {
        messages,
        ..Conversation::default()
    })
}

#[test]
fn switches_and_a_table_of_weights_from_the_command_line() {
    apus_plugins::link();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.json");
    std::fs::write(&file, r#"{"B:": [2, 0.5], "Z:": [3, 3]}"#).unwrap();
    let encoder = |more: &str| {
        let line = format!("--loss_scale last_round+{} {more}", file.display());
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let config = from_arguments::<SftConfig>(&words)?.config;
        setup::encoder(ChatOptions {
            dir: Path::new(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../tests/goldens/tiny/model_bf16"
            )),
            model_dir: None,
            backend: &config.template_backend,
            loss_scale: &config.loss_scale,
            encode: setup::encode_options(&config)?,
        })
    };
    let bare = encoder("--train_header none --train_stop none").unwrap();
    let encoded = bare.encode(&row("x B: y")).unwrap();
    let text = marked(&encoded, bare.tokenizer(), MarkStyle::Brackets);
    let expected = "<|message|>[[x ]][[B:]](2)[[ y<|return|>]](0.5)";
    assert!(text.ends_with(expected), "{text}");
    let idle = encoder("").unwrap();
    idle.encode(&row("x")).unwrap();
    assert_eq!(idle.scales().unmatched(), [file.display().to_string()]);
    let error = |more: &str| encoder(more).err().unwrap().to_string();
    assert!(error("--train_stop now").contains("expected return, end or none"));
    let both = error("--keep_thinking true --template_backend jinja");
    assert!(both.contains("exclude each other"), "{both}");
}
