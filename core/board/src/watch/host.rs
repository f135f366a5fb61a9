//! Which names the page answers to.
//!
//! A page of somebody else's, open in the same browser, may give its own name the address of this machine (DNS
//! rebinding) and would then count as the same origin. It cannot change the name that the browser sends along.

use std::net::IpAddr;

/// Whether a `Host` header names this machine as one that only listens to itself is called.
pub fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine() {
        for good in [
            "localhost",
            "LOCALHOST:7007",
            "127.0.0.1:80",
            "127.8.8.8",
            "[::1]:7007",
            "a.localhost",
        ] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in [
            "",
            "example.org",
            "localhost.example.org",
            "192.168.1.5:7007",
            "127.0.0.1.example.org",
            "[::2]",
            "0.0.0.0",
            "notlocalhost",
        ] {
            assert!(!is_loopback(bad), "{bad}");
        }
    }
}
