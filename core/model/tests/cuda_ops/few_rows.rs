//! The operations of a step for a few tokens, whose kernels depend on how many there are.

use crate::support::{Both, CHAINED, CLAMPED, Card, EXACT, ROUNDED, agree, card, same};
use apus_model::ops::rows::{self, Choices, Layer, Matrices, Matrix, Routes};
use apus_model::ops::{fill, mxfp4};
use candle_core::{DType, Device, Tensor};

/// One, few, and as many as the largest kernels take.
const TOKENS: [usize; 6] = [1, 3, 8, 31, 49, 256];

/// A result on the CPU and one on the card.
fn results(card: &Card, shape: &[usize], dtype: DType) -> (Tensor, Tensor) {
    let cpu = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    (cpu, Tensor::zeros(shape, dtype, &card.device).unwrap())
}

#[test]
fn norm_of_sums() {
    let Some(card) = card() else { return };
    for (t, h, k) in [(1, 2880, 4), (7, 64, 2), (256, 2880, 4)] {
        let (x, delta) = (card.normal(1, &[t, h], 2.0), card.normal(2, &[t, h], 1.0));
        let (w, pairs) = (
            card.normal(3, &[h], 1.0),
            card.normal_f32(4, &[t * k, h], 1.0),
        );
        let weights = card.normal_f32(5, &[t, k], 0.5);
        for (with_delta, with_choices) in
            [(false, false), (true, false), (false, true), (true, true)]
        {
            let (y, on_y) = results(&card, &[t, h], DType::BF16);
            let (sum, on_sum) = results(&card, &[t, h], DType::BF16);
            let run = |y: &Tensor, sum: &Tensor, pick: &dyn Fn(&Both) -> Tensor| {
                let (x, delta, w) = (pick(&x), pick(&delta), pick(&w));
                let (pairs, weights) = (pick(&pairs), pick(&weights));
                let choices = Choices {
                    rows: &pairs,
                    weights: &weights,
                };
                let delta = with_delta.then_some(&delta);
                let choices = with_choices.then_some(choices);
                rows::norm(y, Some(sum), &x, delta, choices, (&w, 1e-5)).unwrap();
            };
            run(&y, &sum, &|both| both.cpu.clone());
            run(&on_y, &on_sum, &|both| both.gpu.clone());
            agree(&format!("sum of {t} x {h}"), &on_sum, &sum, ROUNDED);
            agree(&format!("norm of {t} x {h}"), &on_y, &y, CHAINED);
        }
    }
}

#[test]
fn products_of_few_rows() {
    let Some(card) = card() else { return };
    for (i, o) in [(2880, 640), (64, 32), (40, 21)] {
        let w = card.normal(1, &[o, i], 1.0 / (i as f32).sqrt());
        let (bias, all) = (card.normal(2, &[o], 1.0), card.normal(3, &[256, i], 1.0));
        let mut first: Option<Tensor> = None;
        for t in TOKENS {
            let rows_of = |x: &Tensor| x.narrow(0, 0, t).unwrap();
            let residual = card.normal(4, &[t, o], 1.0);
            let run = |y: &Tensor, pick: &dyn Fn(&Both) -> Tensor, added: bool, alone| {
                let (w, bias, residual) = (pick(&w), pick(&bias), pick(&residual));
                let matrix = Matrix {
                    w: &w,
                    bias: Some(&bias),
                    residual: added.then_some(&residual),
                };
                rows::product(y, &rows_of(&pick(&all)), matrix, alone).unwrap();
            };
            let what = format!("product of {t} x {i} with {o}");
            for added in [false, true] {
                let (y, on_y) = results(&card, &[t, o], DType::BF16);
                run(&y, &|both| both.cpu.clone(), added, true);
                for alone in [false, true] {
                    run(&on_y, &|both| both.gpu.clone(), added, alone);
                    agree(&what, &on_y, &y, CHAINED);
                }
            }
            let (y, on_y) = results(&card, &[t, o], DType::F32);
            run(&y, &|both| both.cpu.clone(), false, true);
            run(&on_y, &|both| both.gpu.clone(), false, true);
            agree(&what, &on_y, &y, EXACT);
            let row = on_y.narrow(0, 0, 1).unwrap();
            let alone = first.get_or_insert_with(|| row.clone());
            same(&format!("the first row of a {what}"), &row, alone);
        }
    }
}

fn matrices((blocks, scales, w): &(Tensor, Tensor, Tensor), dense: bool) -> Matrices<'_> {
    match dense {
        true => Matrices::Dense(w),
        false => Matrices::Packed { blocks, scales },
    }
}

#[test]
fn experts_of_few_rows() {
    let Some(card) = card() else { return };
    let bytes = |shape: &[usize], range, seed| {
        let bytes = fill::bytes(shape, range, (seed, 1), &Device::Cpu);
        bytes.unwrap()
    };
    for (e, k, h, f) in [(8, 4, 160, 96), (5, 2, 64, 32)] {
        let packed = |outputs: usize, inputs: usize, seed| {
            let blocks = bytes(&[e, outputs, inputs / 32, 16], (0, 256), seed);
            let scales = bytes(&[e, outputs, inputs / 32], (119, 4), seed);
            (blocks, scales)
        };
        let (up, out) = (packed(2 * f, h, 1), packed(h, f, 2));
        let (up_bias, out_bias) = (
            card.normal(3, &[e, 2 * f], 1.0),
            card.normal(4, &[e, h], 1.0),
        );
        let mask: Vec<f32> = (0..e)
            .map(|expert| if expert == 1 { -100.0 } else { 0.0 })
            .collect();
        let mask = Tensor::new(mask, &Device::Cpu).unwrap();
        for t in TOKENS {
            for dense in [false, true] {
                let (x, low) = (
                    card.normal(5, &[t, h], 1.0),
                    card.normal_f32(6, &[t * k, 2 * f], 1.0),
                );
                let inner = card.normal(8, &[t * k, f], 1.0);
                let logits = card
                    .normal_f32(7, &[t, e], 1.0)
                    .cpu
                    .broadcast_add(&mask)
                    .unwrap();
                let run = |on_card: bool, dtype: DType| {
                    let device = if on_card {
                        card.device.clone()
                    } else {
                        Device::Cpu
                    };
                    let put = |x: &Tensor| x.to_device(&device).unwrap();
                    let pick = |both: &Both| {
                        if on_card {
                            both.gpu.clone()
                        } else {
                            both.cpu.clone()
                        }
                    };
                    let routes = Routes::new(t, k, e, &device).unwrap();
                    rows::route(&routes, &put(&logits)).unwrap();
                    let matrix = |(blocks, scales): &(Tensor, Tensor)| {
                        let w = mxfp4::dequantize(blocks, scales).unwrap();
                        let w = put(&w.to_dtype(dtype).unwrap());
                        (put(blocks), put(scales), w)
                    };
                    let (up, out) = (matrix(&up), matrix(&out));
                    let (up_bias, out_bias) = (pick(&up_bias), pick(&out_bias));
                    let low = pick(&low);
                    let layer = Layer {
                        matrices: matrices(&up, dense),
                        bias: Some(&up_bias),
                        low_rank: Some(&low),
                    };
                    let hidden = Tensor::zeros((t * k, f), dtype, &device).unwrap();
                    rows::gate_up(&hidden, &pick(&x), layer, &routes, CLAMPED).unwrap();
                    let layer = Layer {
                        matrices: matrices(&out, dense),
                        bias: Some(&out_bias),
                        low_rank: None,
                    };
                    let y = Tensor::zeros((t * k, h), DType::F32, &device).unwrap();
                    rows::down(&y, &pick(&inner), layer, &routes).unwrap();
                    (routes, hidden, y)
                };
                let (routes, hidden, y) = run(false, DType::F32);
                let (on_routes, on_hidden, on_y) = run(true, DType::BF16);
                let what = format!("{t} tokens, {k} of {e} experts, dense: {dense}");
                same(&format!("experts of {what}"), &on_routes.ids, &routes.ids);
                agree(
                    &format!("weights of {what}"),
                    &on_routes.weights,
                    &routes.weights,
                    EXACT,
                );
                agree(
                    &format!("activations of {what}"),
                    &on_hidden,
                    &hidden,
                    ROUNDED,
                );
                agree(&format!("outputs of {what}"), &on_y, &y, EXACT);
            }
        }
    }
}
