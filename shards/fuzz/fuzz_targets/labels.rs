//! Any bytes as a table of things to label: what is read is written as a table that reads as the same.
#![no_main]

#[path = "../../tests/files/mod.rs"]
mod files;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| files::labels(text));
