//! What of SDK 1.1 a component in a program can have: it announces it as `needs`, and is given nothing that it does not announce.

use apus_sdk::{Error, Kind, Need};

/// The kinds that a component in a program can be, each with what it may announce.
const GIVEN: [(Kind, &[Need]); 7] = [
    (Kind::DatasetFormat, &[Need::Check, Need::Columns]),
    (Kind::LossScale, &[Need::Check, Need::Piece]),
    (Kind::LrSchedule, &[Need::Check, Need::Run]),
    (
        Kind::Sampler,
        &[Need::Check, Need::Run, Need::Losses, Need::Columns],
    ),
    (
        Kind::Callback,
        &[
            Need::Check,
            Need::Run,
            Need::Generation,
            Need::Freeze,
            Need::LearningRates,
            Need::Accumulation,
            Need::Checkpoints,
        ],
    ),
    (Kind::Metric, &[Need::Check, Need::Run, Need::Answers]),
    (Kind::Tracker, &[Need::Check]),
];

/// What a component of this kind may announce; nothing if a program can have none of the kind.
pub fn given(kind: Kind) -> &'static [Need] {
    let of = GIVEN.iter().find(|(known, _)| *known == kind);
    of.map_or(&[], |(_, needs)| needs)
}

/// Whether it is about tensors, which stay on their device and do not go through lines of JSON.
pub fn is_of_tensors(need: Need) -> bool {
    matches!(
        need,
        Need::Parameters
            | Need::SetParameters
            | Need::Hooks
            | Need::ChunkRows
            | Need::HiddenStates
            | Need::Groups
            | Need::State
            | Need::Closure
            | Need::Initial
    )
}

/// The needs that a component announces by these names.
///
/// # Errors
/// One that there is not, or that its kind is not given.
pub fn read(kind: Kind, names: &[String]) -> Result<Vec<Need>, String> {
    let can = || list(given(kind));
    let need = |name: &String| match Need::from_name(name) {
        None => Err(format!(
            "it needs {name:?}, which there is not; a {kind} in a process can announce {}",
            can()
        )),
        Some(need) if given(kind).contains(&need) => Ok(need),
        Some(need) if is_of_tensors(need) => Err(format!(
            "it needs {name:?}, which a process is not given: it is about tensors, and they do not go through lines of JSON. A \
             plugin library is given it (docs/plugin-guide.md); a {kind} in a process can announce {}",
            can()
        )),
        Some(_) => Err(format!(
            "it needs {name:?}, for which a {kind} has no use; in a process it can announce {}",
            can()
        )),
    };
    names.iter().map(need).collect()
}

/// The error of a component that uses it and has announced only these.
pub fn unannounced(kind: Kind, name: &str, need: Need, announced: &[Need]) -> Error {
    let all: Vec<&str> = announced.iter().map(|need| need.name()).collect();
    let all = [&all[..], &[need.name()]].concat();
    Error::new(format!(
        "it uses what is not given without being announced ({need}). Add to what the program announces of it: \
         \"needs\": {all:?}; with apus_plugin.py: @component(\"{kind}\", \"{name}\", needs={all:?})"
    ))
}

/// What a component that has announced only these may have missed when it failed and said this: a name of what it would have
/// been given.
pub fn missed(kind: Kind, announced: &[Need], said: &str) -> Option<Need> {
    let names = |need: Need| -> &[&str] {
        match need {
            Need::Piece => &[
                "message", "messages", "whole", "offset", "channel", "columns", "tokens",
            ],
            Need::Losses => &["losses"],
            Need::Columns => &["columns"],
            _ => &[],
        }
    };
    let is_named = |name: &&str| said.contains(&format!("'{name}'"));
    let mut missing = given(kind).iter().filter(|need| !announced.contains(need));
    missing
        .find(|need| names(**need).iter().any(is_named))
        .copied()
}

fn list(needs: &[Need]) -> String {
    let names: Vec<&str> = needs.iter().map(|need| need.name()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the page has each need and each kind, as [`read`] answers for them.
    #[test]
    fn the_page_has_the_table() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/process-plugins.md");
        let page = std::fs::read_to_string(page).unwrap();
        let cells = |line: &str| -> Vec<String> {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        };
        let mut table = page
            .lines()
            .skip_while(|line| !line.starts_with("| need |"));
        let kinds: Vec<Kind> = cells(table.next().unwrap())[1..]
            .iter()
            .map(|name| Kind::from_name(name).unwrap())
            .collect();
        let mut known: Vec<Kind> = GIVEN.iter().map(|(kind, _)| *kind).collect();
        known.sort_by_key(|kind| kinds.iter().position(|other| other == kind));
        assert_eq!(kinds, known);
        let rows: Vec<Vec<String>> = table
            .skip(1)
            .take_while(|line| line.starts_with('|'))
            .map(cells)
            .collect();
        assert_eq!(rows.len(), Need::ALL.len());
        for (&need, row) in Need::ALL.iter().zip(&rows) {
            assert_eq!(row[0], format!("`{need}`"));
            for (&kind, cell) in kinds.iter().zip(&row[1..]) {
                let answer = read(kind, &[need.name().to_owned()]);
                let expected = match answer {
                    Ok(needs) => {
                        assert_eq!(needs, [need]);
                        "given"
                    }
                    Err(said) if said.contains("about tensors") => "tensors",
                    Err(_) => "",
                };
                assert_eq!(cell, expected, "{need} of a {kind}");
            }
        }
    }

    #[test]
    fn what_is_not_announced_is_told_with_the_line_to_add() {
        let said = unannounced(Kind::Callback, "mine", Need::Freeze, &[Need::Run]).to_string();
        assert!(
            said.ends_with(r#"@component("callback", "mine", needs=["run", "freeze"])"#),
            "{said}"
        );
        let said = "TypeError: s() missing 1 required positional argument: 'channel' (mine.py:3)";
        assert_eq!(missed(Kind::LossScale, &[], said), Some(Need::Piece));
        assert_eq!(missed(Kind::LossScale, &[Need::Piece], said), None);
        assert_eq!(missed(Kind::Metric, &[], said), None);
        assert_eq!(missed(Kind::LossScale, &[], "no channel"), None);
        let said = read(Kind::Metric, &["telepathy".to_owned()]).unwrap_err();
        assert!(said.ends_with("can announce check, run, answers"), "{said}");
    }
}
