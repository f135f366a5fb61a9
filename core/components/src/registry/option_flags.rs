//! Flags of the command line that components declare for their options (`flags` of `options!`).

use super::{Source, all};
use anyhow::{Result, bail};
use apus_sdk::Kind;
use apus_sdk::built_in::built_ins;

/// A flag that stands for an option of a component.
#[derive(Debug, Clone)]
pub struct OptionFlag {
    /// Its name, with underscores.
    pub flag: String,
    /// The option.
    pub option: String,
    /// The component's kind.
    pub kind: Kind,
    /// The component's name in a configuration.
    pub component: String,
    /// For messages: `callback lisa of plugin mine 0.1.0 (libmine.so)`.
    pub label: String,
}

/// The flags that the components which are known now declare.
///
/// # Errors
/// Two components that declare the same flag; the error names both.
pub fn option_flags() -> Result<Vec<OptionFlag>> {
    let mut found = Vec::new();
    for &kind in Kind::ALL {
        for entry in all(kind)? {
            let of = match entry.source {
                Source::BuiltIn(_) => format!(", {}", entry.source.label()),
                Source::Plugin(plugin) => format!(" of {}", plugin.label()),
            };
            let flags = entry.doc.flags.iter();
            found.extend(flags.map(|(flag, option)| OptionFlag {
                flag: flag.clone(),
                option: option.clone(),
                kind,
                component: entry.name.clone(),
                label: format!("{kind} {}{of}", entry.name),
            }));
        }
    }
    found.sort_by(|a, b| a.flag.cmp(&b.flag));
    let same = found.windows(2).find_map(|pair| match pair {
        [a, b] if a.flag == b.flag => Some((a, b)),
        _ => None,
    });
    if let Some((a, b)) = same {
        bail!(
            "two components declare the flag --{}: {}, for its option {}, and {}, for its option {}; leave one of them out",
            a.flag,
            a.label,
            a.option,
            b.label,
            b.option
        );
    }
    Ok(found)
}

/// The flags that stand for options of a component, each with the option; those of a built-in component among them.
pub fn flags_of(kind: Kind, name: &str, declared: &[(String, String)]) -> Vec<(String, String)> {
    let built_in = built_ins()
        .into_iter()
        .filter(|of| of.kind == kind && of.name == name);
    built_in
        .flat_map(|of| of.flags)
        .filter(|own| !own.chooses())
        .map(|own| (own.name.to_owned(), own.option.to_owned()))
        .chain(declared.iter().cloned())
        .collect()
}
