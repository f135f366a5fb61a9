//! Loss scales: which parts of a conversation are trained, and how much.

use crate::{Need, Piece, Result, Setup};

/// Splits the text of a turn into segments with weights.
///
/// The names of several scales can be chained with `+`: each runs on the segments of the one
/// before, and weights multiply.
///
/// ```
/// use apus_sdk::{LossScale, Result, Segment, Turn, options, register, testing};
/// use serde_json::json;
///
/// options! {
///     struct Quotes {
///         /// Weight of quoted lines.
///         weight: f64 = 0.0,
///     }
/// }
///
/// impl LossScale for Quotes {
///     fn segments(&self, text: &str, _turn: &Turn) -> Result<Vec<Segment>> {
///         let weigh = |line: &str| match line.starts_with('>') {
///             true => Segment::new(line, self.weight),
///             false => Segment::new(line, 1.0),
///         };
///         Ok(text.split_inclusive('\n').map(weigh).collect())
///     }
/// }
///
/// register! {
///     /// Trains quoted lines less.
///     LossScale, "quotes", Quotes
/// }
///
/// let quotes = testing::make::<dyn LossScale>("quotes", json!({"weight": 0.25}))?;
/// let segments = testing::segments(&*quotes, "> Why?\nBecause.")?;
/// assert_eq!(segments, [("> Why?\n".to_owned(), 0.25), ("Because.".to_owned(), 1.0)]);
/// # Ok::<(), apus_sdk::Error>(())
/// ```
pub trait LossScale: Send + Sync {
    /// What of SDK 1.1 and later it uses.
    fn needs() -> &'static [Need]
    where
        Self: Sized,
    {
        &[]
    }

    /// Looks at the set-up of a run before its model is read; with [`Need::Check`]. Without it nothing is checked.
    ///
    /// # Errors
    /// What contradicts the component; it ends the command.
    fn check(&self, setup: &Setup) -> Result<()> {
        setup.leave();
        Ok(())
    }

    /// The turns that are trained at all, if this component is a base strategy (the first name of
    /// a chain); `None` for a scale, which then works on top of [`Base::Default`].
    fn base(&self) -> Option<Base> {
        None
    }

    /// [`base`](Self::base) as the host asks for it: a plugin's may fail.
    ///
    /// # Errors
    /// The plugin panicked.
    #[doc(hidden)]
    fn try_base(&self) -> Result<Option<Base>> {
        Ok(self.base())
    }

    /// Segments that join back to exactly `text`, each with its weight (0: not trained).
    ///
    /// `text` is the content as it stands in the dataset, before any rendering. A structured call of a tool is
    /// written out for it: `<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>`, or, if the chain
    /// is made for those words, `Action: f\nAction Input: {"x": 1}\n` or
    /// `✿FUNCTION✿: f\n✿ARGS✿: {"x": 1}\n`; what the name and the arguments weigh counts.
    ///
    /// # Errors
    /// Whatever the component cannot handle.
    fn segments(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        let _ = turn;
        Ok(vec![Segment::new(text, 1.0)])
    }

    /// [`segments`](Self::segments) of a piece that says where it stands; it is what the host calls, and by itself it
    /// calls `segments`.
    ///
    /// # Errors
    /// Whatever the component cannot handle.
    fn segments_of(&self, piece: &Piece) -> Result<Vec<Segment>> {
        self.segments(piece.text(), piece.turn())
    }

    /// Whether the way to this scale is so long that many pieces should go together.
    #[doc(hidden)]
    fn takes_batches(&self) -> bool {
        false
    }

    /// [`segments_of`](Self::segments_of) of many pieces, each with its segments or its error.
    #[doc(hidden)]
    fn segments_of_all(&self, pieces: &[Piece]) -> Vec<Result<Vec<Segment>>> {
        let segments = |piece| crate::needs::checked(self.segments_of(piece));
        pieces.iter().map(segments).collect()
    }
}

/// Which parts of a conversation are trained before weights are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Every assistant turn.
    Default,
    /// The assistant's turns after the last user or tool message.
    LastRound,
    /// Everything, prompts included.
    All,
}

/// Where a text stands in its conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn<'a> {
    /// Role of the message: `assistant`, or any role under [`Base::All`].
    pub role: &'a str,
    /// Which field of the message the text is.
    pub field: Field,
    /// The user's text that this turn answers, if any.
    pub query: Option<&'a str>,
    /// Whether the turn stands after the last user or tool message.
    pub is_last: bool,
}

/// A field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The content.
    Content,
    /// The reasoning (`thinking`, `reasoning_content`).
    Thinking,
}

/// A piece of text and the weight of its tokens in the loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// The text.
    pub text: String,
    /// Weight: 0 is not trained, 1 is usual; any finite value of 0 or more.
    pub weight: f64,
}

impl Segment {
    /// A segment.
    pub fn new(text: impl Into<String>, weight: f64) -> Self {
        Self {
            text: text.into(),
            weight,
        }
    }
}
