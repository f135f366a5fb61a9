//! Metrics: pairs of texts, characters as tokens.

use crate::{Decoder, Error, EvalBatch, Metric, Result, TextPair};

/// Stands where the shorter text of a pair has ended. A special token: it decodes to nothing.
const END: u32 = u32::MAX;

/// Values of a metric over pairs of (reference, prediction), in one batch.
///
/// Every character is a token. The shorter text of a pair is filled up with a token that is none of
/// its characters and decodes to nothing. All weights are 1; the loss of a token is 0 where the
/// prediction is right and 1 where it is not.
///
/// # Errors
/// Those of the metric.
pub fn measure(metric: &mut dyn Metric, pairs: &[(&str, &str)]) -> Result<Vec<(String, f64)>> {
    let (mut labels, mut predictions, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
    for (reference, prediction) in pairs {
        let length = reference.chars().count().max(prediction.chars().count());
        labels.extend(tokens(reference, length));
        predictions.extend(tokens(prediction, length));
        lengths.push(length);
    }
    let losses: Vec<f32> = labels
        .iter()
        .zip(&predictions)
        .map(|(label, prediction)| f32::from(u8::from(label != prediction)))
        .collect();
    metric.update(&EvalBatch {
        labels: &labels,
        predictions: &predictions,
        weights: &vec![1.0; labels.len()],
        losses: &losses,
        lengths: &lengths,
        decoder: &Characters,
    })?;
    metric.compute()
}

/// Values of a metric that reads generated answers, over pairs of (reference, answer).
///
/// # Errors
/// Those of the metric, or it reads no answers.
pub fn measure_answers(
    metric: &mut dyn Metric,
    pairs: &[(&str, &str)],
) -> Result<Vec<(String, f64)>> {
    if !metric.reads_answers() {
        return Err(Error::new(
            "the metric says that it reads no generated answers (`reads_answers`)",
        ));
    }
    let pairs = pairs
        .iter()
        .map(|&(reference, answer)| TextPair { reference, answer });
    metric.update_answers(&pairs.collect::<Vec<_>>())?;
    metric.compute()
}

fn tokens(text: &str, length: usize) -> impl Iterator<Item = u32> {
    let end = std::iter::repeat(END);
    text.chars().map(u32::from).chain(end).take(length)
}

struct Characters;

impl Decoder for Characters {
    fn decode(&self, tokens: &[u32]) -> Result<String> {
        let text = tokens.iter().filter(|&&token| token != END);
        let character = |&token: &u32| {
            char::from_u32(token)
                .ok_or_else(|| Error::new(format!("token {token} is no character")))
        };
        text.map(character).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen {
        texts: Vec<(String, String)>,
        loss: f32,
    }
    impl Metric for Seen {
        fn update(&mut self, batch: &EvalBatch) -> Result<()> {
            assert_eq!(batch.weights.len(), batch.labels.len());
            self.loss += batch.losses.iter().sum::<f32>();
            for (label, prediction) in batch.sequences() {
                let texts = (batch.decode(label)?, batch.decode(prediction)?);
                self.texts.push(texts);
            }
            assert!(batch.decode(&[0xd800]).is_err());
            Ok(())
        }
        fn compute(&mut self) -> Result<Vec<(String, f64)>> {
            Ok(vec![("wrong".to_owned(), self.loss.into())])
        }
    }

    #[test]
    fn characters_are_tokens() {
        let mut seen = Seen::default();
        let pairs = [("yes", "yea"), ("né", "né!"), ("", "")];
        let found = measure(&mut seen, &pairs).unwrap();
        assert_eq!(found, [("wrong".to_owned(), 2.0)]);
        for ((label, prediction), pair) in seen.texts.iter().zip(pairs) {
            assert_eq!((label.as_str(), prediction.as_str()), pair);
        }
        let error = measure_answers(&mut seen, &pairs).unwrap_err();
        assert!(error.to_string().contains("reads_answers"), "{error}");
        assert!(seen.update_answers(&[]).is_err());
    }

    #[derive(Default)]
    struct Longer(u32);
    impl Metric for Longer {
        fn reads_answers(&self) -> bool {
            true
        }
        fn update_answers(&mut self, pairs: &[TextPair]) -> Result<()> {
            let longer = pairs
                .iter()
                .filter(|pair| pair.answer.len() > pair.reference.len());
            self.0 += longer.count() as u32;
            Ok(())
        }
        fn compute(&mut self) -> Result<Vec<(String, f64)>> {
            Ok(vec![(
                "longer".to_owned(),
                std::mem::take(&mut self.0).into(),
            )])
        }
    }

    #[test]
    fn a_metric_of_answers_takes_in_no_tokens() {
        let pairs = [("yes", "yes!"), ("no", "no"), ("", "?")];
        let found = measure_answers(&mut Longer::default(), &pairs).unwrap();
        assert_eq!(found, [("longer".to_owned(), 2.0)]);
        let error = measure(&mut Longer::default(), &pairs).unwrap_err();
        assert!(error.to_string().contains("no `update`"), "{error}");
    }
}
