//! A sharded base of dense models, whose head may be the embedding, with two ranks in one process.

use super::{CausalLm, LoadOptions};
use crate::device::{Queued, SideStream};
use crate::families::ModelConfig;
use crate::families::testing::dense;
use crate::nn::{ForwardOptions, Gather, Sharding};
use crate::ops::SeqLayout;
use crate::synthetic::SyntheticWeights;
use candle_core::{Device, Tensor};
use std::cell::RefCell;
use std::rc::Rc;

/// Gathers one unit after another of both ranks; the test makes the passes of both in turn.
struct Peers {
    rank: usize,
    parts: Rc<RefCell<Vec<Vec<Vec<Tensor>>>>>,
}

impl Gather for Peers {
    fn start(&self, own: &[Tensor]) -> anyhow::Result<Vec<(Tensor, Queued)>> {
        let ranks = self.parts.borrow();
        let mut units = ranks[self.rank].iter();
        let unit = units.position(|unit| unit[0].id() == own[0].id()).unwrap();
        let gathered = (0..own.len()).map(|flat| {
            let parts = ranks.iter().map(|rank| rank[unit][flat].clone());
            let parts: Vec<Tensor> = parts.collect();
            let stream = SideStream::new(&Device::Cpu)?;
            Ok((Tensor::cat(&parts, 0)?, stream.queue(0, |_| Ok(()))?))
        });
        gathered.collect()
    }

    fn arrive(&self, _: &Queued) -> anyhow::Result<()> {
        Ok(())
    }

    fn lead(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

fn sharded(config: &ModelConfig, source: &SyntheticWeights) -> [CausalLm; 2] {
    let parts = Rc::<RefCell<Vec<Vec<Vec<Tensor>>>>>::default();
    [0, 1].map(|rank| {
        let gather = Peers {
            rank,
            parts: Rc::clone(&parts),
        };
        let options = LoadOptions {
            sharding: Some(Sharding {
                rank,
                ranks: 2,
                gather: Rc::new(gather),
            }),
            ..LoadOptions::frozen(&Device::Cpu)
        };
        let model = CausalLm::load(config, source, &options, |_| {}).unwrap();
        let units = model.decoder().units.as_ref().unwrap().all().iter();
        let kept = units.map(|unit| unit.parts().to_vec()).collect();
        parts.borrow_mut().push(kept);
        model
    })
}

/// Logits; nothing is trained, so of the backward pass it is seen that it finds its weights.
fn logits(model: &CausalLm) -> Vec<f32> {
    let ids = Tensor::new(&[3u32, 1, 4, 1, 5, 9, 2], &Device::Cpu).unwrap();
    let seqs = SeqLayout::new(&[4, 3], &Device::Cpu).unwrap();
    let options = ForwardOptions {
        training: true,
        ..ForwardOptions::default()
    };
    let (hidden, pass) = model.decoder().forward(&ids, &seqs, &options).unwrap();
    let (normed, _) = model.head().forward(&hidden).unwrap();
    let logits = model.head().logits(&normed).unwrap();
    let dnormed = model.head().logits_backward(&normed, &logits).unwrap();
    let ready = &mut |_| Ok(());
    model.decoder().backward(pass, dnormed, 0.0, ready).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn dense_layers_and_a_tied_head() {
    for tied in [false, true] {
        let config = dense(tied);
        let source = SyntheticWeights::new(&config, 1);
        let options = LoadOptions::frozen(&Device::Cpu);
        let whole = CausalLm::load(&config, &source, &options, |_| {}).unwrap();
        let expected = logits(&whole);
        for model in sharded(&config, &source) {
            let units = model.decoder().units.as_ref().unwrap().all().len();
            // A head that is the embedding is looked up, too, and stays whole.
            let layers = config.architecture.layers.len();
            assert_eq!(units, layers + usize::from(!tied));
            assert!(logits(&model) == expected, "tied: {tied}");
            assert!(model.weight_bytes() < whole.weight_bytes());
        }
    }
}
