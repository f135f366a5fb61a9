//! Looking at runs: it reads what a run writes into its folder, and draws it.
//!
//! Nothing here knows the engine: a run is its folder ([`run`]). From it come pictures ([`draw`]), a report in one
//! file ([`report`]), and a local page that follows runs while they go on ([`watch`]). The report and the page share
//! their scripts (`assets/`), which are part of the binary.

pub mod draw;
pub mod run;
