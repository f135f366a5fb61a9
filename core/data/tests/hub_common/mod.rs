//! Hubs that a server on this machine stands for.
#![allow(dead_code)]

use apus_data::hub::{Hub, Settings, Site, SiteSettings};
use std::path::Path;
use std::time::Duration;

/// An address where nobody listens.
pub const NOWHERE: &str = "http://127.0.0.1:9";

/// Settings that reach this address alone.
pub fn settings(url: &str, cache: &Path) -> Settings {
    let place = |name: &str| SiteSettings {
        endpoint: url.to_owned(),
        login: None,
        cache: cache.join(name),
        token: None,
    };
    Settings {
        site: Site::HuggingFace,
        offline: false,
        pause: Duration::from_millis(1),
        hugging_face: place("hf"),
        model_scope: place("ms"),
    }
}

/// A hub with these settings.
pub fn hub(url: &str, cache: &Path) -> Hub {
    Hub::new(settings(url, cache))
}

/// What a file of weights holds.
pub fn weights() -> Vec<u8> {
    (0..300_000u32).map(|i| (i * 7 % 251) as u8).collect()
}

/// What an error says.
pub fn error<T: std::fmt::Debug>(result: anyhow::Result<T>) -> String {
    format!("{:#}", result.unwrap_err())
}
