//! The files of `assets/` in the binary: scripts and style sheet of the report and of the page.

/// An asset: its name, its type, its text.
pub struct Asset {
    /// Name of the file.
    pub name: &'static str,
    /// Its media type.
    pub kind: &'static str,
    /// Its text.
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

/// The scripts that the report and the page share. Each one uses those before it.
pub const SHARED: [Asset; 7] = [
    script!("format.js"),
    script!("scale.js"),
    script!("store.js"),
    script!("chart.js"),
    script!("pointer.js"),
    script!("curves.js"),
    script!("views.js"),
];

/// The script of the report.
pub const REPORT: Asset = script!("report.js");

/// The script of the page.
pub const WATCH: Asset = script!("watch.js");

/// The style sheet of both.
pub const STYLE: Asset = Asset {
    name: "style.css",
    kind: "text/css; charset=utf-8",
    text: include_str!("../assets/style.css"),
};

/// The icon of the page.
pub const ICON: Asset = Asset {
    name: "icon.svg",
    kind: "image/svg+xml",
    text: include_str!("../assets/icon.svg"),
};

/// The HTML template of the report.
pub const REPORT_PAGE: &str = include_str!("../assets/report.html");

/// The HTML template of the page.
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
