//! What holds of the store's records, whatever bytes they are: none makes its reader panic, and what is read of one is written
//! as a record that is read as the same.
//!
//! Called by a property test and by a fuzz target; in no broker.

use crate::store::StoreError;
use crate::{
    accounts, apikeys, archive, avatars, blocking, broker, offline, private, provisioning, pubsub, resumables, rosters,
    things, tokens, vcards,
};

/// Reads a record and writes what it says.
pub(crate) type Rewrite = fn(&[u8]) -> Result<Vec<u8>, StoreError>;

/// Of all kinds of records.
fn rewrites() -> impl Iterator<Item = Rewrite> {
    [
        accounts::RECORDS,
        apikeys::RECORDS,
        archive::RECORDS,
        archive::PREFERENCES,
        avatars::RECORDS,
        blocking::RECORDS,
        broker::RECORDS,
        offline::RECORDS,
        private::RECORDS,
        provisioning::RULES,
        provisioning::QUESTIONS,
        provisioning::CERTIFICATES,
        pubsub::RECORDS,
        resumables::RECORDS,
        rosters::RECORDS,
        things::RECORDS,
        things::COUNTS,
        tokens::RECORDS,
        vcards::RECORDS,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// Reads bytes as each kind of record; gives as how many they could be read.
///
/// # Panics
/// If a record that was read is not the same when it has been written and read again.
pub fn record(bytes: &[u8]) -> usize {
    let mut read = 0;
    for (kind, rewrite) in rewrites().enumerate() {
        let Ok(written) = rewrite(bytes) else { continue };
        assert_eq!(rewrite(&written).as_ref(), Ok(&written), "kind {kind}");
        read += 1;
    }
    read
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    use super::*;

    #[test]
    fn a_record_that_is_read_is_written_as_one_that_reads_as_the_same() {
        // Versions, flags and lengths are small numbers.
        let byte = prop_oneof![6 => 0..4_u8, 1 => prop::sample::select(b"a@./\0".to_vec()), 1 => any::<u8>()];
        let bytes = (1..3_u8, prop::collection::vec(byte, 0..60));
        let read = Cell::new(0);
        let config = ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() };
        let checked = TestRunner::new(config).run(&bytes, |(version, bytes)| {
            read.set(read.get() + record(&[&[version], &*bytes].concat()));
            Ok(())
        });
        assert!(checked.is_ok() && read.get() > 200, "{checked:?}, {} were read", read.get());
    }
}
