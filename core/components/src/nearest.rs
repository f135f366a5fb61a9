//! Names that are near to one that is not there.
//!
//! As rustc and cargo do it: a third of the letters may be wrong, or the words stand in another order. What is
//! farther off is no tip but a guess.

/// The names most like this one, best first; none that is far off.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Vec<&'a str> {
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

/// The words of a name in the order of the alphabet.
fn sorted(name: &str) -> Vec<&str> {
    let mut words: Vec<&str> = name.split('_').collect();
    words.sort_unstable();
    words
}
