//! Upgrading in place: the program at our own path takes this process's place, with the sockets that clients connect to.
//!
//! It is tried first, with the configuration as it is now and the data's version, and given nothing: if it is not fit,
//! nothing is given up. Then the broker stops in order, and becomes it.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plaza_registry::store::embedded::SCHEMA;
use sd_notify::NotifyState;
use tracing::{error, info};

use super::command::{Refusal, Reply};
use super::{Running, notify};
use crate::cli::Failure;
use crate::{log, sockets};

/// Longest that the other program may take to look at configuration, certificate and host.
const TRIAL_MAX: Duration = Duration::from_secs(30);
/// How often it is asked whether it is done.
const TRIAL_INTERVAL: Duration = Duration::from_millis(20);
/// Most of what it says that is told.
const TOLD_BYTES_MAX: u64 = 4 * 1024;

/// What this process was started as.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// Its path, with links as they are: what it leads to is another file after an upgrade.
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// To be called at the start, since later the file may be another.
    pub(super) fn of_this_process() -> Self {
        let mut arguments = std::env::args_os();
        let name = PathBuf::from(arguments.next().unwrap_or_default());
        let own = std::env::current_exe().unwrap_or_else(|_| name.clone());
        let named = match name.components().count() {
            1 => std::env::var_os("PATH").and_then(|paths| {
                std::env::split_paths(&paths).map(|path| path.join(&name)).find(|path| path.exists())
            }),
            _ => std::path::absolute(&name).ok(),
        };
        let path = named.filter(|path| is_same_file(path, &own)).unwrap_or(own);
        Self { path, arguments: arguments.collect() }
    }

    /// Runs the program that is at our path now, for it to say whether it is fit.
    fn try_it(&self, arguments: &[OsString]) -> Result<(), String> {
        let path = self.path.display();
        let mut child = Command::new(&self.path)
            .args(arguments)
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{path} can't be run: {error}"))?;
        let end = Instant::now() + TRIAL_MAX;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < end => std::thread::sleep(TRIAL_INTERVAL),
                Ok(None) => {
                    _ = child.kill();
                    _ = child.wait();
                    return Err(format!("{path} did not say in {} s whether it is fit", TRIAL_MAX.as_secs()));
                }
                Err(error) => return Err(format!("{path} can't be waited for: {error}")),
            }
        };
        if status.success() {
            return Ok(());
        }
        let mut told = Vec::new();
        if let Some(says) = child.stderr.take() {
            _ = says.take(TOLD_BYTES_MAX).read_to_end(&mut told);
        }
        Err(format!("{path} is not fit ({status}): {}", String::from_utf8_lossy(&told).trim()))
    }
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino())).ok();
    identity(one).is_some() && identity(one) == identity(other)
}

/// Who takes this process's place, and what it is given.
#[derive(Debug)]
pub struct Successor {
    program: Program,
    sockets: Vec<Arc<TcpListener>>,
}

impl Successor {
    /// Becomes it. Returns only if that is impossible.
    pub fn take_over(self) -> Failure {
        let Self { program: Program { path, arguments }, sockets } = self;
        info!(program = %path.display(), sockets = sockets.len(), "handing over");
        // The thread that writes the log does not outlive this program.
        log::flush();
        let descriptors: Vec<_> = sockets.iter().map(|socket| socket.as_raw_fd()).collect();
        let error: io::Error = sockets::hand_over(&path, &arguments, &descriptors);
        error!(%error, "the broker can't be upgraded any more, and ends");
        Failure::Ended(format!("{} can't take over: {error}", path.display()))
    }
}

impl Running {
    /// Tries the program that is at our path now; if it is fit, it is to take our place.
    pub(super) async fn upgrade(&self) -> Result<Reply, Refusal> {
        if self.backups.is_making_one() {
            return Err(Refusal { text: "a backup is being made; upgrade when it is done".into(), ..Refusal::busy() });
        }
        if self.is_stopping() || self.upgrading.replace(true) {
            return Err(Refusal::busy());
        }
        let mut arguments: Vec<OsString> = vec!["check".into(), "--upgrade-from".into(), SCHEMA.to_string().into()];
        for address in self.sockets.iter().filter_map(|socket| socket.local_addr().ok()) {
            arguments.extend(["--held".into(), address.to_string().into()]);
        }
        arguments.extend(self.source.borrow().arguments());
        let program = self.program.clone();
        let tried = tokio::task::spawn_blocking(move || program.try_it(&arguments)).await;
        match tried.unwrap_or_else(|panic| Err(panic.to_string())) {
            Ok(()) => {
                self.upgrade.notify_one();
                Ok(Reply::Upgrading { pid: std::process::id() })
            }
            Err(text) => {
                self.upgrading.set(false);
                error!(reason = text, "not upgraded");
                Err(Refusal::not_fit(text))
            }
        }
    }

    /// The same at a signal; what is wrong is logged.
    pub(super) fn upgrade_by_signal(self: &Rc<Self>) {
        let running = Rc::clone(self);
        tokio::task::spawn_local(async move { running.upgrade().await });
    }

    /// Who takes over, once the broker has stopped for that.
    pub(super) fn successor(&self) -> Option<Successor> {
        let sockets = || self.sockets.clone();
        self.upgrading.get().then(|| Successor { program: self.program.clone(), sockets: sockets() })
    }

    /// Tells the service manager that READY will follow, from this process or from what it becomes.
    pub(super) fn notify_reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            notify(&[NotifyState::Reloading, now]);
        }
    }
}
