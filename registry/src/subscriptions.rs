//! Subscriptions: what RFC 6121 §3 makes of a roster item when a request is sent or received.
//!
//! Called by [`crate::errands`] at the owner's home. What is decided is durable before anybody hears of it.
//!
//! Spec: RFC 6121 §3, Appendix A ([`plaza_core::subscription`]).

use plaza_core::jid::JidRef;
use plaza_core::subscription::{Request, State, Step};

use crate::rosters::{self, RosterError, RosterItem, Version};
use crate::store::Store;

/// Which side of a request an owner is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The owner sent it.
    Sent,
    /// The contact did.
    Received,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// How they stood before.
    pub before: State,
    /// What happens.
    pub step: Step,
    /// The item as it is stored now; `None` if there is none.
    pub item: Option<RosterItem>,
    /// The owner's clients are to be shown it anew.
    pub push: bool,
    /// The roster's version now.
    pub version: Version,
}

/// Applies a request of the contact's or the owner's. `stanza` is kept while a question is open, to be asked again at each
/// login (§3.1.3); `requests_left`: how many more questions may be open.
///
/// # Errors
/// [`RosterError::Full`] if there is no room for an item or a question; [`RosterError::NoAccount`],
/// [`RosterError::Store`].
pub async fn apply<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    contact: JidRef<'_>,
    (way, request): (Way, Request),
    stanza: &str,
    items_max: u32,
    requests_left: u32,
) -> Result<Applied, RosterError> {
    let step_from = |state: State| match way {
        Way::Sent => state.sent(request),
        Way::Received => state.received(request),
    };
    let decide = |before: Option<&RosterItem>| {
        let state = before.map_or(State::default(), RosterItem::state);
        let step = step_from(state);
        if step.state == state {
            return None;
        }
        let mut item =
            before.cloned().unwrap_or_else(|| RosterItem { listed: false, ..RosterItem::new(contact.to_jid()) });
        item.subscription = rosters::Subscription::new(step.state.to, step.state.from);
        item.ask = step.state.ask;
        item.approved = step.state.approved;
        item.request = match (step.state.pending_in, item.request) {
            (false, _) => None,
            (true, Some(asked)) => Some(asked),
            (true, None) => Some(stanza.into()),
        };
        // Who holds a subscription, has asked for one or approved one has the contact in the roster; who was asked has not.
        let State { to, from, ask, approved, pending_in } = step.state;
        item.listed |= to || from || ask || approved;
        Some((item.listed || pending_in).then_some(item))
    };
    let asks = way == Way::Received && request == Request::Subscribe;
    if asks && requests_left == 0 {
        let before = rosters::get(store, owner, contact).await?;
        let state = before.as_ref().map_or(State::default(), RosterItem::state);
        if !state.pending_in && step_from(state).state.pending_in {
            return Err(RosterError::Full);
        }
    }
    let rosters::Change { before, after, version } = rosters::change(store, owner, contact, items_max, decide).await?;
    let state = before.as_ref().map_or(State::default(), RosterItem::state);
    let shown = |item: &Option<RosterItem>| item.as_ref().filter(|item| item.listed).map(RosterItem::state);
    let visible = |item: &Option<RosterItem>| shown(item).map(|state| State { pending_in: false, ..state });
    let push = visible(&before) != visible(&after);
    Ok(Applied { before: state, step: step_from(state), push, item: after, version })
}

#[cfg(test)]
mod tests {
    use plaza_core::jid::Jid;

    use super::*;
    use crate::rosters::Subscription;
    use crate::store::memory::MemoryStore;
    use crate::testing::store_with;
    use crate::wait::block_on;

    struct Roster {
        store: MemoryStore,
        owner: Jid,
        contact: Jid,
    }

    impl Roster {
        fn new() -> Self {
            let owner = Jid::parse("owner@things.example").unwrap();
            Self { store: store_with(&owner), owner, contact: Jid::parse("lamp@things.example").unwrap() }
        }

        fn apply(&self, way: Way, request: Request) -> Result<Applied, RosterError> {
            self.apply_with(way, request, "<presence type='subscribe'/>", 10)
        }

        fn apply_with(&self, way: Way, request: Request, stanza: &str, left: u32) -> Result<Applied, RosterError> {
            let (owner, contact) = (self.owner.as_jid(), self.contact.as_jid());
            block_on(apply(&self.store, owner, contact, (way, request), stanza, 10, left))
        }

        fn item(&self) -> Option<RosterItem> {
            block_on(rosters::get(&self.store, self.owner.as_jid(), self.contact.as_jid())).unwrap()
        }
    }

    #[test]
    fn a_question_is_kept_out_of_sight_until_it_is_answered() {
        let roster = Roster::new();
        let asked = roster.apply(Way::Received, Request::Subscribe).unwrap();
        assert!(asked.step.passes && !asked.push);
        let item = roster.item().unwrap();
        assert_eq!((item.listed, item.request.as_deref()), (false, Some("<presence type='subscribe'/>")));
        assert_eq!(
            block_on(rosters::remove(&roster.store, roster.owner.as_jid(), roster.contact.as_jid())),
            Err(RosterError::NotFound)
        );
        let again = roster.apply_with(Way::Received, Request::Subscribe, "<other/>", 0).unwrap();
        assert!(!again.step.passes, "asked once");
        assert_eq!(roster.item().unwrap().request, item.request);
        let answered = roster.apply(Way::Sent, Request::Subscribed).unwrap();
        assert!(answered.step.passes && answered.push);
        let item = roster.item().unwrap();
        assert_eq!((item.listed, item.request, item.subscription), (true, None, Subscription::From));
    }

    #[test]
    fn a_question_denied_or_withdrawn_leaves_nothing() {
        for (way, request) in [(Way::Sent, Request::Unsubscribed), (Way::Received, Request::Unsubscribe)] {
            let roster = Roster::new();
            roster.apply(Way::Received, Request::Subscribe).unwrap();
            let done = roster.apply(way, request).unwrap();
            assert!(done.step.passes && !done.push, "{way:?}");
            assert_eq!(roster.item(), None, "{way:?}");
        }
    }

    #[test]
    fn what_the_owner_asks_is_shown_and_what_came_of_it() {
        let roster = Roster::new();
        assert!(roster.apply(Way::Sent, Request::Subscribe).unwrap().push);
        let again = roster.apply(Way::Sent, Request::Subscribe).unwrap();
        assert!(again.step.passes && !again.push);
        let version = block_on(rosters::version(&roster.store, roster.owner.as_jid())).unwrap();
        assert!(again.version == version && version != Version::default());
        assert_eq!(roster.item().map(|item| (item.ask, item.subscription)), Some((true, Subscription::None)));
        assert!(roster.apply(Way::Received, Request::Subscribed).unwrap().push);
        assert_eq!(roster.item().map(|item| (item.ask, item.subscription)), Some((false, Subscription::To)));
        assert!(!roster.apply(Way::Received, Request::Subscribed).unwrap().step.passes, "nobody asked");
        assert!(roster.apply(Way::Received, Request::Unsubscribed).unwrap().push);
        assert_eq!(roster.item().map(|item| item.subscription), Some(Subscription::None), "the item stays");
    }

    #[test]
    fn there_are_so_many_open_questions_and_no_more() {
        let roster = Roster::new();
        assert_eq!(roster.apply_with(Way::Received, Request::Subscribe, "", 0), Err(RosterError::Full));
        assert_eq!(roster.item(), None);
        roster.apply(Way::Sent, Request::Subscribed).unwrap();
        let approved = roster.apply_with(Way::Received, Request::Subscribe, "", 0).unwrap();
        assert_eq!(approved.step.answer, Some(Request::Subscribed), "who is approved opens none");
    }
}
