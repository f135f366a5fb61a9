//! A table of numbers: a row for each line of a file, and a column for each name. Curves are drawn from it.

use serde::ser::{Serialize, SerializeSeq, SerializeStruct, Serializer};

/// The most columns. A run logs fewer names; further ones are left out, so that a broken file cannot fill the memory.
const MOST_COLUMNS: usize = 512;

/// Columns of numbers. Where a line has no number for a name, the value is NaN.
#[derive(Debug, Default, Clone)]
pub struct Table {
    rows: usize,
    columns: Vec<(String, Vec<f64>)>,
}

impl Table {
    /// Count of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The names in the order of their first appearance.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// The numbers of a column. It is shorter than the table where the last rows have no value.
    pub fn get(&self, name: &str) -> Option<&[f64]> {
        let (_, values) = self.columns.iter().find(|(known, _)| known == name)?;
        Some(values)
    }

    /// The last value of a column that is not NaN.
    pub fn last(&self, name: &str) -> Option<f64> {
        let values = self.get(name)?;
        values.iter().rev().copied().find(|value| value.is_finite())
    }

    /// Adds a row.
    pub fn push<'a>(&mut self, values: impl IntoIterator<Item = (&'a str, f64)>) {
        for (name, value) in values {
            let found = self.columns.iter().position(|(known, _)| known == name);
            let index = match found {
                Some(index) => index,
                None if self.columns.len() == MOST_COLUMNS => continue,
                None => {
                    self.columns.push((name.to_owned(), Vec::new()));
                    self.columns.len() - 1
                }
            };
            let column = &mut self.columns[index].1;
            column.resize(self.rows, f64::NAN);
            column.push(value);
        }
        self.rows += 1;
    }

    /// Removes the rows from this one on.
    pub fn truncate(&mut self, rows: usize) {
        self.rows = self.rows.min(rows);
        for (_, values) in &mut self.columns {
            values.truncate(rows);
        }
    }

    /// The rows from `from` on, at most `most`.
    pub fn since(&self, from: usize, most: usize) -> Rows<'_> {
        let from = from.min(self.rows);
        Rows {
            table: self,
            from,
            to: self.rows.min(from.saturating_add(most)),
        }
    }

    /// Reduces the table to about `most` rows. Of each range of rows, it keeps the two where `by` is least and greatest, so
    /// that no peak is lost.
    pub fn thinned(&self, most: usize, by: &str) -> Self {
        if self.rows <= most {
            return self.clone();
        }
        let stretch = (2 * self.rows).div_ceil(most.max(2));
        let leading = self.get(by).unwrap_or_default();
        let mut thin = Self::default();
        for start in (0..self.rows).step_by(stretch) {
            let end = (start + stretch).min(self.rows);
            let value = |row: &usize| leading.get(*row).copied().unwrap_or(f64::NAN);
            let known = || (start..end).filter(|row| value(row).is_finite());
            let least = known().min_by(|a, b| value(a).total_cmp(&value(b)));
            let most = known().max_by(|a, b| value(a).total_cmp(&value(b)));
            let (least, most) = (least.unwrap_or(start), most.unwrap_or(start));
            let mut kept = vec![least.min(most), least.max(most)];
            if end == self.rows {
                kept.push(end - 1);
            }
            kept.dedup();
            for row in kept {
                thin.push(self.columns.iter().map(|(name, values)| {
                    (name.as_str(), values.get(row).copied().unwrap_or(f64::NAN))
                }));
            }
        }
        thin
    }
}

/// A part of a table, as the page reads it: `{"from", "rows", "columns": {name: [numbers]}}`.
pub struct Rows<'a> {
    table: &'a Table,
    from: usize,
    to: usize,
}

impl Rows<'_> {
    /// Whether the table has more.
    pub fn is_cut(&self) -> bool {
        self.to < self.table.rows
    }
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let columns = Columns(self);
        let mut out = serializer.serialize_struct("Rows", 3)?;
        out.serialize_field("from", &self.from)?;
        out.serialize_field("rows", &(self.to - self.from))?;
        out.serialize_field("columns", &columns)?;
        out.end()
    }
}

struct Columns<'a>(&'a Rows<'a>);

impl Serialize for Columns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Rows { table, from, to } = self.0;
        let columns = table.columns.iter().map(|(name, values)| {
            let values = values.get(*from..values.len().min(*to)).unwrap_or_default();
            (name, Numbers(values))
        });
        serializer.collect_map(columns.filter(|(_, numbers)| !numbers.0.is_empty()))
    }
}

struct Numbers<'a>(&'a [f64]);

impl Serialize for Numbers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_seq(Some(self.0.len()))?;
        for &value in self.0 {
            match value {
                value if !value.is_finite() => out.serialize_element(&())?,
                value if value.fract() == 0.0 && value.abs() < 1e15 => {
                    out.serialize_element(&(value as i64))?;
                }
                value => out.serialize_element(&shortened(value))?,
            }
        }
        out.end()
    }
}

/// Rounds to seven digits, which is more than a curve shows and half as many bytes.
fn shortened(value: f64) -> f64 {
    format!("{value:.6e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::default();
        table.push([("step", 1.0), ("loss", 2.123_456_789)]);
        table.push([("step", 2.0), ("late", 5.0)]);
        table.push([("step", 3.0), ("loss", f64::NAN)]);
        table
    }

    #[test]
    fn columns_come_and_go() {
        let table = table();
        assert_eq!(table.rows(), 3);
        assert_eq!(table.last("loss"), Some(2.123_456_789));
        assert_eq!(table.last("late"), Some(5.0));
        assert_eq!(table.last("none"), None);
        let json = serde_json::to_value(table.since(0, 10)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"from": 0, "rows": 3, "columns": {
                "step": [1, 2, 3], "loss": [2.123457, null, null], "late": [null, 5]
            }})
        );
        let json = serde_json::to_value(table.since(2, 10)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"from": 2, "rows": 1, "columns": {"step": [3], "loss": [null]}})
        );
        assert_eq!(serde_json::to_value(table.since(9, 10)).unwrap()["rows"], 0);
        let part = table.since(0, 2);
        assert!(part.is_cut() && !table.since(1, 2).is_cut());
        let json = serde_json::to_value(part).unwrap();
        assert_eq!(json["columns"]["late"], serde_json::json!([null, 5]));
    }

    #[test]
    fn thinning_keeps_peaks_and_the_end() {
        let mut table = Table::default();
        for step in 0..10_000 {
            let loss = if step == 4_321 { 99.0 } else { 1.0 };
            table.push([("step", f64::from(step)), ("loss", loss)]);
        }
        let thin = table.thinned(1_000, "loss");
        assert!(
            thin.rows() <= 1_001 && thin.rows() >= 500,
            "{}",
            thin.rows()
        );
        assert!(thin.get("loss").unwrap().contains(&99.0));
        assert_eq!(thin.last("step"), Some(9_999.0));
        assert_eq!(table.thinned(10_000, "loss").rows(), 10_000);
        assert!(table.thinned(100, "none").rows() <= 101);
    }

    #[test]
    fn endless_names_end() {
        let mut table = Table::default();
        for name in 0..2 * MOST_COLUMNS {
            table.push([(name.to_string().as_str(), 1.0)]);
        }
        assert_eq!(table.names().count(), MOST_COLUMNS);
    }
}
