//! What an account wants archived (XEP-0441 v0.2.0).

use plaza_core::jid::{Jid, JidRef};

use crate::blocking::BlockList;
#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::record::{Reader, put_bytes, put_count};
use crate::store::{Batch, CommitError, Guard, Store, StoreError, Table, Write, key};

use super::ArchiveConfig;

/// Version of the record.
const VERSION: u8 = 1;

/// What happens to messages with those who are on no list (§2.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// They are not archived.
    Never,
    /// They are if the other is in the account's roster.
    Roster,
    /// They are.
    Always,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Never, Self::Roster, Self::Always];

    /// The protocol's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Roster => "roster",
            Self::Always => "always",
        }
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Some modes. None at all means that nothing is archived; if there are any, `never` is among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Modes(u8);

impl Modes {
    /// Nothing is archived.
    pub const NONE: Self = Self(0);
    /// Whatever an account likes.
    pub const ALL: Self = Self(Mode::Never.bit() | Mode::Roster.bit() | Mode::Always.bit());

    /// These. Whoever may choose may choose to keep nothing.
    pub fn of(modes: &[Mode]) -> Self {
        modes.iter().fold(Self::NONE, |all, mode| Self(all.0 | mode.bit() | Mode::Never.bit()))
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it is among them.
    pub const fn has(self, mode: Mode) -> bool {
        self.0 & mode.bit() != 0
    }
}

/// What an account wants archived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefs {
    /// For those on no list; `None` until the account has chosen.
    pub default: Option<Mode>,
    /// With whom messages are archived.
    pub always: Addresses,
    /// With whom they are not, whatever else is said.
    pub never: Addresses,
}

/// Addresses on a list: sorted, none twice.
pub type Addresses = BlockList;

impl Prefs {
    /// What holds for those on no list. A mode that the operator no longer allows gives way to the operator's.
    pub fn mode(&self, config: &ArchiveConfig) -> Mode {
        self.default.filter(|&mode| config.modes.has(mode)).unwrap_or(config.default)
    }

    /// Whether messages with somebody are archived (§2.3). `in_roster`: whether its bare JID is in the roster.
    pub fn wants(&self, config: &ArchiveConfig, with: JidRef<'_>, in_roster: impl FnOnce() -> bool) -> bool {
        if self.never.lists(with) {
            return false;
        }
        self.always.lists(with)
            || match self.mode(config) {
                Mode::Never => false,
                Mode::Roster => in_roster(),
                Mode::Always => true,
            }
    }

    /// Bytes it holds beside itself.
    pub fn heap_bytes(&self) -> usize {
        self.always.heap_bytes() + self.never.heap_bytes()
    }

    /// version · default (0: not chosen, else the mode's number and 1) · both lists, each its count and its addresses behind
    /// their length.
    fn encode(&self) -> Vec<u8> {
        let mut record = vec![VERSION, self.default.map_or(0, |mode| mode as u8 + 1)];
        for list in [&self.always, &self.never] {
            put_count(&mut record, list.len() as u64);
            list.iter().for_each(|jid| put_bytes(&mut record, jid.as_str().as_bytes()));
        }
        record
    }

    /// # Errors
    /// [`StoreError::Corrupt`].
    pub(crate) fn decode(record: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader::open(record, VERSION)?;
        let default = match reader.u8()? {
            0 => None,
            number => Some(*Mode::ALL.get(usize::from(number) - 1).ok_or(StoreError::Corrupt)?),
        };
        let mut list = || {
            let count = reader.count()?;
            let jids = (0..count).map(|_| Jid::parse(reader.text()?).map_err(|_| StoreError::Corrupt));
            jids.collect::<Result<Vec<_>, _>>().map(Addresses::new)
        };
        let (always, never) = (list()?, list()?);
        reader.close()?;
        Ok(Self { default, always, never })
    }
}

/// What an account wants; all default if it has not said.
///
/// # Errors
/// [`StoreError`].
pub async fn load<S: Store>(store: &S, owner: JidRef<'_>) -> Result<Prefs, StoreError> {
    let record = store.get(Table::Archives, &key::archive_prefs(owner)).await?;
    record.map_or(Ok(Prefs::default()), |record| Prefs::decode(&record))
}

/// Stores what an account wants.
///
/// # Errors
/// [`CommitError::Guard`] if it has no archive (any more), [`CommitError::Store`].
pub async fn save<S: Store>(store: &S, owner: JidRef<'_>, prefs: &Prefs) -> Result<(), CommitError> {
    let head = Guard::Present { table: Table::Archives, key: key::archive_head(owner) };
    let put = Write::Put { table: Table::Archives, key: key::archive_prefs(owner), value: prefs.encode() };
    store.commit(Batch { guards: vec![head], writes: vec![put] }).await
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] = &[|record| Prefs::decode(record).map(|prefs| prefs.encode())];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::jid;

    fn list(jids: &[&str]) -> Addresses {
        Addresses::new(jids.iter().map(|text| jid(text)))
    }

    #[test]
    fn lists_go_before_the_default_and_never_before_always() {
        let prefs = Prefs {
            default: Some(Mode::Roster),
            always: list(&["a@x.example", "b@x.example/r", "c@x.example"]),
            never: list(&["c@x.example/no", "d@x.example"]),
        };
        let config = ArchiveConfig { modes: Modes::ALL, ..ArchiveConfig::default() };
        let check = |with: &str, in_roster: bool, expected: bool| {
            assert_eq!(prefs.wants(&config, jid(with).as_jid(), || in_roster), expected, "{with}");
        };
        check("a@x.example", false, true);
        check("a@x.example/any", false, true);
        check("b@x.example/r", false, true);
        check("b@x.example/s", false, false);
        check("b@x.example", false, false);
        check("c@x.example/yes", false, true);
        check("c@x.example/no", true, false);
        check("d@x.example/r", true, false);
        check("e@x.example/r", true, true);
        check("e@x.example/r", false, false);
        // A domain on a list is an address of its own.
        let domain = Prefs { always: list(&["x.example"]), ..Prefs::default() };
        assert!(!domain.wants(&config, jid("a@x.example").as_jid(), || true));
    }

    #[test]
    fn a_mode_that_is_not_allowed_gives_way() {
        let prefs = Prefs { default: Some(Mode::Always), ..Prefs::default() };
        let config = |modes, default| ArchiveConfig { modes: Modes::of(modes), default, ..ArchiveConfig::default() };
        assert_eq!(prefs.mode(&config(&[Mode::Always], Mode::Never)), Mode::Always);
        assert_eq!(prefs.mode(&config(&[Mode::Roster], Mode::Roster)), Mode::Roster);
        assert_eq!(Prefs::default().mode(&config(&[Mode::Roster], Mode::Never)), Mode::Never);
        assert!(Modes::of(&[Mode::Roster]).has(Mode::Never) && Modes::of(&[]).is_empty());
    }

    #[test]
    fn prefs_read_back_and_damage_is_seen() {
        let prefs =
            Prefs { default: Some(Mode::Always), always: list(&["a@x.example"]), never: list(&["b@y", "c@z/r"]) };
        let mut record = prefs.encode();
        assert_eq!(Prefs::decode(&record), Ok(prefs));
        for len in 0..record.len() {
            assert_eq!(Prefs::decode(&record[..len]), Err(StoreError::Corrupt));
        }
        record[1] = 4;
        assert_eq!(Prefs::decode(&record), Err(StoreError::Corrupt));
    }
}
