//! What the fuzz targets check of the registry's services, on their seeds and on hundreds of texts that are nearly those.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod asked;
#[path = "../../core/tests/mutate/mod.rs"]
mod mutate;

use asked::READERS;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

#[test]
fn whatever_is_asked_is_answered_within_its_bounds() {
    for (target, cases, ask) in READERS {
        let seeds = mutate::seeds(target);
        seeds.iter().for_each(|seed| ask(seed));
        // A node to ask about, so that more is done than refused.
        let first = seeds.iter().find(|seed| seed.contains("<create ")).cloned().unwrap_or_default();
        let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
        let checked = TestRunner::new(config).run(&vec(mutate::changed(seeds), 1..6), |lines| {
            ask(&format!("{first}\n{}", lines.join("\n")));
            Ok(())
        });
        if let Err(error) = checked {
            panic!("{target}: {error}");
        }
    }
}
