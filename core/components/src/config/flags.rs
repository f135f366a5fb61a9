//! The list of all flags.

use super::flag::Flag;
use super::table::TABLE;

/// All flags, in the order of the help.
pub static FLAGS: &[Flag] = TABLE;
