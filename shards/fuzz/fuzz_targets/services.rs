//! Lines of any elements, asked of the server, accounts and services: each is answered, and what was kept can be read.
#![no_main]

#[path = "../../../registry/tests/asked/mod.rs"]
mod asked;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| asked::services(text));
