//! Reading configuration and certificates again, at a SIGHUP.
//!
//! All of it is read and checked before anything is applied; from then on nothing can fail, so that what was read holds
//! everywhere or nowhere.

use std::ffi::OsString;
use std::fmt::Display;

use tracing::{error, info, warn};

use super::{Running, log_findings};
use crate::cli::{Failure, Options, ServeArgs};
use crate::config::{Config, ConfigError, Reload, Settings};

/// Where the configuration comes from, and what of it is in force.
#[derive(Debug)]
pub struct Source {
    options: Options,
    serve: ServeArgs,
    in_force: Config,
}

impl Source {
    /// Reads the configuration for the first time: the file, then what the command line says.
    ///
    /// # Errors
    /// [`Failure::Config`].
    pub fn read(options: &Options, serve: &ServeArgs) -> Result<(Self, Settings), Failure> {
        let in_force = options.read(serve)?;
        let settings = in_force.check()?;
        Ok((Self { options: options.clone(), serve: serve.clone(), in_force }, settings))
    }

    /// The arguments that name it.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        for (name, path) in [("--config", &self.options.config), ("--data", &self.options.data)] {
            arguments.extend(path.iter().flat_map(|path| [name.into(), path.into()]));
        }
        if self.serve.dev {
            arguments.push("--dev".into());
        }
        arguments.extend(self.serve.domain.iter().flat_map(|name| ["--domain".into(), name.into()]));
        arguments
    }

    /// Reads it again, beside what is in force.
    fn read_again(&self) -> Result<Reload, ConfigError> {
        self.in_force.reload(&self.options.read(&self.serve)?)
    }
}

impl Running {
    /// Reads configuration and certificates again. If anything is wrong, all stays as it is.
    pub(super) fn reload(&self) {
        let read = self.source.borrow().read_again();
        let Reload { config, mut settings, changed, waiting } = match read {
            Ok(reload) => reload,
            Err(error) => return self.refuse_reload(&error, "configuration not reloaded, the old one stays in force"),
        };
        match self.tls.reload() {
            Ok(snapshot) => {
                info!(file = %snapshot.certificate.file.display(), "certificate reloaded");
                log_findings(&snapshot, &self.settings);
            }
            Err(error) => return self.refuse_reload(&error, "certificate not reloaded, the old one stays in use"),
        }
        if !changed.is_empty() {
            settings.memory = super::memory::found(settings.memory);
            self.memory.set_marks(settings.memory);
            if let Some(broker) = self.broker.borrow().as_ref() {
                broker.limit(&settings);
            }
            self.stop_deadline.set(settings.stop_deadline);
            info!(keys = changed.join(", "), "limits reloaded");
        }
        if !waiting.is_empty() {
            warn!(keys = waiting.join(", "), "these settings need a restart");
        }
        self.source.borrow_mut().in_force = config;
    }

    fn refuse_reload(&self, error: &dyn Display, what: &str) {
        self.reloads_failed.set(self.reloads_failed.get() + 1);
        error!(%error, "{what}");
    }
}
