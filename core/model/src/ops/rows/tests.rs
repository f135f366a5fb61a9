//! The formulas by hand; `tests/cuda_ops` compares cards with them.

use super::*;
use crate::ops::mxfp4;
use crate::ops::testing::{close, random, values};

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn norm_adds_what_is_given() {
    let (x, delta, w) = (random(1, &[3, 4]), random(2, &[3, 4]), random(3, &[4]));
    let (rows, weights) = (random(4, &[6, 4]), random(5, &[3, 2]));
    let choices = Choices {
        rows: &rows,
        weights: &weights,
    };
    let (xs, ds, rs, ws) = (values(&x), values(&delta), values(&rows), values(&weights));
    let scale = values(&w);
    for (delta, choices) in [
        (None, None),
        (Some(&delta), None),
        (None, Some(choices)),
        (Some(&delta), Some(choices)),
    ] {
        let total: Vec<f64> = (0..12)
            .map(|at| {
                let (t, h) = (at / 4, at % 4);
                let pair = |j: usize| ws[2 * t + j] * rs[(2 * t + j) * 4 + h];
                xs[at] + delta.map_or(0.0, |_| ds[at]) + choices.map_or(0.0, |_| pair(0) + pair(1))
            })
            .collect();
        let normed: Vec<f64> = total
            .chunks(4)
            .flat_map(|row| {
                let rms = (row.iter().map(|v| v * v).sum::<f64>() / 4.0 + 1e-5).sqrt();
                (0..4).map(|h| scale[h] * row[h] / rms).collect::<Vec<_>>()
            })
            .collect();
        let (y, sum) = (zeros(&[3, 4]), zeros(&[3, 4]));
        norm(&y, Some(&sum), &x, delta, choices, (&w, 1e-5)).unwrap();
        close(&sum, &total, 1e-6);
        close(&y, &normed, 1e-6);
    }
    assert!(norm(&zeros(&[3, 5]), None, &x, None, None, (&w, 1e-5)).is_err());
    let wrong = Choices {
        rows: &delta,
        weights: &weights,
    };
    assert!(norm(&zeros(&[3, 4]), None, &x, None, Some(wrong), (&w, 1e-5)).is_err());
}

#[test]
fn product_adds_bias_and_residual() {
    let (x, w) = (random(1, &[3, 8]), random(2, &[5, 8]));
    let (bias, residual) = (random(3, &[5]), random(4, &[3, 5]));
    let (xs, ws, bs, rs) = (values(&x), values(&w), values(&bias), values(&residual));
    let expected: Vec<f64> = (0..15)
        .map(|at| {
            let (t, o) = (at / 5, at % 5);
            let dot: f64 = (0..8).map(|i| xs[8 * t + i] * ws[8 * o + i]).sum();
            dot + bs[o] + rs[at]
        })
        .collect();
    let matrix = Matrix {
        w: &w,
        bias: Some(&bias),
        residual: Some(&residual),
    };
    let y = zeros(&[3, 5]);
    product(&y, &x, matrix, true).unwrap();
    close(&y, &expected, 1e-6);
    let error = product(&y, &w, matrix, true).unwrap_err().to_string();
    assert!(error.contains("x [5, 8]"), "{error}");
}

#[test]
fn each_pair_goes_through_its_expert() {
    let (t, k, experts, i, f, o) = (5, 2, 4, 32, 3, 6);
    let device = &Device::Cpu;
    let routes = Routes::new(t, k, experts, device).unwrap();
    // The third expert has no rows.
    let mask = Tensor::new(&[0f32, 0.0, -100.0, 0.0], device).unwrap();
    let logits = random(1, &[t, experts]).broadcast_add(&mask).unwrap();
    route(&routes, &logits).unwrap();
    let ids: Vec<Vec<u32>> = routes.ids.to_vec2().unwrap();
    for (logits, (ids, weights)) in values(&logits)
        .chunks(experts)
        .zip(ids.iter().zip(values(&routes.weights).chunks(k)))
    {
        let (first, second) = (logits[ids[0] as usize], logits[ids[1] as usize]);
        assert!(logits.iter().filter(|logit| **logit > second).count() <= 1);
        assert!((weights[0] / weights[1] - (first - second).exp()).abs() < 1e-4);
        assert!((weights[0] + weights[1] - 1.0).abs() < 1e-6);
    }
    let (blocks, scales) = mxfp4::quantize(&random(2, &[experts, 2 * f, i])).unwrap();
    let w = mxfp4::dequantize(&blocks, &scales).unwrap();
    let (x, bias) = (random(3, &[t, i]), random(4, &[experts, 2 * f]));
    let low = random(5, &[t * k, 2 * f]);
    let (xs, ws, bs, ls) = (values(&x), values(&w), values(&bias), values(&low));
    let limit = 0.75;
    let mut expected = Vec::new();
    for pair in 0..t * k {
        let e = ids[pair / k][pair % k] as usize;
        let output = |o: usize| {
            let w = &ws[(e * 2 * f + o) * i..][..i];
            let dot: f64 = w.iter().zip(&xs[pair / k * i..]).map(|(w, x)| w * x).sum();
            dot + bs[e * 2 * f + o] + ls[pair * 2 * f + o]
        };
        expected.extend((0..f).map(|o| {
            let (gate, up) = (
                output(2 * o).min(limit),
                output(2 * o + 1).clamp(-limit, limit),
            );
            (up + 1.0) * gate / (1.0 + (-1.702 * gate).exp())
        }));
    }
    let activation = Activation::ClampedSwiglu {
        alpha: 1.702,
        limit: limit as f32,
    };
    let packed = Matrices::Packed {
        blocks: &blocks,
        scales: &scales,
    };
    for matrices in [packed, Matrices::Dense(&w)] {
        let layer = Layer {
            matrices,
            bias: Some(&bias),
            low_rank: Some(&low),
        };
        let h = zeros(&[t * k, f]);
        gate_up(&h, &x, layer, &routes, activation).unwrap();
        close(&h, &expected, 1e-5);
        let error = gate_up(&h, &random(1, &[t + 1, i]), layer, &routes, activation);
        assert!(error.unwrap_err().to_string().contains("x [6, 32]"));
    }
    let (w, h) = (random(6, &[experts, o, 8]), random(7, &[t * k, 8]));
    let (ws, hs) = (values(&w), values(&h));
    let expected: Vec<f64> = (0..t * k * o)
        .map(|at| {
            let (pair, o_at) = (at / o, at % o);
            let e = ids[pair / k][pair % k] as usize;
            (0..8)
                .map(|n| ws[(e * o + o_at) * 8 + n] * hs[pair * 8 + n])
                .sum()
        })
        .collect();
    let layer = Layer {
        matrices: Matrices::Dense(&w),
        bias: None,
        low_rank: None,
    };
    let y = zeros(&[t * k, o]);
    down(&y, &h, layer, &routes).unwrap();
    close(&y, &expected, 1e-5);
}
