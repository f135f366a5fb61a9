//! A component of each kind that refuses a set-up by its check, and one that does not declare that it checks.

use apus_sdk::serde_json::{Map, Value};
use apus_sdk::{
    AddedParam, Callback, Dataset, DatasetFormat, DatasetSource, Epoch, EvalBatch, Exporter, Init,
    Kind, LayerInfo, Loss, LossChunk, LossScale, LrSchedule, Metric, Need, Optimizer, Param,
    Progress, Result, Row, RunInfo, Sample, Sampler, Segment, Setup, StepInfo, Tensor, Tracker,
    Tuner, Turn, Writes,
};

apus_sdk::options! {
    struct Checks {
        /// Once the number of rows is known, in place of at once.
        rows: bool = false,
        /// To panic.
        panics: bool = false,
    }
}

impl Checks {
    fn refuse(&self, setup: &Setup) -> Result<()> {
        assert!(!self.panics, "a panic of a check");
        match (self.rows, setup.rows()) {
            (true, None) => Ok(()),
            (true, Some(rows)) => Err(format!("{rows} rows are refused").into()),
            (false, _) => Err(format!(
                "refused with the optimizer {} of {} steps, rank {} of {}",
                setup.components(Kind::Optimizer).join("+"),
                setup.steps().unwrap_or(0),
                setup.info().rank,
                setup.info().world_size
            )
            .into()),
        }
    }
}

macro_rules! checks {
    ($($Trait:ident $name:literal { $($methods:tt)* })*) => {$(
        impl $Trait for Checks {
            fn needs() -> &'static [Need] {
                &[Need::Check]
            }

            fn check(&self, setup: &Setup) -> Result<()> {
                self.refuse(setup)
            }

            $($methods)*
        }

        apus_sdk::register! {
            /// Refuses every set-up.
            $Trait, $name, Checks
        }
    )*};
}
checks! {
    DatasetFormat "checks" {
        fn recognises(&self, _columns: &[&str]) -> bool {
            false
        }

        fn convert(&self, _row: Row) -> Result<Vec<Sample>> {
            Ok(Vec::new())
        }
    }
    LossScale "checks" {
        fn segments(&self, text: &str, _turn: &Turn) -> Result<Vec<Segment>> {
            Ok(vec![Segment::new(text, 1.0)])
        }
    }
    Loss "checks" {
        fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
            chunk.cross_entropy()
        }
    }
    Optimizer "checks" {
        fn step(&mut self, params: &mut [Param], _info: &StepInfo) -> Result<()> {
            for param in params {
                param.value.set(&(&param.value - &param.grad * param.lr)?)?;
            }
            Ok(())
        }
    }
    LrSchedule "checks_rates" {
        fn factor(&self, _progress: &Progress) -> Result<f64> {
            Ok(1.0)
        }
    }
    Sampler "checks" {
        fn order(&mut self, epoch: &Epoch) -> Result<Vec<usize>> {
            Ok((0..epoch.len()).collect())
        }
    }
    Callback "checks" {}
    Metric "checks" {
        fn update(&mut self, _batch: &EvalBatch) -> Result<()> {
            Ok(())
        }

        fn compute(&mut self) -> Result<Vec<(String, f64)>> {
            Ok(vec![("checked".to_owned(), 1.0)])
        }
    }
    Tracker "checks" {
        fn start(&mut self, _run: &RunInfo) -> Result<()> {
            Ok(())
        }

        fn log(&mut self, _step: u64, _values: &Map<String, Value>) -> Result<()> {
            Ok(())
        }
    }
    Exporter "checks" {
        fn writes(&self) -> Writes {
            Writes::Merged
        }
    }
    Tuner "checks" {
        fn parameters(&self, layer: &LayerInfo) -> Result<Vec<AddedParam>> {
            Ok(vec![AddedParam::new("scale", &[layer.outputs()], Init::Constant(1.0))])
        }

        fn output(&self, _layer: &LayerInfo, _x: &Tensor, y: &Tensor, params: &[Tensor]) -> Result<Tensor> {
            y * &params[0]
        }
    }
    Dataset "mine/checks" {
        fn source(&mut self, _subsets: &[String]) -> Result<DatasetSource> {
            Ok(DatasetSource::made())
        }

        fn rows(&self) -> Result<Vec<Row>> {
            Ok(vec![Row::from_iter([("query".to_owned(), "a".into())])])
        }
    }
}

apus_sdk::options! {
    struct Unchecked {}
}

impl Callback for Unchecked {
    fn check(&self, _setup: &Setup) -> Result<()> {
        Ok(())
    }
}

apus_sdk::register! {
    /// Checks what it has not declared to check.
    Callback, "unchecked", Unchecked
}
