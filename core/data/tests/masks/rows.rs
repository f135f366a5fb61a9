//! Rows that cannot be trained, and the flags that say what is.

use crate::support::*;
use apus_sdk::TokenRow;

#[test]
fn rows_that_cannot_be_trained() {
    let encoder = encoder(
        Harmony::native(),
        chain("", "default"),
        TrainHeader::AfterPrompt,
    );
    let error = |sample: &Sample| encoder.encode(sample).unwrap_err().to_string();
    let user = sample(&json!({"messages": [{"role": "user", "content": "a"}]}));
    assert_eq!(error(&user), "row has no assistant message to train on");
    let uneven = Sample::Tokens(TokenRow {
        input_ids: vec![1, 2],
        labels: vec![1],
        loss_scale: None,
        channel: None,
    });
    assert!(error(&uneven).contains("differ in length"));
    let tokens = Sample::Tokens(TokenRow {
        input_ids: vec![1, 2, 3],
        labels: vec![-100, 2, 7],
        loss_scale: Some(vec![1.0, 0.0, 0.5]),
        channel: Some("c".to_owned()),
    });
    let encoded = encoder.encode(&tokens).unwrap();
    assert_eq!(encoded.channel.as_deref(), Some("c"));
    assert_eq!(encoded.labels, [-100, -100, 7]);
    assert_eq!(encoded.weights, [0.0, 0.0, 0.5]);
    let (text, ids) = match &user {
        Sample::Conversation(c) => encoder.prompt(c).unwrap(),
        Sample::Tokens(_) => panic!("a conversation"),
    };
    assert!(text.ends_with("<|end|><|start|>assistant") && !ids.is_empty());
}
