//! What a component of a library sees of its run, and what it sets; and what it may not.

use apus_sdk::serde_json::json;
use apus_sdk::{
    Callback, Control, Loss, LossChunk, LrSchedule, Metric, Need, Optimizer, Param, Progress,
    Result, Run, RunState, StepInfo, Tensor, TextPair,
};

apus_sdk::options! {
    struct Sees {
        /// Sets the first parameter of B to this after each step.
        set: Option<f64> = None,
        /// The event in which it sets.
        event: String = "on_step_end".to_owned(),
        /// Gives a weight to be evaluated: for the parameter of this name, one of another shape for the `first`, two for one
        /// if `twice`.
        gives: Option<String> = None,
    }
    state {
        run: Option<Run>,
        norm: f64,
    }
}

apus_sdk::register! {
    /// Reports what it sees of the run.
    Callback, "sees", Sees
}

impl Sees {
    fn run(&self) -> Result<&Run> {
        Ok(self.run.as_ref().ok_or("begin comes first")?)
    }

    fn set(&self, event: &str) -> Result<()> {
        let Some(to) = self.set.filter(|_| self.event == event) else {
            return Ok(());
        };
        let run = self.run()?;
        let all = run.parameters()?;
        let b = all.iter().find(|one| one.name().contains("lora_B"));
        let name = b.ok_or("there is no lora_B")?.name();
        run.set(name, &run.value(name)?.affine(0.0, to)?)
    }
}

impl Callback for Sees {
    fn needs() -> &'static [Need] {
        &[Need::SetParameters, Need::Hooks]
    }

    fn evaluated_weights(&self) -> Result<Vec<(String, Tensor)>> {
        let Some(gives) = &self.gives else {
            return Ok(Vec::new());
        };
        let run = self.run()?;
        let all = run.parameters()?;
        let first = all
            .first()
            .ok_or("there is no parameter")?
            .name()
            .to_owned();
        let value = run.value(&first)?;
        Ok(match gives.as_str() {
            "first" => vec![(first, value.flatten()?)],
            "twice" => vec![(first.clone(), value.clone()), (first, value)],
            name => vec![(name.to_owned(), value)],
        })
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        let ids = run.encode("Hello there")?;
        if run.decode(&ids)? != "Hello there" {
            return Err("the tokenizer does not give the text back".into());
        }
        self.run = Some(run.clone());
        Ok(())
    }

    fn on_pre_optimizer_step(&mut self, _: &RunState, _: &mut Control) -> Result<()> {
        let run = self.run()?;
        let mut sum = 0.0;
        for parameter in run.parameters()? {
            sum += run.gradient(parameter.name())?.sqr()?.sum_all()?.item()?;
        }
        self.norm = sum.sqrt();
        self.set("on_pre_optimizer_step")
    }

    fn on_step_end(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        self.set("on_step_end")?;
        let run = self.run()?;
        let all = run.parameters()?;
        let rank = run.config()["lora_rank"].clone();
        let numbers = [
            ("seen_rank", rank),
            ("seen_parameters", json!(all.len())),
            ("seen_ranks", json!(run.info().world_size)),
            ("seen_norm", json!(self.norm)),
            (
                "seen_gap",
                json!((self.norm - state.grad_norm.unwrap_or(-1.0)).abs()),
            ),
        ];
        for (name, value) in numbers {
            control.metrics.insert(name.to_owned(), value);
        }
        control.should_log = true;
        Ok(())
    }
}

apus_sdk::options! {
    struct Silent {}
}

apus_sdk::register! {
    /// Looks at the run without saying that it does.
    Callback, "silent", Silent
}

impl Callback for Silent {
    fn begin(&mut self, run: &Run) -> Result<()> {
        let _ = run.config();
        Ok(())
    }
}

apus_sdk::options! {
    struct Meddles {
        /// The rank on which it does so.
        rank: usize = 0,
    }
    state {
        run: Option<Run>,
    }
}

apus_sdk::register! {
    /// Sets a parameter within a step, by the run.
    Optimizer, "meddles", Meddles
}

impl Optimizer for Meddles {
    fn needs() -> &'static [Need] {
        &[Need::SetParameters]
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        self.run = (run.info().rank == self.rank).then(|| run.clone());
        Ok(())
    }

    fn step(&mut self, params: &mut [Param], _: &StepInfo) -> Result<()> {
        match (&self.run, params.first()) {
            (Some(run), Some(param)) => run.set(param.name, &param.value.affine(0.5, 0.0)?),
            _ => Ok(()),
        }
    }
}

macro_rules! begins {
    ($($(#[doc = $doc:literal])* $Kind:ident $Type:ident $name:literal { $($rest:tt)* })*) => {$(
        apus_sdk::options! {
            struct $Type {}
            state {
                rank: Option<String>,
                read: usize,
            }
        }

        apus_sdk::register! {
            $(#[doc = $doc])*
            $Kind, $name, $Type
        }

        impl $Type {
            fn check(&self) -> Result<()> {
                match self.rank.as_deref() {
                    Some("4") => Ok(()),
                    other => Err(apus_sdk::Error::new(format!("saw {other:?}, expected lora_rank 4"))),
                }
            }
        }

        impl $Kind for $Type {
            fn needs() -> &'static [Need] {
                &[Need::Run, Need::Answers]
            }

            fn begin(&mut self, run: &Run) -> Result<()> {
                self.rank = Some(run.config()["lora_rank"].to_string());
                run.encode("x")?;
                Ok(())
            }

            $($rest)*
        }
    )*};
}
begins! {
    /// Cross entropy, if it has seen the run.
    Loss SeeingLoss "seeing" {
        fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
            self.check()?;
            chunk.cross_entropy()
        }
    }

    /// Gradient descent, if it has seen the run.
    Optimizer SeeingOptimizer "seeing" {
        fn step(&mut self, params: &mut [Param], _: &StepInfo) -> Result<()> {
            self.check()?;
            for param in params {
                param.value.set(&param.value.sub(&param.grad.affine(param.lr, 0.0)?)?)?;
            }
            Ok(())
        }
    }

    /// One, if it has seen the run.
    LrSchedule SeeingSchedule "seeing" {
        fn factor(&self, _: &Progress) -> Result<f64> {
            self.check().map(|()| 1.0)
        }
    }

    /// The number of answers that it has read, if it has seen the run.
    Metric SeeingMetric "seeing" {
        fn reads_answers(&self) -> bool {
            true
        }

        fn update_answers(&mut self, pairs: &[TextPair]) -> Result<()> {
            self.check()?;
            self.read += pairs.len();
            Ok(())
        }

        fn compute(&mut self) -> Result<Vec<(String, f64)>> {
            let read = std::mem::take(&mut self.read);
            Ok(vec![("seen_answers".to_owned(), read as f64)])
        }

        fn names(&self) -> Option<Vec<String>> {
            Some(vec!["seen_answers".to_owned()])
        }
    }
}
