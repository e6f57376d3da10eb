//! What is asked and what is answered, section by section of XEP-0060 and XEP-0163.

mod items;
mod limits;
mod managing;
mod nodes;
mod pep;
mod subscribing;
mod waiting;

use plaza_core::jid::Jid;
use plaza_core::ns;
use plaza_core::stanza::IqType;

use super::*;
use crate::rosters::Subscription as Stands;
use crate::store::memory::MemoryStore;
use crate::testing::store_with;
use crate::wait::block_on;

const HAMLET: &str = "hamlet@denmark.lit/elsinore";
const FRANCISCO: &str = "francisco@denmark.lit/barracks";
const HORATIO: &str = "horatio@denmark.lit/castle";
const STRANGER: &str = "bard@shakespeare.lit/globe";
const SERVICE: &str = "pubsub.denmark.lit";
const OWNER: &str = "hamlet@denmark.lit";
/// 2026-01-02T03:04:05Z.
const NOW: u64 = 1_767_323_045_000;

fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

/// A service or an account's, and who asks it.
struct World {
    store: MemoryStore,
    config: Config,
    host: Host,
    now: u64,
}

/// What came of a request, as text.
#[derive(Debug)]
struct Answer {
    /// The payload without `<pubsub/>` around it, or the error: type, condition, and the protocol's own.
    text: String,
    /// `node kind: payload -> recipients [reach]`, without what all have in common.
    told: Vec<String>,
    asked: Vec<ApprovalRequest>,
}

impl World {
    fn service() -> Self {
        Self::of(Host::Service(jid(SERVICE)), Limits::DEFAULT)
    }

    /// Hamlet's account.
    fn account() -> Self {
        Self::of(Host::Account(jid(OWNER)), Limits::DEFAULT)
    }

    fn of(host: Host, limits: Limits) -> Self {
        let config = Config::new(limits, vec![jid("denmark.lit")]);
        Self { store: store_with(&jid(OWNER)), config, host, now: NOW }
    }

    /// Puts somebody into Hamlet's roster.
    fn contact(&self, contact: &str, stands: Stands, groups: &[&str]) {
        let (owner, contact) = (jid(OWNER), jid(contact));
        let update = rosters::update(&self.store, owner.as_jid(), contact.as_jid(), 100, |item| {
            item.subscription = stands;
            item.groups = groups.iter().map(|&group| group.to_owned()).collect();
        });
        block_on(update).unwrap();
    }

    fn facts(&self, caller: &str) -> Facts {
        block_on(Facts::read(&self.store, jid(OWNER).as_jid(), jid(caller).as_jid())).unwrap()
    }

    fn raw(&self, caller: &str, iq_type: IqType, payload: &str) -> Answer {
        let (caller, facts) = (jid(caller), self.facts(caller));
        let request = Request { host: &self.host, caller: &caller, iq_type, payload, unix_millis: self.now };
        self.read(block_on(answer(&self.config, &self.store, request, &facts)))
    }

    /// An owner's answer to a request for approval.
    fn decided(&self, caller: &str, form: &str) -> Answer {
        let (caller, facts) = (jid(caller), self.facts(caller));
        let request =
            Request { host: &self.host, caller: &caller, iq_type: IqType::Set, payload: form, unix_millis: self.now };
        self.read(block_on(decide(&self.config, &self.store, request, &facts)))
    }

    fn read(&self, reply: Reply) -> Answer {
        let text = match reply.result {
            Ok(payload) => inside(&String::from_utf8(payload).unwrap()),
            Err(Refusal { error, payload }) => {
                let mut text = format!("{} {}", error.error_type.name(), error.condition.name());
                if let Some(detail) = error.detail {
                    assert_eq!(detail.ns, ns::PUBSUB_ERRORS);
                    text = format!("{text} {}", detail.name);
                    text.extend(detail.attr.map(|(name, value)| format!(" {name}={value}")));
                }
                if !payload.is_empty() {
                    text = format!("{text} {}", inside(&String::from_utf8(payload).unwrap()));
                }
                text
            }
        };
        Answer {
            text,
            told: reply.notifications.into_iter().map(|one| self.told(one)).collect(),
            asked: reply.messages,
        }
    }

    fn told(&self, mut notification: Notification) -> String {
        assert_eq!(&notification.from, self.host.jid());
        let payload = String::from_utf8(std::mem::take(&mut notification.payload)).unwrap();
        let payload = payload.strip_prefix("<event xmlns='http://jabber.org/protocol/pubsub#event'>").unwrap();
        let payload = payload.replacen("</event>", "", 1);
        let mut text = format!("{payload} ->");
        while let Some(page) = block_on(notification.recipients.next(&self.store)).unwrap() {
            page.iter().for_each(|to| text = format!("{text} {}", to.jid));
        }
        match notification.audience.map(|audience| (audience.reach, audience.outcasts)) {
            None => {}
            Some((reach, outcasts)) => {
                text = match reach {
                    Reach::Owner => format!("{text} [owner"),
                    Reach::Contacts => format!("{text} [contacts"),
                    Reach::These(contacts) => {
                        let contacts: Vec<_> = contacts.iter().map(Jid::as_str).collect();
                        format!("{text} [{}", contacts.join(","))
                    }
                };
                outcasts.iter().for_each(|outcast| text = format!("{text} but {outcast}"));
                text.push(']');
            }
        }
        text
    }

    fn set(&self, caller: &str, payload: &str) -> Answer {
        self.raw(caller, IqType::Set, &wrapped(ns::PUBSUB, payload))
    }

    fn get(&self, caller: &str, payload: &str) -> Answer {
        self.raw(caller, IqType::Get, &wrapped(ns::PUBSUB, payload))
    }

    fn owner_set(&self, caller: &str, payload: &str) -> Answer {
        self.raw(caller, IqType::Set, &wrapped(ns::PUBSUB_OWNER, payload))
    }

    fn owner_get(&self, caller: &str, payload: &str) -> Answer {
        self.raw(caller, IqType::Get, &wrapped(ns::PUBSUB_OWNER, payload))
    }

    /// A node of Hamlet's, configured so.
    fn node(&self, id: &str, config: &[(&str, &str)]) {
        let answer = self.set(HAMLET, &format!("<create node='{id}'/>{}", configure("", config)));
        assert_eq!(answer.text, format!("<create node='{id}'/>"));
    }

    /// Hamlet changes the configuration.
    fn configured(&self, id: &str, config: &[(&str, &str)]) -> Answer {
        self.owner_set(HAMLET, &configure(&format!(" node='{id}'"), config))
    }

    fn publish(&self, caller: &str, node: &str, item: &str) -> Answer {
        self.set(caller, &format!("<publish node='{node}'><item id='{item}'>{}</item></publish>", entry(item)))
    }

    /// Makes somebody what the word says at a node of Hamlet's.
    fn affiliated(&self, node: &str, entity: &str, word: &str) {
        let entry = format!("<affiliation jid='{}' affiliation='{word}'/>", jid(entity).bare());
        let answer = self.owner_set(HAMLET, &format!("<affiliations node='{node}'>{entry}</affiliations>"));
        assert_eq!(answer.text, "");
    }

    fn subscribe(&self, caller: &str, node: &str) -> Answer {
        self.set(caller, &format!("<subscribe node='{node}' jid='{}'/>", jid(caller).bare()))
    }

    /// The ids of a node's items as Hamlet is given them.
    fn ids(&self, node: &str) -> Vec<String> {
        let text = self.get(HAMLET, &format!("<items node='{node}'/>")).text;
        text.match_indices("<item id='")
            .map(|(at, start)| text[at + start.len()..].split('\'').next().unwrap().to_owned())
            .collect()
    }
}

/// Without `<pubsub/>` around it.
fn inside(payload: &str) -> String {
    for ns in [ns::PUBSUB, ns::PUBSUB_OWNER] {
        if let Some(rest) = payload.strip_prefix(&format!("<pubsub xmlns='{ns}'>")) {
            return rest.strip_suffix("</pubsub>").unwrap().to_owned();
        }
    }
    payload.to_owned()
}

fn wrapped(ns: &str, payload: &str) -> String {
    format!("<pubsub xmlns='{ns}'>{payload}</pubsub>")
}

fn form(form_type: &str, fields: &[(&str, &str)]) -> String {
    let field = |(var, value): &(&str, &str)| {
        let values: String = value.split(',').map(|value| format!("<value>{value}</value>")).collect();
        format!("<field var='{var}'>{values}</field>")
    };
    let fields: String = fields.iter().map(field).collect();
    format!(
        "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>{form_type}</value></field>\
         {fields}</x>"
    )
}

fn configure(attrs: &str, config: &[(&str, &str)]) -> String {
    let config: Vec<_> = config.iter().map(|(var, value)| (format!("pubsub#{var}"), *value)).collect();
    let config: Vec<_> = config.iter().map(|(var, value)| (var.as_str(), *value)).collect();
    format!("<configure{attrs}>{}</configure>", form(ns::PUBSUB_NODE_CONFIG, &config))
}

fn entry(title: &str) -> String {
    format!("<entry xmlns='urn:e'>{title}</entry>")
}

fn event(node: &str, item: &str) -> String {
    format!("<items node='{node}'><item id='{item}'>{}</item></items>", entry(item))
}
