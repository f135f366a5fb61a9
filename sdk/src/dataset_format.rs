//! Dataset formats: rows of a file to training examples.

use crate::{Need, Result, Sample, Setup};

/// One row of a dataset: column names to JSON values, in the order of the file.
pub type Row = serde_json::Map<String, serde_json::Value>;

/// The result of converting a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Converted {
    /// Its examples.
    pub samples: Vec<Sample>,
    /// The keys of it that were not read; `None` if the format does not tell, and then the whole row counts as used.
    pub unread: Option<Vec<Unread>>,
}

/// A key of a row that has a value and was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Where it stands: `difficulty`, `messages[2].sender`. Indices count from 0.
    pub path: String,
    /// Whether it is known that leaving it out changes nothing, as with an `id`.
    pub harmless: bool,
}

/// Turns rows of one shape into training examples.
///
/// ```
/// use apus_sdk::{Conversation, DatasetFormat, Message, Result, Row, Sample};
/// use apus_sdk::{options, register, testing};
/// use serde_json::json;
///
/// options! {
///     struct Quiz {
///         /// Column of the questions.
///         column: String = "question".to_owned(),
///     }
/// }
///
/// impl DatasetFormat for Quiz {
///     fn recognises(&self, columns: &[&str]) -> bool {
///         columns.contains(&self.column.as_str()) && columns.contains(&"answer")
///     }
///
///     fn convert(&self, row: Row) -> Result<Vec<Sample>> {
///         let text = |column: &str| {
///             let value = row.get(column).and_then(|value| value.as_str());
///             value.ok_or_else(|| format!("`{column}` is no text"))
///         };
///         let messages = vec![
///             Message::new("user", text(&self.column)?),
///             Message::new("assistant", text("answer")?),
///         ];
///         Ok(vec![Conversation::new(messages).into()])
///     }
/// }
///
/// register! {
///     /// Questions with an answer.
///     DatasetFormat, "quiz", Quiz
/// }
///
/// let quiz = testing::make::<dyn DatasetFormat>("quiz", json!({"column": "q"}))?;
/// let samples = testing::convert(&*quiz, json!({"q": "2 + 2?", "answer": "4"}))?;
/// let Sample::Conversation(conversation) = &samples[0] else {
///     panic!("these are tokens");
/// };
/// assert_eq!(conversation.messages[1].text(), Some("4"));
/// assert!(testing::convert(&*quiz, json!({"q": "2 + 2?", "answer": 4})).is_err());
/// # Ok::<(), apus_sdk::Error>(())
/// ```
pub trait DatasetFormat: Send + Sync {
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

    /// Whether this format reads rows with these columns. The first row of a dataset decides;
    /// where several formats answer yes, [`rank`](Self::rank) decides.
    fn recognises(&self, columns: &[&str]) -> bool;

    /// How specific the format is: the highest rank among those that recognise a row wins. The
    /// built-ins have -10 (query and response, which takes almost anything) to 40 (tokens).
    fn rank(&self) -> i32 {
        0
    }

    /// [`recognises`](Self::recognises) and [`rank`](Self::rank) as the host asks for them: a
    /// plugin's may fail. `None` is not recognised.
    ///
    /// # Errors
    /// The plugin panicked.
    #[doc(hidden)]
    fn try_rank(&self, columns: &[&str]) -> Result<Option<i32>> {
        Ok(self.recognises(columns).then(|| self.rank()))
    }

    /// The columns that it reads, if it says so; it declares [`Need::Columns`]. It is asked once. Rows come with these columns
    /// alone: where a file holds columns apart (parquet), the others are not decoded. They are named as not used (an error
    /// with `--strict`), and so is a column of these that no row has. `recognises` sees all columns.
    ///
    /// # Errors
    /// Options that do not fit.
    fn columns(&self) -> Result<Option<Vec<String>>> {
        Ok(None)
    }

    /// One row to any number of examples; an empty list drops the row (the host counts and
    /// reports it).
    ///
    /// # Errors
    /// A row of this format that is malformed. The host adds file and line.
    fn convert(&self, row: Row) -> Result<Vec<Sample>>;

    /// [`convert`](Self::convert), and what of the row was not read: the host counts and names it, and
    /// refuses it with `--strict`. The host asks formats that are linked into it; what the format of a
    /// plugin library leaves does not cross the boundary.
    ///
    /// # Errors
    /// As [`convert`](Self::convert).
    fn convert_noting(&self, row: Row) -> Result<Converted> {
        let samples = self.convert(row)?;
        Ok(Converted {
            samples,
            unread: None,
        })
    }

    /// The row of a JSON text, as [`convert`](Self::convert) takes it.
    ///
    /// # Errors
    /// Text that is no JSON object.
    #[doc(hidden)]
    fn row(&self, text: &str) -> Result<Row> {
        Ok(serde_json::from_str(text)?)
    }

    /// [`convert`](Self::convert) from the row's JSON text.
    ///
    /// # Errors
    /// As [`convert`](Self::convert), or text that is no JSON object.
    #[doc(hidden)]
    fn convert_text(&self, text: &str) -> Result<Vec<Sample>> {
        self.convert(self.row(text)?)
    }

    /// [`convert_noting`](Self::convert_noting) from the row's JSON text. The host calls this one, so that
    /// a row that a plugin converts is read once, by the plugin.
    ///
    /// # Errors
    /// As [`convert_text`](Self::convert_text).
    #[doc(hidden)]
    fn convert_text_noting(&self, text: &str) -> Result<Converted> {
        self.convert_noting(self.row(text)?)
    }

    /// Whether the way to this format is so long that many rows should go together.
    #[doc(hidden)]
    fn takes_batches(&self) -> bool {
        false
    }

    /// [`convert_text_noting`](Self::convert_text_noting) of many rows, each with its samples or its error.
    #[doc(hidden)]
    fn convert_texts_noting(&self, texts: &[&str]) -> Vec<Result<Converted>> {
        let convert = |text: &&str| self.convert_text_noting(text);
        texts.iter().map(convert).collect()
    }
}
