//! Where a text that a loss scale weighs stands: in its message, its conversation and its row.

use crate::{Need, Row, Turn, needs};
use serde_json::Map;
use std::cell::{OnceCell, RefCell};
use std::sync::{Arc, OnceLock};

/// A piece of the text of a turn, for [`LossScale::segments_of`](crate::LossScale::segments_of).
///
/// The first scale of a chain gets the whole text of a field, the scale after it one piece for each segment of the
/// first. Text and turn are there for every scale, the rest for those that declare [`Need::Piece`].
///
/// ```
/// use apus_sdk::{LossScale, Need, Piece, Result, Segment, options, register, testing};
/// use serde_json::json;
///
/// options! {
///     struct ByChannel {
///         /// Weight of rows of the channel `forum`.
///         forum: f64 = 0.5,
///     }
/// }
///
/// impl LossScale for ByChannel {
///     fn needs() -> &'static [Need] {
///         &[Need::Piece]
///     }
///
///     fn segments_of(&self, piece: &Piece) -> Result<Vec<Segment>> {
///         let weight = if piece.channel() == Some("forum") { self.forum } else { 1.0 };
///         Ok(vec![Segment::new(piece.text(), weight)])
///     }
/// }
///
/// register! {
///     /// Trains what comes from the forum less.
///     LossScale, "by_channel", ByChannel
/// }
///
/// let scale = testing::make::<dyn LossScale>("by_channel", json!({}))?;
/// let turn = testing::TURN;
/// let piece = Piece::new("Hi.", &turn).of_row(Some("forum"), r#"{"channel": "forum"}"#);
/// assert_eq!(testing::segments_of(&*scale, &piece)?, [("Hi.".to_owned(), 0.5)]);
/// # Ok::<(), apus_sdk::Error>(())
/// ```
pub struct Piece<'a> {
    text: &'a str,
    turn: &'a Turn<'a>,
    given: bool,
    message: usize,
    messages: usize,
    whole: &'a str,
    offset: usize,
    channel: Option<&'a str>,
    row: &'a str,
    columns: OnceLock<Arc<Row>>,
    count: Option<&'a dyn Fn() -> Option<usize>>,
    tokens: OnceCell<Option<usize>>,
}

impl<'a> Piece<'a> {
    /// A piece that is all there is: the whole text of the one message of a conversation.
    pub fn new(text: &'a str, turn: &'a Turn<'a>) -> Self {
        Self {
            text,
            turn,
            given: true,
            message: 0,
            messages: 1,
            whole: text,
            offset: 0,
            channel: None,
            row: "",
            columns: OnceLock::new(),
            count: None,
            tokens: OnceCell::new(),
        }
    }

    /// A piece of which only text and turn are told.
    #[doc(hidden)]
    pub fn bare(text: &'a str, turn: &'a Turn<'a>) -> Self {
        Self {
            given: false,
            ..Self::new(text, turn)
        }
    }

    /// The same in the message of this index among so many.
    #[must_use]
    pub fn in_message(self, index: usize, messages: usize) -> Self {
        Self {
            message: index,
            messages,
            ..self
        }
    }

    /// The same as a part of this text, from this byte on.
    #[must_use]
    pub fn within(self, whole: &'a str, offset: usize) -> Self {
        Self {
            whole,
            offset,
            ..self
        }
    }

    /// The same of a row of this channel; `row` is its JSON text.
    #[must_use]
    pub fn of_row(self, channel: Option<&'a str>, row: &'a str) -> Self {
        Self {
            channel,
            row,
            columns: OnceLock::new(),
            ..self
        }
    }

    /// The same, whose tokens this counts when it is asked how many they are.
    #[must_use]
    pub fn counted_by(self, count: &'a dyn Fn() -> Option<usize>) -> Self {
        Self {
            count: Some(count),
            ..self
        }
    }

    /// The text, which the segments join back to.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Role, field, question and whether it is the last round.
    pub fn turn(&self) -> &'a Turn<'a> {
        self.turn
    }

    /// The index of the message in the conversation, from 0; a system message counts.
    pub fn message(&self) -> usize {
        self.note();
        self.message
    }

    /// The number of messages of the conversation.
    pub fn messages(&self) -> usize {
        self.note();
        self.messages
    }

    /// The whole text of the field, which this is a piece of. A structured call of a tool is a text of its own.
    pub fn whole(&self) -> &'a str {
        self.note();
        self.whole
    }

    /// The byte of the [whole text](Self::whole) at which this piece begins.
    pub fn offset(&self) -> usize {
        self.note();
        self.offset
    }

    /// The channel of the row, its column `channel`.
    pub fn channel(&self) -> Option<&'a str> {
        self.note();
        self.channel
    }

    /// The columns of the row as they stand in the dataset (`--columns` applied), what no format reads included; none
    /// where there is no row. They are read when they are first asked for.
    pub fn columns(&self) -> &Row {
        self.note();
        self.columns.get_or_init(|| columns_of(self.row))
    }

    /// The number of tokens of this piece, as the run's tokenizer cuts its text by itself: where it is a part of a text, a token
    /// of the whole text may reach over its ends. They are counted when this is called first, which takes as long as encoding
    /// the text does. None where no tokenizer is at hand: in a test without [`counted_by`](Self::counted_by), in
    /// `apus plugin check`, and for the words of a call of a tool that Apus tries a scale on beforehand.
    pub fn tokens(&self) -> Option<usize> {
        self.note();
        *self
            .tokens
            .get_or_init(|| self.count.and_then(|count| count()))
    }

    /// Whether more than text and turn is told.
    pub(crate) fn given(&self) -> bool {
        self.given
    }

    /// The JSON text of the row.
    pub(crate) fn row(&self) -> &'a str {
        self.row
    }

    fn note(&self) {
        match self.given {
            true => needs::note(Need::Piece),
            false => needs::miss(Need::Piece),
        }
    }
}

thread_local! {
    /// The row that this thread has read last: the pieces of one follow each other.
    static LAST: RefCell<(String, Arc<Row>)> = RefCell::default();
}

/// The columns of a row, by its JSON text.
fn columns_of(row: &str) -> Arc<Row> {
    LAST.with_borrow_mut(|(text, columns)| {
        if text != row {
            *columns = Arc::new(serde_json::from_str(row).unwrap_or_else(|_| Map::new()));
            row.clone_into(text);
        }
        columns.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TURN;
    use serde_json::json;

    #[test]
    fn columns_are_those_of_the_row_whichever_was_read_before() {
        let piece = |row| Piece::new("a", &TURN).of_row(None, row);
        let rows = [r#"{"id": 1}"#, r#"{"id": 2}"#];
        for at in [0, 0, 1, 0, 1, 1] {
            assert_eq!(piece(rows[at]).columns()["id"], json!(at + 1));
        }
        for none in ["", "[1]", "{"] {
            assert!(piece(none).columns().is_empty(), "{none:?}");
        }
    }

    #[test]
    fn tokens_are_counted_once_and_only_where_they_can_be() {
        let counted = OnceCell::new();
        let count = || {
            counted.set(()).unwrap();
            Some(7)
        };
        let piece = Piece::new("a", &TURN).counted_by(&count);
        assert_eq!((piece.tokens(), piece.tokens()), (Some(7), Some(7)));
        assert_eq!(Piece::new("a", &TURN).tokens(), None);
    }
}
