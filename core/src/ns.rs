//! XML namespaces of the protocols we speak.

/// Client streams (RFC 6120 §4.8.2).
pub const CLIENT: &str = "jabber:client";
/// Server streams (RFC 6120 §4.8.2).
pub const SERVER: &str = "jabber:server";
/// The stream's own elements (RFC 6120 §4.8.1).
pub const STREAMS: &str = "http://etherx.jabber.org/streams";
/// Stream error conditions (RFC 6120 §4.9.2).
pub const STREAM_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
/// Stanza error conditions (RFC 6120 §8.3.2).
pub const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
/// STARTTLS (RFC 6120 §5).
pub const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
/// SASL (RFC 6120 §6).
pub const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
/// Resource binding (RFC 6120 §7).
pub const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
/// Resource binding with SASL2, Bind 2 (XEP-0386).
pub const BIND2: &str = "urn:xmpp:bind:0";
/// Legacy session establishment (RFC 3921 §3).
pub const SESSION: &str = "urn:ietf:params:xml:ns:xmpp-session";
/// Roster (RFC 6121 §2).
pub const ROSTER: &str = "jabber:iq:roster";
/// Roster versioning stream feature (RFC 6121 §2.6).
pub const ROSTER_VERSIONING: &str = "urn:xmpp:features:rosterver";
/// Subscription pre-approval stream feature (RFC 6121 §3.4).
pub const PRE_APPROVAL: &str = "urn:xmpp:features:pre-approval";
/// Private XML storage (XEP-0049).
pub const PRIVATE: &str = "jabber:iq:private";
/// vCards (XEP-0054).
pub const VCARD: &str = "vcard-temp";
/// Avatars, published: the images (XEP-0084).
pub const AVATAR_DATA: &str = "urn:xmpp:avatar:data";
/// Avatars, published: what they are (XEP-0084).
pub const AVATAR_METADATA: &str = "urn:xmpp:avatar:metadata";
/// Avatars and photos of vCards are made of each other (XEP-0398).
pub const AVATAR_CONVERSION: &str = "urn:xmpp:pep-vcard-conversion:0";
/// What presence says of a vCard's photo (XEP-0153).
pub const VCARD_UPDATE: &str = "vcard-temp:x:update";
/// Avatars, asked of a client (XEP-0008).
pub const AVATAR: &str = "jabber:iq:avatar";
/// Avatars, kept by the server (XEP-0008).
pub const AVATAR_STORAGE: &str = "storage:client:avatar";
/// Blocking command (XEP-0191).
pub const BLOCKING: &str = "urn:xmpp:blocking";
/// What a sender is told whose own account blocks the recipient (XEP-0191 §3.3).
pub const BLOCKING_ERRORS: &str = "urn:xmpp:blocking:errors";
/// Application-specific errors of general use (XEP-0182).
pub const ERRORS: &str = "urn:xmpp:errors";
/// Ping (XEP-0199).
pub const PING: &str = "urn:xmpp:ping";
/// Delayed delivery (XEP-0203).
pub const DELAY: &str = "urn:xmpp:delay";
/// Stable ids of stanzas (XEP-0359).
pub const STANZA_IDS: &str = "urn:xmpp:sid:0";
/// Message archives (XEP-0313) and what goes into them (XEP-0441).
pub const MAM: &str = "urn:xmpp:mam:2";
/// Archives that can be asked by id, with pages flipped, and what they hold (XEP-0313 §7).
pub const MAM_EXTENDED: &str = "urn:xmpp:mam:2#extended";
/// Ids of occupants of rooms (XEP-0421).
pub const OCCUPANT_IDS: &str = "urn:xmpp:occupant-id:0";
/// Stanza forwarding (XEP-0297).
pub const FORWARD: &str = "urn:xmpp:forward:0";
/// Message delivery receipts (XEP-0184).
pub const RECEIPTS: &str = "urn:xmpp:receipts";
/// Chat markers (XEP-0333).
pub const CHAT_MARKERS: &str = "urn:xmpp:chat-markers:0";
/// Messages for who is away are kept (XEP-0160).
pub const OFFLINE: &str = "msgoffline";
/// Message processing hints (XEP-0334).
pub const HINTS: &str = "urn:xmpp:hints";
/// Chat state notifications (XEP-0085).
pub const CHAT_STATES: &str = "http://jabber.org/protocol/chatstates";
/// Entity time (XEP-0202).
pub const TIME: &str = "urn:xmpp:time";
/// Software version (XEP-0092).
pub const VERSION: &str = "jabber:iq:version";
/// Entity capabilities (XEP-0115).
pub const CAPS: &str = "http://jabber.org/protocol/caps";
/// Service discovery, information (XEP-0030).
pub const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
/// Service discovery, items (XEP-0030).
pub const DISCO_ITEMS: &str = "http://jabber.org/protocol/disco#items";
/// Ad-hoc commands, their errors, and the node that lists them (XEP-0050).
pub const COMMANDS: &str = "http://jabber.org/protocol/commands";
/// In-band registration (XEP-0077).
pub const REGISTER: &str = "jabber:iq:register";
/// In-band registration, as a stream feature (XEP-0077).
pub const REGISTER_FEATURE: &str = "http://jabber.org/features/iq-register";
/// Signed forms, and their FORM_TYPE (XEP-0348).
pub const SIGNED_FORMS: &str = "urn:xmpp:xdata:signature:oauth1";
/// Data forms (XEP-0004).
pub const DATA_FORMS: &str = "jabber:x:data";
/// Extensible SASL profile, SASL2 (XEP-0388).
pub const SASL2: &str = "urn:xmpp:sasl:2";
/// Fast authentication streamlining tokens (XEP-0484).
pub const FAST: &str = "urn:xmpp:fast:0";
/// Data forms validation (XEP-0122).
pub const DATA_FORMS_VALIDATION: &str = "http://jabber.org/protocol/xdata-validate";
/// Result set management (XEP-0059).
pub const RSM: &str = "http://jabber.org/protocol/rsm";
/// Publish-subscribe (XEP-0060).
pub const PUBSUB: &str = "http://jabber.org/protocol/pubsub";
/// Publish-subscribe, what leaves a service unasked (XEP-0060).
pub const PUBSUB_EVENT: &str = "http://jabber.org/protocol/pubsub#event";
/// Publish-subscribe, what owners do (XEP-0060).
pub const PUBSUB_OWNER: &str = "http://jabber.org/protocol/pubsub#owner";
/// Publish-subscribe, error conditions (XEP-0060).
pub const PUBSUB_ERRORS: &str = "http://jabber.org/protocol/pubsub#errors";
/// FORM_TYPE of a node's configuration (XEP-0060 §17.4.3).
pub const PUBSUB_NODE_CONFIG: &str = "http://jabber.org/protocol/pubsub#node_config";
/// FORM_TYPE of what a publisher takes a node to be (XEP-0060 §7.1.5).
pub const PUBSUB_PUBLISH_OPTIONS: &str = "http://jabber.org/protocol/pubsub#publish-options";
/// FORM_TYPE of a subscription's options (XEP-0060 §17.4.2).
pub const PUBSUB_SUBSCRIBE_OPTIONS: &str = "http://jabber.org/protocol/pubsub#subscribe_options";
/// FORM_TYPE of the decision on a subscription (XEP-0060 §17.4.1).
pub const PUBSUB_SUBSCRIBE_AUTHORIZATION: &str = "http://jabber.org/protocol/pubsub#subscribe_authorization";
/// The command by which an owner has requests for subscriptions sent again (XEP-0060 §8.7).
pub const PUBSUB_GET_PENDING: &str = "http://jabber.org/protocol/pubsub#get-pending";
/// FORM_TYPE of what is told of a node (XEP-0060 §17.4.4).
pub const PUBSUB_META_DATA: &str = "http://jabber.org/protocol/pubsub#meta-data";
/// SASL channel-binding type capability (XEP-0440).
pub const SASL_CHANNEL_BINDING: &str = "urn:xmpp:sasl-cb:0";
/// Stream limits advertisement (XEP-0478).
pub const STREAM_LIMITS: &str = "urn:xmpp:stream-limits:0";
/// Stream management (XEP-0198).
pub const SM: &str = "urn:xmpp:sm:3";
/// Message carbons (XEP-0280).
pub const CARBONS: &str = "urn:xmpp:carbons:2";
/// Client state indication (XEP-0352).
pub const CSI: &str = "urn:xmpp:csi:0";
/// The `xml` prefix (Namespaces in XML §3).
pub const XML: &str = "http://www.w3.org/XML/1998/namespace";
