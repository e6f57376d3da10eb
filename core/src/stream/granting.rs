//! Granting: SASL has succeeded, and what the client asked for with it is carried out before it is told.
//!
//! First the client's tokens are kept, then the session to resume is looked for, then, if there is none, the one to bind; then `<success/>` tells all that became of it.
//!
//! Spec: XEP-0388 v1.0.4 §2.6.1; XEP-0386 v1.1.0 §3.2; XEP-0198 v1.6.3 §8; XEP-0484 v0.2.0 §3.3, §3.5.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::binding::Binding;
use super::error::{Violation, write_parts};
use super::inline::{Former, Inline, NewSession, Wish, Wishes};
use super::profile::{Attempt, Profile};
use super::{Action, Claimed, IssuedToken, Link, NotResumed, Proof, Resumed, State};
use crate::jid::Jid;
use crate::sasl::SaslFailure;
use crate::sm::{self, SmId};
use crate::xml::write;
use crate::{ns, stanza};

/// An action is to be answered before the client is told of its success.
#[derive(Debug)]
pub(super) struct Granting {
    account: Jid,
    /// What the mechanism says last.
    data: Box<[u8]>,
    wishes: Wishes,
    /// Why the former session was not resumed, if it was asked for.
    not_resumed: Option<sm::Failed>,
    /// The attempts that are left, should this one fail after all.
    left: u8,
    /// A token for the next time.
    issued: Option<IssuedToken>,
    awaited: Awaited,
}

/// What is to be answered.
#[derive(Debug)]
enum Awaited {
    /// Nothing yet.
    Nothing,
    /// [`Action::Tokens`]
    Tokens,
    /// [`Action::Resume`]
    Former(SmId),
    /// [`Action::Bind`]; stream management was asked for.
    New { sm: bool },
}

impl Granting {
    /// The client is who it says it is.
    pub(super) fn begin(link: &mut Link, attempt: Attempt, account: Jid, data: &[u8], out: &mut Vec<u8>) -> State {
        let Attempt { left, wishes, proof, .. } = attempt;
        let wishes = *wishes.unwrap_or_default();
        let wanted = wishes.token.filter(|mechanism| link.offers_fast() && link.permits_token(*mechanism));
        let (client, data) = (wishes.client, data.into());
        let awaited = Awaited::Nothing;
        let mut granting = Self { account, data, wishes, not_resumed: None, left, issued: None, awaited };
        // Tokens are given to clients that say which they are (XEP-0484 §4.1).
        if let (Some(client), Some(proof)) = (client, proof)
            && (wanted.is_some() || matches!(*proof, Proof::Token(_)))
        {
            link.action = Some(Action::Tokens { account: granting.account.clone(), client, proof: *proof, wanted });
            granting.awaited = Awaited::Tokens;
            return State::Granting(Box::new(granting));
        }
        link.attempt = Some(Ok(()));
        granting.go_on(link, out)
    }

    /// Takes the answer to [`Action::Tokens`].
    pub(super) fn on_tokens(
        mut self,
        link: &mut Link,
        kept: Result<Option<IssuedToken>, SaslFailure>,
        out: &mut Vec<u8>,
    ) -> State {
        if !matches!(self.awaited, Awaited::Tokens) {
            return State::Granting(Box::new(self));
        }
        match kept {
            Ok(issued) => {
                link.attempt = Some(Ok(()));
                self.issued = issued;
                self.go_on(link, out)
            }
            Err(failure) => Attempt::new(self.left, Profile::Sasl2).fail(link, failure, out),
        }
    }

    pub(super) const fn account(&self) -> &Jid {
        &self.account
    }

    /// Does what is to be done next.
    fn go_on(mut self, link: &mut Link, out: &mut Vec<u8>) -> State {
        if let Some(Former { previd, h }) = self.wishes.resume.take() {
            match previd {
                _ if !link.config.offers_sm => {
                    self.not_resumed = Some(stanza::Condition::FeatureNotImplemented.into());
                }
                None => self.not_resumed = Some(stanza::Condition::ItemNotFound.into()),
                Some(previd) => {
                    link.action = Some(Action::Resume { account: self.account.clone(), previd, h });
                    self.awaited = Awaited::Former(previd);
                    return State::Granting(Box::new(self));
                }
            }
        }
        if let Some(mut session) = self.wishes.bind.take() {
            let resource = Wish::Tagged { tag: session.usable_tag(&self.account), client: self.wishes.client };
            let inline = link.offered(&session);
            link.action = Some(Action::Bind { account: self.account.clone(), resource, inline });
            self.awaited = Awaited::New { sm: session.inline.sm.is_some() };
            return State::Granting(Box::new(self));
        }
        self.succeed_without_session(link, out)
    }

    /// The client has authenticated, and binds as RFC 6120 has it.
    fn succeed_without_session(self, link: &Link, out: &mut Vec<u8>) -> State {
        self.write_success(&self.account, out, |_| ());
        link.write_features_after_auth(out);
        State::Binding(Binding::new(self.account))
    }

    /// Takes the answer to [`Action::Resume`]: the session's JID if it was, and then nothing else is done, nor are there
    /// features (XEP-0198 §8.2).
    ///
    /// # Errors
    /// [`Violation::HandledCountTooHigh`].
    pub(super) fn on_resume(
        mut self,
        link: &mut Link,
        answer: Result<Resumed, NotResumed>,
        out: &mut Vec<u8>,
    ) -> Result<Granted, Violation> {
        let Awaited::Former(previd) = &self.awaited else { return Ok(Granted::Not(State::Granting(Box::new(self)))) };
        match answer {
            Ok(Resumed { jid, h }) => {
                self.write_success(&jid, out, |out| sm::write_resumed(out, h, previd));
                Ok(Granted::Session(jid))
            }
            Err(NotResumed::Failed(failed)) => {
                self.not_resumed = Some(failed);
                Ok(Granted::Not(self.go_on(link, out)))
            }
            Err(NotResumed::HandledCountTooHigh(counts)) => Err(Violation::HandledCountTooHigh(counts)),
        }
    }

    /// Takes the answer to [`Action::Bind`]. There is no word for a refusal in XEP-0386: the client learns that it has
    /// authenticated and that no resource is bound, and may ask as RFC 6120 has it, which has words.
    pub(super) fn on_bind(self, link: &Link, answer: Result<Claimed, stanza::Condition>, out: &mut Vec<u8>) -> Granted {
        let Awaited::New { sm } = self.awaited else { return Granted::Not(State::Granting(Box::new(self))) };
        let Ok(Claimed { jid, sm: managed }) = answer else {
            return Granted::Not(self.succeed_without_session(link, out));
        };
        // What was asked for must be answered, also where it is not offered (XEP-0386 §3.2.1, XEP-0198 §8.1.1).
        let managed = sm.then(|| managed.unwrap_or_else(|| Err(stanza::Condition::FeatureNotImplemented.into())));
        self.write_success(&jid, out, |out| {
            write_parts(out, &["<bound xmlns='", ns::BIND2]);
            match managed {
                None => return out.extend_from_slice(b"'/>"),
                Some(Ok(enabled)) => {
                    out.extend_from_slice(b"'>");
                    enabled.write(out);
                }
                Some(Err(failed)) => {
                    out.extend_from_slice(b"'>");
                    failed.write(out);
                }
            }
            out.extend_from_slice(b"</bound>");
        });
        link.write_features_after_bind(matches!(managed, Some(Ok(_))), out);
        Granted::Session(jid)
    }

    /// Writes `<success/>` (XEP-0388 §2.6.1); `session` writes what became of the session.
    fn write_success(&self, identifier: &Jid, out: &mut Vec<u8>, session: impl FnOnce(&mut Vec<u8>)) {
        write_parts(out, &["<success xmlns='", ns::SASL2, "'>"]);
        if !self.data.is_empty() {
            write_parts(out, &["<additional-data>", &STANDARD.encode(&self.data), "</additional-data>"]);
        }
        out.extend_from_slice(b"<authorization-identifier>");
        write::text(out, identifier.as_str());
        out.extend_from_slice(b"</authorization-identifier>");
        if let Some(failed) = self.not_resumed {
            failed.write(out);
        }
        session(out);
        if let Some(IssuedToken { secret, expiry }) = &self.issued {
            write_parts(
                out,
                &["<token xmlns='", ns::FAST, "' expiry='", expiry, "' token='", &secret.to_string(), "'/>"],
            );
        }
        out.extend_from_slice(b"</success>");
    }
}

/// What became of it.
pub(super) enum Granted {
    /// The stream is this session.
    Session(Jid),
    /// It is not one yet.
    Not(State),
}

impl Link {
    /// What of the wishes the listener offers.
    fn offered(&self, session: &NewSession) -> Inline {
        let Inline { sm, carbons, active } = session.inline;
        Inline {
            sm: sm.filter(|_| self.config.offers_sm),
            carbons: carbons && self.config.offers_carbons,
            active: active.filter(|_| self.config.offers_csi),
        }
    }
}
