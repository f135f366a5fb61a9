//! The conversation of `apus infer` at a terminal that somebody sits at.
#![cfg(unix)]

mod common;

use common::folder;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny/model_bf16");

/// Tokens that were said already get more probable, so that an answer does not end by itself.
const ENDLESS: &str = "--temperature 0 --repetition_penalty 0.5 --max_new_tokens 100000";

/// An adapter of the tiny model.
const ADAPTER: &str = "adapter_final_b_attn_experts";

/// Ctrl-C, as the keyboard sends it.
const CTRL_C: &str = "\x03";

/// `apus` in a terminal.
struct Terminal {
    script: Child,
    shown: Arc<Mutex<String>>,
    /// How much of what was shown has been waited for.
    seen: usize,
}

impl Terminal {
    /// None where there is no `script`.
    fn open(flags: &str) -> Option<Self> {
        let found = Command::new("script").arg("--version").output();
        if !found.is_ok_and(|found| found.status.success()) {
            println!("skipped: there is no script of util-linux");
            return None;
        }
        let line = format!(
            "exec {} infer --model {MODEL} {flags}",
            env!("CARGO_BIN_EXE_apus")
        );
        let mut command = Command::new("script");
        command
            .args([
                "--quiet",
                "--flush",
                "--return",
                "--command",
                &line,
                "/dev/null",
            ])
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut script = command.spawn().unwrap();
        let mut output = script.stdout.take().unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(bytes @ 1..) = output.read(&mut buffer) {
                *kept.lock().unwrap() += &String::from_utf8_lossy(&buffer[..bytes]);
            }
        });
        Some(Self {
            script,
            shown,
            seen: 0,
        })
    }

    /// Waits until this is shown, after what was waited for before.
    #[track_caller]
    fn wait_for(&mut self, text: &str) -> String {
        let started = Instant::now();
        loop {
            let shown = self.shown.lock().unwrap().clone();
            if let Some(at) = shown[self.seen..].find(text) {
                let from = self.seen;
                self.seen += at + text.len();
                return shown[from..self.seen].to_owned();
            }
            let late = started.elapsed() > Duration::from_secs(120);
            assert!(!late, "{text:?} is not in {:?}", &shown[self.seen..]);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn send(&mut self, keys: &str) {
        let input = self.script.stdin.as_mut().unwrap();
        input.write_all(keys.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// Waits for a new prompt, which no line that is drawn again is.
    #[track_caller]
    fn wait_for_prompt(&mut self, prompt: &str) {
        self.wait_for("[?2004h");
        self.wait_for(prompt);
    }

    /// Types a line at the prompt.
    #[track_caller]
    fn say(&mut self, line: &str) {
        self.wait_for_prompt("<<< ");
        self.send(&format!("{line}\r"));
    }

    /// Waits until an answer is under way.
    #[track_caller]
    fn wait_for_an_answer(&mut self) {
        self.wait_for("[?2004l");
        let from = self.seen;
        let started = Instant::now();
        while self.shown.lock().unwrap().len() < from + 40 {
            assert!(started.elapsed() < Duration::from_secs(120), "an answer");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn code(mut self) -> Option<i32> {
        self.script.wait().unwrap().code()
    }
}

fn talk(dir: &Path) -> (PathBuf, String) {
    let path = dir.join("talk.jsonl");
    let flags = format!("--result_path {}", path.display());
    (path, flags)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn ctrl_c_stops_an_answer_and_not_the_program() {
    let (path, results) = talk(&folder("conversation-stop"));
    let Some(mut terminal) = Terminal::open(&format!("{ENDLESS} {results}")) else {
        return;
    };
    terminal.say("one?");
    terminal.wait_for_an_answer();
    terminal.send(CTRL_C);
    terminal.wait_for("note: stopped; what was said so far stays in the conversation");
    terminal.say("two?");
    terminal.wait_for_an_answer();
    terminal.send(CTRL_C);
    terminal.wait_for("note: stopped");
    // At the prompt it takes away what was typed, and leaves when it comes twice.
    terminal.wait_for_prompt("<<< ");
    terminal.send("three");
    terminal.wait_for("three");
    terminal.send(CTRL_C);
    terminal.wait_for("Ctrl-C once more leaves");
    terminal.wait_for_prompt("<<< ");
    terminal.send(CTRL_C);
    terminal.wait_for("2 answers");
    assert_eq!(terminal.code(), Some(0));
    let lines = lines(&path);
    assert_eq!(lines.len(), 2);
    let (first, second) = (
        lines[0]["messages"].as_array().unwrap(),
        lines[1]["messages"].as_array().unwrap(),
    );
    assert!(first[1]["content"].as_str().unwrap().len() > 10);
    assert_eq!(second[..2], first[..]);
    assert_eq!((second.len(), &second[2]["content"]), (4, &"two?".into()));
}

#[test]
fn commands_change_the_conversation() {
    let (path, results) = talk(&folder("conversation-commands"));
    let short = "--temperature 0 --max_new_tokens 2";
    let Some(mut terminal) = Terminal::open(&format!("{short} {results}")) else {
        return;
    };
    // What is typed ahead is not lost.
    terminal.say("/help\r/rest");
    terminal.wait_for("/rest is no command and was not sent; did you mean /reset?");
    terminal.say("one?");
    terminal.say("/reset");
    terminal.say("two?");
    terminal.say("/system Mew.");
    terminal.say("three?");
    terminal.say("reset-system");
    terminal.wait_for("instructions so far: Mew.");
    terminal.wait_for_prompt("instructions: ");
    terminal.send("Purr.\r");
    // A line goes on after a backslash, and the one before is under the arrow key.
    terminal.say("four \\");
    terminal.send("and five?\r");
    terminal.say("/reset");
    terminal.wait_for_prompt("<<< ");
    terminal.send("\x1b[A\x1b[A\r");
    // Pasted text has its lines, and what stands at their ends.
    terminal.wait_for_prompt("<<< ");
    terminal.send("\x1b[200~six \\\nand\x1b[201~ seven?");
    terminal.wait_for("seven?");
    terminal.send("\r");
    terminal.say("multi-line");
    terminal.wait_for_prompt("<<<[M] ");
    terminal.send("eight\rnine#\r");
    terminal.wait_for_prompt("<<<[M] ");
    terminal.send("/single-line\r");
    terminal.say("/adapter");
    terminal.wait_for("* base");
    terminal.say("/adapter mew");
    terminal.wait_for("no adapter is called mew");
    terminal.say("/exit");
    terminal.wait_for("7 answers");
    assert_eq!(terminal.code(), Some(0));
    let asked: Vec<Vec<String>> = lines(&path)
        .iter()
        .map(|line| {
            let messages = line["messages"].as_array().unwrap();
            let others = messages
                .iter()
                .filter(|message| message["role"] != "assistant");
            others
                .map(|message| message["content"].as_str().unwrap().to_owned())
                .collect()
        })
        .collect();
    let again = "four \nand five?";
    assert_eq!(
        asked,
        [
            vec!["one?"],
            vec!["two?"],
            vec!["Mew.", "three?"],
            vec!["Purr.", again],
            vec!["Purr.", again],
            vec!["Purr.", again, "six \\\nand seven?"],
            vec!["Purr.", again, "six \\\nand seven?", "eight\nnine"],
        ]
    );
}

#[test]
fn adapters_answer_by_name() {
    let (path, results) = talk(&folder("conversation-adapters"));
    let adapters = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");
    let flags = format!(
        "--temperature 0 --max_new_tokens 4 --adapters {adapters}/ADAPTER other={adapters}/ADAPTER {results}"
    );
    let flags = flags.replace("ADAPTER", ADAPTER);
    let Some(mut terminal) = Terminal::open(&flags) else {
        return;
    };
    terminal.say("/adapter");
    let shown = terminal.wait_for("  other");
    assert!(
        shown.contains(&format!("  base\r\n* {ADAPTER}\r\n")),
        "{shown}"
    );
    for name in ["", "other", "base"] {
        if !name.is_empty() {
            terminal.say(&format!("/adapter {name}"));
            terminal.wait_for(&format!("{name} answers from now on"));
            terminal.say("/reset");
        }
        terminal.say("one?");
        terminal.wait_for("note: the answer was cut off");
    }
    terminal.say("/adapter oth\t");
    terminal.wait_for("other answers from now on");
    terminal.say("/exit");
    terminal.wait_for("3 answers");
    let lines = lines(&path);
    assert_eq!(lines[0]["response"], lines[1]["response"]);
    assert_ne!(lines[0]["response"], lines[2]["response"]);
}

#[test]
fn a_signal_ends_the_program_and_leaves_the_terminal_as_it_was() {
    for at_the_prompt in [true, false] {
        let Some(mut terminal) = Terminal::open(ENDLESS) else {
            return;
        };
        match at_the_prompt {
            true => terminal.wait_for_prompt("<<< "),
            false => {
                terminal.say("one?");
                terminal.wait_for_an_answer();
            }
        }
        // `script` has started it in a session of its own.
        let parent = terminal.script.id().to_string();
        let ended = Command::new("pkill")
            .args(["-TERM", "--parent", &parent])
            .status();
        if !ended.is_ok_and(|ended| ended.success()) {
            println!("skipped: there is no pkill");
            terminal.script.kill().unwrap();
            return;
        }
        terminal.wait_for("[?2004l");
        assert_eq!(terminal.code(), Some(128 + 15), "{at_the_prompt}");
    }
}
