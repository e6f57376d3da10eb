//! Decision support: what devices ask about strangers, what their owners are asked and answer, and tokens that stand for
//! certificates (XEP-0324 v0.5.1 and the generations after it).
//!
//! Pure: reads and writes payloads. There is one model; the namespace and the spelling of a request select those of its
//! answer. Who may do what is decided in `registry`.

mod answer;
mod owner;
mod query;
mod request;
mod spelling;
#[cfg(test)]
mod tests;
mod tokens;

use std::borrow::Cow;
use std::fmt;

pub use self::answer::{Permission, write_clear_cache, write_recommendation};
pub use self::owner::{Origin, OwnerRequest, Part, Question, RuleAnswer, Things};
pub use self::query::Query;
pub use self::request::Request;
pub use self::tokens::{
    TokenRequest, read_token_challenge_response, write_certificate, write_challenge, write_token, write_token_challenge,
};
use crate::thing::NodeName;

/// Most nodes one request names. Beyond it: `policy-violation`.
pub const NODES_MAX: usize = 256;
/// Most fields or parameters one request names, and one rule. Beyond it: `policy-violation`.
pub const NAMES_MAX: usize = 255;
/// Most nodes times names of one request, for each is looked at. Beyond it: `policy-violation`.
pub const CELLS_MAX: usize = 4_096;

/// What is asked, or ruled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `isFriend`: a subscription to presence.
    Friend = 1,
    /// `canRead`: a read-out.
    Read = 2,
    /// `canControl`: setting parameters.
    Control = 3,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Friend, Self::Read, Self::Control];

    /// The kind of a number that [`Kind`] is cast to.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u8 == number)
    }

    /// The question's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Friend => "isFriend",
            Self::Read => "canRead",
            Self::Control => "canControl",
        }
    }

    /// The categories that a question of this kind is about; where there are none, one stands for all.
    pub const fn categories(self) -> Categories {
        match self {
            Self::Friend | Self::Control => Categories(1),
            Self::Read => Categories::ALL,
        }
    }
}

/// A set of the six categories of fields.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Categories(u8);

impl Categories {
    /// How many there are.
    pub const COUNT: usize = 6;
    /// None.
    pub const NONE: Self = Self(0);
    /// Momentary, peak, status, computed, identity and historical values.
    pub const ALL: Self = Self(0x3f);

    /// The set of these bits, if they are no others than the six.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits & !Self::ALL.0 == 0 { Some(Self(bits)) } else { None }
    }

    /// A bit for each, the lowest for momentary values.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether a category is in, by its place.
    pub const fn has(self, place: usize) -> bool {
        self.0 >> place & 1 != 0
    }

    /// With another one, by its place, which is below [`Self::COUNT`].
    pub const fn with(self, place: usize) -> Self {
        Self(self.0 | 1 << place & Self::ALL.0)
    }

    /// What is in either.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Debug for Categories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06b}", self.0)
    }
}

/// Tokens that came with a request: of services, devices and users, those of a class with spaces between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens<'a> {
    /// `st`; `serviceToken` in the first generation.
    pub service: Cow<'a, str>,
    /// `dt`; `deviceToken`.
    pub device: Cow<'a, str>,
    /// `ut`; `userToken`.
    pub user: Cow<'a, str>,
}

impl Tokens<'_> {
    /// The same, borrowing nothing.
    pub fn into_owned(self) -> Tokens<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Tokens { service: own(self.service), device: own(self.device), user: own(self.user) }
    }
}

/// A node as it is named in a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeRef<'a> {
    /// `id`.
    pub id: Cow<'a, str>,
    /// `src`.
    pub source: Cow<'a, str>,
    /// `pt`.
    pub partition: Cow<'a, str>,
}

impl NodeRef<'_> {
    /// The device itself.
    pub const DEVICE: NodeRef<'static> =
        NodeRef { id: Cow::Borrowed(""), source: Cow::Borrowed(""), partition: Cow::Borrowed("") };

    /// The name, owned.
    pub fn to_name(&self) -> NodeName {
        NodeName { id: (*self.id).into(), source: (*self.source).into(), partition: (*self.partition).into() }
    }
}
