//! Metrics: values are finite, and each evaluation begins anew.

use super::run::SmallRun;
use super::{Checked, Finding, Findings, push};
use anyhow::{Result, ensure};
use apus_sdk::{Decoder, EvalBatch, Metric, TextPair};

/// A decoder whose tokens are characters.
struct Characters;

impl Decoder for Characters {
    fn decode(&self, tokens: &[u32]) -> apus_sdk::Result<String> {
        Ok(tokens
            .iter()
            .filter_map(|&token| char::from_u32(token))
            .collect())
    }
}

pub(super) fn check(checked: &Checked, findings: &mut Findings) -> Result<()> {
    let mut metric = checked.make::<dyn Metric>()?;
    let run = SmallRun::new(checked.device)?;
    if !run.begins(findings, &mut metric, |metric, run| metric.begin(run)) {
        return Ok(());
    }
    let tokens = |text: &str| text.chars().map(u32::from).collect::<Vec<u32>>();
    let right = tokens("the cat sat on the mat");
    let wrong = tokens("the cow sat in the sun");
    let lengths = [11, right.len() - 11];
    let (weights, losses) = (vec![1.0; right.len()], vec![0.5; right.len()]);
    let text = |tokens: &[u32]| {
        let text = Characters.decode(tokens);
        text.map_err(|error| anyhow::anyhow!("{error}"))
    };
    let mut values = |predictions: &[u32]| -> Result<Vec<(String, f64)>> {
        for _ in 0..2 {
            let updated = match metric.component.reads_answers() {
                true => metric.component.update_answers(&[TextPair {
                    reference: &text(&right)?,
                    answer: &text(predictions)?,
                }]),
                false => metric.component.update(&EvalBatch {
                    labels: &right,
                    predictions,
                    weights: &weights,
                    losses: &losses,
                    lengths: &lengths,
                    decoder: &Characters,
                }),
            };
            updated.map_err(|error| anyhow::anyhow!("{error}"))?;
        }
        let computed = metric.component.compute();
        let computed = computed.map_err(|error| anyhow::anyhow!("{error}"))?;
        ensure!(!computed.is_empty(), "no value at all");
        for (name, value) in &computed {
            ensure!(
                value.is_finite(),
                "{name} is {value}, expected a finite number"
            );
        }
        Ok(computed)
    };
    let shown = |values: &[(String, f64)]| {
        let pairs = values
            .iter()
            .map(|(name, value)| format!("{name} {value:.4}"));
        pairs.collect::<Vec<_>>().join(", ")
    };
    let good = values(&right);
    push(
        findings,
        "all tokens right",
        good.as_ref().map(|v| shown(v)).map_err(copy),
    );
    let bad = values(&wrong);
    push(
        findings,
        "some tokens wrong",
        bad.as_ref().map(|v| shown(v)).map_err(copy),
    );
    if let (Ok(good), Ok(again)) = (good, values(&right)) {
        let same = good == again;
        findings.push(match same {
            true => Finding::Good("starts afresh after compute".to_owned()),
            false => Finding::Bad(format!(
                "does not start afresh after compute: {} first, {} the second time",
                shown(&good),
                shown(&again)
            )),
        });
    }
    Ok(())
}

fn copy(error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}
