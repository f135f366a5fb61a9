//! The configuration of a measurement.

use super::flag::{Command, Flag};
use super::resolve::typed;
use super::{BenchConfig, Config, FLAGS, SftConfig, values};
use anyhow::{Result, ensure};

impl Config for BenchConfig {
    const COMMAND: Command = Command::Bench;
}

impl BenchConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// A value that nothing can be measured with; the error says what is expected.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.steps > 2,
            "steps is {}, expected 3 or more: the first two are reported apart",
            self.steps
        );
        ensure!(
            !(self.generate && self.ops),
            "generate and ops measure different things; give one of them"
        );
        ensure!(
            !self.generate || self.against.is_none(),
            "against compares measurements of training or of operations; with generate leave it out"
        );
        Ok(())
    }

    /// The run that is measured, as `apus sft` would be told of it: one micro-batch a step.
    ///
    /// # Errors
    /// A value that does not fit its flag.
    pub fn sft(&self) -> Result<SftConfig> {
        let is_shared =
            |flag: &&Flag| flag.belongs_to(Command::Bench) && flag.belongs_to(Command::Sft);
        let mut all = values(self);
        let shared = FLAGS.iter().filter(is_shared);
        let shared = shared
            .filter_map(|flag| all.shift_remove_entry(flag.name))
            .collect();
        let mut config = SftConfig {
            per_device_train_batch_size: self.batch,
            gradient_accumulation_steps: Some(1),
            ..typed(shared, str::to_owned)?
        };
        config.read_sharding()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::super::from_arguments;
    use super::*;

    #[test]
    fn a_measured_run_has_the_flags_of_the_measurement() {
        let words = "--lora_rank 4 --model m --optimizer x --optimizer.k 2 --batch 3 --train_type full --seq 9";
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let found = from_arguments::<BenchConfig>(&words)
            .unwrap()
            .config
            .sft()
            .unwrap();
        let expected: Vec<String> =
            "--lora_rank 4 --model m --optimizer x --optimizer.k 2 --train_type full --per_device_train_batch_size 3 \
             --gradient_accumulation_steps 1"
                .split_whitespace()
                .map(str::to_owned)
                .collect();
        let mut expected = from_arguments::<SftConfig>(&expected).unwrap().config;
        // The measurement writes nothing.
        expected.output_dir.clone_from(&found.output_dir);
        assert_eq!(found, expected);
    }
}
