//! `plaza account import`: a file of accounts, a page at a time, with progress, and with a note of how far it came.
//!
//! Passwords become keys here, on all CPUs, so that the broker's helpers stay free for those who log in, and no password
//! goes over the control socket. A page is stored before the next is read, and only then noted in the state file: begun
//! again after whatever ended it, the command goes on with the page it was at, whose accounts are the same if they are there.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use indicatif::{ProgressBar, ProgressStyle};
use plaza_core::sasl::scram::{Hash, Keys, derive};
use plaza_registry::accounts::NewKeys;
use serde::{Deserialize, Serialize};

use super::Failure;
use crate::control::accounts::random;
use crate::control::command::{AccountCommand, PutOutcome, PutRow, Refusal, RefusalCode, Reply, Salts};
use crate::control::import::{Format, Row, write_keys};

/// Accounts in a page: with keys, a command stays below what the control socket takes.
const PAGE_ROWS: usize = 128;
/// Bytes of a page's lines, for the same reason: their keys are written anew, their addresses are as long as they are.
const PAGE_BYTES: usize = 24 * 1024;
/// Longest line. Beyond it the file is no such file.
const LINE_BYTES_MAX: u64 = 8 * 1024;
/// How long a busy broker is waited for, and how often.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const BUSY_MAX: usize = 600;

/// Who carries commands out.
pub(super) type Run<'a, C = AccountCommand> = &'a mut dyn FnMut(C) -> Result<Result<Reply, Refusal>, Failure>;

/// How far an import came.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// Bytes of the file when it began: with others, it is another file.
    file_bytes: u64,
    /// Bytes that are done with.
    offset: u64,
    /// Lines that are.
    line: u64,
    created: u64,
    same: u64,
    refused: u64,
}

/// A line that is an account.
struct Entry {
    line: u64,
    row: Row,
    keys: Option<NewKeys>,
}

/// Imports a file. `iterations`: PBKDF2 rounds of keys that are made here.
///
/// # Errors
/// [`Failure::Failed`] if the file cannot be read, or the broker cannot go on. Lines that are refused are told on standard
/// error, and counted in the reply.
pub(super) fn import(file: &Path, iterations: u32, run: Run<'_>) -> Result<Reply, Failure> {
    let broken = |error: io::Error| Failure::Failed(format!("{}: {error}", file.display()));
    let mut reader = BufReader::with_capacity(256 * 1024, File::open(file).map_err(broken)?);
    let file_bytes = reader.get_ref().metadata().map_err(broken)?.len();
    let state_file = state_file(file);
    let mut first = Vec::new();
    read_line(&mut reader, &mut first).map_err(broken)?;
    let format = Format::of(text(&first)?).map_err(|error| Failure::Failed(format!("line 1: {error}")))?;
    let mut state = State::load(&state_file, file_bytes).unwrap_or_default();
    state.file_bytes = file_bytes;
    if state.offset == 0 && matches!(format, Format::Csv { has_header: true, .. }) {
        (state.offset, state.line) = (first.len() as u64, 1);
    }
    reader.seek(SeekFrom::Start(state.offset)).map_err(broken)?;
    let progress = progress(file_bytes);
    progress.set_position(state.offset);
    loop {
        let (entries, at_end) = page(&mut reader, &format, &mut state, &progress).map_err(broken)?;
        put(entries, iterations, &mut state, &progress, run)?;
        if at_end {
            break;
        }
        state.save(&state_file).map_err(|error| Failure::CantCreate(format!("{}: {error}", state_file.display())))?;
        progress.set_position(state.offset);
        progress.set_message(format!("{} created", state.created));
    }
    progress.finish_and_clear();
    match fs::remove_file(&state_file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(broken(error)),
        Ok(()) | Err(_) => {}
    }
    Ok(Reply::Imported { created: state.created, same: state.same, refused: state.refused })
}

fn state_file(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".plaza-import");
    name.into()
}

fn progress(bytes: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {percent}%  {msg}  {bytes_per_sec}, {eta} left");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl State {
    /// What was noted of this file, if something was.
    fn load(state_file: &Path, file_bytes: u64) -> Option<Self> {
        let state: Self = serde_json::from_slice(&fs::read(state_file).ok()?).ok()?;
        (state.file_bytes == file_bytes && state.offset <= file_bytes).then_some(state)
    }

    /// Written beside and moved into its place, so that it is whole.
    fn save(&self, state_file: &Path) -> io::Result<()> {
        let beside = state_file.with_extension("plaza-import.new");
        fs::write(&beside, serde_json::to_vec(self)?)?;
        fs::rename(&beside, state_file)
    }

    fn refuse(&mut self, line: u64, text: &str, progress: &ProgressBar) {
        self.refused += 1;
        progress.suspend(|| eprintln!("line {line}: {text}"));
    }
}

fn text(line: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(line).map_err(|_| Failure::Failed("the file is not UTF-8".to_owned()))
}

/// Reads a line with its end; whether there was one.
fn read_line(reader: &mut BufReader<File>, line: &mut Vec<u8>) -> io::Result<bool> {
    use std::io::Read as _;
    line.clear();
    reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', line)?;
    if line.len() as u64 >= LINE_BYTES_MAX && !line.ends_with(b"\n") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is longer than 8 KiB"));
    }
    Ok(!line.is_empty())
}

/// The next page, and whether the file ends behind it.
fn page(
    reader: &mut BufReader<File>,
    format: &Format,
    state: &mut State,
    progress: &ProgressBar,
) -> io::Result<(Vec<Entry>, bool)> {
    let (mut entries, mut bytes, mut line) = (Vec::new(), 0, Vec::new());
    while entries.len() < PAGE_ROWS && bytes < PAGE_BYTES {
        if !read_line(reader, &mut line)? {
            return Ok((entries, true));
        }
        state.line += 1;
        state.offset += line.len() as u64;
        bytes += line.len();
        let read = std::str::from_utf8(&line).map_err(|_| "not UTF-8".to_owned()).and_then(|text| format.read(text));
        match read.and_then(|row| row.map(|row| Ok((row.keys()?, row))).transpose()) {
            Ok(None) => {}
            Ok(Some((keys, row))) => entries.push(Entry { line: state.line, row, keys }),
            Err(text) => state.refuse(state.line, &text, progress),
        }
    }
    Ok((entries, false))
}

/// Stores a page.
fn put(
    entries: Vec<Entry>,
    iterations: u32,
    state: &mut State,
    progress: &ProgressBar,
    run: Run<'_>,
) -> Result<(), Failure> {
    // Passwords of accounts that are there are tried with their salts: then they are told from others.
    let addresses: Vec<String> =
        entries.iter().filter(|entry| entry.keys.is_none()).map(|entry| entry.row.jid.clone()).collect();
    let mut salts = Vec::new();
    if !addresses.is_empty() {
        let Reply::Salts { salts: found } = ask(AccountCommand::Salts { addresses }, run)? else {
            return Err(Failure::Failed("the broker answers something else".to_owned()));
        };
        salts = found;
    }
    let mut salts = salts.into_iter();
    let made_with = entries.iter().map(|entry| if entry.keys.is_none() { salts.next().flatten() } else { None });
    let made_with: Vec<Option<Salts>> = made_with.collect();
    let (mut rows, mut lines) = (Vec::new(), Vec::new());
    for (entry, keys) in entries.iter().zip(keys(&entries, &made_with, iterations)?) {
        match keys {
            Some(NewKeys { sha1, sha256 }) => {
                lines.push(entry.line);
                let (sha1, sha256) = (write_keys(&sha1), write_keys(&sha256));
                rows.push(PutRow { address: entry.row.jid.clone(), sha1, sha256 });
            }
            None => state.refuse(entry.line, "the password is empty or has characters that are not allowed", progress),
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let Reply::Put { outcomes } = ask(AccountCommand::Put { rows }, run)? else {
        return Err(Failure::Failed("the broker answers something else".to_owned()));
    };
    for (line, outcome) in lines.into_iter().zip(outcomes) {
        match outcome {
            PutOutcome::Created => state.created += 1,
            PutOutcome::Same => state.same += 1,
            PutOutcome::Refused(text) => state.refuse(line, &text, progress),
        }
    }
    Ok(())
}

/// Runs a command, again while the broker is busy.
fn ask(command: AccountCommand, run: Run<'_>) -> Result<Reply, Failure> {
    for _ in 0..BUSY_MAX {
        match run(command.clone())? {
            Ok(reply) => return Ok(reply),
            Err(Refusal { code: RefusalCode::Busy, .. }) => thread::sleep(BUSY_PAUSE),
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Err(Refusal::busy().into())
}

/// The keys of each: those it has, or those of its password, derived on all CPUs; `None` for a password that is none.
fn keys(entries: &[Entry], made_with: &[Option<Salts>], iterations: u32) -> Result<Vec<Option<NewKeys>>, Failure> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let work: Vec<(&Entry, &Option<Salts>)> = entries.iter().zip(made_with).collect();
    let share = work.len().div_ceil(threads).max(1);
    let mut all = Vec::with_capacity(entries.len());
    thread::scope(|scope| {
        let parts: Vec<_> = work
            .chunks(share)
            .map(|part| {
                scope.spawn(move || -> Result<Vec<Option<NewKeys>>, Failure> {
                    part.iter().map(|(entry, made_with)| keys_of(entry, made_with.as_ref(), iterations)).collect()
                })
            })
            .collect();
        for part in parts {
            let part = part.join().map_err(|_| Failure::Failed("a thread that derives keys ended".to_owned()))?;
            all.extend(part?);
        }
        Ok(all)
    })
}

fn keys_of(entry: &Entry, made_with: Option<&Salts>, iterations: u32) -> Result<Option<NewKeys>, Failure> {
    if let Some(keys) = &entry.keys {
        return Ok(Some(keys.clone()));
    }
    let password = entry.row.password.as_deref().unwrap_or_default();
    let Some(Salts { sha1, sha256 }) = made_with else {
        let salt: [u8; 32] = random()?;
        return Ok(NewKeys::derive(password, &salt, iterations));
    };
    let again = |hash: Hash, (iterations, salt): &(u32, String)| -> Option<Keys> {
        derive(hash, password, &STANDARD.decode(salt).ok()?, *iterations)
    };
    Ok(again(Hash::Sha1, sha1).zip(again(Hash::Sha256, sha256)).map(|(sha1, sha256)| NewKeys { sha1, sha256 }))
}

#[cfg(test)]
mod tests {
    use plaza_registry::helpers::Helpers;
    use plaza_registry::store::memory::MemoryStore;
    use plaza_registry::wait::block_on;

    use super::*;
    use crate::config::Config;
    use crate::control::accounts::Accounts;

    struct World {
        accounts: Accounts<MemoryStore>,
        store: MemoryStore,
        directory: tempfile::TempDir,
        /// After so many commands the broker is gone.
        commands_left: usize,
    }

    impl World {
        fn new() -> Self {
            let config: Config = "domains = ['things.example']\nscram_iterations = 4096".parse().unwrap();
            let store = MemoryStore::new();
            let settings = config.check().unwrap();
            let things = plaza_registry::things::Config::new(settings.things, None);
            let accounts = Accounts::new(store.clone(), Helpers::start(1, 4), &settings, things);
            Self { accounts, store, directory: tempfile::tempdir().unwrap(), commands_left: usize::MAX }
        }

        fn file(&self) -> PathBuf {
            self.directory.path().join("accounts")
        }

        fn import(&mut self, text: &str) -> Result<(u64, u64, u64), Failure> {
            let file = self.file();
            fs::write(&file, text).unwrap();
            let (accounts, left) = (&self.accounts, &mut self.commands_left);
            let mut run = |command| {
                *left = left.checked_sub(1).ok_or(Failure::Failed("gone".to_owned()))?;
                Ok(block_on(accounts.run(command)).map(|done| done.reply))
            };
            let reply = import(&file, 4_096, &mut run)?;
            let Reply::Imported { created, same, refused } = reply else { panic!("{reply:?}") };
            Ok((created, same, refused))
        }
    }

    fn line(number: usize, keys: &NewKeys) -> String {
        format!("lamp{number}@things.example,{},{}\n", write_keys(&keys.sha1).0, write_keys(&keys.sha256).0)
    }

    #[test]
    fn passwords_become_accounts_once() {
        let mut world = World::new();
        let text = "jid,password\nlamp@things.example,pencil\n\nowner@things.example,\"a,b\"\n";
        assert_eq!(world.import(text), Ok((2, 0, 0)));
        assert_eq!(world.import(text), Ok((0, 2, 0)), "they are there with these passwords");
        assert_eq!(world.import(&text.replace("pencil", "crayon")), Ok((0, 1, 1)));
        let json = "{\"jid\":\"desk@things.example\",\"password\":\"x\"}\n{\"jid\":\"lamp\"}\nno";
        assert_eq!(world.import(json), Ok((1, 0, 2)));
        assert!(!state_file(&world.file()).exists());
    }

    #[test]
    fn lines_that_are_no_account_are_told_and_the_rest_goes_on() {
        let mut world = World::new();
        let text = "a@things.example,x\nb@elsewhere.example,x\nc d@things.example,x\ne@things.example,\n\
                    f@things.example,x,y\ng@things.example,x";
        assert_eq!(world.import(text), Ok((2, 0, 4)));
        assert!(matches!(world.import("jid,colour\n"), Err(Failure::Failed(_))));
        assert!(matches!(world.import(&"x".repeat(9_000)), Err(Failure::Failed(_))));
    }

    #[test]
    fn an_import_that_was_cut_off_goes_on_where_it_was() {
        let mut world = World::new();
        let keys = NewKeys::derive("pencil", &[1; 32], 4_096).unwrap();
        let mut text = "jid,scram-sha-1,scram-sha-256\n".to_owned();
        (0..1_000).for_each(|number| text.push_str(&line(number, &keys)));
        world.commands_left = 3;
        assert!(world.import(&text).is_err());
        let state = State::load(&state_file(&world.file()), text.len() as u64).expect("a note");
        assert!(state.created > 0 && state.created < 1_000, "{state:?}");
        world.commands_left = usize::MAX;
        assert_eq!(world.import(&text), Ok((1_000, 0, 0)), "all in all");
        let all = block_on(plaza_registry::accounts::list(&world.store, None, 2_000)).unwrap();
        assert_eq!(all.len(), 1_000);
        assert_eq!(all[0].1.sha256, keys.sha256);
        // Of another file nothing is noted.
        world.commands_left = 1;
        let _ = world.import(&text);
        assert_eq!(State::load(&state_file(&world.file()), 1), None);
    }
}
