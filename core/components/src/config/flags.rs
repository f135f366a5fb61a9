//! The list of all flags: those of the table, and those that built-in components declare.

use super::bounds::Range;
use super::flag::{Command, Flag, Use, ValueKind};
use super::table::TABLE;
use apus_sdk::built_in::{BuiltIn, OptionFlag, built_ins};
use apus_sdk::components;
use std::sync::LazyLock;

/// All flags, in the order of the help.
pub static FLAGS: LazyLock<Vec<Flag>> = LazyLock::new(|| {
    let mut flags = TABLE.to_vec();
    for built_in in built_ins() {
        let after = flags.iter().position(|flag| flag.name == built_in.after);
        let Some((at, before)) = after.map(|at| (at + 1, flags[at])) else {
            continue;
        };
        let own = built_in
            .flags
            .iter()
            .map(|own| declared(built_in, own, before));
        flags.splice(at..at, own.collect::<Vec<_>>());
    }
    flags
});

/// The flag that a built-in component declares, under the heading of the one before it.
fn declared(built_in: &'static BuiltIn, own: &'static OptionFlag, before: Flag) -> Flag {
    let used = Use {
        command: Command::Sft,
        place: own.place,
    };
    Flag {
        name: own.name,
        aliases: &[],
        kind: match own.chooses() {
            true => ValueKind::Bool,
            false => kind_of_option(built_in, own.option),
        },
        group: before.group,
        uses: Box::leak(Box::new([used])),
        help: own.help,
        changes: None,
        about: &[],
        over: &[],
        term: None,
        option: None,
        bounds: own.limits.map(|(low, high)| Range(low, high)),
        check_text: |_| Ok(()),
        declared_by: Some(built_in),
    }
}

/// How a value of an option is read, by the option's type as the component describes it.
fn kind_of_option(built_in: &BuiltIn, option: &str) -> ValueKind {
    let mut all = components();
    let component = all.find(|c| (c.kind(), c.name) == (built_in.kind, built_in.name));
    let options = component
        .map(|component| (component.options)())
        .unwrap_or_default();
    let doc = options.into_iter().find(|doc| doc.name == option);
    let kind = doc.map(|doc| doc.kind).unwrap_or_default();
    match kind.strip_suffix(" or none").unwrap_or(&kind) {
        "true or false" => ValueKind::Bool,
        "whole number" => ValueKind::Int,
        "number" => ValueKind::Float,
        "list of text" => ValueKind::List,
        "list of number" | "list of whole number" => ValueKind::Floats,
        _ => ValueKind::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each flag of a built-in component is there, once, and stands for an option that the component has.
    #[test]
    fn components_declare_flags() {
        apus_plugins::link();
        let mut count = 0;
        for built_in in built_ins() {
            let known = crate::registry::options(built_in.kind, built_in.name).unwrap();
            for own in built_in.flags {
                assert!(
                    own.chooses() || known.iter().any(|option| option == own.option),
                    "{}",
                    own.name
                );
                let listed = FLAGS.iter().filter(|flag| flag.is_called(own.name));
                let listed: Vec<&Flag> = listed
                    .filter(|flag| flag.belongs_to(Command::Sft))
                    .collect();
                assert_eq!(listed.len(), 1, "{} (after {:?})", own.name, built_in.after);
                count += 1;
            }
        }
        assert!(count > 10, "{count}");
        let kind = |name: &str| FLAGS.iter().find(|flag| flag.name == name).unwrap().kind;
        assert_eq!(kind("swanlab_token"), ValueKind::Text);
        assert_eq!(kind("swanlab_smtp_port"), ValueKind::Int);
        assert_eq!(kind("early_stop_interval"), ValueKind::Int);
        assert_eq!(kind("use_galore"), ValueKind::Bool);
        assert_eq!(kind("galore_target_modules"), ValueKind::List);
        assert_eq!(kind("galore_scale"), ValueKind::Float);
        let layers = FLAGS.iter().find(|flag| flag.name == "reft_layers");
        let layers = layers.unwrap().parse(&["1".to_owned(), "3".to_owned()]);
        // Whole numbers stay whole, so that an option that takes no others can read them.
        assert_eq!(layers.unwrap(), serde_json::json!([1, 3]));
    }
}
