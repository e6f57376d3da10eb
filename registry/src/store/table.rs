//! One of something for each table.

use super::Table;

impl Table {
    /// All tables, each at the place its discriminant names.
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::Accounts,
        Self::Rosters,
        Self::Offline,
        Self::Private,
        Self::Vcards,
        Self::Avatars,
        Self::Blocklists,
        Self::Resumables,
        Self::Tokens,
        Self::PubSub,
        Self::Archives,
        Self::Broker,
        Self::Things,
        Self::Claims,
        Self::Owners,
        Self::Rules,
        Self::Questions,
        Self::Certificates,
        Self::ApiKeys,
    ];
    const COUNT: usize = 19;

    /// Its name in an engine. Never changed: data is stored under it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Accounts => "accounts",
            Self::Rosters => "rosters",
            Self::Offline => "offline",
            Self::Private => "private",
            Self::Vcards => "vcards",
            Self::Avatars => "avatars",
            Self::Blocklists => "blocklists",
            Self::Resumables => "resumables",
            Self::Tokens => "tokens",
            Self::PubSub => "pubsub",
            Self::Archives => "archives",
            Self::Broker => "broker",
            Self::Things => "things",
            Self::Claims => "claims",
            Self::Owners => "owners",
            Self::Rules => "rules",
            Self::Questions => "questions",
            Self::Certificates => "certificates",
            Self::ApiKeys => "apikeys",
        }
    }
}

/// A value for each table.
#[derive(Debug, Clone, Default)]
pub(super) struct PerTable<T>([T; Table::COUNT]);

impl<T> PerTable<T> {
    /// Makes each; the first failure ends it.
    pub(super) fn try_new<E>(mut make: impl FnMut(Table) -> Result<T, E>) -> Result<Self, E> {
        let mut made = Vec::with_capacity(Table::COUNT);
        for table in Table::ALL {
            made.push(make(table)?);
        }
        let Ok(made) = <[T; Table::COUNT]>::try_from(made) else { unreachable!("one was made for each table") };
        Ok(Self(made))
    }

    /// The value of a table.
    #[expect(clippy::indexing_slicing, reason = "there are as many values as tables")]
    pub(super) const fn of(&self, table: Table) -> &T {
        &self.0[table as usize]
    }

    /// The value of a table, to change.
    #[expect(clippy::indexing_slicing, reason = "there are as many values as tables")]
    pub(super) const fn of_mut(&mut self, table: Table) -> &mut T {
        &mut self.0[table as usize]
    }

    /// All values with their tables.
    pub(super) fn into_iter(self) -> impl Iterator<Item = (Table, T)> {
        Table::ALL.into_iter().zip(self.0)
    }
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const _: () = {
    let mut place = 0;
    while place < Table::COUNT {
        assert!(Table::ALL[place] as usize == place, "each table is at its place");
        place += 1;
    }
};
