//! Dataset files through formats, encoder and report to batches.

mod data_common;

use apus_data::{
    chat::{Dialect, EncodeOptions, Encoder, dialect::harmony::Harmony},
    data::{
        Dataset, Formats, PrepareOptions, Record, SourceOptions, Truncation, converted, prepare,
        read_sets,
    },
};
use data_common::{chain, format, tiny_tokenizer};
use serde_json::json;
use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

const NAMES: [&str; 5] = ["messages", "sharegpt", "alpaca", "query_response", "tokens"];

fn formats(forced: Option<&str>) -> Formats {
    let all = NAMES.map(|name| (name.to_owned(), format(name)));
    Formats::new(all.into(), forced).unwrap()
}

fn encoder(scales: &str) -> Encoder {
    let options = EncodeOptions::default();
    Encoder::new(
        tiny_tokenizer(),
        Harmony::native(),
        chain("", scales),
        options,
    )
    .unwrap()
}

fn records(dir: &Path, files: &[(&str, &str)]) -> Vec<Record> {
    let mut options = SourceOptions {
        dataset_shuffle: false,
        ..SourceOptions::default()
    };
    for (name, text) in files {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        options.dataset.push(path.display().to_string().into());
    }
    read_sets(&options).unwrap().train
}

fn run(files: &[(&str, &str)], options: &PrepareOptions) -> anyhow::Result<Dataset> {
    let dir = tempfile::tempdir()?;
    let records = records(dir.path(), files);
    prepare(
        &records,
        &formats(None),
        &encoder("default"),
        options,
        &|_| {},
    )
}

const ALPACA: &str = r#"[{"instruction": "沐雪的功能是什么？", "input": "", "output": "喵~", "history": []},
{"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]]}]"#;
const MESSAGES: &str = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
{"messages": [{"role": "user", "content": "a"}]}
{"messages": [{"role": "nobody", "content": "a"}]}
"#;
const TOKENS: &str = r#"{"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "loss_scale": [0, 1, 0.5]}
{"input_ids": [1, 2, 3], "labels": [1, -100, -100]}"#;

#[test]
fn files_of_several_formats_and_their_report() {
    let files = [
        ("a.json", ALPACA),
        ("m.jsonl", MESSAGES),
        ("t.jsonl", TOKENS),
    ];
    let done = AtomicUsize::new(0);
    let dir = tempfile::tempdir().unwrap();
    let records = records(dir.path(), &files);
    let count = |_| {
        done.fetch_add(1, Ordering::Relaxed);
    };
    let scales = encoder("default+hermes+ignore_empty_think");
    let found = prepare(
        &records,
        &formats(None),
        &scales,
        &PrepareOptions::default(),
        &count,
    )
    .unwrap();
    assert_eq!(done.into_inner(), 7);
    assert_eq!(found.records, [0, 1, 2, 5]);
    let report = &found.report;
    let used: Vec<_> = report
        .sources
        .iter()
        .map(|s| (s.format.as_str(), s.rows, s.kept))
        .collect();
    assert_eq!(
        used,
        [("alpaca", 2, 2), ("messages", 3, 1), ("tokens", 2, 1)]
    );
    assert_eq!(
        report.total(|s| s.tokens),
        found.samples.iter().map(|s| s.len()).sum::<usize>()
    );
    assert_eq!(
        report.total(|s| s.trained),
        found.samples.iter().map(|s| s.targets()).sum::<usize>()
    );
    assert_eq!(report.unmatched_scales, ["hermes", "ignore_empty_think"]);
    let warnings = report.warnings().join("\n");
    assert!(warnings.contains("2 of 3 rows"), "{warnings}");
    assert!(
        warnings.contains("m.jsonl:2: row has no assistant message to train on"),
        "{warnings}"
    );
    assert!(
        warnings.contains("m.jsonl:3: column `messages`: message 1: unknown role"),
        "{warnings}"
    );
    assert!(
        warnings.contains("t.jsonl: dropped 1 (no trained token)"),
        "{warnings}"
    );
    assert!(warnings.contains("`hermes` matched nothing"), "{warnings}");
    assert!(report.to_string().contains("alpaca"));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let with = |workers| PrepareOptions {
        workers: Some(workers),
        ..PrepareOptions::default()
    };
    let files = [("a.json", ALPACA), ("t.jsonl", TOKENS)];
    assert_eq!(
        run(&files, &with(1)).unwrap().samples,
        run(&files, &with(4)).unwrap().samples
    );
}

#[test]
fn long_samples() {
    let with = |truncation, strict| PrepareOptions {
        max_length: Some(100),
        truncation,
        strict,
        ..PrepareOptions::default()
    };
    let long = format!(
        "{MESSAGES}{{\"messages\": [{{\"role\": \"user\", \"content\": \"{0}\"}}, {{\"role\": \"assistant\", \"content\": \"{0}\"}}]}}",
        "word ".repeat(200)
    );
    let lengths = |strategy| {
        let found = run(&[("m.jsonl", &long)], &with(strategy, false))?;
        let lengths: Vec<_> = found.samples.iter().map(|sample| sample.len()).collect();
        anyhow::Ok((lengths, found.report))
    };
    let error = |strategy, strict| {
        format!(
            "{:#}",
            run(&[("m.jsonl", &long)], &with(strategy, strict)).unwrap_err()
        )
    };
    let bad = lengths(Truncation::Delete).unwrap_err().to_string();
    assert!(
        bad.contains("none of 4 rows is left") && bad.contains("longer than max_length"),
        "{bad}"
    );
    let (left, report) = lengths(Truncation::Left).unwrap();
    assert_eq!((left, report.sources[0].truncated), (vec![100, 100], 2));
    let bad = lengths(Truncation::Right).unwrap_err().to_string();
    assert!(bad.contains("no trained token"), "{bad}");
    let bad = error(Truncation::Raise, false);
    assert!(
        bad.contains("m.jsonl:1: ") && bad.contains("longer than max_length 100"),
        "{bad}"
    );
    assert!(
        error(Truncation::Left, true).contains("m.jsonl:2: bad row (strict): row has no assistant")
    );
}

/// Parts of a split sample that are not kept are no rows that were dropped, and what is not trained is counted.
#[test]
fn a_split_says_what_it_keeps() {
    let words = |count: usize| "word ".repeat(count);
    let text = format!(
        "{{\"messages\": [{{\"role\": \"user\", \"content\": \"{}\"}}, {{\"role\": \"assistant\", \"content\": \"{}\"}}]}}",
        words(100),
        words(200)
    );
    let options = |max_length, truncation| PrepareOptions {
        max_length,
        truncation,
        ..PrepareOptions::default()
    };
    let whole = run(&[("m.jsonl", &text)], &options(None, Truncation::Delete)).unwrap();
    let whole = &whole.samples[0];
    let found = run(&[("m.jsonl", &text)], &options(Some(80), Truncation::Split)).unwrap();
    let source = &found.report.sources[0];
    assert_eq!(
        (source.rows, source.split, source.dropped_rows()),
        (1, 1, 0)
    );
    assert_eq!(source.parts, found.samples.len());
    assert_eq!(source.parts + source.idle_parts, whole.len().div_ceil(80));
    assert!(source.idle_parts > 0 && source.untrained_firsts > 0);
    assert_eq!(source.trained + source.untrained_firsts, whole.targets());
    let said = found.report.warnings();
    let expected = format!(
        "1 sample longer than max_length became {} (truncation_strategy split), {} part",
        source.parts, source.idle_parts
    );
    assert!(said.len() == 1 && said[0].contains(&expected), "{said:?}");
    assert!(found.report.to_string().contains("100.0%"));
}

#[test]
fn empty_answers_are_left_out_unless_asked_for_and_empty_cells_are_counted() {
    let files = [
        ("t.csv", "instruction,input,output\nhi,,\nho,,Ho\n"),
        (
            "a.jsonl",
            "{\"query\": \"q\", \"response\": \" \"}\n{\"query\": \"q\", \"response\": \"r\"}",
        ),
    ];
    let options = |keep_empty_answers| PrepareOptions {
        keep_empty_answers,
        ..PrepareOptions::default()
    };
    let found = run(&files, &options(false)).unwrap();
    assert_eq!(found.samples.len(), 2);
    let said = found.report.warnings().join("\n");
    for part in [
        "t.csv: empty cells in 2 rows: 2 in `input`, 1 in `output`",
        "dropped 1 (empty answer; --keep_empty_answers true trains such rows)",
        "t.csv:2",
        "a.jsonl:1",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let all = run(&files, &options(true)).unwrap();
    assert_eq!(all.samples.len(), 4);
    assert_eq!(all.report.total(|source| source.dropped_rows()), 0);
}

#[test]
fn bad_files() {
    let error = |files: &[(&str, &str)]| {
        format!("{:#}", run(files, &PrepareOptions::default()).unwrap_err())
    };
    let bad = error(&[("m.jsonl", &format!("{MESSAGES}{{\"messages\": "))]);
    assert!(bad.contains("m.jsonl:4: malformed JSON"), "{bad}");
    let bad = error(&[("x.jsonl", "{\"colour\": 1}")]);
    assert!(
        bad.contains("x.jsonl:1: no dataset format recognises the columns colour"),
        "{bad}"
    );
    let options = PrepareOptions {
        vocabulary: Some(3),
        ..PrepareOptions::default()
    };
    let bad = run(&[("t.jsonl", TOKENS)], &options)
        .unwrap_err()
        .to_string();
    assert!(
        bad.contains("token id 3 is not in the model's vocabulary of 3"),
        "{bad}"
    );
}

#[test]
fn columns_choose_the_format_as_in_ms_swift() {
    let all = formats(None);
    let choose = |row: serde_json::Value| {
        let row = row.as_object().unwrap().clone();
        let record = Record {
            source: "d.jsonl".into(),
            line: 1,
            text: String::new(),
            format: None,
        };
        let (name, _) = all.choose(&record, &row).unwrap();
        name.to_owned()
    };
    // Both of these read messages and pairs alike.
    assert_eq!(
        choose(json!({"messages": [], "instruction": "", "input": ""})),
        "messages"
    );
    assert_eq!(
        choose(json!({"conversations": [], "query": ""})),
        "sharegpt"
    );
    assert_eq!(choose(json!({"conversation": []})), "sharegpt");
    assert_eq!(
        choose(json!({"instruction": "", "input": "", "output": ""})),
        "alpaca"
    );
    assert_eq!(
        choose(json!({"instruction": "", "answer": ""})),
        "query_response"
    );
    assert_eq!(
        choose(json!({"Question": "", "solution": ""})),
        "query_response"
    );
    assert_eq!(choose(json!({"text": ""})), "query_response");
    assert_eq!(
        choose(json!({"input_ids": [], "labels": [], "text": ""})),
        "tokens"
    );
}

#[test]
fn plain_text_is_trained_whole() {
    let found = run(
        &[("t.jsonl", "{\"text\": \"a b c\"}")],
        &PrepareOptions::default(),
    )
    .unwrap();
    let [sample] = found.samples.as_slice() else {
        panic!("one sample")
    };
    let trained: Vec<u32> = sample
        .labels
        .iter()
        .filter_map(|l| u32::try_from(*l).ok())
        .collect();
    let text = tiny_tokenizer().decode(&trained, true);
    assert_eq!(text, "<|channel|>final<|message|>a b c<|return|>");
}

#[test]
fn samples_for_inference_need_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let text = "{\"query\": \"a\"}\n{\"query\": \"b\"}";
    let ask = |text: &str| {
        let records = records(dir.path(), &[("q.jsonl", text)]);
        let found = converted(&records, &formats(None)).unwrap();
        let each = found.into_iter().enumerate().map(|(index, row)| {
            let error = row.err().map(|error| format!("{error:#}"));
            (index, error.unwrap_or_default())
        });
        each.collect::<Vec<_>>()
    };
    assert_eq!(ask(text), [(0, String::new()), (1, String::new())]);
    let found = ask("{\n{\"query\": \"a\"}\n{\"query\": 1}\n{\"query\": \"b\", \"query\": \"c\"}");
    let expected = ["malformed JSON", "", "must be text", "in one object twice"];
    assert_eq!(found.len(), 4);
    for ((index, error), expected) in found.into_iter().zip(expected) {
        assert!(error.contains(expected), "{index}: {error}");
        assert_eq!(error.contains("q.jsonl:"), !expected.is_empty(), "{error}");
    }
}

const UNUSED: &str = r#"{"messages": [{"role": "user", "content": "a", "mood": "bad"}, {"role": "assistant", "content": "b"}], "id": 1}
{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "difficulty": 3, "note": null}
{"messages": [{"role": "user", "content": "a", "mood": "b"}, {"role": "user", "content": "a", "mood": ""}, {"role": "assistant", "content": "b", "mood": "c"}], "difficulty": 0,
 "chat_template_kwargs": {"enable_thinking": true, "reasoning_effort": "low"}}
"#;

#[test]
fn what_is_not_used_is_named_once() {
    let files = [("u.json", UNUSED), ("t.jsonl", TOKENS)];
    let found = run(&files, &PrepareOptions::default()).unwrap();
    assert_eq!(found.report.total(|source| source.kept), 4);
    let warnings = found.report.warnings();
    let lines: Vec<&str> = warnings
        .iter()
        .filter_map(|line| Some(line.split_once("not used: ")?.1))
        .collect();
    assert_eq!(
        lines,
        [
            "chat_template_kwargs.enable_thinking (1 row, line 3), difficulty (2 rows, first in line 2), \
          messages[].mood (2 rows, first in line 1)"
        ]
    );
    assert_eq!(found.report.notes(Harmony.row_notes()), [""; 0]);
}

#[test]
fn with_strict_what_is_not_used_stops() {
    let strict = PrepareOptions {
        strict: true,
        ..PrepareOptions::default()
    };
    let text = UNUSED.lines().next().unwrap();
    let bad = run(&[("u.jsonl", text)], &strict).unwrap_err().to_string();
    assert!(
        bad.contains("u.jsonl:1: not used: messages[].mood (strict)"),
        "{bad}"
    );
    let text = text.replace("\"mood\"", "\"name\"");
    assert_eq!(
        run(&[("u.jsonl", &text)], &strict).unwrap().samples.len(),
        1
    );
}

#[test]
fn a_format_that_does_not_say_what_it_uses_is_named() {
    struct Silent;
    impl apus_sdk::DatasetFormat for Silent {
        fn recognises(&self, _: &[&str]) -> bool {
            true
        }
        fn convert(&self, row: apus_sdk::Row) -> apus_sdk::Result<Vec<apus_sdk::Sample>> {
            format("messages").convert(row)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let records = records(dir.path(), &[("u.json", UNUSED)]);
    let formats = Formats::new(vec![("silent".to_owned(), Box::new(Silent))], None).unwrap();
    let strict = PrepareOptions {
        strict: true,
        ..PrepareOptions::default()
    };
    let found = prepare(&records, &formats, &encoder("default"), &strict, &|_| {}).unwrap();
    assert_eq!(found.samples.len(), 3);
    let notes = found.report.notes(Harmony.row_notes()).join("\n");
    assert!(
        notes.contains("u.json: the format silent does not say which columns it uses"),
        "{notes}"
    );
    assert!(found.report.warnings().is_empty());
}

#[test]
fn messages_beside_conversations_are_the_messages() {
    let row = r#"{"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}],
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let both = run(&[("b.json", row)], &PrepareOptions::default()).unwrap();
    let alone = run(&[("m.jsonl", MESSAGES)], &PrepareOptions::default()).unwrap();
    assert_eq!(both.samples, alone.samples);
    assert_eq!(both.report.sources[0].format, "messages");
    let said = both.report.warnings().join("\n");
    assert!(
        said.contains("not used: conversations (1 row, line 1)"),
        "{said}"
    );
}

#[test]
fn a_row_that_ends_with_the_user_trains_its_answers() {
    let rows = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]}
{"messages": [{"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}], "loss_mask": [0, 0]}"#;
    let found = run(&[("m.jsonl", rows)], &PrepareOptions::default()).unwrap();
    assert_eq!(found.samples.len(), 1);
    let trained = found.samples[0].targets();
    let alone = run(&[("m.jsonl", MESSAGES)], &PrepareOptions::default()).unwrap();
    assert_eq!(trained, alone.samples[0].targets());
    assert_eq!(found.report.sources[0].dropped["no trained token"].count, 1);
}
