//! The lock-free parts of `plaza-shards`, the very files, over loom's atomics: `tests/` runs them through every interleaving.

#![forbid(unsafe_code)]

#[path = "../../src/admission/mod.rs"]
pub mod admission;
#[path = "../../src/mesh.rs"]
pub mod mesh;
pub mod sync;
#[path = "../../src/tasks.rs"]
pub mod tasks;
