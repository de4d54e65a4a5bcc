//! The console's files, carried in the binary.

/// One file as it is served.
pub(super) struct Page {
    path: &'static str,
    pub(super) content_type: &'static str,
    pub(super) bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! pages {
    ($($path:literal: $file:literal, $content_type:expr;)*) => {
        const PAGES: &[Page] = &[$(Page {
            path: $path,
            content_type: $content_type,
            bytes: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/console/", $file)),
        }),*];

        #[cfg(test)]
        const FILES: &[&str] = &[$($file),*];
    };
}

pages! {
    "/": "index.html", HTML;
    "/console.css": "console.css", STYLE;
    "/console.js": "console.js", SCRIPT;
    "/filter.js": "filter.js", SCRIPT;
    "/format.js": "format.js", SCRIPT;
    "/log.js": "log.js", SCRIPT;
    "/session.js": "session.js", SCRIPT;
    "/favicon.svg": "favicon.svg", SVG;
    // What a browser asks for where no page has told it of an icon.
    "/favicon.ico": "favicon.svg", SVG;
}

/// The file at this path of a URL.
pub(super) fn find(path: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.path == path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_of_the_console_is_served() {
        let listed: BTreeSet<_> = FILES.iter().map(|file| file.to_string()).collect();
        let there = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/console")).unwrap();
        let there: BTreeSet<_> =
            there.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(listed, there);
    }

    #[test]
    fn there_is_nothing_beside_the_table() {
        for path in ["", "/index.html", "//", "/../Cargo.toml", "/console.js/", "/CONSOLE.JS"] {
            assert!(find(path).is_none(), "{path}");
        }
    }
}
