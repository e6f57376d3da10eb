//! Photos in presence (XEP-0153 v1.1.1 §4.1, XEP-0398 v1.0.0 §4): who has one in the vCard shows its hash in every available
//! presence, whatever the client knows of it. What a session said is kept as it was said; the hash is put in when presence is
//! written, so that it is the one of then. Nothing here costs an account without a photo more than a look.

use plaza_core::jid::Jid;
use plaza_core::limits::ScanLimits;
use plaza_core::ns;
use plaza_core::stanza::{Class, PresenceType, Stamp, Stanza, with_child, write_stanza};
use plaza_core::xml::{Element, Scanned, StreamNamespaces, write};
use plaza_registry::vcards::{self, AvatarHash};

use super::{SessionId, Shard};

impl Shard {
    /// The hash of an account's photo, as far as the account is known.
    pub(super) fn photo(&self, account: u32) -> Option<AvatarHash> {
        self.accounts.get(account)?.facts.as_ref()?.photo
    }

    /// Puts the hash of the account's photo into an available presence of one of its sessions.
    pub(super) fn show_photo(&mut self, account: u32, presence: &mut Vec<u8>) {
        if let Some(hash) = self.photo(account) {
            self.show(Some(hash), presence);
        }
    }

    /// Directed presence with the hash of the sender's photo in it (XEP-0398 §4); `None` if it goes as it is.
    pub(super) fn directed_with_photo(
        &mut self,
        id: SessionId,
        from: &Jid,
        stanza: &Stanza<'_>,
        namespaces: &StreamNamespaces,
    ) -> Option<Vec<u8>> {
        if stanza.class != Class::Presence(PresenceType::Available) {
            return None;
        }
        let photo = self.photo(self.get(id)?.account)?;
        let mut text = Vec::new();
        write_stanza(&mut text, stanza, Stamp { from: from.as_str(), to: None }, namespaces);
        self.show(Some(photo), &mut text);
        Some(text)
    }

    /// `None` says that there is no photo (XEP-0153 §4.1, third rule).
    fn show(&mut self, photo: Option<AvatarHash>, presence: &mut Vec<u8>) {
        let mut scanner = std::mem::take(&mut self.scanner);
        scanner.reset();
        let namespaces = StreamNamespaces::default();
        let scanned = scanner.next(&ScanLimits::SCANNED, &namespaces, presence);
        let shown = match scanned {
            Ok(Scanned::Element { element, .. }) => showing(photo, &element),
            Ok(_) | Err(_) => None,
        };
        self.scanner = scanner;
        if let Some(shown) = shown {
            *presence = shown;
        }
    }

    /// The account has another photo, or none any more: all who see its sessions learn of it. Whom directed presence went
    /// to do not (XEP-0398 §5.1).
    pub(super) fn set_photo(&mut self, account: &Jid, photo: Option<AvatarHash>) {
        let bare = account.as_jid().bare();
        let Some(index) = self.accounts.find_index(self.homes.hash(bare), bare) else { return };
        let Some(facts) = self.facts_mut(index) else { return };
        if std::mem::replace(&mut facts.photo, photo) == photo {
            return;
        }
        for id in self.sessions_of(bare) {
            self.present_again(id, photo);
        }
    }

    fn present_again(&mut self, id: SessionId, photo: Option<AvatarHash>) {
        let Some(session) = self.get(id).filter(|session| session.priority.is_some()) else { return };
        let from = session.jid.clone();
        let mut text = self.take_buffer();
        self.write_presence(id, &mut text);
        if photo.is_none() {
            self.show(None, &mut text);
        }
        self.tell_resources(&from, PresenceType::Available, &text);
        self.broadcast_to_contacts(id, PresenceType::Available, &text);
        self.give_buffer(text);
    }
}

/// An available presence with the hash of a photo; `None` if it stays as it is: it says that it shows none, or the same.
fn showing(photo: Option<AvatarHash>, presence: &Element<'_>) -> Option<Vec<u8>> {
    let hash = photo.as_ref().map(vcards::hex).unwrap_or_default();
    let mut said = false;
    for child in presence.children().filter(|child| child.is("x", ns::VCARD_UPDATE)) {
        said = true;
        let x = presence.read(&child)?;
        if let Some(shown) = x.child("photo", ns::VCARD_UPDATE).map(|photo| photo.text.trim())
            && (shown.is_empty() || shown.eq_ignore_ascii_case(&hash))
        {
            return None;
        }
    }
    let mut bare = Vec::new();
    let text = if said {
        presence.write_without(&mut bare, |child| child.is("x", ns::VCARD_UPDATE));
        &*bare
    } else {
        presence.raw().as_bytes()
    };
    Some(with_child(text, |out| {
        out.extend_from_slice(b"<x");
        write::attr(out, "xmlns", ns::VCARD_UPDATE);
        out.extend_from_slice(b"><photo");
        if hash.is_empty() {
            out.extend_from_slice(b"/></x>");
        } else {
            out.push(b'>');
            out.extend_from_slice(hash.as_bytes());
            out.extend_from_slice(b"</photo></x>");
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use plaza_core::xml::Scanner;

    const HASH: AvatarHash = [0xab; 20];
    const HEX: &str = "abababababababababababababababababababab";

    fn shown(photo: Option<AvatarHash>, content: &str) -> Option<String> {
        let presence = format!("<presence from='a@b/c'>{content}</presence>");
        let (mut scanner, namespaces) = (Scanner::new(), StreamNamespaces::default());
        let Ok(Scanned::Element { element, .. }) = scanner.next(&ScanLimits::SCANNED, &namespaces, presence.as_bytes())
        else {
            panic!("{presence}")
        };
        showing(photo, &element).map(|shown| {
            let shown = String::from_utf8(shown).unwrap();
            let content =
                shown.strip_prefix("<presence from='a@b/c'>").and_then(|rest| rest.strip_suffix("</presence>"));
            content.unwrap_or_else(|| panic!("{shown}")).to_owned()
        })
    }

    fn x(photo: &str) -> String {
        format!("<x xmlns='vcard-temp:x:update'>{photo}</x>")
    }

    fn photo(hash: &str) -> String {
        x(&format!("<photo>{hash}</photo>"))
    }

    #[test]
    fn a_photo_is_shown_where_it_is_not_said_that_there_is_none() {
        let ours = photo(HEX);
        let check =
            |content: &str, expected: Option<String>| assert_eq!(shown(Some(HASH), content), expected, "{content}");
        check("", Some(ours.clone()));
        check("<show>away</show>", Some(format!("<show>away</show>{ours}")));
        // A client that is not ready is overwritten, as is one that shows another; XEP-0398 §4.
        check(&x(""), Some(ours.clone()));
        check("<x xmlns='vcard-temp:x:update'/><show>away</show>", Some(format!("<show>away</show>{ours}")));
        check(&photo(&"cd".repeat(20)), Some(ours.clone()));
        check(&format!("{}{}", x(""), photo("rubbish")), Some(ours.clone()));
        check("<v:x xmlns:v='vcard-temp:x:update'><v:photo>1</v:photo></v:x>", Some(ours.clone()));
        // These stay: it is right, or it is said that there is none to show.
        for stays in [ours, photo(&HEX.to_uppercase()), x("<photo/>"), x("<photo> </photo>"), x(" <photo></photo> ")] {
            check(&stays, None);
        }
        // Others' elements are none of ours.
        let other = "<x xmlns='http://jabber.org/protocol/muc'/>";
        check(other, Some(format!("{other}{}", photo(HEX))));
    }

    #[test]
    fn that_a_photo_is_gone_is_shown_as_well() {
        let none = x("<photo/>");
        for content in ["", &*x(""), &*photo(HEX)] {
            assert_eq!(shown(None, content).as_deref(), Some(&*none), "{content}");
        }
        assert_eq!(shown(None, &none), None);
    }
}
