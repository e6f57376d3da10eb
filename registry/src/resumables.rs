//! Sessions that wait to be resumed while the broker is restarted (XEP-0198 v1.6.3 §5).
//!
//! Written once, on a graceful stop; taken once, at the next start. In between they lie under their account, and go with
//! it.

use plaza_core::jid::Jid;

#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::record::{Reader, flag, put_bytes, put_count};
use crate::store::{Batch, CommitError, Guard, Store, StoreError, Table, Write, key};

const VERSION: u8 = 1;
const FLAG_AVAILABLE: u8 = 1;
const FLAG_INTERESTED: u8 = 1 << 1;
const FLAG_PRESENCE: u8 = 1 << 2;
const FLAG_CARBONS: u8 = 1 << 3;
/// Sessions stored or removed by one commit: a group of the store takes as much.
const COMMIT_SESSIONS_MAX: usize = 256;
/// Bytes of records after which a commit takes no further session; for the same reason.
const COMMIT_BYTES_MAX: usize = 1 << 20;

/// A managed session, without its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumable {
    /// Its full JID.
    pub jid: Jid,
    /// The secret and the number in its name.
    pub secret: [u8; 16],
    /// See `secret`.
    pub number: u64,
    /// Seconds it may be resumed in, from the start on.
    pub seconds: u32,
    /// Stanzas taken from the client, modulo 2³².
    pub handled: u32,
    /// Stanzas sent to it, modulo 2³².
    pub sent: u32,
    /// Priority, if it is available.
    pub priority: Option<i8>,
    /// It gets roster pushes.
    pub interested: bool,
    /// It gets copies of its account's messages (XEP-0280).
    pub carbons: bool,
    /// Its presence as written but for `to`, unless it is plain.
    pub presence: Option<Box<str>>,
    /// What was sent and not acknowledged, the oldest first, and whether it is a message that is stored as well.
    pub unacked: Vec<(Box<[u8]>, bool)>,
}

/// Stores sessions, many with a commit; durable when it resolves. A session whose account is gone is left out. What was
/// stored before an error stays, and may be stored again.
///
/// # Errors
/// [`StoreError`].
pub async fn store<S: Store>(store: &S, sessions: &[Resumable]) -> Result<(), StoreError> {
    let mut left = sessions;
    while !left.is_empty() {
        let (batch, count) = batch(left);
        let (some, others) = left.split_at(count);
        match store.commit(batch).await {
            Ok(()) => {}
            Err(CommitError::Guard(_)) => store_each(store, some).await?,
            Err(CommitError::Store(error)) => return Err(error),
        }
        left = others;
    }
    Ok(())
}

/// The same of some among which there is one whose account is gone.
async fn store_each<S: Store>(store: &S, sessions: &[Resumable]) -> Result<(), StoreError> {
    for session in sessions {
        match store.commit(batch(std::slice::from_ref(session)).0).await {
            Ok(()) | Err(CommitError::Guard(_)) => {}
            Err(CommitError::Store(error)) => return Err(error),
        }
    }
    Ok(())
}

/// What stores the first of these sessions, and how many it stores.
fn batch(sessions: &[Resumable]) -> (Batch, usize) {
    let mut batch = Batch { guards: Vec::new(), writes: Vec::new() };
    let mut bytes = 0;
    for session in sessions.iter().take(COMMIT_SESSIONS_MAX) {
        let bare = session.jid.as_jid().bare();
        let value = encode(session);
        bytes += value.len();
        batch.guards.push(Guard::Present { table: Table::Accounts, key: key::account(bare) });
        batch.writes.push(Write::Put { table: Table::Resumables, key: key::resumable(bare, session.number), value });
        if bytes >= COMMIT_BYTES_MAX {
            break;
        }
    }
    let count = batch.writes.len();
    (batch, count)
}

/// Takes all sessions out of the store. One that is damaged is left out, and gone with the others.
///
/// # Errors
/// [`StoreError`].
pub async fn take<S: Store>(store: &S) -> Result<Vec<Resumable>, StoreError> {
    let pairs = store.scan(Table::Resumables, &[], None, usize::MAX).await?;
    let sessions = pairs.iter().filter_map(|(_, record)| decode(record).ok()).collect();
    for some in pairs.chunks(COMMIT_SESSIONS_MAX) {
        let remove = |(key, _): &(Vec<u8>, Vec<u8>)| Write::Delete { table: Table::Resumables, key: key.clone() };
        let batch = Batch { guards: Vec::new(), writes: some.iter().map(remove).collect() };
        match store.commit(batch).await {
            Ok(()) | Err(CommitError::Guard(_)) => {}
            Err(CommitError::Store(error)) => return Err(error),
        }
    }
    Ok(sessions)
}

/// version · flags · full JID · secret · number · seconds · handled · sent · priority · presence, if it is kept · count ·
/// stanzas, each behind a byte that says whether it is stored as well.
fn encode(session: &Resumable) -> Vec<u8> {
    let mut record = vec![
        VERSION,
        flag(session.priority.is_some(), FLAG_AVAILABLE)
            | flag(session.interested, FLAG_INTERESTED)
            | flag(session.carbons, FLAG_CARBONS)
            | flag(session.presence.is_some(), FLAG_PRESENCE),
    ];
    put_bytes(&mut record, session.jid.as_str().as_bytes());
    record.extend_from_slice(&session.secret);
    record.extend_from_slice(&session.number.to_le_bytes());
    for number in [session.seconds, session.handled, session.sent] {
        put_count(&mut record, number.into());
    }
    record.push(session.priority.unwrap_or_default().to_le_bytes()[0]);
    if let Some(presence) = &session.presence {
        put_bytes(&mut record, presence.as_bytes());
    }
    put_count(&mut record, session.unacked.len() as u64);
    for (stanza, kept) in &session.unacked {
        record.push(u8::from(*kept));
        put_bytes(&mut record, stanza);
    }
    record
}

pub(crate) fn decode(record: &[u8]) -> Result<Resumable, StoreError> {
    let mut reader = Reader::open(record, VERSION)?;
    let flags = reader.u8()?;
    let jid = Jid::parse(reader.text()?).map_err(|_| StoreError::Corrupt)?;
    let (secret, number) = (reader.array()?, reader.u64()?);
    let mut count = || u32::try_from(reader.count()?).map_err(|_| StoreError::Corrupt);
    let (seconds, handled, sent) = (count()?, count()?, count()?);
    let priority = i8::from_le_bytes([reader.u8()?]);
    let presence = (flags & FLAG_PRESENCE != 0).then(|| reader.text().map(Into::into)).transpose()?;
    let stanzas = reader.count()?;
    let mut stanza = || Ok((reader.u8()? != 0, reader.bytes()?.into()));
    let unacked: Vec<(bool, Box<[u8]>)> = (0..stanzas).map(|_| stanza()).collect::<Result<_, StoreError>>()?;
    let unacked = unacked.into_iter().map(|(kept, stanza)| (stanza, kept)).collect();
    reader.close()?;
    Ok(Resumable {
        jid,
        secret,
        number,
        seconds,
        handled,
        sent,
        priority: (flags & FLAG_AVAILABLE != 0).then_some(priority),
        interested: flags & FLAG_INTERESTED != 0,
        carbons: flags & FLAG_CARBONS != 0,
        presence,
        unacked,
    })
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] = &[|record| decode(record).map(|session| encode(&session))];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::store_with;
    use crate::wait::block_on;

    fn session(number: u64) -> Resumable {
        Resumable {
            jid: Jid::parse("lamp@things.example/r").unwrap(),
            secret: [7; 16],
            number,
            seconds: 600,
            handled: u32::MAX,
            sent: 3,
            priority: Some(-5),
            interested: true,
            carbons: true,
            presence: Some("<presence from='lamp@things.example/r'><show>away</show></presence>".into()),
            unacked: vec![(b"<message/>"[..].into(), true), (b"<iq/>"[..].into(), false)],
        }
    }

    #[test]
    fn sessions_are_taken_once() {
        let account = Jid::parse("lamp@things.example").unwrap();
        let memory = store_with(&account);
        let mut gone = session(3);
        gone.jid = Jid::parse("nobody@things.example/r").unwrap();
        block_on(store(&memory, &[session(1), gone, session(2)])).unwrap();
        assert_eq!(block_on(take(&memory)), Ok(vec![session(1), session(2)]));
        assert_eq!(block_on(take(&memory)), Ok(vec![]));
        // More than one commit takes, by number and by size.
        let mut large = session(1_000);
        large.unacked.push((vec![b' '; COMMIT_BYTES_MAX].into(), false));
        let many: Vec<Resumable> = [large].into_iter().chain((0..300).map(session)).collect();
        assert_eq!((batch(&many).1, batch(&many[1..]).1), (1, COMMIT_SESSIONS_MAX));
        block_on(store(&memory, &many)).unwrap();
        assert_eq!(block_on(take(&memory)).map(|sessions| sessions.len()), Ok(301));
        block_on(store(&memory, &[session(1)])).unwrap();
        block_on(crate::accounts::remove(&memory, account.as_jid())).unwrap();
        assert_eq!(block_on(take(&memory)), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn a_session_reads_back(number: u64, seconds: u32, priority: Option<i8>, interested: bool, unacked: Vec<(Vec<u8>, bool)>) {
            let unacked = unacked.into_iter().map(|(stanza, kept)| (stanza.into(), kept)).collect();
            let session = Resumable { seconds, priority, interested, unacked, presence: None, ..session(number) };
            prop_assert_eq!(decode(&encode(&session)), Ok(session));
        }
    }
}
