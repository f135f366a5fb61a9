//! Rows that cannot be trained, and the flags that say what is.

use crate::support::*;
use apus_sdk::TokenRow;

#[test]
fn rows_that_cannot_be_trained() {
    let encoder = encoder(
        ChatTemplate::native(),
        chain("", "default"),
        TrainHeader::Channel,
    );
    let error = |sample: &Sample| encoder.encode(sample).unwrap_err().to_string();
    let user = sample(&json!({"messages": [{"role": "user", "content": "a"}]}));
    assert_eq!(error(&user), "row has no assistant message to train on");
    let uneven = Sample::Tokens(TokenRow {
        input_ids: vec![1, 2],
        labels: vec![1],
        loss_scale: None,
    });
    assert!(error(&uneven).contains("differ in length"));
    let tokens = Sample::Tokens(TokenRow {
        input_ids: vec![1, 2, 3],
        labels: vec![-100, 2, 7],
        loss_scale: Some(vec![1.0, 0.0, 0.5]),
    });
    let encoded = encoder.encode(&tokens).unwrap();
    assert_eq!(encoded.labels, [-100, -100, 7]);
    assert_eq!(encoded.weights, [0.0, 0.0, 0.5]);
    let (text, ids) = match &user {
        Sample::Conversation(c) => encoder.prompt(c).unwrap(),
        Sample::Tokens(_) => panic!("a conversation"),
    };
    assert!(text.ends_with("<|end|><|start|>assistant") && !ids.is_empty());
}

#[test]
fn switches_and_a_table_of_weights_from_the_command_line() {
    use apus_core::config::{SftConfig, from_arguments};
    use apus_core::train::setup::{self, ChatOptions};
    apus_plugins::link();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.json");
    std::fs::write(&file, r#"{"B:": [2, 0.5], "Z:": [3, 3]}"#).unwrap();
    let encoder = |more: &str| {
        let line = format!("--loss_scale last_round+{} {more}", file.display());
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let config = from_arguments::<SftConfig>(&words)?.config;
        setup::encoder(ChatOptions {
            dir: &golden("tiny/model_bf16"),
            backend: &config.template_backend,
            loss_scale: &config.loss_scale,
            encode: setup::encode_options(&config)?,
        })
    };
    let row = |text: &str| {
        let messages =
            json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]);
        sample(&json!({ "messages": messages }))
    };
    let bare = encoder("--train_header none --train_stop none").unwrap();
    let encoded = bare.encode(&row("x B: y")).unwrap();
    let text = marked(&encoded, bare.tokenizer(), Marks::Brackets);
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
