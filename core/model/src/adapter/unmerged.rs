//! An adapter beside others on one model: its updates apart from the model's own parameters.

use super::Adapter;
use crate::model::UpdateSet;
use crate::model::updates::updates;
use crate::ops::lora::Factors;
use anyhow::{Context, Result, bail, ensure};

impl Adapter {
    /// Its updates in host memory, for rows that name it.
    ///
    /// # Errors
    /// It is more than LoRA or rsLoRA of linear layers and experts, or it updates nothing.
    pub fn update_set(&self) -> Result<UpdateSet> {
        let alone = "it can answer alone, given by --adapters";
        ensure!(
            !self.config.use_dora,
            "it is a DoRA, which cannot share a batch with other adapters; {alone}"
        );
        if let [first, ..] = self.targets.modules_to_save.as_slice() {
            bail!(
                "it has {first} whole (modules_to_save), which cannot share a batch with other adapters; {alone}"
            );
        }
        let settings = self.config.settings(0);
        let mut found = Vec::new();
        for update in updates(&self.list, &self.targets, &settings)? {
            let tensor = |name: &String| {
                let found = self.tensors().get(name);
                found
                    .cloned()
                    .with_context(|| format!("it has no tensor {name}"))
            };
            let factors = Factors {
                a: tensor(&update.a.name)?,
                b: tensor(&update.b.name)?,
            };
            let scale = settings.of(&self.targets, &update.target).scale();
            found.push((update.target, scale, factors));
        }
        ensure!(!found.is_empty(), "it updates nothing of the model");
        UpdateSet::of_scaled(found)
    }
}
