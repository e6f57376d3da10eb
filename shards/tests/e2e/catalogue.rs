//! The table of bad input in the documentation says what the tests hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Cases of the catalogue; greater numbers are something else.
const LAST_CASE: u32 = 124;

type Cases = BTreeMap<u32, BTreeSet<String>>;

/// A row of the table.
struct Row {
    number: u32,
    reaction: String,
    /// Modules, and tests elsewhere.
    holders: Vec<String>,
}

/// The table's rows, from all its parts in order of number.
fn rows() -> Vec<Row> {
    let table = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bad-input.md")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix('|')?.split(" | ").collect();
        let number = cells[0].parse().ok()?;
        let holders = cells[3].split_whitespace().map(str::to_owned).collect();
        Some(Row { number, reaction: cells[2].to_owned(), holders })
    };
    let mut rows: Vec<Row> = table.lines().filter_map(row).collect();
    rows.sort_by_key(|row| row.number);
    rows
}

/// The cases that tests name: a number, a space and a name within quotes.
fn tested() -> Cases {
    let mut cases = Cases::new();
    for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e")).unwrap() {
        let file = file.unwrap().path();
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let module = file.file_stem().unwrap().to_string_lossy().into_owned();
        if module == "catalogue" {
            continue;
        }
        for quoted in text.split('"').skip(1).step_by(2) {
            if let Some((number, name)) = quoted.split_once(' ')
                && let Ok(number) = number.parse()
                && name.starts_with(|first: char| first.is_alphabetic())
            {
                cases.entry(number).or_default().insert(module.clone());
            }
        }
    }
    cases
}

#[test]
fn the_table_of_bad_input_has_every_case_and_says_what_holds_it() {
    let (rows, tested) = (rows(), tested());
    assert!(rows.iter().map(|row| row.number).eq(1..=LAST_CASE), "a row for each case");
    for Row { number, reaction, holders } in &rows {
        let (elsewhere, modules): (Vec<&String>, Vec<&String>) = holders.iter().partition(|name| name.contains(".rs:"));
        let modules: BTreeSet<String> = modules.into_iter().cloned().collect();
        assert_eq!(&modules, tested.get(number).unwrap_or(&BTreeSet::new()), "case {number}");
        for name in elsewhere {
            let (file, test) = name.split_once(':').unwrap();
            let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)).unwrap();
            assert!(
                text.contains(&format!("    #[test]\n    fn {test}()"))
                    || text.contains(&format!("\n#[test]\nfn {test}()")),
                "case {number}: no test {name}"
            );
        }
        let applies = !reaction.starts_with("does not apply: ");
        assert_eq!(applies, !holders.is_empty(), "case {number} is held by something, or says why it does not apply");
    }
}
