//! What a publisher and its subscribers say to a service of publish-subscribe, and the checks on what it says
//! (XEP-0060 v1.30.0; the service may be an account, XEP-0163 v1.2.2).
//!
//! Called by [`crate::part`]; performs no I/O and reads no clock.

use plaza_core::ns;
use plaza_core::xml::Element;
use plaza_core::xml::read::Node;

use crate::payload::Payload;

/// The `id` of the request to delete a node.
pub(crate) const DELETE: &str = "node-delete";
/// The `id` of the request to create it.
pub(crate) const CREATE: &str = "node-create";
/// The `id` of the request to subscribe.
pub(crate) const SUBSCRIBE: &str = "node-subscribe";
/// What the `id` of a publication begins with.
pub(crate) const PUBLISH: &str = "node-publish-";
/// Namespace of what an item carries.
const LOAD: &str = "urn:example:load";

/// Appends the request to delete the node that an earlier run may have left, with its subscriptions (§8.4).
pub(crate) fn write_delete(service: &str, node: &str, out: &mut Vec<u8>) {
    let (id, owner) = (DELETE, ns::PUBSUB_OWNER);
    append(
        out,
        &format!(
            "<iq type='set' to='{service}' id='{id}'><pubsub xmlns='{owner}'><delete node='{node}'/></pubsub></iq>"
        ),
    );
}

/// Appends the request to create a node to which everybody may subscribe, and which keeps one item (§8.1.3).
pub(crate) fn write_create(service: &str, node: &str, out: &mut Vec<u8>) {
    let (id, form) = (CREATE, ns::PUBSUB_NODE_CONFIG);
    let field = |name: &str, value: &str| format!("<field var='pubsub#{name}'><value>{value}</value></field>");
    append(
        out,
        &format!(
            "<iq type='set' to='{service}' id='{id}'><pubsub xmlns='{}'><create node='{node}'/><configure>\
             <x xmlns='{}' type='submit'><field var='FORM_TYPE' type='hidden'><value>{form}</value></field>{}{}{}</x>\
             </configure></pubsub></iq>",
            ns::PUBSUB,
            ns::DATA_FORMS,
            field("access_model", "open"),
            field("max_items", "1"),
            field("send_last_published_item", "never"),
        ),
    );
}

/// Appends the request to subscribe `subscriber` (§6.1).
pub(crate) fn write_subscribe(service: &str, node: &str, subscriber: &str, out: &mut Vec<u8>) {
    let (id, ns) = (SUBSCRIBE, ns::PUBSUB);
    append(
        out,
        &format!(
            "<iq type='set' to='{service}' id='{id}'><pubsub xmlns='{ns}'>\
             <subscribe node='{node}' jid='{subscriber}'/></pubsub></iq>"
        ),
    );
}

/// Appends a publication; the item is called by its sequence number (§7.1).
pub(crate) fn write_publish(service: &str, node: &str, payload: Payload, bytes: usize, out: &mut Vec<u8>) {
    let (sequence, ns) = (payload.sequence, ns::PUBSUB);
    append(
        out,
        &format!(
            "<iq type='set' to='{service}' id='{PUBLISH}{sequence}'><pubsub xmlns='{ns}'><publish node='{node}'>\
             <item id='{sequence}'><load xmlns='{LOAD}'>"
        ),
    );
    payload.write(out, bytes);
    append(out, "</load></item></publish></pubsub></iq>");
}

fn append(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Whether an error says that there is no such item, node or account (RFC 6120 §8.3.3.7), which is no error here.
pub(crate) fn is_not_found(element: &Element<'_>) -> bool {
    let error = element.children().find(|child| child.name == "error").and_then(|error| element.read(&error));
    error.is_some_and(|error| error.child("item-not-found", ns::STANZA_ERRORS).is_some())
}

/// Checks that the service says `subscriber` is subscribed (§6.1.2).
///
/// # Errors
/// In words: it is not, or something else is said.
pub(crate) fn check_subscribed(element: &Element<'_>, node: &str, subscriber: &str) -> Result<(), String> {
    let pubsub = element.first_child().filter(|child| child.is("pubsub", ns::PUBSUB));
    let pubsub = pubsub.and_then(|pubsub| element.read(&pubsub)).ok_or("an answer without <pubsub/>")?;
    let subscription = pubsub.child("subscription", ns::PUBSUB).ok_or("an answer without <subscription/>")?;
    let said = ["node", "jid", "subscription"].map(|name| subscription.attr(name).unwrap_or_default());
    if said == [node, subscriber, "subscribed"] {
        return Ok(());
    }
    Err(format!("{subscriber} is not subscribed to {node}: {said:?}"))
}

/// Whether an element tells of an event.
pub(crate) fn is_event(element: &Element<'_>) -> bool {
    element.children().any(|child| child.is("event", ns::PUBSUB_EVENT))
}

/// The payload of the one item of `node` that an event tells of (§7.1.2.1).
///
/// # Errors
/// In words: it tells of another node, of no item or of several, or the item is damaged.
pub(crate) fn read_event(element: &Element<'_>, node: &str) -> Result<Payload, String> {
    let event = element.children().find(|child| child.is("event", ns::PUBSUB_EVENT));
    let event = event.and_then(|event| element.read(&event)).ok_or("a message without <event/>")?;
    let items = event.child("items", ns::PUBSUB_EVENT).ok_or("an event without <items/>")?;
    if items.attr("node") != Some(node) {
        return Err(format!("an event of {:?}, not of {node}", items.attr("node")));
    }
    let [item] = &items.children[..] else {
        return Err(format!("an event with {} items", items.children.len()));
    };
    let load: &Node = item.child("load", LOAD).ok_or("an item without its payload")?;
    let payload = Payload::read(load.text.as_bytes()).map_err(|damage| damage.to_string())?;
    if item.attr("id").and_then(|id| id.parse().ok()) != Some(payload.sequence) {
        return Err(format!("item {:?} carries number {}", item.attr("id"), payload.sequence));
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::with_element;

    const SAMPLE: Payload = Payload { sender: 0, receiver: 0, sequence: 7, sent_ns: 5 };

    /// A notification as a service would send it: the item of a publication, wrapped.
    fn notification() -> String {
        let mut out = Vec::new();
        write_publish("pubsub.localhost", "load0", SAMPLE, 64, &mut out);
        let text = String::from_utf8(out).unwrap();
        let item = text.split_once("<publish node='load0'>").unwrap().1.split_once("</publish>").unwrap().0;
        format!(
            "<message from='pubsub.localhost' type='headline'><event xmlns='http://jabber.org/protocol/pubsub#event'>\
             <items node='load0'>{item}</items></event></message>"
        )
    }

    #[test]
    fn a_notification_carries_what_was_published() {
        let read = |text: &str| with_element(text, |element| read_event(element, "load0"));
        let text = notification();
        assert!(with_element(&text, is_event));
        assert_eq!(read(&text), Ok(SAMPLE));
        assert!(read(&text.replace("node='load0'", "node='load1'")).unwrap_err().contains("load1"));
        assert!(read(&text.replace("id='7'", "id='8'")).unwrap_err().contains("carries number 7"));
        assert!(read(&text.replace("urn:example:load", "urn:example:other")).is_err());
        assert!(read(&text.replace("0000", "0001")).unwrap_err().contains("payload"));
        let item = text.split_once("<item ").unwrap().1.split_once("</item>").unwrap().0;
        let twice = text.replace("</item>", &format!("</item><item {item}</item>"));
        assert!(read(&twice).unwrap_err().contains("2 items"));
    }

    #[test]
    fn whoever_is_not_subscribed_is_told_so() {
        let check = |text: &str| with_element(text, |element| check_subscribed(element, "load0", "load1@localhost"));
        let answer = |state: &str, jid: &str| {
            format!(
                "<iq type='result'><pubsub xmlns='http://jabber.org/protocol/pubsub'>\
                 <subscription node='load0' jid='{jid}' subscription='{state}'/></pubsub></iq>"
            )
        };
        assert_eq!(check(&answer("subscribed", "load1@localhost")), Ok(()));
        assert!(check(&answer("pending", "load1@localhost")).unwrap_err().contains("pending"));
        assert!(check(&answer("subscribed", "load2@localhost")).is_err());
        assert!(check("<iq type='result'/>").is_err());
    }

    #[test]
    fn only_what_is_not_there_needs_no_deleting() {
        let error = |condition: &str| {
            format!(
                "<iq type='error'><error type='cancel'>\
                 <{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
            )
        };
        assert!(with_element(&error("item-not-found"), is_not_found));
        assert!(!with_element(&error("forbidden"), is_not_found));
    }
}
