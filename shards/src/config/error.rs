//! Why a configuration can't be used, and which key was meant by one that there is none of.

use std::fmt::{self, Display};
use std::io;
use std::path::PathBuf;

use super::Config;
use super::text::nearest;

/// Why a configuration can't be used.
#[derive(Debug)]
pub enum ConfigError {
    /// The file can't be read.
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is not TOML, or a value has the wrong type. The text names line and column.
    Syntax(String),
    /// There is no such key.
    UnknownKey {
        /// As written.
        key: String,
        /// Line in the file, from 1.
        line: usize,
        /// What may have been meant.
        suggestion: Option<String>,
    },
    /// Values out of range or at odds with each other.
    Invalid(Vec<Problem>),
    /// Values that are fine by themselves, and do not go with those that stay as they are until a restart.
    AtOdds(Vec<Problem>),
}

/// One value that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which key, with dots.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What it should be.
    pub expected: String,
}

impl Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { file, error } => write!(out, "{}: {error}", file.display()),
            Self::Syntax(text) => out.write_str(text.trim_end()),
            Self::UnknownKey { key, line, suggestion: Some(suggestion) } => {
                write!(out, "line {line}: no such key `{key}`; did you mean `{suggestion}`?")
            }
            Self::UnknownKey { key, line, suggestion: None } => {
                write!(out, "line {line}: no such key `{key}`; `plaza config defaults` lists all keys")
            }
            Self::Invalid(problems) | Self::AtOdds(problems) => {
                let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
                out.write_str(&lines.join("\n"))?;
                if matches!(self, Self::AtOdds(_)) {
                    out.write_str("; some of this stays as it was until a restart")?;
                }
                Ok(())
            }
        }
    }
}

impl Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} = {}: must be {}", self.key, self.value, self.expected)
    }
}

impl std::error::Error for ConfigError {}

/// Turns serde's "unknown field `x`, expected one of `a`, `b`" into the key, its line, and the key that was meant: one of
/// that table, or one that lives in another table.
pub(super) fn unknown_key(toml: &str, error: &toml::de::Error) -> Option<ConfigError> {
    let mut quoted = error.message().strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let key = quoted.next()?.to_owned();
    let here: Vec<String> = quoted.map(str::to_owned).collect();
    let elsewhere = keys();
    let line = toml.get(..error.span()?.start)?.matches('\n').count() + 1;
    let suggestion = elsewhere
        .iter()
        .find(|path| path.rsplit('.').next() == Some(&key))
        .or_else(|| nearest(&key, &here))
        .or_else(|| nearest(&key, &elsewhere))
        .cloned();
    Some(ConfigError::UnknownKey { key, line, suggestion })
}

/// All keys of the file, with dots.
pub fn keys() -> Vec<String> {
    fn walk(prefix: &str, value: &toml::Value, keys: &mut Vec<String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    walk(&path, value, keys);
                }
            }
            toml::Value::Array(array) if array.first().is_some_and(toml::Value::is_table) => {
                walk(prefix, array.first().expect("just looked at"), keys);
            }
            toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_) => keys.push(prefix.to_owned()),
        }
    }
    let mut keys = Vec::new();
    if let Ok(defaults) = toml::Value::try_from(Config::default()) {
        walk("", &defaults, &mut keys);
    }
    keys
}
