//! One of something for each table.

use super::Table;

impl Table {
    /// All tables.
    pub(super) const ALL: [Self; 3] = [Self::Accounts, Self::Rosters, Self::Broker];

    /// Its name in an engine. Never changed: data is stored under it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Accounts => "accounts",
            Self::Rosters => "rosters",
            Self::Broker => "broker",
        }
    }
}

/// A value for each table.
#[derive(Debug, Clone, Default)]
pub(super) struct PerTable<T> {
    accounts: T,
    rosters: T,
    broker: T,
}

impl<T> PerTable<T> {
    /// Makes each; the first failure ends it.
    pub(super) fn try_new<E>(mut make: impl FnMut(Table) -> Result<T, E>) -> Result<Self, E> {
        Ok(Self { accounts: make(Table::Accounts)?, rosters: make(Table::Rosters)?, broker: make(Table::Broker)? })
    }

    /// The value of a table.
    pub(super) const fn of(&self, table: Table) -> &T {
        match table {
            Table::Accounts => &self.accounts,
            Table::Rosters => &self.rosters,
            Table::Broker => &self.broker,
        }
    }

    /// The value of a table, to change.
    pub(super) const fn of_mut(&mut self, table: Table) -> &mut T {
        match table {
            Table::Accounts => &mut self.accounts,
            Table::Rosters => &mut self.rosters,
            Table::Broker => &mut self.broker,
        }
    }

    /// All values with their tables.
    pub(super) fn into_iter(self) -> impl Iterator<Item = (Table, T)> {
        Table::ALL.into_iter().zip([self.accounts, self.rosters, self.broker])
    }
}
