//! Operations on rows of activations: norm, rotation, activation, linear layers, cross entropy.

use crate::support::{CHAINED, CLAMPED, EXACT, ROUNDED, agree, card, same};
use apus_model::ops::rope::RopeTable;
use apus_model::ops::{Heads, cross_entropy, linear, lookup, rms_norm, rope, swiglu};
use candle_core::{Device, Tensor};

const EPS: f64 = 1e-5;

#[test]
fn rms_norm_forward_backward_and_weight() {
    let Some(card) = card() else { return };
    for (t, h) in [(1, 16), (7, 2880), (600, 160), (5, 33)] {
        let (x, dy) = (card.normal(1, &[t, h], 2.0), card.normal(2, &[t, h], 1.0));
        let w = card.normal(3, &[h], 1.0);
        let y = rms_norm::forward(&x.gpu, &w.gpu, EPS).unwrap();
        let expected = rms_norm::forward(&x.cpu, &w.cpu, EPS).unwrap();
        agree(&format!("rms_norm {t} x {h}"), &y, &expected, ROUNDED);
        let (sum, y) = rms_norm::forward_sum(&x.gpu, &dy.gpu, &w.gpu, EPS).unwrap();
        let (cpu_sum, cpu_y) = rms_norm::forward_sum(&x.cpu, &dy.cpu, &w.cpu, EPS).unwrap();
        agree(&format!("sum {t} x {h}"), &sum, &cpu_sum, ROUNDED);
        agree(
            &format!("rms_norm of the sum {t} x {h}"),
            &y,
            &cpu_y,
            CHAINED,
        );
        for add in [false, true] {
            let (on, off) = (add.then_some(&x.gpu), add.then_some(&x.cpu));
            let dx = rms_norm::backward(&x.gpu, &w.gpu, EPS, &dy.gpu, on).unwrap();
            let expected = rms_norm::backward(&x.cpu, &w.cpu, EPS, &dy.cpu, off).unwrap();
            agree(&format!("rms_norm dx {t} x {h}"), &dx, &expected, ROUNDED);
        }
        let dw = rms_norm::weight_grad(&x.gpu, EPS, &dy.gpu).unwrap();
        let expected = rms_norm::weight_grad(&x.cpu, EPS, &dy.cpu).unwrap();
        agree(&format!("rms_norm dw {t} x {h}"), &dw, &expected, EXACT);
    }
}

#[test]
fn rope_and_its_transpose() {
    let Some(card) = card() else { return };
    for (q, kv, dim) in [(64, 8, 64), (6, 2, 32), (1, 1, 16), (4, 4, 128)] {
        let (heads, t) = (Heads { q, kv, dim }, 37);
        let x = card.normal(1, &[t, heads.width()], 1.0);
        let (cos, sin) = (
            card.normal_f32(2, &[50, dim / 2], 1.0),
            card.normal_f32(3, &[50, dim / 2], 1.0),
        );
        let positions: Vec<u32> = (0..t as u32).map(|i| i * 7 % 50).collect();
        let positions = Tensor::new(positions.as_slice(), &Device::Cpu).unwrap();
        for transpose in [false, true] {
            let table = RopeTable {
                cos: cos.gpu.clone(),
                sin: sin.gpu.clone(),
            };
            let y = rope::apply(&x.gpu, &table, &card.up(&positions), heads, transpose).unwrap();
            let table = RopeTable {
                cos: cos.cpu.clone(),
                sin: sin.cpu.clone(),
            };
            let expected = rope::apply(&x.cpu, &table, &positions, heads, transpose).unwrap();
            agree(&format!("rope {heads:?}"), &y, &expected, ROUNDED);
        }
    }
}

#[test]
fn swiglu_inside_and_outside_the_clamps() {
    let Some(card) = card() else { return };
    for (n, f) in [(13, 45), (5, 2880), (1, 1), (300, 160)] {
        let x = card.normal(1, &[n, 2 * f], 5.0);
        let h = swiglu::forward(&x.gpu, CLAMPED).unwrap();
        let expected = swiglu::forward(&x.cpu, CLAMPED).unwrap();
        agree(&format!("swiglu {n} x {f}"), &h, &expected, ROUNDED);
    }
}

#[test]
fn linear_and_its_gradients() {
    let Some(card) = card() else { return };
    for (t, i, o) in [(70, 160, 96), (3, 64, 32), (33, 45, 21), (1, 2880, 512)] {
        let std = 1.0 / (i as f32).sqrt();
        let (x, w) = (card.normal(1, &[t, i], 1.0), card.normal(2, &[o, i], std));
        let (b, dy) = (card.normal(3, &[o], 1.0), card.normal(4, &[t, o], 1.0));
        let shape = format!("{t} x {i} to {o}");
        let y = linear::forward(&x.gpu, &w.gpu, Some(&b.gpu)).unwrap();
        let expected = linear::forward(&x.cpu, &w.cpu, Some(&b.cpu)).unwrap();
        agree(&format!("linear {shape}"), &y, &expected, CHAINED);
        let dx = linear::input_grad(&dy.gpu, &w.gpu).unwrap();
        let expected = linear::input_grad(&dy.cpu, &w.cpu).unwrap();
        agree(&format!("linear dx {shape}"), &dx, &expected, ROUNDED);
        let dw = linear::weight_grad(&x.gpu, &dy.gpu).unwrap();
        let expected = linear::weight_grad(&x.cpu, &dy.cpu).unwrap();
        agree(&format!("linear dw {shape}"), &dw, &expected, EXACT);
        let db = linear::bias_grad(&dy.gpu).unwrap();
        let expected = linear::bias_grad(&dy.cpu).unwrap();
        agree(&format!("linear db {shape}"), &db, &expected, EXACT);
    }
}

#[test]
fn no_rows_give_no_gradient() {
    let Some(card) = card() else { return };
    let (x, dy) = (card.normal(1, &[1, 24], 1.0), card.normal(2, &[1, 8], 1.0));
    let none = |x: &Tensor| x.narrow(0, 0, 0).unwrap();
    let dw = linear::weight_grad(&none(&x.gpu), &none(&dy.gpu)).unwrap();
    same("linear dw of no rows", &dw, &dw.zeros_like().unwrap());
    let db = linear::bias_grad(&none(&dy.gpu)).unwrap();
    same("linear db of no rows", &db, &db.zeros_like().unwrap());
}

#[test]
fn cross_entropy_of_both_types() {
    let Some(card) = card() else { return };
    for (n, v) in [(5, 20_011), (3, 9), (17, 1024), (1, 8193)] {
        let labels: Vec<u32> = (0..n as u32).map(|i| i * 7919 % v as u32).collect();
        let labels = Tensor::new(labels.as_slice(), &Device::Cpu).unwrap();
        let on_card = card.up(&labels);
        let dloss = card.normal_f32(2, &[n], 1.0);
        for (what, x, limit) in [
            ("bf16", card.normal(1, &[n, v], 3.0), ROUNDED),
            ("f32", card.normal_f32(1, &[n, v], 3.0), EXACT),
        ] {
            let found = cross_entropy::forward(&x.gpu, &on_card).unwrap();
            let expected = cross_entropy::forward(&x.cpu, &labels).unwrap();
            let what = format!("cross entropy {what} {n} x {v}");
            agree(&what, &found.loss, &expected.loss, EXACT);
            agree(&format!("{what} lse"), &found.lse, &expected.lse, EXACT);
            let best = |tensor: &Tensor| tensor.to_vec1::<u32>().unwrap();
            assert_eq!(best(&found.argmax), best(&expected.argmax), "{what} best");
            let dtype = x.gpu.dtype();
            let dx = cross_entropy::backward(x.gpu, &found.lse, &on_card, &dloss.gpu).unwrap();
            let expected =
                cross_entropy::backward(x.cpu, &expected.lse, &labels, &dloss.cpu).unwrap();
            assert_eq!(dx.dtype(), dtype);
            agree(&format!("{what} gradient"), &dx, &expected, limit);
        }
    }
}

#[test]
fn rows_from_host_memory() {
    let Some(card) = card() else { return };
    let table = card.normal(1, &[50, 33], 1.0);
    let ids = [49u32, 0, 7, 7];
    let on_card = card.up(&Tensor::new(&ids, &Device::Cpu).unwrap());
    let expected = table.gpu.index_select(&on_card, 0).unwrap();
    let host = table.gpu.to_device(&Device::Cpu).unwrap();
    let found = lookup::rows(&host, &ids, &card.device).unwrap();
    same("rows from host memory", &found, &expected);
}

/// What the gradient of the head relies on.
#[test]
fn the_greatest_index_selects_zeros() {
    let Some(card) = card() else { return };
    let x = card.normal(1, &[3, 8], 1.0);
    let ids = card.up(&Tensor::new(&[u32::MAX, 2, u32::MAX], &Device::Cpu).unwrap());
    let found = x.gpu.index_select(&ids, 0).unwrap();
    let zeros = x.gpu.narrow(0, 0, 1).unwrap().zeros_like().unwrap();
    same("no row", &found.narrow(0, 0, 1).unwrap(), &zeros);
    same(
        "row 2",
        &found.narrow(0, 1, 1).unwrap(),
        &x.gpu.narrow(0, 2, 1).unwrap(),
    );
    same("no row again", &found.narrow(0, 2, 1).unwrap(), &zeros);
}
