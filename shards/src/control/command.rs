//! What operators may ask of a broker. One definition: clap reads a [`Command`] from the command line, serde carries it
//! over the control socket, and whoever runs it answers with an [`Answer`], which the command line prints.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

mod account;
mod apikey;
mod backup;
mod refusal;
mod secret;
mod status;
mod subject;
mod thing;

pub use account::{AccountCommand, AccountLine, ArchivePolicy, PutOutcome, PutRow, Salts};
pub use apikey::{ApiKeyAccount, ApiKeyCommand, ApiKeyLine};
pub use backup::{BackupCommand, BackupState};
pub use refusal::{Refusal, RefusalCode};
pub use secret::Secret;
pub use status::Status;
pub use subject::{SubjectCommand, SubjectPart, SubjectTrace};
pub use thing::{Enforcement, Node, ThingCommand, ThingInfo, ThingName, ThingState};

/// What a running broker can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// Something about accounts.
    Account(AccountCommand),
    /// Something about things.
    Thing(ThingCommand),
    /// Something about API keys.
    ApiKey(ApiKeyCommand),
    /// Something about all that is kept of somebody.
    Subject(SubjectCommand),
    /// Something about backups.
    Backup(BackupCommand),
    /// How it is doing.
    Status,
    /// Let the program that is at the broker's path now take its place.
    Upgrade,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It was carried out.
    Ok(Reply),
    /// It was not.
    Error(Refusal),
}

/// What there is to tell of a command carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// An account was created.
    Created {
        /// Its address.
        address: String,
        /// Its password, if it was made here. Told once.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        password: Option<Secret>,
    },
    /// An account has another password.
    Changed {
        /// Its address.
        address: String,
        /// Its password, if it was made here. Told once.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        password: Option<Secret>,
    },
    /// An account is gone.
    Removed {
        /// Its address.
        address: String,
    },
    /// An account may no longer log in.
    Disabled {
        /// Its address.
        address: String,
    },
    /// An account may log in again.
    Enabled {
        /// Its address.
        address: String,
    },
    /// An account may keep an archive, or has none any more.
    Archive {
        /// Its address.
        address: String,
        /// Which.
        policy: ArchivePolicy,
    },
    /// Accounts, in the store's order.
    Accounts {
        /// Of this page.
        accounts: Vec<AccountLine>,
        /// Whether more come after the last of these.
        more: bool,
    },
    /// Things, in the store's order.
    Things {
        /// Of this page.
        things: Vec<ThingInfo>,
        /// Whether more come after the last of these.
        more: bool,
    },
    /// A thing.
    Thing(Box<ThingInfo>),
    /// A thing has an owner now.
    Claimed(Box<ThingInfo>),
    /// A thing's rules are applied by the broker, or no longer.
    Enforced(Box<ThingInfo>),
    /// A thing is nobody's now.
    Disowned {
        /// Address of its device.
        address: String,
        /// Which node of it.
        node: Node,
    },
    /// What became of accounts that were to be created, in order.
    Put {
        /// Of each.
        outcomes: Vec<PutOutcome>,
    },
    /// With what the keys of accounts were made, in order; `null` where there is no account.
    Salts {
        /// Of each.
        salts: Vec<Option<Salts>>,
    },
    /// What became of a file of accounts.
    Imported {
        /// Accounts that were created.
        created: u64,
        /// Accounts that were there with the same password or keys.
        same: u64,
        /// Lines that are no account, or one that is there with another password.
        refused: u64,
    },
    /// An API key was made.
    ApiKeyCreated {
        /// Its id, which is sent along with what is signed.
        key: String,
        /// What is signed with. Told once.
        secret: Secret,
    },
    /// An API key.
    ApiKey(ApiKeyLine),
    /// API keys, in order of their ids.
    ApiKeys {
        /// Of this page.
        keys: Vec<ApiKeyLine>,
        /// Whether more come after the last of these.
        more: bool,
    },
    /// Accounts that were created with an API key, in order of their addresses.
    ApiKeyAccounts {
        /// Of this page.
        accounts: Vec<ApiKeyAccount>,
        /// Whether more come after the last of these.
        more: bool,
    },
    /// No more accounts are created with an API key.
    ApiKeyRevoked {
        /// Which.
        key: String,
    },
    /// A part of all that is kept of somebody.
    Subject(SubjectPart),
    /// How far a backup is.
    Backup(BackupState),
    /// How the broker is doing.
    Status(Status),
    /// Another program was tried and is about to take the broker's place.
    Upgrading {
        /// The process, which stays the same.
        pid: u32,
    },
}

/// What the command line prints.
impl Display for Reply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let once = |out: &mut fmt::Formatter<'_>, password: &Option<Secret>| match password {
            Some(Secret(password)) => write!(out, "\npassword {password}   (shown once)"),
            None => Ok(()),
        };
        match self {
            Self::Created { address, password } => {
                write!(out, "created {address}")?;
                once(out, password)
            }
            Self::Changed { address, password } => {
                write!(out, "new password for {address}")?;
                once(out, password)
            }
            Self::Removed { address } => write!(out, "removed {address}"),
            Self::Disabled { address } => write!(out, "disabled {address}"),
            Self::Enabled { address } => write!(out, "enabled {address}"),
            Self::Archive { address, policy: ArchivePolicy::Allowed } => write!(out, "archive allowed for {address}"),
            Self::Archive { address, policy: ArchivePolicy::Off } => write!(out, "archive of {address} erased"),
            Self::Accounts { accounts, .. } => {
                let lines: Vec<String> = accounts.iter().map(AccountLine::to_string).collect();
                out.write_str(&lines.join("\n"))
            }
            Self::Things { things, .. } => {
                let lines: Vec<String> =
                    things.iter().map(|thing| format!("{}  {}", thing.name, thing.whose())).collect();
                out.write_str(&lines.join("\n"))
            }
            Self::Thing(thing) => thing.fmt(out),
            Self::Claimed(thing) => write!(out, "{} is {}", thing.name, thing.whose()),
            Self::Enforced(thing) if thing.enforced => {
                let whose = match thing.owner {
                    Some(_) => "what its owner has not allowed does not reach it",
                    None => "it has no owner, and nothing reaches it",
                };
                write!(out, "{} is enforced: {whose}", thing.name)
            }
            Self::Enforced(thing) => write!(out, "{} is not enforced: its device decides", thing.name),
            Self::Disowned { address, node } => {
                let name = ThingName { address: address.clone(), node: node.clone() };
                write!(out, "{name} is nobody's; it can be claimed when it has registered anew")
            }
            Self::Put { .. } | Self::Salts { .. } => Ok(()),
            Self::Imported { created, same, refused } => {
                write!(out, "{created} accounts created, {same} were there, {refused} lines refused")
            }
            Self::ApiKeyCreated { key, secret: Secret(secret) } => {
                write!(out, "key    {key}\nsecret {secret}   (shown once)")
            }
            Self::ApiKey(line) => line.fmt(out),
            Self::ApiKeys { keys, .. } => {
                let lines: Vec<String> = keys.iter().map(ApiKeyLine::to_string).collect();
                out.write_str(&lines.join("\n"))
            }
            Self::ApiKeyAccounts { accounts, .. } => {
                let lines: Vec<&str> = accounts.iter().map(|account| account.address.as_str()).collect();
                out.write_str(&lines.join("\n"))
            }
            Self::ApiKeyRevoked { key } => write!(out, "revoked {key}"),
            Self::Subject(part) => {
                let count =
                    |removed| part.traces.iter().filter(|one| one.removed == removed).map(|one| one.count).sum::<u64>();
                write!(out, "{}: {} records, {} more that name it", part.address, count(true), count(false))
            }
            Self::Backup(state) => state.fmt(out),
            Self::Status(status) => status.fmt(out),
            Self::Upgrading { pid } => write!(out, "process {pid} is being upgraded"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(password: Option<&str>) -> Command {
        let password = password.map(Secret::from);
        Command::Account(AccountCommand::Add { address: "lamp@localhost".into(), password, admin: false })
    }

    #[test]
    fn commands_and_answers_survive_the_socket() {
        let list = AccountCommand::List { after: Some("a@localhost".into()), limit: None };
        let node = Node { id: "1".into(), ..Node::default() };
        let after = Some(ThingName { address: "a@localhost".into(), node: node.clone() });
        let things = Command::Thing(ThingCommand::List { device: None, owner: None, after, limit: Some(1) });
        let enforce = ThingCommand::Enforce { address: "lamp".into(), policy: Enforcement::On, node: node.clone() };
        let enforce = Command::Thing(enforce);
        let show = Command::Thing(ThingCommand::Show { address: "lamp".into(), node });
        let key = ApiKeyCommand::Create {
            owner: "ops@maker.example".into(),
            accounts: 9,
            per_minute: 0,
            expires: None,
            domain: vec!["localhost".into()],
        };
        let key = Command::ApiKey(key);
        let accounts = [add(Some("secret")), add(None), Command::Account(list)];
        let backup = Command::Backup(BackupCommand::Begin { directory: "/backup".into() });
        for command in
            accounts.into_iter().chain([things, show, enforce, key, backup, Command::Status, Command::Upgrade])
        {
            let line = serde_json::to_string(&command).unwrap();
            assert_eq!(serde_json::from_str::<Command>(&line).unwrap(), command, "{line}");
        }
        let created = Reply::Created { address: "lamp@localhost".into(), password: Some("once".into()) };
        for answer in [Answer::Ok(created), Answer::Error(Refusal::busy())] {
            let line = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<Answer>(&line).unwrap(), answer, "{line}");
        }
    }

    #[test]
    fn the_protocol_is_what_the_manual_says() {
        let check = |line: &str, command: Command| assert_eq!(serde_json::from_str::<Command>(line).unwrap(), command);
        check(r#"{"account":{"add":{"address":"lamp@localhost"}}}"#, add(None));
        check(r#"{"account":{"add":{"address":"lamp@localhost","password":"secret"}}}"#, add(Some("secret")));
        check(r#""status""#, Command::Status);
        check(r#"{"backup":"progress"}"#, Command::Backup(BackupCommand::Progress));
        check(r#""upgrade""#, Command::Upgrade);
        let disown = ThingCommand::Disown { address: "lamp".into(), node: Node::default() };
        check(r#"{"thing":{"disown":{"address":"lamp"}}}"#, Command::Thing(disown));
        let show = Command::ApiKey(ApiKeyCommand::Show { key: "4d5a".into() });
        check(r#"{"apikey":{"show":{"key":"4d5a"}}}"#, show);
        let create = ApiKeyCommand::Create {
            owner: "a@b".into(),
            accounts: 9,
            per_minute: 0,
            expires: None,
            domain: Vec::new(),
        };
        check(r#"{"apikey":{"create":{"owner":"a@b","accounts":9}}}"#, Command::ApiKey(create));
        let enforce = ThingCommand::Enforce { address: "lamp".into(), policy: Enforcement::Off, node: Node::default() };
        check(r#"{"thing":{"enforce":{"address":"lamp","policy":"off"}}}"#, Command::Thing(enforce));
        assert!(serde_json::from_str::<Command>(r#"{"account":{"add":{}}}"#).is_err());
        assert!(serde_json::from_str::<Command>(r#""halt""#).is_err());
    }

    #[test]
    fn passwords_are_not_in_debug_output() {
        let created = Reply::Created { address: "lamp@localhost".into(), password: Some("once".into()) };
        assert!(!format!("{:?} {created:?}", add(Some("secret"))).contains("secret"));
        assert!(!format!("{created:?}").contains("once"));
        assert!(created.to_string().contains("once"));
        let key = Reply::ApiKeyCreated { key: "4d5a".into(), secret: "s3cret".into() };
        assert!(!format!("{key:?}").contains("s3cret") && key.to_string().contains("s3cret"));
    }
}
