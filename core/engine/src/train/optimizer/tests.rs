use super::*;
use apus_sdk::Tensor as Handle;
use apus_sdk::{State, StepInfo};
use candle_core::{DType, Device};
use std::collections::BTreeMap;

/// Keeps what optimizers are known to keep: statistics of rows and columns, a scalar, counters, a mask, a moment in half
/// the bits, and everything about a vector as it is.
struct Factored;

impl Optimizer for Factored {
    fn step(&mut self, params: &mut [apus_sdk::Param], _info: &StepInfo) -> apus_sdk::Result<()> {
        for param in params {
            let (value, grad) = (param.value.clone(), param.grad.clone());
            let square = grad.sqr()?.affine(1.0, 1e-30)?;
            let scale = match *value.shape() {
                [_, _] => {
                    let row = decayed(param.state, "row", &square.mean(1)?)?;
                    let column = decayed(param.state, "column", &square.mean(0)?)?;
                    row.mul(&column)?.div(&row.mean(0)?)?.sqrt()?
                }
                _ => decayed(param.state, "all", &square)?.sqrt()?,
            };
            let scale = match param.state.get("mask") {
                Some(mask) => mask.where_cond(&scale, &scale.affine(2.0, 0.0)?)?,
                None => scale,
            };
            let mask = grad.gt(&grad.zeros_like()?)?;
            param.state.insert("mask", mask);
            let seen = match param.state.get("seen") {
                Some(seen) => seen.add(&seen.new_full(&[], 1.0, apus_sdk::DType::I64)?)?,
                None => value.new_full(&[], 1.0, apus_sdk::DType::I64)?,
            };
            let seen_f32 = seen.cast(apus_sdk::DType::F32)?;
            param.state.insert("seen", seen);
            let norm = value.sqr()?.mean_all()?.sqrt()?;
            param.state.insert("a//name with/slashes", norm.clone());
            let half = decayed(param.state, "half", &grad)?.cast(apus_sdk::DType::BF16)?;
            param.state.insert("half", half);
            let step = grad.div(&scale)?.mul(&norm.add(&seen_f32)?)?;
            value.set(&value.sub(&step.affine(0.01 * param.lr, 0.0)?)?)?;
        }
        Ok(())
    }
}

/// Half of what is kept under this name and half of `new`, which is what it starts as.
fn decayed(state: &mut State, name: &str, new: &Handle) -> apus_sdk::Result<Handle> {
    let kept = match state.get(name) {
        Some(old) => {
            let old = old.cast(apus_sdk::DType::F32)?;
            old.affine(0.5, 0.0)?.add(&new.affine(0.5, 0.0)?)?
        }
        None => new.clone(),
    };
    state.insert(name, kept.clone());
    Ok(kept)
}

/// Sets a parameter's first element, or a state, to a number, as often as it is asked.
struct Broken {
    value: Option<f64>,
    state: Option<f64>,
}

impl Optimizer for Broken {
    fn step(&mut self, params: &mut [apus_sdk::Param], _info: &StepInfo) -> apus_sdk::Result<()> {
        let last = params.len() - 1;
        let param = &mut params[last];
        if let Some(number) = self.value {
            param.value.set(&param.value.full_like(number)?)?;
        }
        if let Some(number) = self.state {
            let kept = param
                .value
                .new_full(&[1, 3], number, apus_sdk::DType::BF16)?;
            param.state.insert("kept", kept);
        }
        Ok(())
    }
}

fn host(optimizer: impl Optimizer + 'static) -> OptimizerHost {
    let params = [("a", &[3, 5][..]), ("b", &[1, 4]), ("c", &[6]), ("d", &[])];
    let params = params.map(|(name, shape)| {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin()).collect();
        let value = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        Param::new(name, &value, true).unwrap()
    });
    let optimizer = Named::new("optimizer test", Box::new(optimizer) as Box<dyn Optimizer>);
    OptimizerHost::new(optimizer, params.to_vec())
}

fn steps(host: &mut OptimizerHost, numbers: std::ops::Range<u32>) {
    for number in numbers {
        for param in host.params() {
            let grad = (param.value() * f64::from(number)).unwrap().cos().unwrap();
            param.accumulate(grad).unwrap();
        }
        host.step(0.1).unwrap();
        host.zero_grad();
    }
}

fn values(host: &OptimizerHost) -> Vec<Vec<f32>> {
    let flat = host.params().map(|p| p.value().flatten_all().unwrap());
    flat.map(|t| t.to_vec1().unwrap()).collect()
}

#[test]
fn state_of_any_shape_and_type_goes_on() {
    let mut whole = host(Factored);
    steps(&mut whole, 0..6);

    let mut first = host(Factored);
    steps(&mut first, 0..3);
    let state = first.state().unwrap();
    let shape = |key: &str| (state[key].dims().to_vec(), state[key].dtype());
    assert_eq!(shape("a//row"), (vec![3, 1], DType::F32));
    assert_eq!(shape("a//column"), (vec![1, 5], DType::F32));
    assert_eq!(shape("a//seen"), (vec![], DType::I64));
    assert_eq!(shape("a//a//name with/slashes"), (vec![], DType::F32));
    assert_eq!(shape("a//mask"), (vec![3, 5], DType::U8));
    assert_eq!(shape("a//half"), (vec![3, 5], DType::BF16));

    // Through a file, as a checkpoint.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("optimizer.safetensors");
    candle_core::safetensors::save(&state.into_iter().collect(), &file).unwrap();
    let state = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let mut second = host(Factored);
    for (param, value) in second.params().zip(first.params()) {
        param.set(&value.value()).unwrap();
    }
    let state = state.into_iter().collect();
    second.restore(3, state, &Device::Cpu).unwrap();
    steps(&mut second, 3..6);
    assert_eq!(values(&second), values(&whole));
    assert_ne!(values(&second), values(&first));
}

#[test]
fn values_that_are_not_finite_end_the_step() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
        let mut host = host(Broken {
            value: Some(bad),
            state: None,
        });
        let error = host.step(0.1).unwrap_err().to_string();
        assert!(
            error.contains("optimizer test left values in d that are not finite"),
            "{error}"
        );
        assert!(host.is_torn());
    }
}

/// What cannot be taken back is known, so that nobody saves it; a plugin's step is taken back.
#[test]
fn a_step_that_failed_halfway_is_known() {
    /// Changes the first parameter, then fails.
    struct Fails(bool);
    impl Optimizer for Fails {
        fn step(&mut self, params: &mut [apus_sdk::Param], _: &StepInfo) -> apus_sdk::Result<()> {
            let value = params[0].value.clone();
            value.set(&value.affine(2.0, 0.0)?)?;
            match self.0 {
                true => Err("out of memory".into()),
                false => Ok(()),
            }
        }
    }
    for foreign in [false, true] {
        let mut host = host(Fails(true));
        host.optimizers[0].from_plugin = foreign;
        let before = values(&host);
        assert!(!host.is_torn());
        host.step(0.1).unwrap_err();
        assert_eq!(host.is_torn(), !foreign);
        assert_eq!(values(&host) == before, foreign);
    }
    let mut whole = host(Fails(false));
    whole.step(0.1).unwrap();
    assert!(!whole.is_torn());
}

#[test]
fn state_that_is_not_finite_is_neither_saved_nor_read() {
    let mut host = host(Broken {
        value: None,
        state: Some(f64::NAN),
    });
    host.step(0.1).unwrap();
    let error = host.state().unwrap_err().to_string();
    assert!(error.contains("d//kept"), "{error}");
    let bad = Tensor::new(&[[1f32, f32::INFINITY]], &Device::Cpu).unwrap();
    let restored = |tensor: &Tensor| {
        let saved = BTreeMap::from([("c//kept".to_owned(), tensor.clone())]);
        let mut host = self::host(Factored);
        host.restore(1, saved, &Device::Cpu)
            .map_err(|error| error.to_string())
    };
    assert!(
        restored(&bad)
            .unwrap_err()
            .contains("c//kept holds numbers that are not finite")
    );
    let wide = bad.to_dtype(DType::F64).unwrap();
    assert!(restored(&wide).unwrap_err().contains("has type F64"));
}
