//! Plaza.

pub mod things;
