//! A connection: bytes from a socket in, elements out; what is said in, bytes for the socket out.
//!
//! Called by [`super::streets`]; performs no I/O.

use std::sync::Arc;

use plaza_core::limits::ScanLimits;
use plaza_core::xml::read::Node;
use plaza_core::xml::{Element, Scanned, Scanner, StreamNamespaces};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::tls::Tls;

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The header of a stream.
    Header,
    /// An element.
    Element(Node),
    /// The end of the stream.
    Close,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Link {
    tls: Option<Box<Tls>>,
    /// The handshake was seen to have ended.
    secured: bool,
    scanner: Scanner,
    namespaces: StreamNamespaces,
    header: bool,
    /// Plaintext not understood yet, from `at` on.
    plain: Vec<u8>,
    at: usize,
    /// A partial TLS record.
    cipher: Vec<u8>,
    /// For the socket.
    pub out: Vec<u8>,
}

impl Link {
    /// A connection just made: the header of a stream is to come.
    pub(crate) fn new() -> Self {
        Self {
            tls: None,
            secured: false,
            scanner: Scanner::new(),
            namespaces: StreamNamespaces::default(),
            header: true,
            plain: Vec::new(),
            at: 0,
            cipher: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Begins a TLS handshake.
    ///
    /// # Errors
    /// In words: there are bytes in the clear behind what led to it, or TLS's own.
    pub(crate) fn secure(&mut self, config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<(), String> {
        if self.at < self.plain.len() {
            return Err("bytes in the clear where TLS begins".to_owned());
        }
        self.tls = Some(Box::new(Tls::start(config, name, &mut self.out)?));
        Ok(())
    }

    /// Takes what arrived; gives whether a TLS handshake has ended by it.
    ///
    /// # Errors
    /// TLS's.
    pub(crate) fn arrive(&mut self, bytes: &[u8]) -> Result<bool, String> {
        self.plain.drain(..self.at);
        self.at = 0;
        let Some(tls) = &mut self.tls else {
            self.plain.extend_from_slice(bytes);
            return Ok(false);
        };
        self.cipher.extend_from_slice(bytes);
        let progress = tls.receive(&mut self.cipher, &mut self.plain, &mut self.out)?;
        self.cipher.drain(..progress.used);
        Ok(tls.is_established() && !std::mem::replace(&mut self.secured, true))
    }

    /// A new stream begins: its header is to come.
    pub(crate) fn restart(&mut self) {
        self.header = true;
        self.namespaces = StreamNamespaces::default();
    }

    /// The next thing that was heard whole.
    ///
    /// # Errors
    /// In words: it is not XML as XMPP has it.
    pub(crate) fn next(&mut self) -> Result<Option<Heard>, String> {
        let rest = self.plain.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        if self.header {
            let header = self.scanner.header(&ScanLimits::AFTER_AUTH, rest).map_err(|error| format!("{error:?}"))?;
            let Some((_, namespaces, used)) = header else { return Ok(None) };
            self.namespaces = namespaces;
            self.header = false;
            self.at += used;
            return Ok(Some(Heard::Header));
        }
        let scanned = self.scanner.next(&ScanLimits::AFTER_AUTH, &self.namespaces, rest);
        match scanned.map_err(|error| format!("{error:?}"))? {
            Scanned::Incomplete { skip } => {
                self.at += skip;
                Ok(None)
            }
            Scanned::Close { consumed } => {
                self.at += consumed;
                Ok(Some(Heard::Close))
            }
            Scanned::Element { element, consumed } => {
                self.at += consumed;
                Ok(Some(Heard::Element(read(&element))))
            }
        }
    }

    /// Says something.
    ///
    /// # Errors
    /// TLS's.
    pub(crate) fn say(&mut self, plain: &[u8]) -> Result<(), String> {
        match &mut self.tls {
            _ if plain.is_empty() => Ok(()),
            None => {
                self.out.extend_from_slice(plain);
                Ok(())
            }
            Some(tls) => tls.encrypt(plain, &mut self.out),
        }
    }
}

/// A whole element as a tree.
fn read(element: &Element<'_>) -> Node {
    let attr = |attr: plaza_core::xml::Attr<'_>| {
        let name = if attr.prefix.is_empty() { attr.name.to_owned() } else { format!("{}:{}", attr.prefix, attr.name) };
        (name, attr.value().into_owned())
    };
    Node {
        name: element.name().to_owned(),
        ns: element.ns().to_owned(),
        attrs: element.attrs().map(attr).collect(),
        children: element.children().filter_map(|child| element.read(&child)).collect(),
        text: element.text().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_heard_whole_however_the_bytes_come() {
        let text = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' id='1' version='1.0' \
                    xmlns:stream='http://etherx.jabber.org/streams'><stream:features><a xmlns='x' b='&amp;'>t</a>\
                    </stream:features> <iq type='result' id='1'/></stream:stream>";
        for size in [1, 7, text.len()] {
            let mut link = Link::new();
            let mut heard = Vec::new();
            for chunk in text.as_bytes().chunks(size) {
                assert_eq!(link.arrive(chunk), Ok(false));
                while let Some(next) = link.next().unwrap() {
                    heard.push(next);
                }
            }
            let [Heard::Header, Heard::Element(features), Heard::Element(iq), Heard::Close] = heard.as_slice() else {
                panic!("{heard:?}");
            };
            let child = features.child("a", "x").unwrap();
            assert_eq!((child.attr("b"), child.text.as_str()), (Some("&"), "t"));
            assert_eq!((iq.ns.as_str(), iq.attr("id")), ("jabber:client", Some("1")));
        }
        let mut link = Link::new();
        link.arrive(b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'><a></b>")
            .unwrap();
        assert_eq!(link.next(), Ok(Some(Heard::Header)));
        assert!(link.next().is_err());
    }

    #[test]
    fn tls_does_not_begin_behind_bytes_in_the_clear() {
        let mut link = Link::new();
        link.arrive(b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'><a/>")
            .unwrap();
        link.next().unwrap();
        let config = crate::tls::client_config(None, false).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        assert!(link.secure(config, name).is_err());
        link.say(b"").unwrap();
        link.say(b"<b/>").unwrap();
        assert_eq!(link.out, b"<b/>");
    }
}
