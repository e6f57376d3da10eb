//! What a subject owns, as it is told. Secrets are not: that they are there is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use plaza_core::date::DateTime;
use plaza_core::jid::JidRef;
use plaza_core::thing::TagValue;
use plaza_core::thing::wire::Dialect;
use serde_json::{Value, json};

use super::{Place, hex};
use crate::apikeys;
use crate::archive::{self, ArchiveId};
use crate::store::{Pair, StoreError, Table};
use crate::things::{State, ThingRecord};
use crate::tokens::Tokens;
use crate::{accounts, avatars, blocking, offline, private, provisioning, pubsub, resumables, rosters, vcards};

/// A record, with the name of what it is; `None` for what only counts or points.
pub(super) fn tell(
    table: Table,
    subject: JidRef<'_>,
    place: &Place<'_>,
    pair: &Pair,
) -> Result<Option<(&'static str, Value)>, StoreError> {
    let record = &*pair.1;
    let number = || <[u8; 8]>::try_from(place.rest).map(u64::from_be_bytes).map_err(|_| StoreError::Corrupt);
    Ok(match table {
        Table::Accounts => Some(("account", account(&accounts::decode(record)?))),
        Table::Rosters if place.rest.is_empty() => None,
        Table::Rosters => {
            let items = rosters::read(subject, vec![pair.clone()])?;
            items.first().map(|item| ("roster", contact(item)))
        }
        Table::Offline if place.rest.is_empty() => None,
        Table::Offline => {
            let (came, _, stanza) = offline::decode(record)?;
            Some(("offline", json!({ "number": number()?, "came": time(came), "stanza": text(stanza) })))
        }
        Table::Private if place.rest.is_empty() => None,
        Table::Private => Some(("private", json!({ "xml": private::decode(record)? }))),
        Table::Vcards => {
            let vcard = vcards::decode(record)?;
            let photo = vcard.avatar.map(|hash| vcards::hex(&hash));
            Some(("vcard", json!({ "xml": vcard.xml, "photo_sha1": photo })))
        }
        Table::Avatars => {
            let avatar = avatars::decode(record)?;
            Some(("avatar", json!({ "type": avatar.media_type, "base64": STANDARD.encode(&avatar.image) })))
        }
        Table::Blocklists => {
            let list = blocking::decode(record)?;
            Some(("blocked", json!(list.iter().map(JidRef::as_str).collect::<Vec<_>>())))
        }
        Table::Resumables => Some(("resumable", session(&resumables::decode(record)?))),
        Table::Tokens => Some(("tokens", tokens(&Tokens::decode(record)?))),
        Table::PubSub => pubsub::subject::own(place.rest, record)?,
        Table::Archives => match place.rest.split_first() {
            Some((b'p', [])) => Some(("archive_preferences", preferences(&archive::Prefs::decode(record)?))),
            Some((b'm', id)) => {
                let id = <[u8; 8]>::try_from(id).map(u64::from_be_bytes).map_err(|_| StoreError::Corrupt)?;
                let id = ArchiveId::parse(&format!("{id:016x}")).ok_or(StoreError::Corrupt)?;
                let (with, stanza) = archive::decode(record)?;
                let came = id.moment().to_string();
                Some(("archive", json!({ "id": id.to_string(), "came": came, "with": with, "stanza": text(stanza) })))
            }
            Some(_) | None => None,
        },
        Table::Things => match place.node() {
            Some(node) => Some(("things", thing(&ThingRecord::decode(&subject.to_jid(), node, record)?))),
            None => Some(("things", raw(place, record))),
        },
        Table::Owners if place.rest.is_empty() => None,
        Table::Owners => match &*place.parts().collect::<Vec<_>>() {
            [jid, source, partition, id] => {
                Some(("owned_things", json!({ "jid": jid, "id": id, "src": source, "pt": partition })))
            }
            _ => Some(("owned_things", raw(place, record))),
        },
        Table::Rules => Some(("rules", provisioning::tell_rule(place.rest, record)?)),
        Table::Questions => Some(provisioning::tell_question(place.rest, record)?),
        Table::Claims | Table::Certificates | Table::ApiKeys | Table::Broker => None,
    })
}

/// What another's record that names the subject says of the subject alone: where it takes part, what it published there, and
/// which API key it was created with.
pub(super) fn tell_part(
    table: Table,
    place: &Place<'_>,
    record: &[u8],
) -> Result<Option<(&'static str, Value)>, StoreError> {
    match table {
        Table::PubSub => {
            let told = pubsub::subject::own(place.rest, record)?;
            Ok(told.and_then(|(what, mut value)| {
                let section = match what {
                    "affiliations" => "affiliations_elsewhere",
                    "subscriptions" => "subscriptions_elsewhere",
                    "items" => "published_elsewhere",
                    _ => return None,
                };
                value.as_object_mut()?.insert("host".to_owned(), json!(place.of));
                Some((section, value))
            }))
        }
        // Its settings, which may name it as its holder, have a secret in them.
        Table::ApiKeys => Ok(match place.rest.split_first() {
            Some((b'o', _)) => Some(("created_with", json!({ "key": text(record) }))),
            Some((b'a', rest)) => {
                let key = rest.split(|&byte| byte == 0).next().unwrap_or_default();
                let created = apikeys::decode_moment(record)?.saturating_mul(1_000);
                Some(("created_with", json!({ "key": text(key), "created": time(created) })))
            }
            Some(_) | None => None,
        }),
        Table::Accounts
        | Table::Rosters
        | Table::Offline
        | Table::Private
        | Table::Vcards
        | Table::Avatars
        | Table::Blocklists
        | Table::Resumables
        | Table::Tokens
        | Table::Archives
        | Table::Broker
        | Table::Things
        | Table::Claims
        | Table::Owners
        | Table::Rules
        | Table::Questions
        | Table::Certificates => Ok(None),
    }
}

/// A record that can't be read.
pub(super) fn damaged(place: &Place<'_>, record: &[u8]) -> (&'static str, Value) {
    ("damaged", raw(place, record))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A moment, as it is told.
pub(crate) fn time(unix_millis: u64) -> String {
    DateTime::from_unix_millis(unix_millis).to_string()
}

/// A record as it lies in the store: the parts of its key, and its bytes.
fn raw(place: &Place<'_>, record: &[u8]) -> Value {
    json!({ "key": text(place.rest).split('\0').collect::<Vec<_>>(), "base64": STANDARD.encode(record) })
}

fn account(account: &accounts::Account) -> Value {
    json!({
        "created": time(account.created.saturating_mul(1_000)), "disabled": account.disabled, "admin": account.admin,
        "credentials": [
            { "mechanism": "SCRAM-SHA-1", "iterations": account.sha1.iterations },
            { "mechanism": "SCRAM-SHA-256", "iterations": account.sha256.iterations },
        ],
    })
}

fn contact(item: &rosters::RosterItem) -> Value {
    json!({
        "jid": item.jid.as_str(), "name": item.name, "groups": item.groups, "subscription": item.subscription.name(),
        "ask": item.ask, "approved": item.approved, "listed": item.listed, "request": item.request.as_deref(),
    })
}

fn session(session: &resumables::Resumable) -> Value {
    let waiting: Vec<_> = session.unacked.iter().map(|(stanza, _)| text(stanza)).collect();
    json!({ "jid": session.jid.as_str(), "presence": session.presence.as_deref(), "unacknowledged": waiting })
}

fn tokens(tokens: &Tokens) -> Value {
    let clients = tokens.clients().map(|(id, seen, until)| {
        let mut client = String::new();
        hex(&mut client, &id.0);
        let until = until.map(|until| time(until.saturating_mul(1_000)));
        json!({ "client": client, "seen": time(seen.saturating_mul(1_000)), "good_until": until })
    });
    clients.collect()
}

fn preferences(prefs: &archive::Prefs) -> Value {
    let list = |list: &archive::Addresses| list.iter().map(|jid| jid.as_str().to_owned()).collect::<Vec<_>>();
    let default = prefs.default.map(archive::Mode::name);
    json!({ "default": default, "always": list(&prefs.always), "never": list(&prefs.never) })
}

fn thing(thing: &ThingRecord) -> Value {
    let (state, public, removed) = match thing.state {
        State::Unclaimed => ("unclaimed", false, false),
        State::SelfOwned => ("self-owned", true, false),
        State::Claimed { public, removed, .. } => ("claimed", public, removed),
    };
    let tag = |value: &TagValue| match value {
        TagValue::Str(text) => json!(text),
        TagValue::Num(number) => json!(number),
    };
    let tags: serde_json::Map<String, Value> =
        thing.tags.iter().map(|one| (one.name.to_string(), tag(&one.value))).collect();
    let attributes = match thing.style.dialect {
        Dialect::Long => "long",
        Dialect::Short => "short",
    };
    let pending = [
        ("claimed", thing.pending.claimed),
        ("removed", thing.pending.removed),
        ("clear cache", thing.pending.clear_cache),
    ];
    let pending: Vec<&str> = pending.into_iter().filter(|(_, is_pending)| *is_pending).map(|(what, _)| what).collect();
    json!({
        "id": thing.node.id, "src": thing.node.source, "pt": thing.node.partition, "state": state,
        "owner": thing.owner().map(|owner| owner.as_str()), "public": public, "removed": removed,
        "has_key": thing.key.is_some(), "enforced": thing.enforced, "tags": tags,
        "created": time(thing.created), "updated": time(thing.updated),
        "style": { "namespaces": provisioning::prefix(thing.style.generation), "attributes": attributes },
        "decisions": thing.device.map(|generation| json!({ "namespaces": provisioning::prefix(generation) })),
        "not_told_yet": pending, "changes": thing.version,
    })
}
