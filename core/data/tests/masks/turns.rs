//! Turns of several messages: what is one message, what stands before a call, and reasoning of earlier turns.

use crate::support::*;

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
        let encoder = encoder(template, chain("", "default"), TrainHeader::AfterPrompt);
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
            Harmony::native(),
            chain("", "default"),
            options,
        );
        let encoder = encoder.unwrap();
        let (encoded, reasoning) = encoder.encode_with_notes(&sample(&row)).unwrap();
        let text = marked(&encoded, encoder.tokenizer(), MarkStyle::Brackets);
        (text, reasoning.notes(Harmony.row_notes()).join("\n"))
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
