//! The work of Plaza: sharded sessions over io_uring, and what the binary `plaza` is made of.

pub mod admission;
pub mod cert;
pub mod cli;
pub mod config;
pub mod control;
pub mod driver;
pub mod home;
pub mod label;
pub mod log;
pub mod memory;
pub mod mesh;
pub mod metrics;
pub mod pulse;
pub mod ring;
pub mod server;
pub mod shard;
pub mod sockets;
pub mod sync;
pub mod sys;
pub mod tasks;
pub mod wheel;

// `sys` calls a function of the library that it links.
use mimalloc as _;

/// Ends the process: the host, or a bug, leaves no answer inside it. The reason is for the operator.
pub fn fatal(reason: &str) -> ! {
    tracing::error!(reason, "the broker ends");
    log::say(&format!("plaza: {reason}"));
    log::flush();
    std::process::exit(70)
}
