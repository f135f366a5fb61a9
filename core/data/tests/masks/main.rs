//! Which tokens are trained, and how much: whole conversations through the encoder.

#[path = "../data_common/mod.rs"]
mod data_common;
mod frame;
mod rows;
mod scales;
mod support;
mod turns;
