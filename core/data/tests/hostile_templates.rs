//! Chat templates that want to run for ever or to fill the memory. Each ends soon, with an error that
//! names the template or with a text of bounded size.

mod data_common;

use apus_data::chat::dialect::harmony::Harmony;
use apus_data::chat::jinja::OverBudget;
use apus_data::chat::{ChatTemplate, RenderOptions};
use apus_sdk::{Conversation, Message};
use data_common::tiny_tokenizer;
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

/// A debug build on a busy machine; what is caught takes well below a second of a release build.
const SOON: Duration = Duration::from_secs(60);
/// Peak memory of a process, in MiB.
const BOUND: usize = 2500;

/// How many of the templates below come first because each is of another kind.
const KINDS: usize = 8;

/// Loops, long texts, texts that grow, lists that hold each other, recursion, options and filters that make much of
/// little, functions of ours: first one of each kind, then all others.
const TEMPLATES: [&str; 64] = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10**10 }}",
    "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|tojson }}",
    "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "{{ messages|tojson(indent=999999999) }}",
    "{{ '%999999999s'|format('a') }}{{ '{:999999999}'.format('a') }}",
    "{{ strftime_now('%c' * 9999999)|length }}{% for i in range(9999) %}{{ strftime_now('%c' * 99999)|length }}{% endfor %}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for i in range(1000000000) %}x{% endfor %}",
    "{% for i in range(9999) %}{% for j in range(9999) %}{% for k in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}",
    "{% for i in range(9999) %}{% for j in range(9999) %}{% set x = i * j %}{% endfor %}{% endfor %}",
    "{{ 'a' * 9999999999 }}",
    "{{ ('a' * 99999999) ~ ('b' * 99999999) }}",
    "{{ 'a' * 50000000 * 50 }}",
    "{% set x = 'a' * 99999999 %}{% set y = 'b' * 99999999 %}{% set z = 'c' * 99999999 %}{{ x ~ y ~ z }}",
    "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|string }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|pprint }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x ~ '' }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|join }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x == ns.x }}",
    "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
    "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x < ns.y }}{{ [ns.x, ns.y]|sort|length }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ {ns.x: 1}|length }}{{ [ns.x, ns.x]|unique|list|length }}",
    "{% set ns = namespace(x={'a': 1}) %}{% for i in range(60) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x={'a': 1}) %}{% for i in range(60) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x|tojson(indent=4) }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ raise_exception(ns.x) }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ '%s'|format(ns.x) }}{{ '{}'.format(ns.x) }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|urlencode }}{{ ns.x|escape }}{{ ns.x|upper }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{% if ns.x in [ns.x] %}{% endif %}{{ ns.x|length }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|length }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = {'a': ns.x} %}{% endfor %}{{ ns.x|string }}",
    "{% set ns = namespace(x=range(9)) %}{% for i in range(9999) %}{% set ns.x = ns.x|map('upper') %}{% endfor %}{{ ns.x|list }}",
    "{% set ns = namespace(x=range(9)) %}{% for i in range(9999) %}{% set ns.x = ns.x[1:] %}{% endfor %}{{ ns.x|list }}",
    "{% set ns = namespace(x=range(9)) %}{% for i in range(9999) %}{% set ns.x = ns.x + [i] %}{% endfor %}{{ ns.x|list|length }}",
    "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(0) }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% macro a(n) %}{{ b(n) }}{% endmacro %}{% macro b(n) %}{{ a(n) }}{% endmacro %}{{ a(0) }}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{% macro n() %}{% call m() %}{{ n() }}{% endcall %}{% endmacro %}{{ n() }}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "{% macro m(n) %}{% if n %}{% set x %}{{ m(n - 1) }}{{ m(n - 1) }}{{ m(n - 1) }}{% endset %}{{ x ~ x }}{% else %}aaaaaaaa{% endif %}{% endmacro %}{{ m(30) }}",
    "{{ [[[[[[[[1]]]]]]]]|tojson(indent=999999999) }}",
    "{{ (range(99999)|list)|tojson(separators=('a' * 999999, ':'))|length }}",
    "{{ (range(99999)|list)|tojson(indent='a' * 999999)|length }}",
    "{{ 'a'|indent(99999999999, true) }}",
    "{{ 'a\n' * 99999 }}{{ ('a\n' * 999999)|indent(9999) }}",
    "{{ 'a'|center(99999999999) }}",
    "{{ '%99999999999d'|format(1) }}",
    "{{ ('a' * 999999)|replace('a', 'a' * 999999) }}",
    "{{ ('a' * 999999).replace('a', 'b' * 999999) }}",
    "{{ ('a' * 99999)|list|join('b' * 999999) }}",
    "{{ ('b' * 999999).join(('a' * 99999)|list) }}",
    "{{ ('a' * 9999999)|list|batch(1)|list|length }}{{ range(9)|slice(99999999)|list|length }}",
    "{{ range(99999)|list|sort|reverse|map('string')|join|wordcount }}{% for i in range(9999) %}{{ range(9999)|sum }}{% endfor %}",
    "{% set ns = namespace(s='') %}{% for i in range(99999) %}{% set ns.s = ns.s ~ 'a' * 999 %}{% endfor %}{{ ns.s|length }}",
    "{% for i in range(99999) %}{% set x %}{{ 'a' * 99999 }}{% endset %}{% endfor %}",
    "{{ 9 ** 9 ** 9 ** 9 }}{{ 10 ** 100000000 }}",
    "{% for i in range(99999) %}{{ messages|tojson }}{% endfor %}",
];

/// Names the template that a child process renders.
const CHILD: &str = "APUS_HOSTILE_TEMPLATE";

/// How a render ended: in time, and within the memory, of a process of its own.
struct Ended {
    said: String,
    took: Duration,
    peak: Option<usize>,
}

/// The child: renders a conversation of one question, on a thread with no more stack than rayon gives.
fn render(source: &'static str) -> String {
    let run = move || {
        let template =
            ChatTemplate::jinja(&Harmony, source.to_owned(), "hostile.jinja", &Value::Null)?;
        let conversation = Conversation {
            messages: vec![
                Message::new("user", "hi"),
                Message::new("assistant", "hello"),
            ],
            ..Conversation::default()
        };
        let tokenizer = tiny_tokenizer();
        let options = RenderOptions::default();
        template.render(&conversation, &options, tokenizer.control())
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    match thread.spawn(run).unwrap().join().unwrap() {
        Ok(rendered) => format!("{} bytes", rendered.text.len()),
        Err(error) if error.is::<OverBudget>() => format!("over budget: {error:#}"),
        Err(error) => format!("{error:#}"),
    }
}

/// The most memory that this process has had, in MiB.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<usize>().ok()? / 1024)
}

/// Renders in a process of its own, which takes what was left behind with it.
fn in_a_process(number: usize) -> Ended {
    let started = Instant::now();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "one_template_of_each_kind_ends", "--nocapture"])
        .env(CHILD, number.to_string())
        .output()
        .unwrap();
    let took = started.elapsed();
    let out = String::from_utf8_lossy(&child.stdout).into_owned();
    let said = out.lines().find_map(|line| line.strip_prefix("ENDED "));
    let Some((peak, said)) = said.and_then(|said| said.split_once(' ')) else {
        panic!(
            "{}: {}\n{out}{}",
            TEMPLATES[number],
            child.status,
            String::from_utf8_lossy(&child.stderr)
        );
    };
    Ended {
        said: said.to_owned(),
        took,
        peak: peak.parse().ok(),
    }
}

/// Renders the first so many templates. Each that is stopped says which it is and what to do.
fn end_in_time(count: usize) -> usize {
    let mut over = 0;
    for (number, source) in TEMPLATES.into_iter().enumerate().take(count) {
        let Ended { said, took, peak } = in_a_process(number);
        println!("{number}: {took:?}, {peak:?} MiB: {said:.120}");
        assert!(took < SOON, "{source}: {took:?}");
        assert!(
            peak.is_none_or(|peak| peak < BOUND),
            "{source}: {peak:?} MiB"
        );
        if said.starts_with("over budget") {
            over += 1;
            assert!(
                said.contains("hostile.jinja") && said.contains("--template_backend"),
                "{said}"
            );
        }
    }
    over
}

/// Also what a child process runs.
#[test]
fn one_template_of_each_kind_ends() {
    if let Some(number) = std::env::var_os(CHILD) {
        let number: usize = number.into_string().unwrap().parse().unwrap();
        let said = render(TEMPLATES[number]).replace('\n', " ");
        let peak = peak().map_or("?".to_owned(), |peak| peak.to_string());
        println!("\nENDED {peak} {said}");
        // What was given up on ends with the process.
        std::process::exit(0);
    }
    let over = end_in_time(KINDS);
    assert!(over > KINDS / 2, "only {over} of {KINDS} were stopped");
}

#[test]
#[ignore = "takes two minutes: scripts/soak"]
fn soak_every_template_ends() {
    let count = TEMPLATES.len();
    let over = end_in_time(count);
    assert!(over > 30, "only {over} of {count} were stopped");
}

/// What an honest template spends is far below its budget, however long the conversation.
#[test]
fn long_conversations_stay_within_the_budget() {
    let source = "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content | trim | replace('a', 'b') }}\
        {% set ns = namespace(answers=false) %}{% for later in messages[loop.index:] %}\
        {% if later.role == 'assistant' and 'tool_calls' not in later %}{% set ns.answers = true %}{% endif %}\
        {% endfor %}{{ m | tojson | length }}<|end|>{% endfor %}";
    let template =
        ChatTemplate::jinja(&Harmony, source.to_owned(), "honest.jinja", &Value::Null).unwrap();
    let tokenizer = tiny_tokenizer();
    for (count, length) in [(600, 10), (20, 200_000), (2, 2_000_000)] {
        let text = "an apple ".repeat(length / 9);
        let role = |i: usize| {
            if i.is_multiple_of(2) {
                "user"
            } else {
                "assistant"
            }
        };
        let conversation = Conversation {
            messages: (0..count)
                .map(|i| Message::new(role(i), text.as_str()))
                .collect(),
            ..Conversation::default()
        };
        let rendered = template.render(
            &conversation,
            &RenderOptions::default(),
            tokenizer.control(),
        );
        assert!(
            rendered.is_ok(),
            "{count} messages: {:#}",
            rendered.unwrap_err()
        );
    }
}
