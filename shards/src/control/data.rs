//! The data directory: the store, the certificate and the control socket, for one broker at a time.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use plaza_registry::store::Store;
use plaza_registry::store::embedded::{EmbeddedStore, OpenError};
use plaza_registry::wait::block_on;

use super::accounts::{Accounts, random};
use super::command::{AccountCommand, Refusal, Reply, Secret};
use crate::cli::Failure;
use crate::config::Settings;

/// The data directory of a broker.
#[derive(Debug, Clone)]
pub struct DataDir {
    path: PathBuf,
}

/// The administrator made because there was no account at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstStart {
    /// Its address.
    pub address: String,
    /// Its password, to be told once.
    pub password: Secret,
}

impl DataDir {
    /// Creates the directory, readable by its owner alone, if it does not exist.
    ///
    /// # Errors
    /// [`Failure::CantCreate`].
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
        created.map_err(|error| Failure::CantCreate(format!("can't create {}: {error}", path.display())))?;
        Ok(Self { path: path.to_owned() })
    }

    /// The directory of a broker that has been started before.
    ///
    /// # Errors
    /// [`Failure::Unavailable`] if it does not exist.
    pub fn existing(path: &Path) -> Result<Self, Failure> {
        if !path.is_dir() {
            return Err(Failure::Unavailable(format!(
                "there is no {}; start `plaza` first, or name its directory with --data",
                path.display()
            )));
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Opens the store. Only one process at a time can.
    ///
    /// # Errors
    /// [`Failure::Unavailable`] if another process has it, [`Failure::Config`] if a newer broker wrote it,
    /// [`Failure::CantCreate`] otherwise.
    pub fn open_store(&self, settings: &Settings) -> Result<EmbeddedStore, Failure> {
        EmbeddedStore::open(&self.path.join("store"), settings.store.clone()).map_err(|error| match error {
            OpenError::Locked(path) => {
                Failure::Unavailable(format!("another process has {} open, most likely a broker", path.display()))
            }
            OpenError::NewerSchema { found, known } => Failure::Config(format!(
                "the data in {} is of version {found}, this broker knows {known}; run a newer one",
                self.path.display()
            )),
            error @ (OpenError::Damaged { .. } | OpenError::Altered(_)) => {
                Failure::CantCreate(format!("can't open the store: {error}; put back a copy, or what the file was"))
            }
            OpenError::Engine(text) => {
                Failure::CantCreate(format!("can't open the store in {}: {text}", self.path.display()))
            }
        })
    }

    /// Where a running broker listens for commands.
    pub fn socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Listens for commands, as nobody but the owner may give them. Call with the store open: its lock says that whoever
    /// left a socket behind is gone.
    ///
    /// # Errors
    /// [`Failure::CantCreate`].
    pub(super) fn listen(&self) -> Result<UnixListener, Failure> {
        let path = self.socket();
        let listen = || -> io::Result<UnixListener> {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => (),
            }
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        listen().map_err(|error| {
            let remedy = match error.kind() == io::ErrorKind::InvalidInput {
                true => "; a socket's path has at most 107 bytes, choose a shorter one for the data",
                false => "",
            };
            Failure::CantCreate(format!("can't listen on {}: {error}{remedy}", path.display()))
        })
    }

    pub(super) fn remove_socket(&self) {
        // Nobody listens any more: a file left behind is told from a broker by the refused connection.
        _ = fs::remove_file(self.socket());
    }
}

/// The secret of this broker, made at its first start (see [`crate::server::BrokerConfig::server_secret`]).
///
/// # Errors
/// [`Failure::Failed`] if the store can't.
pub fn secret<S: Store>(store: &S) -> Result<[u8; 32], Failure> {
    let secret: Result<_, Refusal> = block_on(async { Ok(plaza_registry::broker::secret(store, random()?).await?) });
    secret.map_err(|refusal| Failure::Failed(format!("can't prepare the store: {refusal}")))
}

/// Makes an administrator if there is no account at all.
///
/// # Errors
/// [`Failure::Failed`] if the store can't.
pub(super) fn first_administrator<S: Store>(accounts: &Accounts<S>) -> Result<Option<FirstStart>, Failure> {
    let made: Result<_, Refusal> = block_on(async {
        if !accounts.is_empty().await? {
            return Ok(None);
        }
        let add = AccountCommand::Add { address: "admin".into(), password: None, admin: true };
        let Reply::Created { address, password: Some(password) } = accounts.run(add).await?.reply else {
            return Ok(None);
        };
        Ok(Some(FirstStart { address, password }))
    });
    made.map_err(|refusal| Failure::Failed(format!("can't make an administrator: {refusal}")))
}

#[cfg(test)]
mod tests {
    use plaza_registry::helpers::Helpers;
    use plaza_registry::store::memory::MemoryStore;

    use super::*;
    use crate::config::Config;

    #[test]
    fn an_empty_store_gets_an_administrator_once_and_keeps_its_secret() {
        let settings = Config::default().check().unwrap();
        let store = MemoryStore::new();
        let things = plaza_registry::things::Config::new(settings.things, None);
        let accounts = Accounts::new(store.clone(), Helpers::start(1, 16), &settings, things);
        let first = first_administrator(&accounts).unwrap().expect("an administrator");
        assert_eq!(first.address, "admin@localhost");
        assert_eq!(first.password.0.len(), 24);
        assert_eq!(first_administrator(&accounts).unwrap(), None);
        assert_eq!(secret(&store).unwrap(), secret(&store).unwrap());
    }

    #[test]
    fn the_directory_is_its_owners_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        assert!(matches!(DataDir::existing(&path), Err(Failure::Unavailable(_))));
        DataDir::create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(DataDir::existing(&path).is_ok());
    }

    #[test]
    fn a_directory_that_cant_be_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(DataDir::create(&file.path().join("data")), Err(Failure::CantCreate(_))));
    }
}
