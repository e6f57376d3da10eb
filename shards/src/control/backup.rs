//! Backups, made while the broker serves: the command's two ends.
//!
//! What is copied is the store as of one moment, and the certificate that Plaza made for itself: all that a data directory
//! needs to be started from. A thread of its own copies, and the control thread tells how far it is whoever asks.

use std::cell::RefCell;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use plaza_registry::store::embedded::{Copied, EmbeddedStore, Snapshot};
use plaza_registry::wait::block_on;
use tracing::{info, warn};

use super::command::{BackupCommand, BackupState, Refusal, RefusalCode, Reply};
use crate::cli::Failure;

/// How often progress is asked for.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// The store in a data directory, and in a backup.
const STORE: &str = "store";

/// Makes backups of a store that is in use, one at a time.
#[derive(Debug)]
pub struct Backups {
    store: EmbeddedStore,
    data: PathBuf,
    latest: RefCell<Option<Arc<Mutex<BackupState>>>>,
}

impl Backups {
    /// Of a store, and of the data directory it is in.
    pub fn new(store: EmbeddedStore, data: PathBuf) -> Self {
        Self { store, data, latest: RefCell::new(None) }
    }

    /// Carries out a command.
    ///
    /// # Errors
    /// [`Refusal`], ready to be told.
    pub async fn run(&self, command: BackupCommand) -> Result<Reply, Refusal> {
        match command {
            BackupCommand::Begin { directory } => self.begin(directory).await.map(Reply::Backup),
            BackupCommand::Progress => {
                let none = || Refusal { code: RefusalCode::NotFound, text: "no backup was begun".into() };
                self.latest().map(Reply::Backup).ok_or_else(none)
            }
        }
    }

    /// Whether a backup was begun that has not ended.
    pub fn is_making_one(&self) -> bool {
        self.latest().is_some_and(|state| !state.done)
    }

    fn latest(&self) -> Option<BackupState> {
        self.latest.borrow().as_ref().map(|state| state.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn begin(&self, directory: PathBuf) -> Result<BackupState, Refusal> {
        if self.is_making_one() {
            return Err(Refusal { code: RefusalCode::Busy, text: "a backup is being made already".into() });
        }
        prepare(&directory)?;
        let begun = BackupState { directory: directory.clone(), ..BackupState::default() };
        let state = Arc::new(Mutex::new(begun.clone()));
        *self.latest.borrow_mut() = Some(Arc::clone(&state));
        let end = Ending(Arc::clone(&state));
        let snapshot = self.store.snapshot().await?;
        let data = self.data.clone();
        let work = move || {
            let made = make(snapshot, &data, &directory, |copied| tell(&state, |state| state.count(copied)));
            match &made {
                Ok(copied) => info!(directory = %directory.display(), records = copied.records, "backup made"),
                Err(error) => warn!(directory = %directory.display(), %error, "no backup made"),
            }
            tell(&state, |state| state.error = made.err());
            drop(end);
        };
        let spawned = thread::Builder::new().name("plaza-backup".to_owned()).spawn(work);
        spawned.map_err(|error| refusal(format!("the backup did not start: {error}")))?;
        Ok(begun)
    }
}

/// However it ends, it has ended.
struct Ending(Arc<Mutex<BackupState>>);

impl Drop for Ending {
    fn drop(&mut self) {
        let panicked = thread::panicking();
        tell(&self.0, |state| {
            state.done = true;
            if panicked {
                state.error = Some("a bug ended the backup".to_owned());
            }
        });
    }
}

fn tell(state: &Mutex<BackupState>, change: impl FnOnce(&mut BackupState)) {
    change(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
}

fn refusal(text: String) -> Refusal {
    Refusal { code: RefusalCode::BadRequest, text }
}

/// Makes the directory, or sees that it is empty.
fn prepare(directory: &Path) -> Result<(), Refusal> {
    if !directory.is_absolute() {
        return Err(refusal("the directory of a backup is named from the root".to_owned()));
    }
    match fs::read_dir(directory).map(|mut entries| entries.next().is_some()) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Refusal { code: RefusalCode::Exists, text: format!("{} is not empty", directory.display()) }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| refusal(format!("can't create {}: {error}", directory.display()))),
        Err(error) => Err(refusal(format!("can't use {}: {error}", directory.display()))),
    }
}

/// Copies the certificate, then the store, whose name is there when all of it is.
fn make(snapshot: Snapshot, data: &Path, into: &Path, told: impl FnMut(Copied)) -> Result<Copied, String> {
    let own = crate::cert::own_files(data);
    let made = copy_files(&[&own.certificate, &own.key], data, into)
        .map_err(|error| format!("the certificate cannot be copied: {error}"))
        .and_then(|()| snapshot.write_to(&into.join(STORE), told).map_err(|error| error.to_string()));
    if made.is_err() {
        for file in [&own.certificate, &own.key] {
            if let Ok(inside) = file.strip_prefix(data) {
                // What is left has no store, and so is no backup.
                let _ = fs::remove_file(into.join(inside));
            }
        }
    }
    made
}

/// Copies those files of a directory that there are, to be read by their owner alone.
fn copy_files(files: &[&Path], from: &Path, into: &Path) -> io::Result<()> {
    for file in files {
        let Ok(inside) = file.strip_prefix(from) else { continue };
        let mut source = match File::open(file) {
            Ok(source) => source,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let target = into.join(inside);
        let folder = target.parent().unwrap_or(into);
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?;
        io::copy(&mut source, &mut copy)?;
        copy.sync_all()?;
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Makes a backup of a store that no broker has open.
///
/// # Errors
/// [`Failure`].
pub fn make_here(store: &EmbeddedStore, data: &Path, directory: &Path) -> Result<Reply, Failure> {
    prepare(directory)?;
    let snapshot = block_on(store.snapshot()).map_err(Refusal::from)?;
    let mut progress = Progress::new();
    let copied = make(snapshot, data, directory, |copied| progress.tell(copied.records, copied.bytes));
    progress.end();
    let mut state = BackupState { directory: directory.to_owned(), done: true, ..BackupState::default() };
    state.count(copied.map_err(Failure::Failed)?);
    Ok(Reply::Backup(state))
}

/// Has a running broker make a backup, and waits for it.
///
/// # Errors
/// [`Failure`].
pub fn have_made(
    directory: &Path,
    mut ask: impl FnMut(BackupCommand) -> Result<Reply, Failure>,
) -> Result<Reply, Failure> {
    let mut progress = Progress::new();
    let mut reply = ask(BackupCommand::Begin { directory: directory.to_owned() })?;
    loop {
        let Reply::Backup(state) = &reply else {
            return Err(Failure::Failed("the broker answers something else".into()));
        };
        if state.directory != directory {
            return Err(Failure::Failed("another backup was begun since, and nobody knows what became of this".into()));
        }
        if state.done {
            progress.end();
            return match &state.error {
                Some(error) => Err(Failure::Failed(error.clone())),
                None => Ok(reply),
            };
        }
        progress.tell(state.records, state.bytes);
        thread::sleep(PROGRESS_INTERVAL);
        reply = ask(BackupCommand::Progress)?;
    }
}

/// How far it is, on a terminal.
struct Progress {
    told: Option<bool>,
}

impl Progress {
    fn new() -> Self {
        Self { told: io::stderr().is_terminal().then_some(false) }
    }

    fn tell(&mut self, records: u64, bytes: u64) {
        if let Some(told) = &mut self.told {
            *told = true;
            eprint!("\r{records} records, {} MiB", bytes >> 20);
        }
    }

    fn end(&self) {
        if self.told == Some(true) {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_is_made_for_its_owner_alone_and_one_that_is_used_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a/b");
        prepare(&directory).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        prepare(&directory).unwrap();
        fs::write(directory.join("file"), "").unwrap();
        assert_eq!(prepare(&directory).unwrap_err().code, RefusalCode::Exists);
        assert_eq!(prepare(&directory.join("file")).unwrap_err().code, RefusalCode::BadRequest);
        assert_eq!(prepare(Path::new("a")).unwrap_err().code, RefusalCode::BadRequest);
    }

    #[test]
    fn files_are_copied_for_their_owner_alone_and_those_that_are_missing_left_out() {
        let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("tls")).unwrap();
        fs::write(from.path().join("tls/key.pem"), "key").unwrap();
        let files = [from.path().join("tls/key.pem"), from.path().join("tls/certificate.pem")];
        copy_files(&[&files[0], &files[1]], from.path(), into.path()).unwrap();
        let key = into.path().join("tls/key.pem");
        assert_eq!(fs::read_to_string(&key).unwrap(), "key");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(into.path().join("tls")).unwrap().count(), 1);
    }
}
