//! Encodes a sample of a dataset as what is trained: token ids, labels and weights.

use super::{
    TrainHeader, TrainStop,
    align::{Aligned, align},
    dialect::Dialect,
    folds::{Folds, OfRow},
    notes::RowNotes,
    rendered::Rendered,
    scale::Chain,
    template::{ChatTemplate, RenderOptions},
    tokenizer::{Tokenizer, Tokens},
    turns::{PreparedConversation, Purpose, prepare},
};
use anyhow::{Context, Result, ensure};
use apus_sdk::{Conversation, Message, Row, Sample, TokenRow};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The label of a token that is not trained.
pub const IGNORED: i64 = -100;

/// How samples are encoded.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodeOptions {
    /// Whether a leading `<think>..</think>` is taken out of the content and rendered as reasoning.
    pub think_to_analysis: bool,
    /// Which tokens of headers are trained.
    pub train_header: TrainHeader,
    /// What is trained where an earlier answer ends.
    pub train_stop: TrainStop,
    /// The date, reasoning effort, identity and system message.
    pub render: RenderOptions,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            think_to_analysis: true,
            train_header: TrainHeader::default(),
            train_stop: TrainStop::default(),
            render: RenderOptions::default(),
        }
    }
}

/// One sample, ready for training. The three lists have the same length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Encoded {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// For a trained token, the id that is to be predicted (its own, but see [`TrainStop`]); for others -100.
    pub labels: Vec<i64>,
    /// The weight of the token in the loss; 0 where the label is -100.
    pub weights: Vec<f32>,
    /// The name of the group that its loss is reported under.
    pub channel: Option<String>,
    /// The columns of its row that the loss asks for, as JSON; null for one that the row does not have.
    pub columns: Option<Arc<str>>,
}

impl Encoded {
    /// Its columns that were kept.
    pub fn columns(&self) -> Row {
        let columns = self.columns.as_deref();
        columns
            .and_then(|columns| serde_json::from_str(columns).ok())
            .unwrap_or_default()
    }

    /// Whether its row has this column, which was kept.
    pub fn has_column(&self, name: &str) -> bool {
        self.columns()
            .get(name)
            .is_some_and(|value| !value.is_null())
    }

    /// Keeps these columns of the row that is this JSON text.
    ///
    /// # Errors
    /// The text is no row.
    pub fn keep_columns(&mut self, row: &str, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let mut row: Row = serde_json::from_str(row).context("the columns of the row")?;
        let kept = names
            .iter()
            .map(|name| (name.clone(), row.remove(name).unwrap_or_default()));
        let kept: Row = kept.collect();
        self.columns = Some(serde_json::to_string(&kept)?.into());
        Ok(())
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// Ids, labels and weights, as the trainer takes them.
    pub fn sequence(&self) -> (&[u32], &[i64], Option<&[f32]>) {
        (&self.input_ids, &self.labels, Some(&self.weights))
    }

    /// The number of supervised targets: labels that are not -100, without the first, since there is nothing before it to
    /// predict it from (transformers' `num_items_in_batch`).
    pub fn targets(&self) -> usize {
        let labels = self.labels.iter().skip(1);
        labels.filter(|label| **label != IGNORED).count()
    }

    /// The sum of the weights of those targets.
    pub fn target_weight(&self) -> f64 {
        let targets = self.labels.iter().zip(&self.weights).skip(1);
        targets
            .filter(|(label, _)| **label != IGNORED)
            .map(|(_, weight)| f64::from(*weight))
            .sum()
    }
}

/// The tokenizer, template and loss scales of a run.
pub struct Encoder {
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    scales: Chain,
    options: EncodeOptions,
    folder: Option<PathBuf>,
}

impl Encoder {
    /// Makes an encoder. If no date is given, today's is fixed, so that all rows of a run have the same.
    ///
    /// # Errors
    /// The date cannot be read.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        template: ChatTemplate,
        scales: Chain,
        mut options: EncodeOptions,
    ) -> Result<Self> {
        let today = options.render.today()?;
        options.render.date = Some(today.format("%Y-%m-%d").to_string());
        Ok(Self {
            tokenizer,
            template,
            scales,
            options,
            folder: None,
        })
    }

    /// Says which folder tokenizer and template come from.
    #[must_use]
    pub fn of_folder(mut self, folder: PathBuf) -> Self {
        self.folder = Some(folder);
        self
    }

    /// The folder that tokenizer and template come from, if they come from one.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The chat template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// The dialect of the conversations.
    pub fn dialect(&self) -> &'static dyn Dialect {
        self.template.dialect()
    }

    /// The loss scales.
    pub fn scales(&self) -> &Chain {
        &self.scales
    }

    /// The options, with the date that is used.
    pub fn options(&self) -> &EncodeOptions {
        &self.options
    }

    /// Encodes a sample for training.
    ///
    /// # Errors
    /// The conversation has no message of the assistant or cannot be rendered, or the model does not have a token id.
    pub fn encode(&self, sample: &Sample) -> Result<Encoded> {
        self.encode_with_notes(sample).map(|(encoded, _)| encoded)
    }

    /// Like [`Self::encode`], but also returns what was changed in the sample.
    pub fn encode_with_notes(&self, sample: &Sample) -> Result<(Encoded, RowNotes)> {
        self.encode_row(sample, OfRow::default())
    }

    /// Like [`Self::encode_with_notes`], of a row that loss scales may read.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_row(&self, sample: &Sample, row: OfRow) -> Result<(Encoded, RowNotes)> {
        match sample {
            Sample::Conversation(conversation) => self.conversation(conversation, row),
            Sample::Tokens(row) => Ok((self.tokens(row)?, RowNotes::default())),
        }
    }

    /// The texts of samples, each with the text of its row, weighed together for [`Self::encode_row`].
    pub fn weigh_together(&self, samples: &[(&Sample, &str)]) -> Vec<Folds> {
        let collected = samples.iter().map(|(sample, text)| {
            let folds = Folds::default();
            if let Sample::Conversation(conversation) = sample {
                let row = OfRow {
                    text,
                    folds: Some(&folds),
                };
                // What is wrong with it is found again where it is encoded.
                let _ = self.prepare(conversation, Purpose::Training, row);
            }
            folds
        });
        let folds: Vec<Folds> = collected.collect();
        let rows = folds.iter().zip(samples).map(|(folds, (sample, text))| {
            let channel = match sample {
                Sample::Conversation(conversation) => conversation.channel.as_deref(),
                Sample::Tokens(_) => None,
            };
            (folds, channel, *text)
        });
        Folds::weigh(&self.scales, &self.tokenizer, &rows.collect::<Vec<_>>());
        folds
    }

    /// The text and token ids that ask the model for the next message of a conversation. Earlier answers may have
    /// been cut off inside their reasoning.
    ///
    /// # Errors
    /// A conversation that cannot be rendered.
    pub fn prompt(&self, conversation: &Conversation) -> Result<(String, Vec<u32>)> {
        let prepared = self.prepare(conversation, Purpose::Prompt, OfRow::default())?;
        let options = RenderOptions {
            add_generation_prompt: true,
            ..self.options.render.of(conversation)?.into_owned()
        };
        let rendered = self.render(&prepared.conversation, &options)?;
        let tokens = self.tokenizer.encode(&rendered)?;
        Ok((rendered.text, tokens.ids))
    }

    pub(crate) fn render(
        &self,
        conversation: &Conversation,
        options: &RenderOptions,
    ) -> Result<Rendered> {
        let control = self.tokenizer.control();
        self.template.render(conversation, options, control)
    }

    pub(crate) fn prepare(
        &self,
        conversation: &Conversation,
        purpose: Purpose,
        row: OfRow,
    ) -> Result<PreparedConversation> {
        let think = self.options.think_to_analysis;
        let prepare = |conversation: &Conversation| {
            prepare(
                conversation,
                &self.scales,
                self.dialect(),
                think,
                purpose,
                (row, Some(self.tokenizer.as_ref())),
            )
        };
        match self.options.render.messages(conversation) {
            Cow::Borrowed(_) => prepare(conversation),
            Cow::Owned(messages) => prepare(&Conversation {
                messages,
                ..conversation.clone()
            }),
        }
    }

    fn conversation(&self, conversation: &Conversation, row: OfRow) -> Result<(Encoded, RowNotes)> {
        let is_assistant = |message: &Message| message.role == "assistant";
        ensure!(
            conversation.messages.iter().any(is_assistant),
            "row has no assistant message to train on"
        );
        let prepared = self.prepare(conversation, Purpose::Training, row)?;
        let options = self.options.render.of(conversation)?;
        let rendered = self.render(&prepared.conversation, &options)?;
        let switches = (self.options.train_header, self.options.train_stop);
        let base = self.scales.base();
        let aligned = align(&rendered, &prepared, self.dialect(), base, switches)?;
        let control = self.tokenizer.control();
        let built_in =
            self.template
                .is_written_by_built_in(&prepared.conversation, &options, control);
        let as_template = self.template.writes_as_template();
        let notes = RowNotes {
            moved: prepared.moved_thinking.into(),
            left_out: (aligned.left_out > 0 && as_template).into(),
            dropped: (aligned.left_out > 0 && !as_template).into(),
            tools: (!conversation.tools.is_empty() && as_template).into(),
            built_in: built_in.into(),
        };
        let tokens = self.tokenizer.encode(&rendered)?;
        let (labels, weights) = self.labels(&tokens, &aligned)?;
        let encoded = Encoded {
            input_ids: tokens.ids,
            labels,
            weights,
            channel: conversation.channel.clone(),
            columns: None,
        };
        Ok((encoded, notes))
    }

    /// A token takes the greatest weight of its bytes.
    fn labels(&self, tokens: &Tokens, aligned: &Aligned) -> Result<(Vec<i64>, Vec<f32>)> {
        let mut replaced = aligned.replaced.iter().peekable();
        let mut labels = Vec::with_capacity(tokens.ids.len());
        let mut weights = Vec::with_capacity(tokens.ids.len());
        let mut from = 0;
        for (id, end) in tokens.ids.iter().zip(&tokens.ends) {
            let covered = &aligned.weights[from..*end];
            let weight = covered.iter().copied().fold(0.0, f32::max);
            labels.push(if weight == 0.0 {
                IGNORED
            } else if let Some((_, token)) = replaced.next_if(|(at, _)| *at == from) {
                let missing = || format!("the tokenizer has no {token}; choose another train_stop");
                self.tokenizer.id(token).with_context(missing)?.into()
            } else {
                i64::from(*id)
            });
            weights.push(weight);
            from = *end;
        }
        Ok((labels, weights))
    }

    fn tokens(&self, row: &TokenRow) -> Result<Encoded> {
        let n = row.input_ids.len();
        ensure!(
            row.labels.len() == n && row.loss_scale.as_ref().is_none_or(|w| w.len() == n),
            "a tokenised row's lists differ in length: {n} ids, {} labels, {} weights",
            row.labels.len(),
            row.loss_scale.as_ref().map_or(n, Vec::len)
        );
        let mut encoded = Encoded {
            input_ids: row.input_ids.clone(),
            labels: row.labels.clone(),
            weights: row.loss_scale.clone().unwrap_or_else(|| vec![1.0; n]),
            channel: row.channel.clone(),
            columns: None,
        };
        for (label, weight) in encoded.labels.iter_mut().zip(&mut encoded.weights) {
            if *label == IGNORED || *weight <= 0.0 {
                (*label, *weight) = (IGNORED, 0.0);
            }
        }
        Ok(encoded)
    }
}
