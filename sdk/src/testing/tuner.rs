//! Plays the host's part for a tuner: a layer with its parameters, forward and merged.

use super::{reference, tensor};
use crate::{Error, Init, LayerInfo, Result, Tensor, Tuner};

/// The numbers of a layer's weight and of its bias, if it has one, with a tuner merged in.
pub type MergedLayer = (Vec<f32>, Option<Vec<f32>>);

/// A layer that a tuner has been added to.
///
/// A layer of several [matrices](LayerInfo::matrices) is one of a test of [`Tuner::parameters`] alone: which rows are whose the host knows.
pub struct Tuned<'a> {
    tuner: &'a dyn Tuner,
    layer: LayerInfo,
    /// The names of its parameters, in the tuner's order.
    pub names: Vec<String>,
    /// Their values, to be changed as training would.
    pub params: Vec<Tensor>,
}

/// Adds a tuner to a layer, as [`tune`], whose parameters begin as [`Tuner::initial`] says, of this weight `[O, I]`; of a block there is
/// none.
///
/// # Errors
/// As [`tune`], or other values than there are parameters.
pub fn tune_from<'a>(
    tuner: &'a dyn Tuner,
    layer: &LayerInfo,
    weight: Option<&[f32]>,
) -> Result<Tuned<'a>> {
    let mut tuned = tune(tuner, layer)?;
    let weight = weight.map(|weight| tensor(weight, &[layer.outputs(), layer.inputs()]));
    let values = tuner.initial(layer, weight.as_ref(), &tuned.params)?;
    if values.len() != tuned.params.len() {
        return Err(Error::new(format!(
            "initial gave {} values for {} parameters",
            values.len(),
            tuned.params.len()
        )));
    }
    for (value, drawn) in values.iter().zip(&tuned.params) {
        expect("a value of initial", value, drawn.shape())?;
    }
    tuned.params = values;
    Ok(tuned)
}

/// Adds a tuner to a layer. Random parameters begin with numbers that only look random, and norms of a weight, which is not there
/// yet, with 1.
///
/// # Errors
/// What the tuner says, a layer that gets no parameters, or two of one name.
pub fn tune<'a>(tuner: &'a dyn Tuner, layer: &LayerInfo) -> Result<Tuned<'a>> {
    let added = tuner.parameters(layer)?;
    if added.is_empty() {
        return Err(Error::new(format!("{} gets no parameters", layer.name())));
    }
    let names: Vec<String> = added.iter().map(|param| param.name().to_owned()).collect();
    if let Some(twice) = names
        .iter()
        .find(|name| names.iter().filter(|n| n == name).count() > 1)
    {
        return Err(Error::new(format!("two parameters are called {twice}")));
    }
    let params = added.iter().map(|param| {
        let count: usize = param.shape().iter().product();
        // Fractions of multiples of the golden ratio: spread evenly between -1 and 1.
        let spread = |at: usize| ((at + 1) as f32 * 0.618_034).fract() * 2.0 - 1.0;
        let values: Vec<f32> = match param.init() {
            Init::Constant(value) => vec![value as f32; count],
            Init::RowNorms => vec![1.0; count],
            Init::Uniform(size) | Init::Normal(size) => {
                (0..count).map(|at| spread(at) * size as f32).collect()
            }
            Init::Between(low, high) => {
                let share = |at: usize| f64::from(spread(at)) / 2.0 + 0.5;
                (0..count)
                    .map(|at| (low + (high - low) * share(at)) as f32)
                    .collect()
            }
        };
        tensor(&values, param.shape())
    });
    Ok(Tuned {
        tuner,
        layer: layer.clone(),
        params: params.collect(),
        names,
    })
}

impl Tuned<'_> {
    /// What a layer of this weight (`[O, I]`, row by row) and bias gives for rows of its inputs, with the tuner.
    ///
    /// # Errors
    /// What the tuner says, or a result of another shape.
    pub fn forward(&self, weight: &[f32], bias: Option<&[f32]>, x: &[f32]) -> Result<Vec<f32>> {
        if self.layer.matrices() > 1 {
            return Err(Error::new(format!(
                "{} has {} matrices: a test computes layers of one",
                self.layer.name(),
                self.layer.matrices()
            )));
        }
        let rows = x.len() / self.layer.inputs();
        let x = tensor(x, &[rows, self.layer.inputs()]);
        let read = self.tuner.input(&self.layer, &x, &self.params)?;
        expect("input", &read, x.shape())?;
        let matrix = tensor(weight, &[self.layer.outputs(), self.layer.inputs()]);
        let mut y = read.matmul(&matrix.transpose(0, 1)?)?;
        if let Some(bias) = bias {
            y = y.add(&tensor(bias, &[self.layer.outputs()]))?;
        }
        let out = reference::with_layer(weight, bias, || {
            self.tuner.output(&self.layer, &x, &y, &self.params)
        })?;
        expect("output", &out, y.shape())?;
        out.to_vec()
    }

    /// The weight and the bias with the tuner merged in; `None` where it cannot be.
    ///
    /// # Errors
    /// What the tuner says, or a result of another shape.
    pub fn merged(&self, weight: &[f32], bias: Option<&[f32]>) -> Result<Option<MergedLayer>> {
        let weight = tensor(weight, &[self.layer.outputs(), self.layer.inputs()]);
        let Some(merged) = self
            .tuner
            .merged_weight(&self.layer, &weight, &self.params)?
        else {
            return Ok(None);
        };
        expect("merged_weight", &merged, weight.shape())?;
        let bias = bias.map(|bias| -> Result<Vec<f32>> {
            let bias = tensor(bias, &[self.layer.outputs()]);
            let merged = self.tuner.merged_bias(&self.layer, &bias, &self.params)?;
            expect("merged_bias", &merged, bias.shape())?;
            merged.to_vec()
        });
        Ok(Some((merged.to_vec()?, bias.transpose()?)))
    }
}

fn expect(what: &str, found: &Tensor, shape: &[usize]) -> Result<()> {
    if found.shape() == shape {
        return Ok(());
    }
    Err(Error::new(format!(
        "{what} has shape {:?}, expected {shape:?}",
        found.shape()
    )))
}
