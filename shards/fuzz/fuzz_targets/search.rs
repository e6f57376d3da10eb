//! Lines of any elements as things and as searches: among thousands the same of them are found as of each by itself.
#![no_main]

#[path = "../../../registry/tests/asked/mod.rs"]
mod asked;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| asked::search(text));
