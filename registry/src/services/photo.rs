//! One photo in two places (XEP-0398 v1.0.0 §3): what an account publishes as its avatar (XEP-0084 v1.1.4) is put into its
//! vCard, and the photo of a vCard that is set is published.
//!
//! Called by the services of both, behind what they have stored. A conversion that cannot be done leaves the other place as
//! it was: what was asked for has been done.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use plaza_core::limits::ScanLimits;
use plaza_core::ns;
use plaza_core::stanza::IqType;
use plaza_core::xml::read::Node;
use plaza_core::xml::{Element, Scanned, Scanner, StreamNamespaces, write};
use sha1::{Digest, Sha1};

use super::{Effect, Request, ServiceConfig};
use crate::pubsub::{self, Facts, Host, Outgoing};
use crate::store::{Store, StoreError};
use crate::vcards::{self, AvatarHash, Vcard};

/// A photo.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Photo {
    /// Its media type as its owner named it.
    media_type: String,
    image: Vec<u8>,
}

impl Photo {
    fn hash(&self) -> AvatarHash {
        Sha1::digest(&self.image).into()
    }

    fn read(vcard: &Node) -> Option<Self> {
        let photo = vcard.child("PHOTO", &vcard.ns)?;
        let image = vcards::image(&photo.child("BINVAL", &vcard.ns)?.text).filter(|image| !image.is_empty())?;
        let named = photo.child("TYPE", &vcard.ns).map(|media_type| media_type.text.trim().to_owned());
        let media_type = named.filter(|name| !name.is_empty()).or_else(|| media_type(&image).map(str::to_owned))?;
        Some(Self { media_type, image })
    }
}

/// What an image that nobody named is by its first bytes.
fn media_type(image: &[u8]) -> Option<&'static str> {
    match image {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        _ => None,
    }
}

/// What a publication says of an avatar.
#[derive(Debug, PartialEq, Eq)]
enum Metadata {
    /// There is none (XEP-0084 §3.5).
    Disabled,
    /// There is one, kept here under this id.
    Kept { id: String, media_type: String },
}

/// Whether a request may change the photo that presence shows: it is one of those that are served in the account's order.
pub fn may_change_photo(request: &Request) -> bool {
    match &*request.payload_ns {
        ns::VCARD => true,
        ns::PUBSUB => request.payload.contains(ns::AVATAR_METADATA),
        _ => false,
    }
}

/// An account has published: if it is an avatar that anybody may see (§7), its vCard gets it as a photo (§3.1).
///
/// # Errors
/// [`StoreError`].
pub(super) async fn published<S: Store>(
    config: &ServiceConfig,
    store: &S,
    request: &Request,
    effects: &mut Vec<Effect>,
) -> Result<(), StoreError> {
    let Some(metadata) = Node::parse(&request.payload, ns::CLIENT).as_ref().and_then(metadata) else { return Ok(()) };
    let owner = request.caller.bare();
    let before = vcards::load(store, owner.as_jid()).await?;
    let photo = match metadata {
        Metadata::Disabled => None,
        Metadata::Kept { id, media_type } => {
            let host = Host::Account(owner.clone());
            let item =
                pubsub::open_item(&config.pubsub, store, &host, ns::AVATAR_DATA, &id, request.unix_millis).await?;
            let data = item.and_then(|item| Node::parse(&item, "")).filter(|data| is(data, "data", ns::AVATAR_DATA));
            let Some(image) = data.and_then(|data| vcards::image(&data.text)) else { return Ok(()) };
            let photo = Photo { media_type, image };
            // What is not what it says it is stays out of the vCard (§3.1 SHOULD).
            if !vcards::hex(&photo.hash()).eq_ignore_ascii_case(&id) {
                return Ok(());
            }
            Some(photo)
        }
    };
    let hash = photo.as_ref().map(Photo::hash);
    if before.as_ref().and_then(|vcard| vcard.avatar) == hash {
        return Ok(());
    }
    let before = before.map_or_else(|| format!("<vCard xmlns='{}'/>", ns::VCARD), |vcard| vcard.xml);
    let Some(xml) = with_photo(&before, photo.as_ref()) else { return Ok(()) };
    if xml.len() > config.limits.vcard_bytes_max as usize {
        return Ok(());
    }
    if vcards::save(store, owner.as_jid(), &Vcard { xml, avatar: hash }).await.is_ok() {
        effects.push(Effect::Photo(hash));
    }
    Ok(())
}

/// A vCard was set whose photo is not the one before: it is published as an avatar, or that there is none (§3.2).
pub(super) async fn vcard_set<S: Store>(
    config: &ServiceConfig,
    store: &S,
    request: &Request,
    vcard: &Node,
    effects: &mut Vec<Effect>,
) {
    let (data, metadata) = match Photo::read(vcard) {
        Some(photo) => {
            let id = vcards::hex(&photo.hash());
            let data = publish(ns::AVATAR_DATA, &id, |out| {
                out.extend_from_slice(b"<data");
                write::attr(out, "xmlns", ns::AVATAR_DATA);
                out.push(b'>');
                out.extend_from_slice(STANDARD.encode(&photo.image).as_bytes());
                out.extend_from_slice(b"</data>");
            });
            let metadata = publish(ns::AVATAR_METADATA, &id, |out| {
                begin_metadata(out);
                out.extend_from_slice(b"><info");
                write::attr(out, "bytes", &photo.image.len().to_string());
                write::attr(out, "id", &id);
                write::attr(out, "type", &photo.media_type);
                out.extend_from_slice(b"/></metadata>");
            });
            (Some(data), metadata)
        }
        None => (
            None,
            publish(ns::AVATAR_METADATA, "", |out| {
                begin_metadata(out);
                out.extend_from_slice(b"/>");
            }),
        ),
    };
    let host = Host::Account(request.caller.bare());
    let facts = Facts { subscribed: true, groups: Vec::new() };
    let mut outgoing = Outgoing { notifications: Vec::new(), messages: Vec::new() };
    for payload in data.iter().chain([&metadata]) {
        let caller = &request.caller;
        let asked =
            pubsub::Request { host: &host, caller, iq_type: IqType::Set, payload, unix_millis: request.unix_millis };
        let reply = pubsub::answer(&config.pubsub, store, asked, &facts).await;
        outgoing.notifications.extend(reply.notifications);
        // Nobody is told of an image that is not there.
        if reply.result.is_err() {
            break;
        }
    }
    if !outgoing.is_empty() {
        effects.push(Effect::Pubsub(Box::new(outgoing)));
    }
}

fn begin_metadata(out: &mut Vec<u8>) {
    out.extend_from_slice(b"<metadata");
    write::attr(out, "xmlns", ns::AVATAR_METADATA);
}

/// A request to publish an item; "" for one whose id the service chooses.
fn publish(node: &str, id: &str, payload: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    out.extend_from_slice(b"<pubsub");
    write::attr(&mut out, "xmlns", ns::PUBSUB);
    out.extend_from_slice(b"><publish");
    write::attr(&mut out, "node", node);
    out.extend_from_slice(b"><item");
    if !id.is_empty() {
        write::attr(&mut out, "id", id);
    }
    out.push(b'>');
    payload(&mut out);
    out.extend_from_slice(b"</item></publish></pubsub>");
    String::from_utf8(out).expect("escaping keeps UTF-8")
}

/// What a `<pubsub/>` publishes of an avatar, if it does; of several items the last counts. Of several images the first that
/// is kept here does (§3.1).
fn metadata(pubsub: &Node) -> Option<Metadata> {
    let publish =
        pubsub.child("publish", ns::PUBSUB).filter(|publish| publish.attr("node") == Some(ns::AVATAR_METADATA))?;
    let item = publish.children.iter().rev().find(|child| is(child, "item", ns::PUBSUB))?;
    let metadata = item.child("metadata", ns::AVATAR_METADATA)?;
    let mut infos = metadata.children.iter().filter(|child| is(child, "info", ns::AVATAR_METADATA)).peekable();
    if infos.peek().is_none() {
        return metadata.children.is_empty().then_some(Metadata::Disabled);
    }
    let kept = infos.find(|info| info.attr("url").is_none())?;
    let id = kept.attr("id").filter(|id| !id.is_empty())?.to_owned();
    Some(Metadata::Kept { id, media_type: kept.attr("type").unwrap_or_default().to_owned() })
}

fn is(node: &Node, name: &str, ns: &str) -> bool {
    node.name == name && node.ns == ns
}

/// A vCard with this photo in place of whatever it had; all else stays as it was.
fn with_photo(vcard: &str, photo: Option<&Photo>) -> Option<String> {
    let (mut scanner, namespaces) = (Scanner::new(), StreamNamespaces::default());
    let Ok(Scanned::Element { element, .. }) = scanner.next(&ScanLimits::SCANNED, &namespaces, vcard.as_bytes()) else {
        return None;
    };
    let mut out = Vec::with_capacity(vcard.len());
    element.write_without(&mut out, |child| child.is("PHOTO", ns::VCARD));
    let Some(photo) = photo else { return String::from_utf8(out).ok() };
    let end = end_tag(&element, &out);
    let closed = out.ends_with(b"/>");
    out.truncate(if closed { out.len() - 2 } else { out.len() - end.len() });
    if closed {
        out.push(b'>');
    }
    out.extend_from_slice(b"<PHOTO");
    write::attr(&mut out, "xmlns", ns::VCARD);
    out.extend_from_slice(b"><TYPE>");
    write::text(&mut out, &photo.media_type);
    out.extend_from_slice(b"</TYPE><BINVAL>");
    out.extend_from_slice(STANDARD.encode(&photo.image).as_bytes());
    out.extend_from_slice(b"</BINVAL></PHOTO>");
    out.extend_from_slice(&end);
    String::from_utf8(out).ok()
}

/// The end tag of an element, as it is written, or as it would be had the element one.
fn end_tag(element: &Element<'_>, written: &[u8]) -> Vec<u8> {
    if !written.ends_with(b"/>") {
        let start = written.iter().rposition(|&byte| byte == b'<').unwrap_or(written.len());
        return written.get(start..).unwrap_or_default().to_vec();
    }
    let name = element.raw().get(1..).unwrap_or_default();
    let end = name.find(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>')).unwrap_or(name.len());
    format!("</{}>", name.get(..end).unwrap_or_default()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::testing::Client;
    use super::*;
    use crate::wait::block_on;

    const ABC: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";
    const VCARD: &str = "<vCard xmlns='vcard-temp'/>";

    fn abc() -> Photo {
        Photo { media_type: "image/png".to_owned(), image: b"abc".to_vec() }
    }

    fn wrapped(inside: &str) -> String {
        format!("<pubsub xmlns='http://jabber.org/protocol/pubsub'>{inside}</pubsub>")
    }

    fn publication(node: &str, id: &str, payload: &str, access: &str) -> String {
        let options = format!(
            "<publish-options><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'>\
             <value>http://jabber.org/protocol/pubsub#publish-options</value></field>\
             <field var='pubsub#access_model'><value>{access}</value></field></x></publish-options>"
        );
        wrapped(&format!("<publish node='{node}'><item id='{id}'>{payload}</item></publish>{options}"))
    }

    fn data(owner: &Client, id: &str, base64: &str, access: &str) {
        let payload = format!("<data xmlns='urn:xmpp:avatar:data'>{base64}</data>");
        let answer = owner.set("", &publication(ns::AVATAR_DATA, id, &payload, access));
        assert!(answer.contains("<publish "), "{answer}");
    }

    /// Publishes metadata; the photo that is shown from then on, if that changes.
    fn tell(owner: &Client, infos: &str) -> Option<Option<AvatarHash>> {
        let payload = format!("<metadata xmlns='urn:xmpp:avatar:metadata'>{infos}</metadata>");
        let (answer, effects) =
            owner.ask(IqType::Set, "", &publication(ns::AVATAR_METADATA, "current", &payload, "open"));
        assert!(answer.contains("<publish "), "{answer}");
        effects.into_iter().find_map(|effect| if let Effect::Photo(photo) = effect { Some(photo) } else { None })
    }

    fn info(id: &str, more: &str) -> String {
        format!("<info bytes='3' id='{id}' type='image/png'{more}/>")
    }

    fn vcard(owner: &Client) -> String {
        owner.get("", VCARD)
    }

    #[test]
    fn an_avatar_that_is_published_becomes_the_photo_of_the_vcard() {
        let owner = Client::owner();
        let hash = Some(abc().hash());
        data(&owner, ABC, "YW\nJj", "open");
        assert_eq!(tell(&owner, &info(ABC, "")), Some(hash));
        let photo = "<PHOTO xmlns='vcard-temp'><TYPE>image/png</TYPE><BINVAL>YWJj</BINVAL></PHOTO>";
        assert_eq!(vcard(&owner), format!("<vCard xmlns='vcard-temp'>{photo}</vCard>"));
        assert_eq!(block_on(vcards::avatar(&owner.store, owner.jid.as_jid().bare())), Ok(hash));
        assert_eq!(tell(&owner, &info(ABC, "")), None, "it is there already");
        assert_eq!(tell(&owner, ""), Some(None));
        assert_eq!(vcard(&owner), "<vCard xmlns='vcard-temp'></vCard>");
        assert_eq!(tell(&owner, ""), None);

        // It takes the place of the one that was there; all else stays.
        owner.set("", "<vCard xmlns='vcard-temp'><FN>A</FN><PHOTO><BINVAL>eA==</BINVAL></PHOTO>\n<N/></vCard>");
        let several = info("other", " url='http://x/'") + &info(&ABC.to_uppercase(), "");
        data(&owner, &ABC.to_uppercase(), "YWJj", "open");
        assert_eq!(tell(&owner, &several), Some(hash));
        assert_eq!(vcard(&owner), format!("<vCard xmlns='vcard-temp'><FN>A</FN>\n<N/>{photo}</vCard>"));
    }

    #[test]
    fn what_is_not_for_everybody_not_here_or_not_what_it_says_stays_out_of_the_vcard() {
        let mut owner = Client::owner();
        data(&owner, ABC, "YWJj", "presence");
        assert_eq!(tell(&owner, &info(ABC, "")), None, "the vCard may be read by anybody");
        let owner_only = owner.clone();
        owner = Client::owner();
        data(&owner, ABC, "YWI=", "open");
        assert_eq!(tell(&owner, &info(ABC, "")), None, "another image");
        data(&owner, "x", "YWJj", "open");
        assert_eq!(tell(&owner, &info("x", "")), None, "another name");
        assert_eq!(tell(&owner, &info("y", "")), None, "nothing of that name");
        assert_eq!(tell(&owner, &info(ABC, " url='http://x/'")), None, "elsewhere");
        assert_eq!(tell(&owner, "<pointer/>"), None);
        owner.config.limits.vcard_bytes_max = 50;
        data(&owner, ABC, "YWJj", "open");
        assert_eq!(tell(&owner, &info(ABC, "")), None, "no room");
        for owner in [owner, owner_only] {
            assert!(vcard(&owner).contains("<item-not-found "));
        }
    }

    #[test]
    fn the_photo_of_a_vcard_is_published_as_an_avatar() {
        let owner = Client::owner();
        let set = |photo: &str| owner.ask(IqType::Set, "", &format!("<vCard xmlns='vcard-temp'>{photo}</vCard>"));
        let items = |node: &str| owner.get("", &wrapped(&format!("<items node='{node}'/>")));
        let told = |effects: &[Effect]| {
            effects
                .iter()
                .map(|effect| if let Effect::Pubsub(out) = effect { out.notifications.len() } else { 0 })
                .sum::<usize>()
        };
        let photo = "<PHOTO><TYPE>image/png</TYPE><BINVAL>YW Jj</BINVAL></PHOTO>";
        let (_, effects) = set(photo);
        assert_eq!(told(&effects), 2);
        assert!(
            items(ns::AVATAR_DATA)
                .contains(&format!("<item id='{ABC}'><data xmlns='urn:xmpp:avatar:data'>YWJj</data>"))
        );
        let info = format!("<metadata xmlns='urn:xmpp:avatar:metadata'><info bytes='3' id='{ABC}' type='image/png'/>");
        assert!(items(ns::AVATAR_METADATA).contains(&info));
        // The same photo once more is not told again.
        let (_, effects) = set(&format!("<FN>x</FN>{photo}"));
        assert_eq!(effects, [Effect::Photo(Some(abc().hash()))]);
        // None any more.
        let (_, effects) = set("");
        assert_eq!(told(&effects), 1);
        assert!(items(ns::AVATAR_METADATA).contains("<metadata xmlns='urn:xmpp:avatar:metadata'/>"));
        let (_, effects) = set("");
        assert_eq!(effects, [Effect::Photo(None)]);
        // An image of which nobody says what it is, and that does not show it, is nothing to publish.
        let (_, effects) = set("<PHOTO><BINVAL>YWJj</BINVAL></PHOTO>");
        assert_eq!(told(&effects), 1, "that there is none");
    }

    #[test]
    fn a_vcard_is_given_a_photo_however_it_is_written() {
        for (before, after) in [
            ("<vCard xmlns='vcard-temp'/>", "<vCard xmlns='vcard-temp'>PHOTO</vCard>"),
            ("<vCard\nxmlns='vcard-temp' />", "<vCard\nxmlns='vcard-temp' >PHOTO</vCard>"),
            ("<v:vCard xmlns:v='vcard-temp'/>", "<v:vCard xmlns:v='vcard-temp'>PHOTO</v:vCard>"),
            (
                "<v:vCard xmlns:v='vcard-temp'><v:PHOTO/><v:FN/></v:vCard >",
                "<v:vCard xmlns:v='vcard-temp'><v:FN/>PHOTO</v:vCard >",
            ),
        ] {
            let written = with_photo(before, Some(&abc())).unwrap();
            let photo = "<PHOTO xmlns='vcard-temp'><TYPE>image/png</TYPE><BINVAL>YWJj</BINVAL></PHOTO>";
            assert_eq!(written, after.replace("PHOTO", photo), "{before}");
            let node = Node::parse(&written, "").unwrap();
            assert_eq!(Photo::read(&node), Some(abc()));
        }
        assert_eq!(with_photo("no xml", None), None);
    }
}
