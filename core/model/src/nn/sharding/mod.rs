//! A frozen base that is spread over ranks: each keeps a part of every layer's large tensors, in the form in which they are
//! stored, and the parts are gathered while the layer is computed.
//!
//! The tensors of a layer lie one after another in one flat tensor for each type of elements ([`Unit`]), of which a rank keeps a
//! part of equal length, so that a layer is gathered in one or two calls whatever its tensors are. A weight is a place in that
//! flat tensor ([`Sharded`]) and can be read while its unit is whole. [`Units`] makes units whole in the order in which a pass
//! enters them, one ahead, and frees them: at most two are whole at a time.

mod builder;
mod unit;
mod units;

pub use builder::{Read, UnitBuilder};
pub use unit::{Sharded, Unit};
pub use units::{Gather, Units, most_at_a_time};

use std::rc::Rc;

/// How a base is spread over ranks.
#[derive(Debug, Clone)]
pub struct Sharding {
    /// The rank, which keeps the part of that number.
    pub rank: usize,
    /// How many ranks there are.
    pub ranks: usize,
    /// What gathers the parts.
    pub gather: Rc<dyn Gather>,
}
