//! What clients can do (XEP-0115 v1.6.0): learned once for each hash, from whoever shows it first, and believed of others only
//! if the hash is right.
//!
//! All that is kept is which nodes a client wants to be told of (`+notify`, XEP-0163 v1.2.2 §4.3).

use plaza_core::caps::{Caps, Info, Ver};
use plaza_core::ns;
use plaza_core::stanza::{Class, IqType, Stanza};
use plaza_core::xml::write;
use plaza_registry::directory::Nodes;

use super::Shard;
use super::session::SessionId;

/// A question what a client can do, that was not answered yet.
#[derive(Debug)]
pub(super) struct Asked {
    session: SessionId,
    caps: Caps,
}

/// What a session waits for.
#[derive(Debug, Default)]
pub(super) struct Learning {
    /// The number of the question it was asked.
    asked: Option<u64>,
    /// The hash that somebody was asked about.
    ver: Option<Ver>,
}

/// Who shows a hash that somebody was asked about.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    sessions: Vec<SessionId>,
}

/// Sessions that wait for one answer; others try again with their next presence.
const WAITING_MAX: usize = 4_096;

impl Shard {
    /// A session's presence says what its client can do: known already, or asked for.
    pub(super) fn note_caps(&mut self, id: SessionId, stanza: &Stanza<'_>) {
        let Some(caps) = stanza.element.children().find_map(|child| Caps::read(&child)) else { return };
        let ver = caps.ver();
        if let Some(nodes) = ver.and_then(|ver| self.config.caps.get(ver)) {
            return self.set_notified(id, nodes);
        }
        // One thing at a time: a client that shows one hash after the other and answers nothing costs no more than one that
        // does not answer.
        let Some(session) = self.get_mut(id) else { return };
        if session.extras.as_ref().is_some_and(|extras| extras.learning.is_some()) {
            return;
        }
        // What cannot be verified is asked of each.
        let Some(ver) = ver else { return self.ask_caps(id, caps) };
        let waiting = &mut self.caps_waiting.entry(ver).or_default().sessions;
        if waiting.len() >= WAITING_MAX {
            return;
        }
        waiting.push(id);
        let waiting = waiting.len();
        if let Some(session) = self.get_mut(id) {
            session.extras().learning = Some(Learning { asked: None, ver: Some(ver) });
        }
        // Who was asked first may never answer: the second is asked as well, the fourth, the eighth.
        if waiting.is_power_of_two() {
            self.ask_caps(id, caps);
        }
    }

    fn ask_caps(&mut self, id: SessionId, caps: Caps) {
        self.ids += 1;
        let number = self.ids;
        let Some(session) = self.get_mut(id) else { return };
        session.extras().learning.get_or_insert_default().asked = Some(number);
        let (jid, node) = (session.jid.clone(), caps.query_node());
        self.caps_asked.insert(number, Asked { session: id, caps });
        let name = format!("{}{number}", self.config.id_prefix);
        self.tell(id, |out| {
            out.extend_from_slice(b"<iq type='get'");
            write::attr(out, "id", &name);
            write::attr(out, "from", jid.as_jid().domain());
            write::attr(out, "to", jid.as_str());
            out.extend_from_slice(b"><query");
            write::attr(out, "xmlns", ns::DISCO_INFO);
            write::attr(out, "node", &node);
            out.extend_from_slice(b"/></iq>");
        });
    }

    /// An iq of type result or error to the server: the answer to such a question, if it is one.
    pub(super) fn learn_caps(&mut self, id: SessionId, stanza: &Stanza<'_>) -> bool {
        let number = stanza.id.and_then(|id| id.raw.strip_prefix(&*self.config.id_prefix)?.parse().ok());
        let Some(number) = number else { return false };
        if !self.caps_asked.get(&number).is_some_and(|asked| asked.session == id) {
            return false;
        }
        let Some(Asked { caps, .. }) = self.caps_asked.remove(&number) else { return false };
        let query = stanza.element.first_child().filter(|child| child.is("query", ns::DISCO_INFO));
        let info = (stanza.class == Class::Iq(IqType::Result))
            .then(|| query.and_then(|query| stanza.element.read(&query)))
            .flatten()
            .and_then(|query| Info::read(&query).ok());
        self.forget_caps(id);
        let Some(info) = info else { return true };
        match caps.ver() {
            Some(ver) => match self.config.caps.learn(ver, &info) {
                Some(nodes) => {
                    self.learned(ver, &nodes);
                    self.set_notified(id, nodes);
                }
                // Believed of this one alone.
                None => self.set_notified(id, info.notified().into()),
            },
            None => self.set_notified(id, info.notified().into()),
        }
        self.want_last(id);
        true
    }

    /// A hash is verified: all that show it are known.
    fn learned(&mut self, ver: Ver, nodes: &Nodes) {
        for id in self.caps_waiting.remove(&ver).unwrap_or_default().sessions {
            self.forget_caps(id);
            self.set_notified(id, Nodes::clone(nodes));
            self.want_last(id);
        }
    }

    fn set_notified(&mut self, id: SessionId, nodes: Nodes) {
        let Some(session) = self.get_mut(id) else { return };
        if nodes.is_empty() && session.extras.is_none() {
            return;
        }
        session.extras().notified = Some(nodes);
    }

    /// Whether a session wants to be told of a node.
    pub fn is_notified_of(&self, id: SessionId, node: &str) -> bool {
        let extras = self.get(id).and_then(|session| session.extras.as_ref());
        let nodes = extras.and_then(|extras| extras.notified.as_ref());
        nodes.is_some_and(|nodes| nodes.binary_search_by(|known| (**known).cmp(node)).is_ok())
    }

    /// The nodes a session wants to be told of.
    pub fn notified_of(&self, id: SessionId) -> Option<Nodes> {
        self.get(id)?.extras.as_ref()?.notified.clone()
    }

    /// A session waits for nothing any more: it is gone, or has answered.
    pub(super) fn forget_caps(&mut self, id: SessionId) {
        let learning = self.get_mut(id).and_then(|session| session.extras.as_mut()?.learning.take());
        let Some(Learning { asked, ver }) = learning else { return };
        if let Some(number) = asked {
            self.caps_asked.remove(&number);
        }
        let Some(ver) = ver else { return };
        if let Some(Waiting { sessions }) = self.caps_waiting.get_mut(&ver) {
            sessions.retain(|&waits| waits != id);
            if sessions.is_empty() {
                self.caps_waiting.remove(&ver);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{bind, feed, shards};
    use super::*;

    const NODE: &str = "urn:xmpp:avatar:metadata";

    fn info(nodes: &[&str]) -> String {
        let features: String = nodes.iter().map(|node| format!("<feature var='{node}+notify'/>")).collect();
        format!(
            "<query xmlns='http://jabber.org/protocol/disco#info'><identity category='client' type='pc'/>{features}</query>"
        )
    }

    fn ver(nodes: &[&str]) -> String {
        let node = plaza_core::xml::read::Node::parse(&info(nodes), ns::CLIENT).unwrap();
        let ver = Info::read(&node).unwrap().ver(plaza_core::caps::HashFunction::Sha1);
        let mut out = Vec::new();
        Caps::new("urn:test", ver).write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn said(shard: &mut Shard, id: SessionId) -> String {
        String::from_utf8(shard.take_outbox(id)).unwrap()
    }

    /// The id of the question a session was just asked.
    fn question(shard: &mut Shard, id: SessionId) -> String {
        let said = said(shard, id);
        let question = said.split("<iq type='get' id='").nth(1).unwrap_or_else(|| panic!("no question: {said}"));
        question.split('\'').next().unwrap().to_owned()
    }

    fn answer(shard: &mut Shard, id: SessionId, name: &str, payload: &str) {
        feed(shard, id, &format!("<iq type='result' id='{name}' to='things.example'>{payload}</iq>"));
    }

    #[test]
    fn one_answer_is_true_of_all_who_show_its_hash() {
        let (mut shards, _) = shards(1);
        let shard = &mut shards[0];
        let ids: Vec<_> = ["a", "b", "c"].map(|name| bind(shard, &format!("{name}@things.example"), "r")).into();
        let presence = format!("<presence>{}</presence>", ver(&[NODE]));
        for &id in &ids {
            feed(shard, id, &presence);
        }
        let name = question(shard, ids[0]);
        question(shard, ids[1]);
        assert!(!said(shard, ids[2]).contains("<iq"), "the third waits");
        answer(shard, ids[0], &name, &info(&[NODE]));
        for &id in &ids {
            assert!(shard.is_notified_of(id, NODE) && !shard.is_notified_of(id, "other"));
        }
        let late = bind(shard, "d@things.example", "r");
        feed(shard, late, &presence);
        assert!(!said(shard, late).contains("<iq") && shard.is_notified_of(late, NODE));
        // One shows another hash, and waits for nothing when it goes.
        feed(shard, late, &format!("<presence>{}</presence>", ver(&["another"])));
        assert_eq!((shard.caps_asked.len(), shard.caps_waiting.len()), (1, 1));
        for id in ids.into_iter().chain([late]) {
            shard.end(id);
        }
        assert!(shard.caps_asked.is_empty() && shard.caps_waiting.is_empty());
    }

    #[test]
    fn an_answer_that_does_not_match_its_hash_is_believed_of_nobody_else() {
        let (mut shards, _) = shards(1);
        let shard = &mut shards[0];
        let (liar, other) = (bind(shard, "a@things.example", "r"), bind(shard, "b@things.example", "r"));
        let presence = format!("<presence>{}</presence>", ver(&[NODE]));
        feed(shard, liar, &presence);
        feed(shard, other, &presence);
        let name = question(shard, liar);
        // Somebody else cannot answer for it.
        answer(shard, other, &name, &info(&["stolen"]));
        assert!(!shard.is_notified_of(liar, "stolen") && !shard.is_notified_of(other, "stolen"));
        answer(shard, liar, &name, &info(&["poison"]));
        assert!(shard.is_notified_of(liar, "poison") && !shard.is_notified_of(other, "poison"));
        assert!(Arc::clone(&shard.config.caps).is_empty());
    }
}
