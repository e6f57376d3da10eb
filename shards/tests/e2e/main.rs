//! End to end: the real binary on loopback, driven by independent clients, by bad input and by floods.
//!
//! Each test starts a broker of its own on a temporary directory and stops it with SIGTERM: it must exit with 0, have
//! logged no panic, and hold as many connections at the end as at the start.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod admission;
mod archive;
mod backup;
mod bad_claims;
mod bad_input;
mod bad_presence;
mod bad_pubsub;
mod bad_resumption;
mod bad_sasl;
mod bad_stanzas;
mod bad_things;
mod bad_tls;
mod blocking;
mod broker;
mod carbons;
mod catalogue;
mod clients;
mod clock;
mod crash;
mod crowd;
mod faults;
mod flow;
mod forged;
mod host;
mod javascript;
mod labels;
mod managed;
mod memory;
mod newcomer;
mod photos;
mod pubsub;
mod registration;
mod reload;
mod sasl2;
mod scene;
mod services;
mod slow;
mod stalls;
mod subscriptions;
mod things;
mod timing;
mod tls;
mod tokens;
mod upgrade;
mod wire;
