//! The search index: which listed things have which tags (XEP-0347 v0.5.1 §3.15).
//!
//! In memory, made from the store at start, and owned by one thread. [`Index`] is the index itself and waits for nothing;
//! [`Handle`] is how others reach it. It answers with names, or with
//! what is said of things, where it knows all of that.

mod bits;
mod check;
mod grams;
mod listing;
mod plan;
mod sorted;
mod tell;
#[cfg(test)]
mod tests;
mod thread;

pub use self::check::{PATTERN_CHARS_MAX, Patterns};
pub use self::listing::Index;
pub use self::plan::Budget;
pub use self::thread::{Handle, Limits, Progress, spawn};
use super::search::{Found, Query, SearchError, Telling};
