//! Unpacking, optimizer step, sums, copies, and what the device says of itself.

use crate::support::{EXACT, agree, card, same};
use apus_model::ops::{adamw, copy, fill, mxfp4, reduce};
use apus_sdk::AdamW;
use candle_core::Device;

#[test]
fn mxfp4_is_exact() {
    let Some(card) = card() else { return };
    for (e, o, g) in [(3, 7, 5), (2, 320, 5), (1, 1, 1), (2, 96, 90)] {
        let draw = |seed, shape: &[usize], range| {
            fill::bytes(shape, range, (seed, 0), &Device::Cpu).unwrap()
        };
        let blocks = draw(1, &[e, o, g, 16], (0, 256));
        let scales = draw(2, &[e, o, g], (100, 40));
        let found = mxfp4::dequantize(&card.up(&blocks), &card.up(&scales)).unwrap();
        let expected = mxfp4::dequantize(&blocks, &scales).unwrap();
        same(&format!("mxfp4 {e} x {o} x {g}"), &found, &expected);
    }
}

#[test]
fn adamw_steps() {
    let Some(card) = card() else { return };
    let state = |seed| card.normal_f32(seed, &[1003], 1.0);
    let (p, m, v) = (state(1), state(2), state(3));
    copy::into(&v.cpu, &v.cpu.sqr().unwrap()).unwrap();
    copy::into(&v.gpu, &card.up(&v.cpu)).unwrap();
    for step in 1..=3 {
        let g = state(10 + step);
        let hyper = AdamW {
            lr: 1e-2,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.1,
            step,
        };
        adamw::step(&p.cpu, &g.cpu, &m.cpu, &v.cpu, &hyper).unwrap();
        adamw::step(&p.gpu, &g.gpu, &m.gpu, &v.gpu, &hyper).unwrap();
    }
    agree("adamw parameter", &p.gpu, &p.cpu, EXACT);
    agree("adamw first moment", &m.gpu, &m.cpu, EXACT);
    agree("adamw second moment", &v.gpu, &v.cpu, EXACT);
}

#[test]
fn square_sums() {
    let Some(card) = card() else { return };
    let (a, b) = (
        card.normal_f32(1, &[3000, 701], 2.0),
        card.normal_f32(2, &[5], 1.0),
    );
    let expected = reduce::square_sum(&[a.cpu, b.cpu]).unwrap();
    let found = reduce::square_sum(&[a.gpu, b.gpu]).unwrap();
    println!("square sum: {found}, expected {expected}");
    assert!((found - expected).abs() <= 1e-9 * expected);
}

#[test]
fn checksums() {
    let Some(card) = card() else { return };
    let (a, b) = (
        card.normal_f32(1, &[3000, 701], 2.0),
        card.normal_f32(2, &[5], 1.0),
    );
    let expected = reduce::bit_sums(&[a.cpu, b.cpu]).unwrap();
    assert_eq!(reduce::bit_sums(&[a.gpu, b.gpu]).unwrap(), expected);
}

#[test]
fn memory_is_counted() {
    let Some(card) = card() else { return };
    let Device::Cuda(cuda) = &card.device else {
        panic!("not a card")
    };
    let before = apus_model::device::memory(cuda).unwrap();
    let held = fill::bytes(64 << 20, (0, 256), (1, 1), &card.device).unwrap();
    let during = apus_model::device::memory(cuda).unwrap();
    assert!(
        during.used >= before.used + (64 << 20),
        "{before:?} {during:?}"
    );
    assert!(during.free <= during.total && during.used <= during.total);
    drop(held);
    card.device.synchronize().unwrap();
    let after = apus_model::device::memory(cuda).unwrap();
    assert!(after.used < during.used, "{during:?} {after:?}");
    assert!(apus_model::device::peak_memory(cuda).unwrap() >= during.used);
    apus_model::device::reset_peak(cuda).unwrap();
    assert!(apus_model::device::peak_memory(cuda).unwrap() < during.used);
}
