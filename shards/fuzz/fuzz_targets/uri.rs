//! Any text as a claim URI: what is understood is written as a text that reads as the same.
#![no_main]

#[path = "../../../core/tests/peers/mod.rs"]
mod peers;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| peers::uri(text));
