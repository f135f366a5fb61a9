//! Words of messages that many places need: lists that name the first entries, and counts.

use std::fmt::Display;

/// The first `most` of some things, and how many more there are: `a, b and 3 more`.
pub fn some<T: Display>(all: impl IntoIterator<Item = T>, most: usize) -> String {
    let mut all = all.into_iter();
    let shown: Vec<String> = all.by_ref().take(most).map(|one| one.to_string()).collect();
    match and_more(all.count()) {
        Some(more) => format!("{} {more}", shown.join(", ")),
        None => shown.join(", "),
    }
}

/// The end of a list that does not name everything: `and 3 more`.
pub fn and_more(count: usize) -> Option<String> {
    (count > 0).then(|| format!("and {count} more"))
}

/// A number of things: `1 row`, `2 rows`.
pub fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_the_first_and_counts_the_others() {
        let names = ["a", "b", "c"];
        assert_eq!(some(names, 3), "a, b, c");
        assert_eq!(some(names, 2), "a, b and 1 more");
        assert_eq!(some([4, 5], 8), "4, 5");
        assert_eq!(some([""; 0], 8), "");
        assert_eq!(
            (and_more(0), and_more(2)),
            (None, Some("and 2 more".to_owned()))
        );
    }

    #[test]
    fn one_is_not_many() {
        let all = [0, 1, 2].map(|count| counted(count, "row"));
        assert_eq!(all, ["0 rows", "1 row", "2 rows"]);
    }
}
