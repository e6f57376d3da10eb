//! Plaza.

pub mod things;
pub mod town;
