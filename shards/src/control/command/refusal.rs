//! Why a command was not carried out.

use std::fmt::{self, Display};

use plaza_registry::accounts::AccountError;
use plaza_registry::store::StoreError;
use plaza_registry::things::AssignError;
use serde::{Deserialize, Serialize};

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people.
    pub text: String,
}

/// The kinds of [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// Not a command, or not for this broker.
    BadRequest,
    /// There is such an account already.
    Exists,
    /// There is no such account.
    NotFound,
    /// The password can't be one.
    BadPassword,
    /// Too much to do: try again.
    Busy,
    /// The store can't.
    StoreFailed,
    /// The program that is to take over is not fit.
    NotFit,
}

impl Refusal {
    /// Not a command, or not for this broker.
    pub fn bad_request(text: impl Into<String>) -> Self {
        Self { code: RefusalCode::BadRequest, text: text.into() }
    }

    /// Too much to do.
    pub fn busy() -> Self {
        Self { code: RefusalCode::Busy, text: "the broker is busy; try again".into() }
    }

    /// The program that is to take over is not fit.
    pub fn not_fit(text: String) -> Self {
        Self { code: RefusalCode::NotFit, text }
    }

    /// What the registry says about an account.
    pub fn account(error: AccountError, address: &str) -> Self {
        match error {
            AccountError::Exists => {
                Self { code: RefusalCode::Exists, text: format!("there is an account {address} already") }
            }
            AccountError::NotFound => {
                Self { code: RefusalCode::NotFound, text: format!("there is no account {address}") }
            }
            AccountError::BadPassword => Self::bad_password(),
            AccountError::Store(error) => error.into(),
        }
    }

    /// What the registry says about a thing.
    pub fn thing(error: AssignError, name: &str) -> Self {
        match error {
            AssignError::NotFound => {
                Self { code: RefusalCode::NotFound, text: format!("there is no thing {name}, or it is nobody's") }
            }
            AssignError::NoAccount => {
                Self { code: RefusalCode::NotFound, text: "who is to own it has no account".into() }
            }
            AssignError::Owned(owner) => {
                Self { code: RefusalCode::Exists, text: format!("{name} is {owner}'s; disown it first") }
            }
            AssignError::Store(error) => error.into(),
        }
    }

    /// The password can't be one.
    pub fn bad_password() -> Self {
        Self { code: RefusalCode::BadPassword, text: "a password is neither empty nor has control characters".into() }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let text = match error {
            StoreError::Busy => return Self::busy(),
            StoreError::Failed => "the store is read-only after a failed write; look at the log, then restart",
            StoreError::Corrupt => "a record in the store is damaged",
        };
        Self { code: RefusalCode::StoreFailed, text: text.into() }
    }
}

impl Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}
