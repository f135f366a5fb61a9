//! The engine's side of a [`Run`]: what components may know of the run that they are part of.
//!
//! Values and gradients are handed out as they are, to be read. A value that is set is set on this rank; whoever leads the
//! run gives it to the others before anything else is done ([`RunView::take_changed`]), so that it may be set between steps
//! only.

use super::tensor::{to_read, unwrap};
use anyhow::Result;
use apus_components::registry::Named;
use apus_data::chat::{Rendered, Tokenizer};
use apus_model::nn::Param;
use apus_model::ops::reduce;
use apus_sdk::private::no_parameter;
use apus_sdk::{Error, Parameter, Run, RunHost, RunInfo, Tensor};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// A run as components see it, until it is dropped.
pub struct RunView {
    host: Arc<Host>,
    run: Run,
}

/// What a run has that components may use.
pub struct Shown {
    /// Its parameters.
    pub params: Vec<Arc<Param>>,
    /// Names of those that this rank updates, where ranks share the work: it has the gradients of these alone.
    pub own: Option<BTreeSet<String>>,
    /// Its tokenizer, if this rank has one.
    pub tokenizer: Option<Arc<Tokenizer>>,
}

struct Host {
    shown: RwLock<Option<Shown>>,
    /// How much is being computed that all ranks take part in.
    busy: AtomicUsize,
    changed: AtomicBool,
}

/// A step or an evaluation is computed as long as this is kept.
pub struct Busy(Arc<Host>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

impl RunView {
    /// A run of this configuration.
    pub fn new(info: RunInfo, shown: Shown) -> Self {
        let host = Arc::new(Host {
            shown: RwLock::new(Some(shown)),
            busy: AtomicUsize::new(0),
            changed: AtomicBool::new(false),
        });
        let config = Value::Object(info.config.clone());
        Self {
            run: Run::new(config, info, host.clone()),
            host,
        }
    }

    /// Gives the run to a component, by `begin` of its kind.
    ///
    /// # Errors
    /// The component failed.
    pub fn begin<T: ?Sized>(
        &self,
        component: &mut Named<T>,
        begin: impl FnOnce(&mut T, &Run) -> apus_sdk::Result<()>,
    ) -> Result<()> {
        let run = self.run.for_needs(&component.needs);
        let inside = apus_base::doing::enter(&component.label, "begin");
        let begun = begin(&mut component.component, &run);
        drop(inside);
        component.context("begin", begun)
    }

    /// All ranks compute something together: until this ends nothing is set.
    pub fn busy(&self) -> Busy {
        self.host.busy.fetch_add(1, Ordering::AcqRel);
        Busy(self.host.clone())
    }

    /// Whether a component has set a value since the last time.
    pub fn take_changed(&self) -> bool {
        self.host.changed.swap(false, Ordering::AcqRel)
    }
}

impl Drop for RunView {
    fn drop(&mut self) {
        *self
            .host
            .shown
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Host {
    fn look<T>(&self, act: impl FnOnce(&Shown) -> apus_sdk::Result<T>) -> apus_sdk::Result<T> {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        match shown.as_ref() {
            Some(shown) => act(shown),
            None => Err(Error::new("the run is over")),
        }
    }
}

impl Shown {
    fn find(&self, name: &str) -> apus_sdk::Result<&Arc<Param>> {
        let found = self.params.iter().find(|param| param.name() == name);
        found.ok_or_else(|| no_parameter(name, self.params.iter().map(|param| param.name())))
    }

    fn tokenizer(&self) -> apus_sdk::Result<&Tokenizer> {
        let found = self.tokenizer.as_deref();
        found.ok_or_else(|| Error::new("this rank has no tokenizer"))
    }

    fn gradient(&self, name: &str) -> apus_sdk::Result<Tensor> {
        let param = self.find(name)?;
        if self.own.as_ref().is_some_and(|own| !own.contains(name)) {
            return Err(Error::new(format!(
                "the gradient of {name} is on the rank that updates it alone, since ranks share the optimizer's work; \
                 run without --deepspeed zero1 to zero3 to read it here"
            )));
        }
        match param.grad() {
            Some(gradient) => Ok(to_read(gradient)),
            None if self.params.iter().any(|param| param.grad().is_some()) => {
                let zeros = param.value().zeros_like();
                Ok(to_read(zeros.map_err(Error::new)?))
            }
            None => Err(Error::new(format!(
                "there is no gradient of {name} now; it is complete in on_pre_optimizer_step"
            ))),
        }
    }

    fn set(&self, name: &str, value: &Tensor) -> apus_sdk::Result<()> {
        let param = self.find(name)?;
        param.set(&fitting(param, value)?).map_err(told)
    }
}

/// A copy of a component's tensor that a parameter can be set to.
///
/// # Errors
/// Another shape or type than the parameter's, or numbers that are not finite.
pub fn fitting(param: &Param, value: &Tensor) -> apus_sdk::Result<candle_core::Tensor> {
    let (found, there, name) = (unwrap(value).map_err(told)?, param.value(), param.name());
    if found.dims() != there.dims() || found.dtype() != there.dtype() {
        return Err(Error::new(format!(
            "{name} is {:?} {:?}, it cannot be set to {:?} {:?}",
            there.dtype(),
            there.dims(),
            found.dtype(),
            found.dims()
        )));
    }
    let found = found.contiguous().map_err(Error::new)?;
    if !reduce::finite(std::slice::from_ref(&found)).map_err(told)? {
        return Err(Error::new(format!(
            "{name} cannot be set to numbers that are not finite"
        )));
    }
    // A view of the value itself is copied: nothing reads and writes one memory.
    found.copy().map_err(Error::new)
}

impl RunHost for Host {
    fn encode(&self, text: &str) -> apus_sdk::Result<Vec<u32>> {
        self.look(|shown| {
            let mut rendered = Rendered::default();
            rendered.text(text);
            Ok(shown.tokenizer()?.encode(&rendered).map_err(told)?.ids)
        })
    }

    fn decode(&self, tokens: &[u32]) -> apus_sdk::Result<String> {
        self.look(|shown| {
            let tokenizer = shown.tokenizer()?;
            match tokens.iter().find(|id| **id as usize >= tokenizer.len()) {
                Some(id) => Err(Error::new(format!("there is no token {id}"))),
                None => Ok(tokenizer.decode(tokens, false)),
            }
        })
    }

    fn parameters(&self) -> apus_sdk::Result<Vec<Parameter>> {
        self.look(|shown| {
            let params = shown.params.iter();
            Ok(params
                .map(|param| Parameter::new(param.name(), param.value().dims(), !param.is_frozen()))
                .collect())
        })
    }

    fn value(&self, name: &str) -> apus_sdk::Result<Tensor> {
        self.look(|shown| Ok(to_read(shown.find(name)?.value())))
    }

    fn gradient(&self, name: &str) -> apus_sdk::Result<Tensor> {
        self.look(|shown| shown.gradient(name))
    }

    fn set(&self, name: &str, value: &Tensor) -> apus_sdk::Result<()> {
        if self.busy.load(Ordering::Acquire) > 0 {
            return Err(Error::new(
                "a parameter is set between steps, not while a step or an evaluation is computed: in on_step_begin, \
                 on_optimizer_step, on_step_end, on_evaluate, on_save or on_log",
            ));
        }
        self.look(|shown| shown.set(name, value))?;
        self.changed.store(true, Ordering::Release);
        Ok(())
    }
}

fn told(error: anyhow::Error) -> Error {
    Error::new(format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::wrap;
    use apus_sdk::{Callback, Need, options};
    use candle_core::{DType, Device};

    options! {
        struct Keeps {}
        state {
            run: Option<Run>,
        }
    }

    impl Callback for Keeps {
        fn begin(&mut self, run: &Run) -> apus_sdk::Result<()> {
            self.run = Some(run.clone());
            Ok(())
        }
    }

    fn param(name: &str, values: &[f32]) -> Arc<Param> {
        let value = candle_core::Tensor::new(values, &Device::Cpu).unwrap();
        Param::new(name, &value, true).unwrap()
    }

    fn tensor(values: &[f32]) -> Tensor {
        wrap(candle_core::Tensor::new(values, &Device::Cpu).unwrap())
    }

    /// The run that a component with these needs is given.
    fn given(view: &RunView, needs: &[Need]) -> Run {
        let mut keeps = Keeps::default();
        view.begin(
            &mut Named::<Keeps>::new("callback keeps", Box::new(Keeps::default())).with(needs),
            |component, run| {
                component.begin(run)?;
                keeps.run = component.run.clone();
                Ok(())
            },
        )
        .unwrap();
        keeps.run.unwrap()
    }

    fn view(own: Option<&str>) -> (RunView, [Arc<Param>; 2]) {
        let params = [
            param("layers.0.a", &[1.0, 2.0]),
            param("layers.0.b", &[3.0]),
        ];
        let shown = Shown {
            params: params.to_vec(),
            own: own.map(|name| BTreeSet::from([name.to_owned()])),
            tokenizer: None,
        };
        (RunView::new(RunInfo::default(), shown), params)
    }

    #[test]
    fn values_are_read_without_a_copy_and_changed_by_set_alone() {
        let (view, [a, _]) = view(None);
        let run = given(&view, &[Need::SetParameters]);
        let value = run.value("layers.0.a").unwrap();
        let refused = value.set(&tensor(&[0.0, 0.0])).unwrap_err().to_string();
        assert!(refused.contains("to read"), "{refused}");
        let same = value.reshape(&[2, 1]).unwrap();
        assert!(same.set(&same.affine(0.0, 0.0).unwrap()).is_err());
        let twice = value.affine(2.0, 0.0).unwrap();
        twice.set(&twice.affine(1.0, 1.0).unwrap()).unwrap();
        run.set("layers.0.a", &twice).unwrap();
        assert_eq!(a.value().to_vec1::<f32>().unwrap(), [3.0, 5.0]);
        assert_eq!(
            value.to_vec_f32().unwrap(),
            [3.0, 5.0],
            "it is the value itself"
        );
        assert!(view.take_changed() && !view.take_changed());
        run.set("layers.0.a", &value).unwrap();

        let refused = |name, values: &[f32]| {
            let error = run.set(name, &tensor(values)).unwrap_err().to_string();
            (error, view.take_changed())
        };
        view.take_changed();
        assert!(
            refused("layers.0.a", &[1.0])
                .0
                .contains("it cannot be set to F32 [1]")
        );
        assert!(refused("layers.0.b", &[f32::NAN]).0.contains("not finite"));
        assert!(refused("layers.0.c", &[1.0]).0.contains("no parameter"));
        let busy = view.busy();
        let (error, changed) = refused("layers.0.b", &[1.0]);
        assert!(error.contains("between steps") && !changed, "{error}");
        drop(busy);
        run.set("layers.0.b", &tensor(&[1.0])).unwrap();
    }

    #[test]
    fn gradients_are_there_when_they_are_complete_where_they_are() {
        let (view, [a, _]) = view(None);
        let run = given(&view, &[Need::Parameters]);
        let said = |result: apus_sdk::Result<Tensor>| result.unwrap_err().to_string();
        assert!(said(run.gradient("layers.0.a")).contains("on_pre_optimizer_step"));
        let ones = candle_core::Tensor::ones(2, DType::F32, &Device::Cpu).unwrap();
        a.accumulate(ones).unwrap();
        let numbers = |name| run.gradient(name).unwrap().to_vec_f32().unwrap();
        assert_eq!(
            (numbers("layers.0.a"), numbers("layers.0.b")),
            (vec![1.0, 1.0], vec![0.0])
        );
        assert!(
            run.set("layers.0.b", &tensor(&[1.0])).is_err(),
            "only declared to read"
        );

        let (divided, _) = self::view(Some("layers.0.b"));
        let run = given(&divided, &[Need::Parameters]);
        assert!(said(run.gradient("layers.0.a")).contains("zero1"));
    }

    #[test]
    fn nothing_is_given_without_a_declaration_nor_after_the_run() {
        let (view, _) = view(None);
        let none = given(&view, &[]);
        let error = none.parameters().unwrap_err().to_string();
        assert!(error.ends_with("&[Need::Run] }"), "{error}");
        let run = given(&view, &[Need::Run]);
        assert_eq!(run.parameters().unwrap()[0].group(), "layers.*.a");
        assert!(
            run.encode("x")
                .unwrap_err()
                .to_string()
                .contains("no tokenizer")
        );
        drop(view);
        assert_eq!(run.parameters().unwrap_err().to_string(), "the run is over");
    }
}
