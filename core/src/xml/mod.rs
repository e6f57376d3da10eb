//! XML as XMPP restricts it (RFC 6120 §11): the strict scanner for the wire, a reader for payloads, and the writer.

mod chars;
mod element;
pub mod read;
mod scanner;
mod standalone;
mod tag;
pub mod write;

pub use element::{Attr, Child, Element, StreamHeader, StreamNamespaces};
pub use scanner::{Scanned, Scanner, XmlError, is_gap};
pub use standalone::{NotStandalone, Standalone};
