//! Files of each type, good and broken.

use super::*;
use std::io::Write;

fn write(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn lines(name: &str, bytes: &[u8]) -> Vec<(usize, String)> {
    let (_dir, path) = write(name, bytes);
    let records = read(&path).unwrap();
    records
        .into_iter()
        .map(|r| (r.line, r.row().unwrap()["a"].to_string()))
        .collect()
}

fn error(name: &str, bytes: &[u8]) -> String {
    let (_dir, path) = write(name, bytes);
    let read =
        read(&path).and_then(|records| records.iter().map(Record::row).collect::<Result<Vec<_>>>());
    format!("{:#}", read.unwrap_err())
}

#[test]
fn rows_know_their_lines() {
    let expected = [(1, "1".to_owned()), (4, "2".to_owned())];
    assert_eq!(lines("d.jsonl", b"{\"a\": 1}\n\n \r\n{\"a\": 2}"), expected);
    assert_eq!(
        lines("d.json", b"[{\"a\":\n 1},\n\n{\"a\": 2}\n]\n"),
        expected
    );
    assert_eq!(lines("d.json", b"{\"a\":\n 1}\n\n{\"a\": 2}"), expected);
    assert_eq!(
        lines("d.JSON", "\u{feff}{\"a\": 1}\n\n\n{\"a\": 2}".as_bytes()),
        expected
    );
}

#[test]
fn a_row_over_several_lines_is_written_on_one() {
    let (_dir, path) = write("d.json", b"[{\"a\":\r\n \"x\\n\"}]");
    let rows = read(&path).unwrap();
    assert_eq!(rows[0].one_line(), "{\"a\":   \"x\\n\"}");
}

#[test]
fn compressed_files_are_read() {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(b"{\"a\": 1}\n").unwrap();
    assert_eq!(
        lines("d.jsonl.gz", &gz.finish().unwrap()),
        [(1, "1".to_owned())]
    );
}

#[test]
fn zstd_and_text() {
    let packed = zstd::encode_all(&b"one \"two\"\r\n\n three \n"[..], 3).unwrap();
    let (_dir, path) = write("d.txt.zst", &packed);
    let rows: Vec<_> = read(&path)
        .unwrap()
        .iter()
        .map(|r| (r.line, r.row().unwrap()["text"].clone()))
        .collect();
    assert_eq!(rows, [(1, "one \"two\"".into()), (3, " three ".into())]);
    let cut = error("d.jsonl.zst", &packed[..packed.len() - 4]);
    assert!(cut.contains("d.jsonl.zst:3: reading"), "{cut}");
}

#[test]
fn parquet_with_pages_of_each_codec() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/files");
    for codec in ["none", "snappy", "zstd", "gzip", "brotli", "lz4"] {
        let rows = read(&home.join(format!("messages_{codec}.parquet"))).unwrap();
        let lines: Vec<usize> = rows.iter().map(|row| row.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5]);
        let row = serde_json::Value::Object(rows[3].row().unwrap());
        let expected = serde_json::json!({
            "messages": [
                {"role": "user", "content": "What is 3 and 3?"},
                {"role": "assistant", "content": "6, 沐雪", "loss": true}
            ],
            "score": 1.5,
            "id": 3
        });
        assert_eq!(row, expected, "{codec}");
    }
    let bad = error("d.parquet", b"PAR1 nothing PAR1");
    assert!(bad.contains("d.parquet: not a parquet file"), "{bad}");
}

/// Whatever byte of a file is wrong, there are rows or an error.
#[test]
fn broken_parquet_never_panics() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/files");
    let whole = std::fs::read(home.join("messages_snappy.parquet")).unwrap();
    let (_dir, path) = write("d.parquet", &whole);
    for at in (0..whole.len()).step_by(5) {
        let mut broken = whole.clone();
        broken[at] ^= 0xff;
        std::fs::write(&path, &broken).unwrap();
        let _ = read(&path);
    }
}

#[test]
fn malformed_json_names_the_line() {
    let bad = error("d.jsonl", b"{\"a\": 1}\n{\"a\": }\n");
    assert!(
        bad.contains("d.jsonl:2: malformed JSON: expected value"),
        "{bad}"
    );
    let bad = error("d.jsonl", b"{\"a\": 1}\n[1]\n");
    assert!(bad.contains("d.jsonl:2: expected a row"), "{bad}");
    let bad = error("d.json", b"[\n{\"a\": 1},\n{\"a\":\n oops}]");
    assert!(bad.contains("d.json:4: malformed JSON"), "{bad}");
    let bad = error("d.json", b"[\n{\"a\": 1},\n]");
    assert!(
        bad.contains("d.json:3: expected a row") && bad.contains("`]`"),
        "{bad}"
    );
    let bad = error("d.json", b"[\n{\"a\": 1}\n");
    assert!(bad.contains("d.json:3: the file ends inside"), "{bad}");
    let bad = error("d.json", b"[{\"a\": 1}\n{\"a\": 1}]");
    assert!(bad.contains("d.json:2: expected `,`"), "{bad}");
    let bad = error("d.json", b"[{\"a\": 1}]\nx");
    assert!(bad.contains("d.json:2: text after"), "{bad}");
}

#[test]
fn bytes_that_are_not_utf8_name_the_line() {
    let bad = error("d.jsonl", b"{\"a\": 1}\n{\"a\": \"\xff\"}\n");
    assert!(bad.contains("d.jsonl:2: invalid UTF-8 at byte 8"), "{bad}");
    let bad = error("d.json", b"[{\"a\": 1},\n{\"a\": \"\xff\"}]");
    assert!(bad.contains("d.json:2: invalid UTF-8 at byte 8"), "{bad}");
}

#[test]
fn files_without_rows_or_without_a_known_type() {
    assert!(error("d.jsonl", b"\n").contains("is empty"));
    assert!(error("d.json", b" [ ] ").contains("is empty"));
    let bad = error("d.doc", b"x");
    assert!(
        bad.contains("unknown type") && bad.contains(".parquet"),
        "{bad}"
    );
    assert!(error("d.parquet.gz", b"x").contains("unpack it first"));
}

#[test]
fn a_missing_file_names_the_nearest() {
    let (dir, path) = write("train.jsonl", b"{}");
    let bad = read(&path.with_file_name("trian.jsonl"))
        .unwrap_err()
        .to_string();
    assert!(bad.contains("nearest name there is `train.jsonl`"), "{bad}");
    let bad = read(&dir.path().join("no/x.json")).unwrap_err().to_string();
    assert!(bad.contains("no folder"), "{bad}");
}

#[test]
fn a_table_with_its_own_columns() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    std::fs::write(
        &path,
        "ask,reply\n\"two, or\nthree?\",\"say \"\"hi\"\"\"\nb,\n",
    )
    .unwrap();
    let records = read(&path).unwrap();
    assert_eq!(records[0].row().unwrap()["ask"], "two, or\nthree?");
    assert_eq!(records[0].row().unwrap()["reply"], "say \"hi\"");
    assert_eq!(
        (records[1].line, records[1].row().unwrap()["reply"].as_str()),
        (4, Some(""))
    );
    std::fs::write(&path, "a,b\n1,2\n1,2,3\n").unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("a.csv:3: malformed CSV"), "{error}");
    let twice = |header: &str| {
        std::fs::write(&path, format!("{header}\n1,2,3\n")).unwrap();
        read(&path).map(|_| ()).map_err(|error| error.to_string())
    };
    let bad = twice("a,b, a").unwrap_err();
    assert!(
        bad.contains("a.csv:1: columns 1 and 3 are both named `a`"),
        "{bad}"
    );
    let bad = twice("a,,").unwrap_err();
    assert!(bad.contains("columns 2 and 3 have no name"), "{bad}");
    twice("a,A,").unwrap();
}

#[test]
fn columns_that_nobody_needs_are_not_decoded() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/parquet/no_text.parquet");
    let whole = read(&path).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
    let groups = reader.metadata().row_groups().iter();
    for chunk in groups.flat_map(|group| group.columns()) {
        if chunk.column_path().parts()[0] == "picture" {
            let (start, length) = chunk.byte_range();
            bytes[start as usize..(start + length) as usize].fill(0xff);
        }
    }
    let (_dir, broken) = write("d.parquet", &bytes);
    assert!(read(&broken).is_err());
    let needed = |all: &[&str]| {
        assert_eq!(all, ["query", "response", "picture"]);
        Ok(Some(["query", "response"].map(str::to_owned).into()))
    };
    let (rows, left_out) = read_needed(&broken, &needed).unwrap();
    assert_eq!(
        (rows.len(), left_out),
        (whole.len(), vec!["picture".to_owned()])
    );
    for (part, whole) in rows.iter().zip(&whole) {
        let (part, mut whole) = (part.row().unwrap(), whole.row().unwrap());
        whole.shift_remove("picture").unwrap();
        assert_eq!(part, whole);
    }
    let (rows, left_out) = read_needed(&path, &|_| Ok(Some(Default::default()))).unwrap();
    assert_eq!(
        (rows, left_out),
        (whole, Vec::new()),
        "rows without a column are none"
    );
}
