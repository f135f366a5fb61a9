//! What a program announces that it needs, against the real binary: it is given that, and nothing else.

mod common;

use common::process::{program, python};
use common::training::{TINY, refuses, trains};
use common::{apus, fails, text, words, works};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A component of each kind that a program can be, with the methods of all.
const EACH: &str = r#"
import json
from apus_plugin import component, run

KINDS = {kind: "every" for kind in ["dataset format", "loss scale", "schedule", "sampler", "callback", "metric", "tracker"]}
# A schedule brings the callback of its name along.
KINDS["schedule"] = "rates"

class Every:
    """Has the methods of all kinds."""

    def convert(self, row):
        raise ValueError("it reads no rows")

    def segments(self, text, **turn):
        return [[text, 1.0]]

    def factor(self, **progress):
        return 1.0

    def order(self, epoch):
        return list(range(epoch["rows"]))

    def on_step_end(self, state, control):
        return None

    def update(self, **batch):
        return None

    def compute(self):
        return {"nothing": 0.0}

    def start(self, run):
        return None

    def log(self, step, values):
        return None

    def finish(self, end):
        return None
"#;

/// A short run with the component of the program of each kind, one after another, or with all of them.
const CHOICES: [(&str, &str); 7] = [
    ("dataset format", "--dataset_format every"),
    ("loss scale", "--loss_scale all+every"),
    ("schedule", "--lr_scheduler rates"),
    ("sampler", "--sampler every"),
    ("callback", "--callbacks every"),
    ("metric", "--metrics every"),
    ("tracker", "--trackers every"),
];

fn each(dir: &Path, name: &str, more: &str) -> String {
    program(dir, name, &format!("{EACH}{more}"))
}

/// The set-up is looked at before anything of the model is looked for: there is no such model.
#[test]
fn a_check_of_a_program_ends_the_command_before_the_model_is_read() {
    if !python() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let checks = r#"
class Checks(Every):
    """Refuses every set-up."""

    def check(self, setup):
        chosen, info = setup["components"], setup["info"]
        raise ValueError(f"refused with {''.join(chosen.get('optimizer', []))}, {setup['steps']} steps, rank {info['rank']} of {info['world_size']}, "
                         f"rate {setup['config']['learning_rate']}, rows {setup['rows']}")

"#;
    let announce = "for kind, name in KINDS.items():\n    component(kind, name, needs=[\"check\"])(Checks)\nrun(\"checking\")\n";
    let plugin = each(home.path(), "checks.py", &format!("{checks}{announce}"));
    let silent = announce.replace(", needs=[\"check\"]", "");
    let silent = each(home.path(), "silent.py", &format!("{checks}{silent}"));
    let model = format!(
        "{}/tests/goldens/tiny/model_bf16",
        env!("CARGO_MANIFEST_DIR")
    );
    for (kind, choice) in CHOICES {
        let flags = |plugin: &str, model: &str| {
            format!("--model {model} --max_steps 1 --plugin {plugin} {choice}")
        };
        let name = choice.rsplit([' ', '+']).next().unwrap();
        let of = format!("{kind} {name} of plugin checking");
        let said =
            "check: ValueError: refused with adamw, 1 steps, rank 0 of 1, rate 0.001, rows None";
        for dry in ["", " --dry_run true"] {
            let flags = format!("{}{dry}", flags(&plugin, "/nowhere/no-model"));
            refuses(&home.path().join("run"), &flags, &[&of, said]);
        }
        // One that is not announced would never be asked, and says so where it is made.
        let line = format!(
            r#"it has the method check: it uses what is not given without being announced (check). Add to what the program announces of it: "needs": ["check"]; with apus_plugin.py: @component("{kind}", "{name}", needs=["check"])"#
        );
        refuses(
            &home.path().join("run"),
            &flags(&silent, &model),
            &[&of, &line],
        );
    }
    let said = works(&format!("plugin check {plugin}"));
    assert_eq!(
        said.matches("refuses the set-up of this check").count(),
        7,
        "{said}"
    );
}

/// Components are asked again once the rows are counted.
#[test]
fn a_check_of_a_program_is_told_the_rows() {
    if !python() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let plugin = each(
        home.path(),
        "rows.py",
        r#"
@component("callback", "every", needs=["check"])
class Rows(Every):
    """Refuses rows."""

    def check(self, setup):
        assert setup["rows"] is None, f"{setup['rows']} rows are refused"

run("rows")
"#,
    );
    let flags =
        format!("--model {TINY}/model_mxfp4 --max_steps 1 --plugin {plugin} --callbacks every");
    refuses(
        &home.path().join("run"),
        &flags,
        &[
            "callback every of plugin rows",
            "check: AssertionError: ",
            " rows are refused",
        ],
    );
}

#[test]
fn a_run_is_told_to_each_kind_that_asks_for_it() {
    if !python() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let begins = r#"
class Begins(Every):
    """Writes down the run."""

    def begin(self, run):
        print(json.dumps(run), file=open(f"{__file__}.{self.kind}", "a"))

for kind in ["schedule", "sampler", "callback", "metric"]:
    component(kind, KINDS[kind], needs=NEEDS)(type(kind, (Begins,), {"kind": kind, "__doc__": "Writes down the run."}))
run("beginning")
"#;
    let plugin = each(
        home.path(),
        "begins.py",
        &begins.replace("NEEDS", r#"["run"]"#),
    );
    let dir = home.path().join("run");
    let choice =
        "--lr_scheduler rates --sampler every --callbacks every --metrics every --eval_steps 1";
    let flags = format!(
        "--model {TINY}/model_mxfp4 --val_dataset {TINY}/chat_train.jsonl#2 --max_steps 1 --lora_rank 4"
    );
    trains(&dir, &format!("{flags} --plugin {plugin} {choice}"));
    for kind in ["schedule", "sampler", "callback", "metric"] {
        let told = fs::read_to_string(home.path().join(format!("begins.py.{kind}"))).unwrap();
        assert_eq!(told.lines().count(), 1, "{kind}: once");
        let run: Value = serde_json::from_str(&told).unwrap();
        assert!(
            run["config"]["model"]
                .as_str()
                .unwrap()
                .ends_with("model_mxfp4")
        );
        assert_eq!(run["config"]["lora_rank"], 4);
        assert_eq!(
            (&run["rank"], &run["world_size"], &run["max_steps"]),
            (&json!(0), &json!(1), &json!(1))
        );
        assert_eq!(run["dir"], dir.display().to_string());
        let parameters = run["parameters"].as_array().unwrap();
        let one = parameters.iter().find(|one| {
            one["name"]
                .as_str()
                .unwrap()
                .ends_with("layers.0.self_attn.q_proj.lora_A.weight")
        });
        let one = one.expect("it is trained");
        assert_eq!(
            (&one["shape"][0], &one["trainable"]),
            (&json!(4), &json!(true))
        );
        assert!(
            one["group"]
                .as_str()
                .unwrap()
                .contains("layers.*.self_attn")
        );
    }
    let silent = each(home.path(), "silent.py", &begins.replace("NEEDS", "[]"));
    let says = ["it has the method begin", r#"needs=["run"])"#];
    refuses(
        &home.path().join("silent"),
        &format!("{flags} --plugin {silent} --callbacks every"),
        &says,
    );
}

fn conversations(dir: &Path) -> std::path::PathBuf {
    let row = |id: usize, channel: Value| {
        let messages = json!([
            {"role": "user", "content": "Wie groß?"},
            {"role": "assistant", "content": "Größer, Ödön: ```äöü``` sagt man."},
            {"role": "user", "content": "Und nun?"},
            {"role": "assistant", "content": "Kein ```Schluß```"},
        ]);
        json!({"id": id, "channel": channel, "messages": messages}).to_string()
    };
    let file = dir.join("rows.jsonl");
    let rows = [row(7, json!("forum")), row(8, Value::Null)];
    fs::write(&file, rows.join("\n")).unwrap();
    file
}

#[test]
fn a_loss_scale_of_a_program_knows_where_a_piece_stands() {
    if !python() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let rows = conversations(home.path());
    let says = r#"
import json
import re
from apus_plugin import component, run

@component("loss scale", "code")
def code(text, role, field, query, is_last):
    """Blocks of code twice."""
    parts = re.split(r"(```.*?```)", text, flags=re.S)
    return [[part, 2.0 if part.startswith("```") else 1.0] for part in parts if part]

@component("loss scale", "sees", facts={"tokens": True, "columns": ["id", "messages", "none"]}, needs=["piece"])
def sees(text, **where):
    """Writes down where it is."""
    print(json.dumps({"text": text, **where}), file=open(f"{__file__}.seen", "a"))
    return [[text, 0.5 if where["channel"] == "forum" else 1.0]]

@component("loss scale", "plain", needs=["piece"])
def plain(text, role, field, query, is_last, message, messages, whole, offset, channel, columns):
    """Takes all that it is given."""
    return [[text, 1.0]]

@component("loss scale", "undeclared")
def undeclared(text, role, field, query, is_last, channel):
    """Has not announced what it takes."""
    return [[text, 1.0]]

@component("loss scale", "counts", facts={"tokens": True})
def counts(text, **where):
    """Has not announced what it counts."""
    return [[text, 1.0]]

@component("loss scale", "asks", facts={"columns": ["id"]})
def asks(text, **where):
    """Has not announced what it asks for."""
    return [[text, 1.0]]

run("seeing")
"#;
    let plugin = program(home.path(), "sees.py", says);
    let data = |scale: &str| {
        format!(
            "data {} --model {TINY}/model_bf16 --plugin {plugin} --loss_scale {scale}",
            rows.display()
        )
    };
    works(&data("default+code+sees"));
    let seen = fs::read_to_string(home.path().join("sees.py.seen")).unwrap();
    let mut seen: Vec<Value> = seen
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // Apus tries scales on words of its own beforehand, which are in no row.
    seen.retain(|piece| piece["columns"].get("id").is_some());
    let of = |id: u64, message: u64| -> Vec<&Value> {
        let all = seen
            .iter()
            .filter(|piece| piece["columns"]["id"] == id && piece["message"] == message);
        let mut all: Vec<&Value> = all.collect();
        all.dedup();
        all
    };
    for (id, channel) in [(7, json!("forum")), (8, Value::Null)] {
        for (message, count) in [(1, 3), (3, 2)] {
            let pieces = of(id, message);
            assert_eq!(pieces.len(), count, "{seen:#?}");
            let mut joined = String::new();
            for piece in pieces {
                let (text, whole) = (
                    piece["text"].as_str().unwrap(),
                    piece["whole"].as_str().unwrap(),
                );
                assert_eq!(piece["offset"], joined.chars().count(), "{piece}");
                joined.push_str(text);
                assert!(whole.starts_with(&joined), "{piece}");
                assert_eq!(
                    (&piece["messages"], &piece["channel"]),
                    (&json!(4), &channel)
                );
                assert_eq!(piece["columns"]["messages"][0]["content"], "Wie groß?");
                assert!(piece["tokens"].as_u64() > Some(0), "{piece}");
                assert_eq!(piece["is_last"], message == 3);
                assert_eq!(piece["columns"].as_object().unwrap().len(), 3);
                assert!(piece["columns"]["none"].is_null());
            }
            assert_eq!(
                joined,
                seen.iter()
                    .find(|piece| piece["message"] == message)
                    .unwrap()["whole"]
            );
        }
    }
    works(&data("default+code+plain"));
    let said = text(&apus(&words(&data("undeclared")), &[]));
    for part in [
        "loss scale undeclared of plugin seeing",
        "'channel'",
        r#"@component("loss scale", "undeclared", needs=["piece"])"#,
    ] {
        assert!(said.contains(part), "{part:?} not in\n{said}");
    }
    for (scale, says) in [
        ("counts", "it counts tokens"),
        ("asks", "it asks for columns"),
    ] {
        let line = format!(r#"@component("loss scale", "{scale}", needs=["piece"])"#);
        fails(&data(scale), 1, &[says, &line]);
    }
}

#[test]
fn a_format_of_a_program_is_sent_the_columns_that_it_reads() {
    if !python() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let says = r#"
from apus_plugin import component, run

def reads(row):
    """Reads two columns."""
    assert set(row) == {"ask", "say"}, f"there is {sorted(row)}"
    return [{"messages": [{"role": "user", "content": row["ask"]}, {"role": "assistant", "content": row["say"]}]}]

component("dataset format", "reads", facts={"reads": ["ask", "say"]}, needs=["columns"])(reads)
run("reading")
"#;
    let file = home.path().join("rows.jsonl");
    let row = json!({"ask": "Who?", "say": "I.", "picture": "x"}).to_string();
    fs::write(&file, format!("{row}\n{row}\n")).unwrap();
    let data = |plugin: &str| {
        format!(
            "data {} --model {TINY}/model_bf16 --plugin {plugin} --dataset_format reads",
            file.display()
        )
    };
    let said = works(&data(&program(home.path(), "reads.py", says)));
    assert!(said.contains("not used: picture (2 rows"), "{said}");
    let silent = says.replace(r#", needs=["columns"]"#, "");
    fails(
        &data(&program(home.path(), "silent.py", &silent)),
        1,
        &[
            "it says what it reads",
            r#"@component("dataset format", "reads", needs=["columns"])"#,
        ],
    );
}

/// What is announced and cannot be given ends the command at once; the table of the page has every need of every kind.
#[test]
fn what_a_program_cannot_be_given_is_said_when_it_starts() {
    if !python() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    for (need, says) in [
        (
            "parameters",
            "it needs \"parameters\", which a process is not given: it is about tensors",
        ),
        (
            "set parameters",
            "A plugin library is given it (docs/plugin-guide.md)",
        ),
        (
            "piece",
            "for which a callback has no use; in a process it can announce check, run, generation, freeze",
        ),
        (
            "telepathy",
            "it needs \"telepathy\", which there is not; a callback in a process can announce check, run",
        ),
    ] {
        let more = format!(
            "component(\"callback\", \"every\", needs=[\"run\", \"{need}\"])(Every)\nrun(\"needy\")\n"
        );
        let plugin = each(home.path(), "needy.py", &more);
        fails(
            &format!("components --plugin {plugin}"),
            1,
            &[&plugin, "announce: callback \"every\"", says],
        );
    }
}
