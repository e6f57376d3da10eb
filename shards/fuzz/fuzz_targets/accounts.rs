//! Any text as a file of accounts: what is read of a line is written as a line that reads as the same.
#![no_main]

#[path = "../../tests/files/mod.rs"]
mod files;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| files::accounts(text));
