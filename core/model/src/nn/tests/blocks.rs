//! Tuners around layers, MLPs and experts, and in the matrices of experts.

use super::*;
use apus_sdk::LayerKind;

const IDS: [u32; 9] = [3, 7, 1, 3, 0, 11, 5, 5, 2];

/// `input = x * p0 + tanh(x)`, `output = y + (tanh(x) * y) p1`: what it gives grows no faster than the layer's own output, so that
/// differences over three layers stay small.
#[derive(Debug)]
struct Mixing;

impl Tuning for Mixing {
    fn input(&self, x: &Tensor, params: &[Tensor]) -> anyhow::Result<Tensor> {
        Ok((x.broadcast_mul(&params[0])? + x.tanh()?)?)
    }

    fn output(&self, x: &Tensor, y: &Tensor, params: &[Tensor]) -> anyhow::Result<Tensor> {
        Ok((y + (x.tanh()? * y)?.matmul(&params[1])?)?)
    }

    fn tuner(&self) -> &str {
        "mixing"
    }

    fn widths(&self) -> (usize, usize) {
        (HIDDEN, HIDDEN)
    }
}

/// The same for a matrix `[O, I]`: `output = y + tanh(y) * (tanh(x) p1)`.
#[derive(Debug)]
struct Gating((usize, usize));

impl Tuning for Gating {
    fn input(&self, x: &Tensor, params: &[Tensor]) -> anyhow::Result<Tensor> {
        Mixing.input(x, params)
    }

    fn output(&self, x: &Tensor, y: &Tensor, params: &[Tensor]) -> anyhow::Result<Tensor> {
        Ok((y + (y.tanh()? * x.tanh()?.matmul(&params[1])?)?)?)
    }

    fn tuner(&self) -> &str {
        "gating"
    }

    fn widths(&self) -> (usize, usize) {
        self.0
    }
}

/// Where a decoder has tuners.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Around blocks of a kind.
    Block(LayerKind),
    /// In both matrices of each expert.
    Matrices,
}

use Place::{Block, Matrices};

/// Tuners in both matrices of each expert, which have parameters of their own.
fn tune_matrices(maker: &Maker, mixture: &mut Mixture) {
    let part = |shape: &[usize]| maker.param(&maker.tensor(shape, 0.2));
    for matrix in [&mut mixture.gate_up, &mut mixture.down] {
        let (experts, inputs, outputs) = matrix.dims();
        matrix.lora = None;
        matrix.tuned = Some(Tuned {
            module: "matrix".to_owned(),
            tuning: Arc::new(Gating((inputs, outputs))),
            params: vec![part(&[experts, inputs]), part(&[experts, inputs, outputs])],
        });
    }
}

/// Gradients by the input, by the router, by the matrices and by the tuners' parameters, where some experts have rows and others none.
#[test]
fn matrices_of_experts_by_finite_differences() {
    for trained in [true, false] {
        let maker = Maker::new(trained);
        let mut mixture = maker.mixture(&MixtureSpec {
            bias: true,
            ..plain_experts()
        });
        tune_matrices(&maker, &mut mixture);
        if !trained {
            let of_tuners = mixture.tuners().flat_map(|tuned| tuned.params.clone());
            *maker.params.borrow_mut() = of_tuners.collect();
        }
        super::mlp::check(&maker, &Mlp::Mixture(Box::new(mixture)));
    }
}

/// A matrix computes with a tuner, expert by expert, what a linear layer does.
#[test]
fn a_matrix_of_experts_is_a_linear_layer_of_each() {
    let maker = Maker::new(false);
    let mut mixture = maker.mixture(&plain_experts());
    tune_matrices(&maker, &mut mixture);
    let matrix = &mixture.gate_up;
    let (_, inputs, _) = matrix.dims();
    let x = random(80, &[6, inputs]);
    // The second expert has no rows.
    let groups = crate::ops::Groups::new(&[0, 2, 2, 3, 5, 6], &Device::Cpu).unwrap();
    let (y, _) = matrix.forward(&x, &groups).unwrap();
    let tuned = matrix.tuned.as_ref().unwrap();
    for (expert, rows) in groups.filled().unwrap() {
        let params = tuned.params.iter().map(|param| {
            let own = param.value().get(expert).unwrap();
            Param::new("own", &own, true).unwrap()
        });
        let linear = Linear {
            name: "linear".to_owned(),
            weight: Weight::Frozen(matrix.matrix_of(expert).unwrap()),
            bias: None,
            lora: None,
            tuned: Some(Tuned {
                params: params.collect(),
                ..tuned.clone()
            }),
        };
        let of = |all: &Tensor| all.narrow(0, rows.start, rows.len()).unwrap();
        let (alone, _) = linear.forward(&of(&x), None).unwrap();
        crate::ops::testing::close(&of(&y), &values(&alone), 1e-5);
    }
}

/// A layer with a dense MLP and one with experts, all of which are used, since a difference may not change which ones are.
fn spec() -> Architecture {
    let layer = |mlp| LayerSpec {
        attention: plain_attention(None),
        mlp,
    };
    let experts = MixtureSpec {
        experts_per_token: 5,
        ..plain_experts()
    };
    let experts = || layer(MlpSpec::Mixture(experts.clone()));
    architecture(
        vec![experts(), layer(MlpSpec::Dense(plain_mlp())), experts()],
        true,
    )
}

fn seqs() -> SeqLayout {
    SeqLayout::new(&[6, 3], &Device::Cpu).unwrap()
}

fn ids() -> Tensor {
    Tensor::new(&IDS, &Device::Cpu).unwrap()
}

/// A frozen decoder with tuners around all its blocks of these kinds.
fn decoder(maker: &Maker, kinds: &[Place]) -> (Decoder, Head) {
    let (mut decoder, head) = maker.decoder(&spec());
    let part = |shape: &[usize]| maker.param(&maker.tensor(shape, 0.2));
    for layer in &mut decoder.layers {
        layer.linears_mut().for_each(|linear| linear.lora = None);
        if let Mlp::Mixture(mixture) = &mut layer.mlp {
            (mixture.gate_up.lora, mixture.down.lora) = (None, None);
        }
        for kind in kinds {
            let kind = match (kind, &mut layer.mlp) {
                (Block(kind), _) => *kind,
                (Matrices, Mlp::Mixture(mixture)) => {
                    tune_matrices(maker, mixture);
                    continue;
                }
                (Matrices, Mlp::Dense(_)) => continue,
            };
            if let Some(place) = layer.tuner_of_block(kind) {
                *place = Some(Tuned {
                    module: format!("{kind:?}"),
                    tuning: Arc::new(Mixing),
                    params: vec![part(&[HIDDEN]), part(&[HIDDEN, HIDDEN])],
                });
            }
        }
    }
    (decoder, head)
}

fn options(kept_layers: usize, aux_coef: f64) -> ForwardOptions {
    ForwardOptions {
        training: true,
        kept_layers,
        aux_coef,
        ..ForwardOptions::default()
    }
}

/// `sum(hidden * dhidden)`, with the auxiliary loss.
fn loss(decoder: &Decoder, dhidden: &Tensor, aux_coef: f64) -> f64 {
    let (hidden, pass) = decoder
        .forward(&ids(), &seqs(), &options(0, aux_coef))
        .unwrap();
    dot(&hidden, dhidden) + aux_coef * pass.aux_loss().unwrap_or(0.0)
}

fn backward(decoder: &Decoder, dhidden: &Tensor, kept: usize, aux_coef: f64) {
    let (_, pass) = decoder
        .forward(&ids(), &seqs(), &options(kept, aux_coef))
        .unwrap();
    decoder
        .backward(pass, dhidden.clone(), 1.0, &mut |_| Ok(()))
        .unwrap();
}

const KINDS: [&[Place]; 6] = [
    &[Block(LayerKind::Decoder)],
    &[Block(LayerKind::Mlp)],
    &[Block(LayerKind::Experts)],
    &[Matrices],
    &[Block(LayerKind::Experts), Matrices],
    &[
        Block(LayerKind::Decoder),
        Block(LayerKind::Mlp),
        Block(LayerKind::Experts),
    ],
];

/// The parameters of lower layers see those of higher ones through the gradients by their inputs.
#[test]
fn gradients_by_finite_differences() {
    for kinds in KINDS {
        let maker = Maker::new(false);
        let (decoder, _) = decoder(&maker, kinds);
        let layers = decoder.layers.iter().flat_map(DecoderLayer::tuners);
        let of_tuners: Vec<Arc<Param>> = layers.flat_map(|tuned| tuned.params.clone()).collect();
        assert!(of_tuners.len() >= 4, "{kinds:?}");
        *maker.params.borrow_mut() = of_tuners;
        let dhidden = random(90, &[IDS.len(), HIDDEN]);
        for aux_coef in [0.0, 0.3] {
            backward(&decoder, &dhidden, 0, aux_coef);
            maker.check_gradients(|| loss(&decoder, &dhidden, aux_coef));
            maker
                .params
                .borrow()
                .iter()
                .for_each(|param| drop(param.take_grad()));
        }
    }
}

#[test]
fn layers_that_run_again_give_the_same_bits() {
    for kinds in KINDS {
        let maker = Maker::new(false);
        let (decoder, _) = decoder(&maker, kinds);
        let dhidden = random(90, &[IDS.len(), HIDDEN]);
        let run = |kept| {
            backward(&decoder, &dhidden, kept, 0.3);
            let params = maker.params.borrow();
            let grads = params.iter().filter_map(|param| param.take_grad());
            grads.map(|grad| values(&grad)).collect::<Vec<_>>()
        };
        let expected = run(3);
        assert!(expected.len() >= 4);
        assert_eq!(run(0), expected);
        assert_eq!(run(1), expected);
    }
}

/// A step of generation computes what a pass does, all tokens at once or one after another.
#[test]
fn a_step_gives_what_a_pass_does() {
    for kinds in KINDS {
        let (decoder, _) = decoder(&Maker::new(false), kinds);
        let seqs = SeqLayout::new(&[IDS.len()], &Device::Cpu).unwrap();
        let (whole, _) = decoder
            .forward(&ids(), &seqs, &ForwardOptions::default())
            .unwrap();
        for at_once in [IDS.len(), 1] {
            let cache = PagedCache::alone(&decoder, IDS.len(), DType::F32).unwrap();
            let mut found = Vec::new();
            for (at, ids) in IDS.chunks(at_once).enumerate() {
                let hidden = decoder.step_alone(ids, at * at_once, &cache).unwrap();
                found.extend(values(&hidden));
            }
            for (found, expected) in found.iter().zip(values(&whole)) {
                let gap = (found - expected).abs();
                assert!(
                    gap < 1e-4 * (1.0 + expected.abs()),
                    "{kinds:?}: {found} {expected}"
                );
            }
        }
    }
}
