//! All that is kept of somebody, told or erased: the command's two ends.
//!
//! The broker does a part at a time, so that it serves meanwhile and an answer has a bound; the command line puts the parts
//! together, says how far it is, and writes what there is to keep: the export, or the receipt of what was erased.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Subcommand;
use plaza_core::date::DateTime;
use plaza_core::jid::Jid;
use plaza_registry::accounts::{self, AccountError};
use plaza_registry::store::Store;
use plaza_registry::subject::{self, Cursor, Eraser};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::accounts::{Accounts, now};
use super::command::{Refusal, Reply, SubjectCommand, SubjectPart, SubjectTrace};
use crate::cli::Failure;
use crate::server::{AccountChange, services_of};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// What to do with all that is kept of somebody.
#[derive(Debug, Clone, Subcommand)]
pub enum SubjectVerb {
    /// Write all that is kept of an address as JSON. Secrets are named, not told
    Export {
        /// Address; it needs no account
        address: String,
        /// Where to [default: standard output]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Remove an account, all it owns and what names it elsewhere, and print a receipt as JSON. Its sessions end
    Erase {
        /// Address; it needs no account
        address: String,
        /// Write the receipt to a file, too
        #[arg(long, value_name = "FILE")]
        receipt: Option<PathBuf>,
    },
}

/// What the broker has to tell the homes of accounts.
type Changes = Vec<(Jid, AccountChange)>;

impl<S: Store> Accounts<S> {
    /// Does a part of it.
    ///
    /// # Errors
    /// [`Refusal`], ready to be told.
    pub async fn subject(&self, command: SubjectCommand) -> Result<(SubjectPart, Changes), Refusal> {
        let (address, from, erases) = match &command {
            SubjectCommand::Export { address, from } => (address, from, false),
            SubjectCommand::Erase { address, from } => (address, from, true),
        };
        let bare = self.address(address)?;
        let cursor = from.as_deref().map_or(Some(Cursor::START), Cursor::parse);
        let cursor = cursor.ok_or_else(|| Refusal::bad_request("that is no place to go on from"))?;
        if !erases {
            let page = subject::export(&self.store, bare.as_jid(), cursor).await?;
            return Ok((part(&bare, page, false), Vec::new()));
        }
        let mut changes = Vec::new();
        if from.is_none() {
            // First nobody may add to it any more.
            match accounts::set_disabled(&self.store, bare.as_jid(), true).await {
                Ok(()) => changes.push((bare.clone(), AccountChange::Disabled)),
                Err(AccountError::NotFound) => {}
                Err(error) => return Err(Refusal::account(error, bare.as_str())),
            }
        }
        let services: Vec<Jid> = services_of(&self.domains).into_iter().map(|service| service.jid).collect();
        let unix_millis = now() * 1_000;
        let eraser = Eraser { pubsub: &self.pubsub, things: &self.things, services: &services, unix_millis };
        let mut page = subject::erase(&eraser, &self.store, bare.as_jid(), cursor).await?;
        changes.extend(std::mem::take(&mut page.changed).into_iter().map(|bare| (bare, AccountChange::Facts)));
        let mut removed = false;
        if page.next.is_none() {
            let finished = subject::finish(&eraser, &self.store, bare.as_jid()).await?;
            changes.extend(finished.things_of.into_iter().map(|bare| (bare, AccountChange::Things)));
            removed = finished.account_removed;
        }
        if removed {
            changes.push((bare.clone(), AccountChange::Removed));
        }
        // A receipt says how much there was, not what.
        page.own.clear();
        Ok((part(&bare, page, removed), changes))
    }
}

fn part(bare: &Jid, page: subject::Page, account_removed: bool) -> SubjectPart {
    let trace = |(trace, count): (subject::Trace, u64)| SubjectTrace {
        table: trace.table.to_owned(),
        of: trace.of,
        what: trace.what.to_owned(),
        removed: trace.removed,
        count,
    };
    SubjectPart {
        address: bare.as_str().to_owned(),
        own: page.own.into_iter().map(|(what, value)| (what.to_owned(), value)).collect(),
        traces: page.traces.into_iter().map(trace).collect(),
        records: page.records,
        next: page.next.as_ref().map(Cursor::to_text),
        account_removed,
    }
}

/// What the parts come to.
#[derive(Debug, Default)]
struct Whole {
    address: String,
    own: Map<String, Value>,
    /// Without its count.
    traces: BTreeMap<SubjectTrace, u64>,
    records: u64,
    account_removed: bool,
}

impl Whole {
    fn add(&mut self, part: SubjectPart) {
        self.address = part.address;
        for (what, value) in part.own {
            let list = self.own.entry(what).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                list.push(value);
            }
        }
        for trace in part.traces {
            let count = trace.count;
            *self.traces.entry(SubjectTrace { count: 0, ..trace }).or_default() += count;
        }
        self.records += part.records;
        self.account_removed |= part.account_removed;
    }

    fn traces(&self, wanted: impl Fn(&SubjectTrace) -> bool) -> Vec<SubjectTrace> {
        let counted = |(trace, count): (&SubjectTrace, &u64)| SubjectTrace { count: *count, ..trace.clone() };
        self.traces.iter().filter(|(trace, _)| wanted(trace)).map(counted).collect()
    }

    fn export(&self, time: &str) -> Value {
        json!({
            "address": self.address, "time": time, "records_looked_at": self.records,
            "kept": self.own, "elsewhere": self.traces(|trace| trace.of != self.address),
        })
    }

    fn receipt(&self, time: &str) -> Value {
        let removed = self.traces(|trace| trace.removed);
        json!({
            "address": self.address, "time": time, "account_removed": self.account_removed,
            "records_looked_at": self.records, "sha256": digest(&self.address, time, &removed), "removed": removed,
            "kept": self.traces(|trace| !trace.removed),
        })
    }
}

/// SHA-256 of what a receipt says was removed: address, time, and a line for each kind in order, its fields between tabs.
fn digest(address: &str, time: &str, removed: &[SubjectTrace]) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{address}\t{time}\n"));
    for SubjectTrace { table, of, what, count, .. } in removed {
        hash.update(format!("{table}\t{of}\t{what}\t{count}\n"));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl SubjectVerb {
    /// Asks for all parts and writes what they come to.
    ///
    /// # Errors
    /// [`Failure`]; what was erased until then is, and the rest may be erased by the same command again.
    pub fn run(&self, mut ask: impl FnMut(SubjectCommand) -> Result<Reply, Failure>) -> Result<(), Failure> {
        let mut whole = Whole::default();
        let mut from = None;
        let mut progress = Progress { told: io::stderr().is_terminal().then(Instant::now) };
        loop {
            let command = match self {
                Self::Export { address, .. } => SubjectCommand::Export { address: address.clone(), from },
                Self::Erase { address, .. } => SubjectCommand::Erase { address: address.clone(), from },
            };
            let Reply::Subject(mut part) = ask(command)? else {
                return Err(Failure::Failed("the broker answers something else".into()));
            };
            from = part.next.take();
            whole.add(part);
            progress.tell(whole.records, from.as_deref());
            if from.is_none() {
                break;
            }
        }
        let time = DateTime::from_unix_millis(now() * 1_000).to_string();
        match self {
            Self::Export { output: None, .. } => print(&whole.export(&time)),
            Self::Export { output: Some(path), .. } => write(path, &whole.export(&time)),
            Self::Erase { receipt, .. } => {
                let made = whole.receipt(&time);
                let written = receipt.as_deref().map_or(Ok(()), |path| write(path, &made));
                // It is said whatever became of the file: there is no second one.
                print(&made).and(written)
            }
        }
    }
}

fn print(value: &Value) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from).and_then(|()| writeln!(out));
    written.map_err(|error| Failure::Failed(format!("can't write: {error}")))
}

/// Writes a file that its owner alone may read.
fn write(path: &Path, value: &Value) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| {
        serde_json::to_writer_pretty(&mut file, value)?;
        writeln!(file)?;
        file.sync_all()
    });
    written.map_err(|error| Failure::CantCreate(format!("can't write {}: {error}", path.display())))
}

/// How far it is, on standard error if somebody looks at it.
struct Progress {
    told: Option<Instant>,
}

impl Progress {
    fn tell(&mut self, records: u64, next: Option<&str>) {
        let Some(told) = &mut self.told else { return };
        match next.and_then(|next| next.split_once(':')) {
            Some(_) if told.elapsed() < PROGRESS_INTERVAL => return,
            Some((table, _)) => eprint!("\r{records} records looked at, in {table:<16}"),
            None => eprintln!("\r{records} records looked at{:20}", ""),
        }
        *told = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use plaza_registry::helpers::Helpers;
    use plaza_registry::store::memory::MemoryStore;
    use plaza_registry::wait::block_on;

    use super::*;
    use crate::config::Config;
    use crate::control::command::{AccountCommand, RefusalCode};

    fn accounts() -> Accounts<MemoryStore> {
        let config: Config = "scram_iterations = 4096".parse().unwrap();
        let settings = config.check().unwrap();
        let things = plaza_registry::things::Config::new(settings.things, None);
        let accounts = Accounts::new(MemoryStore::new(), Helpers::start(1, 16), &settings, things);
        for address in ["lamp", "owner"] {
            let add = AccountCommand::Add { address: address.into(), password: Some("secret".into()), admin: false };
            block_on(accounts.run(add)).unwrap();
        }
        accounts
    }

    /// Runs a verb; what it wrote, and what homes were told.
    fn run(accounts: &Accounts<MemoryStore>, verb: impl Fn(PathBuf) -> SubjectVerb) -> (Value, Changes) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.json");
        let mut told = Vec::new();
        let ask = |command| {
            let (part, changes) = block_on(accounts.subject(command))?;
            told.extend(changes);
            Ok(Reply::Subject(part))
        };
        verb(path.clone()).run(ask).unwrap();
        (serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap(), told)
    }

    fn export(output: PathBuf) -> SubjectVerb {
        SubjectVerb::Export { address: "lamp".into(), output: Some(output) }
    }

    fn erase(receipt: PathBuf) -> SubjectVerb {
        SubjectVerb::Erase { address: "lamp".into(), receipt: Some(receipt) }
    }

    #[test]
    fn an_export_is_put_together_from_its_parts_and_has_no_secret() {
        let accounts = accounts();
        let (export, told) = run(&accounts, export);
        assert!(told.is_empty());
        assert_eq!(export["address"], "lamp@localhost");
        assert_eq!(export["records_looked_at"], 2);
        assert_eq!(export["kept"]["account"][0]["credentials"][1]["mechanism"], "SCRAM-SHA-256");
        let account = &export["kept"]["account"][0];
        let fields: Vec<_> = account.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, ["admin", "created", "credentials", "disabled"]);
        assert_eq!(account["credentials"][0], json!({ "mechanism": "SCRAM-SHA-1", "iterations": 4096 }));
    }

    #[test]
    fn an_account_is_disabled_first_and_removed_last_and_the_receipt_says_what_went() {
        let accounts = accounts();
        let (receipt, told) = run(&accounts, erase);
        let changes: Vec<_> = told.iter().map(|(bare, change)| (bare.as_str(), *change)).collect();
        assert_eq!(changes, [("lamp@localhost", AccountChange::Disabled), ("lamp@localhost", AccountChange::Removed)]);
        assert_eq!(receipt["account_removed"], true);
        assert_eq!(receipt["removed"][0]["count"], 1);
        let removed: Vec<SubjectTrace> = serde_json::from_value(receipt["removed"].clone()).unwrap();
        let time = receipt["time"].as_str().unwrap();
        assert_eq!(receipt["sha256"], digest("lamp@localhost", time, &removed));
        assert_ne!(receipt["sha256"], digest("lamp@localhost", time, &[]));

        let (again, told) = run(&accounts, erase);
        assert!(told.is_empty());
        assert_eq!((&again["account_removed"], &again["removed"]), (&json!(false), &json!([])));
        let (export, _) = run(&accounts, export);
        assert_eq!((&export["kept"], &export["elsewhere"]), (&json!({}), &json!([])));
    }

    #[test]
    fn what_is_no_address_or_no_place_is_refused() {
        let accounts = accounts();
        let refused = |address: &str, from: Option<&str>| {
            let command = SubjectCommand::Export { address: address.into(), from: from.map(str::to_owned) };
            block_on(accounts.subject(command)).expect_err("refused").code
        };
        for (address, from) in [("", None), ("a@b/c", None), ("lamp", Some("")), ("lamp", Some("nowhere:"))] {
            assert_eq!(refused(address, from), RefusalCode::BadRequest, "{address} {from:?}");
        }
        assert_eq!(refused("lamp", Some("rosters:xx")), RefusalCode::BadRequest);
    }
}
