//! `plaza upgrade`: asks the running broker to become what is at its path now, and waits until that serves.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Failure, Options, ServeArgs, ask, connect, print, print_reply};
use crate::control::command::{Command, Reply, Status};
use crate::control::data::DataDir;

/// How often it is asked who serves.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// Longest that nobody may serve: a store is opened meanwhile.
const ABSENCE_MAX: Duration = Duration::from_secs(120);
/// The same if the process has ended: a service manager starts another.
const ENDED_MAX: Duration = Duration::from_secs(10);

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let settings = options.settings(&ServeArgs::default())?;
    let data = DataDir::existing(&settings.data)?;
    let Some(mut client) = connect(&data.socket())? else {
        return Err(Failure::Unavailable(format!("no broker runs on {}", settings.data.display())));
    };
    let reply = ask(&mut client, &Command::Upgrade)??;
    drop(client);
    if !options.json {
        print_reply(&reply, false)?;
    }
    // It may be in a container of its own.
    let mut process = None;
    if let Reply::Upgrading { pid } = reply {
        process = Some(PathBuf::from(format!("/proc/{pid}"))).filter(|process| process.exists());
    }
    let mut seen = Instant::now();
    while seen.elapsed() < ABSENCE_MAX {
        std::thread::sleep(ASK_INTERVAL);
        if seen.elapsed() > ENDED_MAX && process.as_ref().is_some_and(|process| !process.exists()) {
            break;
        }
        // Whoever is about to hand over may close the connection at any moment.
        let Ok(Some(mut client)) = connect(&data.socket()) else { continue };
        let Ok(Ok(reply)) = ask(&mut client, &Command::Status) else { continue };
        let Reply::Status(Status { stopping, version, pid, .. }) = &reply else { continue };
        if *stopping {
            seen = Instant::now();
            continue;
        }
        return if options.json {
            print_reply(&reply, true)
        } else {
            print(&(), &format!("Plaza {version} serves as process {pid}"))
        };
    }
    let (data, seconds) = (settings.data.display(), seen.elapsed().as_secs());
    Err(Failure::Failed(format!("nobody has served on {data} for {seconds} s; look at the log")))
}
