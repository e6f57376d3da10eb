//! Any text as a command of an operator: what is read is written as what reads as the same.
#![no_main]

#[path = "../../tests/files/mod.rs"]
mod files;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| files::command(text));
