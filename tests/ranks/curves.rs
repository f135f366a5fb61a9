//! The golden curves by several ranks: as recorded, and as one process trains them. Their micro-batches have four examples, so
//! that two and four ranks divide them.

use crate::golden::{CURVES, follow};
use crate::runs::same_within;

#[test]
fn several_ranks_follow_the_golden_curves() {
    for curve in CURVES {
        let dir = tempfile::tempdir().unwrap();
        let one = follow(curve, 1, dir.path());
        for ranks in [2, 4] {
            let several = follow(curve, ranks, dir.path());
            // AdamW makes of a gradient near zero, whatever its rounding, a step of the learning rate, which is 5e-3 in one of them.
            same_within(1e-4, &format!("{curve}, {ranks} ranks"), &one, &several);
        }
    }
}
