//! The files of the console and of the demo, carried in the binary.

/// One file as it is served.
pub(super) struct Page {
    path: &'static str,
    #[cfg(test)]
    file: &'static str,
    pub(super) content_type: &'static str,
    pub(super) bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! pages {
    ($table:ident in $directory:literal: $($path:literal: $file:literal, $content_type:expr;)*) => {
        const $table: &[Page] = &[$(Page {
            path: $path,
            content_type: $content_type,
            bytes: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $directory, "/", $file)),
            #[cfg(test)]
            file: concat!($directory, "/", $file),
        }),*];
    };
}

pages! { CONSOLE in "console":
    "/": "index.html", HTML;
    "/chart.js": "chart.js", SCRIPT;
    // The browser SDK, as client-sdk/browser/embed.mjs puts it here.
    "/client.js": "client.js", SCRIPT;
    "/client-bincode.js": "client-bincode.js", SCRIPT;
    "/console.css": "console.css", STYLE;
    "/console.js": "console.js", SCRIPT;
    "/filter.js": "filter.js", SCRIPT;
    "/format.js": "format.js", SCRIPT;
    "/log.js": "log.js", SCRIPT;
    "/rates.js": "rates.js", SCRIPT;
    "/session.js": "session.js", SCRIPT;
    "/favicon.svg": "favicon.svg", SVG;
    // What a browser asks for where no page has told it of an icon.
    "/favicon.ico": "favicon.svg", SVG;
}

// Served by `tidegate demo` alone. Their links are absolute: a slash at the end of the address makes no difference.
pages! { DEMO in "demo":
    "/demo": "index.html", HTML;
    "/demo/": "index.html", HTML;
    "/demo/demo.css": "demo.css", STYLE;
    "/demo/connection.js": "connection.js", SCRIPT;
    "/demo/chat": "chat/index.html", HTML;
    "/demo/chat/": "chat/index.html", HTML;
    "/demo/chat/chat.css": "chat/chat.css", STYLE;
    "/demo/chat/chat.js": "chat/chat.js", SCRIPT;
    "/demo/dashboard": "dashboard/index.html", HTML;
    "/demo/dashboard/": "dashboard/index.html", HTML;
    "/demo/dashboard/dashboard.css": "dashboard/dashboard.css", STYLE;
    "/demo/dashboard/chart.js": "dashboard/chart.js", SCRIPT;
    "/demo/dashboard/dashboard.js": "dashboard/dashboard.js", SCRIPT;
    "/demo/dashboard/tiles.js": "dashboard/tiles.js", SCRIPT;
    "/demo/telemetry": "telemetry/index.html", HTML;
    "/demo/telemetry/": "telemetry/index.html", HTML;
    "/demo/telemetry/telemetry.css": "telemetry/telemetry.css", STYLE;
    "/demo/telemetry/telemetry.js": "telemetry/telemetry.js", SCRIPT;
    "/demo/game": "game/index.html", HTML;
    "/demo/game/": "game/index.html", HTML;
    "/demo/game/game.css": "game/game.css", STYLE;
    "/demo/game/game.js": "game/game.js", SCRIPT;
    "/demo/game/boat.js": "game/boat.js", SCRIPT;
    "/demo/game/sea.js": "game/sea.js", SCRIPT;
}

impl Page {
    /// Whether pages of any origin may load it. It is public code, and says nothing of this broker; what it may connect
    /// to is another question.
    pub(super) fn is_for_all(&self) -> bool {
        self.path.starts_with("/client")
    }
}

/// The file at this path of a URL; those of the demo only where it runs.
pub(super) fn find(path: &str, demo: bool) -> Option<&'static Page> {
    let demo = if demo { DEMO } else { &[] };
    CONSOLE.iter().chain(demo).find(|page| page.path == path)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn every_file_of_console_and_demo_is_served() {
        let listed: BTreeSet<_> = CONSOLE.iter().chain(DEMO).map(|page| page.file.to_owned()).collect();
        let mut there = BTreeSet::new();
        for directory in ["console", "demo"] {
            walk(Path::new(env!("CARGO_MANIFEST_DIR")), directory, &mut there);
        }
        assert_eq!(listed, there);
    }

    fn walk(root: &Path, directory: &str, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(root.join(directory)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{directory}/{}", entry.file_name().into_string().unwrap());
            if entry.file_type().unwrap().is_dir() {
                walk(root, &path, found);
            } else {
                found.insert(path);
            }
        }
    }

    #[test]
    fn the_demo_is_served_only_where_it_runs() {
        for page in DEMO {
            assert!(find(page.path, true).is_some(), "{}", page.path);
            assert!(find(page.path, false).is_none(), "{}", page.path);
        }
    }

    #[test]
    fn there_is_nothing_beside_the_table() {
        for path in [
            "",
            "/index.html",
            "//",
            "/../Cargo.toml",
            "/console.js/",
            "/CONSOLE.JS",
            "/demo/index.html",
            "/demo//",
        ] {
            assert!(find(path, true).is_none(), "{path}");
        }
    }
}
