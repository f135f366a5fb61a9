//! NEFTune (Jain et al., 2023) adds noise to the embeddings in training, as the hook of transformers does. The noise of a token
//! follows from where it stands in its step, as its dropout does.

use crate::ops::{SeqLayout, TokenKey, philox};
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

/// The stream of random numbers of the noise, "neft" in ASCII. Dropout with the same seed uses another stream.
const STREAM: u32 = 0x6e65_6674;

/// The noise of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neftune {
    /// `neftune_noise_alpha`.
    pub alpha: f64,
    /// The seed of the step. The same seed gives the same noise, in a resumed run too.
    pub seed: u64,
}

impl Neftune {
    /// Adds uniform noise to the embeddings `[T, H]`, between plus and minus `alpha / sqrt(L H)`. `L` is the number of
    /// tokens of a sequence; in transformers it is the padded length of the batch. The gradient by the embeddings is the
    /// gradient by the sum, so the backward pass has nothing to do.
    pub(super) fn add(&self, embeddings: &Tensor, seqs: &SeqLayout) -> Result<Tensor> {
        let noise = self.noise(embeddings.dims2()?.1, seqs, embeddings.device())?;
        let sum = embeddings.to_dtype(DType::F32)?.add(&noise)?;
        Ok(sum.to_dtype(embeddings.dtype())?)
    }

    fn noise(&self, width: usize, seqs: &SeqLayout, device: &Device) -> Result<Tensor> {
        let bounds = seqs.ranges().flat_map(|(start, end)| {
            let numbers = ((end - start) * width) as f64;
            std::iter::repeat_n((self.alpha / numbers.sqrt()) as f32, end - start)
        });
        let tokens: Vec<(TokenKey, f32)> = seqs.keys().zip(bounds).collect();
        let mut noise = vec![0f32; tokens.len() * width];
        let rows = noise.par_chunks_mut(width.max(1)).zip(&tokens);
        rows.for_each(|(row, &(token, bound))| {
            for (block, four) in row.chunks_mut(4).enumerate() {
                let words = philox::token_block(self.seed, STREAM, token, block as u32);
                for (x, word) in four.iter_mut().zip(words) {
                    *x = (2.0 * philox::unit(word) - 1.0) * bound;
                }
            }
        });
        Ok(Tensor::from_vec(noise, (tokens.len(), width), device)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(alpha: f64, seed: u64, lengths: &[usize], width: usize) -> Vec<Vec<f32>> {
        let seqs = SeqLayout::new(lengths, &Device::Cpu).unwrap();
        let noise = Neftune { alpha, seed }.noise(width, &seqs, &Device::Cpu);
        noise.unwrap().to_vec2().unwrap()
    }

    #[test]
    fn each_sequence_has_uniform_noise_by_its_own_length() {
        let (lengths, width) = ([7, 300, 50], 256);
        let noise = noise(5.0, 3, &lengths, width);
        let mut rows = noise.iter();
        for length in lengths {
            let of: Vec<f64> = rows
                .by_ref()
                .take(length)
                .flatten()
                .map(|&x| f64::from(x))
                .collect();
            let bound = 5.0 / ((length * width) as f64).sqrt();
            let count = of.len() as f64;
            let mean = of.iter().sum::<f64>() / count;
            let square = of.iter().map(|x| x * x).sum::<f64>() / count;
            let most = of.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            assert!(
                most <= bound && most > 0.99 * bound,
                "{length}: {most} of {bound}"
            );
            // Five standard errors of the mean and of the mean square of a uniform number.
            assert!(
                mean.abs() < 5.0 * bound / (3.0 * count).sqrt(),
                "{length}: mean {mean}"
            );
            let expected = bound * bound / 3.0;
            let error = 5.0 * bound * bound * (4.0 / 45.0 / count).sqrt();
            assert!(
                (square - expected).abs() < error,
                "{length}: {square}, expected {expected}"
            );
        }
        assert!(rows.next().is_none());
    }

    #[test]
    fn a_seed_gives_the_same_noise_and_another_seed_another() {
        let of = |alpha, seed| noise(alpha, seed, &[4, 9], 16);
        assert_eq!(of(5.0, 1), of(5.0, 1));
        assert_ne!(of(5.0, 1), of(5.0, 2));
        let twice: Vec<f32> = of(5.0, 1).concat().iter().map(|x| 2.0 * x).collect();
        assert_eq!(of(10.0, 1).concat(), twice);
    }

    #[test]
    fn a_sequence_has_the_same_noise_alone_and_among_others() {
        let neftune = Neftune {
            alpha: 5.0,
            seed: 1,
        };
        let noise = |lengths: &[usize], examples: &[u32]| {
            let key = |&example: &u32| TokenKey { example, place: 2 };
            let seqs = SeqLayout::new(lengths, &Device::Cpu).unwrap();
            let seqs = seqs
                .beginning_at(examples.iter().map(key).collect())
                .unwrap();
            let noise = neftune.noise(6, &seqs, &Device::Cpu).unwrap();
            noise.to_vec2::<f32>().unwrap()
        };
        let all = noise(&[4, 9, 2], &[0, 1, 2]);
        assert_eq!(all[4..13], noise(&[9], &[1]));
        assert_eq!(all[4..], noise(&[9, 2], &[1, 2]));
        assert_ne!(all[4..13], noise(&[9], &[3]));
    }

    #[test]
    fn noise_is_added_in_the_type_of_the_embeddings() {
        let seqs = SeqLayout::new(&[3], &Device::Cpu).unwrap();
        let neftune = Neftune {
            alpha: 1.0,
            seed: 1,
        };
        for dtype in [DType::F32, DType::BF16] {
            let embeddings = Tensor::ones((3, 8), dtype, &Device::Cpu).unwrap();
            let sum = neftune.add(&embeddings, &seqs).unwrap();
            assert_eq!((sum.dtype(), sum.dims()), (dtype, &[3, 8][..]));
            let noise = neftune.noise(8, &seqs, &Device::Cpu).unwrap();
            let expected = (noise + 1.0).unwrap().to_dtype(dtype).unwrap();
            let values = |t: &Tensor| t.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(values(&sum), values(&expected));
        }
    }
}
