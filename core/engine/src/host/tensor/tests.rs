//! Every operation on candle against the reference host of the SDK's test kit, and the gradients of
//! those that losses are made of.

use super::*;
use apus_sdk::testing;
use candle_core::{Device, Var};

type Sdk = apus_sdk::Tensor;
type Numbers<'a> = &'a dyn Fn(&[f32], &[usize]) -> Sdk;

fn on_candle(values: &[f32], shape: &[usize]) -> Sdk {
    wrap(Tensor::from_slice(values, shape, &Device::Cpu).unwrap())
}

/// Runs the same operations on both hosts and compares shapes, types and values.
#[track_caller]
fn same(what: &str, run: impl Fn(Numbers) -> apus_sdk::Result<Sdk>) {
    let candle = run(&on_candle).unwrap_or_else(|error| panic!("{what}: {error}"));
    let reference = run(&|values, shape| testing::tensor(values, shape)).unwrap();
    assert_eq!(candle.shape(), reference.shape(), "{what}");
    assert_eq!(candle.dtype(), reference.dtype(), "{what}");
    let pairs = candle.to_vec_f32().unwrap().into_iter();
    for (a, b) in pairs.zip(reference.to_vec_f32().unwrap()) {
        let close = a == b || (a - b).abs() <= 2e-5 * (1.0 + b.abs()) || (a.is_nan() && b.is_nan());
        assert!(close, "{what}: {a} on candle, {b} on the reference host");
    }
}

/// Distinct numbers of both signs, none a half.
fn some(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 7 + 3) % 23) as f32 * 0.37 - 3.1)
        .collect()
}

fn places(x: &Sdk, values: &[u32], shape: &[usize]) -> apus_sdk::Result<Sdk> {
    x.new_tensor(values, shape)
}

#[test]
fn elementwise() {
    type Unary = fn(&Sdk) -> apus_sdk::Result<Sdk>;
    let unary: [(&str, Unary); 17] = [
        ("neg", Sdk::neg),
        ("exp", Sdk::exp),
        ("log", |x| x.abs()?.log()),
        ("sqrt", |x| x.abs()?.sqrt()),
        ("sqr", Sdk::sqr),
        ("sign", Sdk::sign),
        ("sin", Sdk::sin),
        ("cos", Sdk::cos),
        ("tanh", Sdk::tanh),
        ("sigmoid", Sdk::sigmoid),
        ("erf", Sdk::erf),
        ("relu", Sdk::relu),
        ("recip", Sdk::recip),
        ("floor", Sdk::floor),
        ("ceil", Sdk::ceil),
        ("round", Sdk::round),
        ("powf", |x| x.abs()?.powf(1.5)),
    ];
    for (name, run) in unary {
        same(name, |n| run(&n(&some(12), &[3, 4])));
    }
    type Binary = fn(&Sdk, &Sdk) -> apus_sdk::Result<Sdk>;
    let binary: [(&str, Binary); 14] = [
        ("add", Sdk::add),
        ("sub", Sdk::sub),
        ("mul", Sdk::mul),
        ("div", Sdk::div),
        ("maximum", Sdk::maximum),
        ("minimum", Sdk::minimum),
        ("eq", Sdk::eq),
        ("ne", Sdk::ne),
        ("lt", Sdk::lt),
        ("le", Sdk::le),
        ("gt", Sdk::gt),
        ("ge", Sdk::ge),
        ("and", |a, b| a.gt(b)?.logical_and(&a.lt(&b.abs()?)?)),
        ("or not", |a, b| {
            a.gt(b)?.logical_or(&a.lt(b)?)?.logical_not()
        }),
    ];
    for (name, run) in binary {
        same(name, |n| run(&n(&some(12), &[3, 4]), &n(&some(4), &[4])));
        same(name, |n| run(&n(&some(3), &[3, 1]), &n(&some(4), &[1, 4])));
    }
    same("matmul", |n| {
        n(&some(24), &[2, 3, 4]).matmul(&n(&some(20), &[4, 5]))
    });
    same("affine", |n| n(&some(6), &[6]).affine(-2.0, 0.5));
    same("lerp", |n| {
        n(&some(12), &[3, 4]).lerp(&n(&some(4), &[4]), 0.3)
    });
    same("operators", |n| {
        let (a, b) = (n(&some(12), &[3, 4]), n(&some(3), &[3, 1]));
        ((1.5 - (&a * &b)?)? / -b.exp()?)? + &a * 0.25
    });
    let map: Vec<f32> = (0..256)
        .map(|at| (at as f32 / 128.0 - 1.0).powi(3))
        .collect();
    same("codes of 8 bits", |n| {
        n(&some(24), &[6, 4])
            .quantize(&n(&map, &[256]))?
            .cast(DType::I64)
    });
    same("codes and back", |n| {
        let map = n(&map, &[256]);
        n(&some(24), &[6, 4]).quantize(&map)?.dequantize(&map)
    });
    same("low rank", |n| {
        let (y, x) = (n(&some(6), &[3, 2]), n(&some(12), &[3, 4]));
        y.low_rank(&x, &n(&some(8), &[2, 4]), &n(&some(4), &[2, 2]), 0.5, 0.0)
    });
    same("clamp", |n| n(&some(12), &[12]).clamp(-1.0, 2.0));
    same("clamp one side", |n| {
        n(&some(12), &[12]).clamp(f64::NEG_INFINITY, 0.5)
    });
    same("where", |n| {
        let x = n(&some(12), &[3, 4]);
        x.gt(&x.zeros_like()?)?.where_cond(&x, &n(&[9.0], &[1]))
    });
}

#[test]
fn along_dimensions() {
    for dim in 0..2 {
        same("sum", |n| n(&some(12), &[3, 4]).sum(dim));
        same("mean", |n| n(&some(12), &[3, 4]).mean(dim));
        same("max", |n| n(&some(12), &[3, 4]).max(dim));
        same("min", |n| n(&some(12), &[3, 4]).min(dim));
        same("argmax", |n| n(&some(12), &[3, 4]).argmax(dim));
        same("argmin", |n| n(&some(12), &[3, 4]).argmin(dim));
        same("softmax", |n| n(&some(12), &[3, 4]).softmax(dim));
        same("log_softmax", |n| n(&some(12), &[3, 4]).log_softmax(dim));
        same("cumsum", |n| n(&some(12), &[3, 4]).cumsum(dim));
        same("logsumexp", |n| n(&some(12), &[3, 4]).logsumexp(dim));
        same("norm", |n| n(&some(12), &[3, 4]).norm(dim));
        for descending in [false, true] {
            same("argsort", |n| {
                n(&some(12), &[3, 4]).argsort(dim, descending)
            });
            same("sort", |n| {
                Ok(n(&some(12), &[3, 4]).sort(dim, descending)?.0)
            });
        }
        same("topk", |n| Ok(n(&some(12), &[3, 4]).topk(dim, 2)?.0));
    }
    let long: Vec<f32> = (0..1400).map(|i| (i % 5) as f32 * 0.25).collect();
    same("a long cumsum", |n| n(&long, &[2, 700]).cumsum(1));
    same("a long cumsum down", |n| n(&long, &[700, 2]).cumsum(0));
    same("sum_all", |n| n(&some(12), &[3, 4]).sum_all());
    same("norm_all", |n| n(&some(12), &[3, 4]).norm_all());
    same("logsumexp of nothing but infinity", |n| {
        n(&[f32::NEG_INFINITY; 2], &[1, 2]).logsumexp(1)
    });
}

#[test]
fn shapes_and_places() {
    same("permute", |n| n(&some(24), &[2, 3, 4]).permute(&[2, 0, 1]));
    same("transpose", |n| n(&some(12), &[3, 4]).transpose(0, 1));
    same("reshape of a transposed", |n| {
        n(&some(12), &[3, 4]).transpose(0, 1)?.reshape(&[2, 6])
    });
    same("narrow", |n| n(&some(12), &[3, 4]).narrow(1, 1, 2));
    same("broadcast_to", |n| {
        n(&some(3), &[3, 1]).broadcast_to(&[2, 3, 4])
    });
    same("cat", |n| {
        Sdk::cat(&[&n(&some(6), &[2, 3]), &n(&some(3), &[1, 3])], 0)
    });
    same("stack", |n| {
        Sdk::stack(&[&n(&some(3), &[3]), &n(&some(3), &[3])], 1)
    });
    same("gather", |n| {
        let x = n(&some(12), &[3, 4]);
        x.gather(1, &places(&x, &[3, 0, 1, 1, 2, 2], &[3, 2])?)
    });
    same("index_select", |n| {
        let x = n(&some(12), &[3, 4]);
        x.index_select(0, &places(&x, &[2, 0, 2], &[3])?)
    });
    same("scatter", |n| {
        let x = n(&some(12), &[3, 4]);
        x.scatter(
            1,
            &places(&x, &[3, 0, 2], &[3, 1])?,
            &n(&[7.0, 8.0, 9.0], &[3, 1]),
        )
    });
    same("scatter_add", |n| {
        let x = n(&some(12), &[3, 4]);
        x.scatter_add(
            1,
            &places(&x, &[3, 3, 2, 0, 1, 1], &[3, 2])?,
            &n(&some(6), &[3, 2]),
        )
    });
    same("index_add", |n| {
        let x = n(&some(12), &[3, 4]);
        x.index_add(0, &places(&x, &[1, 1], &[2])?, &n(&some(8), &[2, 4]))
    });
}

#[test]
fn types_and_new_tensors() {
    for dtype in [DType::BF16, DType::Bool, DType::F32] {
        same("cast", |n| n(&some(12), &[12]).cast(dtype));
    }
    same("cast to whole numbers", |n| {
        n(&[0.0, 1.0, 7.0], &[3]).cast(DType::U32)?.cast(DType::I64)
    });
    same("truth values as numbers", |n| {
        n(&[0.0, 2.0], &[2]).cast(DType::Bool)?.cast(DType::F32)
    });
    for dtype in [DType::F32, DType::U32, DType::I64] {
        same("full", |n| n(&[1.0], &[1]).new_full(&[2, 2], 3.0, dtype));
        same("arange", |n| n(&[1.0], &[1]).new_arange(2.0, 3.0, 4, dtype));
    }
    let x = on_candle(&[1.0], &[1]);
    let uniform = x.new_rand(&[1000], -1.0, 3.0, (7, 1)).unwrap();
    assert_eq!(
        uniform.to_vec_f32(),
        x.new_rand(&[1000], -1.0, 3.0, (7, 1)).unwrap().to_vec_f32()
    );
    assert!((uniform.mean_all().unwrap().item().unwrap() - 1.0).abs() < 0.15);
    let normal = x.new_randn(&[10_000], 2.0, 0.5, (7, 1)).unwrap();
    assert!((normal.mean_all().unwrap().item().unwrap() - 2.0).abs() < 0.05);
    let big = x.new_tensor(&[1i64 << 40, -3], &[2]).unwrap();
    assert_eq!(big.to_vec::<i64>().unwrap(), [1 << 40, -3]);
    assert_eq!(
        x.new_tensor(&[true, false], &[2])
            .unwrap()
            .to_vec::<bool>()
            .unwrap(),
        [true, false]
    );
    assert!(x.new_tensor(&[1f32], &[2]).is_err() && big.to_vec::<f32>().is_err());
    assert_eq!(x.device(), "cpu");
}

#[test]
fn updates_are_seen_by_all_and_checked() {
    let x = on_candle(&[1.0, 2.0], &[2]);
    let same = x.clone();
    x.set(&on_candle(&[5.0, 6.0], &[2])).unwrap();
    assert_eq!(same.to_vec_f32().unwrap(), [5.0, 6.0]);
    x.set(&x).unwrap();
    let error = x.set(&on_candle(&[1.0], &[1])).unwrap_err().to_string();
    assert!(error.contains("[2]") && error.contains("[1]"), "{error}");
    let hyper = apus_sdk::AdamW {
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.0,
        step: 1,
    };
    let m = x.zeros_like().unwrap();
    let error = x.adamw(&same, &m, &m, &hyper).unwrap_err().to_string();
    assert!(error.contains("four different tensors"), "{error}");
}

#[test]
fn wrong_use_is_an_error_that_says_what_was_given() {
    let x = on_candle(&some(6), &[2, 3]);
    let said = |result: apus_sdk::Result<Sdk>| result.unwrap_err().to_string();
    let error = said(x.add(&on_candle(&some(4), &[4])));
    assert!(error.contains("Add of F32[2, 3], F32[4]"), "{error}");
    assert!(said(x.sum(2)).contains("no dimension 2"));
    assert!(said(x.reshape(&[5])).contains("Reshape"));
    assert!(said(x.topk(1, 4).map(|(top, _)| top)).contains("topk of 4"));
    assert!(said(x.cast(DType::U32).unwrap().exp()).contains("Exp"));
    let index = x.new_tensor(&[9u32], &[1]).unwrap();
    assert!(x.index_select(0, &index).is_err());
    let error = said(x.add(&testing::tensor(&some(6), &[2, 3])));
    assert!(error.contains("different hosts"), "{error}");
}

#[test]
fn what_losses_are_made_of_is_differentiable() {
    type Run = fn(&Sdk) -> apus_sdk::Result<Sdk>;
    let cases: [(&str, Run); 12] = [
        ("logsumexp", |x| x.logsumexp(1)?.sqr()),
        ("norm", |x| x.norm(0)),
        ("norm where all is 0", |x| (x - x.detach()?)?.norm(1)),
        ("operators", |x| ((x * x)? / (x.exp()? + 2.0)?)? - x * 0.5),
        ("log_softmax", |x| x.log_softmax(1)?.narrow(1, 1, 1)),
        ("softmax", |x| x.softmax(1)?.sqr()),
        ("sigmoid", |x| x.sigmoid()),
        ("clamp", |x| x.clamp(-2.0, 2.0)?.powf(2.0)),
        ("topk", |x| Ok(x.topk(1, 2)?.0)),
        ("cumsum", |x| x.cumsum(1)?.sqr()),
        ("where", |x| {
            x.gt(&x.zeros_like()?)?.where_cond(&x.sqr()?, x)
        }),
        ("gather", |x| x.gather(1, &x.argmax(1)?)?.exp()),
    ];
    let values = some(12);
    for (name, run) in cases {
        let var = Var::from_slice(&values, (3, 4), &Device::Cpu).unwrap();
        let y = run(&wrap(var.as_tensor().clone())).unwrap();
        let grads = unwrap(&y).unwrap().sum_all().unwrap().backward().unwrap();
        let grad = grads
            .get(&var)
            .unwrap_or_else(|| panic!("{name} has no gradient"));
        let grad = grad.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for at in 0..values.len() {
            let moved = |by: f32| {
                let mut values = values.clone();
                values[at] += by;
                let y = run(&on_candle(&values, &[3, 4])).unwrap();
                f64::from(y.to_vec_f32().unwrap().iter().sum::<f32>())
            };
            let numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            let gap = (numeric - f64::from(grad[at])).abs();
            assert!(
                gap < 2e-2 * (1.0 + numeric.abs()),
                "{name} at {at}: {} {numeric}",
                grad[at]
            );
        }
    }
}
