//! Routing of tokens to experts and products with the experts' matrices, tokens spread evenly and unevenly.

use super::{Ops, Work};
use anyhow::Result;
use apus_model::families::MixtureSpec;
use apus_model::ops::grouped::{self, Addends};
use apus_model::ops::lora::{Factors, Pack};
use apus_model::ops::router::{self, RoutePlan};
use apus_model::ops::swiglu::{self, RoutingWeights};
use apus_model::ops::{fill, mxfp4, permute};
use candle_core::{DType, Tensor};

/// Times them.
pub fn time(ops: &mut Ops, mixture: &MixtureSpec) -> Result<()> {
    let even = routing(ops, mixture)?;
    let h = ops.architecture.hidden_size;
    let (e, f) = (mixture.experts, mixture.intermediate_size);
    let gate_up = dequantise(ops, [e, 2 * f, h])?;
    products(ops, "gate_up", &gate_up, &even)?;
    let uneven = plan(&uneven_logits(ops, e)?, mixture)?;
    products(ops, "gate_up", &gate_up, &uneven)?;
    drop(gate_up);
    let down = fill::normal(
        (e, h, f),
        1.0 / (f as f32).sqrt(),
        (ops.seed, 3),
        ops.dtype(),
        ops.device,
    )?;
    products(ops, "down", &down.transpose(1, 2)?, &even)?;
    updates(ops, mixture, &even)
}

/// Router logits by which every expert gets its share.
fn even_logits(ops: &Ops, experts: usize) -> Result<Tensor> {
    ops.random_as(&[ops.tokens(), experts], DType::F32)
}

/// Router logits by which an expert gets fewer tokens than the one before it.
fn uneven_logits(ops: &Ops, experts: usize) -> Result<Tensor> {
    let bias: Vec<f32> = (1..=experts).map(|expert| -(expert as f32).ln()).collect();
    let bias = Tensor::new(bias.as_slice(), ops.device)?;
    Ok(even_logits(ops, experts)?.broadcast_add(&bias)?)
}

fn plan(logits: &Tensor, mixture: &MixtureSpec) -> Result<RoutePlan> {
    let ids = router::top_k(logits, mixture.experts_per_token)?;
    RoutePlan::new(&ids, mixture.experts)
}

/// The router and the ways to the experts and back.
fn routing(ops: &mut Ops, mixture: &MixtureSpec) -> Result<RoutePlan> {
    let (t, h) = (ops.tokens(), ops.architecture.hidden_size);
    let (k, e) = (mixture.experts_per_token, mixture.experts);
    let logits = even_logits(ops, e)?;
    let chosen = 4 * t * (e + k);
    ops.time("router top_k", Work::Bytes(chosen), || {
        router::top_k(&logits, k)
    })?;
    let even = plan(&logits, mixture)?;
    ops.time("router plan", Work::Bytes(3 * 4 * t * k), || {
        RoutePlan::new(&even.ids, e)
    })?;
    ops.time("router weights", Work::Bytes(chosen + 4 * t * k), || {
        router::weights(&logits, &even.ids)
    })?;
    let weights = router::weights(&logits, &even.ids)?;

    let (x, rows) = (ops.random(&[t, h])?, ops.random(&[t * k, h])?);
    let row = h * ops.width();
    let both = Work::Bytes(t * row + t * k * row);
    ops.time("gather", both, || permute::gather(&x, &even))?;
    ops.time("gather backward", both, || {
        permute::gather_backward(&rows, &even, None)
    })?;
    ops.time("combine", both, || {
        permute::combine(&rows, &weights, &even, None)
    })?;
    back(ops, mixture, &even, &weights)?;
    Ok(even)
}

/// Back through the activation and the weighted sum.
fn back(ops: &mut Ops, mixture: &MixtureSpec, plan: &RoutePlan, weights: &Tensor) -> Result<()> {
    let (n, f) = (plan.rows(), mixture.intermediate_size);
    let (gate_up, dh) = (ops.random(&[n, 2 * f])?, ops.random(&[n, f])?);
    let by_bias = ops.random(&[ops.tokens(), mixture.experts])?;
    let work = Work::Bytes(5 * n * f * ops.width());
    ops.time("swiglu backward", work, || {
        let routing = RoutingWeights {
            weights,
            plan,
            by_bias: &by_bias,
        };
        swiglu::backward(gate_up.clone(), mixture.activation, &dh, routing)
    })
}

/// Unpacks random matrices of these sizes; gives them as `[E, I, O]`.
fn dequantise(ops: &mut Ops, [e, o, i]: [usize; 3]) -> Result<Tensor> {
    let (device, groups) = (ops.device, i / 32);
    let blocks = fill::bytes((e, o, groups, 16), (0, 256), (ops.seed, 1), device)?;
    let scales = fill::bytes((e, o, groups), (118, 3), (ops.seed, 2), device)?;
    let bytes = e * o * groups * (17 + 32 * ops.width());
    ops.time("mxfp4 dequantise gate_up", Work::Bytes(bytes), || {
        mxfp4::dequantize(&blocks, &scales)
    })?;
    Ok(mxfp4::dequantize(&blocks, &scales)?.transpose(1, 2)?)
}

/// How full the fullest expert is.
fn spread(plan: &RoutePlan) -> Result<String> {
    let counts = plan
        .groups
        .host_offsets()?
        .windows(2)
        .map(|pair| pair[1] - pair[0]);
    let mean = plan.rows() as f64 / plan.groups.count() as f64;
    let most = counts.max().unwrap_or(0) as f64;
    Ok(format!("fullest expert {:.1} x the mean", most / mean))
}

/// Products with matrices `[E, I, O]`, forward and for the gradient by the input.
fn products(ops: &mut Ops, name: &str, w: &Tensor, plan: &RoutePlan) -> Result<()> {
    let (_, i, o) = w.dims3()?;
    let n = plan.rows();
    let (x, dy) = (ops.random(&[n, i])?, ops.random(&[n, o])?);
    let work = Work::Flops(2 * (n * i * o) as u64);
    let spread = spread(plan)?;
    let name = |what: &str| format!("grouped {name} {what}, {spread}");
    ops.time(name("forward"), work, || {
        grouped::matmul(&x, w, &plan.groups, &Addends::default())
    })?;
    let turned = w.transpose(1, 2)?;
    ops.time(name("input gradient"), work, || {
        grouped::matmul(&dy, &turned, &plan.groups, &Addends::default())
    })
}

/// Low-rank updates of every expert's gate_up.
fn updates(ops: &mut Ops, mixture: &MixtureSpec, plan: &RoutePlan) -> Result<()> {
    let i = ops.architecture.hidden_size;
    let (e, o) = (mixture.experts, 2 * mixture.intermediate_size);
    let n = plan.rows();
    let factors = Factors {
        a: ops.random_as(&[e * ops.rank, i], DType::F32)?,
        b: ops.random_as(&[o, ops.rank * e], DType::F32)?,
    };
    let modules = [(o, Some(factors))];
    let (x, dy) = (ops.random(&[n, i])?, ops.random(&[n, o])?);
    let (read, back) = (n * i * ops.width(), n * o * ops.width());
    let pack = || Pack::new(&modules, e, 2.0, x.dtype());
    ops.time("LoRA gate_up forward", Work::Bytes(read), || {
        pack()?.down(&x, &plan.groups)
    })?;
    let xa = pack()?.down(&x, &plan.groups)?;
    ops.time(
        "LoRA gate_up backward",
        Work::Bytes(read + 2 * back),
        || {
            let pack = pack()?;
            let dxa = pack.down_backward(&dy, &plan.groups)?;
            pack.gradients(&x, &dxa, &xa, &dy, &plan.groups)
        },
    )
}
