//! The model's own chat template, rendered with the semantics of transformers'
//! `apply_chat_template` (`transformers.utils.chat_template_utils`).
//!
//! A template is a program that comes with a model, so it has a budget of instructions and bytes, which grows with the
//! conversation; a template that uses up its budget ends with an error. The engine counts instructions and bytes. What it
//! does not count (lists that hold one another many times) is limited by time and memory on a thread of its own.

use super::json::{Style, dumps_with};
use anyhow::{Context, Result, anyhow};
use apus_base::watchdog::{Abandoned, Limits, run_limited};
use chrono::{NaiveDate, NaiveTime};
use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde, ValueKind},
};
use serde_json::Map;
use std::{
    collections::HashSet,
    fmt::Write,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

const NAME: &str = "chat_template";
/// The budget of any template, in instructions; 64 bytes cost as much as an instruction.
const BASE: u64 = 1 << 20;
/// The additional budget for each byte of the variables, which a template may read many times.
const PER_BYTE: u64 = 4;
/// The additional budget for each pair of messages, since templates look for later messages at each message.
const PER_PAIR: u64 = 32;
/// The number of bytes that cost as much as an instruction.
const BYTES: u64 = 64;
/// The most levels of a value that is written as JSON.
const DEEPEST: usize = 128;
/// The widest indentation of JSON.
const WIDEST: usize = 1 << 16;
/// The longest time that a template may take for one conversation, even on a busy machine.
const TIME: Duration = Duration::from_secs(10);
/// The memory by which the process may grow meanwhile, in addition to the budget.
const MEMORY: u64 = 1 << 30;

/// A template used up its budget. This is a mistake of the template, not of the row.
#[derive(Debug, thiserror::Error)]
#[error(
    "{name} used up its budget of steps and memory, which is far more than a chat template needs: it may be \
     broken or hostile; use another one{otherwise}"
)]
pub struct OverBudget {
    name: String,
    otherwise: String,
}

/// A compiled template.
pub struct Jinja {
    environment: Environment<'static>,
    name: String,
    /// What else can be used, for the end of a message.
    otherwise: String,
    /// Whether it used up its budget once; it is not rendered again.
    over: AtomicBool,
    /// The variables that it reads.
    variables: HashSet<String>,
}

impl Jinja {
    /// Compiles a template; `name` is what errors call it, and `otherwise` says what else than a template can be used.
    pub fn new(source: String, name: &str, otherwise: String) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| anyhow!("{error}"))?;
        environment.set_syntax(syntax);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", tojson);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| explain(&error))
            .with_context(|| name.to_owned())?;
        let template = environment.get_template(NAME);
        let template = template.map_err(|error| explain(&error))?;
        let variables = template.undeclared_variables(false);
        Ok(Self {
            environment,
            name: name.to_owned(),
            otherwise,
            over: AtomicBool::new(false),
            variables,
        })
    }

    /// Whether the template reads a variable of this name.
    pub fn reads(&self, name: &str) -> bool {
        self.variables.contains(name)
    }

    /// Renders with these variables; `strftime_now` formats midnight of `date`.
    ///
    /// # Errors
    /// The template raises an error or cannot use a value, which the error names with the line, or [`OverBudget`].
    pub fn render(
        &self,
        variables: &Map<String, serde_json::Value>,
        date: NaiveDate,
    ) -> Result<String> {
        let strftime_now = move |format: &str| -> Result<String, Error> {
            let now = date.and_time(NaiveTime::MIN);
            let mut out = String::new();
            write!(out, "{}", now.format(format)).map_err(|_| {
                let detail = format!("strftime_now: unknown format `{format}`");
                Error::new(ErrorKind::InvalidOperation, detail)
            })?;
            Ok(out)
        };
        if self.over.load(Ordering::Relaxed) {
            return Err(self.over_budget());
        }
        let context = minijinja::context! {
            strftime_now => Value::from_function(strftime_now),
            ..Serde(variables)
        };
        let fuel = budget(variables);
        // A copy shares everything but the budget.
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let limits = Limits {
            time: TIME,
            memory: MEMORY + fuel * BYTES,
        };
        // An error can hold values of the template that are nested deeply, so it is dropped on the thread with the
        // large stack.
        let rendered = run_limited(limits, move || {
            let template = environment.get_template(NAME);
            let rendered = template.and_then(|template| template.render(context));
            rendered.map_err(|error| failure(&error))
        });
        match rendered {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(Some(error))) => Err(error),
            Ok(Err(None)) | Err(Abandoned::TooMuch) => Err(self.over_budget()),
            Err(error) => Err(error).with_context(|| format!("rendering with {}", self.name)),
        }
    }

    fn over_budget(&self) -> anyhow::Error {
        self.over.store(true, Ordering::Relaxed);
        let (name, otherwise) = (self.name.clone(), self.otherwise.clone());
        OverBudget { name, otherwise }.into()
    }
}

/// The budget of a template for these variables.
fn budget(variables: &Map<String, serde_json::Value>) -> u64 {
    let messages = variables.get("messages").and_then(|m| m.as_array());
    let messages = messages.map_or(0, Vec::len) as u64;
    let bytes: u64 = variables.values().map(size).sum();
    BASE + PER_BYTE * bytes + PER_PAIR * messages * messages
}

/// The bytes of all texts in a value, plus a constant for each value.
fn size(value: &serde_json::Value) -> u64 {
    const VALUE: u64 = 16;
    VALUE
        + match value {
            serde_json::Value::String(text) => text.len() as u64,
            serde_json::Value::Array(items) => items.iter().map(size).sum(),
            serde_json::Value::Object(fields) => {
                let one = |(key, value): (&String, _)| key.len() as u64 + size(value);
                fields.iter().map(one).sum()
            }
            _ => 0,
        }
}

/// The innermost error, without those of the macros around it.
fn deepest(error: &Error) -> &Error {
    let mut deepest = error;
    while let Some(inner) =
        std::error::Error::source(deepest).and_then(|e| e.downcast_ref::<Error>())
    {
        deepest = inner;
    }
    deepest
}

/// The error of a template; `None` if it used up its budget.
fn failure(error: &Error) -> Option<anyhow::Error> {
    let error = deepest(error);
    match error.kind() {
        ErrorKind::OutOfFuel => None,
        _ => Some(explain(error)),
    }
}

/// The message of the innermost error, with its line.
fn explain(error: &Error) -> anyhow::Error {
    let deepest = deepest(error);
    let message = match deepest.detail() {
        Some(detail) => detail.to_owned(),
        None => deepest.kind().to_string(),
    };
    match deepest.line() {
        Some(line) => anyhow!("{message}").context(format!("chat template, line {line}")),
        None => anyhow!("{message}").context("chat template"),
    }
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn tojson(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = options.get::<Option<Value>>("indent")?;
    let indent = indent.filter(|indent| !indent.is_none() && !indent.is_undefined());
    let indent = indent.map(|indent| match usize::try_from(indent.clone()) {
        // More than the whole budget could pay for needs no exact width.
        Ok(width) => " ".repeat(width.min(WIDEST)),
        Err(_) => indent.to_string(),
    });
    let mut style = Style::new(indent);
    if let Some((item, key)) = separators(options.get::<Option<Value>>("separators")?)? {
        (style.item, style.key) = (item, key);
    }
    style.ensure_ascii = options
        .get::<Option<bool>>("ensure_ascii")?
        .unwrap_or(false);
    style.sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut walk = JsonWalk::default();
    let value = walk.json(state, value, 0)?;
    let indent = style.indent.as_ref().map_or(0, String::len) * walk.deepest;
    let around = indent + style.item.len() + style.key.len();
    state.consume_fuel(walk.values.saturating_mul(around as u64) / BYTES)?;
    Ok(dumps_with(&value, &style))
}

/// Counts the values and levels of a value while it is turned into JSON.
#[derive(Default)]
struct JsonWalk {
    values: u64,
    deepest: usize,
}

impl JsonWalk {
    /// Turns a value into JSON and charges the budget for each part, since a list can hold another list many times.
    fn json(
        &mut self,
        state: &State,
        value: &Value,
        depth: usize,
    ) -> Result<serde_json::Value, Error> {
        let invalid = |detail: String| Error::new(ErrorKind::InvalidOperation, detail);
        self.values += 1;
        self.deepest = self.deepest.max(depth);
        if depth > DEEPEST {
            return Err(invalid(format!("tojson: more than {DEEPEST} levels")));
        }
        state.consume_fuel(1 + value.as_str().map_or(0, str::len) as u64 / BYTES)?;
        Ok(match value.kind() {
            ValueKind::Undefined => {
                return Err(invalid("tojson: the value is undefined".to_owned()));
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?;
                let items = items.map(|item| self.json(state, &item, depth + 1));
                serde_json::Value::Array(items.collect::<Result<_, _>>()?)
            }
            ValueKind::Map => {
                let mut fields = Map::new();
                for key in value.try_iter()? {
                    let field = self.json(state, &value.get_item(&key)?, depth + 1)?;
                    let name = match key.kind() {
                        ValueKind::Bool => key.is_true().to_string(),
                        ValueKind::None => "null".to_owned(),
                        _ => key.to_string(),
                    };
                    state.consume_fuel(name.len() as u64 / BYTES)?;
                    fields.insert(name, field);
                }
                serde_json::Value::Object(fields)
            }
            _ => {
                serde_json::to_value(value).map_err(|error| invalid(format!("tojson: {error}")))?
            }
        })
    }
}

fn separators(value: Option<Value>) -> Result<Option<(String, String)>, Error> {
    let Some(value) = value.filter(|value| !value.is_none()) else {
        return Ok(None);
    };
    let parts: Vec<String> = value.try_iter()?.map(|part| part.to_string()).collect();
    match <[String; 2]>::try_from(parts) {
        Ok([item, key]) => Ok(Some((item, key))),
        Err(_) => {
            let detail = "tojson: `separators` must be a pair";
            Err(Error::new(ErrorKind::InvalidOperation, detail))
        }
    }
}

/// `chat_template` of tokenizer_config.json: text, or a list of named templates of which `default` is
/// taken.
///
/// # Errors
/// A `chat_template` that is neither.
pub fn source(config: &serde_json::Value) -> Result<Option<String>> {
    match config.get("chat_template") {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(text)) => Ok(Some(text.clone())),
        Some(serde_json::Value::Array(named)) => named
            .iter()
            .find(|entry| entry.get("name").is_some_and(|name| name == "default"))
            .and_then(|entry| Some(entry.get("template")?.as_str()?.to_owned()))
            .map(Some)
            .context("`chat_template` in tokenizer_config.json has no template named `default`"),
        Some(_) => Err(anyhow!(
            "`chat_template` in tokenizer_config.json must be text or a list of named templates"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(source: &str, variables: serde_json::Value) -> Result<String> {
        let serde_json::Value::Object(variables) = variables else {
            panic!("variables are an object")
        };
        let date = NaiveDate::from_ymd_opt(2025, 8, 5).unwrap();
        Jinja::new(source.to_owned(), "a test's template", String::new())?.render(&variables, date)
    }

    #[test]
    fn values_and_blocks_as_in_python() {
        let source =
            "  {% if flag %}\n{{ none }} {{ flag }} {{ missing }}|{{ f }}\n  {% endif %}\nx\n";
        let found = render(source, json!({"flag": true, "none": null, "f": 1.0})).unwrap();
        assert_eq!(found, "None True |1.0\nx");
    }

    #[test]
    fn tojson_takes_python_options() {
        let source =
            "{{ v|tojson }} {{ v|tojson(indent=2) }} {{ v|tojson(separators=(',', ':')) }}";
        let found = render(source, json!({"v": {"z": "é<'", "a": [1]}})).unwrap();
        let expected = "{\"z\": \"é<'\", \"a\": [1]} {\n  \"z\": \"é<'\",\n  \"a\": [\n    1\n  ]\n} \
                        {\"z\":\"é<'\",\"a\":[1]}";
        assert_eq!(found, expected);
    }

    #[test]
    fn long_integers_keep_their_digits() {
        let text = r#"{"v": {"n": 123456789012345678901234567890}}"#;
        let found = render("{{ v|tojson }}", apus_sdk::json::read(text).unwrap()).unwrap();
        assert_eq!(found, r#"{"n": 123456789012345678901234567890}"#);
    }

    #[test]
    fn methods_namespaces_and_loop_controls() {
        let source = "{%- set ns = namespace(n=0) -%}\
            {%- for k, v in d.items() -%}{%- if k == 'stop' -%}{%- break -%}{%- endif -%}\
            {%- set ns.n = ns.n + v -%}{{ k.upper() }}{%- endfor -%}{{ ns.n }} {{ strftime_now('%d/%Y') }}";
        let found = render(source, json!({"d": {"items": 1, "b": 2, "stop": 3}})).unwrap();
        assert_eq!(found, "ITEMSB3 05/2025");
    }

    #[test]
    fn variables_that_are_looked_at_are_known() {
        let source = "{%- macro head() %}{% if effort is not defined %}{% set effort = 'low' %}{% endif %}{{ effort }}\
                      {% endmacro %}{% set own = 1 %}{{ head() }}{{ own }}{% for m in messages %}{{ m.role }}{% endfor %}";
        let jinja = Jinja::new(source.to_owned(), NAME, String::new()).unwrap();
        assert!(jinja.reads("effort") && jinja.reads("messages"));
        assert!(!jinja.reads("own") && !jinja.reads("enable_thinking"));
    }

    #[test]
    fn errors_carry_the_message_and_the_line() {
        let error = render("\n{{ raise_exception('no ' + x) }}", json!({"x": "way"})).unwrap_err();
        assert_eq!(format!("{error:#}"), "chat template, line 2: no way");
        assert!(Jinja::new("{% if %}".to_owned(), "t", String::new()).is_err());
    }
}
