//! What all who live in the city have in common: how they ask and are answered, and what they tell the one who watches.
//!
//! Used by [`super::life`], [`super::device`], [`super::owner`] and [`super::service`], which perform no I/O and read no
//! clock.

use plaza_core::iot::{Generation, Interface};
use plaza_core::ns;
use plaza_core::thing::NodeName;
use plaza_core::xml::read::Node;
use plaza_core::xml::write;

use super::funnel::{Stage, Timing};

/// How long a request waits for its answer. Deployed clients wait as long and do not ask again.
pub(crate) const REQUEST_NS_MAX: u64 = 15 * SECOND_NS;
/// How often each client pings its server: deployed clients do every 15 s.
pub(crate) const PING_NS: u64 = 15 * SECOND_NS;
/// A second of the run's clock.
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

/// Namespaces of the client's generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    /// The Thing Registry.
    pub disco: &'static str,
    /// Decision support for devices.
    pub device: &'static str,
    /// Sensor data.
    pub sensor: String,
    /// Control.
    pub control: String,
    /// How questions to decision support are spelt.
    pub spelling: &'static Spelling,
    /// The element and attribute that name a parameter in them.
    pub parameter: (&'static str, &'static str),
}

/// How what is said to the broker is spelt. What is heard is understood in either.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Spelling {
    /// The element that names a node.
    pub node: &'static str,
    /// The attributes for its id, source and partition.
    pub node_attrs: [&'static str; 3],
    /// The categories, in the order of [`CATEGORIES`].
    pub categories: [&'static str; 6],
    /// The element and attribute that name a field.
    pub field: (&'static str, &'static str),
}

/// The first generation's (XEP-0324 v0.5.1, XEP-0347 v0.5.1).
pub(crate) static LONG: Spelling = Spelling {
    node: "node",
    node_attrs: ["nodeId", "sourceId", "cacheType"],
    categories: ["momentary", "peak", "status", "computed", "identity", "historical"],
    field: ("field", "name"),
};
/// That of all later ones.
pub(crate) static SHORT: Spelling =
    Spelling { node: "nd", node_attrs: ["id", "src", "pt"], categories: CATEGORIES, field: ("f", "n") };

impl Names {
    /// Those of a generation. What the first has for clients among themselves, past the broker, is another exchange and not
    /// spoken here: its devices take requests of the second.
    pub(crate) fn of(generation: Generation) -> Self {
        let prefix = match generation {
            Generation::Xsf | Generation::Ieee => "urn:ieee:iot:",
            Generation::Nf => "urn:nf:iot:",
            Generation::Nfi => "urn:nfi:iot:",
        };
        Self {
            disco: Interface::Discovery.ns(generation),
            device: Interface::Device.ns(generation),
            sensor: format!("{prefix}{SENSOR}"),
            control: format!("{prefix}{CONTROL}"),
            spelling: if generation == Generation::Xsf { &LONG } else { &SHORT },
            // Clients of all but the last spell it as the first did.
            parameter: if generation == Generation::Nfi { ("p", "n") } else { ("parameter", "name") },
        }
    }
}

/// What the namespaces of sensor data end in.
pub(crate) const SENSOR: &str = "sd:1.0";
/// What those of control end in.
pub(crate) const CONTROL: &str = "ctr:1.0";

/// Whether a namespace is that of an interface between clients, in any generation spoken here.
pub(crate) fn is_interface(ns: &str, ends_in: &str) -> bool {
    let rest = ns.strip_prefix("urn:").and_then(|rest| rest.strip_suffix(ends_in));
    matches!(rest, Some("ieee:iot:" | "nf:iot:" | "nfi:iot:"))
}

/// Whether an element is one of the broker's interfaces, in any generation.
pub(crate) fn is_of(node: &Node, interface: Interface) -> bool {
    Interface::of(&node.ns).is_some_and(|(found, _)| found == interface)
}

/// What the one who watches is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// Somebody, with regard to something, has come to a stage.
    Reached(Stage, u32, u32),
    /// The registry has a thing, which nobody owns yet.
    Registered(u32),
    /// The registry gave a thing to who claimed it.
    Won(u32),
    /// A thing knows who owns it.
    Told(u32, String),
    /// Something took so long, in ns.
    Took(Timing, u64),
    /// Something went wrong: its kind, and what it was.
    Trouble(&'static str, String),
    /// Something happened that is worth counting, and no fault.
    Note(&'static str),
}

/// What is said and told in one turn.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    /// The run's clock, in ns.
    pub now_ns: u64,
    /// The time of day, in ms since 1970.
    pub unix_ms: u64,
    /// Stanzas to send.
    pub out: &'a mut Vec<u8>,
    /// What the one who watches is told.
    pub news: &'a mut Vec<News>,
}

impl Turn<'_> {
    /// Tells.
    pub(crate) fn tell(&mut self, news: News) {
        self.news.push(news);
    }

    /// Tells of something that went wrong.
    pub(crate) fn trouble(&mut self, kind: &'static str, what: impl Into<String>) {
        self.news.push(News::Trouble(kind, what.into()));
    }

    /// Says presence of a type to somebody.
    pub(crate) fn presence(&mut self, kind: &str, to: &str) {
        self.out.extend_from_slice(b"<presence");
        write::attr(self.out, "type", kind);
        write::attr(self.out, "to", to);
        self.out.extend_from_slice(b"/>");
    }

    /// Answers a request with a result.
    pub(crate) fn result(&mut self, request: &Node, payload: &[u8]) {
        self.reply(request.attr("from"), request.attr("id").unwrap_or_default(), "result", payload);
    }

    /// Answers a request, of which sender and id are known.
    pub(crate) fn reply(&mut self, to: Option<&str>, id: &str, kind: &str, payload: &[u8]) {
        self.out.extend_from_slice(b"<iq");
        write::attr(self.out, "type", kind);
        write::attr(self.out, "id", id);
        if let Some(to) = to {
            write::attr(self.out, "to", to);
        }
        self.out.push(b'>');
        self.out.extend_from_slice(payload);
        self.out.extend_from_slice(b"</iq>");
    }

    /// Refuses a request.
    pub(crate) fn refuse(&mut self, to: Option<&str>, id: &str, condition: &str) {
        let error = format!(
            "<error type='cancel'><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>Access denied.</text></error>"
        );
        self.reply(to, id, "error", error.as_bytes());
    }
}

/// Somebody's requests that were not answered yet, numbered as deployed clients do.
#[derive(Debug)]
pub(crate) struct Requests<T> {
    asked: u32,
    open: Vec<Request<T>>,
}

#[derive(Debug)]
struct Request<T> {
    id: u32,
    to: String,
    what: T,
    since_ns: u64,
    deadline_ns: u64,
}

impl<T> Requests<T> {
    /// None yet.
    pub(crate) const fn new() -> Self {
        Self { asked: 0, open: Vec::new() }
    }

    /// Asks `to`, the server if that is empty; `since_ns`: when it was meant to be asked.
    pub(crate) fn ask(&mut self, turn: &mut Turn<'_>, kind: &str, to: &str, payload: &[u8], since_ns: u64, what: T) {
        self.asked = self.asked.wrapping_add(1);
        let id = self.asked;
        turn.reply((!to.is_empty()).then_some(to), &id.to_string(), kind, payload);
        let deadline_ns = turn.now_ns + REQUEST_NS_MAX;
        self.open.push(Request { id, to: to.to_owned(), what, since_ns, deadline_ns });
    }

    /// Takes an answer: what was asked, and since when. An answer to nothing is told.
    pub(crate) fn answered(&mut self, stanza: &Node, turn: &mut Turn<'_>) -> Option<(T, u64)> {
        let id = stanza.attr("id").and_then(|id| id.parse::<u32>().ok());
        let from = stanza.attr("from").unwrap_or_default();
        let at = self.open.iter().position(|request| {
            // The server answers for itself without a name, or for the account with one.
            Some(request.id) == id && (request.to.is_empty() || request.to == from)
        });
        let Some(at) = at else {
            turn.tell(News::Note("an answer that came too late"));
            return None;
        };
        let request = self.open.swap_remove(at);
        Some((request.what, request.since_ns))
    }

    /// Takes those whose time is over.
    pub(crate) fn overdue(&mut self, now_ns: u64) -> impl Iterator<Item = T> + use<T> {
        let (over, open) =
            std::mem::take(&mut self.open).into_iter().partition(|request| request.deadline_ns <= now_ns);
        self.open = open;
        let over: Vec<Request<T>> = over;
        over.into_iter().map(|request| request.what)
    }

    /// When the next one's time is over.
    pub(crate) fn due_ns(&self) -> u64 {
        self.open.iter().map(|request| request.deadline_ns).min().unwrap_or(u64::MAX)
    }

    /// Forgets those to somebody who went away; gives what they were.
    pub(crate) fn forget(&mut self, to: &str) -> Vec<T> {
        let (gone, open) = std::mem::take(&mut self.open).into_iter().partition(|request| request.to == to);
        self.open = open;
        let gone: Vec<Request<T>> = gone;
        gone.into_iter().map(|request| request.what).collect()
    }

    /// Forgets all: the connection is gone.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
    }

    /// Those that were not answered.
    pub(crate) fn open(&self) -> impl Iterator<Item = &T> {
        self.open.iter().map(|request| &request.what)
    }
}

/// When a client pings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pulse {
    next_ns: u64,
}

impl Pulse {
    /// Not at all.
    pub(crate) const STILL: Self = Self { next_ns: u64::MAX };

    /// From a time on.
    pub(crate) const fn from(first_ns: u64) -> Self {
        Self { next_ns: first_ns }
    }

    /// When the next is due.
    pub(crate) const fn due_ns(self) -> u64 {
        self.next_ns
    }

    /// If one is due: when it was.
    pub(crate) fn beat(&mut self, now_ns: u64) -> Option<u64> {
        let due_ns = self.next_ns;
        (due_ns <= now_ns).then(|| {
            self.next_ns = due_ns + PING_NS;
            due_ns
        })
    }
}

/// A ping (XEP-0199 v2.0.1), to the server.
pub(crate) const PING: &[u8] = b"<ping xmlns='urn:xmpp:ping'/>";
/// The request for the roster.
pub(crate) const ROSTER: &[u8] = b"<query xmlns='jabber:iq:roster'/>";

/// Takes what nobody here waits for: requests are answered, all else is welcome.
pub(crate) fn bystander(stanza: &Node, turn: &mut Turn<'_>) {
    if stanza.name != "iq" || !matches!(stanza.attr("type"), Some("get" | "set")) {
        return;
    }
    let is_known = stanza.child("ping", ns::PING).is_some() || stanza.child("query", ns::ROSTER).is_some();
    if is_known {
        turn.result(stanza, b"");
    } else {
        turn.refuse(stanza.attr("from"), stanza.attr("id").unwrap_or_default(), "service-unavailable");
    }
}

/// The condition of an error stanza, and whether it says to try again later.
pub(crate) fn condition(stanza: &Node) -> (String, bool) {
    let error = stanza.children.iter().find(|child| child.name == "error");
    let named = error.and_then(|error| error.children.iter().find(|child| child.ns == ns::STANZA_ERRORS));
    let name = named.map_or("no condition", |child| &child.name);
    (name.to_owned(), error.is_some_and(|error| error.attr("type") == Some("wait")))
}

/// A JID without its resource.
pub(crate) fn bare(jid: &str) -> &str {
    jid.split_once('/').map_or(jid, |(bare, _)| bare)
}

/// Appends the attributes of a node, those that are there.
pub(crate) fn write_node_attrs(out: &mut Vec<u8>, spelling: &Spelling, node: &NodeName) {
    for (name, value) in spelling.node_attrs.into_iter().zip([&node.id, &node.source, &node.partition]) {
        if !value.is_empty() {
            write::attr(out, name, value);
        }
    }
}

/// Appends the element of a node, if it is not the device itself.
pub(crate) fn write_node(out: &mut Vec<u8>, spelling: &Spelling, node: &NodeName) {
    if !node.is_device() {
        out.push(b'<');
        out.extend_from_slice(spelling.node.as_bytes());
        write_node_attrs(out, spelling, node);
        out.extend_from_slice(b"/>");
    }
}

/// The node that the attributes of an element name.
pub(crate) fn node_of(element: &Node) -> NodeName {
    let attr = |at: usize| {
        let mut names = [&SHORT, &LONG].into_iter().filter_map(|spelling| spelling.node_attrs.get(at));
        names.find_map(|name| element.attr(name)).unwrap_or_default().into()
    };
    NodeName { id: attr(0), source: attr(1), partition: attr(2) }
}

/// The nodes that an element has in it.
pub(crate) fn nodes(element: &Node) -> impl Iterator<Item = NodeName> {
    element.children.iter().filter(|child| child.name == SHORT.node || child.name == LONG.node).map(node_of)
}

/// The fields that an element names.
pub(crate) fn fields(element: &Node) -> Vec<&str> {
    [&SHORT, &LONG].into_iter().flat_map(|spelling| values(element, spelling.field.0, spelling.field.1)).collect()
}

/// Categories of sensor data, as attributes name them: momentary, peak, status, computed, identity, historical.
pub(crate) const CATEGORIES: [&str; 6] = ["m", "p", "s", "c", "i", "h"];

/// The categories that an element names.
pub(crate) fn categories(element: &Node) -> Vec<&'static str> {
    let is_set = |name: &str| matches!(element.attr(name), Some("true" | "1"));
    let all = is_set("all");
    let named = CATEGORIES.into_iter().zip(LONG.categories);
    named.filter(|(short, long)| all || is_set(short) || is_set(long)).map(|(short, _)| short).collect()
}

/// The values of an attribute of the children of a name.
pub(crate) fn values<'a>(element: &'a Node, child: &str, attr: &str) -> Vec<&'a str> {
    let named = element.children.iter().filter(|node| node.name == child);
    named.filter_map(|node| node.attr(attr)).collect()
}

/// Whether an element says that it is true.
pub(crate) fn is_true(element: &Node, attr: &str) -> bool {
    matches!(element.attr(attr), Some("true" | "1"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What is said and told when `act` is done at a time.
    pub(crate) fn during(now_ns: u64, act: impl FnOnce(&mut Turn<'_>)) -> (String, Vec<News>) {
        let (mut out, mut news) = (Vec::new(), Vec::new());
        act(&mut Turn { now_ns, unix_ms: 1_767_323_045_000, out: &mut out, news: &mut news });
        (String::from_utf8(out).unwrap(), news)
    }

    /// A stanza from text.
    pub(crate) fn stanza(text: &str) -> Node {
        Node::parse(text, ns::CLIENT).unwrap_or_else(|| panic!("not XML: {text}"))
    }

    #[test]
    fn requests_are_numbered_answered_once_and_not_forever() {
        let mut requests = Requests::new();
        let (said, _) = during(5, |turn| {
            requests.ask(turn, "get", "", PING, 3, 'p');
            requests.ask(turn, "set", "things.example", b"<a/>", 5, 'a');
        });
        assert_eq!(
            said,
            "<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq><iq type='set' id='2' to='things.example'><a/></iq>"
        );
        let answer = |requests: &mut Requests<char>, text: &str| {
            let mut found = None;
            let (_, news) = during(9, |turn| found = requests.answered(&stanza(text), turn));
            (found, news.len())
        };
        let strange = "<iq type='result' id='2' from='other.example'/>";
        assert_eq!(answer(&mut requests, strange), (None, 1));
        assert_eq!(answer(&mut requests, "<iq type='result' id='1'/>"), (Some(('p', 3)), 0));
        assert_eq!(answer(&mut requests, "<iq type='result' id='1'/>"), (None, 1));
        assert_eq!(requests.due_ns(), 5 + REQUEST_NS_MAX);
        assert_eq!(requests.overdue(4 + REQUEST_NS_MAX).count(), 0);
        assert_eq!(requests.overdue(5 + REQUEST_NS_MAX).collect::<Vec<_>>(), ['a']);
        assert_eq!(requests.due_ns(), u64::MAX);
    }

    #[test]
    fn what_nobody_waits_for_is_answered_as_it_must_be() {
        let said = |text: &str| during(0, |turn| bystander(&stanza(text), turn)).0;
        assert_eq!(
            said("<iq type='get' id='p' from='a@b/c'><ping xmlns='urn:xmpp:ping'/></iq>"),
            "<iq type='result' id='p' to='a@b/c'></iq>"
        );
        assert_eq!(
            said("<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='a@b'/></query></iq>"),
            "<iq type='result' id='r'></iq>"
        );
        assert!(said("<iq type='get' id='x' from='a@b/c'><odd xmlns='x'/></iq>").contains("service-unavailable"));
        assert_eq!(said("<presence from='a@b/c'/>"), "");
        assert_eq!(said("<iq type='result' id='1'/>"), "");
    }

    #[test]
    fn generations_name_their_interfaces() {
        for (generation, sensor) in [
            (Generation::Xsf, "urn:ieee:iot:sd:1.0"),
            (Generation::Ieee, "urn:ieee:iot:sd:1.0"),
            (Generation::Nf, "urn:nf:iot:sd:1.0"),
            (Generation::Nfi, "urn:nfi:iot:sd:1.0"),
        ] {
            let names = Names::of(generation);
            assert_eq!(names.sensor, sensor);
            assert!(is_interface(&names.sensor, SENSOR) && is_interface(&names.control, CONTROL));
            assert!(!is_interface(&names.sensor, CONTROL));
            assert_eq!(names.parameter.0 == "p", generation == Generation::Nfi);
            assert_eq!(names.spelling == &LONG, names.device == "urn:xmpp:iot:provisioning");
        }
        assert!(!is_interface("urn:other:iot:sd:1.0", SENSOR));
    }

    #[test]
    fn what_is_heard_is_understood_in_either_spelling() {
        let node = NodeName { id: "1".into(), source: "m".into(), partition: "p".into() };
        for spelling in [&SHORT, &LONG] {
            let mut out = Vec::new();
            write_node(&mut out, spelling, &node);
            let ((field, name), category) = (spelling.field, spelling.categories[4]);
            let inside = String::from_utf8(out).unwrap();
            let heard = stanza(&format!("<x {category}='true'>{inside}<{field} {name}='Serial'/></x>"));
            assert!(nodes(&heard).eq([node.clone()]));
            assert_eq!((categories(&heard), fields(&heard)), (vec!["i"], vec!["Serial"]));
        }
        assert_eq!(categories(&stanza("<x all='1'/>")), CATEGORIES);
    }
}
