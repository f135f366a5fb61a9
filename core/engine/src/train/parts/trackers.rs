//! The trackers of a run: those that are always there, those of `report_to`, those of `trackers`.

use apus_base::lines::info;
use apus_components::config::SftConfig;
use apus_components::registry::Spec;

/// The tracker that flags of its own give options to.
const SWANLAB: &str = "swanlab";

/// Their names and options.
pub fn specs(config: &SftConfig) -> Vec<Spec> {
    let mut specs = vec![Spec::named("console"), Spec::named("jsonl")];
    for name in &config.report_to {
        match name.as_str() {
            "none" | "console" | "jsonl" => {}
            "wandb" | "mlflow" => info!(
                "note: report_to {name}: there is no such tracker; report_to takes swanlab and tensorboard, `apus watch` shows \
                 runs as they go on, and logging.jsonl has every number for a plugin or script"
            ),
            name if config.trackers.iter().any(|tracker| tracker.name == name) => {}
            name => specs.push(Spec::named(name)),
        }
    }
    specs.extend(config.trackers.iter().cloned());
    let flags = config.swanlab_options();
    match specs.iter_mut().find(|spec| spec.name == SWANLAB) {
        Some(spec) => {
            for (option, value) in flags {
                spec.options.entry(option).or_insert(value);
            }
        }
        None if flags.is_empty() => {}
        None => info!(
            "note: swanlab_{} is given, and report_to has no swanlab: nothing goes there",
            flags.keys().next().map_or("", String::as_str)
        ),
    }
    specs
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn flags_go_to_their_tracker() {
        let mut config = SftConfig {
            report_to: vec!["swanlab".to_owned()],
            swanlab_project: Some("p".to_owned()),
            ..SftConfig::default()
        };
        let all = specs(&config);
        let names: Vec<&str> = all.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["console", "jsonl", "swanlab"]);
        assert_eq!(all[2].options["project"], "p");

        let mut own = Spec::named("swanlab");
        own.options.insert("project".to_owned(), json!("q"));
        own.options.insert("interval".to_owned(), json!(3));
        config.trackers = vec![own];
        config.swanlab_mode = Some("offline".to_owned());
        let all = specs(&config);
        assert_eq!(all.len(), 3, "one tracker, not two");
        assert_eq!(
            serde_json::to_value(&all[2].options).unwrap(),
            json!({"project": "q", "interval": 3, "mode": "offline"})
        );
        config.report_to = Vec::new();
        config.trackers = Vec::new();
        assert_eq!(specs(&config).len(), 2);
    }
}
