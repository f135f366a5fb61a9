//! The model's own chat template, rendered with the semantics of transformers'
//! `apply_chat_template` (`transformers.utils.chat_template_utils`).

use super::json::{Style, dumps_with};
use anyhow::{Context, Result, anyhow};
use chrono::{NaiveDate, NaiveTime};
use minijinja::{
    Environment, Error, ErrorKind, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde},
};
use serde_json::Map;
use std::fmt::Write;

const NAME: &str = "chat_template";

/// A compiled template.
pub struct Jinja {
    environment: Environment<'static>,
}

impl Jinja {
    /// Compiles a template.
    ///
    /// # Errors
    /// A syntax error, with its line.
    pub fn new(source: String) -> Result<Self> {
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
            .map_err(|error| explain(&error))?;
        Ok(Self { environment })
    }

    /// Renders with these variables; `strftime_now` formats midnight of `date`.
    ///
    /// # Errors
    /// What the template itself raises, or a value it cannot use, with the template's line.
    pub fn render(
        &self,
        variables: Map<String, serde_json::Value>,
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
        let context = minijinja::context! {
            strftime_now => Value::from_function(strftime_now),
            ..Serde(&variables)
        };
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(context))
            .map_err(|error| explain(&error))
    }
}

/// What the template said, without the layers of macros around it.
fn explain(error: &Error) -> anyhow::Error {
    let mut deepest = error;
    while let Some(inner) =
        std::error::Error::source(deepest).and_then(|e| e.downcast_ref::<Error>())
    {
        deepest = inner;
    }
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

fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let invalid = |detail: String| Error::new(ErrorKind::InvalidOperation, detail);
    if value.is_undefined() {
        return Err(invalid("tojson: the value is undefined".to_owned()));
    }
    let value = serde_json::to_value(value).map_err(|error| invalid(format!("tojson: {error}")))?;
    let indent = options.get::<Option<Value>>("indent")?;
    let indent = indent.filter(|indent| !indent.is_none() && !indent.is_undefined());
    let indent = indent.map(|indent| match usize::try_from(indent.clone()) {
        Ok(width) => " ".repeat(width),
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
    Ok(dumps_with(&value, &style))
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

/// The template of a model folder's files: the text of chat_template.jinja, or `chat_template` of
/// tokenizer_config.json (text, or a list of named templates of which `default` is taken).
///
/// # Errors
/// A `chat_template` that is neither.
pub fn source(file: Option<String>, config: &serde_json::Value) -> Result<Option<String>> {
    if file.is_some() {
        return Ok(file);
    }
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
        Jinja::new(source.to_owned())?.render(variables, date)
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
    fn methods_namespaces_and_loop_controls() {
        let source = "{%- set ns = namespace(n=0) -%}\
            {%- for k, v in d.items() -%}{%- if k == 'stop' -%}{%- break -%}{%- endif -%}\
            {%- set ns.n = ns.n + v -%}{{ k.upper() }}{%- endfor -%}{{ ns.n }} {{ strftime_now('%d/%Y') }}";
        let found = render(source, json!({"d": {"items": 1, "b": 2, "stop": 3}})).unwrap();
        assert_eq!(found, "ITEMSB3 05/2025");
    }

    #[test]
    fn errors_carry_the_message_and_the_line() {
        let error = render("\n{{ raise_exception('no ' + x) }}", json!({"x": "way"})).unwrap_err();
        assert_eq!(format!("{error:#}"), "chat template, line 2: no way");
        assert!(Jinja::new("{% if %}".to_owned()).is_err());
    }
}
