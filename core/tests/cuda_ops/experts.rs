//! Routing, moving rows, and linear layers per expert, with experts that have no rows.

use crate::support::{CHAINED, Card, EXACT, Limit, ROUNDED, agree, card, same};
use apus_core::ops::lora::{self, Pair};
use apus_core::ops::router::{self, RoutePlan};
use apus_core::ops::{grouped, permute};
use candle_core::{Device, Tensor};

/// Products of products: the rank's activations are rounded to bf16 between them.
const LOW_RANK: Limit = Limit {
    greatest: 2e-2,
    norm: 8e-3,
};

const OFFSETS: [usize; 7] = [0, 0, 3, 3, 20, 21, 21];

/// Experts of 29 tokens, 3 each, none of them the second.
fn plans(card: &Card) -> (RoutePlan, RoutePlan) {
    let logits = card.normal_f32(7, &[29, 6], 1.0).cpu;
    let mask = Tensor::new(&[0f32, -1e9, 0.0, 0.0, 0.0, 0.0], &Device::Cpu).unwrap();
    let ids = router::top_k(&logits.broadcast_add(&mask).unwrap(), 3).unwrap();
    (
        RoutePlan::new(&ids, 6).unwrap(),
        RoutePlan::new(&card.up(&ids), 6).unwrap(),
    )
}

#[test]
fn router_choice_weights_and_gradient() {
    let Some(card) = card() else { return };
    for (t, experts, k) in [(100, 32, 4), (33, 128, 4), (1, 5, 2), (7, 8, 8)] {
        let logits = card.normal_f32(1, &[t, experts], 2.0);
        let ids = router::top_k(&logits.cpu, k).unwrap();
        let on_card = router::top_k(&logits.gpu, k).unwrap();
        same(&format!("top {k} of {experts}"), &on_card, &ids);
        let weights = router::weights(&logits.gpu, &on_card).unwrap();
        let expected = router::weights(&logits.cpu, &ids).unwrap();
        agree("router weights", &weights, &expected, EXACT);
        let dw = card.normal_f32(2, &[t, k], 1.0);
        let dx = router::weights_backward(&weights, &on_card, &dw.gpu, experts).unwrap();
        let expected = router::weights_backward(&expected, &ids, &dw.cpu, experts).unwrap();
        agree("router gradient", &dx, &expected, EXACT);
    }
}

#[test]
fn equal_logits_go_to_the_lower_expert() {
    let Some(card) = card() else { return };
    let logits = (card.normal_f32(1, &[64, 32], 1.0).cpu * 2.0).unwrap();
    let logits = logits.round().unwrap();
    let ids = router::top_k(&logits, 4).unwrap();
    let on_card = router::top_k(&card.up(&logits), 4).unwrap();
    same("top 4 with ties", &on_card, &ids);
}

#[test]
fn rows_to_experts_and_back() {
    let Some(card) = card() else { return };
    let (cpu, gpu) = plans(&card);
    assert_eq!(cpu.offsets, gpu.offsets);
    for h in [2880, 160, 33] {
        let x = card.normal(1, &[29, h], 1.0);
        let rows = permute::gather(&x.gpu, &gpu).unwrap();
        same("gather", &rows, &permute::gather(&x.cpu, &cpu).unwrap());
        let y = card.normal(2, &[87, h], 1.0);
        let dx = permute::gather_backward(&y.gpu, &gpu).unwrap();
        let expected = permute::gather_backward(&y.cpu, &cpu).unwrap();
        agree("gather gradient", &dx, &expected, ROUNDED);
        let w = card.normal_f32(3, &[29, 3], 1.0);
        let out = permute::combine(&y.gpu, &w.gpu, &gpu).unwrap();
        let expected = permute::combine(&y.cpu, &w.cpu, &cpu).unwrap();
        agree("combine", &out, &expected, ROUNDED);
        let (dy, dw) = permute::combine_backward(&y.gpu, &w.gpu, &gpu, &x.gpu).unwrap();
        let (cpu_dy, cpu_dw) = permute::combine_backward(&y.cpu, &w.cpu, &cpu, &x.cpu).unwrap();
        agree("combine dy", &dy, &cpu_dy, ROUNDED);
        agree("combine dweights", &dw, &cpu_dw, EXACT);
    }
}

#[test]
fn grouped_products_and_biases() {
    let Some(card) = card() else { return };
    for (i, o) in [(72, 40), (160, 320), (45, 21), (64, 3)] {
        let std = 1.0 / (i as f32).sqrt();
        let x = card.normal(1, &[21, i], 1.0);
        let (w, wt) = (
            card.normal(2, &[6, i, o], std),
            card.normal(3, &[6, o, i], std),
        );
        let (bias, dy) = (card.normal(4, &[6, o], 1.0), card.normal(5, &[21, o], 1.0));
        let what = format!("grouped {i} to {o}");
        let y = grouped::matmul(&x.gpu, &w.gpu, &OFFSETS).unwrap();
        let expected = grouped::matmul(&x.cpu, &w.cpu, &OFFSETS).unwrap();
        agree(&what, &y, &expected, ROUNDED);
        let biased = grouped::add_bias(y, &bias.gpu, &OFFSETS).unwrap();
        let expected = grouped::add_bias(expected, &bias.cpu, &OFFSETS).unwrap();
        agree(&format!("{what} with bias"), &biased, &expected, CHAINED);
        let (view, cpu_view) = (
            wt.gpu.transpose(1, 2).unwrap(),
            wt.cpu.transpose(1, 2).unwrap(),
        );
        let y = grouped::matmul(&x.gpu, &view, &OFFSETS).unwrap();
        let expected = grouped::matmul(&x.cpu, &cpu_view, &OFFSETS).unwrap();
        agree(&format!("{what}, transposed"), &y, &expected, ROUNDED);
        let dx = grouped::matmul(&dy.gpu, &w.gpu.transpose(1, 2).unwrap(), &OFFSETS).unwrap();
        let transposed = w.cpu.transpose(1, 2).unwrap();
        let expected = grouped::matmul(&dy.cpu, &transposed, &OFFSETS).unwrap();
        agree(&format!("{what} dx"), &dx, &expected, ROUNDED);
        let dw = grouped::weight_grad(&x.gpu, &dy.gpu, &OFFSETS).unwrap();
        let expected = grouped::weight_grad(&x.cpu, &dy.cpu, &OFFSETS).unwrap();
        agree(&format!("{what} dw"), &dw, &expected, EXACT);
        let db = grouped::bias_grad(&dy.gpu, &OFFSETS).unwrap();
        let expected = grouped::bias_grad(&dy.cpu, &OFFSETS).unwrap();
        agree(&format!("{what} db"), &db, &expected, EXACT);
    }
}

#[test]
fn low_rank_updates() {
    let Some(card) = card() else { return };
    for (i, o, r) in [(160, 96, 8), (72, 40, 3), (64, 128, 16)] {
        let (x, dy) = (card.normal(1, &[21, i], 1.0), card.normal(2, &[21, o], 1.0));
        let std = 1.0 / (i as f32).sqrt();
        let (a, b) = (
            card.normal_f32(3, &[r, i], std),
            card.normal_f32(4, &[o, r], 1.0),
        );
        let pair = |a: &Tensor, b: &Tensor| Pair {
            a: a.clone(),
            b: b.clone(),
            scale: 1.5,
        };
        let (gpu, cpu) = (pair(&a.gpu, &b.gpu), pair(&a.cpu, &b.cpu));
        let (y, xa) = lora::forward(&x.gpu, &gpu).unwrap();
        let (cpu_y, cpu_xa) = lora::forward(&x.cpu, &cpu).unwrap();
        agree("lora", &y, &cpu_y, LOW_RANK);
        let found = lora::backward(&x.gpu, &gpu, &xa, &dy.gpu).unwrap();
        let expected = lora::backward(&x.cpu, &cpu, &cpu_xa, &dy.cpu).unwrap();
        agree("lora dx", &found.dx, &expected.dx, LOW_RANK);
        agree("lora da", &found.da, &expected.da, LOW_RANK);
        agree("lora db", &found.db, &expected.db, LOW_RANK);

        let (a, b) = (
            card.normal_f32(5, &[6, r, i], std),
            card.normal_f32(6, &[6, r, o], 1.0),
        );
        let (gpu, cpu) = (pair(&a.gpu, &b.gpu), pair(&a.cpu, &b.cpu));
        let (y, xa) = lora::grouped_forward(&x.gpu, &gpu, &OFFSETS).unwrap();
        let (cpu_y, cpu_xa) = lora::grouped_forward(&x.cpu, &cpu, &OFFSETS).unwrap();
        agree("grouped lora", &y, &cpu_y, LOW_RANK);
        let found = lora::grouped_backward(&x.gpu, &gpu, &xa, &dy.gpu, &OFFSETS).unwrap();
        let expected = lora::grouped_backward(&x.cpu, &cpu, &cpu_xa, &dy.cpu, &OFFSETS).unwrap();
        agree("grouped lora dx", &found.dx, &expected.dx, LOW_RANK);
        agree("grouped lora da", &found.da, &expected.da, LOW_RANK);
        agree("grouped lora db", &found.db, &expected.db, LOW_RANK);
    }
}
