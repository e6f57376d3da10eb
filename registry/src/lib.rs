//! The facts of Plaza: accounts, rosters, the services over them and the store below.
//!
//! Touches no socket, names no runtime; every function that waits is an ordinary future, woken by its `Waker`.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod apikeys;
pub mod archive;
pub mod avatars;
pub mod blocking;
pub mod broker;
pub mod contacts;
pub mod directory;
pub mod errands;
pub mod facts;
pub mod helpers;
#[cfg(any(test, fuzzing))]
pub mod laws;
pub mod offline;
pub mod owned;
mod pace;
pub mod private;
pub mod provisioning;
pub mod pubsub;
mod record;
pub mod registration;
pub mod resumables;
pub mod rosters;
pub mod services;
pub mod store;
pub mod subject;
pub mod subscriptions;
#[cfg(test)]
mod testing;
pub mod things;
pub mod tokens;
pub mod vcards;
pub mod wait;
