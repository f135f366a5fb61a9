//! Steps of few rows against steps of any tokens, on the CPU and, with the feature `cuda`, on a card.

use apus_model::model::{CausalLm, LoadOptions, UpdateSet};
use apus_model::nn::few_rows::{FewRows, Rows};
use apus_model::nn::{PagedCache, RowUpdates, Step};
use apus_model::ops::fill;
use apus_model::ops::lora::{Factors, NO_UPDATE};
use apus_model::ops::paged::{HostLayout, PAGE, PagedLayout};
use apus_model::synthetic::{SyntheticWeights, config};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

const POSITIONS: usize = 640;
const SIZES: &str = "num_hidden_layers=4&hidden_size=256&intermediate_size=192&num_local_experts=8&vocab_size=520&\
    num_attention_heads=8&num_key_value_heads=2";

/// The CPU, and the first card if there is one.
fn devices() -> Vec<Device> {
    let mut devices = vec![Device::Cpu];
    if cfg!(feature = "cuda") {
        match apus_model::device::open("cuda") {
            Ok(card) => devices.push(card),
            Err(error) if std::env::var_os("APUS_REQUIRE_CUDA").is_some() => panic!("{error:#}"),
            Err(error) => println!("skipped on a card: no CUDA device ({error:#})"),
        }
    }
    devices
}

/// A small model of random weights, in the compute type of the device.
fn model(format: &str, device: &Device) -> CausalLm {
    // On a card all experts are used, since its rounding may change which ones are chosen.
    let chosen = if device.is_cpu() { 3 } else { 8 };
    let arch = format!(
        "gpt-oss-20b?format={format}&{SIZES}&num_experts_per_tok={chosen}&experts_per_token={chosen}"
    );
    let config = config(&arch).unwrap();
    let options = LoadOptions::frozen(device);
    CausalLm::load(
        &config,
        &SyntheticWeights::new(&config, 7),
        &options,
        |_| {},
    )
    .unwrap()
}

/// Two adapters of random numbers: one of attention, and one of another rank of experts too.
fn updates(model: &CausalLm) -> RowUpdates {
    let random = |seed: u64, shape: (usize, usize)| {
        fill::normal(shape, 0.05, (seed, 3), DType::F32, model.device()).unwrap()
    };
    let set = |rank: usize, with_experts: bool| {
        let mut factors = BTreeMap::new();
        for (at, linear) in model.linears().enumerate() {
            let (inputs, outputs) = linear.dims();
            let a = random(at as u64, (rank, inputs));
            let b = random(at as u64 + 100, (outputs, rank));
            factors.insert(linear.name.clone(), Factors { a, b });
        }
        let layers = model.decoder().layers.iter();
        let experts = layers.flat_map(|layer| layer.mlp.experts());
        for (at, linear) in experts.enumerate().filter(|_| with_experts) {
            let (experts, inputs, outputs) = linear.dims();
            let a = random(at as u64 + 200, (rank * experts, inputs));
            let b = random(at as u64 + 300, (outputs, rank * experts));
            factors.insert(linear.name.clone(), Factors { a, b });
        }
        UpdateSet {
            scale: 2.0,
            factors,
        }
    };
    let sets = [set(4, false), set(12, true)];
    model.stacked(&sets.each_ref().map(Some)).unwrap()
}

/// Sequences with the tokens that they have so far, and the first of the pages of each.
#[derive(Clone)]
struct Sequences(Vec<(Vec<u32>, usize)>);

impl Sequences {
    /// Sequences of these lengths.
    fn new(lengths: &[usize]) -> Self {
        let tokens = |n: usize| (0..n).map(|at| ((at * 37 + n) % 500) as u32).collect();
        let sequences = lengths.iter().enumerate();
        let pages = POSITIONS / PAGE;
        Self(sequences.map(|(at, &n)| (tokens(n), at * pages)).collect())
    }

    /// Adds a token to each.
    fn grow(&mut self, round: usize) {
        for (at, (tokens, _)) in self.0.iter_mut().enumerate() {
            tokens.push(((round * 5 + at * 3) % 500) as u32);
        }
    }

    fn layout(&self, new: &[usize]) -> HostLayout {
        let mut layout = HostLayout::new();
        for ((tokens, first), new) in self.0.iter().zip(new) {
            for position in tokens.len() - new..tokens.len() {
                layout.positions.push(position as u32);
                layout.slots.push((first * PAGE + position) as u32);
            }
            layout.starts.push(layout.positions.len() as u32);
            layout.lengths.push(tokens.len() as u32);
            let pages = *first..first + POSITIONS / PAGE;
            layout.pages.extend(pages.map(|page| page as u32));
        }
        layout
    }

    fn ids(&self, new: &[usize]) -> Vec<u32> {
        let last = self.0.iter().zip(new);
        last.flat_map(|((tokens, _), new)| tokens[tokens.len() - new..].to_vec())
            .collect()
    }

    /// The adapter of each new token: that of its sequence, or none.
    fn adapters(&self, new: &[usize], updates: Option<&RowUpdates>) -> Vec<u32> {
        let of = |first: usize| match (first / (POSITIONS / PAGE) % 3, updates) {
            (adapter @ 0..2, Some(_)) => adapter as u32,
            _ => NO_UPDATE,
        };
        let all = self.0.iter().zip(new);
        all.flat_map(|((_, first), &new)| vec![of(*first); new])
            .collect()
    }

    /// The logits behind the last of the new tokens of each sequence, by the step for any tokens.
    fn step(
        &self,
        model: &CausalLm,
        updates: Option<&RowUpdates>,
        cache: &PagedCache,
        new: &[usize],
    ) -> Vec<f32> {
        let device = model.device();
        let layout = PagedLayout::new(self.layout(new), device).unwrap();
        let ids = self.ids(new);
        let step = Step {
            ids: &ids,
            layouts: &vec![layout.clone(); cache.kinds().len()],
            adapters: &self.adapters(new, updates),
            updates,
        };
        let hidden = model.decoder().step(&step, cache).unwrap();
        let ends = layout.host().starts[1..].iter().map(|end| end - 1);
        let last = Tensor::new(ends.collect::<Vec<u32>>().as_slice(), device).unwrap();
        let rows = hidden.index_select(&last, 0).unwrap();
        let (normed, _) = model.head().forward(&rows).unwrap();
        values(&model.head().logits(&normed).unwrap())
    }

    /// The same behind one token of each, by the step of few rows.
    fn few(&self, few: &mut FewRows, updates: Option<&RowUpdates>, cache: &PagedCache) -> Vec<f32> {
        let new = vec![1; self.0.len()];
        let rows = Rows {
            ids: &self.ids(&new),
            layouts: &vec![self.layout(&new); cache.kinds().len()],
            adapters: &self.adapters(&new, updates),
        };
        values(&few.logits(rows, updates, cache).unwrap().unwrap())
    }
}

fn values(logits: &Tensor) -> Vec<f32> {
    let logits = logits.to_dtype(DType::F32).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

fn cache(model: &CausalLm, sequences: usize) -> PagedCache {
    let pages = vec![sequences * POSITIONS / PAGE; model.decoder().cache_kinds().len()];
    PagedCache::new(model.decoder(), &pages, model.dtype()).unwrap()
}

/// Checks that two steps have the same logits, up to the rounding of the device.
fn close(found: &[f32], expected: &[f32], device: &Device) {
    assert_eq!(found.len(), expected.len());
    let most = expected
        .iter()
        .fold(0f32, |most, logit| most.max(logit.abs()));
    let bound = if device.is_cpu() { 2e-5 } else { 0.03 * most };
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= bound,
            "{found} {expected}, bound {bound}"
        );
    }
}

#[test]
fn steps_of_few_rows_are_steps() {
    for device in devices() {
        for (format, with_updates) in [("mxfp4", false), ("bf16", false), ("mxfp4", true)] {
            for lengths in [&[3, 140, 17, 600][..], &[1], &[20; 70]] {
                let model = model(format, &device);
                let updates = with_updates.then(|| updates(&model));
                let updates = updates.as_ref();
                let (own, plain) = (cache(&model, lengths.len()), cache(&model, lengths.len()));
                let mut few = model.few_rows((lengths.len(), POSITIONS), false);
                let few = few.as_mut().unwrap().as_mut().unwrap();
                let mut sequences = Sequences::new(lengths);
                for cache in [&own, &plain] {
                    sequences.step(&model, updates, cache, lengths);
                }
                for round in 0..5 {
                    // The last ones end, which leaves a step of fewer rows.
                    sequences
                        .0
                        .truncate(lengths.len() - round / 3 * (lengths.len() / 2));
                    sequences.grow(round);
                    let new = vec![1; sequences.0.len()];
                    let expected = sequences.step(&model, updates, &plain, &new);
                    close(&sequences.few(few, updates, &own), &expected, &device);
                }
            }
        }
    }
}

/// On the CPU the products of a step depend on how many rows there are; there the engine computes each row alone.
#[test]
fn on_a_card_a_row_has_the_same_bits_alone_and_among_others() {
    for device in devices().iter().filter(|device| !device.is_cpu()) {
        for format in ["mxfp4", "bf16"] {
            let model = model(format, device);
            let updates = updates(&model);
            let updates = Some(&updates);
            let lengths: Vec<usize> = (0..130).map(|at| 1 + at * 37 % 600).collect();
            let cache = cache(&model, lengths.len());
            let mut few = model.few_rows((lengths.len(), POSITIONS), true);
            let few = few.as_mut().unwrap().as_mut().unwrap();
            let mut sequences = Sequences::new(&lengths);
            sequences.step(&model, updates, &cache, &lengths);
            sequences.grow(0);
            let all = sequences.few(few, updates, &cache);
            let vocabulary = all.len() / lengths.len();
            for count in [1, 2, 7, 31, 60] {
                let part = Sequences(sequences.0[count..2 * count].to_vec());
                let again = part.few(few, updates, &cache);
                let expected = &all[count * vocabulary..2 * count * vocabulary];
                assert!(again == expected, "{count} rows, {format}");
            }
        }
    }
}
