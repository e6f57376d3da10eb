//! Any element as what devices and owners ask of provisioning, and as what devices are asked.
#![no_main]

#[path = "../../../core/tests/peers/mod.rs"]
mod peers;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| peers::provisioning(text));
