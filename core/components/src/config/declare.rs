//! `flags!`: one row declares a flag, and everything about it comes from the row.
//!
//! A row of the table
//!
//! ```text
//! Adapter {
//!     /// Rank
//!     lora_rank: usize = 8, bounds between(1.0, MAX_RANK as f64)
//!         => sft "same", bench;
//! }
//! ```
//!
//! becomes
//!
//! ```text
//! pub struct SftConfig { .., /** Rank */ pub lora_rank: usize, .. }      // and so in BenchConfig
//! impl Default for SftConfig { .. lora_rank: 8, .. }
//! TABLE: Flag { name: "lora_rank", kind: ValueKind::Int, help: "Rank", bounds: Some(between(..)), .. }
//! ```
//!
//! The command line, its help, the keys of a file, their checks and the tables of `docs/from-ms-swift.md` read the
//! entry of `TABLE`; the engine reads the field. The parts of a row, in this order:
//!
//! | part | what |
//! |---|---|
//! | `/// Rank` | the help, in one line |
//! | `lora_rank` | the name; other spellings follow as `\| rank` |
//! | `: usize` | the type, which says how a value is read and which ones there are ([`FlagValue`](super::FlagValue)) |
//! | `= 8` | the default |
//! | `, changes Rows` | what another value would change, a [`Change`](super::Change) |
//! | `, about Data` | a [`Topic`](super::Topic) or several that its group does not tell |
//! | `, over optim` | flags of the file that it replaces if it is given on the command line |
//! | `, term optimizer` | the term of a checkpoint that it belongs to, if that has another name |
//! | `, option beta1` | the option of the optimizer that it is a shorthand for |
//! | `, bounds from(1.0)` | between which numbers it lies; needed where it is a number |
//! | `=> sft "same"` | a command that takes it, and its place beside ms-swift's flag; none stands for "as in `apus sft`" |
//! | `, infer(Option<f64> = None) "same"` | the next command, here with a type and a default of its own |
//!
//! The commands stand in the order `sft`, `infer`, `deploy`, `export`, `model_new`, `bench`, `data`, `eval`. Two rows may have one name if no
//! command takes both.

/// Makes the configurations of all commands and `TABLE`, the list of all flags, from rows; see the module.
macro_rules! flags {
    ($($group:ident {
        $(
            #[doc = $help:literal]
            $name:ident $(| $alias:ident)*: $type:ty = $default:expr
            $(, changes $change:ident)?
            $(, about $($topic:ident)|+)?
            $(, over $($over:ident)|+)?
            $(, term $term:ident)?
            $(, option $option:ident)?
            $(, bounds $bounds:expr)?
            =>
            $(sft $(($sft_type:ty = $sft_default:expr))? $($sft_place:literal)? $(,)?)?
            $(infer $(($infer_type:ty = $infer_default:expr))? $($infer_place:literal)? $(,)?)?
            $(deploy $(($deploy_type:ty = $deploy_default:expr))? $($deploy_place:literal)? $(,)?)?
            $(export $(($export_type:ty = $export_default:expr))? $($export_place:literal)? $(,)?)?
            $(model_new $(($new_type:ty = $new_default:expr))? $($new_place:literal)? $(,)?)?
            $(bench $(($bench_type:ty = $bench_default:expr))? $($bench_place:literal)? $(,)?)?
            $(data $(($data_type:ty = $data_default:expr))? $($data_place:literal)? $(,)?)?
            $(eval $(($eval_type:ty = $eval_default:expr))? $($eval_place:literal)? $(,)?)?
            ;
        )*
    })*) => {
        config! {
            /// Flags of `apus sft`; each field is the flag of its name.
            #[serde(deny_unknown_fields)]
            SftConfig {
                $($($({ #[doc = $help] $name: $type = $default; $($sft_type = $sft_default)? })?)*)*
                {
                    #[doc = "Values of the flags that built-in components declare, by flag: those that are given."]
                    #[serde(skip)]
                    of_components: Map<String, Value> = Map::new();
                }
            }
        }
        config! {
            /// Flags of `apus infer`; each field is the flag of its name.
            #[serde(deny_unknown_fields)]
            InferConfig { $($($({ #[doc = $help] $name: $type = $default; $($infer_type = $infer_default)? })?)*)* }
        }
        config! {
            /// Flags of `apus deploy`; each field is the flag of its name.
            #[serde(deny_unknown_fields)]
            DeployConfig { $($($({ #[doc = $help] $name: $type = $default; $($deploy_type = $deploy_default)? })?)*)* }
        }
        config! {
            /// Flags of `apus export`; each field is the flag of its name.
            #[serde(deny_unknown_fields)]
            ExportConfig { $($($({ #[doc = $help] $name: $type = $default; $($export_type = $export_default)? })?)*)* }
        }
        config! {
            /// Flags of `apus model new`; each field is the flag of its name.
            #[serde(deny_unknown_fields)]
            ModelNewConfig { $($($({ #[doc = $help] $name: $type = $default; $($new_type = $new_default)? })?)*)* }
        }
        config! {
            /// Flags of `apus bench`; each field is the flag of its name. Those of `apus sft` mean the same here.
            #[serde(deny_unknown_fields)]
            BenchConfig { $($($({ #[doc = $help] $name: $type = $default; $($bench_type = $bench_default)? })?)*)* }
        }
        config! {
            /// Flags of `apus data`: its own, and all of `apus sft`, so that what is looked at is what a run with
            /// the same command line or file trains on.
            DataConfig {
                $($($({ #[doc = $help] $name: $type = $default; $($data_type = $data_default)? })?)*)*
                {
                    #[doc = "The flags of `apus sft`."]
                    #[serde(flatten)]
                    run: Map<String, Value> = values(&SftConfig::default());
                }
            }
        }

        config! {
            /// Flags of `apus eval`: its own, and all of `apus sft`, so that the command line or file of a run can be given
            /// for its checkpoint.
            EvalConfig {
                $($($({ #[doc = $help] $name: $type = $default; $($eval_type = $eval_default)? })?)*)*
                {
                    #[doc = "The flags of `apus sft`."]
                    #[serde(flatten)]
                    run: Map<String, Value> = values(&SftConfig::default());
                }
            }
        }

        /// The flags of the table, in the order of the help.
        pub(super) const TABLE: &[Flag] = &[$($(
            Flag {
                name: stringify!($name),
                aliases: &[$(stringify!($alias)),*],
                kind: <$type as FlagValue>::KIND,
                help: $help.trim_ascii(),
                group: Group::$group,
                changes: given_or!([$(Some(Change::$change))?] None),
                about: &[$($(Topic::$topic),+)?],
                over: &[$($(stringify!($over)),+)?],
                term: given_or!([$(Some(stringify!($term)))?] None),
                option: given_or!([$(Some(stringify!($option)))?] None),
                bounds: given_or!([$(Some($bounds))?] None),
                check_text: <$type as FlagValue>::check,
                declared_by: None,
                uses: &[
                    $(Use { command: Command::Sft, place: given_or!([$($sft_place)?] AS_SFT) },)?
                    $(Use { command: Command::Infer, place: given_or!([$($infer_place)?] AS_SFT) },)?
                    $(Use { command: Command::Deploy, place: given_or!([$($deploy_place)?] AS_SFT) },)?
                    $(Use { command: Command::Export, place: given_or!([$($export_place)?] AS_SFT) },)?
                    $(Use { command: Command::ModelNew, place: given_or!([$($new_place)?] AS_SFT) },)?
                    $(Use { command: Command::Bench, place: given_or!([$($bench_place)?] AS_SFT) },)?
                    $(Use { command: Command::Data, place: given_or!([$($data_place)?] AS_SFT) },)?
                    $(Use { command: Command::Eval, place: given_or!([$($eval_place)?] AS_SFT) },)?
                ],
            },
        )*)*];
    };
}

/// The configuration of one command: a struct with a field for each of its flags, and its default.
macro_rules! config {
    ($(#[$meta:meta])* $config:ident { $({
        $(#[$field_meta:meta])* $name:ident: $type:ty = $default:expr; $($own_type:ty = $own_default:expr)?
    })* }) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        $(#[$meta])*
        pub struct $config {
            $($(#[$field_meta])* pub $name: type_given_or!([$($own_type)?] $type),)*
        }

        impl Default for $config {
            fn default() -> Self {
                Self { $($name: given_or!([$($own_default)?] $default),)* }
            }
        }
    };
}

/// What is in the brackets, or else what follows them.
macro_rules! given_or {
    ([] $other:expr) => {
        $other
    };
    ([$given:expr] $other:expr) => {
        $given
    };
}

/// As `given_or`, for types.
macro_rules! type_given_or {
    ([] $other:ty) => {
        $other
    };
    ([$given:ty] $other:ty) => {
        $given
    };
}

pub(super) use {config, flags, given_or, type_given_or};
