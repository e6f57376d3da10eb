//! Accounts by the million: the lines of a file, and SCRAM keys as text.
//!
//! A line is CSV or a JSON object, and holds an address with a password, or with the keys that another server made of one.
//! Keys are written as RFC 5803 has them: `SCRAM-SHA-256$10000:SALT$STOREDKEY:SERVERKEY`, in Base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plaza_core::sasl::scram::{Hash, Keys};
use plaza_registry::accounts::NewKeys;
use serde::Deserialize;

use super::command::Secret;

/// What the columns of a CSV file are called, and the fields of JSON objects.
const COLUMNS: [&str; 4] = ["jid", "password", "scram-sha-1", "scram-sha-256"];

/// An account as a line has it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its address.
    pub jid: String,
    /// Its password.
    #[serde(default)]
    pub password: Option<String>,
    /// Its keys for SCRAM-SHA-1.
    #[serde(default, rename = "scram-sha-1")]
    pub sha1: Option<String>,
    /// Its keys for SCRAM-SHA-256.
    #[serde(default, rename = "scram-sha-256")]
    pub sha256: Option<String>,
}

/// How the lines of a file are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// Objects with a field for each of [`COLUMNS`].
    Json,
    /// CSV with these columns, by their places in [`COLUMNS`].
    Csv {
        /// Which.
        columns: Vec<usize>,
        /// The first line only names them.
        has_header: bool,
    },
}

impl Format {
    /// What the first line says.
    ///
    /// # Errors
    /// A text for the operator.
    pub fn of(first: &str) -> Result<Self, String> {
        if first.trim_start().starts_with('{') {
            return Ok(Self::Json);
        }
        let cells = cells(first).ok_or("the first line is neither CSV nor JSON")?;
        if cells.iter().any(|cell| cell.contains('@')) {
            return Ok(Self::Csv { columns: vec![0, 1], has_header: false });
        }
        let place = |cell: &String| {
            let known = COLUMNS.iter().position(|column| column.eq_ignore_ascii_case(cell.trim()));
            known.ok_or_else(|| format!("there is no column {cell}; columns are {}", COLUMNS.join(", ")))
        };
        let columns = cells.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        if !columns.contains(&0) {
            return Err("there is no column jid".to_owned());
        }
        Ok(Self::Csv { columns, has_header: true })
    }

    /// Reads a line; `None` if it is empty.
    ///
    /// # Errors
    /// A text for the operator.
    pub fn read(&self, line: &str) -> Result<Option<Row>, String> {
        if line.trim().is_empty() {
            return Ok(None);
        }
        match self {
            Self::Json => serde_json::from_str(line).map(Some).map_err(|error| format!("not such an object: {error}")),
            Self::Csv { columns, .. } => {
                let cells = cells(line).ok_or("quotes are not closed")?;
                if cells.len() != columns.len() {
                    return Err(format!("{} fields where {} are expected", cells.len(), columns.len()));
                }
                let cell = |column: usize| {
                    let (_, cell) = columns.iter().zip(&cells).find(|(place, _)| **place == column)?;
                    Some(cell.clone()).filter(|cell| !cell.is_empty())
                };
                let jid = cell(0).ok_or("there is no address")?;
                Ok(Some(Row { jid, password: cell(1), sha1: cell(2), sha256: cell(3) }))
            }
        }
    }
}

/// The cells of a line of CSV (RFC 4180), without line ends inside of them; `None` if quotes are not closed.
fn cells(line: &str) -> Option<Vec<String>> {
    let (mut cells, mut cell) = (Vec::new(), String::new());
    let (mut quoted, mut characters) = (false, line.trim_end_matches(['\r', '\n']).chars().peekable());
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                cell.push('"');
                characters.next();
            }
            '"' if quoted || cell.is_empty() => quoted = !quoted,
            ',' if !quoted => cells.push(std::mem::take(&mut cell)),
            other => cell.push(other),
        }
    }
    cells.push(cell);
    (!quoted).then_some(cells)
}

const fn scheme(hash: Hash) -> &'static str {
    match hash {
        Hash::Sha1 => "SCRAM-SHA-1",
        Hash::Sha256 => "SCRAM-SHA-256",
    }
}

/// Writes keys as RFC 5803 has them.
pub fn write_keys(keys: &Keys) -> Secret {
    let [salt, stored, server] = [&keys.salt, &keys.stored_key, &keys.server_key].map(|part| STANDARD.encode(part));
    Secret(format!("{}${}:{salt}${stored}:{server}", scheme(keys.hash), keys.iterations))
}

/// Reads keys as RFC 5803 has them; `None` if they are none of this hash.
pub fn read_keys(hash: Hash, text: &str) -> Option<Keys> {
    let (made, keys) = text.trim().strip_prefix(scheme(hash))?.strip_prefix('$')?.split_once('$')?;
    let ((iterations, salt), (stored, server)) = (made.split_once(':')?, keys.split_once(':')?);
    let decode = |text: &str| STANDARD.decode(text).ok().map(Vec::into_boxed_slice);
    let keys = Keys {
        hash,
        salt: decode(salt)?,
        iterations: iterations.parse().ok()?,
        stored_key: decode(stored)?,
        server_key: decode(server)?,
    };
    (keys.is_sound() && !keys.salt.is_empty()).then_some(keys)
}

impl Row {
    /// Its keys, if it has keys; `None` if it has a password.
    ///
    /// # Errors
    /// A text for the operator.
    pub fn keys(&self) -> Result<Option<NewKeys>, String> {
        match (&self.password, &self.sha1, &self.sha256) {
            (Some(_), None, None) => Ok(None),
            (None, Some(sha1), Some(sha256)) => {
                let read =
                    |hash, text: &str| read_keys(hash, text).ok_or_else(|| format!("not keys for {}", scheme(hash)));
                Ok(Some(NewKeys { sha1: read(Hash::Sha1, sha1)?, sha256: read(Hash::Sha256, sha256)? }))
            }
            _ => Err("there must be a password, or keys for both SCRAM-SHA-1 and SCRAM-SHA-256".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(jid: &str, password: &str) -> Row {
        Row { jid: jid.to_owned(), password: Some(password.to_owned()), sha1: None, sha256: None }
    }

    impl std::fmt::Debug for Row {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Row").field("jid", &self.jid).finish_non_exhaustive()
        }
    }

    #[test]
    fn csv_has_a_header_or_is_an_address_and_a_password() {
        let plain = Format::of("lamp@things.example,secret").unwrap();
        assert_eq!(plain, Format::Csv { columns: vec![0, 1], has_header: false });
        assert_eq!(plain.read("lamp@things.example,secret\r\n"), Ok(Some(row("lamp@things.example", "secret"))));
        assert_eq!(plain.read("a@b,\"x,\"\"y\"\"\""), Ok(Some(row("a@b", "x,\"y\""))));
        assert_eq!(plain.read("  \n"), Ok(None));
        for wrong in ["a@b", "a@b,c,d", "a@b,\"c", ",c"] {
            assert!(plain.read(wrong).is_err(), "{wrong}");
        }
        let named = Format::of("password,JID\n").unwrap();
        assert_eq!(named, Format::Csv { columns: vec![1, 0], has_header: true });
        assert_eq!(named.read("secret,a@b"), Ok(Some(row("a@b", "secret"))));
        for wrong in ["jid,colour", "password", "\"jid"] {
            assert!(Format::of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn json_is_an_object_a_line() {
        let format = Format::of("{\"jid\":\"a@b\"}").unwrap();
        assert_eq!(format, Format::Json);
        assert_eq!(format.read("{\"jid\":\"a@b\",\"password\":\"x\"}"), Ok(Some(row("a@b", "x"))));
        for wrong in ["{", "[]", "{\"password\":\"x\"}", "{\"jid\":\"a@b\",\"colour\":\"x\"}"] {
            assert!(format.read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_read_back_and_nothing_else_is_keys() {
        let NewKeys { sha1, sha256 } = NewKeys::derive("pencil", &[7; 32], 4_096).unwrap();
        for keys in [sha1, sha256] {
            let Secret(text) = write_keys(&keys);
            assert_eq!(read_keys(keys.hash, &text), Some(keys.clone()), "{text}");
            let other = if keys.hash == Hash::Sha1 { Hash::Sha256 } else { Hash::Sha1 };
            assert_eq!(read_keys(other, &text), None);
            for at in 0..text.len() {
                assert_eq!(read_keys(keys.hash, &text[..at]), None, "{}", &text[..at]);
            }
        }
        // RFC 7677 §3, user and pencil.
        let text = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                    wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        let keys = read_keys(Hash::Sha256, text).unwrap();
        assert!(plaza_core::sasl::scram::verify_password(&keys, "pencil"));
    }

    #[test]
    fn a_row_has_a_password_or_both_keys() {
        let NewKeys { sha1, sha256 } = NewKeys::derive("pencil", &[7; 32], 4_096).unwrap();
        let (Secret(one), Secret(two)) = (write_keys(&sha1), write_keys(&sha256));
        let keys = |sha1: Option<&String>, sha256: Option<&String>, password: Option<&str>| {
            let row = Row {
                jid: "a@b".into(),
                password: password.map(str::to_owned),
                sha1: sha1.cloned(),
                sha256: sha256.cloned(),
            };
            row.keys()
        };
        assert!(keys(None, None, Some("x")).unwrap().is_none());
        let both = keys(Some(&one), Some(&two), None).unwrap().unwrap();
        assert_eq!((both.sha1, both.sha256), (sha1, sha256));
        assert!(keys(Some(&one), None, None).is_err() && keys(None, None, None).is_err());
        assert!(keys(Some(&one), Some(&two), Some("x")).is_err() && keys(Some(&two), Some(&one), None).is_err());
    }
}
