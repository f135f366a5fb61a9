//! Samplers: the orders of transformers' trainer.

mod group_by_length;
mod random;
mod sequential;
