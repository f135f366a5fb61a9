//! Flags that built-in components declare: their values, as options of the components.

use super::{FLAGS, SftConfig, values};
use anyhow::Result;
use apus_sdk::built_in::{BuiltIn, OptionFlag, built_ins};
use apus_sdk::{Kind, Options};

/// A built-in component of which flags are given.
pub struct Flagged {
    /// The component.
    pub component: &'static BuiltIn,
    /// The first of its flags that is given.
    pub flag: &'static str,
    /// The options that its flags stand for.
    pub options: Options,
    /// The flag that chooses the component, if it is true.
    pub chosen_by: Option<&'static str>,
}

impl SftConfig {
    /// The built-in components of a kind of which flags are given, and the options that these stand for.
    pub fn flagged(&self, kind: Kind) -> Vec<Flagged> {
        let of_kind = built_ins()
            .into_iter()
            .filter(|declared| declared.kind == kind);
        of_kind
            .filter_map(|component| {
                let value =
                    |own: &'static OptionFlag| Some((own, self.of_components.get(own.name)?));
                let given: Vec<_> = component.flags.iter().filter_map(value).collect();
                let options = given.iter().filter(|(own, _)| !own.chooses());
                let options = options.map(|(own, value)| (own.option.to_owned(), (*value).clone()));
                let mut choosing = given
                    .iter()
                    .filter(|(own, value)| own.chooses() && **value == true);
                Some(Flagged {
                    component,
                    flag: given.first()?.0.name,
                    options: options.collect(),
                    chosen_by: choosing.next().map(|(own, _)| own.name),
                })
            })
            .collect()
    }

    /// Checks the flags that built-in components declare.
    pub(super) fn check_components(&self) -> Result<()> {
        let values = values(self);
        for component in built_ins() {
            (component.check)(&values)?;
            let given = |flag: &&str| self.of_components.contains_key(*flag);
            let mut flags = component.flags.iter().map(|own| own.name);
            if component.needs_evaluations
                && let Some(flag) = flags.find(given)
            {
                self.check_evaluated(flag)?;
            }
        }
        Ok(())
    }
}

/// The flags that bring a component of this kind into a run.
pub fn bringing(kind: Kind) -> Vec<&'static str> {
    let all = built_ins().into_iter();
    all.filter(|declared| declared.kind == kind && declared.joins)
        .flat_map(|declared| declared.flags)
        .map(|own| own.name)
        .collect()
}

/// Whether a flag of `apus sft` is declared by a built-in component.
pub(super) fn is_declared(flag: &str) -> bool {
    FLAGS
        .iter()
        .any(|known| known.name == flag && known.declared_by.is_some())
}

#[cfg(test)]
mod tests {
    use super::super::from_arguments;
    use super::*;
    use serde_json::{Value, json};

    fn config(line: &str) -> SftConfig {
        apus_plugins::link();
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        from_arguments(&words).unwrap().config
    }

    #[test]
    fn flags_are_options() {
        let config = config("--swanlab_project p --swanlab_smtp_port 465 --early_stop_interval 2");
        let [tracker] = &config.flagged(Kind::Tracker)[..] else {
            panic!("one tracker was expected");
        };
        assert_eq!(tracker.flag, "swanlab_project");
        let options = Value::Object(tracker.options.clone());
        assert_eq!(options, json!({"project": "p", "smtp_port": 465}));
        let [callback] = &config.flagged(Kind::Callback)[..] else {
            panic!("one callback was expected");
        };
        assert!(callback.component.joins);
        assert_eq!(callback.options["interval"], 2);
        let all = values(&config);
        assert_eq!(
            (&all["swanlab_project"], &all["swanlab_mode"]),
            (&json!("p"), &Value::Null)
        );
    }

    #[test]
    fn components_check_their_flags() {
        let said = |line: &str| {
            let found = config(&format!("--model m --dataset d {line}")).check(&|_| false);
            found.map_or_else(|error| error.to_string(), |()| "fits".to_owned())
        };
        assert!(said("--swanlab_mode clod").contains("swanlab_mode is \"clod\", expected cloud"));
        assert!(said("--early_stop_interval 2").contains("early_stop_interval needs evaluations"));
        let best = "--val_dataset v --save_strategy best";
        assert!(said(&format!("{best} --early_stop_interval 2")).contains("saves none of them"));
        assert_eq!(said(best), "fits");
    }
}
