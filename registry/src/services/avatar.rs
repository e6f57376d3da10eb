//! IQ-based avatars (XEP-0008 v0.3.1): an owner keeps a small image, subscribers of presence may have it.
//!
//! Obsolete for long, and cheap: clients of its time ask a contact's client first and its server then.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plaza_core::jid::JidRef;
use plaza_core::ns;
use plaza_core::stanza::Condition;
use plaza_core::xml::read::Node;
use plaza_core::xml::write;

use super::{condition, refusal};
use crate::avatars::{self, Avatar};
use crate::store::Store;
use crate::vcards::image;

/// Bytes of an image: "less than eight kilobytes" (§2). Beyond it the set is `not-acceptable`.
const IMAGE_BYTES_MAX: usize = 8 * 1024 - 1;
/// Bytes of a media type: both names of 127 (RFC 6838 §4.2). Beyond it the set is `not-acceptable`.
const MEDIA_TYPE_BYTES_MAX: usize = 255;

/// The image an account's owner stored (§4), in the namespace it was asked for in: a client of the account answers in
/// `jabber:iq:avatar`, its server in `storage:client:avatar`, and here one stands in for the other.
///
/// Differs from XEP-0008 §4, where any client may have it: only subscribers of presence do, since whether there is one
/// tells whether there is an account.
///
/// # Errors
/// `item-not-found` if there is none.
pub(super) async fn get<S: Store>(store: &S, owner: JidRef<'_>, ns: &str) -> Result<Vec<u8>, Condition> {
    let avatar = avatars::load(store, owner).await.map_err(|error| condition(&error))?;
    let Avatar { media_type, image } = avatar.ok_or(Condition::ItemNotFound)?;
    let mut out = Vec::with_capacity(image.len() * 4 / 3 + 128);
    out.extend_from_slice(b"<query");
    write::attr(&mut out, "xmlns", ns);
    out.extend_from_slice(b"><data");
    if !media_type.is_empty() {
        write::attr(&mut out, "mimetype", &media_type);
    }
    out.push(b'>');
    out.extend_from_slice(STANDARD.encode(image).as_bytes());
    out.extend_from_slice(b"</data></query>");
    Ok(out)
}

/// Stores an image in place of the one before; without data, that one is deleted.
///
/// # Errors
/// `bad-request` for several or what is no Base64, `not-acceptable` for one too large.
pub(super) async fn set<S: Store>(store: &S, owner: JidRef<'_>, query: &Node) -> Result<Vec<u8>, Condition> {
    let avatar = read(query)?;
    avatars::save(store, owner, avatar.as_ref()).await.map_err(refusal)?;
    Ok(Vec::new())
}

fn read(query: &Node) -> Result<Option<Avatar>, Condition> {
    let mut all = query.children.iter().filter(|child| child.name == "data" && child.ns == ns::AVATAR_STORAGE);
    let (data, None) = (all.next(), all.next()) else { return Err(Condition::BadRequest) };
    let Some(data) = data else { return Ok(None) };
    let image = image(&data.text).ok_or(Condition::BadRequest)?;
    let media_type = data.attr("mimetype").unwrap_or_default().to_owned();
    if image.len() > IMAGE_BYTES_MAX || media_type.len() > MEDIA_TYPE_BYTES_MAX {
        return Err(Condition::NotAcceptable);
    }
    Ok((!image.is_empty()).then_some(Avatar { media_type, image }))
}

#[cfg(test)]
mod tests {
    use plaza_core::stanza::IqType;

    use super::super::testing::{Client, error};
    use super::*;

    const ASKED: [&str; 2] = ["<query xmlns='jabber:iq:avatar'/>", "<query xmlns='storage:client:avatar'/>"];

    fn stored(attrs: &str, base64: &str) -> String {
        format!("<query xmlns='storage:client:avatar'><data{attrs}>{base64}</data></query>")
    }

    #[test]
    fn an_image_is_stored_and_given_to_its_owner_and_to_subscribers() {
        let owner = Client::owner();
        let subscriber = owner.other(true);
        let asking = [(&owner, ""), (&owner, "owner@things.example"), (&subscriber, "owner@things.example")];
        for (client, to) in asking {
            for asked in ASKED {
                assert_eq!(client.get(to, asked), error(Condition::ItemNotFound));
            }
        }
        assert_eq!(owner.set("owner@things.example", &stored(" mimetype='image/jpeg'", "\n YW\r\nJj ")), "");
        let answer = stored(" mimetype='image/jpeg'", "YWJj");
        for (client, to) in asking {
            assert_eq!(client.get(to, ASKED[0]), answer.replace("storage:client:avatar", "jabber:iq:avatar"));
            assert_eq!(client.get(to, ASKED[1]), answer);
        }
        assert_eq!(owner.set("", &stored("", "YWI=")), "");
        assert_eq!(owner.get("", ASKED[1]), stored("", "YWI="));
        for nothing in [stored("", " "), ASKED[1].to_owned()] {
            owner.set("", &stored("", "YWJj"));
            assert_eq!(owner.set("", &nothing), "");
            assert_eq!(owner.get("", ASKED[1]), error(Condition::ItemNotFound));
        }
    }

    #[test]
    fn strangers_have_nothing_and_nobody_sets_anothers() {
        let owner = Client::owner();
        assert_eq!(owner.set("", &stored("", "YWJj")), "");
        owner.store.hold();
        for to in ["owner@things.example", "nobody@things.example"] {
            for asked in ASKED {
                assert_eq!(owner.other(false).get(to, asked), error(Condition::ServiceUnavailable));
            }
            let (answer, _) = owner.other(true).ask(IqType::Set, to, &stored("", "YWI="));
            assert_eq!(answer, error(Condition::ServiceUnavailable));
        }
        assert_eq!(owner.store.held(), 0);
    }

    #[test]
    fn what_is_not_as_it_should_be_is_refused_with_its_condition() {
        let owner = Client::owner();
        let largest = stored("", &STANDARD.encode([7; IMAGE_BYTES_MAX]));
        assert_eq!(owner.set("", &largest), "");
        for (set, refused) in [
            (stored("", "no base64!"), Condition::BadRequest),
            (stored("", "YWJj").replace("<data>", "<data/><data>"), Condition::BadRequest),
            (stored("", &STANDARD.encode([7; IMAGE_BYTES_MAX + 1])), Condition::NotAcceptable),
            (
                stored(&format!(" mimetype='{}'", "x".repeat(MEDIA_TYPE_BYTES_MAX + 1)), "YWJj"),
                Condition::NotAcceptable,
            ),
        ] {
            assert_eq!(owner.set("", &set), error(refused), "{set:.100}");
        }
        assert_eq!(owner.get("", ASKED[1]), largest);
        // It is stored under the one namespace only (§4), and at an account.
        assert_eq!(owner.set("", ASKED[0]), error(Condition::FeatureNotImplemented));
        assert_eq!(owner.get("things.example", ASKED[0]), error(Condition::FeatureNotImplemented));
    }
}
