//! A loss scale in which code counts more than prose, and the beginning of an answer more than its end.
//!
//! It may follow another scale, which cuts the answer into pieces: where a piece stands in the whole text is told.

use apus_sdk::{LossScale, Need, Piece, Result, Segment};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct CodeDecay {
        /// Weight of fenced code blocks, fences included.
        code: f64 = 2.0,
        /// After so many bytes of an answer weights are half of what they are at its beginning.
        half_life: f64 = 4096.0,
        /// The smallest share of a weight that stays.
        least: f64 = 0.1,
    }
    limits {
        code: 0.0..,
        half_life: 1.0..,
        least: 0.0..=1.0,
    }
}

apus_sdk::register! {
    /// Code counts `code` times; weights fall by half every `half_life` bytes of an answer.
    LossScale, "code_decay", CodeDecay
}

fn is_fence(line: &str) -> bool {
    line.trim_start().starts_with("```")
}

impl LossScale for CodeDecay {
    fn needs() -> &'static [Need] {
        &[Need::Piece]
    }

    fn segments_of(&self, piece: &Piece) -> Result<Vec<Segment>> {
        let mut at = piece.offset();
        let fences = piece.whole()[..at].lines().filter(|line| is_fence(line));
        let mut inside = fences.count() % 2 == 1;
        let weigh = |line: &str| {
            let fence = is_fence(line);
            let kind = if inside || fence { self.code } else { 1.0 };
            let share = 0.5f64.powf(at as f64 / self.half_life).max(self.least);
            inside ^= fence;
            at += line.len();
            Segment::new(line, kind * share)
        };
        Ok(piece.text().split_inclusive('\n').map(weigh).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::{TURN, segments_of};

    #[test]
    fn pieces_weigh_what_they_weigh_in_the_whole() {
        let whole = "See:\n```rust\nfn f() {}\n```\nThat is all.\n";
        let scale = CodeDecay {
            half_life: 10.0,
            least: 0.125,
            ..CodeDecay::default()
        };
        let all = segments_of(&scale, &Piece::new(whole, &TURN)).unwrap();
        let expected = [
            ("See:\n", 1.0),
            ("```rust\n", 2.0 * 0.5f64.powf(0.5)),
            ("fn f() {}\n", 2.0 * 0.5f64.powf(1.3)),
            ("```\n", 2.0 * 0.5f64.powf(2.3)),
            ("That is all.\n", 0.5f64.powf(2.7)),
        ];
        assert_eq!(
            all,
            expected.map(|(text, weight)| (text.to_owned(), weight))
        );
        // As a scale before this one may cut it: within a code block.
        let (head, tail) = whole.split_at(13);
        let mut pieces = Vec::new();
        for (text, offset) in [(head, 0), (tail, 13)] {
            let piece = Piece::new(text, &TURN).within(whole, offset);
            pieces.extend(segments_of(&scale, &piece).unwrap());
        }
        assert_eq!(pieces, all);
    }

    #[test]
    fn the_least_share_stays() {
        let text = "a long line\n".repeat(10_000);
        let found = segments_of(&CodeDecay::default(), &Piece::new(&text, &TURN)).unwrap();
        assert_eq!(found.last().unwrap().1, 0.1);
    }
}
