//! What everybody in the city does whoever it is: fetches its roster, says that it is there, pings its server, and notices
//! what is not answered.
//!
//! Held by [`super::device`], [`super::owner`] and [`super::service`]; performs no I/O and reads no clock.

use plaza_core::xml::read::Node;

use super::funnel::Timing;
use super::town::Town;
use super::wire::{self, News, PING, Pulse, ROSTER, Requests, Turn};

/// What is asked: what everybody asks of its server, or something of one's own.
#[derive(Debug)]
enum Ask<T> {
    Roster,
    Ping,
    Own(T),
}

/// Somebody's session, from its beginning to the end of its connection; `T`: what it asks beside that.
#[derive(Debug)]
pub(crate) struct Life<T> {
    requests: Requests<Ask<T>>,
    pulse: Pulse,
}

impl<T> Life<T> {
    /// Not begun.
    pub(crate) const fn new() -> Self {
        Self { requests: Requests::new(), pulse: Pulse::STILL }
    }

    /// The session has begun. `number` tells, by the seed, how long it is until the first ping.
    pub(crate) fn begin(&mut self, town: &Town, number: u64, turn: &mut Turn<'_>) {
        self.requests.ask(turn, "get", "", ROSTER, turn.now_ns, Ask::Roster);
        turn.out.extend_from_slice(b"<presence/>");
        self.pulse = Pulse::from(turn.now_ns + town.pause_ns(number, 0, wire::PING_NS));
    }

    /// The connection is gone, and with it all that was asked.
    pub(crate) fn end(&mut self) {
        self.requests.clear();
        self.pulse = Pulse::STILL;
    }

    /// When a ping is due, or the time of a request is over.
    pub(crate) fn due_ns(&self) -> u64 {
        self.pulse.due_ns().min(self.requests.due_ns())
    }

    /// Does what is due; gives the requests of one's own whose time is over.
    pub(crate) fn tick(&mut self, turn: &mut Turn<'_>) -> Vec<T> {
        if let Some(since_ns) = self.pulse.beat(turn.now_ns) {
            if self.requests.open().any(|ask| matches!(ask, Ask::Ping)) {
                turn.trouble("ping unanswered", "when the next was due");
            }
            self.requests.ask(turn, "get", "", PING, since_ns, Ask::Ping);
        }
        let mut own = Vec::new();
        for ask in self.requests.overdue(turn.now_ns) {
            match ask {
                Ask::Roster => turn.trouble("no answer", "to roster"),
                Ask::Ping => turn.trouble("no answer", "to ping"),
                Ask::Own(what) => own.push(what),
            }
        }
        own
    }

    /// Asks something of its own; as [`Requests::ask`].
    pub(crate) fn ask(&mut self, turn: &mut Turn<'_>, kind: &str, to: &str, payload: &[u8], since_ns: u64, what: T) {
        self.requests.ask(turn, kind, to, payload, since_ns, Ask::Own(what));
    }

    /// Takes an answer; gives what was asked, and since when, if it was something of its own.
    pub(crate) fn answered(&mut self, stanza: &Node, turn: &mut Turn<'_>) -> Option<(T, u64)> {
        let (ask, since_ns) = self.requests.answered(stanza, turn)?;
        let failed = stanza.attr("type") == Some("error");
        match ask {
            Ask::Own(what) => return Some((what, since_ns)),
            Ask::Roster if failed => turn.trouble("roster refused", wire::condition(stanza).0),
            Ask::Roster => {}
            Ask::Ping if failed => turn.trouble("ping refused", wire::condition(stanza).0),
            Ask::Ping => turn.tell(News::Took(Timing::Ping, turn.now_ns.saturating_sub(since_ns))),
        }
        None
    }

    /// Forgets what was asked of somebody who went away; gives how many requests that were.
    pub(crate) fn forget(&mut self, to: &str) -> usize {
        self.requests.forget(to).len()
    }

    /// Asks nothing of the server any more, and waits for nothing from it.
    #[cfg(test)]
    pub(crate) fn hush(&mut self) {
        self.pulse = Pulse::STILL;
        self.requests.forget("");
    }
}

#[cfg(test)]
mod tests {
    use super::super::town::tests::census;
    use super::super::wire::tests::{during, stanza};
    use super::super::wire::{PING_NS, REQUEST_NS_MAX};
    use super::*;

    #[test]
    fn a_life_begins_with_roster_and_presence_and_goes_on_with_pings() {
        let town = Town::new(census(5));
        let mut life = Life::<()>::new();
        assert_eq!(life.due_ns(), u64::MAX);
        let (said, _) = during(0, |turn| life.begin(&town, 1, turn));
        assert_eq!(said, "<iq type='get' id='1'><query xmlns='jabber:iq:roster'/></iq><presence/>");
        let (said, news) =
            during(1, |turn| assert!(life.answered(&stanza("<iq type='result' id='1'/>"), turn).is_none()));
        assert_eq!((said.as_str(), news), ("", Vec::new()));
        let due_ns = life.due_ns();
        assert!(due_ns < PING_NS);
        let (said, _) = during(due_ns, |turn| assert!(life.tick(turn).is_empty()));
        assert_eq!(said, "<iq type='get' id='2'><ping xmlns='urn:xmpp:ping'/></iq>");
        let (_, news) =
            during(due_ns + 3, |turn| assert!(life.answered(&stanza("<iq type='result' id='2'/>"), turn).is_none()));
        assert_eq!(news, [News::Took(Timing::Ping, 3)]);
        life.end();
        assert_eq!(life.due_ns(), u64::MAX);
    }

    #[test]
    fn what_is_refused_or_not_answered_is_told_and_what_is_its_own_is_given_back() {
        let town = Town::new(census(5));
        let mut life = Life::new();
        during(0, |turn| {
            life.begin(&town, 1, turn);
            life.ask(turn, "set", "things.example", b"<a/>", 0, 'a');
            life.ask(turn, "set", "other.example", b"<b/>", 0, 'b');
            assert_eq!((life.forget("other.example"), life.forget("other.example")), (1, 0));
        });
        let refused = "<iq type='error' id='1'><error type='cancel'>\
                       <forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>";
        let (_, news) = during(1, |turn| assert!(life.answered(&stanza(refused), turn).is_none()));
        assert_eq!(news, [News::Trouble("roster refused", "forbidden".to_owned())]);
        let answer = stanza("<iq type='result' id='2' from='things.example'/>");
        let mut own = None;
        during(2, |turn| own = life.answered(&answer, turn));
        assert_eq!(own, Some(('a', 0)));

        let first_ns = life.due_ns();
        during(first_ns, |turn| life.ask(turn, "get", "things.example", b"<c/>", first_ns, 'c'));
        during(first_ns, |turn| assert!(life.tick(turn).is_empty()));
        let mut over = Vec::new();
        let (_, news) = during(first_ns + REQUEST_NS_MAX, |turn| over = life.tick(turn));
        assert_eq!(over, ['c']);
        assert_eq!(
            news,
            [
                News::Trouble("ping unanswered", "when the next was due".to_owned()),
                News::Trouble("no answer", "to ping".to_owned()),
            ]
        );
    }
}
