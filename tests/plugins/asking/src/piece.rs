//! Loss scales that look where their piece stands.

use apus_sdk::{Error, LossScale, Need, Piece, Result, Segment};

apus_sdk::options! {
    struct Placed {}
}

apus_sdk::register! {
    /// Fails if it does not see what it expects of an answer `one two` of the rows 7 (channel a) and 8 (channel b).
    LossScale, "placed", Placed
}

impl LossScale for Placed {
    fn needs() -> &'static [Need] {
        &[Need::Piece]
    }

    fn segments_of(&self, piece: &Piece) -> Result<Vec<Segment>> {
        if piece.columns().get("id").is_none() {
            // A row of the validation data, or the words of a call that the host tries.
            return Ok(vec![Segment::new(piece.text(), 1.0)]);
        }
        let id = piece.columns().get("id").and_then(|id| id.as_u64());
        let fits = match piece.channel() {
            Some("a") => id == Some(7),
            Some("b") => id == Some(8),
            _ => false,
        };
        // The tiny model has merges of its own; more than none and at most one a byte is known of any tokenizer.
        let tokens = piece.tokens().unwrap_or_default();
        let place = (
            piece.message(),
            piece.messages(),
            piece.offset(),
            piece.whole(),
        );
        if !fits || place != (1, 2, 0, "one two") || !(1..=7).contains(&tokens) {
            return Err(Error::new(format!(
                "sees {:?} {id:?} {place:?} {tokens}",
                piece.channel()
            )));
        }
        Ok(vec![Segment::new("one ", 0.5), Segment::new("two", 1.0)])
    }
}

apus_sdk::options! {
    struct After {}
}

apus_sdk::register! {
    /// Fails if it does not see what it expects behind `placed`: two pieces of one text, each with its tokens.
    LossScale, "after", After
}

impl LossScale for After {
    fn needs() -> &'static [Need] {
        &[Need::Piece]
    }

    fn segments_of(&self, piece: &Piece) -> Result<Vec<Segment>> {
        let sees = (piece.offset(), piece.text(), piece.whole(), piece.tokens());
        let of_row = piece.columns().get("id").is_some();
        match sees {
            (0, "one ", "one two", Some(1..=4)) | (4, "two", "one two", Some(1..=3)) => {}
            _ if !of_row => {}
            sees => return Err(Error::new(format!("sees {sees:?}"))),
        }
        Ok(vec![Segment::new(piece.text(), 1.0)])
    }
}

apus_sdk::options! {
    struct Unplaced {}
}

apus_sdk::register! {
    /// Looks without saying that it does.
    LossScale, "unplaced", Unplaced
}

impl LossScale for Unplaced {
    fn segments_of(&self, piece: &Piece) -> Result<Vec<Segment>> {
        Ok(vec![Segment::new(
            piece.text(),
            piece.offset() as f64 + 1.0,
        )])
    }
}
