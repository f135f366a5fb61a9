//! Routing, moving rows, and linear layers per expert, with experts that have no rows.

use crate::support::{Both, CHAINED, CLAMPED, Card, EXACT, Limit, ROUNDED, agree, card, same};
use apus_model::nn::{ExpertLinear, ExpertWeight, Weight};
use apus_model::ops::fill;
use apus_model::ops::grouped::{self, Addends, LowRankTerm};
use apus_model::ops::lora::{self, Factors, Pack, Pair};
use apus_model::ops::router::{self, RoutePlan};
use apus_model::ops::swiglu::{self, RoutingWeights};
use apus_model::ops::{Groups, permute};
use candle_core::{Device, Tensor};

/// Products of products: the rank's activations are rounded to bf16 between them.
const LOW_RANK: Limit = Limit {
    greatest: 2e-2,
    norm: 8e-3,
};

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
    assert_eq!(
        cpu.groups.host_offsets().unwrap(),
        gpu.groups.host_offsets().unwrap()
    );
    for h in [2880, 160, 33] {
        let x = card.normal(1, &[29, h], 1.0);
        let rows = permute::gather(&x.gpu, &gpu).unwrap();
        same("gather", &rows, &permute::gather(&x.cpu, &cpu).unwrap());
        let y = card.normal(2, &[87, h], 1.0);
        for add in [false, true] {
            let (on, off) = (add.then_some(&x.gpu), add.then_some(&x.cpu));
            let dx = permute::gather_backward(&y.gpu, &gpu, on).unwrap();
            let expected = permute::gather_backward(&y.cpu, &cpu, off).unwrap();
            agree("gather gradient", &dx, &expected, ROUNDED);
            let w = card.normal_f32(3, &[29, 3], 1.0);
            let out = permute::combine(&y.gpu, &w.gpu, &gpu, on).unwrap();
            let expected = permute::combine(&y.cpu, &w.cpu, &cpu, off).unwrap();
            agree("combine", &out, &expected, ROUNDED);
        }
    }
}

#[test]
fn back_through_the_activation_and_the_weights() {
    let Some(card) = card() else { return };
    let (cpu, gpu) = plans(&card);
    for f in [2880, 160, 33] {
        let gate_up = card.normal(1, &[87, 2 * f], 4.0);
        let (dh, w) = (
            card.normal(2, &[87, f], 1.0),
            card.normal_f32(3, &[29, 3], 1.0),
        );
        let by_bias = card.normal(4, &[29, 6], 1.0);
        let routing = RoutingWeights {
            weights: &w.cpu,
            plan: &cpu,
            by_bias: &by_bias.cpu,
        };
        let (expected, expected_w) =
            swiglu::backward(gate_up.cpu.clone(), CLAMPED, &dh.cpu, routing).unwrap();
        let routing = RoutingWeights {
            weights: &w.gpu,
            plan: &gpu,
            by_bias: &by_bias.gpu,
        };
        let (found, found_w) = swiglu::backward(gate_up.gpu, CLAMPED, &dh.gpu, routing).unwrap();
        agree("swiglu gradient", &found, &expected, ROUNDED);
        agree("gradient by the weights", &found_w, &expected_w, EXACT);
    }
}

/// Groups of few rows (one product each), and of many (all in one launch where the card has it): none, one row, whole
/// tiles, odd rests.
const FEW: [usize; 7] = [0, 4, 4, 5, 12, 12, 21];
const MANY: [usize; 7] = [0, 300, 300, 301, 365, 1077, 1333];

fn groups(offsets: &[usize], device: &Device) -> Groups {
    Groups::new(offsets, device).unwrap()
}

#[test]
fn grouped_products_and_biases() {
    let Some(card) = card() else { return };
    let shapes = [
        (72, 40),
        (160, 320),
        (45, 21),
        (64, 3),
        (200, 136),
        (64, 584),
    ];
    for ((i, o), offsets) in shapes.into_iter().flat_map(|s| [(s, FEW), (s, MANY)]) {
        let rows = offsets[6];
        let on = [
            groups(&offsets, &Device::Cpu),
            groups(&offsets, &card.device),
        ];
        let std = 1.0 / (i as f32).sqrt();
        let x = card.normal(1, &[rows, i], 1.0);
        let (w, wt) = (
            card.normal(2, &[6, i, o], std),
            card.normal(3, &[6, o, i], std),
        );
        let (bias, dy) = (
            card.normal(4, &[6, o], 1.0),
            card.normal(5, &[rows, o], 1.0),
        );
        let (lx, lw) = (
            card.normal(6, &[rows, 16], 1.0),
            card.normal(7, &[6, 16, o], 0.25),
        );
        let what = format!("grouped {rows} rows, {i} to {o}");
        let views = [
            (w.clone(), lw.clone()),
            (turned(&wt), turned(&card.normal(8, &[6, o, 16], 0.25))),
        ];
        for (w, lw) in views {
            let product = |side: usize, x: &Tensor, bias: Option<Tensor>, low: bool| {
                let pick = |both: &Both| [both.cpu.clone(), both.gpu.clone()][side].clone();
                let low = low.then(|| LowRankTerm {
                    x: pick(&lx),
                    w: pick(&lw),
                });
                grouped::matmul(
                    x,
                    &pick(&w),
                    &on[side],
                    &Addends {
                        bias,
                        low_rank: low,
                    },
                )
                .unwrap()
            };
            let y = product(1, &x.gpu, None, false);
            agree(&what, &y, &product(0, &x.cpu, None, false), ROUNDED);
            let y = product(1, &x.gpu, Some(bias.gpu.clone()), false);
            let expected = product(0, &x.cpu, Some(bias.cpu.clone()), false);
            agree(&format!("{what} with bias"), &y, &expected, CHAINED);
            let y = product(1, &x.gpu, Some(bias.gpu.clone()), true);
            let expected = product(0, &x.cpu, Some(bias.cpu.clone()), true);
            agree(&format!("{what} with all"), &y, &expected, CHAINED);
        }
        let dx = |dy: &Tensor, w: &Tensor, on: &Groups| {
            grouped::matmul(dy, &w.transpose(1, 2).unwrap(), on, &Addends::default()).unwrap()
        };
        let found = dx(&dy.gpu, &w.gpu, &on[1]);
        agree(
            &format!("{what} dx"),
            &found,
            &dx(&dy.cpu, &w.cpu, &on[0]),
            ROUNDED,
        );
        let dw = grouped::weight_grad(&x.gpu, &dy.gpu, &on[1]).unwrap();
        let expected = grouped::weight_grad(&x.cpu, &dy.cpu, &on[0]).unwrap();
        agree(&format!("{what} dw"), &dw, &expected, EXACT);
        let db = grouped::bias_grad(&dy.gpu, &on[1]).unwrap();
        let expected = grouped::bias_grad(&dy.cpu, &on[0]).unwrap();
        agree(&format!("{what} db"), &db, &expected, EXACT);
    }
}

/// All rows in one group, the matrix a view that a dimension was added to, as linear layers are.
#[test]
fn products_of_one_group() {
    let Some(card) = card() else { return };
    for (rows, i, o) in [(700, 136, 200), (21, 64, 40)] {
        let (x, w) = (
            card.normal(1, &[rows, i], 1.0),
            card.normal(2, &[o, i], 1.0 / (i as f32).sqrt()),
        );
        let bias = card.normal(3, &[o], 1.0);
        let run = |x: &Tensor, w: &Tensor, bias: &Tensor| {
            let groups = Groups::one(rows, x.device()).unwrap();
            let w = w.unsqueeze(0).unwrap().transpose(1, 2).unwrap();
            let addends = Addends {
                bias: Some(bias.unsqueeze(0).unwrap()),
                low_rank: None,
            };
            grouped::matmul(x, &w, &groups, &addends).unwrap()
        };
        let y = run(&x.gpu, &w.gpu, &bias.gpu);
        agree("one group", &y, &run(&x.cpu, &w.cpu, &bias.cpu), CHAINED);
    }
}

/// The transposed view on both devices.
fn turned(w: &Both) -> Both {
    Both {
        cpu: w.cpu.transpose(1, 2).unwrap(),
        gpu: w.gpu.transpose(1, 2).unwrap(),
    }
}

#[test]
fn plans_of_routes() {
    let Some(card) = card() else { return };
    for (tokens, experts, k) in [(1, 4, 4), (37, 32, 4), (1500, 128, 4), (700, 6, 2)] {
        let logits = card.normal_f32(9, &[tokens, experts], 1.0);
        let ids = router::top_k(&logits.cpu, k).unwrap();
        let expected = RoutePlan::new(&ids, experts).unwrap();
        let found = RoutePlan::new(&ids.to_device(&card.device).unwrap(), experts).unwrap();
        let numbers = |t: &Tensor| t.to_vec1::<u32>().unwrap();
        assert_eq!(numbers(&found.order), numbers(&expected.order));
        assert_eq!(numbers(&found.inverse), numbers(&expected.inverse));
        assert_eq!(
            found.groups.host_offsets().unwrap(),
            expected.groups.host_offsets().unwrap()
        );
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
    }
}

/// Ranks that fill eights and that do not, three modules (one without update) or one, few and many rows; a rank and a width
/// without a kernel of their own.
#[test]
fn packed_low_rank_updates() {
    let Some(card) = card() else { return };
    for (count, i, widths, r) in [
        (6, 160, vec![96], 8),
        (6, 72, vec![40], 3),
        (1, 64, vec![128, 32, 40], 8),
        (1, 200, vec![64, 64, 64], 20),
        (6, 64, vec![48], 70),
        (6, 44, vec![21], 4),
    ] {
        for offsets in [FEW, MANY] {
            let offsets = match count {
                1 => vec![0, offsets[6]],
                _ => offsets.to_vec(),
            };
            let (rows, o) = (offsets[count], widths.iter().sum::<usize>());
            let (x, dy) = (
                card.normal(1, &[rows, i], 1.0),
                card.normal(2, &[rows, o], 1.0),
            );
            let std = 1.0 / (i as f32).sqrt();
            let factors: Vec<_> = widths
                .iter()
                .enumerate()
                .map(|(n, &width)| {
                    let a = card.normal_f32(3 + n as u64, &[count * r, i], std);
                    (
                        width,
                        a,
                        card.normal_f32(30 + n as u64, &[width, r * count], 1.0),
                    )
                })
                .collect();
            let run = |side: usize| {
                let pick = |both: &Both| [both.cpu.clone(), both.gpu.clone()][side].clone();
                let modules: Vec<_> = factors
                    .iter()
                    .enumerate()
                    .map(|(n, (width, a, b))| {
                        let factors = Factors {
                            a: pick(a),
                            b: pick(b),
                        };
                        (*width, (n != 1).then_some(factors))
                    })
                    .collect();
                let x = pick(&x);
                let on = groups(&offsets, x.device());
                let pack = Pack::new(&modules, count, 1.5, x.dtype()).unwrap();
                let xa = pack.down(&x, &on).unwrap();
                let low = pack.up(&xa, false).unwrap();
                let y = grouped::matmul(&low.x, &low.w, &on, &Addends::default()).unwrap();
                let dy = pick(&dy);
                let dxa = pack.down_backward(&dy, &on).unwrap();
                let grads = pack.gradients(&x, &dxa, &xa, &dy, &on).unwrap();
                let low = pack.input_grad(dxa);
                let dx = grouped::matmul(&low.x, &low.w, &on, &Addends::default()).unwrap();
                (y, dx, grads)
            };
            let ((y, dx, grads), (cpu_y, cpu_dx, cpu_grads)) = (run(1), run(0));
            let what = format!("pack of {widths:?}, rank {r}, {rows} rows");
            agree(&what, &y, &cpu_y, LOW_RANK);
            agree(&format!("{what} dx"), &dx, &cpu_dx, LOW_RANK);
            for (found, expected) in grads.iter().zip(&cpu_grads) {
                let (Some(found), Some(expected)) = (found, expected) else {
                    assert!(found.is_none() && expected.is_none());
                    continue;
                };
                agree(&format!("{what} da"), &found.a, &expected.a, LOW_RANK);
                agree(&format!("{what} db"), &found.b, &expected.b, LOW_RANK);
            }
        }
    }
}

#[test]
fn experts_unpacked_in_ranges() {
    let Some(card) = card() else { return };
    let bytes = |shape: &[usize], range, seed| {
        let bytes = fill::bytes(shape, range, (seed, 1), &Device::Cpu);
        bytes.unwrap()
    };
    let blocks = bytes(&[8, 96, 2, 16], (0, 256), 1);
    let scales = bytes(&[8, 96, 2], (120, 4), 2);
    let linear = |at: &dyn Fn(&Tensor) -> Tensor, bias: Tensor, at_once| ExpertLinear {
        name: "experts".to_owned(),
        matrix: ExpertWeight::Packed {
            blocks: Weight::Frozen(at(&blocks)),
            scales: Weight::Frozen(at(&scales)),
        },
        bias: Some(Weight::Frozen(bias)),
        lora: None,
        tuned: None,
        unpacked_at_once: at_once,
    };
    let bias = card.normal(3, &[8, 96], 0.1);
    // Many rows, and so few that only their experts are unpacked; the fourth expert has none.
    for step in [90, 3] {
        let offsets: Vec<usize> = [0, 1, 2, 3, 3, 4, 5, 6, 7].map(|n| n * step).to_vec();
        let x = card.normal(4, &[7 * step, 64], 1.0);
        let on_cpu = Groups::new(&offsets, &Device::Cpu).unwrap();
        let expected = linear(&Tensor::clone, bias.cpu.clone(), None);
        let (expected, _) = expected.forward(&x.cpu, &on_cpu).unwrap();
        let groups = Groups::new(&offsets, &card.device).unwrap();
        // Which kernel takes a product goes by its rows, and some add the bias to what is rounded already.
        for at_once in [None, Some(3), Some(1)] {
            let found = linear(&|packed| card.up(packed), bias.gpu.clone(), at_once);
            let (found, _) = found.forward(&x.gpu, &groups).unwrap();
            agree(&format!("{at_once:?} at once"), &found, &expected, CHAINED);
        }
    }
}
