//! The released ABI stays: what plugins were built against is still the beginning of what is there.
//!
//! `abi-1.0.txt` describes every type of this crate that crosses the boundary, as it was released, and so does the file of
//! each later version. A table may have grown at its end since; anything else is another ABI, which needs another major
//! version. To write the description of the newest: `APUS_WRITE_ABI=1 cargo test -p apus-sdk --test abi`.

use abi_stable::std_types::utypeid::UTypeId;
use abi_stable::type_layout::{TLData, TLField, TLFunction, TypeLayout};
use apus_sdk::{Op, Update};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Types by name: whether a table that may grow, and its lines.
type Described = BTreeMap<String, (bool, Vec<String>)>;

fn walk(layout: &'static TypeLayout, seen: &mut Vec<UTypeId>, found: &mut Described) {
    let id = layout.get_utypeid();
    if seen.contains(&id) {
        return;
    }
    seen.push(id);
    let data = layout.data();
    let (grows, fields): (bool, Vec<TLField>) = match &data {
        TLData::PrefixType(prefix) => (true, prefix.fields.to_vec()),
        _ => (
            false,
            layout
                .get_fields()
                .map(|fields| fields.to_vec())
                .unwrap_or_default(),
        ),
    };
    let mut lines: Vec<String> = fields.iter().map(line).collect();
    if !grows {
        lines.insert(
            0,
            format!("size {} alignment {}", layout.size(), layout.alignment()),
        );
    }
    if layout.package().as_str() == "apus-sdk" {
        let name = layout.full_type().to_string();
        // The kinds of one generic type come in the order of the root module, which stays.
        let same = found
            .keys()
            .filter(|known| known.split(" #").next() == Some(&name))
            .count();
        let name = match same {
            0 => name,
            more => format!("{name} #{}", more + 1),
        };
        found.insert(name, (grows, lines));
    }
    for field in fields.into_iter().chain(layout.phantom_fields().to_vec()) {
        for function in field.function_range().iter() {
            for parameter in function.param_type_layouts.iter() {
                walk(parameter(), seen, found);
            }
            if let Some(returned) = function.return_type_layout() {
                walk(returned(), seen, found);
            }
        }
        walk(field.layout(), seen, found);
    }
}

fn line(field: &TLField) -> String {
    let signature = |function: TLFunction| {
        let parameters = function.param_type_layouts.iter();
        let parameters: Vec<String> = parameters.map(|layout| type_name(layout(), 2)).collect();
        let returned = function.return_type_layout();
        let returned = returned.map_or("()".to_owned(), |layout| type_name(layout(), 2));
        format!("fn({}) -> {returned}", parameters.join(", "))
    };
    let signatures: Vec<String> = field.function_range().iter().map(signature).collect();
    match signatures.is_empty() {
        true => format!("{}: {}", field.name(), type_name(field.layout(), 2)),
        false => format!("{}: {}", field.name(), signatures.join("; ")),
    }
}

/// A type's name, with what is inside the types of abi_stable: their names alone hide what they hold.
fn type_name(layout: &'static TypeLayout, depth: usize) -> String {
    let name: String = layout.full_type().to_string().split_whitespace().collect();
    let fields = match layout.package().as_str() {
        "abi_stable" if depth > 0 => layout.get_fields(),
        _ => None,
    };
    let inside = fields.map(|fields| fields.to_vec()).unwrap_or_default();
    let inside: Vec<String> = inside
        .iter()
        .map(|f| type_name(f.layout(), depth - 1))
        .collect();
    match inside.is_empty() {
        true => name,
        false => format!("{name}({})", inside.join(", ")),
    }
}

/// Everything, and the numbers of operations.
fn now() -> Described {
    let mut found = Described::new();
    walk(apus_sdk::abi::layout(), &mut Vec::new(), &mut found);
    let ops = Op::ALL.iter().map(|&op| format!("{} {op:?}", op as u32));
    found.insert("tensor operations".to_owned(), (true, ops.collect()));
    let updates = (0..u32::MAX).map_while(Update::from_code);
    let updates = updates.map(|update| format!("{} {update:?}", update as u32));
    found.insert("tensor updates".to_owned(), (true, updates.collect()));
    found
}

/// The versions that were released, and the one that is next.
const VERSIONS: [&str; 2] = ["1.0", "1.1"];

fn file(version: &str) -> String {
    format!("{}/tests/abi-{version}.txt", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_released_abi_is_the_beginning_of_this_one() {
    let now = now();
    let [.., newest] = VERSIONS;
    assert!(apus_sdk::abi::SDK_VERSION.starts_with(newest), "{newest}");
    if std::env::var_os("APUS_WRITE_ABI").is_some() {
        let mut text = String::new();
        for (name, (_, lines)) in &now {
            let _ = writeln!(text, "{name}\n    {}", lines.join("\n    "));
        }
        std::fs::write(file(newest), text).unwrap();
    }
    for version in VERSIONS {
        is_the_beginning(version, &now);
    }
}

fn is_the_beginning(version: &str, now: &Described) {
    let released = std::fs::read_to_string(file(version)).unwrap();
    let mut lines = released.lines().peekable();
    let mut types = 0;
    while let Some(name) = lines.next() {
        let mut was = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with("    ")) {
            was.push(line.trim());
        }
        let (grows, is) = now.get(name).unwrap_or_else(|| panic!("{name} is gone"));
        let kept = is.len() >= was.len() && is.iter().zip(&was).all(|(is, was)| is == was);
        assert!(
            kept && (*grows || is.len() == was.len()),
            "{name} has changed: plugins built with apus-sdk {version} would break\nwas {was:#?}\nis {is:#?}"
        );
        types += 1;
    }
    assert!(types > 20, "{types} types: the description is not whole");
}
