//! What a callback that is a program asks for, against the real binary: the same as that of a library, and nothing that it has not
//! announced.

mod common;

use common::process::{program, python};
use common::training::{TINY, checkpoints, log, refuses, trains, weights};
use common::{fails, works};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Makes the requests of the callback `requests` of the plugin of tests, with options of the same names.
const REQUESTS: &str = r#"
from apus_plugin import component, run

@component("callback", "asks", needs=["accumulation", "generation", "freeze", "learning rates", "checkpoints"],
           step=(0, ""), question=("", ""), freeze=("", ""), freeze_later=("", ""), unfreeze=("", ""), factor=(1.0, ""),
           names=("lora_B", ""), accumulation=(1, ""))
class Asks:
    """Makes the requests that it is told to."""

    def __init__(self, **options):
        self.__dict__.update(options)

    def on_train_begin(self, state, control):
        if state["global_step"] == 0:
            return {"control": {"requests": [{"freeze": self.freeze}]}}

    def on_step_end(self, state, control):
        if state["global_step"] != self.step:
            return
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": self.question}]
        asked = {"conversation": {"messages": messages}}
        return {"control": {"requests": [
            {"accumulation": self.accumulation},
            {"ask": {"id": "with", **asked, "answers": 2, "temperature": 1.0, "max_new_tokens": 5}},
            {"ask": {"id": "without", **asked, "adapters": False}},
            {"freeze": self.freeze_later},
            {"unfreeze": self.unfreeze},
            {"lr_factor": [self.names, self.factor]},
        ]}}

    def on_answers(self, answers, state, control):
        for answer in answers:
            print(f"heard after step {state['global_step']}: {answer['id']} {answer['index']} of {answer['tokens']} tokens: {answer['text']!r}")
        return {"control": {"metrics": {"heard": sum(answer["tokens"] for answer in answers)}}}

    def on_save(self, checkpoint, state, control):
        if state["global_step"] == self.step:
            return {"control": {"requests": [{"keep": checkpoint}]}}

run("asking")
"#;

fn flags(plugin: &str, callback: &str) -> String {
    format!(
        "--model {TINY}/model_bf16 --val_dataset {TINY}/chat_train.jsonl --num_train_epochs 2 --gradient_accumulation_steps 2 \
         --lr_scheduler_type constant --lora_rank 4 --max_new_tokens 3 --eval_steps 2 --save_steps 1 --save_total_limit 2 \
         --plugin {plugin} --callbacks {callback} --callbacks.step 2 \
         --callbacks.freeze .*layers\\.[01]\\..* --callbacks.question Who? --callbacks.freeze_later layers.3 \
         --callbacks.unfreeze layers.1 --callbacks.factor 0.5 --callbacks.accumulation 1"
    )
}

#[test]
fn what_a_program_asks_for_is_done_as_for_a_library() {
    if !python() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let library = common::library("asking_plugin");
    let library = library.display().to_string();
    let program = program(home.path(), "asks.py", REQUESTS);
    let run = |name: &str, plugin: &str, callback: &str, more: &str| {
        let dir = home.path().join(name);
        let said = trains(&dir, &format!("{} {more}", flags(plugin, callback)));
        let heard = said
            .lines()
            .filter_map(|line| line.find("heard after").map(|at| line[at..].to_owned()));
        let heard: Vec<String> = heard.collect();
        (dir, heard)
    };
    let best = "--metric_for_best_model heard";
    let (of_library, heard) = run(
        "library",
        &library,
        "requests",
        &format!("{best} --callbacks.keep true"),
    );
    let (of_program, heard_too) = run("program", &program, "asks", best);
    assert_eq!(heard.len(), 3);
    let numbers = |heard: &[String]| -> Vec<String> {
        let before = heard
            .iter()
            .map(|line| line.split(" tokens: ").next().unwrap().to_owned());
        before.collect()
    };
    assert_eq!(numbers(&heard), numbers(&heard_too));
    let steps = checkpoints(&of_library);
    assert_eq!(steps, checkpoints(&of_program));
    assert!(steps.contains(&2), "it is kept: {steps:?}");
    let last = *steps.last().unwrap();
    let state = |dir: &Path, step: u64| -> Value {
        let path = dir.join(format!("checkpoint-{step}/trainer_state.json"));
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    };
    for step in steps {
        let checkpoint = |dir: &Path| weights(&dir.join(format!("checkpoint-{step}")));
        assert!(checkpoint(&of_library) == checkpoint(&of_program), "{step}");
        let (one, other) = (state(&of_library, step), state(&of_program, step));
        assert!(one["requested"].is_object());
        assert_eq!(one["requested"], other["requested"]);
        assert_eq!(one["best_metric"], other["best_metric"]);
    }
    assert!(state(&of_program, last)["best_metric"].as_f64() > Some(1.0));
    // A run that goes on does as if it had not ended.
    let from = of_program.join("checkpoint-2");
    let resume = format!("--resume_from_checkpoint {}", from.display());
    let (rest, _) = run("rest", &program, "asks", &resume);
    let end = |dir: &Path| weights(&dir.join(format!("checkpoint-{last}")));
    assert!(end(&rest) == end(&of_program));
}

/// Asks for what its option says, in the first event.
const TOLD: &str = r#"
import json
from apus_plugin import component, run

NEEDS = []

@component("callback", "told", needs=NEEDS, request=("", "A request"), control=("", "The rest"))
class Told:
    """Asks for what it is told."""

    def __init__(self, request, control):
        self.asked = json.loads(control) if control else {}
        if request:
            self.asked["requests"] = [json.loads(request)]

    def on_init_end(self, state, control):
        return {"control": self.asked}

run("told")
"#;

const ASK: &str =
    r#"{"ask":{"id":"a","conversation":{"messages":[{"role":"user","content":"?"}]}}}"#;

#[test]
fn what_is_not_announced_or_not_known_is_named() {
    if !python() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let nothing = program(home.path(), "nothing.py", TOLD);
    let needs =
        r#"NEEDS = ["generation", "freeze", "learning rates", "accumulation", "checkpoints"]"#;
    let all = program(home.path(), "all.py", &TOLD.replace("NEEDS = []", needs));
    let by = "callback told of plugin told";
    let checked = |plugin: &str, options: Value, says: &[&str]| {
        let options = json!({"told": options});
        let line = format!("plugin check {plugin} --options {options}");
        let said = fails(&line, 1, &[by, "on_init_end"]);
        for part in says {
            assert!(said.contains(part), "{options}: {part:?} not in\n{said}");
        }
    };
    // Every request, announced by nobody.
    for (request, need) in [
        (ASK, "generation"),
        (r#"{"freeze":"layers.0"}"#, "freeze"),
        (r#"{"unfreeze":"layers.0"}"#, "freeze"),
        (r#"{"lr_factor":["lora_B",0.5]}"#, "learning rates"),
        (r#"{"accumulation":4}"#, "accumulation"),
        (r#"{"keep":"out/checkpoint-1"}"#, "checkpoints"),
        (r#"{"release":"out/checkpoint-1"}"#, "checkpoints"),
    ] {
        let line = format!(r#"@component("callback", "told", needs=["{need}"])"#);
        let key = request.split('"').nth(1).unwrap();
        let options = json!({"request": request});
        checked(&nothing, options, &[&line, "without being announced", key]);
    }
    // What there is not, and what makes no sense.
    for (request, says) in [
        (
            r#"{"teleport":"layers.0"}"#,
            "`teleport`, expected one of `ask`, `freeze`",
        ),
        (
            r#"{"freeze":3}"#,
            r#"it asks for {"freeze":3}: invalid type: integer `3`"#,
        ),
        (r#"{"ask":{"id":"a","mood":1}}"#, "`mood`"),
        (r#"{"accumulation":0}"#, "0 micro-batches"),
        (r#"{"freeze":""}"#, "the name is empty"),
        (
            r#"{"set":["w",[1.0]]}"#,
            r#"it asks for {"set":["w",[1.0]]}: a process neither reads nor sets parameters"#,
        ),
        (r#"{"gradient":"w"}"#, "tensors"),
    ] {
        let options = json!({"request": request});
        checked(&all, options, &[says]);
    }
    for (control, says) in [
        (
            r#"{"should_pause":true}"#,
            "\"should_pause\", which nobody can ask for",
        ),
        (r#"{"metrics":{"loss":1}}"#, "the run's own number"),
        (r#"{"metrics":3}"#, "invalid type: integer `3`"),
    ] {
        checked(&all, json!({"control": control}), &[says]);
    }
    // The same in a run.
    let run = |plugin: &str, request: &str, says: &[&str]| {
        let config = home.path().join("run.toml");
        let told = format!("callbacks = [{{ name = \"told\", request = '{request}' }}]\n");
        fs::write(&config, told).unwrap();
        let flags = format!(
            "--config {} --model {TINY}/model_mxfp4 --max_steps 1 --plugin {plugin}",
            config.display()
        );
        let says = [&[by, "on_init_end"], says].concat();
        refuses(&home.path().join("run"), &flags, &says);
    };
    run(
        &nothing,
        r#"{"freeze":"layers.0"}"#,
        &[r#"needs=["freeze"]"#],
    );
    run(&all, r#"{"teleport":1}"#, &["`teleport`"]);
    run(
        &all,
        r#"{"freeze":"layers.9"}"#,
        &["no trained parameter is named by \"layers.9\""],
    );
    // Methods that would never be called.
    for (method, says) in [
        (
            "on_answers",
            r#"it wants the event on_answers: it uses what is not given without being announced (generation)"#,
        ),
        (
            "evaluated_weights",
            "it has the method evaluated_weights, which a process is not asked for",
        ),
    ] {
        let more = format!("\n    def {method}(self, **with_):\n        return None\n\nrun(");
        let plugin = program(home.path(), "never.py", &TOLD.replace("\nrun(", &more));
        fails(&format!("plugin check {plugin}"), 1, &[by, "make", says]);
    }
    let works_too = works(&format!("plugin check {all}"));
    assert!(works_too.contains("every event of a run"), "{works_too}");
}

/// Two callbacks of programs that report and prompt: what one says does not take back what the other has said.
#[test]
fn numbers_and_prompts_of_several_programs_come_together() {
    if !python() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let says = r#"
from apus_plugin import component, run

class Reports:
    """Reports a number and prompts."""

    def on_step_end(self, state, control):
        control["metrics"] = {self.name: state["global_step"]}
        control["generate"] = control["generate"] + [self.name]
        return {"control": control}

for name in ["one", "two"]:
    component("callback", name)(type(name, (Reports,), {"name": name, "__doc__": "Reports."}))

run("both")
"#;
    let plugin = program(home.path(), "both.py", says);
    let dir = home.path().join("run");
    trains(
        &dir,
        &format!(
            "--model {TINY}/model_mxfp4 --max_steps 2 --max_new_tokens 2 --plugin {plugin} --callbacks one two"
        ),
    );
    let lines = log(&dir);
    for step in [1, 2] {
        let has = |line: &&Value| line["one"] == step && line["two"] == step;
        assert_eq!(lines.iter().filter(has).count(), 1, "{lines:?}");
    }
    let samples = fs::read_to_string(dir.join("samples.jsonl")).unwrap();
    assert_eq!(samples.lines().count(), 4, "{samples}");
}
