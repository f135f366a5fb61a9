//! The loss of each group of rows (`enable_channel_loss`), which a row names in its column `channel`.
//!
//! It is ms-swift's number: the sum of weight times loss over the supervised tokens of a channel since the last log,
//! divided by how many they are. It is weighted as `loss` is, without the auxiliary loss of the router, and it is a mean
//! over tokens where `loss` is a mean over steps. Losses of tokens are on the host after every micro-batch, so that it
//! costs the device nothing.

use super::loss::Tokens;
use anyhow::{Result, bail};
use apus_base::lines::{info, warning};
use apus_components::config::SftConfig;
use apus_components::registry::Named;
use apus_data::chat::Encoded;
use apus_data::data::{Report, channels};
use apus_sdk::{Callback, Metric};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// How the name of a channel's loss begins.
pub const PREFIX: &str = "loss_";

/// Prints what belongs to each channel of the training data.
pub fn report(config: &SftConfig, report: &Report) {
    if !config.enable_channel_loss {
        return;
    }
    match report.channels().table() {
        Some(table) => info!("channels\n{table}"),
        None => warning!(
            "enable_channel_loss is true, and no row of the training data has a column `channel`: all are reported as \
             {PREFIX}{}; --columns gives a column another name",
            channels::name(None)
        ),
    }
}

/// The channel of each sample, by the name under which it is reported.
pub fn of_samples<'a>(samples: impl IntoIterator<Item = &'a Encoded>) -> Vec<String> {
    let samples = samples.into_iter();
    samples.map(|sample| name(sample).to_owned()).collect()
}

fn name(sample: &Encoded) -> &str {
    channels::name(sample.channel.as_deref())
}

/// The names of the losses of these samples' channels, `loss_NAME`.
pub fn names(samples: &[Encoded]) -> BTreeSet<String> {
    let names: BTreeSet<&str> = samples.iter().map(name).collect();
    names.iter().map(|name| format!("{PREFIX}{name}")).collect()
}

/// Refuses a metric or a callback that reports a number under the name of a channel's loss.
///
/// # Errors
/// A component lists such a number among its own.
pub fn check_names(
    names: &BTreeSet<String>,
    metrics: &[Named<dyn Metric>],
    callbacks: &[Named<dyn Callback>],
) -> Result<()> {
    let metrics = metrics
        .iter()
        .map(|metric| (&metric.label, metric.component.names()));
    let callbacks = callbacks
        .iter()
        .map(|callback| (&callback.label, callback.component.metric_names()));
    for (label, reported) in metrics.chain(callbacks) {
        for reported in reported.into_iter().flatten() {
            let name = reported.strip_prefix("eval_").unwrap_or(&reported);
            if names.contains(name) {
                let channel = name.strip_prefix(PREFIX).unwrap_or(name);
                bail!(
                    "{label} reports {reported:?}, and with enable_channel_loss that is the loss of the channel {channel:?}; \
                     give one of them another name"
                );
            }
        }
    }
    Ok(())
}

/// Sums over the supervised tokens of each channel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChannelLosses(BTreeMap<String, Sum>);

/// What the tokens of a channel add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Sum {
    /// Weight times loss.
    loss: f64,
    tokens: u64,
}

impl ChannelLosses {
    /// Whether no token was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Counts the tokens of a micro-batch whose sequences belong to these channels; nothing where there are none.
    pub fn count(&mut self, tokens: &Tokens, channels: &[String]) {
        for (channel, (loss, tokens)) in channels.iter().zip(tokens.of_sequences()) {
            if tokens > 0 {
                self.add(channel, Sum { loss, tokens });
            }
        }
    }

    /// Adds the sums of others.
    pub fn merge(&mut self, others: &Self) {
        for (channel, sum) in &others.0 {
            self.add(channel, *sum);
        }
    }

    fn add(&mut self, channel: &str, more: Sum) {
        match self.0.get_mut(channel) {
            Some(sum) => {
                sum.loss += more.loss;
                sum.tokens += more.tokens;
            }
            None => {
                self.0.insert(channel.to_owned(), more);
            }
        }
    }

    /// The mean of each channel, by its name in the log; of a channel without a token there is none.
    pub fn means(&self) -> Map<String, Value> {
        let mean = |(channel, sum): (&String, &Sum)| {
            (
                format!("{PREFIX}{channel}"),
                json!(sum.loss / sum.tokens as f64),
            )
        };
        self.0.iter().map(mean).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::EvalBatch;

    fn tokens(losses: &[f32], weights: &[f32], lengths: &[usize]) -> Tokens {
        Tokens {
            losses: losses.to_vec(),
            weights: weights.to_vec(),
            lengths: lengths.to_vec(),
            ..Tokens::default()
        }
    }

    fn channels(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_mean_is_over_the_tokens_of_a_channel_with_their_weights() {
        let mut sums = ChannelLosses::default();
        let batch = tokens(
            &[1.0, 2.0, 4.0, 8.0, 16.0],
            &[1.0, 0.5, 1.0, 0.0, 2.0],
            &[2, 0, 3],
        );
        sums.count(&batch, &channels(&["a", "none of these", "b"]));
        sums.count(&tokens(&[3.0], &[1.0], &[1]), &channels(&["a"]));
        let mut all = ChannelLosses::default();
        all.merge(&sums);
        all.merge(&sums);
        for sums in [&sums, &all] {
            let means = Value::Object(sums.means());
            let a = (1.0 + 2.0 * 0.5 + 3.0) / 3.0;
            let b = (4.0 + 16.0 * 2.0) / 3.0;
            assert_eq!(means, json!({"loss_a": a, "loss_b": b}));
        }
        let text = serde_json::to_string(&sums).unwrap();
        assert_eq!(serde_json::from_str::<ChannelLosses>(&text).unwrap(), sums);
    }

    #[test]
    fn nothing_is_counted_where_nobody_asks() {
        let mut sums = ChannelLosses::default();
        sums.count(&tokens(&[1.0], &[1.0], &[1]), &[]);
        assert!(sums.is_empty() && sums.means().is_empty());
    }

    struct Reports(&'static str);
    impl Metric for Reports {
        fn names(&self) -> Option<Vec<String>> {
            Some(vec![self.0.to_owned()])
        }
        fn update(&mut self, _: &EvalBatch) -> apus_sdk::Result<()> {
            Ok(())
        }
        fn compute(&mut self) -> apus_sdk::Result<Vec<(String, f64)>> {
            Ok(Vec::new())
        }
    }
    impl Callback for Reports {
        fn metric_names(&self) -> Option<Vec<String>> {
            Some(vec![self.0.to_owned()])
        }
    }

    #[test]
    fn nobody_else_reports_under_the_name_of_a_channel() {
        let names = BTreeSet::from(["loss_math".to_owned()]);
        let check = |metric, callback| {
            let metric = Named::<dyn Metric>::new("metric m", Box::new(Reports(metric)));
            let callback = Named::<dyn Callback>::new("callback c", Box::new(Reports(callback)));
            check_names(&names, &[metric], &[callback]).map_err(|error| error.to_string())
        };
        assert_eq!(check("loss", "loss_maths"), Ok(()));
        let error = check("loss_math", "mine").unwrap_err();
        assert!(error.contains("metric m reports \"loss_math\""), "{error}");
        let error = check("acc", "eval_loss_math").unwrap_err();
        assert!(error.contains("callback c reports"), "{error}");
        assert!(error.contains("the channel \"math\""), "{error}");
    }

    #[test]
    fn rows_without_a_channel_have_a_name_of_their_own() {
        let rows = [None, Some(""), Some("math")].map(|channel| Encoded {
            channel: channel.map(str::to_owned),
            ..Encoded::default()
        });
        assert_eq!(of_samples(&rows), ["None", "None", "math"]);
        let names: Vec<String> = names(&rows).into_iter().collect();
        assert_eq!(names, ["loss_None", "loss_math"]);
    }
}
