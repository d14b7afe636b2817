//! The structure of `src/` as a test: which module may use which, what is done in one place only, whose words stay in
//! whose folder. Everything here is a scan of text, so it also sees what is compiled out.
//!
//! A finding says where, which rule and what to do. If a rule is wrong, change its table here, with a reason.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed scan is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::Path;

// ---------------------------------------------------------------------------------------------------------- tables

/// A module uses modules of lower levels only. `main.rs` and `lib.rs` are assembly and may name everything.
const LEVELS: &[&[&str]] = &[
    &["clock", "limits", "config", "telemetry", "faults", "unpack", "sigv4", "sql", "credential"],
    &["model", "sqlite", "postgres", "outbound"],
    &["ticket", "token", "blob", "meta", "search"],
    &["engine"],
    &["upload", "source", "store", "catalogue", "tenant"],
    &["http"],
    &["ingress", "dialect", "process"],
    &["app", "cli", "main"],
];

/// The ground that the rest of level 0 may stand on as well.
const COMMON_GROUND: &[&str] = &["clock", "limits", "faults"];

/// Arrows between siblings that are wanted.
const SIBLINGS: &[(&str, &str, &str)] = &[("cli", "app", "the command `serve` starts what app assembles")];

/// The folders of `dialect/`, which do not see each other.
const DIALECTS: &[&str] = &["coveo", "aitronos", "cognite", "native"];

/// Something that is done in one place only.
struct Ban {
    rule: &'static str,
    /// Found as whole words in code outside tests, comments and strings.
    needles: &'static [&'static str],
    /// The place: files, or folders with their slash.
    home: &'static [&'static str],
    /// Exceptions: file or folder, needle, reason.
    except: &'static [(&'static str, &'static str, &'static str)],
    remedy: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        rule: "time is asked in one place",
        needles: &["SystemTime::now", "Instant::now", "Timestamp::now", "Zoned::now", "UtcDateTime::now"],
        home: &["clock.rs"],
        except: &[(
            "process/extract/",
            "Instant::now",
            "a deadline of tokio's own timer is moved by the time that storage took",
        )],
        remedy: "take a `clock::Clock` or the `now` of the verb",
    },
    Ban {
        rule: "randomness is asked in one place",
        needles: &["getrandom", "new_v4", "now_v7", "rand::random", "OsRng", "thread_rng"],
        home: &["clock.rs"],
        except: &[],
        remedy: "use clock::random_bytes, random_uuid or ordered_uuid",
    },
    Ban {
        rule: "files are made, changed and removed in one place",
        needles: &[
            "fs::rename",
            "fs::write",
            "fs::copy",
            "fs::remove_file",
            "fs::remove_dir_all",
            "fs::hard_link",
            "File::create",
            "File::create_new",
            "File::options",
            "OpenOptions",
            "set_len",
        ],
        home: &["blob/local.rs", "blob/local/"],
        except: &[
            (
                "app/keepers.rs",
                "File::options",
                "the lock file of the data directory, which holds nothing that may not be lost",
            ),
            ("cli/", "OpenOptions", "the client writes the user's own files"),
            (
                "cli/",
                "fs::rename",
                "the client's download and its note on an interrupted upload get their names at the end",
            ),
            ("cli/", "fs::remove_file", "the client's note on an interrupted upload goes with the upload"),
        ],
        remedy: "use blob::local, whose helpers include the syncs, or add an exception with its reason to BANS",
    },
    Ban {
        rule: "the environment is read in one place",
        needles: &["env::var", "env::var_os", "env::vars", "env::vars_os"],
        home: &["config.rs", "config/"],
        except: &[("faults.rs", "env::var", "a test's switch, compiled only with the feature")],
        remedy: "add a field to the configuration; the command line uses clap's `env`",
    },
    Ban {
        rule: "HTTP clients are built in one place",
        needles: &["reqwest", "hyper::client", "hyper_util::client", "ureq"],
        home: &["outbound.rs", "outbound/"],
        except: &[],
        remedy: "use outbound, which holds the limits and the list of addresses nobody may reach",
    },
    Ban {
        rule: "unsafe code is one block in one place",
        needles: &["unsafe"],
        home: &["blob/local.rs"],
        except: &[],
        remedy: "find a safe call; rustix has most of them",
    },
    Ban {
        rule: "only the command line prints",
        needles: &["println!", "eprintln!", "print!", "eprint!"],
        home: &["cli.rs", "cli/"],
        except: &[],
        remedy: "use tracing",
    },
    Ban {
        rule: "nothing is left for later",
        needles: &["todo!", "unimplemented!", "dbg!"],
        home: &[],
        except: &[],
        remedy: "do it or leave it out",
    },
    Ban {
        rule: "the domain knows no HTTP",
        needles: &["http::", "StatusCode", "axum", "hyper", "hyper_util", "tower", "reqwest"],
        home: &[
            "lib.rs",
            "main.rs",
            "app.rs",
            "app/",
            "cli.rs",
            "cli/",
            "http.rs",
            "http/",
            "ingress.rs",
            "ingress/",
            "dialect.rs",
            "dialect/",
            "outbound.rs",
            "outbound/",
            "process.rs",
            "process/",
            "blob/",
            "config.rs",
            "telemetry.rs",
            "ticket.rs",
            "clock.rs",
            "limits.rs",
            "faults.rs",
            "sigv4.rs",
            "unpack.rs",
            "unpack/",
        ],
        except: &[],
        remedy: "say it by meaning (model::refusal) and let the door give it a status",
    },
    Ban {
        rule: "only the doors know the HTTP server",
        needles: &["axum", "hyper", "hyper_util"],
        home: &["http.rs", "http/", "ingress.rs", "ingress/", "dialect.rs", "dialect/", "app.rs", "app/"],
        except: &[],
        remedy: "pass plain values down; the crates `http` and `bytes` are enough for a client",
    },
    Ban {
        rule: "databases are reached in one place",
        needles: &["rusqlite", "tokio_postgres"],
        home: &["sql.rs", "sql/", "sqlite.rs"],
        except: &[],
        remedy: "use sql::Connection, in a verb of a keeper",
    },
    Ban {
        rule: "dialects and doors call verbs, never keepers",
        needles: &["engine.meta", "engine.blobs", "engine.search"],
        home: &[
            "upload/",
            "source/",
            "store/",
            "catalogue/",
            "tenant.rs",
            "process/",
            "http/auth.rs",
            "http/doors.rs",
            "app.rs",
            "app/",
            "cli/",
            "engine.rs",
        ],
        except: &[],
        remedy: "add a verb to upload, source, store, catalogue or tenant",
    },
];

/// Where SQL may be written, and how it is recognised in a string.
const SQL_HOMES: &[&str] = &["sql/", "sqlite.rs", "postgres.rs", "meta/sql.rs", "meta/sql/", "search/"];
const SQL: &[&str] = &[
    "SELECT ",
    "INSERT INTO",
    "INSERT OR ",
    "DELETE FROM",
    "UPDATE ",
    "CREATE TABLE",
    "CREATE INDEX",
    "CREATE UNIQUE",
    "CREATE VIRTUAL",
    "ALTER TABLE",
    "DROP TABLE",
    "PRAGMA ",
    "BEGIN IMMEDIATE",
    "SAVEPOINT ",
];

/// A word of one vendor's API or name, in any letter case, comments included, and the dialects that may say it.
const VENDOR_WORDS: &[(&str, &[&str])] = &[
    ("uploadUri", &["coveo"]),
    ("requiredHeaders", &["coveo"]),
    ("uploadUrls", &["cognite"]),
    ("gcs_path", &["aitronos"]),
    ("signed_url", &["aitronos"]),
    ("coveo", &["coveo"]),
    ("aitronos", &["aitronos"]),
    ("cognite", &["cognite"]),
];
/// Assembly mounts the dialects and so has to name them; `dialect/mod.rs` lists its folders.
const VENDOR_ASSEMBLY: &[&str] = &["app.rs", "app/", "cli.rs", "cli/", "dialect/mod.rs"];

/// Set to `true` once the code passes every fail point; the test says when that is.
const EVERY_FAIL_POINT_IS_USED: bool = true;

// ------------------------------------------------------------------------------------------------------- the rules

/// What a check found: `file:line: rule: remedy`.
type Findings = Vec<String>;

fn finding(file: &Source, at: usize, rule: &str, detail: &str, remedy: &str) -> String {
    let line = file.line_of(at);
    format!("src/{}:{line}: {rule}: {detail}. Remedy: {remedy}", file.path)
}

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|names| names.contains(&module))
}

fn within(path: &str, homes: &[&str]) -> bool {
    homes.iter().any(|home| path == *home || (home.ends_with('/') && path.starts_with(home)))
}

/// May code in `from` name `to`? Both are module paths from the crate's root. The answer is what is wrong.
fn arrow(from: &[String], to: &[String]) -> Option<String> {
    let (Some(source), Some(target)) = (from.first(), to.first()) else { return None };
    if source == target {
        if let ("dialect", Some(own), Some(other)) = (source.as_str(), from.get(1), to.get(1))
            && own != other
            && DIALECTS.contains(&other.as_str())
        {
            return Some(format!("dialect `{own}` uses dialect `{other}`"));
        }
        return None;
    }
    let from_level = level(source)?;
    let Some(to_level) = level(target) else {
        return Some(format!("`{target}` is no module with a level"));
    };
    let common = from_level == 0 && COMMON_GROUND.contains(&target.as_str());
    let wanted = SIBLINGS.iter().any(|(a, b, _)| a == source && b == target);
    if to_level < from_level || common || wanted {
        return None;
    }
    let direction = if to_level == from_level { "sideways" } else { "up" };
    Some(format!("`{source}` (level {from_level}) uses `{target}` (level {to_level}), which points {direction}"))
}

fn check_arrows(tree: &Tree) -> Findings {
    let mut findings = BTreeSet::new();
    for file in &tree.files {
        let top = file.module.first().cloned().unwrap_or_default();
        if top.is_empty() {
            continue;
        }
        if level(&top).is_none() {
            let remedy = "give it a level in LEVELS in tests/structure.rs and a line in the layout";
            findings.insert(finding(file, 0, "every module has a level", &format!("`{top}` has none"), remedy));
            continue;
        }
        for reference in file.references() {
            let wrong = match &reference.target {
                Some(target) => arrow(&file.module, target),
                None => Some(String::from("a chain of `super` leaves the crate")),
            };
            if let Some(wrong) = wrong {
                let remedy = "move the shared part down a level, or pass it in from above";
                findings.insert(finding(file, reference.at, "a module uses lower levels only", &wrong, remedy));
            }
        }
    }
    findings.into_iter().collect()
}

fn check_bans(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for ban in BANS {
        for file in tree.files.iter().filter(|file| !file.is_test && !within(&file.path, ban.home)) {
            for needle in ban.needles {
                if ban.except.iter().any(|(path, what, _)| what == needle && within(&file.path, &[path])) {
                    continue;
                }
                for at in words(&file.code, needle) {
                    // `crate::http::` is our own module, not the crate that has the status codes.
                    if *needle == "http::" && file.code[..at].ends_with("::") {
                        continue;
                    }
                    findings.push(finding(file, at, ban.rule, &format!("`{needle}`"), ban.remedy));
                }
            }
        }
    }
    for file in tree.files.iter().filter(|file| file.path == "blob/local.rs") {
        for at in words(&file.code, "unsafe").into_iter().skip(1) {
            findings.push(finding(
                file,
                at,
                "unsafe code is one block in one place",
                "a second one",
                "find a safe call",
            ));
        }
    }
    findings
}

fn check_unwraps(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for file in tree.files.iter().filter(|file| !file.is_test) {
        let lines: Vec<&str> = file.raw.lines().collect();
        for needle in [".unwrap()", ".expect("] {
            for (at, _) in file.code.match_indices(needle) {
                let line = file.line_of(at);
                let reason = |index: usize| {
                    lines.get(index).is_some_and(|line| line.contains("// ") || line.contains("reason ="))
                };
                let reasoned = reason(line - 1) || (line >= 2 && reason(line - 2));
                if !reasoned {
                    let remedy = "return an error, or say in a comment on the line or above it why it can't fail";
                    findings.push(finding(file, at, "no panic without a reason", &format!("`{needle}`"), remedy));
                }
            }
        }
    }
    findings
}

fn check_sql(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for file in tree.files.iter().filter(|file| !file.is_test && !within(&file.path, SQL_HOMES)) {
        for (at, text) in file.live_strings() {
            let update_of_rows = |text: &str| !text.contains("UPDATE ") || text.contains(" SET ");
            if let Some(word) = SQL.iter().find(|word| text.contains(**word))
                && (*word != "UPDATE " || update_of_rows(text))
            {
                let remedy = "add a verb to the keeper's trait";
                findings.push(finding(file, at, "SQL is written by the keepers only", &format!("`{word}`"), remedy));
            }
        }
    }
    findings
}

fn check_vendor_words(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for file in tree.files.iter().filter(|file| !within(&file.path, VENDOR_ASSEMBLY)) {
        let text = file.raw.to_ascii_lowercase();
        for (word, owners) in VENDOR_WORDS {
            if owners.iter().any(|owner| within(&file.path, &[&format!("dialect/{owner}/")])) {
                continue;
            }
            for (at, _) in text.match_indices(&word.to_ascii_lowercase()) {
                let remedy = "say it in our own words (the design's table), the dialect translates";
                let rule = "a vendor's word stays in its dialect's folder";
                findings.push(finding(file, at, rule, &format!("`{word}`"), remedy));
            }
        }
    }
    findings
}

fn check_stale(tree: &Tree) -> Findings {
    let by_path: BTreeMap<&str, &Source> = tree.files.iter().map(|file| (file.path.as_str(), file)).collect();
    let mut reached = BTreeSet::new();
    let mut open = vec!["lib.rs", "main.rs"];
    while let Some(path) = open.pop() {
        let Some(file) = by_path.get(path) else { continue };
        if reached.insert(path) {
            for name in file.declared_modules().into_iter().map(|(name, _)| name) {
                open.extend(
                    file.candidates(&name).iter().filter_map(|path| by_path.get_key_value(path.as_str()).map(|e| *e.0)),
                );
            }
        }
    }
    let stale = tree.files.iter().filter(|file| !reached.contains(file.path.as_str()));
    let remedy = "declare it with `mod` or delete it";
    stale.map(|file| finding(file, 0, "every file is compiled", "no `mod` leads here from lib.rs", remedy)).collect()
}

/// The fail points that are named and do not exist, and then those that exist and are named nowhere.
fn check_fail_points(tree: &Tree, points: &[&str]) -> (Findings, Findings) {
    let mut unknown = Findings::new();
    let mut seen = BTreeSet::new();
    for file in tree.files.iter().filter(|file| !file.is_test && file.path != "faults.rs") {
        for (at, name) in file.live_strings() {
            seen.insert(name.to_owned());
            let before = file.code[..at].trim_end();
            let called = ["point(", "io_point(", "sync_point(", "skipped("].iter().any(|call| {
                before.strip_suffix(call).is_some_and(|head| head.ends_with(|c: char| !is_word(c)) || head.is_empty())
            });
            if called && !points.contains(&name) {
                let remedy = "add it to faults::POINTS, with a crash test, or correct the name";
                unknown.push(finding(file, at, "every fail point has a name in POINTS", &format!("`{name}`"), remedy));
            }
        }
    }
    let unused = points.iter().filter(|point| !seen.contains(**point));
    let unused = unused
        .map(|point| format!("src/faults.rs: every fail point is passed by the code: `{point}` is not. Remedy: call it or take it off the list"))
        .collect();
    (unknown, unused)
}

// -------------------------------------------------------------------------------------------------------- the scan

/// The files of `src/`.
struct Tree {
    files: Vec<Source>,
}

struct Source {
    /// From `src/`, with `/`.
    path: String,
    /// The module path from the crate's root; empty for `lib.rs` and `main.rs`.
    module: Vec<String>,
    raw: String,
    /// `raw` at the same offsets with comments, the inside of strings and test modules made blank.
    code: String,
    /// As `code`, with the test modules still there.
    code_with_tests: String,
    /// String literals: the offset of the opening quote or prefix, and the inside.
    strings: Vec<(usize, String)>,
    /// Is the whole file compiled for tests only?
    is_test: bool,
}

struct Reference {
    at: usize,
    /// From the crate's root; `None` when `super` leads out of it.
    target: Option<Vec<String>>,
}

impl Tree {
    fn of_crate() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
                    files.push((name, std::fs::read_to_string(&path).unwrap()));
                }
            }
        }
        files.sort();
        Self::new(files)
    }

    fn new(files: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut files: Vec<Source> = files.into_iter().map(|(path, raw)| Source::new(path, raw)).collect();
        let mut tests: BTreeSet<String> = BTreeSet::new();
        for file in &files {
            for (name, is_test) in file.declared_modules() {
                if is_test {
                    tests.extend(file.candidates(&name));
                }
            }
        }
        for file in &mut files {
            // A folder below a test file belongs to it.
            file.is_test = tests.iter().any(|test| {
                let folder = test.strip_suffix("mod.rs").map_or_else(|| test.replace(".rs", "/"), str::to_owned);
                file.path == *test || file.path.starts_with(&folder)
            });
        }
        Self { files }
    }

    fn sample(files: &[(&str, &str)]) -> Self {
        Self::new(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())))
    }
}

impl Source {
    fn new(path: String, raw: String) -> Self {
        let mut module: Vec<String> = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if module.last().is_some_and(|last| last == "mod") || path == "lib.rs" || path == "main.rs" {
            module.pop();
        }
        let (code_with_tests, strings) = blank_comments_and_strings(&raw);
        let code = blank_test_modules(&code_with_tests);
        Self { path, module, raw, code, code_with_tests, strings, is_test: false }
    }

    fn line_of(&self, at: usize) -> usize {
        self.raw[..at].matches('\n').count() + 1
    }

    /// String literals outside test modules.
    fn live_strings(&self) -> impl Iterator<Item = (usize, &str)> {
        let live = |at: usize| self.code.as_bytes().get(at).is_some_and(|b| !b.is_ascii_whitespace());
        self.strings.iter().filter(move |(at, _)| live(*at)).map(|(at, text)| (*at, text.as_str()))
    }

    /// `mod name;` in this file, and whether it is for tests only.
    fn declared_modules(&self) -> Vec<(String, bool)> {
        let code = &self.code_with_tests;
        let declared = words(code, "mod").into_iter().filter_map(|at| {
            let rest = code[at + 3..].trim_start();
            let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
            let ends = rest[name.len()..].trim_start().starts_with(';');
            (ends && !name.is_empty()).then(|| (name, has_test_attribute(&code[..at])))
        });
        declared.collect()
    }

    /// Where the file of a module declared here can be.
    fn candidates(&self, name: &str) -> [String; 2] {
        let folder: String = self.module.iter().map(|part| format!("{part}/")).collect();
        [format!("{folder}{name}.rs"), format!("{folder}{name}/mod.rs")]
    }

    /// Every path that begins with `crate::` or `super::`, in full.
    fn references(&self) -> Vec<Reference> {
        let mut out = Vec::new();
        if self.is_test {
            return out;
        }
        let inline = inline_modules(&self.code);
        for at in words(&self.code, "crate") {
            if let Some(rest) = self.code[at + 5..].trim_start().strip_prefix("::") {
                out.extend(path_tree(rest).into_iter().map(|path| Reference { at, target: Some(path) }));
            }
        }
        for at in words(&self.code, "super") {
            let mut rest = &self.code[at + 5..];
            // Only the first of a chain; the others are counted from it.
            if self.code[..at].trim_end().ends_with("super::") {
                continue;
            }
            let mut base = self.module.clone();
            base.extend(inline.iter().filter(|(range, _)| range.contains(&at)).map(|(_, name)| name.clone()));
            let mut inside = base.pop().is_some();
            while let Some(next) = rest.trim_start().strip_prefix("::").map(str::trim_start)
                && let Some(after) = next.strip_prefix("super")
                && !after.starts_with(is_word)
            {
                inside &= base.pop().is_some();
                rest = after;
            }
            let Some(rest) = rest.trim_start().strip_prefix("::") else { continue };
            for tail in path_tree(rest) {
                let target = inside.then(|| base.iter().cloned().chain(tail).collect());
                out.push(Reference { at, target });
            }
        }
        out
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `needle` is in `code`, not as a part of a longer word.
fn words(code: &str, needle: &str) -> Vec<usize> {
    let open_end = needle.ends_with(is_word);
    code.match_indices(needle)
        .filter(|(at, _)| !code[..*at].ends_with(is_word))
        .filter(|(at, _)| !(open_end && code[at + needle.len()..].starts_with(is_word)))
        .map(|(at, _)| at)
        .collect()
}

/// The paths of `a::b`, `{a, b::{c, d}}` and the like, each from its beginning.
fn path_tree(text: &str) -> Vec<Vec<String>> {
    fn level(text: &str, prefix: &[String], out: &mut Vec<Vec<String>>) -> usize {
        let mut path = prefix.to_vec();
        let mut at = 0;
        loop {
            at += text[at..].len() - text[at..].trim_start().len();
            if text[at..].starts_with('{') {
                at += 1;
                loop {
                    at += level(&text[at..], &path, out);
                    at += text[at..].len() - text[at..].trim_start().len();
                    match text[at..].chars().next() {
                        Some(',') => at += 1,
                        Some('}') => return at + 1,
                        // ` as name` and whatever is no path.
                        Some(c) => at += c.len_utf8(),
                        None => return at,
                    }
                }
            }
            let name: String = text[at..].chars().take_while(|c| is_word(*c)).collect();
            if name.is_empty() {
                break;
            }
            at += name.len();
            if name == "self" {
                out.push(path.clone());
            } else {
                path.push(name);
            }
            let after = text[at..].trim_start();
            if let Some(alias) = after.strip_prefix("as ") {
                let alias = alias.trim_start().trim_start_matches(is_word);
                at = text.len() - alias.len();
                break;
            }
            if !after.starts_with("::") {
                break;
            }
            at += text[at..].len() - after.len() + 2;
        }
        if path.len() > prefix.len() || text[at..].starts_with('*') {
            out.push(path);
        }
        at
    }
    let mut out = Vec::new();
    level(text, &[], &mut out);
    out
}

/// The ranges of `mod name { … }`, outer ones first.
fn inline_modules(code: &str) -> Vec<(Range<usize>, String)> {
    words(code, "mod")
        .into_iter()
        .filter_map(|at| {
            let rest = code[at + 3..].trim_start();
            let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
            let body = rest[name.len()..].trim_start();
            body.starts_with('{').then(|| (at..block_end(code, code.len() - body.len()), name))
        })
        .collect()
}

/// The offset behind the block that opens at `open`.
fn block_end(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (at, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return open + at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Does the item whose keyword follows `head` have `#[cfg(test)]` or `#[cfg(any(test, …))]`?
fn has_test_attribute(head: &str) -> bool {
    let item = head.rfind([';', '}', '{']).map_or(head, |at| &head[at..]);
    let dense: String = item.chars().filter(|c| !c.is_whitespace()).collect();
    dense.contains("#[cfg(test)]") || dense.contains("#[cfg(any(test")
}

fn blank_test_modules(code: &str) -> String {
    let mut out = code.to_owned();
    for (range, _) in inline_modules(code) {
        if has_test_attribute(&code[..range.start]) {
            out.replace_range(range.clone(), &blank(&code[range]));
        }
    }
    out
}

/// As many bytes, nothing but blanks and line ends.
fn blank(text: &str) -> String {
    text.bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect()
}

/// Blanks comments and the inside of strings and characters; the quotes stay. Also answers the strings.
fn blank_comments_and_strings(raw: &str) -> (String, Vec<(usize, String)>) {
    let mut out = String::with_capacity(raw.len());
    let mut strings = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        let rest = &raw[at..];
        let after_word = raw[..at].ends_with(is_word);
        let end = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            comment_end(rest)
        } else if let Some((prefix, hashes)) = raw_string_start(rest).filter(|_| !after_word) {
            let close = format!("\"{}", "#".repeat(hashes));
            let inside = rest[prefix..].find(&close).unwrap_or(rest.len() - prefix);
            strings.push((at, rest[prefix..prefix + inside].to_owned()));
            out.push_str(&rest[..prefix]);
            out.push_str(&blank(&rest[prefix..prefix + inside]));
            at += prefix + inside;
            let close = &raw[at..(at + close.len()).min(raw.len())];
            out.push_str(close);
            at += close.len();
            continue;
        } else if let Some(body) = rest.strip_prefix('"') {
            let inside = string_end(body);
            strings.push((at, rest[1..=inside].to_owned()));
            out.push('"');
            out.push_str(&blank(&rest[1..=inside]));
            at += 1 + inside;
            if at < raw.len() {
                out.push('"');
                at += 1;
            }
            continue;
        } else {
            char_literal(rest).unwrap_or(0)
        };
        if end > 0 {
            out.push_str(&blank(&rest[..end]));
            at += end;
        } else {
            let c = rest.chars().next().unwrap();
            // One byte for one byte, so that offsets stay; such a character is no part of what is looked for.
            if c.is_ascii() {
                out.push(c);
            } else {
                out.push_str(&blank(&rest[..c.len_utf8()]));
            }
            at += c.len_utf8();
        }
    }
    (out, strings)
}

fn comment_end(text: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < text.len() {
        if text.as_bytes()[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if text.as_bytes()[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// The length of `r#"`, `br"` and the like, and how many `#` close it.
fn raw_string_start(text: &str) -> Option<(usize, usize)> {
    let body = text.strip_prefix("br").or_else(|| text.strip_prefix("cr")).or_else(|| text.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    body[hashes..].starts_with('"').then(|| (text.len() - body.len() + hashes + 1, hashes))
}

/// The length of a string's inside.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, b) in text.bytes().enumerate() {
        match b {
            b'"' if !escaped => return at,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// The length of `'x'` or `'\n'`; `None` for a lifetime.
fn char_literal(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let mut chars = body.char_indices();
    let (_, first) = chars.next()?;
    if first == '\\' {
        chars.next()?;
        return body.find('\'').map(|at| if body[..at] == *"\\" { at + 3 } else { at + 2 });
    }
    chars.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 2)
}

// ------------------------------------------------------------------------------------------- the crate as it stands

fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn modules_use_lower_levels_only() {
    assert_none(&check_arrows(&Tree::of_crate()));
}

#[test]
fn what_is_done_in_one_place_is_done_there() {
    assert_none(&check_bans(&Tree::of_crate()));
}

#[test]
fn no_panic_without_a_reason() {
    assert_none(&check_unwraps(&Tree::of_crate()));
}

#[test]
fn sql_is_written_by_the_keepers_only() {
    assert_none(&check_sql(&Tree::of_crate()));
}

#[test]
fn a_vendors_word_stays_in_its_folder() {
    assert_none(&check_vendor_words(&Tree::of_crate()));
}

#[test]
fn every_file_is_compiled() {
    assert_none(&check_stale(&Tree::of_crate()));
}

/// Tests that the manual names as its proof.
#[test]
fn tests_that_the_manual_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = fs::read_to_string(root.join("docs/scaling.md")).expect("the manual");
    let named: Vec<&str> = manual.split('`').filter(|word| word.starts_with("it::")).collect();
    assert!(named.len() > 9, "{named:?}");
    for name in named {
        let (module, test) = name.rsplit_once("::").expect("a module");
        let file = root.join("tests").join(module.replace("::", "/")).with_extension("rs");
        let code = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {}: {error}", file.display()));
        assert!(code.contains(&format!("\nasync fn {test}(")) || code.contains(&format!("\nfn {test}(")), "{name}");
    }
}

#[test]
fn fail_points_and_their_list_agree() {
    let (mut findings, unused) = check_fail_points(&Tree::of_crate(), landfall::faults::POINTS);
    if EVERY_FAIL_POINT_IS_USED {
        findings.extend(unused);
    } else if unused.is_empty() {
        findings
            .push(String::from("tests/structure.rs: all fail points are used. Remedy: set EVERY_FAIL_POINT_IS_USED"));
    }
    assert_none(&findings);
}

// ------------------------------------------------------------------------------------ every check is able to fail

/// Exactly one finding, at this place, saying this.
fn assert_one(findings: &[String], place: &str, says: &str) {
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert!(findings[0].starts_with(&format!("src/{place}: ")), "{}", findings[0]);
    assert!(findings[0].contains(says) && findings[0].contains("Remedy: "), "{}", findings[0]);
}

#[test]
fn arrows_up_and_sideways_are_found() {
    let of = |path: &str, text: &str| check_arrows(&Tree::sample(&[(path, text)]));
    assert_one(&of("model/file.rs", "//! x\nuse crate::upload::open;"), "model/file.rs:2", "points up");
    assert_one(&of("blob/local.rs", "fn f() { crate::meta::x() }"), "blob/local.rs:1", "points sideways");
    assert_one(
        &of("upload/open.rs", "use crate::{model::ids, limits, source::{a, b as c}};"),
        "upload/open.rs:1",
        "`source`",
    );
    assert_one(&of("upload/open.rs", "use crate::{\n  model,\n  http::auth,\n};"), "upload/open.rs:1", "`http`");
    assert_one(&of("meta/sql.rs", "use super::super::blob::x;"), "meta/sql.rs:1", "`blob`");
    assert_one(&of("meta/mod.rs", "use super::blob;"), "meta/mod.rs:1", "`blob`");
    assert_one(&of("meta/mod.rs", "mod a { use super::super::blob; }"), "meta/mod.rs:1", "`blob`");
    assert_one(&of("ticket.rs", "use super::super::x;"), "ticket.rs:1", "leaves the crate");
    assert_one(&of("config.rs", "use crate::telemetry::x;"), "config.rs:1", "sideways");
    assert_one(&of("stray.rs", ""), "stray.rs:1", "`stray` has none");
    assert_one(&of("ticket.rs", "use crate::Thing;"), "ticket.rs:1", "`Thing` is no module");
    assert_one(&of("dialect/coveo/files.rs", "use crate::dialect::cognite::x;"), "dialect/coveo/files.rs:1", "dialect");
    assert_one(&of("dialect/coveo/mod.rs", "use super::native::x;"), "dialect/coveo/mod.rs:1", "dialect");
}

#[test]
fn arrows_down_are_fine() {
    let of = |path: &str, text: &str| assert_none(&check_arrows(&Tree::sample(&[(path, text)])));
    of(
        "model/file.rs",
        "use super::ids; use crate::clock::Timestamp; // use crate::http\nconst S: &str = \"crate::app\";",
    );
    of("sigv4.rs", "use crate::{clock, limits};\nfn f() { crate::faults::point(x) }");
    of("cli/serve.rs", "use crate::app; use super::x; pub(crate) fn f() {} pub(super) fn g() {}");
    of("main.rs", "use crate::cli;");
    of("lib.rs", "pub use crate::app::x;");
    of("dialect/coveo/files.rs", "use super::wire; use super::super::Mount; use crate::dialect::Mount;");
    of("dialect/mod.rs", "pub mod coveo; use coveo::x; use self::cognite; use crate::dialect::coveo::y;");
    of("blob/mod.rs", "#[cfg(test)]\nmod tests { use crate::meta::x; use super::super::app; }");
    of("blob/mod.rs", "mod inner { use super::local; }");
}

#[test]
fn every_ban_is_able_to_fail() {
    for ban in BANS {
        for needle in ban.needles {
            let text = format!("//! `{needle}` in a comment\nfn f() {{ a::{needle}(); }}\n").replace("a::http", "http");
            let tree = Tree::sample(&[("meta/other.rs", text.as_str())]);
            let found: Vec<String> = check_bans(&tree).into_iter().filter(|f| f.contains(ban.rule)).collect();
            assert!(!found.is_empty(), "{} does not find {needle}", ban.rule);
            assert!(found.iter().all(|f| f.starts_with("src/meta/other.rs:2: ")), "{found:?}");
            for home in ban.home {
                let file = if home.ends_with('/') { format!("{home}x.rs") } else { (*home).to_owned() };
                let tree = Tree::sample(&[(file.as_str(), text.as_str())]);
                assert!(!check_bans(&tree).iter().any(|f| f.contains(ban.rule)), "{} in {file}", ban.rule);
            }
            let in_test = format!("#[cfg(test)]\nmod tests {{\n{text}}}\n");
            assert_none(&check_bans(&Tree::sample(&[("meta/other.rs", in_test.as_str())])));
            let in_string = format!("const A: &str = \"{needle}(\"; const B: &str = r#\"{needle}(\"#;");
            assert_none(&check_bans(&Tree::sample(&[("meta/other.rs", in_string.as_str())])));
            let longer = format!("fn f() {{ my_{needle}(); }}");
            assert_none(&check_bans(&Tree::sample(&[("meta/other.rs", longer.as_str())])));
        }
        for (path, needle, reason) in ban.except {
            let file = if path.ends_with('/') { format!("{path}x.rs") } else { (*path).to_owned() };
            let text = format!("fn f() {{ {needle}(); }}");
            assert_none(&check_bans(&Tree::sample(&[(file.as_str(), text.as_str())])));
            assert!(!reason.is_empty());
        }
    }
    let twice = "fn f() { unsafe { a() } }\nfn g() { unsafe { b() } }";
    assert_one(&check_bans(&Tree::sample(&[("blob/local.rs", twice)])), "blob/local.rs:2", "a second one");
    let own = "use crate::http::auth;";
    assert!(!check_bans(&Tree::sample(&[("model/x.rs", own)])).iter().any(|f| f.contains("knows no HTTP")));
}

#[test]
fn unwraps_without_a_reason_are_found() {
    let of = |text: &str| check_unwraps(&Tree::sample(&[("lib.rs", text)]));
    assert_one(&of("fn f() {\n    a.unwrap();\n}"), "lib.rs:2", ".unwrap()");
    assert_one(&of("fn f() {\n    a.expect(\"x\");\n}"), "lib.rs:2", ".expect(");
    assert_none(&of("fn f() {\n    // it is a constant\n    a.unwrap();\n    b.expect(\"x\") // checked above\n}"));
    assert_none(&of("fn f() { a.unwrap_or(1); b.expect_err(2); }\n#[cfg(test)]\nmod tests { fn f() { a.unwrap() } }"));
    let file = [("lib.rs", "#[cfg(test)]\nmod tests;"), ("tests.rs", "fn f() { a.unwrap() }")];
    assert_none(&check_unwraps(&Tree::sample(&file)));
}

#[test]
fn sql_elsewhere_is_found() {
    let of = |path: &str, text: &str| check_sql(&Tree::sample(&[(path, text)]));
    for word in SQL {
        let text = format!("const A: &str = \"x\";\nconst Q: &str = \"{word}t SET x\";");
        assert_one(&of("upload/open.rs", &text), "upload/open.rs:2", "SQL");
        assert_none(&of("meta/sql.rs", &text));
        assert_none(&of("search/mod.rs", &text));
    }
    assert_none(&of("upload/open.rs", "// SELECT x\nconst M: &str = \"DELETE\"; const U: &str = \"UPDATE or not\";"));
}

#[test]
fn vendor_words_elsewhere_are_found() {
    for (word, owners) in VENDOR_WORDS {
        let text = format!("//! x\n// As {} does.", word.to_uppercase());
        let of = |path: &str| check_vendor_words(&Tree::sample(&[(path, &text)]));
        assert_one(&of("model/file.rs"), "model/file.rs:2", word);
        assert_one(&of("dialect/native/mod.rs"), "dialect/native/mod.rs:2", word);
        assert_none(&of("app.rs"));
        assert_none(&of("cli/admin.rs"));
        for owner in *owners {
            assert_none(&of(&format!("dialect/{owner}/wire.rs")));
        }
    }
}

#[test]
fn stale_files_are_found() {
    let files = [
        ("lib.rs", "pub mod a;\nmod b;\n// mod c;"),
        ("a/mod.rs", "mod x;"),
        ("a/x.rs", "#[cfg(test)]\nmod tests;"),
        ("a/x/tests.rs", ""),
        ("b.rs", "mod inline { fn f() {} }"),
        ("c.rs", ""),
    ];
    assert_one(&check_stale(&Tree::sample(&files)), "c.rs:1", "no `mod` leads here");
}

#[test]
fn fail_points_that_do_not_agree_are_found() {
    let text = "fn f() { faults::point(\"a.b\"); helper(\"a.c\"); endpoint(\"x\"); }\nfn g() { io_point( \"a.d\")?; }\n\
                #[cfg(test)] mod tests { fn f() { point(\"a.e\") } }";
    let files = [("upload/open.rs", text), ("faults.rs", "const P: &[&str] = &[\"a.f\"];")];
    let (unknown, unused) = check_fail_points(&Tree::sample(&files), &["a.b", "a.c", "a.e", "a.f"]);
    assert_one(&unknown, "upload/open.rs:2", "`a.d`");
    assert_eq!(unused.len(), 2, "{unused:?}");
    assert!(unused[0].contains("`a.e`") && unused[1].contains("`a.f`"), "{unused:?}");
}

#[test]
fn the_scanner_reads_rust() {
    let raw = "a /* b /* c */ d */ e 'f' '\\'' '\"' <'g> \"h\\\"i\" r#\"j\"k\"# b\"l\" // m\nn'é'";
    let (code, strings) = blank_comments_and_strings(raw);
    assert_eq!(code.len(), raw.len());
    let seen: String = code.chars().filter(|c| c.is_alphanumeric()).collect();
    assert_eq!(seen, "aegrbn");
    let inside: Vec<&str> = strings.iter().map(|(_, s)| s.as_str()).collect();
    assert_eq!(inside, ["h\\\"i", "j\"k", "l"]);
    let paths = path_tree("{a::{self, b::{c, d as e}, f::*}, g};");
    let joined: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(joined, ["a", "a::b::c", "a::b::d", "a::f", "g"]);
}
