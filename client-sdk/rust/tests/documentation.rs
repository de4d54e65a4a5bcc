//! Every public item of the crate has an example in its documentation, and none of them is only compiled.
//!
//! The source is read line by line, as `rustfmt` leaves it. What is public is what `src/lib.rs` names in a `pub use`,
//! of the protocol's crate too: those types, and the functions in their `impl` blocks and traits.

use std::{collections::BTreeMap, fs, path::Path};

/// The path of everything `lib.rs` gives on, such as `client::Client` or `tidegate_protocol::frame::Gap`.
fn public_paths(lib: &str) -> Vec<String> {
    lib.split("\npub use ")
        .skip(1)
        .filter_map(|rest| rest.split_once(';'))
        .flat_map(|(tree, _)| expand("", &tree.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect()
}

/// `a::{B, c::D as E}` is `a::B` and `a::c::D`.
fn expand(prefix: &str, tree: &str) -> Vec<String> {
    let tree = tree.trim();
    match tree.split_once('{') {
        None => vec![format!("{prefix}{}", tree.split(" as ").next().unwrap_or(tree))],
        Some((path, branches)) => {
            let branches = branches.strip_suffix('}').expect("a brace is closed");
            split_at_commas(branches).flat_map(|branch| expand(&format!("{prefix}{path}"), branch)).collect()
        }
    }
}

/// At those commas that stand in no braces.
fn split_at_commas(branches: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    branches
        .split(move |c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        })
        .filter(|branch| !branch.trim().is_empty())
}

/// Something public.
#[derive(Debug, PartialEq)]
struct Item {
    /// The type or trait it is or belongs to.
    owner: String,
    /// Its own name.
    name: String,
    /// Whether its documentation has an example that is run.
    example: bool,
}

/// The public items of a source file.
fn items(source: &str) -> Vec<Item> {
    let (mut items, mut docs, mut owner, mut in_trait) = (Vec::new(), Vec::new(), String::new(), false);
    let code = source.split("#[cfg(test)]\nmod ").next().unwrap_or(source);
    for line in code.lines() {
        let text = line.trim();
        if text.starts_with("///") {
            docs.push(text);
            continue;
        }
        if text.starts_with("#[") {
            continue;
        }
        // What a trait has is as public as the trait.
        let public = text.strip_prefix("pub ").or(in_trait.then_some(text));
        let words = public.map(|item| item.trim_start_matches("async ").trim_start_matches("const "));
        if let Some((kind, rest)) = words.and_then(|item| item.split_once(' '))
            && ["fn", "struct", "enum", "trait", "type"].contains(&kind)
        {
            let name = identifier(rest);
            // The fence that opens an example says nothing more: then it is Rust, and is run.
            let example = docs.contains(&"/// ```") && fences_run(&docs);
            if kind == "trait" && text.ends_with('{') {
                (owner, in_trait) = (name.clone(), true);
            }
            let owner = if kind == "fn" && !owner.is_empty() { owner.clone() } else { name.clone() };
            items.push(Item { owner, name, example });
        } else if (text.starts_with("impl ") || text.starts_with("impl<")) && !text.ends_with("{}") {
            owner = implementing(text);
        } else if line == "}" {
            (owner, in_trait) = (String::new(), false);
        }
        docs.clear();
    }
    items
}

/// The type an `impl` is for.
fn implementing(line: &str) -> String {
    let rest = match line.split_once(" for ") {
        Some((_, rest)) => rest,
        // `impl<T: A<B>> Type<T> {`: the type's is the last path before a brace that is in no angle brackets.
        None => {
            let mut depth = 0;
            let generics = line.strip_prefix("impl").unwrap_or(line).find(|c| {
                depth += i32::from(c == '<') - i32::from(c == '>');
                depth == 0
            });
            line["impl".len() + generics.unwrap_or(0)..].trim_start_matches('>')
        }
    };
    identifier(rest.trim_start())
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Whether no fence in these lines says that what it opens is not to be run.
fn fences_run(docs: &[&str]) -> bool {
    docs.iter().filter_map(|line| line.trim_start_matches(['/', '!', ' ']).strip_prefix("```")).all(|info| {
        !["no_run", "ignore", "compile_fail", "should_panic"].iter().any(|word| info.contains(word))
    })
}

/// Every Rust file below `directory`, by its path there.
fn sources(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn every_public_item_has_an_example_that_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (client, protocol) = (sources(&root.join("src")), sources(&root.join("../../protocol/src")));
    let mut missing = Vec::new();
    for path in public_paths(&client["lib.rs"]) {
        let (files, crate_name) = match path.starts_with("tidegate_protocol::") {
            true => (&protocol, "protocol/src"),
            false => (&client, "client-sdk/rust/src"),
        };
        let name = path.rsplit("::").next().unwrap();
        let mut found = false;
        for (file, source) in files {
            let items = items(source);
            // Elsewhere another may have its name.
            if !items.iter().any(|item| item.name == name && item.owner == name) {
                continue;
            }
            let module = path.trim_start_matches("tidegate_protocol::").split("::").next().unwrap();
            if module != name && file.split(['/', '.']).next() != Some(module) {
                continue;
            }
            found = true;
            for item in items.iter().filter(|item| item.owner == name && !item.example) {
                missing.push(format!("{crate_name}/{file}: {}::{}", item.owner, item.name));
            }
        }
        assert!(found, "{path} was not found in {crate_name}");
    }
    assert!(missing.is_empty(), "without an example that runs:\n{}", missing.join("\n"));
}

#[test]
fn no_example_is_compiled_and_not_run() {
    for (file, source) in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let docs: Vec<_> = source
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("//!") || line.starts_with("///"))
            .collect();
        assert!(fences_run(&docs), "{file} has an example that is not run");
    }
}

const SOURCE: &str = r#"
/// Has one.
///
/// ```
/// a();
/// ```
#[derive(Debug)]
pub struct A<T> {
    pub field: T,
}

impl<T: B<C>> A<T> {
    /// Has none.
    pub async fn b(&self) {}

    pub(crate) fn hidden() {}

    fn own() {}
}

/// Is not run.
///
/// ```no_run
/// c();
/// ```
pub trait C {
    /// Has none.
    async fn d(self);
}

impl C for A<u8> {
    async fn d(self) {}
}

/// Has none, and belongs to nothing.
pub const fn e() {}

#[cfg(test)]
mod tests {
    pub fn of_no_interest() {}
}
"#;

#[test]
fn an_item_without_an_example_is_seen() {
    let found = items(SOURCE);
    let item = |owner: &str, name: &str, example| Item { owner: owner.into(), name: name.into(), example };
    assert_eq!(
        found,
        [
            item("A", "A", true),
            item("A", "b", false),
            item("C", "C", false),
            item("C", "d", false),
            item("e", "e", false),
        ]
    );
    assert_eq!(
        public_paths("\nmod a;\npub use a::{\n    B, c::{D as E, F},\n};\npub use g::H;\n"),
        ["a::B", "a::c::D", "a::c::F", "g::H"]
    );
}
