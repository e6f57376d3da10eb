//! The table of bad input in the documentation says what the tests hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Cases of the catalogue; greater numbers are something else.
const LAST_CASE: u32 = 124;

type Cases = BTreeMap<u32, BTreeSet<String>>;

/// The cases in the table, with the modules said to hold them.
fn documented() -> Cases {
    let table = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bad-input.md")).unwrap();
    let rows: Vec<(u32, BTreeSet<String>)> = table
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix('|')?.split(" | ").collect();
            let number = cells[0].parse().ok()?;
            Some((number, cells[3].split_whitespace().map(str::to_owned).collect()))
        })
        .collect();
    assert!(rows.is_sorted_by(|one, next| one.0 < next.0), "a row for each case, in order");
    rows.into_iter().collect()
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
fn the_table_of_bad_input_names_the_modules_that_hold_each_case() {
    let (documented, tested) = (documented(), tested());
    for (case, modules) in &documented {
        assert_eq!(modules, tested.get(case).unwrap_or(&BTreeSet::new()), "case {case}");
    }
    let undocumented: Vec<_> =
        tested.keys().filter(|case| **case <= LAST_CASE && !documented.contains_key(case)).collect();
    assert!(undocumented.is_empty(), "not in the table: {undocumented:?}");
}
