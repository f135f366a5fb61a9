//! Files of every type, folders and patterns, columns, mixing and streaming, with the real binary.

mod common;

use common::{fails, folder, works};
use std::fs;
use std::io::Write;
use std::path::Path;

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens");

fn sft(flags: &str) -> String {
    format!("sft --device cpu --model {GOLDENS}/tiny/model_bf16 --current_date 2025-08-05 {flags}")
}

/// The lines of the report that name these files, with their spaces taken out.
#[track_caller]
fn rows(said: &str, files: &[(&str, &str)]) {
    for (file, row) in files {
        let found = said
            .lines()
            .map(|line| line.replace(' ', ""))
            .find(|line| line.contains(&format!("{file}┆")));
        let found = found.unwrap_or_else(|| panic!("{file} not in:\n{said}"));
        assert!(found.contains(row), "{found}\nexpected: {row}");
    }
}

#[test]
fn a_folder_of_all_types_and_a_pattern() {
    let dir = folder("all_types");
    let goldens = Path::new(GOLDENS);
    let row = "{\"query\": \"a\", \"response\": \"b\"}\n";
    fs::write(dir.join("a.json"), format!("[{},{row}]", row.trim())).unwrap();
    fs::write(dir.join("b.csv"), "query,response\nq,\"r, s\"\nq,\n").unwrap();
    fs::write(dir.join("c.txt"), "one line\n\nanother\n").unwrap();
    fs::create_dir(dir.join("deep")).unwrap();
    let mut gz = flate2::write::GzEncoder::new(
        fs::File::create(dir.join("deep/d.jsonl.gz")).unwrap(),
        flate2::Compression::fast(),
    );
    gz.write_all(row.repeat(3).as_bytes()).unwrap();
    gz.finish().unwrap();
    let packed = zstd::encode_all(row.repeat(4).as_bytes(), 3).unwrap();
    fs::write(dir.join("deep/e.jsonl.zst"), packed).unwrap();
    let parquet = goldens.join("files/messages_zstd.parquet");
    fs::copy(parquet, dir.join("f.parquet")).unwrap();
    fs::write(dir.join("notes.md"), "not data").unwrap();

    let said = works(&sft(&format!("--dry_run true --dataset {}", dir.display())));
    rows(
        &said,
        &[
            ("a.json", "query_response┆2┆2"),
            ("b.csv", "query_response┆2┆"),
            ("c.txt", "query_response┆2┆2"),
            ("d.jsonl.gz", "query_response┆3┆3"),
            ("e.jsonl.zst", "query_response┆4┆4"),
            ("f.parquet", "messages┆5┆5"),
        ],
    );
    let pattern = format!("{}/**/*.jsonl.*#5", dir.display());
    let said = works(&sft(&format!("--dry_run true --dataset {pattern}")));
    assert!(!said.contains("a.json"), "{said}");

    let none = format!("--dataset {}/*.md", dir.display());
    fails(&sft(&none), 1, &["matches no known file", ".parquet"]);
    let unknown = format!("--dataset {}/notes.md", dir.display());
    fails(&sft(&unknown), 1, &["unknown type of file", ".jsonl"]);
}

#[test]
fn columns_and_probabilities() {
    let dir = folder("columns_and_probabilities");
    let (a, b) = (dir.join("a.jsonl"), dir.join("b.jsonl"));
    fs::write(&a, "{\"Text1\": \"q\", \"text2\": \"r\"}\n".repeat(3)).unwrap();
    fs::write(&b, "{\"query\": \"q\", \"response\": \"r\"}\n".repeat(300)).unwrap();
    let names = dir.join("columns.json");
    fs::write(
        &names,
        r#"{"text1": "query", "text2": "response", "nix": "x"}"#,
    )
    .unwrap();
    let data = format!("--dataset {} {}", a.display(), b.display());
    let said = works(&sft(&format!(
        "--dry_run true {data} --columns {} --interleave_prob 0.1 0.9",
        names.display()
    )));
    rows(&said, &[("a.jsonl", "query_response┆3┆3")]);
    let place = |file: &str| {
        said.find(&format!("{file} "))
            .expect("its line of the table")
    };
    assert!(place("a.jsonl") < place("b.jsonl"), "{said}");
    assert!(said.contains("no row has a column `nix`"), "{said}");
    let named = dir.join("named.jsonl");
    fs::write(&named, "{\"prompt\": \"q\", \"answer\": \"r\"}\n").unwrap();
    let exact = "--disable_auto_column_mapping true";
    let line = sft(&format!(
        "--dry_run true --dataset {} {exact}",
        named.display()
    ));
    fails(
        &line,
        1,
        &["no dataset format recognises the columns prompt, answer"],
    );
    let mapped = format!("{line} --columns {{\"prompt\":\"query\",\"answer\":\"response\"}}");
    rows(&works(&mapped), &[("named.jsonl", "query_response┆1┆1")]);
    let inline = r#"--columns {"text1":"query","text2":"query"}"#;
    let clash = sft(&format!("--dataset {} {inline}", a.display()));
    fails(
        &clash,
        1,
        &["no dataset format recognises the columns Text1"],
    );
    let wrong = sft(&format!("{data} --interleave_prob 0.1 0.8"));
    fails(&wrong, 1, &["interleave_prob adds up to 0.9"]);
    let wrong = sft(&format!(
        "{data} --interleave_prob 0.1 0.9 --stopping_strategy never"
    ));
    fails(&wrong, 2, &["stopping_strategy is \"never\""]);
}

/// Loss and gradient norm of each step.
fn losses(dir: &Path) -> Vec<String> {
    let log = fs::read_to_string(dir.join("logging.jsonl")).unwrap();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|line| line.get("grad_norm").is_some());
    lines
        .map(|line| format!("{} {}", line["loss"], line["grad_norm"]))
        .collect()
}

#[test]
fn a_stream_trains_and_goes_on_where_it_was() {
    let dir = folder("stream");
    let flags = |out: &Path, more: &str| {
        sft(&format!(
            "--dataset {GOLDENS}/tiny/chat_train.jsonl --val_dataset {GOLDENS}/tiny/chat_train.jsonl#2 \
             --streaming true --shuffle_buffer_size 3 --max_steps 8 --gradient_accumulation_steps 2 \
             --logging_steps 1 --learning_rate 1e-3 --save_steps 4 --max_length 512 --add_version false \
             --output_dir {} {more}",
            out.display()
        ))
    };
    let goes_on = |name: &str, more: &str| {
        let [whole, rest] = ["whole", "rest"].map(|part| dir.join(name).join(part));
        let said = works(&flags(&whole, more));
        rows(&said, &[("chat_train.jsonl", "messages┆")]);
        let resume = format!("--resume_from_checkpoint {}/checkpoint-4", whole.display());
        let again = works(&flags(&rest, &format!("{more} {resume}")));
        assert!(
            again.contains("passing over the first 8 examples"),
            "{again}"
        );
        assert_eq!(losses(&whole)[4..], losses(&rest));
        (said, rest, resume)
    };
    let (said, ..) = goes_on("packed", "--packing true");
    assert!(said.contains("packing: 8 samples in "), "{said}");
    let (_, rest, resume) = goes_on("plain", "");
    let packed = flags(&rest, &format!("{resume} --packing true"));
    fails(
        &packed,
        1,
        &[
            "data: the checkpoint has stream of chat_train.jsonl",
            "packing was false, is true",
        ],
    );
    let other = flags(&rest, &format!("{resume} --shuffle_buffer_size 4"));
    fails(&other, 1, &["data:", "shuffle_buffer_size was 3, is 4"]);
    let memory = flags(&rest, &format!("{resume} --streaming false"));
    fails(
        &memory,
        1,
        &["streaming: the checkpoint has true, this run false"],
    );

    let said = works(&flags(&rest, "--dry_run true"));
    assert!(
        said.contains("512 tokens in the largest micro-batch"),
        "{said}"
    );
    assert!(said.contains("the first example, trained"), "{said}");
    fails(&flags(&rest, "--max_steps -1"), 2, &["give --max_steps N"]);
    fails(
        &flags(&rest, "--split_dataset_ratio 0.1"),
        2,
        &["give --val_dataset"],
    );
    let none = dir.join("none");
    let exact = flags(&none, "--columns {\"messages\":\"m\"}");
    fails(&exact, 1, &["no dataset format recognises the columns m"]);
    assert!(!none.exists());
    fails(
        &flags(&rest, "--group_by_length true"),
        2,
        &["streaming and group_by_length are both true"],
    );
}
