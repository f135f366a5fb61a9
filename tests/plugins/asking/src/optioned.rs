//! A callback with an option of each form.

use apus_sdk::Callback;
use apus_sdk::serde_json::Value;

apus_sdk::options! {
    enum Shape {
        Linear,
        HalfCosine,
    }
}

apus_sdk::options! {
    struct Optioned {
        /// A share.
        share: f64 = 0.5,
        /// A number.
        count: u32 = 1,
        /// A form.
        shape: Shape = Shape::Linear,
        /// Several forms.
        shapes: Vec<Shape> = Vec::new(),
        /// Numbers or nothing.
        pair: Option<(f64, f64)> = None,
        /// Whether.
        whether: bool = false,
        /// Anything.
        #[serde(rename = "any-thing")]
        anything: Value = Value::Null,
    }
    limits {
        share: 0.0..=1.0,
    }
}

apus_sdk::register! {
    /// Options of each form.
    Callback, "optioned", Optioned
}

impl Callback for Optioned {}
