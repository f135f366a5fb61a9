//! Decoders of layers of every kind, with heads of both kinds.

use super::*;
use crate::ops::paged::{HostLayout, PagedLayout};
use crate::ops::testing::close;
use crate::ops::{TokenKey, lora};
use crate::profile::{OpGroup, Recording};

const IDS: [u32; 9] = [3, 7, 1, 3, 0, 11, 5, 5, 2];
const LENGTHS: [usize; 2] = [6, 3];

/// A dense model with a tied head, one with a head of its own, and one with experts in some layers.
fn kinds() -> Vec<Architecture> {
    let layer = |window, mlp| LayerSpec {
        attention: plain_attention(window),
        mlp,
    };
    let dense = MlpSpec::Dense(plain_mlp());
    // All experts are used, since a difference may not change which ones are.
    let experts = MlpSpec::Mixture(MixtureSpec {
        experts_per_token: 5,
        ..plain_experts()
    });
    vec![
        architecture(
            vec![layer(None, dense.clone()), layer(None, dense.clone())],
            true,
        ),
        architecture(
            vec![layer(Some(3), dense.clone()), layer(None, dense)],
            false,
        ),
        architecture(
            vec![
                layer(None, experts.clone()),
                layer(None, MlpSpec::Dense(plain_mlp())),
                layer(Some(2), experts),
            ],
            true,
        ),
    ]
}

fn ids() -> Tensor {
    Tensor::new(&IDS, &Device::Cpu).unwrap()
}

fn seqs() -> SeqLayout {
    SeqLayout::new(&LENGTHS, &Device::Cpu).unwrap()
}

fn options(kept_layers: usize) -> ForwardOptions {
    ForwardOptions {
        training: true,
        kept_layers,
        ..ForwardOptions::default()
    }
}

/// `sum(logits * dlogits)`.
fn loss((decoder, head): &(Decoder, Head), dlogits: &Tensor) -> f64 {
    let (hidden, _) = decoder.forward(&ids(), &seqs(), &options(0)).unwrap();
    let (normed, _) = head.forward(&hidden).unwrap();
    dot(&head.logits(&normed).unwrap(), dlogits)
}

fn backward((decoder, head): &(Decoder, Head), dlogits: &Tensor, kept: usize) {
    let (hidden, pass) = decoder.forward(&ids(), &seqs(), &options(kept)).unwrap();
    let (normed, tape) = head.forward(&hidden).unwrap();
    let dnormed = head.logits_backward(&normed, dlogits).unwrap();
    let dhidden = head.backward(&tape, &dnormed).unwrap();
    let mut parts = Vec::new();
    let mut ready = |part| {
        parts.push(part);
        Ok(())
    };
    decoder.backward(pass, dhidden, 1.0, &mut ready).unwrap();
    let layers = (0..decoder.layers.len()).rev().map(Ready::Layer);
    assert_eq!(parts, layers.chain([Ready::Embedding]).collect::<Vec<_>>());
}

/// A tied head and the embedding are one parameter, whose gradient is the sum of both.
#[test]
fn gradients_by_finite_differences() {
    for spec in kinds() {
        let maker = Maker::new(true);
        let model = maker.decoder(&spec);
        let dlogits = random(90, &[IDS.len(), spec.vocab_size]);
        backward(&model, &dlogits, 0);
        maker.check_gradients(|| loss(&model, &dlogits));
    }
}

#[test]
fn layers_that_run_again_give_the_same_bits() {
    for spec in kinds() {
        for trained in [true, false] {
            let maker = Maker::new(trained);
            let model = maker.decoder(&spec);
            let dlogits = random(90, &[IDS.len(), spec.vocab_size]);
            let run = |kept| {
                backward(&model, &dlogits, kept);
                let params = maker.params.borrow();
                let grads = params.iter().filter_map(|param| param.take_grad());
                grads.map(|grad| values(&grad)).collect::<Vec<_>>()
            };
            let expected = run(spec.layers.len());
            assert!(expected.len() > 10);
            assert_eq!(run(0), expected);
            assert_eq!(run(1), expected);
        }
    }
}

/// As [`backward`], with dropout: the gradients of all parameters.
fn with_dropout(
    maker: &Maker,
    (decoder, head): &mut (Decoder, Head),
    seqs: &SeqLayout,
    kept: usize,
) -> Vec<Vec<f64>> {
    for linear in decoder
        .layers
        .iter_mut()
        .flat_map(DecoderLayer::linears_mut)
    {
        linear.lora.as_mut().unwrap().dropout = 0.4;
    }
    let options = ForwardOptions {
        dropout_seed: Some(5),
        ..options(kept)
    };
    let (hidden, pass) = decoder.forward(&ids(), seqs, &options).unwrap();
    let (normed, tape) = head.forward(&hidden).unwrap();
    let dhidden = head.backward(&tape, &normed).unwrap();
    decoder
        .backward(pass, dhidden, 1.0, &mut |_| Ok(()))
        .unwrap();
    let params = maker.params.borrow();
    let grads = params.iter().filter_map(|param| param.take_grad());
    grads.map(|grad| values(&grad)).collect()
}

#[test]
fn dropout_goes_by_the_example_and_is_the_same_in_layers_that_run_again() {
    for spec in kinds() {
        let maker = Maker::new(false);
        let mut model = maker.decoder(&spec);
        let mut run = |seqs: SeqLayout, kept| with_dropout(&maker, &mut model, &seqs, kept);
        let key = |example| TokenKey { example, place: 0 };
        let at = |examples: [u32; 2]| seqs().beginning_at(examples.map(key).to_vec()).unwrap();
        let expected = run(at([0, 1]), spec.layers.len());
        assert!(expected.len() > 10);
        assert_eq!(run(at([0, 1]), 0), expected);
        assert_eq!(run(at([0, 1]), 1), expected);
        assert_ne!(run(at([0, 2]), 0), expected);
    }
}

#[test]
fn a_cache_gives_what_the_whole_sequence_gives() {
    for spec in kinds() {
        let (decoder, _) = Maker::new(true).decoder(&spec);
        let seqs = SeqLayout::new(&[IDS.len()], &Device::Cpu).unwrap();
        let options = ForwardOptions::default();
        let (whole, _) = decoder.forward(&ids(), &seqs, &options).unwrap();
        let cache = PagedCache::alone(&decoder, IDS.len(), DType::F32).unwrap();
        let found = [0..4, 4..5, 5..IDS.len()].map(|range| {
            let from = range.start;
            decoder.step_alone(&IDS[range], from, &cache).unwrap()
        });
        close(&Tensor::cat(&found, 0).unwrap(), &values(&whole), 1e-5);
    }
}

/// All tokens through the decoder with the same adapter.
fn step(decoder: &Decoder, updates: Option<&RowUpdates>, adapter: u32) -> Tensor {
    let cache = PagedCache::alone(decoder, IDS.len(), DType::F32).unwrap();
    let layout = PagedLayout::new(HostLayout::alone(0..IDS.len()), &Device::Cpu).unwrap();
    let step = Step {
        ids: &IDS,
        layouts: &vec![layout; cache.kinds().len()],
        adapters: &[adapter; IDS.len()],
        updates,
    };
    decoder.step(&step, &cache).unwrap()
}

/// The updates of a decoder's layers as the only adapter, and the decoder without any.
fn taken(decoder: &mut Decoder) -> RowUpdates {
    let stacked = |layers: &[Linear]| {
        let modules = layers.iter().map(|layer| {
            let factors = layer.lora.as_ref().map(|lora| lora::Factors {
                a: lora.a.value(),
                b: lora.b.value(),
            });
            (layer.dims().1, factors)
        });
        let modules: Vec<_> = modules.collect();
        let pack = lora::Pack::new(&modules, 1, 0.7, DType::F32).unwrap();
        lora::RowFactors::stacked(&[None, Some(pack.into_rows())]).unwrap()
    };
    let of_experts = |experts: &ExpertLinear| {
        let own = experts.lora.as_ref().unwrap();
        let factors = lora::Factors {
            a: own.a.value(),
            b: own.b.value(),
        };
        let outputs = experts.dims().2;
        let pack = lora::Pack::new(&[(outputs, Some(factors))], own.experts, 0.7, DType::F32);
        let rows = pack.unwrap().into_rows();
        lora::RowFactors::stacked(&[None, Some(rows)]).unwrap()
    };
    let layers = decoder.layers.iter_mut().map(|layer| {
        let (qkv, output) = (&layer.attention.qkv, &layer.attention.output);
        let (qkv, output) = (stacked(qkv.layers()), stacked(output.layers()));
        let (gate_up, down) = match &mut layer.mlp {
            Mlp::Dense(mlp) => (stacked(mlp.gate_up.layers()), stacked(mlp.down.layers())),
            Mlp::Mixture(mixture) => {
                let updates = (of_experts(&mixture.gate_up), of_experts(&mixture.down));
                (mixture.gate_up.lora, mixture.down.lora) = (None, None);
                updates
            }
        };
        layer.linears_mut().for_each(|linear| linear.lora = None);
        LayerUpdates {
            qkv,
            output,
            gate_up,
            down,
        }
    });
    RowUpdates {
        layers: layers.collect(),
    }
}

/// A decoder with updates of its own, without any, and the updates as an adapter that rows name.
#[test]
fn an_adapter_of_rows_gives_what_the_layers_own_gives() {
    for spec in kinds() {
        let (mut decoder, _) = Maker::new(false).decoder(&spec);
        let run = |decoder: &Decoder, updates, adapter| values(&step(decoder, updates, adapter));
        let own = run(&decoder, None, lora::NO_UPDATE);
        let empty = RowUpdates {
            layers: decoder
                .layers
                .iter()
                .map(|_| LayerUpdates::default())
                .collect(),
        };
        let without = run(&decoder, Some(&empty), lora::NO_UPDATE);
        let updates = taken(&mut decoder);
        assert_eq!(run(&decoder, None, lora::NO_UPDATE), without);
        for (adapter, expected) in [(lora::NO_UPDATE, &without), (0, &without), (1, &own)] {
            let found = run(&decoder, Some(&updates), adapter);
            let gap = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
            assert!(gap.fold(0.0, f64::max) < 1e-4);
        }
        let moved = own.iter().zip(&without).map(|(a, b)| (a - b).abs());
        assert!(moved.fold(0.0, f64::max) > 1e-2);
    }
}

/// What is frozen gets no gradient and ends the pass above it; what is trained gets the bits that it always gets.
#[test]
fn frozen_parameters_cost_no_backward_pass_and_change_no_other_gradient() {
    for spec in kinds() {
        for trained in [true, false] {
            let maker = Maker::new(trained);
            let (decoder, head) = &maker.decoder(&spec);
            let dlogits = random(90, &[IDS.len(), spec.vocab_size]);
            let last = decoder.layers.len() - 1;
            let pass = |lowest: usize| {
                let place = &decoder.lowest_trained;
                place.store(lowest, std::sync::atomic::Ordering::Relaxed);
                let (hidden, pass) = decoder.forward(&ids(), &seqs(), &options(1)).unwrap();
                let (normed, tape) = head.forward(&hidden).unwrap();
                let dnormed = head.logits_backward(&normed, &dlogits).unwrap();
                let dhidden = head.backward(&tape, &dnormed).unwrap();
                let mut parts = Vec::new();
                let mut ready = |part| {
                    parts.push(part);
                    Ok(())
                };
                let recording = Recording::start(&Device::Cpu).unwrap();
                decoder.backward(pass, dhidden, 1.0, &mut ready).unwrap();
                let profile = recording.finish().unwrap();
                let products = [OpGroup::Projections, OpGroup::Experts, OpGroup::Lora];
                let products: usize = products.map(|group| profile.calls(group)).iter().sum();
                let params = maker.params.borrow();
                let grads = params.iter().map(|param| param.take_grad());
                let grads = grads.map(|grad| grad.map(|grad| values(&grad)));
                let calls = (profile.calls(OpGroup::Attention), products);
                (parts, grads.collect::<Vec<_>>(), calls)
            };
            let (_, whole, all) = pass(0);
            // One half of each update, or the weights, of what attention has in the last layer.
            let own = |linear: &Linear| match &linear.lora {
                Some(lora) => lora.b.name().to_owned(),
                None => linear.weight.param().unwrap().name().to_owned(),
            };
            let kept: Vec<String> = decoder.layers[last].attention.linears().map(own).collect();
            for param in maker.params.borrow().iter() {
                param.set_frozen(!kept.iter().any(|name| name == param.name()));
            }
            // Where the embedding is trained the pass goes through all layers, without the products of what is frozen.
            let (_, _, through) = pass(0);
            // Each frozen matrix (of experts: two and the router's), or each half of the updates of what is one product, is a product less.
            let sites = 4 * decoder.layers.len();
            let experts = decoder.layers.iter().filter_map(|l| l.mlp.mixture());
            let linears = decoder.layers.iter().flat_map(DecoderLayer::linears);
            let spared = match trained {
                true => linears.count() + 3 * experts.count() - kept.len(),
                false => 2 * sites - 2,
            };
            assert_eq!(through, (all.0, all.1 - spared), "of {all:?}");
            let (parts, some, above) = pass(last);
            assert!(above.0 < all.0, "{above:?} of {all:?}");
            assert!(above.1 < through.1);
            assert_eq!(parts, [Ready::Layer(last), Ready::Embedding]);
            for ((param, whole), some) in maker.params.borrow().iter().zip(whole).zip(some) {
                match param.is_frozen() {
                    true => assert_eq!(some, None, "{}", param.name()),
                    false => assert_eq!(some, whole, "{}", param.name()),
                }
            }
        }
    }
}
