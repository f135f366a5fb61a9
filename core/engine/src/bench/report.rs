//! The figures of a measurement, for a terminal and as JSON.

use super::communication::Communication;
use super::count::{Count, Flops};
use super::groups::Groups;
use super::limits::Limits;
use super::steps::TimedStep;
use super::table;
use apus_components::config::BenchConfig;
use serde_json::{Value, json};
use std::fmt;

/// The settings of a measurement.
pub struct Setting<'a> {
    /// Card or processor.
    pub machine: String,
    /// Flags.
    pub config: &'a BenchConfig,
    /// How experts are kept.
    pub experts: &'static str,
    /// Layers of the model.
    pub layers: usize,
    /// Layers that keep their tape.
    pub kept: usize,
    /// Numbers of the model, adapters included.
    pub parameters: usize,
    /// Those that are trained.
    pub trained: usize,
}

/// The results of a measurement.
pub struct Figures<'a> {
    /// The settings of a measurement.
    pub setting: Setting<'a>,
    /// All steps. The first two are not part of medians.
    pub steps: Vec<TimedStep>,
    /// Operations of each, over all ranks.
    pub counts: Vec<Count>,
    /// The rank whose memory was the fullest, and its bytes, where the system tells.
    pub peak: Option<(usize, u64)>,
    /// What several ranks cost.
    pub communication: Option<Communication>,
    /// The limits of the device.
    pub limits: Limits,
    /// The time by group of operations, of rank 0.
    pub groups: Groups,
}

/// Steps that are left out of medians: the first loads kernels, the second may still allocate.
const WARM_UP: usize = 2;

impl Figures<'_> {
    /// The median over the steps that count of a figure of a step and its operations.
    fn median(&self, figure: impl Fn(&TimedStep, &Count) -> f64) -> f64 {
        let steps = self.steps.iter().zip(&self.counts).skip(WARM_UP);
        median(steps.map(|(step, count)| figure(step, count)).collect())
    }

    fn seconds(&self) -> f64 {
        self.median(|step, _| step.seconds)
    }

    fn rate(&self) -> f64 {
        self.median(|step, _| step.tokens() as f64 / step.seconds)
    }

    fn trained_rate(&self) -> f64 {
        self.median(|step, _| step.targets as f64 / step.seconds)
    }

    /// Operations a second that training needs, of each device.
    fn model_flops(&self) -> f64 {
        self.median(|step, count| count.model.total() as f64 / step.seconds) / self.ranks()
    }

    /// Operations a second that each device carried out.
    fn device_flops(&self) -> f64 {
        self.median(|step, count| (count.model + count.again).total() as f64 / step.seconds)
            / self.ranks()
    }

    /// How many devices trained together.
    fn ranks(&self) -> f64 {
        self.communication
            .as_ref()
            .map_or(1.0, |communication| communication.ranks as f64)
    }

    /// Seconds of a step that ranks wait in collectives.
    fn waited(&self) -> f64 {
        self.median(|step, _| step.loads.map_or(0.0, |loads| loads.collectives))
    }

    fn loss(&self) -> f64 {
        self.steps.last().map_or(f64::NAN, |step| step.loss)
    }

    /// All figures as JSON.
    pub fn json(&self) -> Value {
        let setting = &self.setting;
        let steps: Vec<Value> = self
            .steps
            .iter()
            .zip(&self.counts)
            .map(|(step, count)| {
                json!({
                    "seconds": step.seconds,
                    "tokens": step.tokens(),
                    "trained_tokens": step.targets,
                    "loss": step.loss,
                    "flops": flops(&count.model),
                    "recomputed_flops": flops(&count.again),
                })
            })
            .collect();
        let mut figures = json!({
            "apus_version": env!("CARGO_PKG_VERSION"),
            "machine": setting.machine,
            "config": setting.config,
            "parameters": setting.parameters,
            "trained_parameters": setting.trained,
            "experts": setting.experts,
            "layers": setting.layers,
            "kept_layers": setting.kept,
            "median_seconds": self.seconds(),
            "tokens_per_second": self.rate(),
            "trained_tokens_per_second": self.trained_rate(),
            "tflops": self.model_flops() / 1e12,
            "device_tflops": self.device_flops() / 1e12,
            "limit_tflops": self.limits.flops / 1e12,
            "limit_gb_per_second": self.limits.bytes / 1e9,
            "peak_memory_bytes": self.peak.map(|(_, bytes)| bytes),
            "loss": self.loss(),
            "steps": steps,
            "profile": self.groups.json(),
        });
        if let Some(communication) = &self.communication {
            figures["ranks"] = communication.ranks.into();
            figures["tokens_per_second_per_rank"] = (self.rate() / self.ranks()).into();
            figures["fullest_rank"] = json!(self.peak.map(|(rank, _)| rank));
            figures["communication"] = communication.json(self.seconds(), self.waited());
        }
        figures
    }
}

impl fmt::Display for Figures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Setting {
            machine,
            config,
            experts,
            layers,
            kept,
            parameters,
            trained,
        } = &self.setting;
        let (limit, side) = (self.limits.flops, self.limits.side);
        let share = |flops: f64| 100.0 * flops / limit;
        let time = |at: usize| format!("{:.3} s", self.steps[at].seconds);
        let of_each = match &self.communication {
            Some(_) => " of each rank",
            None => "",
        };
        let mut lines = table::plain();
        let mut line = |name: &str, value: String| {
            lines.add_row([name.to_owned(), value]);
        };
        line("machine", machine.clone());
        line(
            "model",
            format!(
                "{}, {} parameters, {} of them trained",
                config.model,
                table::grouped(*parameters),
                table::grouped(*trained)
            ),
        );
        line(
            "setting",
            format!(
                "{} sequences of {} tokens a step{of_each}, trained share {}, train_type {}, experts in {experts}, \
                 {kept} of {layers} layers keep everything",
                config.batch, config.seq, config.trained_share, config.train_type
            ),
        );
        line("step 1", time(0));
        line("step 2", time(1));
        line(
            "median step",
            format!(
                "{:.3} s, of the {} after those",
                self.seconds(),
                self.steps.len() - WARM_UP
            ),
        );
        let whole = |rate: f64| table::grouped(rate.round() as usize);
        let each = match &self.communication {
            Some(_) => format!(" ({} a rank)", whole(self.rate() / self.ranks())),
            None => String::new(),
        };
        line(
            "tokens/s",
            format!(
                "{}{each}, trained {}",
                whole(self.rate()),
                whole(self.trained_rate())
            ),
        );
        if let Some(communication) = &self.communication {
            for (name, value) in communication.lines(self.seconds(), self.waited()) {
                line(name, value);
            }
        }
        line(
            "operations",
            format!(
                "{}, {} with what is computed again",
                table::rate(self.model_flops()),
                table::rate(self.device_flops())
            ),
        );
        line(
            "limit",
            format!(
                "{}, a product of {side} x {side} matrices here and now",
                table::rate(limit)
            ),
        );
        line(
            "share of limit",
            format!(
                "{:.1} %, {:.1} % with what is computed again",
                share(self.model_flops()),
                share(self.device_flops())
            ),
        );
        if let Some((rank, bytes)) = self.peak {
            let of = match &self.communication {
                Some(_) => format!(" on rank {rank}"),
                None => String::new(),
            };
            line("peak memory", format!("{}{of}", table::gib(bytes)));
        }
        line("final loss", format!("{:.4}", self.loss()));
        writeln!(f, "{lines}\n\n{}", self.groups)
    }
}

fn flops(flops: &Flops) -> Value {
    json!({
        "projections": flops.projections,
        "experts": flops.experts,
        "attention": flops.attention,
        "head": flops.head,
        "lora": flops.lora,
        "total": flops.total(),
    })
}

/// The middle value, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match (values.get(half), values.len() % 2) {
        (Some(&upper), 0) => (values[half - 1] + upper) / 2.0,
        (Some(&middle), _) => middle,
        (None, _) => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 9.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), 3.0);
        assert!(median(Vec::new()).is_nan());
    }
}
