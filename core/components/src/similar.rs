//! Finds known names that are similar to an unknown one, for "did you mean" in errors.
//!
//! The measure is that of rustc and cargo: up to a third of the letters may differ, or the words may stand in
//! another order. A name that differs more would be a guess.

/// The known names that are similar to this one, the most similar first.
pub fn similar_names<'a>(name: &str, known: &[&'a str]) -> Vec<&'a str> {
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let name = plain(name);
    let letters = name.chars().count();
    // One letter for another is nothing in common.
    let allowed = (letters.max(3) / 3).min(letters.saturating_sub(1));
    let mut scored: Vec<(usize, &str)> = known
        .iter()
        .filter_map(|&candidate| {
            let other = plain(candidate);
            let distance = match sorted(&name) == sorted(&other) {
                true => 0,
                false => strsim::osa_distance(&name, &other),
            };
            (distance <= allowed).then_some((distance, candidate))
        })
        .collect();
    scored.sort_by_key(|(distance, _)| *distance);
    scored.into_iter().map(|(_, candidate)| candidate).collect()
}

/// `; did you mean NAME?`, or nothing where no name is similar.
pub fn did_you_mean(name: &str, known: &[&str]) -> String {
    match similar_names(name, known).first() {
        Some(near) => format!("; did you mean {near}?"),
        None => String::new(),
    }
}

/// The words of a name in the order of the alphabet.
fn sorted(name: &str) -> Vec<&str> {
    let mut words: Vec<&str> = name.split('_').collect();
    words.sort_unstable();
    words
}
