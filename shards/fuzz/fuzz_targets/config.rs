//! Any text as a configuration: what is read is written as what reads as the same, or refused with a reason.
#![no_main]

#[path = "../../tests/files/mod.rs"]
mod files;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| files::config(text));
