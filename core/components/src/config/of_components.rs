//! Flags that built-in components declare: their values, as options of the components.

use super::{FLAGS, SftConfig, values};
use crate::registry::Spec;
use anyhow::Result;
use apus_sdk::built_in::{BuiltIn, OptionFlag, built_ins};
use apus_sdk::{Kind, Options};
use serde_json::Value;

/// A built-in component of which flags are given.
pub(super) struct Flagged {
    pub(super) component: &'static BuiltIn,
    /// The first of its flags that is given.
    pub(super) flag: &'static str,
    /// Whether these flags bring it into a run that does not name it.
    joins: bool,
    /// Whether one of them asks for something.
    asks: bool,
    /// The options that its flags stand for.
    pub(super) options: Options,
    /// The flag that chooses the component, if it is true.
    pub(super) chosen_by: Option<&'static str>,
}

impl SftConfig {
    /// The built-in components of a kind of which flags are given, and the options that these stand for.
    pub(super) fn flagged(&self, kind: Kind) -> Vec<Flagged> {
        let of_kind = built_ins()
            .into_iter()
            .filter(|declared| declared.kind == kind);
        of_kind
            .filter_map(|component| {
                let value =
                    |own: &'static OptionFlag| Some((own, self.of_components.get(own.name)?));
                let given: Vec<_> = component.flags.iter().filter_map(value).collect();
                let joins = |(own, value): &(&OptionFlag, &Value)| {
                    component.joined_by.contains(&own.name) && asks_for_something(value)
                };
                let options = given.iter().filter(|(own, _)| !own.chooses());
                let options = options.map(|(own, value)| (own.option.to_owned(), (*value).clone()));
                let mut choosing = given
                    .iter()
                    .filter(|(own, value)| own.chooses() && **value == true);
                Some(Flagged {
                    component,
                    flag: given.first()?.0.name,
                    joins: given.iter().any(joins),
                    asks: given.iter().any(|(_, value)| asks_for_something(value)),
                    options: options.collect(),
                    chosen_by: choosing.next().map(|(own, _)| own.name),
                })
            })
            .collect()
    }

    /// Puts the values of flags into the options of the built-in components that they are about, where these are among `specs`; an
    /// option that has a value keeps it. Gives the components that flags bring into a run, and a line for each that is not chosen.
    pub fn add_flagged(&self, kind: Kind, specs: &mut [Spec]) -> (Vec<Spec>, Vec<String>) {
        let (mut joining, mut lines) = (Vec::new(), Vec::new());
        for flagged in self.flagged(kind) {
            let name = flagged.component.name;
            match specs.iter_mut().find(|spec| spec.name == name) {
                Some(spec) => {
                    for (option, value) in flagged.options {
                        spec.options.entry(option).or_insert(value);
                    }
                }
                None if flagged.joins => joining.push(Spec {
                    name: name.to_owned(),
                    options: flagged.options,
                }),
                None if !flagged.asks => {}
                None => lines.push(format!(
                    "{} is about the {kind} {name}, which is not chosen: it changes nothing",
                    flagged.flag
                )),
            }
        }
        (joining, lines)
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

/// Whether a flag's value turns something on.
fn asks_for_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Number(number) => number.as_f64() != Some(0.0),
        _ => true,
    }
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
    use serde_json::json;

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
        assert!(callback.joins);
        assert_eq!(callback.options["interval"], 2);
        let all = values(&config);
        assert_eq!(
            (&all["swanlab_project"], &all["swanlab_mode"]),
            (&json!("p"), &Value::Null)
        );
    }

    #[test]
    fn flags_go_to_the_component_that_is_chosen_or_bring_it() {
        let added = |line: &str, specs: &[Spec]| {
            let mut specs = specs.to_vec();
            let (joining, lines) = config(line).add_flagged(Kind::Callback, &mut specs);
            (json!(specs), json!(joining), lines)
        };
        let mut early_stop = Spec::named("early_stop");
        let (chosen, joining, lines) =
            added("--early_stop_interval 2", std::slice::from_ref(&early_stop));
        assert_eq!(
            (chosen, joining),
            (json!([{"name": "early_stop", "interval": 2}]), json!([]))
        );
        assert!(lines.is_empty());
        early_stop.options.insert("interval".to_owned(), 5.into());
        let (chosen, ..) = added("--early_stop_interval 2", &[early_stop]);
        assert_eq!(
            chosen[0]["interval"], 5,
            "what is said of the component itself"
        );
        let (chosen, joining, _) = added("--early_stop_interval 2", &[]);
        assert_eq!(
            (chosen, joining),
            (json!([]), json!([{"name": "early_stop", "interval": 2}]))
        );
        let mut zero = config("--early_stop_interval 2");
        zero.of_components["early_stop_interval"] = 0.into();
        let (joining, lines) = zero.add_flagged(Kind::Callback, &mut []);
        assert!(joining.is_empty(), "0 asks for nothing");
        assert!(lines.is_empty(), "and is not worth a word");
        let (_, lines) = config("--swanlab_project p").add_flagged(Kind::Tracker, &mut []);
        assert!(
            lines[0]
                .starts_with("swanlab_project is about the tracker swanlab, which is not chosen")
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
