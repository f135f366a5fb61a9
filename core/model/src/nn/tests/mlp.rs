//! The MLP alone.

use super::*;
use crate::ops::Groups;
use crate::ops::testing::close;

const TOKENS: usize = 6;

fn rows() -> Groups {
    Groups::one(TOKENS, &Device::Cpu).unwrap()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Frozen weights with low-rank updates are one product, trained ones are not; with biases and without.
fn dense_kinds() -> impl Iterator<Item = (Maker, DenseSpec)> {
    [(true, true), (true, false), (false, true), (false, false)]
        .into_iter()
        .map(|(trained, bias)| {
            let spec = DenseSpec {
                bias,
                ..plain_mlp()
            };
            (Maker::new(trained), spec)
        })
}

#[test]
fn a_dense_mlp_by_the_formula() {
    for (maker, spec) in dense_kinds() {
        let mlp = maker.dense(&spec);
        let (x, residual) = (random(90, &[TOKENS, HIDDEN]), random(91, &[TOKENS, HIDDEN]));
        let (y, _) = mlp.forward(&x, Some(&residual), &rows(), None).unwrap();
        let x = values(&x);
        let [gate, up] = [0, 1].map(|at| product(&x, &mlp.gate_up.layers()[at]));
        let h: Vec<f64> = gate.iter().zip(up).map(|(g, u)| silu(*g) * u).collect();
        let down = product(&h, &mlp.down.layers()[0]);
        let expected: Vec<f64> = values(&residual)
            .iter()
            .zip(down)
            .map(|(r, d)| r + d)
            .collect();
        close(&y, &expected, 1e-5);
    }
}

#[test]
fn a_dense_mlp_by_finite_differences() {
    for (maker, spec) in dense_kinds() {
        let mlp = Mlp::Dense(Box::new(maker.dense(&spec)));
        check(&maker, &mlp);
    }
}

#[test]
fn experts_without_biases_by_the_formula() {
    let maker = Maker::new(true);
    let spec = plain_experts();
    let mixture = maker.mixture(&spec);
    let (x, residual) = (random(90, &[TOKENS, HIDDEN]), random(91, &[TOKENS, HIDDEN]));
    let (y, _) = mixture.forward(&x, Some(&residual), None).unwrap();
    let logits = product(&values(&x), &mixture.router);
    let matrix = |experts: &ExpertLinear| match &experts.matrix {
        ExpertWeight::Dense(weight) => values(&weight.get(DType::F32).unwrap()),
        ExpertWeight::Packed { .. } => unreachable!(),
    };
    let (gate_up, down) = (matrix(&mixture.gate_up), matrix(&mixture.down));
    let f = spec.intermediate_size;
    let times = |x: &[f64], w: &[f64], outputs: usize| -> Vec<f64> {
        let column = |o: usize| {
            x.iter()
                .enumerate()
                .map(|(i, x)| x * w[i * outputs + o])
                .sum()
        };
        (0..outputs).map(column).collect()
    };
    let mut expected = values(&residual);
    for (t, x) in values(&x).chunks(HIDDEN).enumerate() {
        let logits = &logits[t * spec.experts..][..spec.experts];
        let mut order: Vec<usize> = (0..spec.experts).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let chosen = &order[..spec.experts_per_token];
        let sum: f64 = chosen.iter().map(|&e| logits[e].exp()).sum();
        for &e in chosen {
            let gate_up = times(x, &gate_up[e * HIDDEN * 2 * f..][..HIDDEN * 2 * f], 2 * f);
            let h: Vec<f64> = gate_up.chunks(2).map(|p| silu(p[0]) * p[1]).collect();
            let y = times(&h, &down[e * f * HIDDEN..][..f * HIDDEN], HIDDEN);
            for (to, y) in expected[t * HIDDEN..].iter_mut().zip(y) {
                *to += logits[e].exp() / sum * y;
            }
        }
    }
    close(&y, &expected, 1e-5);
}

#[test]
fn experts_without_biases_by_finite_differences() {
    for trained in [true, false] {
        let maker = Maker::new(trained);
        let mixture = maker.mixture(&plain_experts());
        // A router that is frozen has no low-rank update here, whose gradient would be looked for.
        let unused = |param: &Arc<Param>| param.grad().is_none();
        let mlp = Mlp::Mixture(Box::new(mixture));
        back(&mlp);
        maker.params.borrow_mut().retain(|param| !unused(param));
        maker
            .params
            .borrow()
            .iter()
            .for_each(|param| drop(param.take_grad()));
        check(&maker, &mlp);
    }
}

fn input() -> [Tensor; 3] {
    [90, 91, 92].map(|seed| random(seed, &[TOKENS, HIDDEN]))
}

/// Runs backward and returns the gradient by the input.
fn back(mlp: &Mlp) -> Tensor {
    let [x, residual, dy] = input();
    let (_, tape) = mlp
        .forward(&x, Some(&residual), None, &rows(), None)
        .unwrap();
    mlp.backward(tape, &dy, &rows(), None).unwrap()
}

/// Backward, also of a tape that was made again, against differences by the input and by all parameters.
pub(super) fn check(maker: &Maker, mlp: &Mlp) {
    let [x, residual, dy] = input();
    let loss = |x: &Tensor| {
        dot(
            &mlp.forward(x, Some(&residual), None, &rows(), None)
                .unwrap()
                .0,
            &dy,
        )
    };
    let (_, tape) = mlp
        .forward(&x, Some(&residual), None, &rows(), None)
        .unwrap();
    let again = mlp.recompute(&x, tape.decisions(), &rows(), None).unwrap();
    let dx = mlp.backward(tape, &dy, &rows(), None).unwrap();
    finite_differences(&x, &dx, loss);
    maker.check_gradients(|| loss(&x));
    let same = mlp.backward(again, &dy, &rows(), None).unwrap();
    assert_eq!(values(&dx), values(&same));
    maker.check_gradients(|| loss(&x));
}
