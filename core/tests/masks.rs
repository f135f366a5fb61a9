//! Which tokens are trained, and how much: whole conversations through the encoder.

mod data_common;

use apus_core::chat::{
    Chain, ChatTemplate, EncodeOptions, Encoded, Encoder, RenderOptions, TrainHeader, TrainStop,
    preview::{Marks, marked},
};
use apus_sdk::{LossScale, Sample, Segment, TokenRow, Turn};
use data_common::{chain, conversation, jinja, tiny_tokenizer};
use serde_json::{Value, json};

fn encoder(template: ChatTemplate, scales: Chain, header: TrainHeader) -> Encoder {
    encoder_with(template, scales, (header, TrainStop::Return))
}

fn encoder_with(
    template: ChatTemplate,
    scales: Chain,
    (train_header, train_stop): (TrainHeader, TrainStop),
) -> Encoder {
    let options = EncodeOptions {
        train_header,
        train_stop,
        render: RenderOptions {
            date: Some("2025-08-05".to_owned()),
            ..RenderOptions::default()
        },
        ..EncodeOptions::default()
    };
    Encoder::new(tiny_tokenizer(), template, scales, options).unwrap()
}

fn sample(row: &Value) -> Sample {
    Sample::Conversation(conversation(row.as_object().unwrap()))
}

/// The marked text after the system message, the same from both renderers.
fn marks_with(row: &Value, scales: &str, header: TrainHeader) -> String {
    marks_as(row, scales, (header, TrainStop::Return))
}

fn marks_as(row: &Value, scales: &str, switches: (TrainHeader, TrainStop)) -> String {
    let mut texts: Vec<String> = [Some(ChatTemplate::native()), jinja()]
        .into_iter()
        .flatten()
        .map(|template| {
            let encoder = encoder_with(template, chain("", scales), switches);
            let encoded = encoder.encode(&sample(row)).unwrap();
            check(&encoded);
            let text = marked(&encoded, encoder.tokenizer(), Marks::Brackets);
            text.split_once("every message.").unwrap().1.to_owned()
        })
        .collect();
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    texts.remove(0).trim_start_matches("<|end|>").to_owned()
}

fn marks(row: &Value, scales: &str) -> String {
    marks_with(row, scales, TrainHeader::Channel)
}

/// `<|return|>` of the tiny model.
const RETURN: u32 = 742;

fn check(encoded: &Encoded) {
    for ((id, label), weight) in encoded
        .input_ids
        .iter()
        .zip(&encoded.labels)
        .zip(&encoded.weights)
    {
        let own = *label == i64::from(*id);
        assert_eq!(*label == -100, *weight == 0.0);
        assert!(
            own || *label == -100 || *label == i64::from(RETURN),
            "{label}"
        );
    }
}

fn two_turns() -> Value {
    json!({"messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "thinking": "t"},
    ]})
}

#[test]
fn every_answer_with_its_stop_token() {
    assert_eq!(
        marks(&two_turns(), "default"),
        "<|start|>user<|message|>a<|end|><|start|>assistant[[<|channel|>final<|message|>b]]\
         [[<|end|>]](<|return|>)<|start|>user<|message|>c<|end|><|start|>assistant[[<|channel|>analysis<|message|>t<|end|>\
         <|start|>assistant<|channel|>final<|message|>d<|return|>]]"
    );
    let header_off = marks_with(&two_turns(), "default", TrainHeader::None);
    assert!(
        header_off.contains("<|channel|>analysis<|message|>[[t<|end|>]]<|start|>assistant"),
        "{header_off}"
    );
    let header_full = marks_with(&two_turns(), "default", TrainHeader::Full);
    assert!(
        header_full.contains(
            "<|end|>[[<|start|>assistant<|channel|>final<|message|>b]][[<|end|>]](<|return|>)"
        ),
        "{header_full}"
    );
}

#[test]
fn the_stop_token_of_an_earlier_answer_is_a_choice() {
    let stop = |stop| marks_as(&two_turns(), "default", (TrainHeader::Channel, stop));
    let end = stop(TrainStop::End);
    assert!(
        end.contains("final<|message|>b<|end|>]]<|start|>user"),
        "{end}"
    );
    let none = stop(TrainStop::None);
    assert!(
        none.contains("final<|message|>b]]<|end|><|start|>user"),
        "{none}"
    );
    let header = (TrainHeader::None, TrainStop::Return);
    let bare = marks_as(&two_turns(), "default", header);
    assert!(
        bare.contains("<|message|>[[b]][[<|end|>]](<|return|>)"),
        "{bare}"
    );
    for stop in [TrainStop::Return, TrainStop::End, TrainStop::None] {
        let encode = |template| {
            let encoder =
                encoder_with(template, chain("", "default"), (TrainHeader::Channel, stop));
            encoder.encode(&sample(&two_turns())).unwrap()
        };
        let rendered = encode(ChatTemplate::native());
        let relabelled = rendered.input_ids.iter().zip(&rendered.labels);
        let relabelled =
            relabelled.filter(|(id, label)| **label >= 0 && **label != i64::from(**id));
        let expected = usize::from(stop == TrainStop::Return);
        assert_eq!(relabelled.count(), expected, "{stop:?}");
    }
    assert_eq!("end".parse::<TrainStop>().unwrap(), TrainStop::End);
    assert!("stop".parse::<TrainStop>().is_err() && "some".parse::<TrainHeader>().is_err());
}

/// The marked text after the system message, by the renderer that has a place for all of harmony.
fn native_marks(row: &Value, scales: &str) -> String {
    let encoder = encoder(
        ChatTemplate::native(),
        chain("", scales),
        TrainHeader::Channel,
    );
    let encoded = encoder.encode(&sample(row)).unwrap();
    check(&encoded);
    let text = marked(&encoded, encoder.tokenizer(), Marks::Brackets);
    let text = text.split_once("every message.").unwrap().1;
    text.trim_start_matches("<|end|>").to_owned()
}

#[test]
fn a_turn_of_several_messages_ends_once() {
    let row = |call: Value| {
        json!({"messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, call,
            {"role": "tool", "content": "r"}, {"role": "user", "content": "c"},
        ]})
    };
    let calls = json!([{"name": "f", "arguments": {}}]);
    let end = "<|start|>functions.f to=assistant<|channel|>commentary<|message|>\"r\"<|end|>\
               <|start|>user<|message|>c<|end|>";
    let reasoned =
        row(json!({"role": "assistant", "content": "", "thinking": "t", "tool_calls": calls}));
    assert_eq!(
        native_marks(&reasoned, "default"),
        format!(
            "<|start|>user<|message|>a<|end|><|start|>assistant[[<|channel|>commentary<|message|>b<|end|>\
             <|start|>assistant<|channel|>analysis<|message|>t<|end|><|start|>assistant to=functions.f\
             <|channel|>commentary json<|message|>{{}}<|call|>]]{end}"
        )
    );
    let bare = row(json!({"role": "assistant", "content": "", "tool_calls": calls, "loss": false}));
    assert_eq!(
        marks(&bare, "default"),
        format!(
            "<|start|>user<|message|>a<|end|><|start|>assistant[[<|channel|>analysis<|message|>b<|end|>]]\
             <|start|>assistant to=functions.f<|channel|>commentary json<|message|>{{}}<|call|>{end}"
        )
    );
    if let Some(template) = jinja() {
        let encoder = encoder(template, chain("", "default"), TrainHeader::Channel);
        let bad = format!("{:#}", encoder.encode(&sample(&reasoned)).unwrap_err());
        assert!(
            bad.contains("message 2 (assistant): commentary") && bad.contains("native"),
            "{bad}"
        );
    }
}

#[test]
fn words_before_a_call_stand_behind_its_reasoning() {
    let row = json!({"messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>t</think>b"},
        {"role": "tool_call", "content": "{\"name\": \"f\", \"arguments\": {}}"},
    ]});
    assert_eq!(
        native_marks(&row, "default"),
        "<|start|>user<|message|>a<|end|><|start|>assistant[[<|channel|>analysis<|message|>t<|end|>\
         <|start|>assistant<|channel|>commentary<|message|>b<|end|><|start|>assistant to=functions.f\
         <|channel|>commentary json<|message|>{}<|call|>]]"
    );
}

#[test]
fn messages_of_one_speaker_are_one() {
    let row = json!({"messages": [
        {"role": "user", "content": "a"}, {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c", "loss": false}, {"role": "assistant", "content": "d", "loss_scale": 2},
        {"role": "user", "content": "e"}, {"role": "assistant", "content": "f"},
    ]});
    assert_eq!(
        marks(&row, "default"),
        "<|start|>user<|message|>ab<|end|><|start|>assistant<|channel|>final<|message|>c[[d]](2)\
         [[<|end|>]](<|return|>, 2)<|start|>user<|message|>e<|end|>\
         <|start|>assistant[[<|channel|>final<|message|>f<|return|>]]"
    );
}

#[test]
fn reasoning_of_earlier_turns() {
    let row = json!({"messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>s</think>b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "thinking": "t"},
    ]});
    let encode = |keep_thinking| {
        let render = RenderOptions {
            keep_thinking,
            ..RenderOptions::default()
        };
        let options = EncodeOptions {
            render,
            ..EncodeOptions::default()
        };
        let encoder = Encoder::new(
            tiny_tokenizer(),
            ChatTemplate::native(),
            chain("", "default"),
            options,
        );
        let encoder = encoder.unwrap();
        let (encoded, reasoning) = encoder.encode_noting(&sample(&row)).unwrap();
        let text = marked(&encoded, encoder.tokenizer(), Marks::Brackets);
        (text, reasoning.notes().join("\n"))
    };
    let (kept, notes) = encode(true);
    assert!(
        kept.contains(
            "assistant[[<|channel|>analysis<|message|>s<|end|><|start|>assistant<|channel|>final\
             <|message|>b]][[<|end|>]](<|return|>)"
        ),
        "{kept}"
    );
    assert!(
        notes.starts_with("1 row: <think>") && !notes.contains("left out"),
        "{notes}"
    );
    let (dropped, notes) = encode(false);
    assert!(!dropped.contains("<|message|>s"), "{dropped}");
    assert!(
        notes.contains("1 row: reasoning in earlier turns"),
        "{notes}"
    );
}

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
    let mut spec = apus_core::config::Spec::named("json");
    spec.options
        .insert("path".to_owned(), path.display().to_string().into());
    let scale: Box<dyn LossScale> = apus_core::registry::build(&spec).unwrap();
    let chain = Chain::new(vec![("mine.json".to_owned(), scale)]).unwrap();
    assert_eq!(chain.unmatched(), ["mine.json"]);
    let encoder = encoder(ChatTemplate::native(), chain, TrainHeader::Channel);
    let encoded = encoder.encode(&sample(&plain)).unwrap();
    let found = marked(&encoded, encoder.tokenizer(), Marks::Brackets);
    assert!(
        found.contains("commentary json<|message|>]](3)[[{\"x\": \"]]secret[[\"}<|call|>]]"),
        "{found}"
    );
    assert!(encoder.scales().unmatched().is_empty());
}

#[test]
fn the_last_round_and_everything() {
    let last = marks(&two_turns(), "last_round");
    assert!(
        last.contains("assistant<|channel|>final<|message|>b<|end|>"),
        "{last}"
    );
    assert!(last.ends_with("d<|return|>]]"), "{last}");
    let encoder = encoder(
        ChatTemplate::native(),
        chain("", "all"),
        TrainHeader::Channel,
    );
    let all = encoder.encode(&sample(&two_turns())).unwrap();
    assert!(all.weights.iter().all(|weight| *weight == 1.0));
    assert_eq!(all.targets(), all.len() - 1);
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
fn calls_of_tools_and_marks_of_messages() {
    let row = json!({"messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "thinking": "t", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]},
        {"role": "tool", "content": "r"},
    ], "tools": [{"name": "f", "description": "d"}]});
    let found = marks(&row, "default");
    let call = "[[<|channel|>analysis<|message|>t<|end|><|start|>assistant to=functions.f<|channel|>commentary \
                json<|message|>{\"x\": 1}<|call|>]]<|start|>functions.f to=assistant<|channel|>commentary<|message|>\"r\"<|end|>";
    assert!(found.ends_with(call), "{found}");

    let row = json!({"messages": [
        {"role": "user", "content": "a", "loss": true},
        {"role": "assistant", "content": "b", "loss": false},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d", "loss_scale": 0.5},
    ]});
    // As in ms-swift, `loss: true` has no answer of a user trained.
    assert_eq!(
        marks(&row, "default"),
        "<|start|>user<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|end|>\
         <|start|>user<|message|>c<|end|><|start|>assistant[[<|channel|>final<|message|>d<|return|>]](0.5)"
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
    let encoder = encoder(ChatTemplate::native(), scales, TrainHeader::None);
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
            dir: &data_common::golden("tiny/model_bf16"),
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
