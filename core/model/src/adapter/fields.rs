//! The fields of PEFT's `LoraConfig`: the release that added each, its default, and how Apus treats it.
//!
//! The list is closed: a field that is set and whose meaning is not known may change what the adapter computes, so the
//! adapter is refused. Fields that newer releases add are no obstacle as long as they are not set.

use crate::model::Init;
use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value};

/// Fields with their default are written only if this release of PEFT knew them, since releases stop at fields that they
/// do not know, or warn about them.
const KNOWN_EVERYWHERE: (u32, u32) = (0, 8);

/// How Apus treats a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The field is read.
    Read,
    /// The field changes nothing that is computed with the tensors of the file.
    NoEffect,
    /// Apus does not compute what the field asks for, so it must not be set.
    Refused,
}

struct Field {
    name: &'static str,
    since: (u32, u32),
    /// The default, as JSON.
    default: &'static str,
    role: Role,
}

const fn field(name: &'static str, since: (u32, u32), default: &'static str, role: Role) -> Field {
    Field {
        name,
        since,
        default,
        role,
    }
}

/// `PeftConfig` and `LoraConfig` of PEFT 0.21, in the order of the file.
const FIELDS: &[Field] = &[
    field("alora_invocation_tokens", (0, 18), "null", Role::Refused),
    field("alpha_pattern", (0, 6), "{}", Role::Read),
    field("arrow_config", (0, 18), "null", Role::Refused),
    field("auto_mapping", (0, 4), "null", Role::NoEffect),
    field("base_model_name_or_path", (0, 2), "null", Role::Read),
    field("bias", (0, 2), "\"none\"", Role::Refused),
    // Settings of initialisations have no effect once the adapter is initialised.
    field("corda_config", (0, 15), "null", Role::NoEffect),
    // An embedding that is the output head, too, is one parameter here.
    field("ensure_weight_tying", (0, 18), "false", Role::NoEffect),
    field("eva_config", (0, 14), "null", Role::NoEffect),
    field("exclude_modules", (0, 14), "null", Role::Read),
    field("fan_in_fan_out", (0, 2), "false", Role::Refused),
    field("inference_mode", (0, 2), "false", Role::NoEffect),
    field("init_lora_weights", (0, 3), "true", Role::Read),
    field("kasa_config", (0, 21), "null", Role::Refused),
    field("layer_replication", (0, 10), "null", Role::Refused),
    field("layers_pattern", (0, 4), "null", Role::Read),
    field("layers_to_transform", (0, 4), "null", Role::Read),
    field("loftq_config", (0, 7), "{}", Role::NoEffect),
    field("lora_alpha", (0, 2), "8", Role::Read),
    field("lora_bias", (0, 14), "false", Role::Refused),
    field("lora_dropout", (0, 2), "0.0", Role::Read),
    field("lora_ga_config", (0, 19), "null", Role::NoEffect),
    // It says how Megatron makes its layers; the tensors are the same.
    field("megatron_config", (0, 7), "null", Role::NoEffect),
    field("megatron_core", (0, 7), "\"megatron.core\"", Role::NoEffect),
    field("modules_to_save", (0, 2), "null", Role::Read),
    field("monteclora_config", (0, 20), "null", Role::Refused),
    field("peft_type", (0, 2), "null", Role::Read),
    field("peft_version", (0, 18), "null", Role::NoEffect),
    // Only use_qalora reads it.
    field("qalora_group_size", (0, 16), "16", Role::NoEffect),
    field("r", (0, 2), "8", Role::Read),
    field("rank_pattern", (0, 6), "{}", Role::Read),
    field("revision", (0, 3), "null", Role::Read),
    // PEFT ignores it in files.
    field("runtime_config", (0, 12), "null", Role::NoEffect),
    field("target_modules", (0, 2), "null", Role::Read),
    field("target_parameters", (0, 17), "null", Role::Read),
    field("task_type", (0, 2), "null", Role::NoEffect),
    field("trainable_token_indices", (0, 15), "null", Role::Refused),
    field("use_bdlora", (0, 19), "null", Role::Refused),
    field("use_dora", (0, 9), "false", Role::Read),
    field("use_qalora", (0, 16), "false", Role::Refused),
    field("use_rslora", (0, 8), "false", Role::Read),
    field("velora_config", (0, 20), "null", Role::Read),
];

impl Field {
    fn is_default(&self, value: &Value) -> bool {
        let default: Value = serde_json::from_str(self.default).unwrap_or(Value::Null);
        value.is_null() || is_unset(value) && is_unset(&default) || *value == default
    }
}

/// Whether a value is one that stands for nothing, whatever the field.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Number(_) | Value::Bool(true) => false,
    }
}

/// Refuses fields that are set and that nothing here computes, or whose meaning is not known.
///
/// # Errors
/// There are such fields; the error names all of them.
pub fn check(json: &Map<String, Value>) -> Result<()> {
    let (mut refused, mut unknown) = (Vec::new(), Vec::new());
    for (name, value) in json {
        let setting = format!("{name} is {value}");
        match FIELDS.iter().find(|field| field.name == name) {
            Some(field) if field.role == Role::Refused && !field.is_default(value) => {
                refused.push(setting);
            }
            Some(_) => {}
            None if is_unset(value) => {}
            None => unknown.push(setting),
        }
    }
    ensure!(
        refused.is_empty(),
        "{}: such adapters are not supported",
        refused.join(", ")
    );
    let version = json.get("peft_version").and_then(Value::as_str);
    let by = version.map_or(String::new(), |v| format!(" (written by PEFT {v})"));
    ensure!(
        unknown.is_empty(),
        "{}: not known here{by}, and it may change what the adapter computes; if it does not, take it out of the file",
        unknown.join(", ")
    );
    Ok(())
}

/// Leaves out fields that have their default and that not every release of PEFT knows, since no reader needs them.
pub fn written(json: Map<String, Value>) -> Map<String, Value> {
    let needed = |name: &String, value: &Value| {
        let field = FIELDS.iter().find(|field| field.name == name);
        field.is_none_or(|field| field.since <= KNOWN_EVERYWHERE || !field.is_default(value))
    };
    json.into_iter()
        .filter(|(name, value)| needed(name, value))
        .collect()
}

/// How the weights of an adapter were initialised, and a note where PEFT would go on to train it in another way.
/// Initialisations that changed the base model are refused: the adapter does not fit the unchanged one.
///
/// # Errors
/// The initialisation changed the base model, or is not known.
pub fn init(value: Option<&Value>) -> Result<(Init, Option<String>)> {
    let kind = match value {
        None | Some(Value::Null | Value::Bool(_)) => return Ok((Init::Kaiming, None)),
        Some(Value::String(kind)) => kind,
        Some(other) => bail!("init_lora_weights is {other}, expected true, false or a name"),
    };
    let name = kind.to_ascii_lowercase();
    match name.as_str() {
        "gaussian" => return Ok((Init::Gaussian, None)),
        "eva" | "orthogonal" => return Ok((Init::Kaiming, None)),
        "mica" => {
            let line =
                "init_lora_weights is \"mica\": PEFT trains A alone of such adapters, Apus both";
            return Ok((Init::Kaiming, Some(line.to_owned())));
        }
        _ => {}
    }
    let changed = ["pissa", "corda", "olora", "lora_ga", "loftq"];
    if changed.iter().any(|changed| name.starts_with(changed)) {
        bail!(
            "init_lora_weights is {kind:?}, which changed the weights of the base model: beside the unchanged ones the \
             adapter gives other answers. PEFT makes a plain adapter of it (save_pretrained with \
             path_initial_model_for_weight_conversion), or a merged model"
        );
    }
    bail!(
        "init_lora_weights is {kind:?}, which is not known here and may have changed the weights of the base model; known \
         are true, false, gaussian, eva, orthogonal and mica"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::testing::goldens;
    use serde_json::json;

    fn golden() -> Map<String, Value> {
        let path = goldens().join("adapter_grad_attn/adapter_config.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// The golden file was written by PEFT, with a default in every field that is not about this adapter.
    #[test]
    fn the_table_is_pefts() {
        let golden = golden();
        let names = FIELDS.iter().map(|field| field.name);
        let names: Vec<&str> = names.filter(|name| *name != "runtime_config").collect();
        assert_eq!(golden.keys().collect::<Vec<_>>(), names);
        let own = [
            "base_model_name_or_path",
            "inference_mode",
            "peft_type",
            "peft_version",
            "r",
            "target_modules",
            "task_type",
        ];
        for field in FIELDS.iter().filter(|field| !own.contains(&field.name)) {
            if let Some(value) = golden.get(field.name) {
                assert_eq!(
                    &serde_json::from_str::<Value>(field.default).unwrap(),
                    value,
                    "{}",
                    field.name
                );
            }
        }
    }

    #[test]
    fn what_is_set_and_not_computed_is_refused() {
        for field in FIELDS {
            let mut json = golden();
            for unset in [json!(null), serde_json::from_str(field.default).unwrap()] {
                json.insert(field.name.to_owned(), unset);
                check(&json).unwrap();
            }
            for set in [
                json!({"a": 1}),
                json!([3]),
                json!("all"),
                json!(7),
                json!(true),
            ] {
                json.insert(field.name.to_owned(), set);
                let found = check(&json).map_err(|error| error.to_string());
                match field.role {
                    Role::Refused => assert!(found.unwrap_err().contains(field.name)),
                    _ => found.unwrap(),
                }
            }
        }
    }

    #[test]
    fn fields_of_releases_to_come() {
        let mut json = golden();
        for unset in [json!(null), json!(false), json!({}), json!([])] {
            json.insert("use_newlora".to_owned(), unset);
            check(&json).unwrap();
        }
        for set in [
            json!(true),
            json!(0.5),
            json!(0),
            json!("fast"),
            json!({"a": null}),
        ] {
            json.insert("use_newlora".to_owned(), set.clone());
            let error = check(&json).unwrap_err().to_string();
            assert!(error.contains(&format!("use_newlora is {set}")), "{error}");
            assert!(error.contains("written by PEFT 0.21.2"), "{error}");
        }
    }

    #[test]
    fn initialisations() {
        let named = |name: &str| init(Some(&json!(name)));
        for name in ["gaussian", "Gaussian", "eva", "orthogonal", "mica", "MiCA"] {
            named(name).unwrap();
        }
        assert_eq!(named("GAUSSIAN").unwrap().0, Init::Gaussian);
        assert!(named("mica").unwrap().1.is_some());
        for value in [
            None,
            Some(&json!(true)),
            Some(&json!(false)),
            Some(&json!(null)),
        ] {
            assert_eq!(init(value).unwrap(), (Init::Kaiming, None));
        }
        for name in [
            "pissa",
            "PiSSA",
            "pissa_niter_4",
            "pissa_niter_16",
            "corda",
            "corda_ipm",
            "olora",
            "OLoRA",
            "lora_ga",
            "loftq",
        ] {
            let error = named(name).unwrap_err().to_string();
            assert!(
                error.contains("changed the weights") && error.contains(name),
                "{error}"
            );
        }
        for name in ["", "new_init", "true"] {
            assert!(
                named(name)
                    .unwrap_err()
                    .to_string()
                    .contains("not known here")
            );
        }
        assert!(init(Some(&json!(1))).is_err());
    }
}
