//! The first host of a list as Slurm writes it: `gpu[03-04,9]`, `a,b`, `rack1-[2,5]-x`.

/// The first host; none if the list is not one.
pub fn first(list: &str) -> Option<String> {
    let mut host = String::new();
    let mut rest = list.trim();
    loop {
        let end = rest.find([',', '[']).unwrap_or(rest.len());
        host.push_str(&rest[..end]);
        if !rest[end..].starts_with('[') {
            break;
        }
        let close = rest[end..].find(']')? + end;
        let first = rest[end + 1..close].split([',', '-']).next()?;
        let number = !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_digit());
        if !number {
            return None;
        }
        host.push_str(first);
        rest = &rest[close + 1..];
    }
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    (!host.is_empty() && host.chars().all(valid)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_host_of_a_list() {
        for (list, host) in [
            ("node7", Some("node7")),
            ("a,b", Some("a")),
            ("gpu[03-04,9]", Some("gpu03")),
            ("gpu[9,03-04],cpu1", Some("gpu9")),
            ("rack[1-2]-n[5,7].local", Some("rack1-n5.local")),
            ("gpu[3", None),
            ("gpu[]", None),
            ("", None),
        ] {
            assert_eq!(first(list).as_deref(), host, "{list}");
        }
    }
}
