//! Loss scales on the way through the encoder.

use crate::support::*;
use apus_sdk::{LossScale, Segment, Turn};

#[test]
fn scales_see_structured_calls() {
    let row = |more: Value| {
        let mut call = json!({"role": "assistant", "content": null, "tool_calls": [
            {"name": "f", "arguments": {"x": "secret"}}]});
        for (key, value) in more.as_object().unwrap() {
            call[key.as_str()] = value.clone();
        }
        json!({"messages": [{"role": "user", "content": "q"}, call,
            {"role": "tool", "content": "r"}, {"role": "assistant", "content": "a"}]})
    };
    let plain = row(json!({}));
    let doubled =
        "[[ to=functions.f<|channel|>commentary json<|message|>{\"x\": \"secret\"}<|call|>]](2)";
    for scale in [
        "hermes",
        "react",
        "alpha_umi",
        "qwen",
        "ignore_empty_think+hermes",
    ] {
        let found = marks(&plain, scale);
        assert!(found.contains(doubled), "{scale}: {found}");
        assert!(
            found.ends_with("[[<|channel|>final<|message|>a<|return|>]]"),
            "{found}"
        );
    }
    let found = marks(&plain, "agentflan");
    assert!(found.contains(&doubled.replace("(2)", "(3)")), "{found}");
    // One after the other sees the same words, as with one agent template.
    let found = marks(&plain, "hermes+react");
    assert!(found.contains(doubled), "{found}");
    for scale in ["default", "ignore_empty_think"] {
        let found = marks(&plain, scale);
        assert!(found.contains("<|call|>]]<"), "{scale}: {found}");
    }
    // The message's own weight goes over it, and turns that are not trained stay so.
    let found = marks(&row(json!({"loss_scale": 0.5})), "hermes");
    assert!(found.contains("<|call|>]](0.5)"), "{found}");
    let found = marks(&row(json!({"loss": false})), "hermes");
    assert!(found.contains("{\"x\": \"secret\"}<|call|>"), "{found}");
    assert!(!marks(&plain, "last_round+hermes").contains("(2)"));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.json");
    std::fs::write(&path, r#"{"secret": [0], "\"name\": \"f\"": [3]}"#).unwrap();
    let mut spec = apus_components::registry::Spec::named("json");
    spec.options
        .insert("path".to_owned(), path.display().to_string().into());
    let scale: Box<dyn LossScale> = apus_components::registry::build(&spec).unwrap();
    let chain = Chain::new(vec![("mine.json".to_owned(), scale)]).unwrap();
    assert_eq!(chain.unmatched(), ["mine.json"]);
    let encoder = encoder(Harmony::native(), chain, TrainHeader::AfterPrompt);
    let encoded = encoder.encode(&sample(&plain)).unwrap();
    let found = marked(&encoded, encoder.tokenizer(), MarkStyle::Brackets);
    assert!(
        found.contains("commentary json<|message|>]](3)[[{\"x\": \"]]secret[[\"}<|call|>]]"),
        "{found}"
    );
    assert!(encoder.scales().unmatched().is_empty());
}

#[test]
fn empty_thoughts() {
    let row = |content: &str| json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": content}]});
    let answer = "<|start|>user<|message|>a<|end|><|start|>assistant[[<|channel|>final<|message|>hi<|return|>]]";
    for scales in ["default", "ignore_empty_think"] {
        assert_eq!(marks(&row("<think>\n\n</think>\n\nhi"), scales), answer);
    }
    let by_hand =
        "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>hi";
    assert_eq!(
        marks(&row(by_hand), "ignore_empty_think"),
        "<|start|>user<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|><|end|>\
         <|start|>assistant[[<|channel|>final<|message|>hi<|return|>]]"
    );
    let field = json!({"messages": [{"role": "user", "content": "a"},
        {"role": "assistant", "content": "hi", "thinking": ""}]});
    assert_eq!(
        marks(&field, "ignore_empty_think"),
        marks(&row(by_hand), "ignore_empty_think")
    );
    assert!(
        marks(&field, "default")
            .contains("assistant[[<|channel|>analysis<|message|><|end|><|start|>")
    );
}

#[test]
fn weights_travel_into_the_analysis() {
    let row = json!({"messages": [{"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>Thought: t Observation: o</think>Action: x"}]});
    assert_eq!(
        marks(&row, "react"),
        "<|start|>user<|message|>a<|end|><|start|>assistant[[<|channel|>analysis<|message|>Thought: t ]]\
         [[Observation:]](2) o[[<|end|><|start|>assistant<|channel|>final<|message|>Action: x<|return|>]](2)"
    );
}

#[test]
fn a_token_takes_the_greatest_weight_of_its_bytes() {
    struct Halves;
    impl LossScale for Halves {
        fn segments(&self, text: &str, _: &Turn) -> apus_sdk::Result<Vec<Segment>> {
            Ok(text
                .char_indices()
                .map(|(i, c)| Segment::new(c, [0.5, 0.0, 2.0][i % 3]))
                .collect())
        }
    }
    let scales = Chain::new(vec![("halves".to_owned(), Box::new(Halves))]).unwrap();
    let encoder = encoder(Harmony::native(), scales, TrainHeader::None);
    let row = json!({"messages": [{"role": "user", "content": "a"},
        {"role": "assistant", "content": "the capital of the island"}]});
    let encoded = encoder.encode(&sample(&row)).unwrap();
    let (mut at, content) = (0, "the capital of the island".len());
    let from = encoded
        .weights
        .iter()
        .position(|weight| *weight > 0.0)
        .unwrap();
    let mut long = 0;
    for (id, weight) in encoded.input_ids.iter().zip(&encoded.weights).skip(from) {
        let bytes = encoder.tokenizer().token(*id).len();
        if at >= content {
            break;
        }
        long += usize::from(bytes > 1);
        let expected = (at..at + bytes)
            .map(|i| [0.5, 0.0, 2.0][i % 3])
            .fold(0.0, f32::max);
        assert_eq!(*weight, expected, "at byte {at}");
        at += bytes;
    }
    assert!(at >= content && long > 3);
}
