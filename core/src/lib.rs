//! The grammar of Plaza: bytes ⇄ stanzas ⇄ decisions, as pure state machines.
//!
//! Nothing in this crate does I/O, reads a clock, draws randomness, locks or spawns; what it needs of those is passed in.
#![forbid(unsafe_code)]

pub mod adhoc;
pub mod caps;
pub mod date;
pub mod forms;
pub mod iot;
pub mod jid;
pub mod limits;
pub mod ns;
pub mod precis;
pub mod provisioning;
pub mod register;
pub mod rsm;
pub mod rules;
pub mod sasl;
pub mod signed;
pub mod sm;
pub mod stanza;
pub mod stream;
pub mod subscription;
pub mod thing;
pub mod xml;
