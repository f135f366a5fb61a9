//! The card, inputs on both devices, and comparisons.

use apus_model::ops::fill;
use apus_model::ops::swiglu::Activation;
use candle_core::{DType, Device, Tensor};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The activation that has kernels.
pub const CLAMPED: Activation = Activation::ClampedSwiglu {
    alpha: 1.702,
    limit: 7.0,
};

static CARD: Mutex<Option<Device>> = Mutex::new(None);

/// The first card, held by one test at a time: all work goes to one stream.
pub struct Card {
    pub device: Device,
    _turn: MutexGuard<'static, Option<Device>>,
}

/// The card, if this machine has one.
pub fn card() -> Option<Card> {
    let mut turn = CARD.lock().unwrap_or_else(PoisonError::into_inner);
    if turn.is_none() {
        match apus_model::device::open("cuda") {
            Ok(device) => *turn = Some(device),
            Err(error) if std::env::var_os("APUS_REQUIRE_CUDA").is_some() => panic!("{error:#}"),
            Err(error) => {
                println!("skipped: no CUDA device ({error:#})");
                return None;
            }
        }
    }
    let device = turn.clone()?;
    Some(Card {
        device,
        _turn: turn,
    })
}

/// One tensor on both devices.
#[derive(Clone)]
pub struct Both {
    pub cpu: Tensor,
    pub gpu: Tensor,
}

impl Card {
    /// Normal values: f32 on the CPU, the same numbers in bf16 on the card.
    pub fn normal(&self, seed: u64, shape: &[usize], std: f32) -> Both {
        let x = fill::normal(shape, std, (seed, 1), DType::F32, &Device::Cpu).unwrap();
        let gpu = self.up(&x.to_dtype(DType::BF16).unwrap());
        Both {
            cpu: self.down(&gpu),
            gpu,
        }
    }

    /// Normal values in f32 on both.
    pub fn normal_f32(&self, seed: u64, shape: &[usize], std: f32) -> Both {
        let cpu = fill::normal(shape, std, (seed, 1), DType::F32, &Device::Cpu).unwrap();
        Both {
            gpu: self.up(&cpu),
            cpu,
        }
    }

    /// A tensor of the CPU on the card.
    pub fn up(&self, x: &Tensor) -> Tensor {
        x.to_device(&self.device).unwrap()
    }

    /// A tensor of the card as f32 on the CPU.
    pub fn down(&self, x: &Tensor) -> Tensor {
        let x = x.to_device(&Device::Cpu).unwrap();
        x.to_dtype(DType::F32).unwrap()
    }
}

/// Limits on the largest error over the largest expected value, and on the norm of the error over the norm of
/// what was expected.
#[derive(Clone, Copy)]
pub struct Limit {
    pub greatest: f64,
    pub norm: f64,
}

/// One rounding to bf16 (at most 2^-8 of a value) of an f32 computation.
pub const ROUNDED: Limit = Limit {
    greatest: 4.2e-3,
    norm: 4e-3,
};
/// Several roundings to bf16 on the way.
pub const CHAINED: Limit = Limit {
    greatest: 1.6e-2,
    norm: 6e-3,
};
/// f32 throughout, sums in another order.
pub const EXACT: Limit = Limit {
    greatest: 2e-5,
    norm: 1e-5,
};

/// All elements as f64.
pub fn values(x: &Tensor) -> Vec<f64> {
    let x = x.to_device(&Device::Cpu).unwrap();
    let x = x.to_dtype(DType::F64).unwrap();
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Fails where `gpu` differs from `cpu` by more than `limit`.
#[track_caller]
pub fn agree(what: &str, gpu: &Tensor, cpu: &Tensor, limit: Limit) {
    assert_eq!(gpu.dims(), cpu.dims(), "{what}: shapes");
    let (found, expected) = (values(gpu), values(cpu));
    assert!(
        found.iter().all(|x| x.is_finite()),
        "{what}: not all values are finite"
    );
    let peak = expected.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    let (mut greatest, mut at, mut square, mut norm) = (0f64, 0, 0f64, 1e-60f64);
    for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
        let error = (f - e).abs();
        if error > greatest {
            (greatest, at) = (error, i);
        }
        square += error * error;
        norm += e * e;
    }
    let (greatest, relative) = (greatest / peak, (square / norm).sqrt());
    println!("{what}: greatest error {greatest:.2e}, norm {relative:.2e}");
    assert!(
        greatest <= limit.greatest && relative <= limit.norm,
        "{what}: greatest error {greatest:.3e} (limit {:.1e}) at element {at}: {}, expected {}; norm {relative:.3e} (limit {:.1e})",
        limit.greatest,
        found[at],
        expected[at],
        limit.norm
    );
}

/// Fails where any element differs at all.
#[track_caller]
pub fn same(what: &str, gpu: &Tensor, cpu: &Tensor) {
    assert_eq!(gpu.dims(), cpu.dims(), "{what}: shapes");
    let (found, expected) = (values(gpu), values(cpu));
    let wrong = found.iter().zip(&expected).position(|(f, e)| f != e);
    if let Some(at) = wrong {
        let count = found.iter().zip(&expected).filter(|(f, e)| f != e).count();
        panic!(
            "{what}: element {at} is {}, expected {}; {count} of {} differ",
            found[at],
            expected[at],
            found.len()
        );
    }
}
