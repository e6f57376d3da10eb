//! Stream management of sessions (XEP-0198 v1.6.3), as far as negotiation asks for it.

use plaza_core::jid::Jid;
use plaza_core::sm::SmId;
use plaza_core::stanza::Condition;
use plaza_core::stream::{NotResumed, Resumed};

use super::{SessionId, Shard};
use crate::ring::Key;

impl Shard {
    /// Gives the connection a session of this account that was cut off (XEP-0198 v1.6.3 §5). A session ends with its
    /// stream, so there is never one to resume.
    ///
    /// # Errors
    /// [`Condition::ItemNotFound`].
    pub fn resume_session(
        &mut self,
        _connection: Key,
        _account: &Jid,
        _previd: &SmId,
        _h: u32,
    ) -> Result<(SessionId, Resumed), NotResumed> {
        Err(Condition::ItemNotFound.into())
    }
}
