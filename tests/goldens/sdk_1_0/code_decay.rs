//! What `examples/code-decay` is, written with SDK 1.0, which does not tell where a piece stands: behind another scale every
//! piece counts as the beginning of an answer, and a code block that was cut as prose.

use apus_sdk::{LossScale, Result, Segment, Turn};

apus_sdk::options! {
    struct CodeDecay {
        /// Weight of fenced code blocks, fences included.
        code: f64 = 2.0,
        /// After so many bytes of an answer weights are half of what they are at its beginning.
        half_life: f64 = 4096.0,
        /// The smallest share of a weight that stays.
        least: f64 = 0.1,
    }
}

apus_sdk::register! {
    /// Code counts `code` times; weights fall by half every `half_life` bytes of an answer.
    LossScale, "old_code_decay", CodeDecay
}

impl LossScale for CodeDecay {
    fn segments(&self, text: &str, _turn: &Turn) -> Result<Vec<Segment>> {
        for (name, value) in [
            ("code", self.code),
            ("half_life", self.half_life),
            ("least", self.least),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(format!("{name} is {value}").into());
            }
        }
        let (mut at, mut inside) = (0, false);
        let weigh = |line: &str| {
            let fence = line.trim_start().starts_with("```");
            let kind = if inside || fence { self.code } else { 1.0 };
            let share = 0.5f64.powf(at as f64 / self.half_life).max(self.least);
            inside ^= fence;
            at += line.len();
            Segment::new(line, kind * share)
        };
        Ok(text.split_inclusive('\n').map(weigh).collect())
    }
}
