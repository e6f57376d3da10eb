//! Lines of any elements, asked of publish-subscribe by several: each is answered, well-formed and within its bound.
#![no_main]

#[path = "../../../registry/tests/asked/mod.rs"]
mod asked;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| asked::pubsub(text));
