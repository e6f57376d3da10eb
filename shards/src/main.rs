//! `plaza`: reads the arguments and the configuration, checks the host, starts the shards, waits for a signal.

use std::io::{self, IsTerminal as _, stderr};
use std::process::ExitCode;

use clap::Parser as _;
use plaza_shards::cli::{self, Cli, Failure, Options, ServeArgs, Verb};
use plaza_shards::config::{LogFormat, Settings};
use plaza_shards::control::{Control, Source};
use plaza_shards::log;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let Cli { options, verb, serve } = Cli::parse();
    let done = match verb {
        None => run(&options, &serve),
        Some(Verb::Serve(args)) => run(&options, &args),
        Some(verb) => cli::run(verb, &options),
    };
    cli::finish(done, options.json)
}

fn run(options: &Options, args: &ServeArgs) -> Result<(), Failure> {
    let (source, settings) = Source::read(options, args)?;
    install_log(&settings).map_err(|error| Failure::Failed(format!("the log did not start: {error}")))?;
    plaza_tuning::raise_limits();
    cli::preflight(&settings)?;
    let control = Control::start(source, settings)?;
    cli::greet(&control, options.json);
    match control.wait()? {
        None => Ok(()),
        Some(successor) => Err(successor.take_over()),
    }
}

/// Logs to standard error, panics too; `RUST_LOG` goes before the configuration.
fn install_log(settings: &Settings) -> io::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&settings.log_level));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log::start()?);
    match settings.log_format {
        LogFormat::Text => lines.with_ansi(stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().init(),
    }
    std::panic::set_hook(Box::new(log::panicked));
    Ok(())
}
