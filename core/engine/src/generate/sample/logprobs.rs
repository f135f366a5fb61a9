//! Log-probabilities of tokens: the softmax over the model's logits as they are.

use crate::generate::engine::TokenLogprobs;

/// That of `token`, and the `top` most probable tokens with theirs.
pub fn token_logprobs(logits: &[f32], token: u32, top: usize) -> TokenLogprobs {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - most).exp()).sum();
    let logprob = |token: u32| (f64::from(logits[token as usize] - most) - sum.ln()) as f32;
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    let by_size = |a: &u32, b: &u32| {
        let [x, y] = [a, b].map(|token| logits[*token as usize]);
        y.total_cmp(&x).then(a.cmp(b))
    };
    if top > 0 && top < tokens.len() {
        tokens.select_nth_unstable_by(top - 1, by_size);
    }
    tokens.truncate(top);
    tokens.sort_unstable_by(by_size);
    TokenLogprobs {
        logprob: logprob(token),
        top: tokens
            .iter()
            .map(|&token| (token, logprob(token)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_softmax_in_order() {
        let logits = [1.0, 3.0, 2.0, 3.0, -80.0];
        let sum: f64 = logits.iter().map(|&l: &f32| f64::from(l).exp()).sum();
        let expected = |token: u32| (f64::from(logits[token as usize]) - sum.ln()) as f32;
        for top in [0, 1, 3, 5, 9] {
            let found = token_logprobs(&logits, 2, top);
            assert!((found.logprob - expected(2)).abs() < 1e-6);
            let order = [1, 3, 2, 0, 4];
            assert_eq!(found.top.len(), top.min(5));
            for ((token, logprob), order) in found.top.iter().zip(order) {
                assert_eq!(*token, order);
                assert!((logprob - expected(order)).abs() < 1e-6);
            }
        }
    }
}
