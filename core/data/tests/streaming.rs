//! Streams: the order is a function of the seed, nothing is lost, and memory does not grow with the data.

mod data_common;

use apus_data::chat::dialect::harmony::Harmony;
use apus_data::chat::{EncodeOptions, Encoder};
use apus_data::data::{
    Formats, Mix, PrepareOptions, StoppingStrategy, Stream, StreamOptions, Truncation,
};
use data_common::{chain, format, tiny_tokenizer};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

fn options(dataset: Vec<String>) -> StreamOptions {
    StreamOptions {
        dataset: dataset.into_iter().map(Into::into).collect(),
        dataset_options: apus_sdk::Options::new(),
        mix: None,
        columns: Value::Null,
        shuffle_buffer: None,
        data_seed: 42,
        packing: None,
        prepare: PrepareOptions {
            workers: Some(2),
            ..PrepareOptions::default()
        },
    }
}

/// A stream, and what it says.
fn open(options: StreamOptions) -> anyhow::Result<(Stream, Arc<Mutex<Vec<String>>>)> {
    let names = ["messages", "query_response", "tokens"];
    let known = names.map(|name| (name.to_owned(), format(name)));
    let formats = Formats::new(known.into(), None).unwrap();
    let encoder = Encoder::new(
        tiny_tokenizer(),
        Harmony::native(),
        chain("", "default"),
        EncodeOptions::default(),
    );
    let said = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&said);
    let say = move |line: &str| to.lock().unwrap().push(line.to_owned());
    let (formats, encoder) = (Arc::new(formats), Arc::new(encoder.unwrap()));
    Ok((
        Stream::open(options, formats, encoder, Box::new(say))?,
        said,
    ))
}

/// Rows of tokens; the first token of each is its number.
fn numbers(dir: &Path, name: &str, range: std::ops::Range<u32>) -> String {
    let rows = range.map(|i| format!("{{\"input_ids\": [{i}, 1, 2], \"labels\": [1, 1, 2]}}\n"));
    write(dir, name, &rows.collect::<String>())
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn take(stream: &mut Stream, count: usize) -> Vec<u32> {
    let examples = (0..count).map(|_| stream.next_example().unwrap());
    examples.map(|samples| samples[0].input_ids[0]).collect()
}

#[test]
fn rows_come_in_the_order_of_the_files_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let a = numbers(dir.path(), "a.jsonl", 0..100);
    let b = numbers(dir.path(), "b.jsonl", 100..300);
    let (mut stream, said) = open(options(vec![a, format!("{b}#20")])).unwrap();
    assert_eq!(stream.peek().unwrap().input_ids[0], 0);
    let once: Vec<u32> = (0..120).collect();
    assert_eq!(take(&mut stream, 120), once);
    assert!(said.lock().unwrap().is_empty());
    assert_eq!(take(&mut stream, 120), once);
    assert_eq!(said.lock().unwrap().len(), 1);
    assert!(said.lock().unwrap()[0].contains("the 120 examples"));
    let report = stream.report();
    assert_eq!(report.total(|source| source.rows), 120);
}

#[test]
fn a_shuffled_stream_is_a_function_of_the_seed() {
    let dir = tempfile::tempdir().unwrap();
    numbers(dir.path(), "a.jsonl", 0..500);
    let folder = dir.path().display().to_string();
    let order = |workers, seed| {
        let mut options = options(vec![folder.clone()]);
        options.shuffle_buffer = Some(50);
        options.data_seed = seed;
        options.prepare.workers = Some(workers);
        take(&mut open(options).unwrap().0, 1000)
    };
    let found = order(1, 42);
    assert_eq!(found, order(3, 42));
    assert_ne!(found, order(1, 43));
    let (first, second) = found.split_at(500);
    assert_ne!(first, second);
    for pass in [first, second] {
        let mut sorted = pass.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..500).collect::<Vec<_>>());
    }
}

/// A run goes on only with a stream of the same content, so that all that decides which examples come is in it.
#[test]
fn what_decides_which_examples_come_is_of_the_content() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let content = |dir: &Path, change: &dyn Fn(&mut StreamOptions)| {
        let mut options = options(vec![numbers(dir, "a.jsonl", 0..9)]);
        change(&mut options);
        open(options).unwrap().0.content().clone()
    };
    let plain = content(one.path(), &|_| {});
    let elsewhere = content(two.path(), &|options| options.prepare.workers = Some(1));
    assert_eq!(plain, elsewhere);
    let changes: [&dyn Fn(&mut StreamOptions); 7] = [
        &|options| options.dataset[0] = options.dataset[0].with_rows(5).unwrap(),
        &|options| options.columns = serde_json::json!({"a": "b"}),
        &|options| options.shuffle_buffer = Some(2),
        &|options| options.packing = Some(64),
        &|options| options.prepare.max_length = Some(2),
        &|options| options.prepare.truncation = Truncation::Split,
        &|options| options.prepare.keep_empty_answers = true,
    ];
    for (i, change) in changes.iter().enumerate() {
        assert_ne!(content(one.path(), *change), plain, "change {i}");
    }
}

/// Rows of tokens of many lengths; every token of each is its number.
fn lengths(dir: &Path, rows: usize) -> String {
    let row = |i: usize| {
        let tokens = vec![i; 2 + i * 7919 % 60];
        format!("{{\"input_ids\": {tokens:?}, \"labels\": {tokens:?}}}\n")
    };
    write(dir, "l.jsonl", &(0..rows).map(row).collect::<String>())
}

#[test]
fn a_packed_stream_is_a_function_of_the_seed() {
    let dir = tempfile::tempdir().unwrap();
    let file = lengths(dir.path(), 1000);
    let stream = |workers| {
        let mut options = options(vec![file.clone()]);
        options.shuffle_buffer = Some(50);
        options.packing = Some(100);
        options.prepare.max_length = Some(100);
        options.prepare.workers = Some(workers);
        open(options).unwrap()
    };
    let (mut one, said) = stream(1);
    assert!(one.identity().contains("packing 100"), "{}", one.identity());
    let mut numbers = Vec::new();
    let mut rows = Vec::new();
    while said.lock().unwrap().is_empty() {
        let example = one.next_example().unwrap();
        assert!(example.iter().map(|sample| sample.len()).sum::<usize>() <= 100);
        numbers.extend(example.iter().map(|sample| sample.input_ids[0]));
        rows.push(example);
    }
    // Said when the last rows of the pass are already waiting.
    let packing = one.report().packing.unwrap();
    while rows.len() < packing.rows {
        let example = one.next_example().unwrap();
        numbers.extend(example.iter().map(|sample| sample.input_ids[0]));
        rows.push(example);
    }
    assert!(said.lock().unwrap()[0].contains(&format!("the {} examples", packing.rows)));
    assert_eq!(packing.samples, 1000);
    assert!(packing.efficiency() > 0.95, "{packing}");
    numbers.sort_unstable();
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
    let (mut three, _) = stream(3);
    for row in rows {
        assert_eq!(row, three.next_example().unwrap());
    }
}

#[test]
fn long_samples_of_a_stream_become_several() {
    let dir = tempfile::tempdir().unwrap();
    let file = lengths(dir.path(), 200);
    let parts = |truncation| {
        let mut options = options(vec![file.clone()]);
        options.prepare.max_length = Some(20);
        options.prepare.truncation = truncation;
        let (mut stream, _) = open(options).unwrap();
        let mut tokens = vec![0usize; 200];
        let mut count = 0;
        while tokens[199] == 0 {
            let sample = stream.next_example().unwrap().remove(0);
            assert!(sample.len() <= 20);
            tokens[sample.input_ids[0] as usize] += sample.len();
            count += 1;
        }
        (tokens, count, stream.report())
    };
    let (tokens, count, report) = parts(Truncation::Split);
    let length = |i: usize| 2 + i * 7919 % 60;
    for (number, found) in tokens[..199].iter().enumerate() {
        // A part of one token has nothing to train and is dropped.
        let whole = length(number);
        assert_eq!(*found, whole - usize::from(whole % 20 == 1), "{number}");
    }
    let long = (0..200).filter(|i| length(*i) > 20).count();
    assert_eq!(report.total(|source| source.split), long);
    assert!(count > 200);
    let (tokens, ..) = parts(Truncation::Right);
    for (number, found) in tokens[..199].iter().enumerate() {
        assert_eq!(*found, length(number).min(20), "{number}");
    }
}

#[test]
fn datasets_are_mixed_and_columns_renamed() {
    let dir = tempfile::tempdir().unwrap();
    let a = numbers(dir.path(), "a.jsonl", 0..10);
    let b = write(
        dir.path(),
        "b.json",
        "[{\"ids\": [50, 1, 2], \"labels\": [1, 1, 2]}, {\"ids\": [51, 1, 2], \"labels\": [1, 1, 2]}]",
    );
    let mut options = options(vec![a, b]);
    options.columns = serde_json::json!({"ids": "input_ids", "no": "loss_scale"});
    options.mix = Some(Mix {
        probabilities: vec![0.5, 0.5],
        stopping: StoppingStrategy::AllExhausted,
    });
    let (mut stream, said) = open(options).unwrap();
    let found = take(&mut stream, 100);
    let of_b: Vec<u32> = found.iter().copied().filter(|id| *id >= 50).collect();
    assert_eq!(of_b[..4], [50, 51, 50, 51]);
    assert!(said.lock().unwrap()[0].contains("no row has a column `no`"));
}

#[test]
fn what_is_not_used_is_said_as_it_comes_and_counted_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let row = |extra: &str| format!("{{\"query\": \"q\", \"response\": \"r\"{extra}}}\n");
    let text = row("") + &row(", \"mood\": 1").repeat(50) + &row(", \"other\": {\"a\": 1}");
    let path = write(dir.path(), "a.jsonl", &text);
    let (mut stream, said) = open(options(vec![path.clone()])).unwrap();
    for _ in 0..120 {
        stream.next_example().unwrap();
    }
    let said = said.lock().unwrap().clone();
    let unused: Vec<&String> = said
        .iter()
        .filter(|line| line.contains("not used"))
        .collect();
    assert_eq!(
        unused,
        [
            &format!("{path}:2: not used: mood"),
            &format!("{path}:52: not used: other")
        ]
    );
    let warnings = stream.report().warnings();
    assert_eq!(
        warnings,
        [format!(
            "{path}: not used: mood (50 rows, first in line 2), other (1 row, line 52)"
        )]
    );
    let mut strict = options(vec![path]);
    strict.prepare.strict = true;
    let (mut stream, _) = open(strict).unwrap();
    let bad = std::iter::repeat_with(|| stream.next_example()).find_map(Result::err);
    let bad = format!("{:#}", bad.unwrap());
    assert!(bad.contains("a.jsonl:2: not used: mood (strict)"), "{bad}");
}

#[test]
fn what_is_dropped_is_said_and_what_is_broken_stops() {
    let dir = tempfile::tempdir().unwrap();
    let good = r#"{"query": "a", "response": "b"}"#;
    let no_answer = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
    let bad = write(
        dir.path(),
        "a.jsonl",
        &format!("{good}\n{{\"query\": 5}}\n{good}\n{{oops\n"),
    );
    let (mut stream, said) = open(options(vec![bad.clone()])).unwrap();
    let error = (0..3).find_map(|_| stream.next_example().err()).unwrap();
    assert!(
        format!("{error:#}").contains("a.jsonl:4: malformed JSON"),
        "{error:#}"
    );
    let (mut stream, _) = {
        let mut strict = options(vec![bad]);
        strict.prepare.strict = true;
        open(strict).unwrap()
    };
    assert!(stream.next_example().is_err());
    drop(said);

    let dropped = write(
        dir.path(),
        "b.jsonl",
        &format!("{good}\n{{\"query\": 5}}\n"),
    );
    let (mut stream, said) = open(options(vec![dropped])).unwrap();
    stream.next_example().unwrap();
    let said = said.lock().unwrap().join("\n");
    assert!(
        said.contains("b.jsonl:2: ") && said.contains("left out (bad row)"),
        "{said}"
    );

    let nothing = write(dir.path(), "c.jsonl", &format!("{no_answer}\n"));
    let (mut stream, _) = open(options(vec![nothing])).unwrap();
    let error = format!("{:#}", stream.next_example().unwrap_err());
    assert!(
        error.contains("nothing to train on") && error.contains("c.jsonl:1"),
        "{error}"
    );
    let missing = open(options(vec!["/no.jsonl".to_owned()])).err().unwrap();
    assert!(missing.to_string().contains("no dataset /no.jsonl"));
}

/// Conversations of some 400 bytes beside a column that is not used, until the file has this size.
fn conversations(path: &Path, bytes: u64) -> u64 {
    let mut file = BufWriter::new(std::fs::File::create(path).unwrap());
    let (mut written, mut rows) = (0, 0);
    let unused = "lorem ipsum ".repeat(130);
    let mut row = String::new();
    while written < bytes {
        row.clear();
        writeln!(
            row,
            "{{\"messages\":[{{\"role\":\"user\",\"content\":\"Question {rows}: {}\"}},{{\"role\":\"assistant\",\
             \"content\":\"{}\"}}],\"unused\":\"{unused}\"}}",
            "why is this so? ".repeat(8),
            "because of that. ".repeat(12)
        )
        .unwrap();
        file.write_all(row.as_bytes()).unwrap();
        written += row.len() as u64;
        rows += 1;
    }
    file.flush().unwrap();
    rows
}

/// The most memory that this process has had, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() / 1024
}

/// Streams a file of this size once; returns by how many MiB the peak of memory rose.
fn stream_once(bytes: u64) -> u64 {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("big.jsonl");
    let rows = conversations(&path, bytes);
    let mut options = options(vec![path.display().to_string()]);
    options.shuffle_buffer = Some(1000);
    options.prepare.max_length = Some(2048);
    options.prepare.truncation = Truncation::Delete;
    let before = peak();
    let started = Instant::now();
    let (mut stream, _) = open(options).unwrap();
    for _ in 0..rows {
        stream.next_example().unwrap();
    }
    let (rose, seconds) = (peak() - before, started.elapsed().as_secs_f64());
    let report = stream.report();
    assert_eq!(report.total(|source| source.kept) as u64, rows);
    println!(
        "{rows} rows, {} MB, {} tokens in {seconds:.1} s: {:.0} rows/s, {:.0} MB/s; memory rose by {rose} MiB to {} MiB",
        bytes / 1_000_000,
        report.total(|source| source.tokens),
        rows as f64 / seconds,
        bytes as f64 / 1e6 / seconds,
        peak()
    );
    rose
}

#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_data() {
    let rose = stream_once(100_000_000);
    assert!(rose < 60, "{rose} MiB");
}

/// Run by itself: `cargo test --release -p apus-data --test streaming -- --ignored --nocapture`.
#[test]
#[ignore = "writes and reads 5 GB"]
#[cfg(target_os = "linux")]
fn five_gigabytes_in_less_than_one() {
    let rose = stream_once(5_000_000_000);
    assert!(rose < 200 && peak() < 1000, "{rose} MiB");
}
