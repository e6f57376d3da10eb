//! What the fuzz targets check of the services' readers, on their seeds and on thousands of texts that are nearly those.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod mutate;
mod peers;

use peers::READERS;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Texts for each reader.
const CASES: u32 = 1_500;

#[test]
fn what_peers_send_is_read_within_its_bounds_and_written_as_the_same() {
    for (target, read) in READERS {
        let seeds = mutate::seeds(target);
        seeds.iter().for_each(|seed| read(seed));
        let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
        let checked = TestRunner::new(config).run(&mutate::changed(seeds), |text| {
            read(&text);
            Ok(())
        });
        if let Err(error) = checked {
            panic!("{target}: {error}");
        }
    }
}

#[test]
fn each_reader_has_a_fuzz_target() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../shards/fuzz");
    let manifest = std::fs::read_to_string(format!("{folder}/Cargo.toml")).expect("a manifest");
    for (target, _) in READERS {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
        let text = std::fs::read_to_string(format!("{folder}/fuzz_targets/{target}.rs")).expect("a target");
        assert!(text.contains(&format!("peers::{target}(")), "{target}");
    }
}
