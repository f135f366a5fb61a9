//! The error of a component: a message for a person.

use std::fmt;

/// What a component returns.
pub type Result<T> = std::result::Result<T, Error>;

/// A message that says what was found, what was expected and what to do.
///
/// The host adds which component failed, in which event, file and line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    message: String,
    panicked: bool,
}

impl Error {
    /// An error with this message.
    pub fn new(message: impl fmt::Display) -> Self {
        Self::from(message.to_string())
    }

    /// Whether a plugin panicked: a mistake of the component, whatever it was working on.
    pub fn panicked(&self) -> bool {
        self.panicked
    }

    /// The same, as a mistake of the component and not of what it was given: it ends the run where an error of a row would
    /// leave out the row.
    #[doc(hidden)]
    pub fn of_component(self) -> Self {
        self.of_panic(true)
    }

    pub(crate) fn of_panic(self, panicked: bool) -> Self {
        Self { panicked, ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<String> for Error {
    fn from(message: String) -> Self {
        Self {
            message,
            panicked: false,
        }
    }
}

impl From<&str> for Error {
    fn from(message: &str) -> Self {
        Self::from(message.to_owned())
    }
}

macro_rules! from_errors {
    ($($source:ty),*) => {$(
        impl From<$source> for Error {
            fn from(source: $source) -> Self {
                Self::from(source.to_string())
            }
        }
    )*};
}
from_errors!(
    std::io::Error,
    std::fmt::Error,
    std::num::ParseIntError,
    std::num::ParseFloatError,
    std::str::Utf8Error,
    serde_json::Error
);
