//! The files of the project, and Rust read as tokens: comments and texts do not count, test code can be left out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Folders that are not published.
const NOT_PUBLISHED: [&str; 5] = [".git", "target", "cubecast-data", "corpus", "artifacts"];

/// The published files that are text, by their path from the root.
pub struct Tree(BTreeMap<String, String>);

impl Tree {
    pub fn of_this_project() -> Self {
        let mut files = BTreeMap::new();
        walk(Path::new(env!("CARGO_MANIFEST_DIR")), "", &mut files);
        Self(files)
    }

    pub fn new(files: &[(&str, &str)]) -> Self {
        let owned = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        Self(files.iter().map(owned).collect())
    }

    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    pub fn rust(&self) -> impl Iterator<Item = Source> {
        let rust = self.files().filter(|(path, _)| path.ends_with(".rs"));
        rust.map(|(path, text)| Source::new(path, text))
    }
}

fn walk(folder: &Path, prefix: &str, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("a folder of the project can be listed") {
        let entry = entry.expect("a folder of the project can be listed");
        let name = entry.file_name().into_string().expect("names are text");
        let kind = entry.file_type().expect("an entry has a type");
        if kind.is_symlink() || NOT_PUBLISHED.contains(&name.as_str()) {
            continue;
        }
        let path = format!("{prefix}{name}");
        if kind.is_dir() {
            walk(&entry.path(), &format!("{path}/"), files);
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            files.insert(path, text);
        }
    }
}

#[derive(Clone)]
pub struct Token {
    pub line: usize,
    pub text: String,
}

/// A file of Rust.
pub struct Source {
    pub path: String,
    pub text: String,
    /// All tokens; brackets are tokens too, a text or number is the token `"`.
    pub tokens: Vec<Token>,
    /// The tokens without the items under `#[cfg(test)]`; none at all in a file of tests.
    pub product: Vec<Token>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let stream: TokenStream = text
            .parse()
            .unwrap_or_else(|error| panic!("{path} is not Rust: {error}"));
        let trees: Vec<TokenTree> = stream.into_iter().collect();
        let is_test = path.ends_with("/tests.rs") || path.contains("/tests/");
        let mut tokens = Vec::new();
        flatten(&trees, Keep::All, &mut tokens);
        let mut product = Vec::new();
        if !is_test {
            flatten(&trees, Keep::Product, &mut product);
        }
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            tokens,
            product,
        }
    }

    /// The folder below `src/`, or the file there without its ending. `None` outside the root package.
    pub fn layer(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        Some(
            rest.split_once('/')
                .map_or(rest.trim_end_matches(".rs"), |(folder, _)| folder),
        )
    }

    pub fn complain(&self, line: usize, problem: &str) -> String {
        format!("{}:{line}: {problem}", self.path)
    }

    /// Every path in the product code, groups spread out: `use a::{b, c::d}` is `a::b` and `a::c::d`.
    pub fn paths(&self) -> Vec<(usize, Vec<String>)> {
        let mut paths = Vec::new();
        let mut at = 0;
        while let Some(token) = self.product.get(at) {
            if is_word(&token.text) {
                at = path_end(&self.product, at, &[], &mut paths);
            } else {
                at += 1;
            }
        }
        paths
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Reads the path that begins at a word, and answers with the position after it.
fn path_end(
    tokens: &[Token],
    start: usize,
    prefix: &[String],
    paths: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut path = prefix.to_vec();
    let mut at = start;
    loop {
        path.push(text(at).to_owned());
        at += 1;
        if text(at) != "::" {
            break;
        }
        at += 1;
        if text(at) == "{" {
            at += 1;
            while !matches!(text(at), "}" | "") {
                at = if text(at) == "as" {
                    at + 2
                } else if is_word(text(at)) || text(at) == "*" {
                    path_end(tokens, at, &path, paths)
                } else {
                    at + 1
                };
            }
            return at + 1;
        }
        if !is_word(text(at)) && text(at) != "*" {
            break;
        }
    }
    paths.push((tokens[start].line, path));
    at
}

#[derive(Clone, Copy, PartialEq)]
enum Keep {
    All,
    Product,
}

fn flatten(trees: &[TokenTree], keep: Keep, tokens: &mut Vec<Token>) {
    let mut at = 0;
    while let Some(tree) = trees.get(at) {
        if keep == Keep::Product && is_test_attribute(trees, at) {
            at = item_end(trees, at);
            continue;
        }
        let line = tree.span().start().line;
        let mut push = |text: &str, line| {
            tokens.push(Token {
                line,
                text: text.to_owned(),
            })
        };
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                push(open, line);
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                flatten(&inner, keep, tokens);
                tokens.push(Token {
                    line: group.span().end().line,
                    text: close.to_owned(),
                });
            }
            TokenTree::Ident(ident) => push(ident.to_string().trim_start_matches("r#"), line),
            TokenTree::Literal(_) => push("\"", line),
            TokenTree::Punct(_) if is_colon(trees.get(at)) && is_colon(trees.get(at + 1)) => {
                push("::", line);
                at += 1;
            }
            TokenTree::Punct(punct) => push(&punct.to_string(), line),
        }
        at += 1;
    }
}

fn is_colon(tree: Option<&TokenTree>) -> bool {
    matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == ':')
}

/// Whether `#[cfg(test)]`, `#[cfg(all(test, ..))]` or `#[test]` stands here.
fn is_test_attribute(trees: &[TokenTree], at: usize) -> bool {
    let (Some(TokenTree::Punct(hash)), Some(TokenTree::Group(group))) =
        (trees.get(at), trees.get(at + 1))
    else {
        return false;
    };
    let text: String = group.stream().to_string().split_whitespace().collect();
    hash.as_char() == '#'
        && (text == "cfg(test)" || text.starts_with("cfg(all(test,") || text == "test")
}

/// The position after the item that begins at this attribute.
fn item_end(trees: &[TokenTree], start: usize) -> usize {
    let is_use = |tree: &TokenTree| matches!(tree, TokenTree::Ident(word) if word == "use");
    let mut may_end_in_braces = true;
    for (at, tree) in trees.iter().enumerate().skip(start) {
        may_end_in_braces &= !is_use(tree);
        let ends = match tree {
            TokenTree::Punct(punct) => punct.as_char() == ';',
            TokenTree::Group(group) => may_end_in_braces && group.delimiter() == Delimiter::Brace,
            _ => false,
        };
        if ends {
            return at + 1;
        }
    }
    trees.len()
}

/// Files below `src/`, `sdk/src/` and the folders of `tests/` that no `mod` reaches.
pub fn dead_files(tree: &Tree) -> Vec<String> {
    let files: BTreeMap<&str, &str> = tree.files().collect();
    let is_root = |path: &str| {
        matches!(path, "src/lib.rs" | "src/main.rs" | "sdk/src/lib.rs")
            || path.starts_with("tests/")
                && (path.matches('/').count() == 1 || path.ends_with("/main.rs"))
    };
    let mut open: Vec<String> = files
        .keys()
        .filter(|path| is_root(path))
        .map(ToString::to_string)
        .collect();
    let mut reached: Vec<String> = Vec::new();
    while let Some(path) = open.pop() {
        open.extend(
            children(&path, files[path.as_str()])
                .into_iter()
                .filter(|child| files.contains_key(child.as_str())),
        );
        reached.push(path);
    }
    files
        .keys()
        .filter(|path| {
            path.ends_with(".rs")
                && ["src/", "sdk/src/", "tests/"]
                    .iter()
                    .any(|root| path.starts_with(root))
        })
        .filter(|path| !reached.iter().any(|reached| reached == *path))
        .map(|path| format!("{path}: no module declares this file"))
        .collect()
}

/// Where the modules that a file declares may lie.
fn children(path: &str, text: &str) -> Vec<String> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let is_folder_root = matches!(name, "mod.rs" | "lib.rs" | "main.rs");
    let own = if is_folder_root {
        folder.to_owned()
    } else {
        path.trim_end_matches(".rs").to_owned()
    };
    let tokens = Source::new(path, text).tokens;
    let declared = tokens
        .windows(3)
        .filter(|three| three[0].text == "mod" && three[2].text == ";");
    declared
        .flat_map(|three| {
            let module = &three[1].text;
            [
                format!("{own}/{module}.rs"),
                format!("{own}/{module}/mod.rs"),
            ]
        })
        .collect()
}

#[test]
fn paths_are_spread_out_and_tests_left_out() {
    let text = "//! std::fs\nuse a::{self, b, c::{d as e, *}};\n\n#[cfg(test)]\nuse x::{y};\n\
        fn f() { g::<h::I>(\"j::k\"); ::l::m!(n) }\n#[cfg(test)]\nmod tests { use o::p; }\nuse q;";
    let paths: Vec<(usize, String)> = Source::new("src/a.rs", text)
        .paths()
        .into_iter()
        .map(|(line, path)| (line, path.join("::")))
        .filter(|(_, path)| !matches!(path.as_str(), "use" | "fn" | "f" | "doc"))
        .collect();
    let expected = [
        (2, "a::self"),
        (2, "a::b"),
        (2, "a::c::d"),
        (2, "a::c::*"),
        (6, "g"),
        (6, "h::I"),
        (6, "l::m"),
        (6, "n"),
        (9, "q"),
    ];
    assert_eq!(paths, expected.map(|(line, path)| (line, path.to_owned())));
    assert!(
        Source::new("src/a/tests.rs", "use o::p;")
            .paths()
            .is_empty()
    );
}

#[test]
fn file_without_a_module_is_dead() {
    let tree = Tree::new(&[
        ("src/lib.rs", "mod a; #[cfg(test)] mod t;"),
        ("src/a/mod.rs", "mod b;"),
        ("src/a/b.rs", "mod c;"),
        ("src/a/b/c.rs", "// mod d;"),
        ("src/t.rs", ""),
        ("src/a/d.rs", ""),
        ("tests/it/main.rs", "mod e;"),
        ("tests/it/e.rs", ""),
        ("tests/it/f.rs", ""),
    ]);
    let dead = dead_files(&tree);
    assert_eq!(
        dead,
        [
            "src/a/d.rs: no module declares this file",
            "tests/it/f.rs: no module declares this file"
        ]
    );
}
