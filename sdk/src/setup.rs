//! What a component may look at before the model of a run is read: to find contradictions at the start.

use crate::{Kind, Need, Result, RunInfo};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeMap;

/// The set-up of a run, for `check` of components that declare [`Need::Check`].
///
/// Every command asks the components that it makes before its model is looked for: `apus sft` all of a run, a dry run too, and of
/// several processes each those that it has; `apus data` what reads the data; `apus infer`, `apus eval`, `apus deploy`,
/// `apus export` and `apus bench` those that they use, tuners of adapters among them. [`config`](Self::config) has the flags of
/// the command. A run asks again once the data is read, which the first time is not known: [`rows`](Self::rows) is `None`
/// then. An error ends the command and names the component and where it was chosen.
///
/// ```
/// use apus_sdk::{Callback, Kind, Need, Result, Setup, options, register, testing};
/// use serde_json::json;
///
/// options! {
///     struct Average {}
/// }
///
/// impl Callback for Average {
///     fn needs() -> &'static [Need] {
///         &[Need::Check]
///     }
///
///     fn check(&self, setup: &Setup) -> Result<()> {
///         if setup.components(Kind::Optimizer) == ["schedule_free_adamw"] {
///             return Err("schedule_free_adamw averages already; leave one of the two out".into());
///         }
///         Ok(())
///     }
/// }
///
/// register! {
///     /// Averages of the weights.
///     Callback, "average", Average
/// }
///
/// let average = testing::make::<dyn Callback>("average", json!({}))?;
/// let setup = Setup::new(json!({"max_steps": 3}));
/// average.check(&setup)?;
/// let both = setup.with_components(Kind::Optimizer, ["schedule_free_adamw"]);
/// assert!(average.check(&both).is_err());
/// # Ok::<(), apus_sdk::Error>(())
/// ```
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Setup {
    config: Value,
    info: RunInfo,
    rows: Option<u64>,
    steps: Option<u64>,
    /// Names by kind.
    components: BTreeMap<String, Vec<String>>,
    /// Whether the component that is asked does not check anything.
    #[serde(skip)]
    left: Cell<bool>,
}

impl Setup {
    /// That of a run with this configuration; made by the host and by tests.
    pub fn new(config: Value) -> Self {
        let steps = config.get("max_steps").and_then(Value::as_u64);
        Self {
            config,
            steps: steps.filter(|&steps| steps > 0),
            ..Self::default()
        }
    }

    /// The same with what is known of the run.
    #[must_use]
    pub fn with_info(self, info: RunInfo) -> Self {
        Self { info, ..self }
    }

    /// The same with a number of rows.
    #[must_use]
    pub fn with_rows(self, rows: u64) -> Self {
        Self {
            rows: Some(rows),
            ..self
        }
    }

    /// The same with the names of the components of a kind.
    #[must_use]
    pub fn with_components<T: Into<String>>(
        mut self,
        kind: Kind,
        names: impl IntoIterator<Item = T>,
    ) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        self.components.insert(kind.name().to_owned(), names);
        self
    }

    /// The configuration as `args.json` has it: every flag of the command by name, without secrets.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// What is known of the run: folder, rank, number of ranks, configuration.
    pub fn info(&self) -> &RunInfo {
        &self.info
    }

    /// Examples that are trained on, once they are known; never where they are streamed.
    pub fn rows(&self) -> Option<u64> {
        self.rows
    }

    /// Steps of the run, if the configuration says how many there are.
    pub fn steps(&self) -> Option<u64> {
        self.steps
    }

    /// The names of the components of this kind that were chosen.
    pub fn components(&self, kind: Kind) -> &[String] {
        let names = self.components.get(kind.name());
        names.map(Vec::as_slice).unwrap_or_default()
    }

    /// The component has nothing to check.
    #[doc(hidden)]
    pub fn leave(&self) {
        self.left.set(true);
    }

    /// Asks a component that declares these needs.
    ///
    /// # Errors
    /// Its own; it checks something and does not declare that.
    #[doc(hidden)]
    pub fn ask(&self, declared: &[Need], check: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.left.set(false);
        check(self)?;
        match self.left.get() || Need::Check.is_in(declared) {
            true => Ok(()),
            false => Err(Need::Check.undeclared(declared)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_known_is_told() {
        let setup = Setup::new(json!({"max_steps": -1, "model": "m"}))
            .with_rows(7)
            .with_components(Kind::Metric, ["bleu", "rouge"])
            .with_info(RunInfo {
                rank: 2,
                ..RunInfo::default()
            });
        let crossed: Setup = serde_json::from_value(json!(setup)).unwrap();
        assert_eq!((crossed.rows(), crossed.steps()), (Some(7), None));
        assert_eq!(crossed.config()["model"], "m");
        assert_eq!(crossed.components(Kind::Metric), ["bleu", "rouge"]);
        assert!(crossed.components(Kind::Loss).is_empty());
        assert_eq!(crossed.info().rank, 2);
        assert_eq!(Setup::new(json!({"max_steps": 3})).steps(), Some(3));
    }

    #[test]
    fn a_check_that_is_not_declared_is_an_error() {
        let setup = Setup::default();
        let leaves = |setup: &Setup| {
            setup.leave();
            Ok(())
        };
        assert_eq!(setup.ask(&[], leaves), Ok(()));
        assert_eq!(setup.ask(&[Need::Check], |_| Ok(())), Ok(()));
        let said = setup.ask(&[Need::Run], |_| Ok(())).unwrap_err().to_string();
        assert!(said.ends_with("{ &[Need::Run, Need::Check] }"), "{said}");
    }
}
