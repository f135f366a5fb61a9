//! Makes the sequences of a measurement: their lengths, and random tokens.

use apus_components::config::Lengths;
use apus_model::ops::philox;
use apus_sdk::TokenRow;

/// The stream of random lengths: "leng".
const LENGTHS: u64 = 0x6c65_6e67;
/// The stream of random tokens: "toke".
const TOKENS: u64 = 0x746f_6b65;

/// The lengths of the sequences of a step. Their logarithms are uniform over the range, which is roughly so for
/// conversations: about as many have 64 to 128 tokens as 2,048 to 4,096.
pub fn draw(lengths: &Lengths, count: usize, seed: u64, step: usize) -> Vec<usize> {
    let (shortest, longest) = (lengths.shortest(), lengths.longest());
    let (low, high) = ((shortest as f64).ln(), (longest as f64).ln());
    (0..count)
        .map(|at| {
            let [word, ..] = philox::block(seed, LENGTHS, (step * count + at) as u64);
            let length = (low + f64::from(philox::unit(word)) * (high - low)).exp();
            (length.round() as usize).clamp(shortest, longest)
        })
        .collect()
}

/// Sequences of random tokens; each token is trained with probability `share`.
pub fn rows(
    lengths: &[usize],
    share: f64,
    vocabulary: usize,
    (seed, step): (u64, usize),
) -> Vec<TokenRow> {
    let mut at = (step as u64) << 32;
    let mut row = |&length: &usize| {
        let (mut input_ids, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..length {
            let [word, chance, ..] = philox::block(seed, TOKENS, at);
            at += 1;
            let id = (u64::from(word) * vocabulary as u64) >> 32;
            let trained = f64::from(philox::unit(chance)) < share;
            input_ids.push(id as u32);
            labels.push(if trained { id as i64 } else { -100 });
        }
        TokenRow {
            input_ids,
            labels,
            loss_scale: None,
            channel: None,
        }
    };
    lengths.iter().map(&mut row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ones_are_as_frequent_as_long_ones() {
        let drawn = draw(&"64:4096".parse().unwrap(), 6000, 1, 0);
        assert!(drawn.iter().all(|length| (64..=4096).contains(length)));
        let share = |low: usize, high: usize| {
            drawn.iter().filter(|&&l| l >= low && l < high).count() as f64 / 6000.0
        };
        for (low, high) in [(64, 128), (512, 1024), (2048, 4096)] {
            assert!((share(low, high) - 1.0 / 6.0).abs() < 0.02, "{low}");
        }
        assert_eq!(draw(&Lengths::all_of(7), 2, 1, 0), [7, 7]);
    }

    #[test]
    fn rows_repeat_and_are_trained_in_part() {
        let found = rows(&[500, 300], 0.25, 1000, (3, 4));
        assert_eq!(found, rows(&[500, 300], 0.25, 1000, (3, 4)));
        assert_ne!(found, rows(&[500, 300], 0.25, 1000, (3, 5)));
        let labels: Vec<i64> = found.iter().flat_map(|row| row.labels.clone()).collect();
        let ids: Vec<u32> = found.iter().flat_map(|row| row.input_ids.clone()).collect();
        assert!(ids.iter().all(|&id| id < 1000) && ids.iter().any(|&id| id > 900));
        let trained = labels.iter().filter(|&&label| label >= 0).count();
        assert!((150..250).contains(&trained), "{trained}");
        assert!(rows(&[9], 1.0, 5, (1, 1))[0].labels.iter().all(|&l| l >= 0));
    }
}
