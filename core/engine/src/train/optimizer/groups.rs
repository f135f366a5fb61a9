//! Groups of parameters (`optimizer.groups`): patterns of names, and what is different for their parameters.
//!
//! A group that has options of its own gets an optimizer of its own, made with them, so that any optimizer knows groups. One
//! that declares `Need::Groups` updates all parameters by itself and is told of the groups.

use anyhow::{Context, Result, bail, ensure};
use apus_components::registry::{self, Named, Spec};
use apus_sdk::{Need, Optimizer, Options, ParameterGroup};
use fancy_regex::Regex;
use serde::Deserialize;
use serde_json::Value;

/// The key of the groups among the options of an optimizer.
const KEY: &str = "groups";

/// An optimizer with the groups of a run.
pub struct Grouped {
    /// The optimizer of parameters without options of their own.
    pub optimizer: Named<dyn Optimizer>,
    /// The groups, each with its optimizer if it has one.
    pub groups: Vec<(GroupTable, Option<Named<dyn Optimizer>>)>,
}

impl Grouped {
    /// All optimizers of it.
    pub fn all(&self) -> impl Iterator<Item = &Named<dyn Optimizer>> {
        let own = self.groups.iter().filter_map(|(_, own)| own.as_ref());
        std::iter::once(&self.optimizer).chain(own)
    }
}

impl From<Named<dyn Optimizer>> for Grouped {
    fn from(optimizer: Named<dyn Optimizer>) -> Self {
        Self {
            optimizer,
            groups: Vec::new(),
        }
    }
}

/// A factor on the learning rate of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GroupRate {
    /// Beside its own, such as that of `lorap_lr_ratio`.
    Factor(f64),
    /// In place of it: the group has a learning rate of its own.
    InPlace(f64),
}

/// A group.
#[derive(Debug, Clone)]
pub struct GroupTable {
    patterns: Vec<(String, Regex)>,
    /// Its learning rate.
    pub lr: GroupRate,
    /// Whether weight decay applies; none leaves it to each parameter.
    pub decay: Option<bool>,
    /// Its name and its own options.
    pub group: ParameterGroup,
}

/// A group as a configuration writes it; whatever else stands there is an option of the optimizer.
#[derive(Deserialize)]
struct Written {
    params: Patterns,
    name: Option<String>,
    lr: Option<f64>,
    lr_factor: Option<f64>,
    weight_decay: Option<Decay>,
    #[serde(flatten)]
    options: Options,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Patterns {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Decay {
    Whether(bool),
    Value(f64),
}

/// Makes the optimizer of a run, and what its groups need; `rate` is the learning rate of the run.
///
/// # Errors
/// An optimizer that there is not, options that do not fit, a group that cannot be read.
pub fn make(spec: &Spec, rate: f64) -> Result<Grouped> {
    let mut base = spec.clone();
    let has_own = registry::options(apus_sdk::Kind::Optimizer, &spec.name)?;
    // An optimizer of a plugin may have called an option so before there were groups.
    let written = match has_own.iter().any(|name| name == KEY) {
        true => None,
        false => base.options.remove(KEY),
    };
    let optimizer: Named<dyn Optimizer> = registry::named(&base)?;
    let tables = match written {
        None => Vec::new(),
        Some(Value::Array(items)) => items,
        Some(table @ Value::Object(_)) => vec![table],
        Some(other) => bail!("optimizer.groups is {other}, expected a list of tables"),
    };
    let mut groups = Vec::with_capacity(tables.len());
    for (at, table) in tables.into_iter().enumerate() {
        let place = || format!("optimizer.groups, number {}", at + 1);
        let table = GroupTable::read(table, rate).with_context(place)?;
        let mut own = base.clone();
        own.options.extend(table.group.options().clone());
        let own = match table.group.options().is_empty() {
            true => None,
            // Made also for one that sees groups itself: options that do not fit are an error at the start.
            false => Some(registry::named(&own).with_context(place)?),
        };
        let own = own.filter(|_| !optimizer.declares(Need::Groups));
        ensure!(
            own.is_none() || !optimizer.declares(Need::Closure),
            "{}: {} makes the passes of a step again, which is one step over all parameters, while a group with options of its \
             own would have an optimizer and so a step of its own: leave lr, lr_factor and weight_decay = false of the group (an \
             optimizer that declares Need::Groups beside Need::Closure reads the options of groups itself)",
            place(),
            optimizer.label
        );
        groups.push((table, own));
    }
    Ok(Grouped { optimizer, groups })
}

impl GroupTable {
    fn read(table: Value, rate: f64) -> Result<Self> {
        let written: Written = serde_json::from_value(table.clone()).with_context(|| {
            format!(
                "{table}: expected a table with params (a pattern, or a list of them), and of lr, lr_factor, weight_decay, \
                 name and options of the optimizer those that are different"
            )
        })?;
        let patterns = match written.params {
            Patterns::One(one) => vec![one],
            Patterns::Many(many) => many,
        };
        ensure!(
            !patterns.is_empty(),
            "params is empty: no parameter is meant"
        );
        let compiled = patterns.iter().map(|pattern| {
            let regex = Regex::new(pattern);
            let regex =
                regex.with_context(|| format!("params: {pattern:?} is no regular expression"))?;
            Ok((pattern.clone(), regex))
        });
        let compiled = compiled.collect::<Result<_>>()?;
        let sound = |name: &str, value: f64| {
            ensure!(
                value.is_finite() && value >= 0.0,
                "{name} is {value}, expected a number of 0 or more"
            );
            Ok(value)
        };
        let lr = match (written.lr, written.lr_factor) {
            (Some(_), Some(_)) => bail!("lr and lr_factor are both given; keep one of them"),
            (Some(lr), None) => {
                ensure!(
                    rate > 0.0,
                    "lr is {lr}, and learning_rate is {rate}: the schedule of a group's lr is that of learning_rate, which \
                     must be above 0"
                );
                GroupRate::InPlace(sound("lr", lr)? / rate)
            }
            (None, factor) => GroupRate::Factor(sound("lr_factor", factor.unwrap_or(1.0))?),
        };
        let mut options = written.options;
        let decay = match written.weight_decay {
            None => None,
            Some(Decay::Whether(whether)) => Some(whether),
            Some(Decay::Value(value)) => {
                if sound("weight_decay", value)? != 0.0 {
                    options.insert("weight_decay".to_owned(), value.into());
                }
                Some(value != 0.0)
            }
        };
        let name = written.name.unwrap_or_else(|| patterns.join(" "));
        Ok(Self {
            patterns: compiled,
            lr,
            decay,
            group: ParameterGroup::new(name, options),
        })
    }

    /// Whether a parameter of this name belongs to it, if to none before it.
    pub fn matches(&self, name: &str) -> bool {
        self.patterns.iter().any(|(_, regex)| found(regex, name))
    }
}

fn found(regex: &Regex, name: &str) -> bool {
    regex.is_match(name).unwrap_or(false)
}

impl Grouped {
    /// Checks that every pattern is found in the name of a parameter that is trained, and that each group gets one.
    ///
    /// # Errors
    /// One is not; the error names it.
    pub fn check(&self, trained: &[&str]) -> Result<()> {
        let mut free = trained.to_vec();
        for (at, (table, _)) in self.groups.iter().enumerate() {
            let place = at + 1;
            for (pattern, regex) in &table.patterns {
                ensure!(
                    trained.iter().any(|name| found(regex, name)),
                    "optimizer.groups, number {place}: no parameter that is trained has {pattern:?} in its name; names are as {}",
                    examples(trained)
                );
            }
            let before = free.len();
            free.retain(|name| !table.matches(name));
            ensure!(
                free.len() < before,
                "optimizer.groups, number {place}: all its parameters belong to groups before it; put it before them"
            );
        }
        Ok(())
    }
}

fn examples(trained: &[&str]) -> String {
    let few: Vec<&str> = [
        trained.first(),
        trained.get(trained.len() / 2),
        trained.last(),
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect();
    few.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::OptimizerHost;
    use super::*;
    use apus_model::nn::Param;
    use apus_plugins as _;
    use candle_core::{Device, Tensor};
    use serde_json::json;
    use std::sync::Arc;

    const NAMES: [&str; 4] = [
        "l.0.lora_A.weight",
        "l.0.lora_B.weight",
        "embed.weight",
        "norm",
    ];

    fn spec(name: &str, options: Value) -> Spec {
        Spec {
            options: options.as_object().cloned().unwrap(),
            ..Spec::named(name)
        }
    }

    fn params(lorap: Option<f64>) -> Vec<Arc<Param>> {
        let one = |name: &&str| {
            let value = Tensor::ones((2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
            let ratio = if name.contains("lora_B") {
                lorap.unwrap_or(1.0)
            } else {
                1.0
            };
            Param::learning(*name, &value, *name != "norm", Some(ratio)).unwrap()
        };
        NAMES.iter().map(one).collect()
    }

    /// The first value of each parameter after a step of gradients of one.
    fn after(optimizer: impl Into<Grouped>, lorap: Option<f64>) -> Vec<f32> {
        let mut host = OptimizerHost::new(optimizer, params(lorap));
        for param in host.params() {
            param
                .accumulate(param.value().ones_like().unwrap())
                .unwrap();
        }
        host.step(0.1).unwrap();
        let first = |param: &Arc<Param>| {
            param
                .value()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()[0]
        };
        host.params().map(first).collect()
    }

    #[test]
    fn groups_have_rates_decay_and_options_of_their_own() {
        let sgd = spec(
            "sgd",
            json!({"weight_decay": 0.5, "groups": [
                {"params": "lora_B", "lr_factor": 2.0, "weight_decay": false},
                {"params": ["embed", "nothing else"], "lr": 0.4, "weight_decay": 0.25},
                {"params": "norm", "weight_decay": true},
            ]}),
        );
        let found = after(make(&sgd, 0.2).unwrap(), Some(3.0));
        // A: 0.1 (1 + 0.5); B: 0.1 * 3 * 2; embedding: half of its rate of 0.4, with a decay of its own; norm with decay.
        let expected = [0.85, 0.4, 1.0 - 0.2 * 1.25, 0.85];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn options_of_a_group_are_those_of_the_optimizer() {
        let groups = |extra: Value| spec("sgd", json!({"momentum": 0.5, "groups": [extra]}));
        let made = make(&groups(json!({"params": "lora_A", "momentum": 0.9})), 0.1).unwrap();
        assert!(made.groups[0].1.is_some());
        let said = |extra: Value| format!("{:#}", make(&groups(extra), 0.1).err().unwrap());
        assert!(said(json!({"params": "a", "momentun": 0.9})).contains("momentun"));
        assert!(said(json!({"params": "a", "momentum": 2.0})).contains("momentum is 2"));
        assert!(said(json!({"lr": 1.0})).contains("params"));
        assert!(said(json!({"params": "("})).contains("no regular expression"));
        assert!(said(json!({"params": "a", "lr": 1.0, "lr_factor": 1.0})).contains("keep one"));
        assert!(said(json!({"params": "a", "lr_factor": -1.0})).contains("0 or more"));
        assert!(said(json!({"params": []})).contains("empty"));
    }

    #[test]
    fn what_matches_nothing_is_an_error() {
        let check = |groups: Value| {
            let made = make(&spec("sgd", json!({"groups": groups})), 0.1).unwrap();
            made.check(&NAMES).map_err(|error| error.to_string())
        };
        check(json!([{"params": "lora_[AB]"}, {"params": ["embed", "norm"]}])).unwrap();
        let said = check(json!([{"params": ["lora_A", "lm_head"]}])).unwrap_err();
        assert!(
            said.contains("number 1") && said.contains("\"lm_head\"") && said.contains("norm"),
            "{said}"
        );
        let said = check(json!([{"params": "lora"}, {"params": "lora_A"}])).unwrap_err();
        assert!(
            said.contains("number 2") && said.contains("before"),
            "{said}"
        );
    }

    #[test]
    fn without_groups_nothing_changes() {
        let plain = registry::named::<dyn Optimizer>(&spec("adamw", json!({}))).unwrap();
        let grouped = make(&spec("adamw", json!({})), 0.1).unwrap();
        assert_eq!(after(plain, None), after(grouped, None));
    }
}
