//! Dataset formats across the boundary: a row goes out as JSON text, its samples come back; from a library of 1.0 as such text, too.

use super::guard::guard;
use super::object::{Imported, check_by, component, crosses_by, imported_check, to_json};
use super::samples::{self, WireSample};
use crate::{Converted, DatasetFormat, Need, Result, Row, Sample, Wire, needs};
use abi_stable::StableAbi;
use abi_stable::std_types::{ROption, RSlice, RStr, RString, RVec};

/// A dataset format's functions.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = FormatTableRef)))]
pub struct FormatTable {
    /// The rank, if it recognises these columns.
    pub rank: unsafe extern "C" fn(*const (), RSlice<'_, RStr<'_>>) -> Wire<ROption<i32>>,
    /// The samples of a row.
    #[sabi(last_prefix_field)]
    pub convert: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<RString>,
    /// See [`DatasetFormat::check`]; since 1.1.
    pub check: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<()>,
    /// See [`DatasetFormat::columns`]; since 1.1.
    pub columns: unsafe extern "C" fn(*const ()) -> Wire<ROption<RVec<RString>>>,
    /// As `convert`, without the way through text; since 1.1.
    pub samples: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<RVec<WireSample>>,
}

crosses_by!(FormatTable { rank, convert, check, columns, samples } as FormatTableRef for dyn DatasetFormat);

check_by!(dyn DatasetFormat);

unsafe extern "C" fn rank(this: *const (), columns: RSlice<'_, RStr<'_>>) -> Wire<ROption<i32>> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer.
        let format = unsafe { component::<dyn DatasetFormat>(this) };
        let columns: Vec<&str> = columns.iter().map(|column| column.as_str()).collect();
        Ok(format.try_rank(&columns)?.into())
    })
}

unsafe extern "C" fn convert(this: *const (), row: RStr<'_>) -> Wire<RString> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer.
        let format = unsafe { component::<dyn DatasetFormat>(this) };
        to_json(&format.convert_text(row.as_str())?)
    })
}

unsafe extern "C" fn samples(this: *const (), row: RStr<'_>) -> Wire<RVec<WireSample>> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer.
        let format = unsafe { component::<dyn DatasetFormat>(this) };
        samples::give(format.convert_text(row.as_str())?)
    })
}

unsafe extern "C" fn columns(this: *const ()) -> Wire<ROption<RVec<RString>>> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer.
        let format = unsafe { component::<dyn DatasetFormat>(this) };
        let columns = format.columns()?;
        if columns.is_some() {
            needs::require(Need::Columns)?;
        }
        let columns = columns.map(|columns| columns.into_iter().map(RString::from).collect());
        Ok(columns.into())
    })
}

impl DatasetFormat for Imported<FormatTableRef> {
    imported_check!();

    fn recognises(&self, columns: &[&str]) -> bool {
        self.try_rank(columns).is_ok_and(|rank| rank.is_some())
    }

    fn try_rank(&self, columns: &[&str]) -> Result<Option<i32>> {
        let columns: Vec<RStr> = columns.iter().map(|&column| column.into()).collect();
        let (this, call) = (self.object.this(), self.object.table().rank());
        // SAFETY: pointer and table belong together; the columns outlive the call.
        let wire = unsafe { call(this, RSlice::from_slice(&columns)) };
        Ok(self.origin.context("recognises", wire)?.into_option())
    }

    fn columns(&self) -> Result<Option<Vec<String>>> {
        let Some(call) = self.object.table().columns() else {
            return Ok(None);
        };
        // SAFETY: pointer and table belong together.
        let wire = unsafe { call(self.object.this()) };
        let columns = self.origin.context("columns", wire)?.into_option();
        Ok(columns.map(|columns| columns.into_iter().map(RString::into_string).collect()))
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        self.convert_text(&serde_json::to_string(&row)?)
    }

    fn convert_text(&self, text: &str) -> Result<Vec<Sample>> {
        let (this, table) = (self.object.this(), self.object.table());
        let samples = match table.samples() {
            Some(call) => {
                // SAFETY: pointer and table belong together; the text outlives the call.
                let wire = unsafe { call(this, text.into()) };
                samples::take(self.origin.context("convert", wire)?)
            }
            None => {
                // SAFETY: as above.
                let wire = unsafe { table.convert()(this, text.into()) };
                serde_json::from_str(&self.origin.context("convert", wire)?)
            }
        };
        samples.map_err(|error| self.origin.failed("convert", &error))
    }

    fn convert_text_noting(&self, text: &str) -> Result<Converted> {
        Ok(Converted {
            samples: self.convert_text(text)?,
            unread: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{Crosses, Origin};

    struct Pairs;
    impl DatasetFormat for Pairs {
        fn columns(&self) -> Result<Option<Vec<String>>> {
            Ok(Some(vec!["query".to_owned()]))
        }
        fn recognises(&self, _: &[&str]) -> bool {
            false
        }
        fn convert(&self, _: Row) -> Result<Vec<Sample>> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn columns_are_said_by_formats_that_declare_it() {
        let columns = |declared: &'static [Need]| {
            let object = <dyn DatasetFormat>::export(Box::new(Pairs), declared);
            <dyn DatasetFormat>::import(object, Origin::new("dataset format pairs")).columns()
        };
        assert_eq!(
            columns(&[Need::Columns]),
            Ok(Some(vec!["query".to_owned()]))
        );
        let said = columns(&[]).unwrap_err().to_string();
        assert!(
            said.starts_with("dataset format pairs, columns: "),
            "{said}"
        );
        assert!(said.ends_with("{ &[Need::Columns] }"), "{said}");
    }
}
