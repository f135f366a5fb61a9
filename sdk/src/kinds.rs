//! The kinds of component, a row for each.
//!
//! A row of [`kinds!`](crate::kinds) says what cannot be derived: the name of the trait, the texts of the kind, the
//! name of its files, its table of functions, and its place in the root module of a plugin. Everything that holds for
//! all kinds is derived from the rows, by macros that are given all of them:
//!
//! | derived | where |
//! |---|---|
//! | [`Kind`] and [`Make`], a variant for each row | here |
//! | the fields of the root module, whose functions make components of a plugin | `abi/root.rs` |
//! | those functions, on the plugin's side | `abi/export.rs` |
//! | `Crosses` for `dyn Trait`: how a component gets from a plugin to the host | `abi/object.rs` |
//! | the template of `apus plugin new`, `templates/FILE/lib.rs` | `src/plugin/new.rs` of Apus |
//! | which module of `apus plugin check` exercises it, `FILE::check` | `core/engine/src/plugin_check/mod.rs` of Apus |
//!
//! Help texts and lists go through [`Kind::ALL`]. So the row
//!
//! ```text
//! Metric {
//!     file: metric,
//!     table: MetricTableRef,
//!     make: make_metric,
//!     name: "metric",
//!     flag: "metrics",
//!     decides: "evaluation metrics",
//! }
//! ```
//!
//! becomes, among others,
//!
//! ```text
//! pub enum Kind { .., Metric }
//! pub enum Make { .., Metric(fn(&Options) -> Result<Box<dyn Metric>>) }
//! pub struct PluginRoot { .., pub make_metric: unsafe extern "C" fn(..) -> Wire<Object<metric::MetricTableRef>> }
//! impl Crosses for dyn Metric { type Table = metric::MetricTableRef; const KIND: Kind = Kind::Metric; .. }
//! ```

use crate::{Options, Result};
use std::fmt;

/// Gives the rows of all kinds to the macro of this name.
///
/// | column | what |
/// |---|---|
/// | `file` | the module of the kind in `abi` and in `apus plugin check`, the folder of its template |
/// | `table` | the type that refers to its table of functions, in its module of `abi` |
/// | `make` | the field of the root module that makes one |
/// | `then` | where a version ended the root module with another function, that one |
/// | `name` | the kind in messages, lists and descriptions of plugins |
/// | `flag` | the flag of `apus sft`, and key of a configuration, that takes names of its components |
/// | `decides` | what a component of the kind decides, for the docs of [`Kind`] |
///
/// The order is that of the root module, which stays: a new kind comes after all others, so that the root module of a
/// plugin with an older SDK is the beginning of this one.
#[doc(hidden)]
#[macro_export]
macro_rules! kinds {
    ($derive:ident) => {
        $derive! {
            DatasetFormat {
                file: dataset_format,
                table: FormatTableRef,
                make: make_format,
                name: "dataset format",
                flag: "dataset_format",
                decides: "which rows it recognises; a row to conversations",
            }
            LossScale {
                file: loss_scale,
                table: LossScaleTableRef,
                make: make_loss_scale,
                name: "loss scale",
                flag: "loss_scale",
                decides: "text of a turn to segments with weights",
            }
            Loss {
                file: loss,
                table: LossTableRef,
                make: make_loss,
                name: "loss",
                flag: "loss_type",
                decides: "supervised tokens to a loss per token",
            }
            Optimizer {
                file: optimizer,
                table: OptimizerTableRef,
                make: make_optimizer,
                name: "optimizer",
                flag: "optimizer",
                decides: "one update of the trainable parameters",
            }
            LrSchedule {
                file: schedule,
                table: ScheduleTableRef,
                make: make_schedule,
                name: "schedule",
                flag: "lr_scheduler",
                decides: "the learning-rate factor at a step",
            }
            Callback {
                file: callback,
                table: CallbackTableRef,
                make: make_callback,
                name: "callback",
                flag: "callbacks",
                decides: "reactions to training events",
            }
            Metric {
                file: metric,
                table: MetricTableRef,
                make: make_metric,
                name: "metric",
                flag: "metrics",
                decides: "evaluation metrics",
            }
            // The last kind of SDK 1.0: plugins may lack those below.
            Tracker {
                file: tracker,
                table: TrackerTableRef,
                #[sabi(last_prefix_field)]
                make: make_tracker,
                name: "tracker",
                flag: "trackers",
                decides: "where numbers, text and logs of a run go",
            }
            Exporter {
                file: exporter,
                table: ExporterTableRef,
                make: make_exporter,
                name: "exporter",
                flag: "to",
                decides: "a folder made of a model's weights",
            }
            Tuner {
                file: tuner,
                table: TunerTableRef,
                make: make_tuner,
                name: "tuner",
                flag: "train_type",
                decides: "parameters added to layers, and what is computed with them",
            }
            Dataset {
                file: dataset,
                table: DatasetTableRef,
                make: make_dataset,
                name: "dataset",
                flag: "dataset",
                decides: "what a name of data stands for: files or rows, and how they are read",
            }
            Sampler {
                file: sampler,
                table: SamplerTableRef,
                make: make_sampler,
                then: lines,
                name: "sampler",
                flag: "sampler",
                decides: "which rows an epoch trains, in which order and how often",
            }
        }
    };
}

macro_rules! kind_and_make {
    ($($Trait:ident {
        file: $file:ident,
        table: $table:ident,
        $(#[$in_root:meta])?
        make: $make:ident,
        $(then: $then:ident,)?
        name: $name:literal,
        flag: $flag:literal,
        decides: $decides:literal,
    })*) => {
        /// The kinds of component, each with a trait.
        ///
        /// | kind | trait | decides |
        /// |---|---|---|
        $(#[doc = concat!("| ", $name, " | [`", stringify!($Trait), "`](trait@crate::", stringify!($Trait), ") | ", $decides, " |")])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = concat!("[`", stringify!($Trait), "`](trait@crate::", stringify!($Trait), "): ", $decides, ".")] $Trait),*
        }

        /// The rows of the table of the front page.
        #[cfg(test)]
        fn rows() -> Vec<&'static str> {
            vec![$(concat!("| ", $name, " | [`", stringify!($Trait), "`](trait@", stringify!($Trait), ") | ", $decides, " |")),*]
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Kind] = &[$(Kind::$Trait),*];

            /// Its name in messages: `loss scale`.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$Trait => $name),* }
            }

            /// The flag of `apus sft`, and the key of a configuration, that takes names of its components:
            /// `loss_type` of [`Loss`](trait@crate::Loss).
            pub fn flag(self) -> &'static str {
                match self { $(Kind::$Trait => $flag),* }
            }
        }

        /// Makes a component from its options.
        pub enum Make {
            $(#[doc = concat!("Makes a [`", stringify!($Trait), "`](trait@crate::", stringify!($Trait), ").")]
            $Trait(fn(&Options) -> Result<Box<dyn crate::$Trait>>)),*
        }

        impl Make {
            /// The kind of what it makes.
            pub fn kind(&self) -> Kind {
                match self { $(Make::$Trait(_) => Kind::$Trait),* }
            }
        }
    };
}
crate::kinds!(kind_and_make);

impl Kind {
    /// The kind of this name; dashes and underscores stand for spaces.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase().replace(['-', '_'], " ");
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_front_page_has_every_kind() {
        for row in rows() {
            assert!(
                include_str!("lib.rs").contains(&format!("//! {row}\n")),
                "the table of kinds in lib.rs lacks {row}"
            );
        }
    }

    #[test]
    fn kinds_are_told_apart_by_name_and_flag() {
        let names: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        let flags: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.flag()).collect();
        assert_eq!(
            (names.len(), flags.len()),
            (Kind::ALL.len(), Kind::ALL.len())
        );
        for &kind in Kind::ALL {
            let name = kind.name();
            assert_eq!(Kind::from_name(name), Some(kind));
            assert_eq!(Kind::from_name(&name.replace(' ', "-")), Some(kind));
            assert_eq!(
                Kind::from_name(&name.replace(' ', "_").to_uppercase()),
                Some(kind)
            );
        }
        assert_eq!(Kind::from_name("lossy scale"), None);
    }
}
