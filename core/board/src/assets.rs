//! The scripts and the sheet of the report and of the page, as they lie in `assets/`, in the binary.

/// An asset: its name, its type, its text.
pub struct Asset {
    /// Name of the file.
    pub name: &'static str,
    /// Its media type.
    pub kind: &'static str,
    /// What it holds.
    pub text: &'static str,
}

macro_rules! script {
    ($name:literal) => {
        Asset {
            name: $name,
            kind: "text/javascript; charset=utf-8",
            text: include_str!(concat!("../assets/", $name)),
        }
    };
}

/// What the report and the page share, in the order in which they build on each other.
pub const SHARED: [Asset; 7] = [
    script!("format.js"),
    script!("scale.js"),
    script!("store.js"),
    script!("chart.js"),
    script!("pointer.js"),
    script!("curves.js"),
    script!("views.js"),
];

/// What makes a report of them.
pub const REPORT: Asset = script!("report.js");

/// What makes the page of them.
pub const WATCH: Asset = script!("watch.js");

/// How both look.
pub const STYLE: Asset = Asset {
    name: "style.css",
    kind: "text/css; charset=utf-8",
    text: include_str!("../assets/style.css"),
};

/// The sign of the page.
pub const ICON: Asset = Asset {
    name: "icon.svg",
    kind: "image/svg+xml",
    text: include_str!("../assets/icon.svg"),
};

/// The frame of the report.
pub const REPORT_PAGE: &str = include_str!("../assets/report.html");

/// The frame of the page.
pub const WATCH_PAGE: &str = include_str!("../assets/watch.html");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_its_element_or_loads_from_elsewhere() {
        let scripts = SHARED.iter().chain([&REPORT, &WATCH, &STYLE]);
        for asset in scripts {
            for no in [
                "</script",
                "</style",
                "<!--",
                "://",
                "@import",
                "innerHTML",
                "eval(",
            ] {
                assert!(!asset.text.contains(no), "{}: {no}", asset.name);
            }
        }
    }
}
