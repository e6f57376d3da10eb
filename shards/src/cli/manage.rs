//! Commands about accounts, API keys, things and people, which need no running broker.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::Path;

use plaza_registry::helpers::Helpers;
use plaza_registry::store::embedded::EmbeddedStore;
use plaza_registry::things as registry;
use plaza_registry::wait::block_on;

use super::import::{self, Run};
use super::{Failure, Options, ServeArgs, ask, connect, print_reply};
use crate::config::Settings;
use crate::control::accounts::{Accounts, PAGE};
use crate::control::apikeys::Keys;
use crate::control::backup;
use crate::control::command::{
    AccountCommand, AccountLine, ApiKeyAccount, ApiKeyCommand, ApiKeyLine, Command, Refusal, Reply, Secret,
    ThingCommand, ThingInfo,
};
use crate::control::data::{self, DataDir};
use crate::control::subject::SubjectVerb;
use crate::control::things::Things;

/// Who carries commands out on a store that was opened here.
type Direct<C> = Box<dyn FnMut(C) -> Result<Reply, Refusal>>;

/// Does a piece of work that takes commands. The broker that runs on the data directory carries them out, asked over its
/// control socket; if none does, `direct` on the store, which is opened for it and closed behind it.
fn carry_out<C, T>(
    options: &Options,
    command: fn(C) -> Command,
    direct: fn(EmbeddedStore, &Settings) -> Result<Direct<C>, Failure>,
    work: impl FnOnce(&Settings, Run<'_, C>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let settings = options.settings(&ServeArgs::default())?;
    let data = DataDir::existing(&settings.data)?;
    if let Some(mut client) = connect(&data.socket())? {
        return work(&settings, &mut |asked| ask(&mut client, &command(asked)));
    }
    let store = data.open_store(&settings)?;
    let done = direct(store.clone(), &settings)
        .and_then(|mut carried_out| work(&settings, &mut |asked| Ok(carried_out(asked))));
    store.close().map_err(|error| Failure::Failed(format!("the store did not close well: {error:?}")))?;
    done
}

fn accounts_of(store: EmbeddedStore, settings: &Settings) -> Accounts<EmbeddedStore> {
    let things = registry::Config::new(settings.things, None);
    Accounts::new(store, Helpers::start(1, 1), settings, things)
}

fn accounts(store: EmbeddedStore, settings: &Settings) -> Result<Direct<AccountCommand>, Failure> {
    let accounts = accounts_of(store, settings);
    Ok(Box::new(move |command| Ok(block_on(accounts.run(command))?.reply)))
}

pub(super) fn account(mut command: AccountCommand, options: &Options) -> Result<(), Failure> {
    if let AccountCommand::Import { file } = &command {
        return import_accounts(file, options);
    }
    read_password(&mut command)?;
    let reply = carry_out(options, Command::Account, accounts, |_, run| whole(command, |command| Ok(run(command)??)))?;
    print_reply(&reply, options.json)
}

fn import_accounts(file: &Path, options: &Options) -> Result<(), Failure> {
    let reply = carry_out(options, Command::Account, accounts, |settings, run| {
        import::import(file, settings.scram_iterations, run)
    })?;
    print_reply(&reply, options.json)?;
    if matches!(reply, Reply::Imported { refused: 1.., .. }) {
        return Err(Failure::Failed("not every line became an account".to_owned()));
    }
    Ok(())
}

pub(super) fn subject(verb: &SubjectVerb, options: &Options) -> Result<(), Failure> {
    let direct = |store, settings: &Settings| -> Result<Direct<_>, Failure> {
        let accounts = accounts_of(store, settings);
        Ok(Box::new(move |command| Ok(Reply::Subject(block_on(accounts.subject(command))?.0))))
    };
    carry_out(options, Command::Subject, direct, |_, run| verb.run(|command| Ok(run(command)??)))
}

pub(super) fn apikey(command: ApiKeyCommand, options: &Options) -> Result<(), Failure> {
    let direct = |store, settings: &Settings| -> Result<Direct<_>, Failure> {
        let secret = data::secret(&store)?;
        let keys = Keys::new(store, &secret, settings.domains.clone());
        Ok(Box::new(move |command| block_on(keys.run(command))))
    };
    let reply =
        carry_out(options, Command::ApiKey, direct, |_, run| whole_of_keys(command, |command| Ok(run(command)??)))?;
    print_reply(&reply, options.json)
}

pub(super) fn backup(directory: &Path, options: &Options) -> Result<(), Failure> {
    let settings = options.settings(&ServeArgs::default())?;
    let data = DataDir::existing(&settings.data)?;
    let named = |error| Failure::Failed(format!("can't use {}: {error}", directory.display()));
    let directory = std::path::absolute(directory).map_err(named)?;
    if let Some(mut client) = connect(&data.socket())? {
        let reply = backup::have_made(&directory, |asked| Ok(ask(&mut client, &Command::Backup(asked))??))?;
        return print_reply(&reply, options.json);
    }
    let store = data.open_store(&settings)?;
    let made = backup::make_here(&store, &settings.data, &directory);
    store.close().map_err(|error| Failure::Failed(format!("the store did not close well: {error:?}")))?;
    print_reply(&made?, options.json)
}

pub(super) fn thing(command: ThingCommand, options: &Options) -> Result<(), Failure> {
    let direct = |store, settings: &Settings| -> Result<Direct<_>, Failure> {
        let things = Things::new(store, settings, registry::Config::new(settings.things, None));
        Ok(Box::new(move |command| Ok(block_on(things.run(command))?.reply)))
    };
    let reply =
        carry_out(options, Command::Thing, direct, |_, run| whole_of_things(command, |command| Ok(run(command)??)))?;
    print_reply(&reply, options.json)
}

/// Runs a command; a list without a limit, to its last page.
fn whole_of_keys(
    mut command: ApiKeyCommand,
    mut run: impl FnMut(ApiKeyCommand) -> Result<Reply, Failure>,
) -> Result<Reply, Failure> {
    let (mut all_keys, mut all_accounts): (Vec<ApiKeyLine>, Vec<ApiKeyAccount>) = (Vec::new(), Vec::new());
    loop {
        let (next, after) = match &mut command {
            ApiKeyCommand::List { after, limit: None } => {
                (ApiKeyCommand::List { after: after.clone(), limit: Some(PAGE) }, after)
            }
            ApiKeyCommand::Accounts { key, after, limit: None } => {
                (ApiKeyCommand::Accounts { key: key.clone(), after: after.clone(), limit: Some(PAGE) }, after)
            }
            ApiKeyCommand::Create { .. }
            | ApiKeyCommand::List { .. }
            | ApiKeyCommand::Show { .. }
            | ApiKeyCommand::Accounts { .. }
            | ApiKeyCommand::Revoke { .. } => return run(command),
        };
        let page = run(next)?;
        if let Reply::ApiKeys { keys, more } = page {
            all_keys.extend(keys);
            if !more {
                return Ok(Reply::ApiKeys { keys: all_keys, more });
            }
            *after = all_keys.last().map(|line| line.key.clone());
        } else if let Reply::ApiKeyAccounts { accounts, more } = page {
            all_accounts.extend(accounts);
            if !more {
                return Ok(Reply::ApiKeyAccounts { accounts: all_accounts, more });
            }
            *after = all_accounts.last().map(|account| account.address.clone());
        } else {
            return Ok(page);
        }
    }
}

/// Runs a command; a list without a limit, to its last page.
fn whole(
    mut command: AccountCommand,
    mut run: impl FnMut(AccountCommand) -> Result<Reply, Failure>,
) -> Result<Reply, Failure> {
    let AccountCommand::List { after, limit: None } = &mut command else { return run(command) };
    let mut all: Vec<AccountLine> = Vec::new();
    loop {
        let page = run(AccountCommand::List { after: after.take(), limit: Some(PAGE) })?;
        let Reply::Accounts { accounts, more } = page else { return Ok(page) };
        all.extend(accounts);
        if !more {
            return Ok(Reply::Accounts { accounts: all, more });
        }
        *after = all.last().map(|account| account.address.clone());
    }
}

/// Runs a command; a list without a limit, to its last page.
fn whole_of_things(
    command: ThingCommand,
    mut run: impl FnMut(ThingCommand) -> Result<Reply, Failure>,
) -> Result<Reply, Failure> {
    let ThingCommand::List { device, owner, mut after, limit: None } = command else { return run(command) };
    let mut all: Vec<ThingInfo> = Vec::new();
    loop {
        let (device, owner) = (device.clone(), owner.clone());
        let page = run(ThingCommand::List { device, owner, after: after.take(), limit: Some(PAGE) })?;
        let Reply::Things { things, more } = page else { return Ok(page) };
        let was_empty = things.is_empty();
        all.extend(things);
        if !more || was_empty {
            return Ok(Reply::Things { things: all, more: false });
        }
        after = all.last().map(|thing| thing.name.clone());
    }
}

/// `--password -`: a line from standard input.
fn read_password(command: &mut AccountCommand) -> Result<(), Failure> {
    let Some(Secret(password)) = command.password_mut().filter(|password| password.0 == "-") else { return Ok(()) };
    if io::stdin().is_terminal() {
        eprint!("password (it shows as you type): ");
    }
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| Failure::Failed(format!("can't read the password: {error}")))?;
    line.trim_end_matches(['\r', '\n']).clone_into(password);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accounts_of_a_key_are_fetched_to_the_last_page() {
        let line = |n: usize| ApiKeyAccount { address: format!("{n}@localhost"), created: 0 };
        let mut asked = Vec::new();
        let list = ApiKeyCommand::Accounts { key: "k".into(), after: None, limit: None };
        let reply = whole_of_keys(list, |command| {
            let ApiKeyCommand::Accounts { after, .. } = command else { panic!("not a list") };
            asked.push(after);
            Ok(Reply::ApiKeyAccounts { accounts: vec![line(asked.len())], more: asked.len() < 2 })
        });
        assert_eq!(reply.unwrap(), Reply::ApiKeyAccounts { accounts: vec![line(1), line(2)], more: false });
        assert_eq!(asked, [None, Some("1@localhost".into())]);
    }

    #[test]
    fn a_list_is_fetched_to_its_last_page() {
        let line = |n: usize| AccountLine {
            address: format!("{n}@localhost"),
            disabled: false,
            admin: false,
            created: 0,
            archive: false,
        };
        let mut asked = Vec::new();
        let list = AccountCommand::List { after: None, limit: None };
        let reply = whole(list, |command| {
            let AccountCommand::List { after, .. } = command else { panic!("not a list") };
            asked.push(after);
            let page = asked.len();
            Ok(Reply::Accounts { accounts: vec![line(page)], more: page < 3 })
        });
        assert_eq!(reply.unwrap(), Reply::Accounts { accounts: vec![line(1), line(2), line(3)], more: false });
        assert_eq!(asked, [None, Some("1@localhost".into()), Some("2@localhost".into())]);
    }
}
