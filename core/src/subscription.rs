//! Presence subscriptions: what a request does to the state between an owner and a contact (RFC 6121 §3, Appendix A).
//!
//! Called by whoever keeps the roster, once for what the owner sent and, at the contact's home, once for what arrived.
//! Pure: the nine states of the RFC are five facts, and its eight tables are two functions.

use crate::stanza::PresenceType;

/// A presence stanza that manages a subscription (RFC 6121 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the protocol's own words")]
pub enum Request {
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
}

impl Request {
    /// The request a presence is, if it is one.
    pub const fn of(presence: PresenceType) -> Option<Self> {
        match presence {
            PresenceType::Subscribe => Some(Self::Subscribe),
            PresenceType::Subscribed => Some(Self::Subscribed),
            PresenceType::Unsubscribe => Some(Self::Unsubscribe),
            PresenceType::Unsubscribed => Some(Self::Unsubscribed),
            PresenceType::Available | PresenceType::Unavailable | PresenceType::Probe | PresenceType::Error => None,
        }
    }

    /// Its `type`.
    pub const fn presence(self) -> PresenceType {
        match self {
            Self::Subscribe => PresenceType::Subscribe,
            Self::Subscribed => PresenceType::Subscribed,
            Self::Unsubscribe => PresenceType::Unsubscribe,
            Self::Unsubscribed => PresenceType::Unsubscribed,
        }
    }

    /// The word on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Subscribed => "subscribed",
            Self::Unsubscribe => "unsubscribe",
            Self::Unsubscribed => "unsubscribed",
        }
    }
}

/// How an owner and a contact stand, seen from the owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// The owner sees the contact's presence.
    pub to: bool,
    /// The contact sees the owner's presence.
    pub from: bool,
    /// The owner asked and was not answered ("Pending Out").
    pub ask: bool,
    /// The contact asked and was not answered ("Pending In").
    pub pending_in: bool,
    /// The owner said yes before the contact asked (§3.4).
    pub approved: bool,
}

/// What a request comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// How they stand now.
    pub state: State,
    /// Sent: it goes on to the contact. Received: the owner's resources get it.
    pub passes: bool,
    /// What the owner's server answers the contact by itself.
    pub answer: Option<Request>,
}

impl State {
    /// The owner sends a request (Appendix A.2).
    pub const fn sent(self, request: Request) -> Step {
        let mut state = self;
        let passes = match request {
            // A.2.1: always routed; pending unless the owner sees the contact already.
            Request::Subscribe => {
                state.ask = !self.to;
                true
            }
            // A.2.2
            Request::Unsubscribe => {
                state.to = false;
                state.ask = false;
                true
            }
            // A.2.3: an answer to a question goes out; without one it is an approval in advance (§3.4).
            Request::Subscribed => {
                state.from = self.from || self.pending_in;
                state.approved = self.approved || !(self.from || self.pending_in);
                state.pending_in = false;
                self.pending_in
            }
            // A.2.4; cancels an approval, too (§3.4.2).
            Request::Unsubscribed => {
                state.from = false;
                state.pending_in = false;
                state.approved = false;
                self.from || self.pending_in
            }
        };
        Step { state, passes, answer: None }
    }

    /// A request arrives from the contact (Appendix A.3).
    pub const fn received(self, request: Request) -> Step {
        let mut state = self;
        let mut answer = None;
        let passes = match request {
            // A.3.1: who is approved is answered by the server (§3.1.3, §3.4.3); a question is asked once.
            Request::Subscribe => {
                if self.from || self.approved {
                    state.from = true;
                    state.pending_in = false;
                    answer = Some(Request::Subscribed);
                    false
                } else {
                    state.pending_in = true;
                    !self.pending_in
                }
            }
            // A.3.2
            Request::Unsubscribe => {
                state.from = false;
                state.pending_in = false;
                self.from || self.pending_in
            }
            // A.3.3: what was not asked for changes nothing.
            Request::Subscribed => {
                state.to = self.to || self.ask;
                state.ask = false;
                self.ask
            }
            // A.3.4
            Request::Unsubscribed => {
                state.to = false;
                state.ask = false;
                self.to || self.ask
            }
        };
        Step { state, passes, answer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn state(to: bool, from: bool, ask: bool, pending_in: bool) -> State {
        State { to, from, ask, pending_in, approved: false }
    }

    const NONE: State = state(false, false, false, false);
    const NONE_OUT: State = state(false, false, true, false);
    const NONE_IN: State = state(false, false, false, true);
    const NONE_OUT_IN: State = state(false, false, true, true);
    const TO: State = state(true, false, false, false);
    const TO_IN: State = state(true, false, false, true);
    const FROM: State = state(false, true, false, false);
    const FROM_OUT: State = state(false, true, true, false);
    const BOTH: State = state(true, true, false, false);
    const ALL: [State; 9] = [NONE, NONE_OUT, NONE_IN, NONE_OUT_IN, TO, TO_IN, FROM, FROM_OUT, BOTH];

    /// A table of Appendix A: for each of the nine states, whether the request passes, and the new state.
    #[track_caller]
    fn check(step: fn(State, Request) -> Step, request: Request, expected: [(bool, State); 9]) {
        for (before, (passes, after)) in ALL.into_iter().zip(expected) {
            let found = step(before, request);
            // An approval in advance is beside these tables, and has its own test.
            let found_state = State { approved: false, ..found.state };
            assert_eq!((found.passes, found_state), (passes, after), "{before:?}");
        }
    }

    #[test]
    fn what_the_owner_sends_follows_appendix_a_2() {
        const Y: bool = true;
        const N: bool = false;
        #[rustfmt::skip]
        check(State::sent, Request::Subscribe, [
            (Y, NONE_OUT), (Y, NONE_OUT), (Y, NONE_OUT_IN), (Y, NONE_OUT_IN), (Y, TO), (Y, TO_IN), (Y, FROM_OUT),
            (Y, FROM_OUT), (Y, BOTH),
        ]);
        #[rustfmt::skip]
        check(State::sent, Request::Unsubscribe, [
            (Y, NONE), (Y, NONE), (Y, NONE_IN), (Y, NONE_IN), (Y, NONE), (Y, NONE_IN), (Y, FROM), (Y, FROM), (Y, FROM),
        ]);
        #[rustfmt::skip]
        check(State::sent, Request::Subscribed, [
            (N, NONE), (N, NONE_OUT), (Y, FROM), (Y, FROM_OUT), (N, TO), (Y, BOTH), (N, FROM), (N, FROM_OUT), (N, BOTH),
        ]);
        #[rustfmt::skip]
        check(State::sent, Request::Unsubscribed, [
            (N, NONE), (N, NONE_OUT), (Y, NONE), (Y, NONE_OUT), (N, TO), (Y, TO), (Y, NONE), (Y, NONE_OUT), (Y, TO),
        ]);
    }

    #[test]
    fn what_the_owner_receives_follows_appendix_a_3() {
        const Y: bool = true;
        const N: bool = false;
        #[rustfmt::skip]
        check(State::received, Request::Subscribe, [
            (Y, NONE_IN), (Y, NONE_OUT_IN), (N, NONE_IN), (N, NONE_OUT_IN), (Y, TO_IN), (N, TO_IN), (N, FROM),
            (N, FROM_OUT), (N, BOTH),
        ]);
        #[rustfmt::skip]
        check(State::received, Request::Unsubscribe, [
            (N, NONE), (N, NONE_OUT), (Y, NONE), (Y, NONE_OUT), (N, TO), (Y, TO), (Y, NONE), (Y, NONE_OUT), (Y, TO),
        ]);
        #[rustfmt::skip]
        check(State::received, Request::Subscribed, [
            (N, NONE), (Y, TO), (N, NONE_IN), (Y, TO_IN), (N, TO), (N, TO_IN), (N, FROM), (Y, BOTH), (N, BOTH),
        ]);
        #[rustfmt::skip]
        check(State::received, Request::Unsubscribed, [
            (N, NONE), (Y, NONE), (N, NONE_IN), (Y, NONE_IN), (Y, NONE), (Y, NONE_IN), (N, FROM), (Y, FROM), (Y, FROM),
        ]);
    }

    #[test]
    fn who_is_approved_is_answered_at_once() {
        for before in [FROM, FROM_OUT, BOTH] {
            assert_eq!(before.received(Request::Subscribe).answer, Some(Request::Subscribed), "{before:?}");
        }
        for before in [NONE, NONE_OUT, NONE_IN, NONE_OUT_IN, TO, TO_IN] {
            assert_eq!(before.received(Request::Subscribe).answer, None, "{before:?}");
        }
        // §3.4: in advance, for each state in which the contact has not asked and does not see the owner.
        for (before, after) in [(NONE, FROM), (NONE_OUT, FROM_OUT), (TO, BOTH)] {
            let Step { state, passes, answer } = before.sent(Request::Subscribed);
            assert_eq!((state, passes, answer), (State { approved: true, ..before }, false, None));
            let step = state.received(Request::Subscribe);
            assert_eq!(step.answer, Some(Request::Subscribed));
            assert_eq!((step.state, step.passes), (State { approved: true, ..after }, false));
            assert!(!step.state.sent(Request::Unsubscribed).state.approved);
        }
        assert!(!NONE_IN.sent(Request::Subscribed).state.approved, "an answer is no approval in advance");
    }

    #[test]
    fn two_sides_that_talk_end_in_states_that_agree() {
        // Whatever they send, in any order and each delivered at once, what one calls "to" the other calls "from".
        let requests = [Request::Subscribe, Request::Subscribed, Request::Unsubscribe, Request::Unsubscribed];
        for seed in 0..4_u32.pow(6) * 64 {
            let mut sides = [NONE, NONE];
            for turn in 0..6 {
                let who = ((seed as usize / 4_usize.pow(6)) >> turn) & 1;
                let request = requests[(seed as usize / 4_usize.pow(turn as u32)) % 4];
                let step = sides[who].sent(request);
                sides[who] = step.state;
                if step.passes {
                    let heard = sides[1 - who].received(request);
                    sides[1 - who] = heard.state;
                    if let Some(answer) = heard.answer {
                        sides[who] = sides[who].received(answer).state;
                    }
                }
                let [a, b] = sides;
                assert_eq!((a.to, b.to), (b.from, a.from), "{seed}: {a:?} {b:?}");
            }
        }
    }
}
