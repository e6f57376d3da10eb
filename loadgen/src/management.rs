//! Stream management on the client's side: counts, acknowledgements, resumption (XEP-0198 v1.6.3).
//!
//! Called by [`crate::login`] while a session logs in and by [`crate::session`] afterwards; outlives the connection.

use plaza_core::ns;
use plaza_core::xml::read::Node;
use plaza_core::xml::{Element, write};

/// What a session knows of its managed stream.
#[derive(Debug, Default)]
pub(crate) struct Management {
    /// The server's name for the stream, once it is enabled.
    id: String,
    enabled: bool,
    /// Resumption was asked for.
    resumable: bool,
    /// Stanzas that arrived since it was enabled.
    inbound: u32,
    /// Stanzas sent since it was asked for.
    outbound: u32,
}

impl Management {
    /// Asks for it (§3), and for resumption if need be (§5).
    pub(crate) fn enable(resumable: bool, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(match resumable {
            true => b"<enable xmlns='urn:xmpp:sm:3' resume='true'/>",
            false => b"<enable xmlns='urn:xmpp:sm:3'/>",
        });
        Self { resumable, ..Self::default() }
    }

    /// Whether the server has enabled it.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The stanzas sent since it was asked for.
    pub(crate) fn outbound(&self) -> u32 {
        self.outbound
    }

    /// A stanza arrived.
    pub(crate) fn count_inbound(&mut self) {
        if self.enabled {
            self.inbound = self.inbound.wrapping_add(1);
        }
    }

    /// So many stanzas were sent.
    pub(crate) fn count_outbound(&mut self, stanzas: u32) {
        self.outbound = self.outbound.wrapping_add(stanzas);
    }

    /// Takes `<enabled/>`, wherever it stands.
    ///
    /// # Errors
    /// In words: the stream can't be resumed.
    pub(crate) fn on_enabled(&mut self, enabled: &impl Attributes) -> Result<(), String> {
        self.enabled = true;
        if !self.resumable {
            return Ok(());
        }
        if !enabled.value("resume").is_some_and(|resume| matches!(&*resume, "true" | "1")) {
            return Err("the server enabled stream management without resumption".to_owned());
        }
        self.id = enabled.value("id").filter(|id| !id.is_empty()).ok_or("a resumable stream without an id")?;
        Ok(())
    }

    /// Asks to resume the stream (§5).
    pub(crate) fn resume(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"<resume xmlns='urn:xmpp:sm:3'");
        write::attr(out, "previd", &self.id);
        write::attr_raw(out, "h", &self.inbound.to_string());
        out.extend_from_slice(b"/>");
    }

    /// Takes `<resumed/>`, wherever it stands.
    ///
    /// # Errors
    /// In words: it is another stream, or the server did not handle all that was sent.
    pub(crate) fn on_resumed(&self, resumed: &impl Attributes) -> Result<(), String> {
        if resumed.value("previd").is_none_or(|previd| previd != self.id) {
            return Err("the server resumed another stream".to_owned());
        }
        let h = resumed.value("h").and_then(|h| h.parse::<u32>().ok()).ok_or("<resumed/> without a count")?;
        if h != self.outbound {
            return Err(format!("{} stanzas were sent, the server handled {h}", self.outbound));
        }
        Ok(())
    }

    /// Takes an element of stream management on an established stream: answers a request, gives the count of an
    /// acknowledgement.
    ///
    /// # Errors
    /// In words: it acknowledges what was not sent, or does not belong here.
    pub(crate) fn take(&self, element: &Element<'_>, out: &mut Vec<u8>) -> Result<Option<u32>, String> {
        match element.name() {
            "r" => {
                out.extend_from_slice(b"<a xmlns='urn:xmpp:sm:3'");
                write::attr_raw(out, "h", &self.inbound.to_string());
                out.extend_from_slice(b"/>");
                Ok(None)
            }
            "a" => {
                let h = read_h(element)?;
                if h > self.outbound {
                    return Err(format!("{} stanzas were sent, {h} acknowledged", self.outbound));
                }
                Ok(Some(h))
            }
            name => Err(format!("<{name}/> of stream management does not belong here")),
        }
    }
}

/// Something with attributes: an element of the stream, or one inside another (XEP-0198 v1.6.3 §8).
pub(crate) trait Attributes {
    /// The value of an attribute.
    fn value(&self, name: &str) -> Option<String>;
}

impl Attributes for Element<'_> {
    fn value(&self, name: &str) -> Option<String> {
        self.attr(name).map(|attr| attr.value().into_owned())
    }
}

impl Attributes for Node {
    fn value(&self, name: &str) -> Option<String> {
        self.attr(name).map(str::to_owned)
    }
}

/// Whether an element is one of stream management.
pub(crate) fn is_ours(element: &Element<'_>) -> bool {
    element.ns() == ns::SM
}

/// Asks for an acknowledgement (§4).
pub(crate) fn request(out: &mut Vec<u8>) {
    out.extend_from_slice(b"<r xmlns='urn:xmpp:sm:3'/>");
}

fn read_h(element: &Element<'_>) -> Result<u32, String> {
    let h = element.attr("h").and_then(|h| h.raw.parse().ok());
    h.ok_or_else(|| format!("<{}/> without a count", element.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::with_element;

    fn enabled() -> Management {
        let mut management = Management::enable(true, &mut Vec::new());
        let text = "<enabled xmlns='urn:xmpp:sm:3' id='a&amp;b' resume='true'/>";
        with_element(text, |element| management.on_enabled(element).unwrap());
        management
    }

    #[test]
    fn resumption_names_the_stream_and_what_arrived() {
        let mut management = enabled();
        management.count_inbound();
        management.count_outbound(2);
        let mut out = Vec::new();
        management.resume(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "<resume xmlns='urn:xmpp:sm:3' previd='a&amp;b' h='1'/>");
        let resumed = |previd: &str, h: u32| {
            let text = format!("<resumed xmlns='urn:xmpp:sm:3' previd='{previd}' h='{h}'/>");
            with_element(&text, |element| management.on_resumed(element))
        };
        assert_eq!(resumed("a&amp;b", 2), Ok(()));
        assert!(resumed("other", 2).is_err());
        assert!(resumed("a&amp;b", 1).unwrap_err().contains("handled 1"));
    }

    #[test]
    fn requests_are_answered_and_acknowledgements_checked() {
        let mut management = enabled();
        management.count_inbound();
        management.count_outbound(3);
        let mut out = Vec::new();
        let mut take = |text: &str| with_element(text, |element| management.take(element, &mut out));
        assert_eq!(take("<r xmlns='urn:xmpp:sm:3'/>"), Ok(None));
        assert_eq!(take("<a xmlns='urn:xmpp:sm:3' h='3'/>"), Ok(Some(3)));
        assert!(take("<a xmlns='urn:xmpp:sm:3' h='4'/>").is_err());
        assert!(take("<a xmlns='urn:xmpp:sm:3'/>").is_err());
        assert!(take("<failed xmlns='urn:xmpp:sm:3'/>").is_err());
        assert_eq!(String::from_utf8(out).unwrap(), "<a xmlns='urn:xmpp:sm:3' h='1'/>");
    }

    #[test]
    fn a_stream_that_cannot_be_resumed_is_refused() {
        let mut management = Management::enable(true, &mut Vec::new());
        for text in ["<enabled xmlns='urn:xmpp:sm:3'/>", "<enabled xmlns='urn:xmpp:sm:3' resume='true'/>"] {
            assert!(with_element(text, |element| management.on_enabled(element)).is_err(), "{text}");
        }
        let mut management = Management::enable(false, &mut Vec::new());
        assert!(!management.is_enabled());
        with_element("<enabled xmlns='urn:xmpp:sm:3'/>", |element| management.on_enabled(element)).unwrap();
        assert!(management.is_enabled());
    }
}
