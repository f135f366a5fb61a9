//! Flags that are shorthands for an optimizer or a schedule, or for their options.

use super::defaults::OPTIM;
use super::resolve::Origin;
use super::{FLAGS, SftConfig, values};
use crate::registry::Spec;
use crate::similar::did_you_mean;
use anyhow::{Result, bail};
use apus_sdk::Kind;
use apus_sdk::built_in::built_ins;

/// Flags that are shorthands for options of the optimizer, and the options.
pub(super) fn shorthands() -> impl Iterator<Item = (&'static str, &'static str)> {
    FLAGS
        .iter()
        .filter_map(|flag| Some((flag.name, flag.option?)))
}

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
        let flagged = self.flagged(Kind::Optimizer);
        let chosen = flagged
            .iter()
            .find_map(|of| Some((of.chosen_by?, of.component.name)));
        let (mut spec, defaults) = match (&self.optimizer, chosen) {
            (Some(spec), Some((flag, name))) if spec.name != name => bail!(
                "{flag} is true, which is the optimizer {name}, and the optimizer {} is given; keep one of them",
                spec.name
            ),
            (Some(spec), _) => (spec.clone(), false),
            (None, Some((flag, name))) => {
                let under = self.optim_component()?;
                let is_usual = built_ins().into_iter().any(|known| {
                    (known.kind, known.name) == (Kind::Optimizer, under)
                        && known.aliases.contains(&OPTIM)
                });
                if under != name && !is_usual {
                    bail!(
                        "{flag} is true, which is the optimizer {name}, and optim is {:?}; leave {flag} or --optim out",
                        self.optim
                    );
                }
                (Spec::named(name), true)
            }
            (None, None) => (Spec::named(self.optim_component()?), true),
        };
        let known = options(&spec.name)?;
        let (mut lines, all) = (Vec::new(), values(self));
        for of in flagged {
            match of.component.name == spec.name {
                true => {
                    for (option, value) in of.options {
                        spec.options.entry(option).or_insert(value);
                    }
                }
                false if of.options.is_empty() => {}
                false => lines.push(format!(
                    "{}: not used: it is about the optimizer {}, and this run has {}",
                    of.flag, of.component.name, spec.name
                )),
            }
        }
        for (flag, option) in shorthands() {
            let has = known.iter().any(|name| name == option);
            match origin(flag) {
                _ if spec.options.contains_key(option) => {}
                None if has && defaults => {
                    spec.options.insert(option.to_owned(), all[flag].clone());
                }
                None => {}
                Some(_) if has => {
                    spec.options.insert(option.to_owned(), all[flag].clone());
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

    /// The component that `optim`, a name from transformers, stands for. Of optimizers with a state of few bits there is one.
    fn optim_component(&self) -> Result<&'static str> {
        let optim = self.optim.as_str();
        let optimizers = built_ins().into_iter();
        let optimizers: Vec<_> = optimizers
            .filter(|known| known.kind == Kind::Optimizer)
            .collect();
        if let Some(found) = optimizers
            .iter()
            .find(|known| known.aliases.contains(&optim))
        {
            return Ok(found.name);
        }
        if optim.contains("8bit") || optim.contains("4bit") {
            let few_bits = optimizers.iter().flat_map(|known| known.aliases);
            let few_bits: Vec<&str> = few_bits
                .copied()
                .filter(|name| name.contains("bit"))
                .collect();
            bail!(
                "optim is {optim:?}: of names with a state of few bits there are {}. Give one of them to --optim, or \
                 --optim {OPTIM}, whose moments are float32, 8 bytes for each trained parameter",
                few_bits.join(", ")
            );
        }
        let names: Vec<&str> = optimizers
            .iter()
            .flat_map(|known| known.aliases)
            .copied()
            .collect();
        bail!(
            "optim is {optim:?}; there are {}, and --optimizer NAME for any component{}",
            names.join(", "),
            did_you_mean(optim, &names)
        )
    }

    /// The schedule with its options.
    pub fn schedule_spec(&self) -> Spec {
        self.lr_scheduler.clone().unwrap_or_else(|| Spec {
            name: self.lr_scheduler_type.clone(),
            options: self.lr_scheduler_kwargs.clone(),
        })
    }
}
