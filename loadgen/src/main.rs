//! `plaza-loadgen`: drives any XMPP server with many client sessions, checks all that arrives, and says what it cost.
//!
//! Speaks the protocol through `plaza-core`; one thread per core, each with io_urings of its own. Next to a broker it
//! measures the raw relay, the same bytes through a server that looks at none of them, so that every report has a
//! figure which does not depend on the machine: broker ÷ relay.
#![deny(unsafe_code)]

mod args;
mod city;
mod conductor;
mod crowd;
mod host;
mod login;
mod management;
mod part;
mod payload;
mod plan;
mod pubsub;
mod question;
mod relay;
mod report;
mod ring;
mod search;
mod session;
mod stage;
mod stats;
mod tls;
mod traffic;
mod worker;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match args::Cli::parse().run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("plaza-loadgen: {error}");
            ExitCode::from(2)
        }
    }
}
