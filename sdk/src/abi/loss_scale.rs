//! Loss scales across the boundary.

use super::guard::guard;
use super::object::{Imported, check_by, component, crosses_by, imported_check};
use crate::{Base, Field, LossScale, Piece, Result, Segment, Turn, Wire};
use abi_stable::StableAbi;
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{ROption, RResult, RStr, RString, RVec};
use std::cell::RefCell;
use std::sync::OnceLock;

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
    /// Gives the segments of a piece to its host; since 1.1.
    pub segments_of: unsafe extern "C" fn(*const (), WirePiece<'_>) -> Wire<()>,
    /// See [`LossScale::check`]; since 1.1.
    pub check: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<()>,
    /// As `segments`, given as by `segments_of`; since 1.1.
    pub segments_to: unsafe extern "C" fn(
        *const (),
        RStr<'_>,
        WireTurn<'_>,
        *const (),
        PieceTableRef,
    ) -> Wire<()>,
}

/// A [`Piece`].
#[repr(C)]
#[derive(StableAbi)]
pub struct WirePiece<'a> {
    text: RStr<'a>,
    turn: WireTurn<'a>,
    message: usize,
    messages: usize,
    whole: RStr<'a>,
    offset: usize,
    channel: ROption<RStr<'a>>,
    /// JSON text, or nothing.
    row: RStr<'a>,
    /// Goes with the functions of `host`.
    piece: *const (),
    host: PieceTableRef,
}

/// The host's functions for a piece.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PieceTableRef)))]
pub struct PieceTable {
    /// See [`Piece::tokens`].
    pub tokens: unsafe extern "C" fn(*const ()) -> Wire<ROption<usize>>,
    /// Takes a segment that was found after those before: copied once, since a scale is asked for every text of a dataset.
    #[sabi(last_prefix_field)]
    pub segment: unsafe extern "C" fn(*const (), RStr<'_>, f64),
}

/// What the host's functions for a piece work on.
struct Asked<'a> {
    piece: &'a Piece<'a>,
    found: RefCell<Vec<Segment>>,
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

impl<'a> Asked<'a> {
    fn of(piece: &'a Piece<'a>) -> Self {
        Self {
            piece,
            found: RefCell::default(),
        }
    }

    fn pointer(&self) -> *const () {
        std::ptr::from_ref(self).cast()
    }
}

crosses_by!(LossScaleTable { base, segments, segments_of, check, segments_to } as LossScaleTableRef for dyn LossScale);

check_by!(dyn LossScale);

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
        let turn = turn.take();
        give(scale.segments_of(&Piece::bare(text.as_str(), &turn))?)
    })
}

unsafe extern "C" fn segments_of(this: *const (), wire: WirePiece<'_>) -> Wire<()> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer.
        let scale = unsafe { component::<dyn LossScale>(this) };
        let turn = wire.turn.take();
        let channel = wire.channel.as_ref().map(RStr::as_str).into_option();
        let tokens = || {
            // SAFETY: pointer and table come from one host, which waits for the scale to return.
            match unsafe { wire.host.tokens()(wire.piece) } {
                RResult::ROk(count) => count.into_option(),
                RResult::RErr(_) => None,
            }
        };
        let piece = Piece::new(wire.text.as_str(), &turn)
            .in_message(wire.message, wire.messages)
            .within(wire.whole.as_str(), wire.offset)
            .of_row(channel, wire.row.as_str())
            .counted_by(&tokens);
        let found = scale.segments_of(&piece)?;
        // SAFETY: as above.
        unsafe { give_to(wire.host, wire.piece, &found) };
        Ok(())
    })
}

unsafe extern "C" fn segments_to(
    this: *const (),
    text: RStr<'_>,
    turn: WireTurn<'_>,
    asked: *const (),
    host: PieceTableRef,
) -> Wire<()> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer.
        let scale = unsafe { component::<dyn LossScale>(this) };
        let turn = turn.take();
        let found = scale.segments_of(&Piece::bare(text.as_str(), &turn))?;
        // SAFETY: pointer and table come from one host, which waits for the scale to return.
        unsafe { give_to(host, asked, &found) };
        Ok(())
    })
}

/// Gives segments to the host that asked for them.
unsafe fn give_to(host: PieceTableRef, asked: *const (), found: &[Segment]) {
    for Segment { text, weight } in found {
        // SAFETY: the caller says that pointer and table belong together.
        unsafe { host.segment()(asked, text.as_str().into(), *weight) };
    }
}

fn piece_table() -> PieceTableRef {
    static TABLE: OnceLock<PieceTableRef> = OnceLock::new();
    *TABLE.get_or_init(|| PieceTable { tokens, segment }.leak_into_prefix())
}

unsafe extern "C" fn tokens(asked: *const ()) -> Wire<ROption<usize>> {
    guard(|| {
        // SAFETY: `Imported::segments_of` makes the pointer of what outlives the call.
        let asked = unsafe { &*asked.cast::<Asked>() };
        Ok(asked.piece.tokens().into())
    })
}

unsafe extern "C" fn segment(asked: *const (), text: RStr<'_>, weight: f64) {
    // SAFETY: as above; nothing that is called while the list is borrowed comes back here.
    let asked = unsafe { &*asked.cast::<Asked>() };
    let segment = Segment::new(text.as_str(), weight);
    asked.found.borrow_mut().push(segment);
}

fn give(segments: Vec<Segment>) -> Result<RVec<WireSegment>> {
    let wire = segments.into_iter().map(|segment| WireSegment {
        text: segment.text.into(),
        weight: segment.weight,
    });
    Ok(wire.collect())
}

fn taken(segments: RVec<WireSegment>) -> Vec<Segment> {
    segments
        .into_iter()
        .map(|segment| Segment::new(segment.text.into_string(), segment.weight))
        .collect()
}

impl<'a> WireTurn<'a> {
    fn give(turn: &Turn<'a>) -> Self {
        Self {
            role: turn.role.into(),
            field: match turn.field {
                Field::Content => 0,
                Field::Thinking => 1,
            },
            query: turn.query.map(RStr::from).into(),
            is_last: turn.is_last,
        }
    }

    fn take(&self) -> Turn<'a> {
        Turn {
            role: self.role.as_str(),
            field: match self.field {
                0 => Field::Content,
                _ => Field::Thinking,
            },
            query: self.query.as_ref().map(RStr::as_str).into_option(),
            is_last: self.is_last,
        }
    }
}

impl LossScale for Imported<LossScaleTableRef> {
    imported_check!();

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
        let Some(call) = table.segments_to() else {
            // SAFETY: pointer and table belong together; the texts outlive the call.
            let wire = unsafe { table.segments()(this, text.into(), WireTurn::give(turn)) };
            return Ok(taken(self.origin.context("segments", wire)?));
        };
        let piece = Piece::bare(text, turn);
        let asked = Asked::of(&piece);
        let (turn, to) = (WireTurn::give(turn), asked.pointer());
        // SAFETY: as above, and so does what takes the segments.
        let wire = unsafe { call(this, text.into(), turn, to, piece_table()) };
        self.origin.context("segments", wire)?;
        Ok(asked.found.into_inner())
    }

    fn segments_of(&self, piece: &Piece) -> Result<Vec<Segment>> {
        let call = match self.object.table().segments_of() {
            Some(call) if piece.given() => call,
            _ => return self.segments(piece.text(), piece.turn()),
        };
        let asked = Asked::of(piece);
        let wire = WirePiece {
            text: piece.text().into(),
            turn: WireTurn::give(piece.turn()),
            message: piece.message(),
            messages: piece.messages(),
            whole: piece.whole().into(),
            offset: piece.offset(),
            channel: piece.channel().map(RStr::from).into(),
            row: piece.row().into(),
            piece: asked.pointer(),
            host: piece_table(),
        };
        // SAFETY: as above.
        let wire = unsafe { call(self.object.this(), wire) };
        self.origin.context("segments", wire)?;
        Ok(asked.found.into_inner())
    }
}
