//! Numbers that callbacks report beside those of the run: each belongs to one callback, by its name.

use super::Events;
use anyhow::{Result, bail};
use apus_base::doing;
use apus_sdk::{Control, RunState};
use serde_json::{Map, Value};

impl Events {
    /// Numbers are about to be logged; those of callbacks join them.
    ///
    /// # Errors
    /// A callback failed, or touched a number that is not its own; the error names it.
    pub fn on_log(&mut self, values: &mut Map<String, Value>, state: &RunState) -> Result<()> {
        for (name, value) in std::mem::take(&mut self.control.metrics) {
            if values.contains_key(&name) {
                let owner = self.owners.get(&name).map(|&index| &self.callbacks[index]);
                let owner = owner.map_or("a callback", |owner| &owner.label);
                bail!(
                    "{owner} reports {name:?}, which this line of the log has already; give it another name"
                );
            }
            values.insert(name, value);
        }
        for index in 0..self.callbacks.len() {
            let (logged, before) = (values.clone(), self.control.metrics.clone());
            let callback = &mut self.callbacks[index];
            let inside = doing::enter(&callback.label, "on_log");
            let event = callback.component.on_log(values, state, &mut self.control);
            drop(inside);
            self.record_requests(index, "on_log", event, &before)?;
            self.record_logged(index, &logged, values)?;
        }
        Ok(())
    }

    /// Records what callback `index` added to the line `logged`, which is `values` now.
    fn record_logged(
        &mut self,
        index: usize,
        logged: &Map<String, Value>,
        values: &Map<String, Value>,
    ) -> Result<()> {
        let label = &self.callbacks[index].label;
        let others = logged
            .iter()
            .filter(|(name, _)| self.owners.get(*name) != Some(&index));
        for (name, value) in others {
            if values.get(name) != Some(value) {
                bail!(
                    "{label}, on_log: changes {name:?}, which is not its own; give the number another name"
                );
            }
        }
        let fresh: Vec<_> = values
            .iter()
            .filter(|(name, value)| logged.get(*name) != Some(value))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        for (name, value) in fresh {
            if let Err(error) = Control::check_metric(&name, &value) {
                bail!("{}, on_log: {error}", self.callbacks[index].label);
            }
            self.record_number(index, name, value)?;
        }
        Ok(())
    }

    /// Records a number of callback `index` under its name.
    pub(super) fn record_number(&mut self, index: usize, name: String, value: Value) -> Result<()> {
        let owner = *self.owners.entry(name.clone()).or_insert(index);
        if owner != index {
            bail!(
                "{} reports {name:?}, as {} does; give one of them another name",
                self.callbacks[index].label,
                self.callbacks[owner].label
            );
        }
        self.reported.insert(name, value);
        Ok(())
    }

    /// The newest numbers that callbacks reported.
    pub fn reported(&self) -> &Map<String, Value> {
        &self.reported
    }
}
