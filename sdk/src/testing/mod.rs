//! A test kit: runs a component in `cargo test`, without a host, a model or a GPU.
//!
//! Each kind of component has a function or a type that plays the host's part and refuses what the
//! host would refuse. Tensors are those of a small host in plain loops on the CPU.
//!
//! | kind | driven by |
//! |---|---|
//! | dataset format | [`convert`]; [`convert_named`] as in a run that names the format |
//! | loss scale | [`segments`], [`segments_of`] |
//! | loss | [`Chunk`] |
//! | optimizer | [`minimise`], [`Bowl`] |
//! | schedule | [`curve`] |
//! | callback | [`Run`] |
//! | `begin` of any kind | [`Host`] |
//! | metric | [`measure`]; [`measure_answers`] if it reads generated answers |
//! | exporter | [`export`] |
//! | tracker | [`track`], with the picture [`DOT`] |
//! | tuner | [`tune`], [`tune_from`] |
//! | sampler | [`Rows`] |
//! | `check` of any kind | a [`Setup`](crate::Setup) |
//!
//! The crate `apus-testing` runs the real trainer in a test of a plugin.
//!
//! ```
//! use apus_sdk::{LrSchedule, Progress, Result, options, register, testing};
//! use serde_json::json;
//!
//! options! {
//!     struct Steps {
//!         /// Updates at one factor.
//!         every: u64 = 2,
//!     }
//! }
//!
//! impl LrSchedule for Steps {
//!     fn factor(&self, progress: &Progress) -> Result<f64> {
//!         Ok(0.5f64.powi((progress.step / self.every) as i32))
//!     }
//! }
//!
//! register! {
//!     /// Halves the learning rate every so often.
//!     LrSchedule, "halving", Steps
//! }
//!
//! let halving = testing::make::<dyn LrSchedule>("halving", json!({"every": 1}))?;
//! assert_eq!(testing::curve(&*halving, 3, 0)?, [1.0, 0.5, 0.25]);
//! assert!(testing::make::<dyn LrSchedule>("halving", json!({"evry": 1})).is_err());
//! # Ok::<(), apus_sdk::Error>(())
//! ```

mod callback;
mod exporter;
mod host;
mod loss;
mod metric;
mod optimizer;
mod reference;
mod sampler;
mod schedule;
mod text;
mod tracker;
mod tuner;

pub use callback::{Played, Run};
pub use exporter::export;
pub use host::Host;
pub use loss::Chunk;
pub use metric::{measure, measure_answers};
pub use optimizer::{Bowl, minimise};
pub use sampler::Rows;
pub use schedule::curve;
pub use text::{TURN, convert, convert_named, segments, segments_of};
pub use tracker::{DOT, track};
pub use tuner::{MergedLayer, Tuned, tune, tune_from};

use crate::abi::Crosses;
use crate::{Element, Error, Result, Tensor, components, needs};
use serde_json::{Map, Value};

/// A tensor of these elements, row by row, on the reference host.
///
/// That host computes with plain loops on the CPU and refuses what does not fit; it knows no
/// gradients.
///
/// # Panics
/// `shape` has another number of elements.
#[track_caller]
pub fn tensor<T: Element>(elements: &[T], shape: &[usize]) -> Tensor {
    let made = reference::floats(Vec::new(), &[0]);
    match made.and_then(|beside| beside.new_tensor(elements, shape)) {
        Ok(tensor) => tensor,
        Err(error) => panic!("{error}"),
    }
}

/// The component that is registered in this crate (or one that it uses) under that name, made from
/// options, a JSON object.
///
/// # Errors
/// As in a run: no such component, or options that it does not have.
pub fn make<K: Crosses + ?Sized>(name: &str, options: Value) -> Result<Box<K>> {
    let options = object(options, "options")?;
    let made = components()
        .filter(|component| component.name == name)
        .find_map(|component| {
            let made = K::make(&component.make, &options)?;
            needs::declare_more((component.needs)());
            Some(made)
        });
    made.unwrap_or_else(|| Err(Error::new(format!("there is no {} {name}", K::KIND))))
}

/// A JSON object out of a value.
fn object(value: Value, what: &str) -> Result<Map<String, Value>> {
    match value {
        Value::Object(object) => Ok(object),
        other => Err(Error::new(format!(
            "{what} are a JSON object, found {other}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LossScale, LrSchedule, Segment, Turn};
    use serde_json::json;

    crate::options! {
        struct Weighted {
            /// Weight of everything.
            weight: f64 = 0.5,
        }
    }

    impl LossScale for Weighted {
        fn segments(&self, text: &str, _turn: &Turn) -> Result<Vec<Segment>> {
            Ok(vec![Segment::new(text, self.weight)])
        }
    }

    crate::register! {
        /// One weight.
        LossScale, "kit_weighted", Weighted
    }

    #[test]
    fn components_are_made_as_in_a_run() {
        let weight = |options| {
            let scale = make::<dyn LossScale>("kit_weighted", options)?;
            Ok(segments(&*scale, "x")?[0].1)
        };
        assert_eq!(weight(json!({})), Ok(0.5));
        assert_eq!(weight(json!({"weight": 2})), Ok(2.0));
        let said = |result: Result<f64>| result.unwrap_err().to_string();
        assert!(said(weight(json!({"wait": 2}))).contains("unknown field `wait`"));
        assert!(said(weight(json!([2]))).contains("options are a JSON object"));
        let other_kind = make::<dyn LrSchedule>("kit_weighted", json!({})).err();
        let expected = "there is no schedule kit_weighted";
        assert_eq!(
            other_kind.map(|error| error.to_string()).as_deref(),
            Some(expected)
        );
    }

    #[test]
    #[should_panic(expected = "3 elements for a tensor [2]")]
    fn a_tensor_needs_its_elements() {
        tensor(&[1.0f32, 2.0, 3.0], &[2]);
    }
}
