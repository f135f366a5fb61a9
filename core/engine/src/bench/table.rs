//! Formats numbers and tables for the reports.

use comfy_table::{CellAlignment, Table, presets};
use std::ops::Range;

/// A table without lines.
pub fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// Aligns numbers to the right.
pub fn align_right(table: &mut Table, columns: Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// `15,040,512`.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1.25 GiB`.
pub fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1u32 << 30))
}

/// A rate of operations a second, in units of its size.
pub fn rate(flops: f64) -> String {
    match flops {
        large if large >= 1e12 => format!("{:.1} TFLOP/s", large / 1e12),
        small => format!("{:.1} GFLOP/s", small / 1e9),
    }
}

/// The rate of this many operations.
pub fn flops(flops: f64, milliseconds: f64) -> String {
    rate(flops / milliseconds * 1e3)
}

/// The rate of this many bytes.
pub fn gbytes(bytes: f64, milliseconds: f64) -> String {
    format!("{:.1} GB/s", bytes / milliseconds / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(
            [7, 999, 1000, 15_040_512].map(grouped),
            ["7", "999", "1,000", "15,040,512"]
        );
        assert_eq!(gib(5 << 28), "1.25 GiB");
        assert_eq!(flops(3e12, 2.0), "1500.0 TFLOP/s");
        assert_eq!(flops(3e9, 8.0), "375.0 GFLOP/s");
        assert_eq!(gbytes(3e9, 2.0), "1500.0 GB/s");
    }
}
