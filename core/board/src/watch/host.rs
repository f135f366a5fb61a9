//! Checks the host name of a request.
//!
//! A foreign page that is open in the same browser may let its own name resolve to this machine (DNS rebinding). It would
//! then be the same origin as our page. But it cannot change the name that the browser sends in the `Host` header.

use std::net::IpAddr;

/// Whether a `Host` header is a name of the loopback address.
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
