//! What a component uses of later versions of the SDK, said beforehand.
//!
//! A host of SDK 1.0 does not know what came later, and would leave it out in silence. So a component says by
//! `fn needs()` of its trait what it uses; the description of its library names its kind together with that
//! (`callback with run, parameters`), which a host of 1.0 refuses as a kind that it does not know. And what is not said
//! is not given: a use of it ends in an error with the line to add.

use crate::{Error, Result};
use std::cell::Cell;
use std::fmt;

macro_rules! needs {
    ($($(#[doc = $doc:literal])* $Need:ident = $name:literal,)*) => {
        /// Something of SDK 1.1 or later that a component uses and declares.
        ///
        /// ```
        /// use apus_sdk::{Callback, Need, options};
        ///
        /// options! {
        ///     struct Norms {}
        /// }
        ///
        /// impl Callback for Norms {
        ///     fn needs() -> &'static [Need] {
        ///         &[Need::Run]
        ///     }
        /// }
        ///
        /// assert_eq!(Norms::needs()[0].name(), "run");
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Need {
            $($(#[doc = $doc])* $Need,)*
        }

        impl Need {
            /// Every need.
            pub const ALL: &[Need] = &[$(Need::$Need),*];

            /// Its name in descriptions and messages.
            pub fn name(self) -> &'static str {
                match self { $(Need::$Need => $name),* }
            }
        }
    };
}
needs! {
    /// The run that it is part of: configuration, tokenizer, names of parameters, given to `begin`.
    Run = "run",
    /// Where a piece of text stands ([`LossScale::segments_of`](crate::LossScale)).
    Piece = "piece",
    /// The sequences and rows that the tokens of a chunk belong to ([`LossChunk`](crate::LossChunk)).
    ChunkRows = "chunk rows",
    /// The hidden states before the head, in a [`LossChunk`](crate::LossChunk).
    HiddenStates = "hidden states",
    /// Answers that the model generates, for a [`Metric`](crate::Metric) that reads them.
    Answers = "answers",
    /// Values and gradients of parameters, to read.
    Parameters = "parameters",
    /// Values of parameters, to be set.
    SetParameters = "set parameters",
    /// The groups of parameters of a step ([`OptimizerStep::group`](crate::OptimizerStep::group)): one optimizer updates all
    /// of them, where otherwise a group with options of its own gets an optimizer of its own.
    Groups = "groups",
    /// What an optimizer keeps beside the state of parameters
    /// ([`Optimizer::save_state`](crate::Optimizer::save_state)).
    State = "state",
    /// Other weights for evaluations and checkpoints than those that are trained
    /// ([`Optimizer::before_evaluation`](crate::Optimizer::before_evaluation),
    /// [`Callback::evaluated_weights`](crate::Callback::evaluated_weights)).
    Hooks = "hooks",
    /// The passes of a step once more ([`OptimizerStep::evaluate`](crate::OptimizerStep::evaluate)).
    Closure = "closure",
    /// Answers of the model to a [`Callback`](crate::Callback)'s own questions ([`Control::ask`](crate::Control::ask)).
    Generation = "generation",
    /// To freeze parameters and train them again ([`Control::freeze`](crate::Control::freeze)).
    Freeze = "freeze",
    /// Factors on the learning rates of some parameters ([`Control::set_lr_factor`](crate::Control::set_lr_factor)).
    LearningRates = "learning rates",
    /// Other numbers of micro-batches in a step
    /// ([`Control::set_gradient_accumulation_steps`](crate::Control::set_gradient_accumulation_steps)).
    Accumulation = "accumulation",
    /// To keep checkpoints ([`Control::keep`](crate::Control::keep)).
    Checkpoints = "checkpoints",
    /// To look at the set-up of a run before its model is read ([`Setup`](crate::Setup)).
    Check = "check",
    /// What each row has lost so far, for a [`Sampler`](trait@crate::Sampler) ([`EpochRow::loss`](crate::EpochRow::loss)).
    Losses = "losses",
    /// Initial values that a [`Tuner`](crate::Tuner) makes itself, of a layer's weight or of what was drawn
    /// ([`Tuner::initial`](crate::Tuner::initial)).
    Initial = "initial values",
    /// To say which columns a dataset format reads ([`DatasetFormat::columns`](crate::DatasetFormat::columns)), or which a sampler
    /// asks for ([`Sampler::columns`](crate::Sampler::columns)).
    Columns = "columns",
}

impl Need {
    /// The need of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|need| need.name() == name)
    }

    /// Whether a component that declares this has declared [`Need::Run`] too.
    pub fn implies_run(self) -> bool {
        matches!(self, Self::Run | Self::Parameters | Self::SetParameters)
    }

    /// Whether these declare it.
    pub fn is_in(self, declared: &[Self]) -> bool {
        declared.contains(&self)
            || match self {
                Self::Run => declared.iter().any(|need| need.implies_run()),
                Self::Parameters => declared.contains(&Self::SetParameters),
                _ => false,
            }
    }

    /// The error of a component that uses it and has declared only these.
    pub fn undeclared(self, declared: &[Self]) -> Error {
        let all = declared.iter().copied().chain([self]);
        let all: Vec<String> = all.map(|need| format!("Need::{need:?}")).collect();
        Error::new(format!(
            "it uses what is not given without being declared ({}). Add to its implementation of the trait: \
             fn needs() -> &'static [Need] {{ &[{}] }}",
            self.name(),
            all.join(", ")
        ))
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The component that this thread is in, as far as its needs are concerned.
#[derive(Clone, Copy, Default)]
struct Scope {
    /// What it declares; `None` if nobody has said.
    declared: Option<&'static [Need]>,
    /// What it used without declaring it.
    used: Option<Need>,
}

thread_local! {
    static SCOPE: Cell<Scope> = const { Cell::new(Scope { declared: None, used: None }) };
}

/// The component that this thread is in declares these.
#[doc(hidden)]
pub fn declare(declared: &'static [Need]) {
    let scope = SCOPE.get();
    SCOPE.set(Scope {
        declared: Some(declared),
        ..scope
    });
}

/// Components that declare these are tried on this thread, beside those that are tried on it already.
pub(crate) fn declare_more(more: &'static [Need]) {
    let all = SCOPE.get().declared.unwrap_or_default();
    match all.is_empty() {
        true => declare(more),
        false => declare([all, more].concat().leak()),
    }
}

/// A method of the SDK that this need belongs to is called and cannot fail itself: without the declaration the call that
/// the component is in fails at its end.
#[doc(hidden)]
pub fn note(need: Need) {
    let scope = SCOPE.get();
    if !scope.declared.is_none_or(|declared| need.is_in(declared)) {
        miss(need);
    }
}

/// As [`note`], of something that was not given.
#[doc(hidden)]
pub fn miss(need: Need) {
    let scope = SCOPE.get();
    SCOPE.set(Scope {
        used: scope.used.or(Some(need)),
        ..scope
    });
}

/// As [`note`], for a method that can fail.
///
/// # Errors
/// The component does not declare the need.
#[doc(hidden)]
pub fn require(need: Need) -> Result<()> {
    match SCOPE.get().declared {
        Some(declared) if !need.is_in(declared) => Err(need.undeclared(declared)),
        _ => Ok(()),
    }
}

/// What came of a call of a component, or the error of what it used without declaring it.
///
/// # Errors
/// Those of the call; [`Need::undeclared`].
#[doc(hidden)]
pub fn checked<T>(result: Result<T>) -> Result<T> {
    let scope = SCOPE.get();
    SCOPE.set(Scope {
        used: None,
        ..scope
    });
    match (result, scope.used) {
        (Ok(_), Some(need)) => Err(need.undeclared(scope.declared.unwrap_or_default())),
        (result, _) => result,
    }
}

/// Makes a call of a component apart from the one that this thread may be in.
pub(crate) fn scoped<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    struct Restore(Scope);
    impl Drop for Restore {
        fn drop(&mut self) {
            SCOPE.set(self.0);
        }
    }
    let _outer = Restore(SCOPE.replace(Scope::default()));
    checked(call())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn needs_are_told_apart_by_their_names() {
        let names: BTreeSet<&str> = Need::ALL.iter().map(|need| need.name()).collect();
        assert_eq!(names.len(), Need::ALL.len());
        for &need in Need::ALL {
            assert_eq!(Need::from_name(need.name()), Some(need));
            assert!(need.is_in(&[need]) && !need.is_in(&[]));
            assert!(!need.name().contains(',') && !need.name().contains(" with "));
        }
        assert!(Need::Run.is_in(&[Need::SetParameters]));
        assert!(!Need::SetParameters.is_in(&[Need::Parameters]));
    }

    #[test]
    fn what_is_used_without_being_declared_fails_with_the_line_to_add() {
        let call = |declared: &'static [Need]| {
            scoped(|| {
                declare(declared);
                note(Need::Piece);
                let inner = scoped(|| {
                    note(Need::Answers);
                    Ok(1)
                });
                assert_eq!(
                    inner,
                    Ok(1),
                    "a call inside of another is a call of its own"
                );
                Ok(2)
            })
        };
        assert_eq!(call(&[Need::Piece]), Ok(2));
        let said = call(&[Need::Run]).unwrap_err().to_string();
        assert!(
            said.ends_with("fn needs() -> &'static [Need] { &[Need::Run, Need::Piece] }"),
            "{said}"
        );
        assert_eq!(scoped(|| Ok(())), Ok(()), "an error is of one call");
        let required = scoped(|| {
            declare(&[]);
            require(Need::Run)
        });
        assert!(required.is_err());
    }
}
