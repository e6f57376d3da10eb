//! What owners want done with all their things, or with some; and what goes when a thing changes hands.

use std::collections::BTreeSet;

use plaza_core::iot::Generation;
use plaza_core::jid::{Jid, JidRef};
use plaza_core::provisioning::Things;
use plaza_core::stanza::Condition;
use plaza_core::thing::NodeName;
use plaza_core::thing::wire::{self, Style};

use super::Config;
use super::serve::{Failure, Told, to_clear};
use super::{question, record, tokens};
use crate::owned::ATTEMPTS_MAX;
use crate::store::{Batch, CommitError, Store, StoreError, Table, Write, key};
use crate::things::{self, ThingRecord};

/// Things that are read and changed together.
const PAGE: usize = 100;

/// `getDevices`: a page of all that somebody owns, listed or not.
pub(super) async fn get_devices<S: Store>(
    config: &Config,
    store: &S,
    owner: &Jid,
    generation: Generation,
    (offset, count_max): (u64, Option<u64>),
) -> Result<Told, Failure> {
    let page_max = u64::from(config.limits.page_max);
    let count_max = count_max.unwrap_or(page_max).min(page_max);
    let (mut passed, mut after) = (0_u64, None::<(Jid, NodeName)>);
    let mut found: Vec<ThingRecord> = Vec::new();
    let mut has_more = false;
    'pages: loop {
        let last = after.as_ref().map(|(jid, node)| (jid, node));
        let page = things::owned(store, owner.as_jid(), last, PAGE).await?;
        let is_last = page.len() < PAGE;
        after = page.last().cloned();
        for (jid, node) in page {
            if passed < offset {
                passed += 1;
            } else if found.len() as u64 == count_max {
                has_more = true;
                break 'pages;
            } else if let Some(thing) = things::load(store, &jid, &node).await? {
                found.push(thing);
            }
        }
        if is_last {
            break;
        }
    }
    let mut payload = Vec::new();
    let style = Style::of(generation);
    wire::begin_found(&mut payload, style, has_more);
    for ThingRecord { jid, node, tags, .. } in &found {
        wire::thing(&mut payload, style, jid.as_jid(), node, Some(owner.as_jid()), tags);
    }
    wire::end_found(&mut payload);
    Ok(Told { payload, ..Told::default() })
}

/// `clearCache`: the devices are told to ask anew.
pub(super) async fn clear_cache<S: Store>(store: &S, owner: &Jid, things: Option<Things>) -> Result<Told, Failure> {
    each_page(store, owner, things.as_ref(), false).await
}

/// `deleteRules`: the things begin anew, and so do their caches.
pub(super) async fn delete_rules<S: Store>(store: &S, owner: &Jid, things: Option<Things>) -> Result<Told, Failure> {
    each_page(store, owner, things.as_ref(), true).await
}

async fn each_page<S: Store>(
    store: &S,
    owner: &Jid,
    which: Option<&Things>,
    deletes_rules: bool,
) -> Result<Told, Failure> {
    let mut changed = BTreeSet::new();
    let done = change_pages(store, owner, which, deletes_rules, &mut changed).await;
    if changed.is_empty() {
        done?;
        // Of what is not the caller's nothing is said, not even that it is there.
        if which.is_some() {
            return Err(Condition::ItemNotFound.into());
        }
        return Ok(Told::default());
    }
    // What was committed is for the devices' homes to hear, whatever became of the rest.
    let failed = done.err().map(|error| Failure::Store(error).into());
    Ok(Told { changed: changed.into_iter().collect(), failed, ..Told::default() })
}

async fn change_pages<S: Store>(
    store: &S,
    owner: &Jid,
    which: Option<&Things>,
    deletes_rules: bool,
    changed: &mut BTreeSet<Jid>,
) -> Result<(), StoreError> {
    if let Some(Things { device, node: Some(node) }) = which {
        return change(store, owner, &[(device.clone(), node.clone())], deletes_rules, changed).await;
    }
    let mut after = None::<(Jid, NodeName)>;
    loop {
        let page = match which {
            Some(Things { device, .. }) => {
                let after = after.as_ref().map(|(_, node)| node);
                let all = things::load_all(store, device, after, PAGE).await?;
                all.into_iter().map(|thing| (thing.jid, thing.node)).collect()
            }
            None => {
                let after = after.as_ref().map(|(jid, node)| (jid, node));
                things::owned(store, owner.as_jid(), after, PAGE).await?
            }
        };
        change(store, owner, &page, deletes_rules, changed).await?;
        if page.len() < PAGE {
            return Ok(());
        }
        after = page.last().cloned();
    }
}

/// Changes those of the things that are the owner's, all or none of them.
async fn change<S: Store>(
    store: &S,
    owner: &Jid,
    things: &[(Jid, NodeName)],
    deletes_rules: bool,
    changed: &mut BTreeSet<Jid>,
) -> Result<(), StoreError> {
    for _ in 0..ATTEMPTS_MAX {
        let mut batch = Batch::default();
        let mut devices = BTreeSet::new();
        for (jid, node) in things {
            let thing = things::load(store, jid, node).await?;
            let Some(thing) = thing.filter(|thing| thing.owner() == Some(owner)) else { continue };
            batch.guards.push(thing.guard());
            batch.writes.push(to_clear(&thing).put());
            if deletes_rules {
                batch.writes.extend(rules_and_questions(store, &thing, owner).await?);
            }
            devices.insert(thing.jid);
        }
        if devices.is_empty() {
            return Ok(());
        }
        match store.commit(batch).await {
            Ok(()) => {
                changed.extend(devices);
                return Ok(());
            }
            Err(CommitError::Guard(_)) => {}
            Err(CommitError::Store(error)) => return Err(error),
        }
    }
    Err(StoreError::Busy)
}

/// The writes that take away all rules of a thing and all questions about it, to be committed with what changes its
/// owner: when it is claimed, disowned or unregistered. `thing` is its record before that, under whose guard the commit has
/// to be; `owner` is who owns it then. An answer of the former owner is refused from then on. That the device has to
/// forget what it was told is for the caller to note.
///
/// # Errors
/// [`StoreError`].
pub async fn purge<S: Store>(store: &S, thing: &ThingRecord, owner: Option<&Jid>) -> Result<Vec<Write>, StoreError> {
    let (device, node) = (thing.jid.as_jid(), &thing.node);
    let mut writes = Vec::new();
    match thing.owner() {
        Some(former) => {
            writes.extend(rules_and_questions(store, thing, former).await?);
            if Some(former) != owner {
                let key = record::former_key(former.as_jid(), device, node);
                writes.push(Write::Put { table: Table::Questions, key, value: Vec::new() });
            }
        }
        None => writes.push(Write::DeletePrefix { table: Table::Rules, prefix: things::rules_prefix(device, node) }),
    }
    if let Some(owner) = owner {
        let key = record::former_key(owner.as_jid(), device, node);
        writes.push(Write::Delete { table: Table::Questions, key });
    }
    Ok(writes)
}

/// The writes that take away what is kept for an account that is removed: the rules of its things, what it was asked as an
/// owner, and its tokens, to be committed with that. Questions about its things go with those ([`purge`]).
///
/// # Errors
/// [`StoreError`].
pub async fn forget<S: Store>(store: &S, account: JidRef<'_>) -> Result<Vec<Write>, StoreError> {
    let mut writes = vec![
        Write::DeletePrefix { table: Table::Rules, prefix: key::things(account) },
        Write::DeletePrefix { table: Table::Questions, prefix: key::owned_things(account) },
    ];
    writes.extend(tokens::forget(store, account).await?);
    Ok(writes)
}

/// What takes away that things of a device were once an owner's, when the device is forgotten altogether.
pub(crate) fn forget_former(owner: JidRef<'_>, device: JidRef<'_>) -> Write {
    Write::DeletePrefix { table: Table::Questions, prefix: record::formers_key(owner, device) }
}

async fn rules_and_questions<S: Store>(store: &S, thing: &ThingRecord, owner: &Jid) -> Result<Vec<Write>, StoreError> {
    let rules =
        Write::DeletePrefix { table: Table::Rules, prefix: things::rules_prefix(thing.jid.as_jid(), &thing.node) };
    let questions = question::load(store, owner, &thing.jid).await?;
    let of_thing = questions.into_iter().filter(|(_, question)| question.node == thing.node);
    let deletes = of_thing.map(|(key, _)| Write::Delete { table: Table::Questions, key });
    Ok(std::iter::once(rules).chain(deletes).collect())
}
