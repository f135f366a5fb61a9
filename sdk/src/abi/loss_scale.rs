//! Loss scales across the boundary.

use super::guard::guard;
use super::object::{Imported, component, crosses_by};
use crate::{Base, Field, LossScale, Result, Segment, Turn, Wire};
use abi_stable::StableAbi;
use abi_stable::std_types::{ROption, RStr, RString, RVec};

/// A loss scale's functions.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = LossScaleTableRef)))]
pub struct LossScaleTable {
    /// 0 for a scale, 1 to 3 for the base strategies default, last_round, all.
    pub base: unsafe extern "C" fn(*const ()) -> Wire<u32>,
    /// The segments of a text.
    #[sabi(last_prefix_field)]
    pub segments:
        unsafe extern "C" fn(*const (), RStr<'_>, WireTurn<'_>) -> Wire<RVec<WireSegment>>,
}

/// A [`Turn`].
#[repr(C)]
#[derive(StableAbi)]
pub struct WireTurn<'a> {
    role: RStr<'a>,
    /// 0 for the content, 1 for the thinking.
    field: u32,
    query: ROption<RStr<'a>>,
    is_last: bool,
}

/// A [`Segment`].
#[repr(C)]
#[derive(StableAbi)]
pub struct WireSegment {
    text: RString,
    weight: f64,
}

crosses_by!(LossScaleTable { base, segments } as LossScaleTableRef for dyn LossScale);

unsafe extern "C" fn base(this: *const ()) -> Wire<u32> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer.
        let scale = unsafe { component::<dyn LossScale>(this) };
        Ok(match scale.base() {
            None => 0,
            Some(Base::Default) => 1,
            Some(Base::LastRound) => 2,
            Some(Base::All) => 3,
        })
    })
}

unsafe extern "C" fn segments(
    this: *const (),
    text: RStr<'_>,
    turn: WireTurn<'_>,
) -> Wire<RVec<WireSegment>> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer.
        let scale = unsafe { component::<dyn LossScale>(this) };
        let turn = Turn {
            role: turn.role.as_str(),
            field: match turn.field {
                0 => Field::Content,
                _ => Field::Thinking,
            },
            query: turn.query.as_ref().map(RStr::as_str).into_option(),
            is_last: turn.is_last,
        };
        let segments = scale.segments(text.as_str(), &turn)?;
        let wire = segments.into_iter().map(|segment| WireSegment {
            text: segment.text.into(),
            weight: segment.weight,
        });
        Ok(wire.collect())
    })
}

impl LossScale for Imported<LossScaleTableRef> {
    fn base(&self) -> Option<Base> {
        self.try_base().ok().flatten()
    }

    fn try_base(&self) -> Result<Option<Base>> {
        let (this, call) = (self.object.this(), self.object.table().base());
        // SAFETY: pointer and table belong together.
        match self.origin.context("base", unsafe { call(this) })? {
            0 => Ok(None),
            1 => Ok(Some(Base::Default)),
            2 => Ok(Some(Base::LastRound)),
            3 => Ok(Some(Base::All)),
            other => Err(self
                .origin
                .failed("base", &format!("unknown base strategy {other}"))),
        }
    }

    fn segments(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        let (this, table) = (self.object.this(), self.object.table());
        let turn = WireTurn {
            role: turn.role.into(),
            field: match turn.field {
                Field::Content => 0,
                Field::Thinking => 1,
            },
            query: turn.query.map(RStr::from).into(),
            is_last: turn.is_last,
        };
        // SAFETY: pointer and table belong together; the texts outlive the call.
        let wire = unsafe { table.segments()(this, text.into(), turn) };
        let segments = self.origin.context("segments", wire)?;
        Ok(segments
            .into_iter()
            .map(|segment| Segment::new(segment.text.into_string(), segment.weight))
            .collect())
    }
}
