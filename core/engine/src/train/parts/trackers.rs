//! The trackers of a run: those that are always there, those of `report_to`, those of `trackers`.

use anyhow::Result;
use apus_base::lines::info;
use apus_components::config::{SftConfig, TRACKERS};
use apus_components::registry::{self, Spec};
use apus_sdk::Kind;

/// Their names and options.
///
/// # Errors
/// Two trackers of one name in plugins.
pub fn specs(config: &SftConfig) -> Result<Vec<Spec>> {
    let mut specs = Spec::all_named(TRACKERS);
    for name in &config.report_to {
        match name.as_str() {
            "none" => {}
            name if TRACKERS.contains(&name) => {}
            "wandb" | "mlflow" => info!(
                "note: report_to {name}: there is no such tracker; report_to takes {}, `apus watch` shows \
                 runs as they go on, and logging.jsonl has every number for a plugin or script",
                others()?
            ),
            name if config.trackers.iter().any(|tracker| tracker.name == name) => {}
            name => specs.push(Spec::named(name)),
        }
    }
    specs.extend(config.trackers.iter().cloned());
    let (joining, lines) = config.add_flagged(Kind::Tracker, &mut specs);
    specs.extend(joining);
    for line in lines {
        info!("note: {line}");
    }
    Ok(specs)
}

/// The trackers that `report_to` can add, for messages.
fn others() -> Result<String> {
    let all = registry::all(Kind::Tracker)?.into_iter();
    let names: Vec<String> = all.map(|tracker| tracker.name).collect();
    let added = names
        .iter()
        .filter(|name| !TRACKERS.contains(&name.as_str()));
    let added: Vec<&str> = added.map(String::as_str).collect();
    Ok(match added.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        names => names.concat(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_components::config::from_arguments;
    use serde_json::json;

    fn config(line: &str) -> SftConfig {
        apus_plugins::link();
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        from_arguments(&words).unwrap().config
    }

    #[test]
    fn flags_go_to_their_tracker() {
        let all = specs(&config("--report_to swanlab --swanlab_project p")).unwrap();
        let names: Vec<&str> = all.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["console", "jsonl", "swanlab"]);
        assert_eq!(all[2].options["project"], "p");

        let flags = "--swanlab_project p --swanlab_mode offline";
        let mut config = config(&format!("--report_to swanlab {flags}"));
        let mut own = Spec::named("swanlab");
        own.options.insert("project".to_owned(), json!("q"));
        own.options.insert("interval".to_owned(), json!(3));
        config.trackers = vec![own];
        let all = specs(&config).unwrap();
        assert_eq!(all.len(), 3, "one tracker, not two");
        assert_eq!(
            serde_json::to_value(&all[2].options).unwrap(),
            json!({"project": "q", "interval": 3, "mode": "offline"})
        );
        config.report_to = Vec::new();
        config.trackers = Vec::new();
        assert_eq!(specs(&config).unwrap().len(), 2);
    }

    #[test]
    fn the_trackers_that_can_be_added_are_named() {
        apus_plugins::link();
        assert_eq!(others().unwrap(), "swanlab and tensorboard");
    }
}
