//! A run for `begin`: a configuration, parameters as a test fills them, and bytes as tokens.

use super::reference;
use crate::run::no_parameter;
use crate::{Error, Parameter, Result, Run, RunHost, RunInfo, Tensor};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The host behind a [`Run`](crate::Run) in a test. Each byte of a text is a token. The run is over once this is
/// dropped.
pub struct Host {
    config: Value,
    info: RunInfo,
    known: Arc<Known>,
}

struct Known(Mutex<Option<Vec<Held>>>);

struct Held {
    about: Parameter,
    value: Tensor,
    gradient: Option<Tensor>,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A run with an empty configuration and without parameters.
    pub fn new() -> Self {
        Self {
            config: json!({}),
            info: RunInfo::default(),
            known: Arc::new(Known(Mutex::new(Some(Vec::new())))),
        }
    }

    /// With this configuration, a JSON object.
    #[must_use]
    pub fn config(mut self, config: Value) -> Self {
        if let Value::Object(config) = &config {
            self.info.config = config.clone();
        }
        self.config = config;
        self
    }

    /// With this said of the run.
    #[must_use]
    pub fn info(mut self, info: RunInfo) -> Self {
        self.info = info;
        self
    }

    /// With a parameter of these elements.
    ///
    /// # Panics
    /// `shape` has another number of elements.
    #[must_use]
    #[track_caller]
    pub fn parameter(self, name: &str, elements: &[f32], shape: &[usize]) -> Self {
        let held = Held {
            about: Parameter::new(name, shape, true),
            value: super::tensor(elements, shape),
            gradient: None,
        };
        self.known.lock().get_or_insert_default().push(held);
        self
    }

    /// With this gradient of the parameter of that name.
    ///
    /// # Panics
    /// There is no such parameter, or it has another number of elements.
    #[must_use]
    #[track_caller]
    pub fn gradient(self, name: &str, elements: &[f32]) -> Self {
        let set = self.known.find(name, |held| {
            held.gradient = Some(super::tensor(elements, held.about.shape()));
            Ok(())
        });
        if let Err(error) = set {
            panic!("{error}");
        }
        self
    }

    /// The handle for `begin`.
    pub fn run(&self) -> Run {
        Run::new(self.config.clone(), self.info.clone(), self.known.clone())
    }

    /// The elements of a parameter as they are now.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn value(&self, name: &str) -> Result<Vec<f32>> {
        self.known.find(name, |held| held.value.to_vec_f32())
    }

    /// Changes the elements of a parameter, as an optimizer does between two events.
    ///
    /// # Errors
    /// There is no such parameter.
    ///
    /// # Panics
    /// It has another number of elements.
    #[track_caller]
    pub fn train(&self, name: &str, elements: &[f32]) -> Result<()> {
        self.known.find(name, |held| {
            held.value.set(&super::tensor(elements, held.about.shape()))
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        *self.known.lock() = None;
    }
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, Option<Vec<Held>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all<T>(&self, act: impl FnOnce(&mut Vec<Held>) -> Result<T>) -> Result<T> {
        match self.lock().as_mut() {
            Some(all) => act(all),
            None => Err(Error::new("the run is over")),
        }
    }

    fn find<T>(&self, name: &str, act: impl FnOnce(&mut Held) -> Result<T>) -> Result<T> {
        self.all(
            |all| match all.iter().position(|held| held.about.name() == name) {
                Some(at) => act(&mut all[at]),
                None => Err(no_parameter(name, all.iter().map(|held| held.about.name()))),
            },
        )
    }
}

/// A tensor of the same elements, so that a component cannot change what it was given to read.
fn copied(tensor: &Tensor) -> Result<Tensor> {
    reference::floats(reference::values(tensor)?, tensor.shape())
}

impl RunHost for Known {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.all(|_| Ok(text.bytes().map(u32::from).collect()))
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        let byte = |&token: &u32| {
            u8::try_from(token).map_err(|_| Error::new(format!("there is no token {token}")))
        };
        let bytes: Vec<u8> = tokens.iter().map(byte).collect::<Result<_>>()?;
        self.all(|_| Ok(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn parameters(&self) -> Result<Vec<Parameter>> {
        self.all(|all| Ok(all.iter().map(|held| held.about.clone()).collect()))
    }

    fn value(&self, name: &str) -> Result<Tensor> {
        self.find(name, |held| copied(&held.value))
    }

    fn gradient(&self, name: &str) -> Result<Tensor> {
        self.find(name, |held| match &held.gradient {
            Some(gradient) => copied(gradient),
            None => Err(Error::new("there are no gradients now")),
        })
    }

    fn set(&self, name: &str, value: &Tensor) -> Result<()> {
        self.find(name, |held| {
            if value.shape() != held.value.shape() || value.dtype() != held.value.dtype() {
                return Err(Error::new(format!(
                    "{name} is {:?}, it cannot be set to {value:?}",
                    held.value
                )));
            }
            held.value.set(value)
        })
    }
}
