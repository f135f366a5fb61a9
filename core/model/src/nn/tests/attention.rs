//! Attention alone, with everything that is optional there and not there.

use super::*;
use crate::ops::testing::close;

const LENGTHS: [usize; 3] = [5, 1, 4];

/// Every choice of sinks, norms of queries and keys, biases and a window.
fn kinds() -> impl Iterator<Item = AttentionSpec> {
    (0..16).map(|bits| AttentionSpec {
        heads: HEADS,
        window: (bits & 1 > 0).then_some(3),
        sinks: bits & 2 > 0,
        qk_norms: bits & 4 > 0,
        qkv_bias: bits & 8 > 0,
        output_bias: bits & 8 > 0,
    })
}

/// One head, normed if there is a norm, and rotated to its position.
fn head(x: &[f64], norm: Option<&Norm>, position: usize) -> Vec<f64> {
    let mut x = x.to_vec();
    if let Some(norm) = norm {
        let square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let weight = values(&norm.weight.get(DType::F32).unwrap());
        for (x, w) in x.iter_mut().zip(weight) {
            *x *= w / (square + norm.eps).sqrt();
        }
    }
    let half = x.len() / 2;
    let mut out = x.clone();
    for i in 0..half {
        let frequency = 10_000f64.powf(-(i as f64) / half as f64);
        let (sin, cos) = (position as f64 * frequency).sin_cos();
        out[i] = x[i] * cos - x[i + half] * sin;
        out[i + half] = x[i + half] * cos + x[i] * sin;
    }
    out
}

/// The whole half-layer in f64: projections, norms, rotation, a softmax over the visible keys and the sink.
fn reference(block: &Attention, x: &[f64]) -> Vec<f64> {
    let Heads { q, kv, dim } = HEADS;
    let [queries, keys, values_of] = [0, 1, 2].map(|at| product(x, &block.qkv.layers()[at]));
    let sinks = block
        .sinks
        .as_ref()
        .map(|s| values(&s.get(DType::F32).unwrap()));
    let norms = block.qk_norms.as_ref();
    let mut out = vec![0.0; x.len() / HIDDEN * q * dim];
    let mut start = 0;
    for length in LENGTHS {
        for i in 0..length {
            for h in 0..q {
                let row = |data: &[f64], t: usize, heads: usize, h: usize| {
                    data[((start + t) * heads + h) * dim..][..dim].to_vec()
                };
                let query = head(&row(&queries, i, q, h), norms.map(|n| &n.q_norm), i);
                let first = block
                    .window
                    .map_or(0, |window| (i + 1).saturating_sub(window));
                let score = |j: usize| {
                    let key = head(&row(&keys, j, kv, h / 2), norms.map(|n| &n.k_norm), j);
                    let dot: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                    (dot / (dim as f64).sqrt()).exp()
                };
                let sink = sinks.as_ref().map_or(0.0, |sinks| sinks[h].exp());
                let total: f64 = sink + (first..=i).map(score).sum::<f64>();
                for j in first..=i {
                    let p = score(j) / total;
                    for (d, v) in row(&values_of, j, kv, h / 2).into_iter().enumerate() {
                        out[((start + i) * q + h) * dim + d] += p * v;
                    }
                }
            }
        }
        start += length;
    }
    product(&out, &block.output.layers()[0])
}

#[test]
fn forward_by_the_formula() {
    let spec = architecture(Vec::from([layer(plain_attention(None))]), true);
    let batch = batch(&LENGTHS, &spec);
    for kind in kinds() {
        for trained in [true, false] {
            let block = Maker::new(trained).attention(&kind);
            let x = random(90, &[batch.seqs.tokens(), HIDDEN]);
            let (y, _) = block.forward(&x, &batch, None).unwrap();
            close(&y, &reference(&block, &values(&x)), 1e-4);
        }
    }
}

fn layer(attention: AttentionSpec) -> LayerSpec {
    LayerSpec {
        attention,
        mlp: MlpSpec::Dense(plain_mlp()),
    }
}

#[test]
fn backward_by_finite_differences() {
    let spec = architecture(Vec::from([layer(plain_attention(None))]), true);
    let batch = batch(&LENGTHS, &spec);
    let shape = [batch.seqs.tokens(), HIDDEN];
    for (number, kind) in kinds().enumerate() {
        // Of two kinds that differ in the window alone, one is trained and one has low-rank updates.
        let maker = Maker::new((number + number / 2) % 2 == 0);
        let block = maker.attention(&kind);
        let (x, dy) = (random(90, &shape), random(91, &shape));
        let loss = |x: &Tensor| dot(&block.forward(x, &batch, None).unwrap().0, &dy);
        let (_, tape) = block.forward(&x, &batch, None).unwrap();
        let dx = block.backward(tape, &batch, &dy).unwrap();
        finite_differences(&x, &dx, loss);
        maker.check_gradients(|| loss(&x));
    }
}
