//! Flags that are shorthands for an optimizer or a schedule, or for their options.

use super::SftConfig;
use super::resolve::Origin;
use crate::registry::Spec;
use anyhow::{Result, bail};
use serde_json::{Value, json};

/// Flags that are shorthands for options of the optimizer.
pub(super) const SHORTHANDS: &[(&str, &str)] = &[
    ("weight_decay", "weight_decay"),
    ("adam_beta1", "beta1"),
    ("adam_beta2", "beta2"),
    ("adam_epsilon", "eps"),
];

/// Looks up the names of a component's options.
pub type OptimizerOptions<'a> = &'a dyn Fn(&str) -> Result<Vec<String>>;

impl SftConfig {
    /// The optimizer with its options, shorthands filled in, and a line for each shorthand of the configuration
    /// file that this optimizer has no option for. A file is kept for several runs; a command line is not.
    ///
    /// # Errors
    /// An optimizer that there is not, or a shorthand on the command line that it has no option for.
    pub fn optimizer_spec(
        &self,
        origin: &dyn Fn(&str) -> Option<Origin>,
        options: OptimizerOptions,
    ) -> Result<(Spec, Vec<String>)> {
        let (mut spec, defaults) = match &self.optimizer {
            Some(spec) => (spec.clone(), false),
            None => (Spec::named(self.optim_component()?), true),
        };
        let known = options(&spec.name)?;
        let mut lines = Vec::new();
        for (flag, option) in SHORTHANDS {
            let has = known.iter().any(|name| name == option);
            match origin(flag) {
                _ if spec.options.contains_key(*option) => {}
                None if has && defaults => {
                    spec.options.insert((*option).to_owned(), self.number(flag));
                }
                None => {}
                Some(_) if has => {
                    spec.options.insert((*option).to_owned(), self.number(flag));
                }
                Some(Origin::File) => lines.push(format!(
                    "{flag}: not used: optimizer {} has no option {option}",
                    spec.name
                )),
                Some(Origin::CommandLine) => bail!(
                    "--{flag}: optimizer {} has no option {option}; {}",
                    spec.name,
                    match known.is_empty() {
                        true => "it has none".to_owned(),
                        false => format!("it has {}", known.join(", ")),
                    }
                ),
            }
        }
        Ok((spec, lines))
    }

    /// The component that `optim`, a name from transformers, stands for. A paged optimizer computes the same numbers
    /// and is accepted; one with 8-bit state is not.
    fn optim_component(&self) -> Result<&'static str> {
        Ok(match self.optim.as_str() {
            "adamw" | "adamw_torch" | "adamw_torch_fused" | "adamw_hf" | "adamw_apex_fused"
            | "paged_adamw" | "paged_adamw_32bit" => "adamw",
            "sgd" => "sgd",
            "lion" | "lion_32bit" | "paged_lion_32bit" => "lion",
            bits if bits.contains("8bit") || bits.contains("4bit") => bail!(
                "optim is {bits:?}: the optimizer's state is kept in float32 here, so that another update would come \
                 out than with 8 bits. Give --optim adamw_torch, which needs 8 bytes for each trained parameter"
            ),
            other => bail!(
                "optim is {other:?}; there are adamw_torch, adamw_torch_fused, paged_adamw_32bit, sgd and lion_32bit, \
                 and --optimizer NAME for any component"
            ),
        })
    }

    fn number(&self, flag: &str) -> Value {
        match flag {
            "weight_decay" => json!(self.weight_decay),
            "adam_beta1" => json!(self.adam_beta1),
            "adam_beta2" => json!(self.adam_beta2),
            _ => json!(self.adam_epsilon),
        }
    }

    /// The schedule with its options.
    pub fn schedule_spec(&self) -> Spec {
        self.lr_scheduler.clone().unwrap_or_else(|| Spec {
            name: self.lr_scheduler_type.clone(),
            options: self.lr_scheduler_kwargs.clone(),
        })
    }
}
