//! Reference data and the built-in components, for the tests of the data pipeline.
#![allow(dead_code)]

use apus_components::registry;
use apus_components::registry::Spec;
use apus_data::chat::dialect::harmony::Harmony;
use apus_data::chat::{Chain, ChatTemplate, Tokenizer};
use apus_sdk::{Conversation, DatasetFormat, LossScale, Sample};
use serde_json::{Map, Value};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A file of the repository's reference data.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens")
        .join(name)
}

/// The values of a golden file, one a line.
pub fn lines(name: &str) -> Vec<Map<String, Value>> {
    let text = std::fs::read_to_string(golden(name)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The tokenizer of openai/gpt-oss-20b.
pub fn tokenizer() -> Tokenizer {
    let mut json = Vec::new();
    let file = File::open(golden("harmony/tokenizer.json.gz")).unwrap();
    flate2::read::GzDecoder::new(file)
        .read_to_end(&mut json)
        .unwrap();
    Tokenizer::new(&json, None, None).unwrap()
}

/// The tokenizer of the tiny model, quick to load.
pub fn tiny_tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::load(&golden("tiny/model_bf16")).unwrap())
}

/// The source of the model's own template, which is not part of the repository.
pub fn template_of_gpt_oss() -> Option<String> {
    let extra = std::env::var_os("APUS_GOLDENS_EXTRA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/goldens"),
        PathBuf::from,
    );
    let path = extra.join("harmony/chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(source) => Some(source),
        Err(error) => {
            println!(
                "skipped: {} ({error}); set APUS_GOLDENS_EXTRA",
                path.display()
            );
            None
        }
    }
}

/// The model's own template.
pub fn jinja() -> Option<ChatTemplate> {
    let source = template_of_gpt_oss()?;
    Some(ChatTemplate::jinja(&Harmony, source, "chat_template.jinja", &Value::Null).unwrap())
}

/// A built-in format, linked in or (with a prefix) loaded.
pub fn format(name: &str) -> Box<dyn DatasetFormat> {
    apus_plugins::link();
    registry::build(&Spec::named(name)).unwrap()
}

/// A chain of built-in scales; `way` goes before each name.
pub fn chain(way: &str, names: &str) -> Chain {
    apus_plugins::link();
    let scales = names.split('+').map(|name| {
        let spec = Spec::named(format!("{way}{}", name.trim()));
        let scale: Box<dyn LossScale> = registry::build(&spec).unwrap();
        (spec.name, scale)
    });
    Chain::new(scales.collect()).unwrap()
}

/// A row of the `messages` format as a conversation; `kwargs` become template variables.
pub fn conversation(row: &Map<String, Value>) -> Conversation {
    let mut row = row.clone();
    if let Some(kwargs) = row.remove("kwargs") {
        row.insert("chat_template_kwargs".to_owned(), kwargs);
    }
    match format("messages").convert(row).unwrap().remove(0) {
        Sample::Conversation(conversation) => conversation,
        Sample::Tokens(_) => panic!("a conversation was expected"),
    }
}
