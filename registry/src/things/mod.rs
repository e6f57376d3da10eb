//! Things: who owns what, and what is said of it (XEP-0347 v0.5.1).
//!
//! A thing is a node of an account; its record lies with the account. Whoever changes one reads it, and commits only if
//! nobody else changed it meanwhile ([`ThingRecord::guard`]), so that any shard may.

mod record;

pub use self::record::{Pending, State, ThingRecord, key_hash, load, load_all, owned, owned_key, thing_key};
