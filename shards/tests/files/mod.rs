//! Files that operators and makers give to `plaza`, and the lines of its control socket: each is read, or refused with a text,
//! and what was read is written as what reads as the same. For the fuzz targets, and for the properties that run without them.

use plaza_core::sasl::scram::Hash;
use plaza_shards::config::{Config, ConfigError};
use plaza_shards::control::command::Command;
use plaza_shards::control::import::{Format, Row, read_keys, write_keys};
use plaza_shards::label::table::{Rows, write_row};

/// Longest row of a table here.
const ROW_BYTES_MAX: usize = 4_096;

/// A text for the operator is a line or a few, and has something to say.
pub(crate) fn is_told(text: &str) {
    assert!(!text.trim().is_empty());
}

/// Files of accounts, CSV or a JSON object a line.
pub(crate) fn accounts(text: &str) {
    let mut lines = text.lines();
    let Some(first) = lines.next() else { return };
    let format = match Format::of(first) {
        Ok(format) => format,
        Err(error) => return is_told(&error),
    };
    for line in text.lines() {
        match format.read(line) {
            Ok(None) => assert!(line.trim().is_empty()),
            Ok(Some(row)) => {
                reads_back(&row);
                keys(&row);
            }
            Err(error) => is_told(&error),
        }
    }
}

/// The row as a line of CSV, which has no cells that are there and empty.
fn reads_back(row: &Row) {
    let cells = [Some(&row.jid), row.password.as_ref(), row.sha1.as_ref(), row.sha256.as_ref()];
    if cells.iter().flatten().any(|cell| cell.is_empty()) {
        return;
    }
    let quoted = cells.map(|cell| format!("\"{}\"", cell.map_or("", String::as_str).replace('"', "\"\"")));
    let csv = Format::of("jid,password,scram-sha-1,scram-sha-256").expect("a header");
    assert!(csv.read(&quoted.join(",")).as_ref() == Ok(&Some(row.clone())), "{quoted:?}");
}

/// Keys (RFC 5803) are written as what reads as the same keys.
fn keys(row: &Row) {
    match row.keys() {
        Ok(None) => assert!(row.password.is_some()),
        Ok(Some(keys)) => {
            for (hash, keys) in [(Hash::Sha1, keys.sha1), (Hash::Sha256, keys.sha256)] {
                let written = write_keys(&keys).0;
                assert!(read_keys(hash, &written).as_ref() == Some(&keys), "{written}");
            }
        }
        Err(error) => is_told(&error),
    }
}

/// Tables of things to label.
pub(crate) fn labels(text: &str) {
    let mut rows = match Rows::begin(text.as_bytes(), ROW_BYTES_MAX) {
        Ok(rows) => rows,
        Err(error) => return is_told(&error.to_string()),
    };
    let columns = rows.columns().count();
    let (mut read, mut written) = (Vec::new(), Vec::new());
    write_row(&mut written, (0..columns).map(|_| "name")).expect("memory takes all");
    loop {
        match rows.next_row() {
            Ok(Some(row)) => {
                assert_eq!(row.len(), columns);
                write_row(&mut written, row.iter().map(String::as_str)).expect("memory takes all");
                read.push(row);
            }
            Ok(None) => break,
            Err(error) => {
                is_told(&error.to_string());
                break;
            }
        }
        assert!(rows.bytes_read() <= text.len() as u64);
    }
    let mut again = Rows::begin(&*written, 2 * ROW_BYTES_MAX + 64).expect("a table");
    for row in read {
        assert_eq!(again.next_row().expect("a row"), Some(row));
    }
    assert!(again.next_row().expect("the end").is_none());
}

/// Commands over the control socket.
pub(crate) fn command(text: &str) {
    let Ok(command) = serde_json::from_str::<Command>(text) else { return };
    let written = serde_json::to_string(&command).expect("a command can be written");
    assert_eq!(serde_json::from_str::<Command>(&written).ok(), Some(command), "{written}");
}

/// The configuration.
pub(crate) fn config(text: &str) {
    match text.parse::<Config>() {
        Ok(config) => {
            if let Err(error) = config.check() {
                is_told(&error.to_string());
            }
            let written = toml::to_string(&config).expect("a configuration can be written");
            match written.parse::<Config>() {
                Ok(again) => assert_eq!(again, config, "{written}"),
                Err(error) => panic!("{error}: {written}"),
            }
        }
        Err(error @ (ConfigError::Syntax(_) | ConfigError::UnknownKey { .. })) => is_told(&error.to_string()),
        Err(error) => panic!("{error} is not about a text"),
    }
}
