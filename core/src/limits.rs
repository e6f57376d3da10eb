//! Bounds on what a peer may make us hold or do. Each has a name, a unit, a default and an answer when it is reached.

/// Bounds of one XML stream's scanner (RFC 6120 §13.12). Beyond any of them the stream ends with `policy-violation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanLimits {
    /// Largest top-level element accepted, in bytes from `<` to `>`. At least 10 000 after authentication.
    pub stanza_bytes_max: u32,
    /// Most elements in one top-level element, itself included.
    pub elements_max: u16,
    /// Deepest nesting, the top-level element being 1.
    pub depth_max: u16,
    /// Most attributes on one element, namespace declarations included.
    pub attributes_max: u16,
    /// Longest attribute value, in bytes as written.
    pub attribute_bytes_max: u32,
    /// Longest element, attribute or prefix name, in bytes.
    pub name_bytes_max: u16,
    /// Most namespace declarations in scope at once.
    pub namespaces_max: u16,
}

impl ScanLimits {
    /// Before authentication: 8 KiB, 32 elements, depth 8.
    pub const BEFORE_AUTH: Self = Self {
        stanza_bytes_max: 8 * 1024,
        elements_max: 32,
        depth_max: 8,
        attributes_max: 64,
        attribute_bytes_max: 8 * 1024,
        name_bytes_max: 256,
        namespaces_max: 32,
    };
    /// After authentication, for a person's account or a service: 256 KiB.
    pub const AFTER_AUTH: Self = Self {
        stanza_bytes_max: 256 * 1024,
        elements_max: 2_000,
        depth_max: 64,
        attributes_max: 64,
        attribute_bytes_max: 8 * 1024,
        name_bytes_max: 256,
        namespaces_max: 32,
    };
    /// Of what was scanned already, under the bounds of the stream it came from, and is scanned once more.
    pub const SCANNED: Self = Self {
        stanza_bytes_max: u32::MAX,
        elements_max: u16::MAX,
        depth_max: u16::MAX,
        attributes_max: u16::MAX,
        attribute_bytes_max: u32::MAX,
        name_bytes_max: u16::MAX,
        namespaces_max: u16::MAX,
    };
}

const _: () = assert!(ScanLimits::AFTER_AUTH.stanza_bytes_max >= 10_000, "RFC 6120 §13.12");
