//! An exponential moving average of the trained weights: the run evaluates, answers and saves the averages, and trains on
//! with the weights themselves.

use apus_sdk::{Callback, Control, Need, Result, Run, RunState, Tensor};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Ema {
        /// Share of the average that stays at each step.
        decay: f64 = 0.999,
    }
    limits {
        decay: 0.0..=1.0,
    }
    state {
        run: Option<Run>,
        averages: Vec<(String, Tensor)>,
    }
}

apus_sdk::register! {
    /// Evaluates and saves exponential moving averages of the weights in their place.
    Callback, "ema", Ema
}

impl Callback for Ema {
    fn needs() -> &'static [Need] {
        &[Need::Parameters, Need::Hooks]
    }

    /// The averages begin as the weights are: in a run that goes on, as the checkpoint has them.
    fn begin(&mut self, run: &Run) -> Result<()> {
        for parameter in run.parameters()? {
            let name = parameter.name().to_owned();
            let copy = run.value(&name)?.affine(1.0, 0.0)?;
            self.averages.push((name, copy));
        }
        self.run = Some(run.clone());
        Ok(())
    }

    fn on_optimizer_step(&mut self, _state: &RunState, _control: &mut Control) -> Result<()> {
        let run = self.run.as_ref().ok_or("begin comes first")?;
        for (name, average) in &self.averages {
            average.set(&average.lerp(&run.value(name)?, 1.0 - self.decay)?)?;
        }
        Ok(())
    }

    fn evaluated_weights(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.averages.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{Host, make};

    #[test]
    fn averages_follow_the_weights_and_are_evaluated() {
        let host = Host::new().parameter("w", &[1.0, 2.0], &[2]);
        let mut ema = make::<dyn Callback>("ema", json!({"decay": 0.75})).unwrap();
        ema.begin(&host.run()).unwrap();
        let (state, mut control) = (RunState::default(), Control::default());
        let mut steps = |to: f32| {
            host.train("w", &[to; 2]).unwrap();
            ema.on_optimizer_step(&state, &mut control).unwrap();
            let (name, average) = ema.evaluated_weights().unwrap().remove(0);
            assert_eq!(name, "w");
            average.to_vec_f32().unwrap()
        };
        assert_eq!(steps(5.0), [2.0, 2.75]);
        assert_eq!(steps(10.0), [4.0, 4.5625]);
        assert_eq!(host.value("w").unwrap(), [10.0, 10.0]);
    }
}
