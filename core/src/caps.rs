//! Entity capabilities (XEP-0115 v1.6.0): what an entity can do, in a hash.
//!
//! [`Caps`] is the `<c/>` of a presence or of the stream features, [`Info`] an answer to disco#info. Which of them are
//! believed, and for whom, is decided by [`Info::ver`]: a hash that fits is known to be right for everybody who shows it.
//!
//! Spec: XEP-0115 v1.6.0 §4, §5; XEP-0030 v2.5.0 §3; XEP-0128 v1.0.1 (forms).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::ns;
use crate::xml::Child;
use crate::xml::read::Node;
use crate::xml::write;

/// Longest `node`, in bytes: as a part of an address. With a longer one the whole `<c/>` is ignored.
const NODE_BYTES_MAX: usize = 1_023;
/// Longest `hash` and `ver`, in bytes: more than any registered hash needs in Base64.
const VER_BYTES_MAX: usize = 128;
/// What a feature ends in that says "tell me of this node" (XEP-0163 v1.2.2 §4.2).
const NOTIFY: &str = "+notify";

/// A hash function we can verify with, by its name in IANA's registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashFunction {
    /// `sha-1`, mandatory to implement (§9.1).
    Sha1,
    /// `sha-256`.
    Sha256,
}

impl HashFunction {
    /// Value of the `hash` attribute.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha-1",
            Self::Sha256 => "sha-256",
        }
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Sha1, Self::Sha256].into_iter().find(|hash| hash.name() == name)
    }

    const fn digest_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

/// A verification string's hash: the key under which capabilities are known for everybody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ver {
    hash: HashFunction,
    /// What the function does not fill is 0.
    digest: [u8; 32],
}

impl Ver {
    fn new(hash: HashFunction, digest: &[u8]) -> Option<Self> {
        let mut bytes = [0; 32];
        bytes.get_mut(..hash.digest_bytes()).filter(|_| digest.len() == hash.digest_bytes())?.copy_from_slice(digest);
        Some(Self { hash, digest: bytes })
    }

    /// Reads the attributes `hash` and `ver`. `None` if we do not know the function or the text is not the Base64 of
    /// such a hash, padded, with padding bits of zero (§5.1).
    pub fn parse(hash: &str, ver: &str) -> Option<Self> {
        let hash = HashFunction::from_name(hash)?;
        // A shorter text cannot be one, and a longer one need not be decoded to see that.
        let digest = (ver.len() <= VER_BYTES_MAX).then(|| STANDARD.decode(ver).ok()).flatten()?;
        Self::new(hash, &digest)
    }

    /// The hash function.
    pub const fn hash(self) -> HashFunction {
        self.hash
    }
}

/// The attribute `ver`.
impl fmt::Display for Ver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.digest.get(..self.hash.digest_bytes()).unwrap_or_default()))
    }
}

impl fmt::Debug for Ver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {self}", self.hash.name())
    }
}

/// What an entity says of its capabilities: the element `<c/>` (§4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caps {
    /// A hash function's name, known to us or not.
    pub hash: Box<str>,
    /// A URI for the software, at most 1 023 bytes.
    pub node: Box<str>,
    /// The hash as written, at most 128 bytes.
    pub ver: Box<str>,
}

impl Caps {
    /// Our own: for the software named by `node`, whose answer to disco#info has this hash.
    pub fn new(node: &str, ver: Ver) -> Self {
        Self { hash: ver.hash.name().into(), node: node.into(), ver: ver.to_string().into() }
    }

    /// Reads a child of a presence. `None` if it is another element, or lacks an attribute, which the format without
    /// `hash` of before version 1.4 does (§13 lets us ignore it), or has one that is too long.
    pub fn read(child: &Child<'_>) -> Option<Self> {
        if !child.is("c", ns::CAPS) {
            return None;
        }
        // Attributes without a prefix have no namespace, so nothing around the element matters.
        let node = Node::parse(child.raw, "")?;
        let attr = |name, bytes_max| node.attr(name).filter(|value| !value.is_empty() && value.len() <= bytes_max);
        Some(Self {
            hash: attr("hash", VER_BYTES_MAX)?.into(),
            node: attr("node", NODE_BYTES_MAX)?.into(),
            ver: attr("ver", VER_BYTES_MAX)?.into(),
        })
    }

    /// The hash, if we can verify it; if not, what the entity answers is true of nobody else (§5.4).
    pub fn ver(&self) -> Option<Ver> {
        Ver::parse(&self.hash, &self.ver)
    }

    /// The node to ask the entity about (§6.2).
    pub fn query_node(&self) -> String {
        format!("{}#{}", self.node, self.ver)
    }

    /// Appends `<c/>`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"<c");
        for (name, value) in [("xmlns", ns::CAPS), ("hash", &self.hash), ("node", &self.node), ("ver", &self.ver)] {
            write::attr(out, name, value);
        }
        out.extend_from_slice(b"/>");
    }
}

/// Why an answer to disco#info is ill-formed (§5.4): nothing is concluded from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IllFormed {
    /// An identity without category or type, or a feature without name (XEP-0030 §3.1).
    Incomplete,
    /// Two identities with the same category, type, language and name.
    IdentityTwice,
    /// The same feature twice.
    FeatureTwice,
    /// Two forms of the same type.
    FormTwice,
    /// A form of two types.
    FormTypes,
}

impl fmt::Display for IllFormed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Incomplete => "an identity or a feature lacks an attribute",
            Self::IdentityTwice => "an identity is there twice",
            Self::FeatureTwice => "a feature is there twice",
            Self::FormTwice => "there are two forms of one type",
            Self::FormTypes => "a form has two types",
        })
    }
}

impl std::error::Error for IllFormed {}

/// An identity (XEP-0030 §3.1). Ordered as §5.1 sorts them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// `category`.
    pub category: String,
    /// `type`.
    pub kind: String,
    /// `xml:lang`, "" if none.
    pub lang: String,
    /// `name`, "" if none.
    pub name: String,
}

/// A form of extended information (XEP-0128).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Form {
    /// The value of the field `FORM_TYPE`.
    pub form_type: String,
    /// All other fields, sorted by name, with their values sorted.
    pub fields: Vec<(String, Vec<String>)>,
}

/// A well-formed answer to disco#info, all of it sorted ("i;octet", which is the order of Rust's strings).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Identities, none twice.
    pub identities: Vec<Identity>,
    /// Features, none twice.
    pub features: Vec<String>,
    /// Forms, no type twice. Those without a hidden `FORM_TYPE` are left out (§5.4).
    pub forms: Vec<Form>,
}

impl Info {
    /// Reads `<query xmlns='http://jabber.org/protocol/disco#info'/>`.
    ///
    /// # Errors
    /// [`IllFormed`].
    pub fn read(query: &Node) -> Result<Self, IllFormed> {
        let children = |name, ns| query.children.iter().filter(move |child| child.name == name && child.ns == ns);
        let mut identities: Vec<_> = children("identity", ns::DISCO_INFO)
            .map(read_identity)
            .collect::<Option<_>>()
            .ok_or(IllFormed::Incomplete)?;
        let features = children("feature", ns::DISCO_INFO).map(|feature| feature.attr("var").map(str::to_owned));
        let mut features: Vec<_> = features.collect::<Option<_>>().ok_or(IllFormed::Incomplete)?;
        let mut forms = Vec::new();
        let mut form_types = Vec::new();
        for form in children("x", ns::DATA_FORMS) {
            let Some((form_type, is_hidden)) = read_form_type(form)? else { continue };
            form_types.push(form_type);
            if is_hidden {
                forms.push(read_form(form, form_type));
            }
        }
        identities.sort_unstable();
        features.sort_unstable();
        form_types.sort_unstable();
        forms.sort_unstable();
        if has_twice(&identities) {
            return Err(IllFormed::IdentityTwice);
        }
        if has_twice(&features) {
            return Err(IllFormed::FeatureTwice);
        }
        if has_twice(&form_types) {
            return Err(IllFormed::FormTwice);
        }
        Ok(Self { identities, features, forms })
    }

    /// The verification string S (§5.1).
    pub fn verification_string(&self) -> String {
        let mut s = String::new();
        for Identity { category, kind, lang, name } in &self.identities {
            for (part, end) in [(category, '/'), (kind, '/'), (lang, '/'), (name, '<')] {
                s.push_str(part);
                s.push(end);
            }
        }
        let mut push = |text: &str| {
            s.push_str(text);
            s.push('<');
        };
        self.features.iter().for_each(|feature| push(feature));
        for Form { form_type, fields } in &self.forms {
            push(form_type);
            for (var, values) in fields {
                push(var);
                values.iter().for_each(|value| push(value));
            }
        }
        s
    }

    /// The hash of the verification string: what the entity that answers so must show as `ver`.
    pub fn ver(&self, hash: HashFunction) -> Ver {
        let s = self.verification_string();
        let ver = match hash {
            HashFunction::Sha1 => Ver::new(hash, &Sha1::digest(&s)),
            HashFunction::Sha256 => Ver::new(hash, &Sha256::digest(&s)),
        };
        ver.expect("a digest has its function's length")
    }

    /// The nodes the entity wants to be told of (XEP-0163 §4.2): its features that end in `+notify`, without that;
    /// sorted, none twice.
    ///
    /// They are taken from the verification string and not from the features. So all answers with one hash give one
    /// list, also those made so that parts of the string change their meaning (§9.3); for honest answers it is the same.
    pub fn notified(&self) -> Vec<Box<str>> {
        let s = self.verification_string();
        let mut nodes: Vec<Box<str>> =
            s.split('<').filter_map(|part| part.strip_suffix(NOTIFY)).map(Box::from).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

fn read_identity(identity: &Node) -> Option<Identity> {
    let attr = |name| identity.attr(name).map(str::to_owned);
    Some(Identity {
        category: attr("category")?,
        kind: attr("type")?,
        lang: attr("xml:lang").unwrap_or_default(),
        name: attr("name").unwrap_or_default(),
    })
}

/// A form's type and whether its field is hidden; `None` for a form without one.
fn read_form_type(form: &Node) -> Result<Option<(&str, bool)>, IllFormed> {
    let is_type = |field: &&Node| field.attr("var") == Some("FORM_TYPE");
    let mut values = fields(form).filter(is_type).flat_map(values);
    let Some(form_type) = values.next() else { return Ok(None) };
    if values.any(|value| value != form_type) {
        return Err(IllFormed::FormTypes);
    }
    let is_hidden = fields(form).filter(is_type).all(|field| field.attr("type") == Some("hidden"));
    Ok(Some((form_type, is_hidden)))
}

fn read_form(form: &Node, form_type: &str) -> Form {
    let mut fields: Vec<(String, Vec<String>)> = fields(form)
        .filter_map(|field| {
            let var = field.attr("var").unwrap_or_default();
            let mut values: Vec<_> = values(field).map(str::to_owned).collect();
            values.sort_unstable();
            (var != "FORM_TYPE").then(|| (var.to_owned(), values))
        })
        .collect();
    // Stable: what is said of fields of one name, which should not be, is their order.
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    Form { form_type: form_type.to_owned(), fields }
}

fn fields(form: &Node) -> impl Iterator<Item = &Node> {
    form.children.iter().filter(|child| child.name == "field" && child.ns == ns::DATA_FORMS)
}

fn values(field: &Node) -> impl Iterator<Item = &str> {
    let values = field.children.iter().filter(|child| child.name == "value" && child.ns == ns::DATA_FORMS);
    values.map(|value| value.text.as_str())
}

/// Whether something sorted holds something twice.
fn has_twice<T: PartialEq>(sorted: &[T]) -> bool {
    sorted.windows(2).any(|pair| matches!(pair, [one, other] if one == other))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::ScanLimits;
    use crate::xml::{Scanned, Scanner, StreamNamespaces};

    const EXODUS: &str = "<identity category='client' name='Exodus 0.9.1' type='pc'/>\
                          <feature var='http://jabber.org/protocol/caps'/>\
                          <feature var='http://jabber.org/protocol/disco#info'/>\
                          <feature var='http://jabber.org/protocol/disco#items'/>\
                          <feature var='http://jabber.org/protocol/muc'/>";
    const PSI: &str = "<identity xml:lang='en' category='client' name='Psi 0.11' type='pc'/>\
                       <identity xml:lang='el' category='client' name='&#936; 0.11' type='pc'/>\
                       <feature var='http://jabber.org/protocol/caps'/>\
                       <feature var='http://jabber.org/protocol/disco#info'/>\
                       <feature var='http://jabber.org/protocol/disco#items'/>\
                       <feature var='http://jabber.org/protocol/muc'/>\
                       <x xmlns='jabber:x:data' type='result'>\
                       <field var='FORM_TYPE' type='hidden'><value>urn:xmpp:dataforms:softwareinfo</value></field>\
                       <field var='ip_version' type='text-multi'><value>ipv4</value><value>ipv6</value></field>\
                       <field var='os'><value>Mac</value></field>\
                       <field var='os_version'><value>10.5.1</value></field>\
                       <field var='software'><value>Psi</value></field>\
                       <field var='software_version'><value>0.11</value></field></x>";

    fn info(content: &str) -> Result<Info, IllFormed> {
        let query = format!("<query xmlns='{}'>{content}</query>", ns::DISCO_INFO);
        Info::read(&Node::parse(&query, ns::CLIENT).unwrap())
    }

    #[test]
    fn verification_strings_and_hashes_are_those_of_the_xep() {
        #[track_caller]
        fn check(content: &str, s: &str, sha1: &str, sha256: &str) {
            let info = info(content).unwrap();
            assert_eq!(info.verification_string(), s);
            for (hash, ver) in [(HashFunction::Sha1, sha1), (HashFunction::Sha256, sha256)] {
                assert_eq!(info.ver(hash).to_string(), ver);
                assert_eq!(Ver::parse(hash.name(), ver), Some(info.ver(hash)));
            }
        }
        // XEP-0115 v1.6.0 §5.2.
        check(
            EXODUS,
            "client/pc//Exodus 0.9.1<http://jabber.org/protocol/caps<http://jabber.org/protocol/disco#info<\
             http://jabber.org/protocol/disco#items<http://jabber.org/protocol/muc<",
            "QgayPKawpkPSDYmwT/WM94uAlu0=",
            "Wr6IGEKhx6b9627gBmi/cCmpxXBc/GYq5zWuYfWGWoc=",
        );
        // §5.3.
        check(
            PSI,
            "client/pc/el/Ψ 0.11<client/pc/en/Psi 0.11<http://jabber.org/protocol/caps<\
             http://jabber.org/protocol/disco#info<http://jabber.org/protocol/disco#items<\
             http://jabber.org/protocol/muc<urn:xmpp:dataforms:softwareinfo<ip_version<ipv4<ipv6<os<Mac<\
             os_version<10.5.1<software<Psi<software_version<0.11<",
            "q07IKJEyjvHSyhy//CH0CxmKi8w=",
            "VyRoCfkwN7Q9lxZhqOI+mxfSpo/MsaCF4hBufCzfCpI=",
        );
        check(
            "<feature var='urn:xmpp:ping'/><feature var='urn:nf:iot:sd:1.0'/><feature var='urn:ieee:iot:sd:1.0'/>\
             <feature var='http://jabber.org/protocol/disco#info'/><feature var='http://jabber.org/protocol/caps'/>\
             <identity category='client' type='pc' name='Sensor'/>",
            "client/pc//Sensor<http://jabber.org/protocol/caps<http://jabber.org/protocol/disco#info<\
             urn:ieee:iot:sd:1.0<urn:nf:iot:sd:1.0<urn:xmpp:ping<",
            "eJxL/ih/qaVB+OgFqV5akITXstY=",
            "BH02jFzTLrNgjiXwmmWlHas1HWgRIrX0DXfvsFsIYOA=",
        );
    }

    #[test]
    fn everything_is_sorted_by_its_bytes() {
        let form = |form_type: &str| {
            format!(
                "<x xmlns='jabber:x:data'><field var='b'/><field var='a'><value>2</value><value/><value>10</value>\
                 </field><field var='FORM_TYPE' type='hidden'><value>{form_type}</value></field></x>"
            )
        };
        let content = format!(
            "{}{}<feature var='é'/><feature var='z'/><feature var='Z'/><feature var='aa'/><feature var='a'/>\
             <identity category='client' type='pc' xml:lang='b'/><identity category='client' type='pc' name='x'/>\
             <identity category='client' type='bot' name='y'/><identity category='a' type='z' xml:lang='z'/>",
            form("urn:b"),
            form("urn:a"),
        );
        assert_eq!(
            info(&content).unwrap().verification_string(),
            "a/z/z/<client/bot//y<client/pc//x<client/pc/b/<Z<a<aa<z<é<\
             urn:a<a<<10<2<b<urn:b<a<<10<2<b<"
        );
    }

    #[test]
    fn ill_formed_answers_are_told_by_what_is_wrong() {
        #[track_caller]
        fn check(content: &str, expected: IllFormed) {
            assert_eq!(info(content), Err(expected), "{content}");
        }
        let identity = "<identity category='client' type='pc' xml:lang='en' name='x'/>";
        let form = |kind: &str, types: &[&str]| {
            let values: String = types.iter().map(|value| format!("<value>{value}</value>")).collect();
            format!("<x xmlns='jabber:x:data'><field var='FORM_TYPE'{kind}>{values}</field></x>")
        };
        let hidden = " type='hidden'";
        // §5.4, 3.3 to 3.5.
        check(&identity.repeat(2), IllFormed::IdentityTwice);
        check("<feature var='a'/><feature var='b'/><feature var='a'/>", IllFormed::FeatureTwice);
        check(&form(hidden, &["a"]).repeat(2), IllFormed::FormTwice);
        check(&(form(hidden, &["a"]) + &form("", &["a"])), IllFormed::FormTwice);
        check(&form(hidden, &["a", "b"]), IllFormed::FormTypes);
        check(&form("", &["a", "b"]), IllFormed::FormTypes);
        // XEP-0030 v2.5.0 §3.1.
        check("<identity type='pc'/>", IllFormed::Incomplete);
        check("<identity category='client'/>", IllFormed::Incomplete);
        check("<feature/>", IllFormed::Incomplete);
    }

    #[test]
    fn what_is_no_reason_to_doubt_is_read() {
        #[track_caller]
        fn check(content: &str, s: &str) {
            assert_eq!(info(content).map(|info| info.verification_string()), Ok(s.to_owned()), "{content}");
        }
        check("", "");
        check("<identity category='a' type='b' name='x'/><identity category='a' type='b' name='y'/>", "a/b//x<a/b//y<");
        // §5.4, 3.5 and 3.6: a type said twice alike is one; a form of no hidden type is left out.
        let form = |field: &str| format!("<x xmlns='jabber:x:data'>{field}<field var='a'><value>1</value></field></x>");
        check(&form("<field var='FORM_TYPE' type='hidden'><value>t</value><value>t</value></field>"), "t<a<1<");
        check(&form("<field var='FORM_TYPE'><value>t</value></field>"), "");
        check(&form("<field var='FORM_TYPE' type='hidden'/>"), "");
        check(&form("").repeat(2), "");
        // Others' elements, and elements of the right name elsewhere, say nothing.
        check("<feature xmlns='urn:x' var='a'/><identity xmlns=''/><x xmlns='urn:x'/><feature var='b'/>", "b<");
    }

    #[test]
    fn the_nodes_to_be_told_of_are_the_same_for_all_answers_of_one_hash() {
        let honest = info(
            "<identity category='client' type='pc' name='X'/><feature var='urn:b+notify'/><feature var='a+notify'/>\
             <feature var='c'/><feature var='http://d/e/f+notify'/>",
        )
        .unwrap();
        let nodes: Vec<Box<str>> = ["a", "http://d/e/f", "urn:b"].map(Box::from).into();
        assert_eq!(honest.notified(), nodes);
        // Features told as an identity, inside another feature, and as a form.
        for forged in [
            "<identity category='client' type='pc' name='X&lt;a+notify&lt;c&lt;http://d/e/f+notify'/>\
             <feature var='urn:b+notify'/>",
            "<identity category='client' type='pc' name='X'/>\
             <feature var='a+notify&lt;c&lt;http://d/e/f+notify&lt;urn:b+notify'/>",
            "<identity category='client' type='pc' name='X'/><feature var='a+notify'/><feature var='c'/>\
             <x xmlns='jabber:x:data'><field var='FORM_TYPE' type='hidden'><value>http://d/e/f+notify</value></field>\
             <field var='urn:b+notify'/></x>",
        ] {
            let forged = info(forged).unwrap();
            assert_eq!(forged.ver(HashFunction::Sha1), honest.ver(HashFunction::Sha1));
            assert_eq!(forged.notified(), nodes);
        }
    }

    fn read(child: &str) -> Option<Caps> {
        let presence = format!("<presence>{child}</presence>");
        let (mut scanner, header) = (Scanner::new(), StreamNamespaces::default());
        let scanned = scanner.next(&ScanLimits::AFTER_AUTH, &header, presence.as_bytes());
        let Ok(Scanned::Element { element, .. }) = scanned else { panic!("{presence}: {scanned:?}") };
        Caps::read(&element.first_child().unwrap())
    }

    #[test]
    fn a_presence_shows_its_capabilities() {
        let c = "<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='http://code.google.com/p/exodus' \
                 ver='QgayPKawpkPSDYmwT/WM94uAlu0='/>";
        let caps = read(c).unwrap();
        assert_eq!(caps.ver(), Some(info(EXODUS).unwrap().ver(HashFunction::Sha1)));
        assert_eq!(caps.query_node(), "http://code.google.com/p/exodus#QgayPKawpkPSDYmwT/WM94uAlu0=");
        let mut written = Vec::new();
        caps.write(&mut written);
        assert_eq!(String::from_utf8(written).unwrap(), c);
        assert_eq!(Caps::new(&caps.node, caps.ver().unwrap()), caps);
        assert_eq!(
            read("<p:c xmlns:p='http://jabber.org/protocol/caps' hash='h' node='n' ver='v' ext='a b'/>").unwrap().ver(),
            None
        );
        let long = "x".repeat(NODE_BYTES_MAX + 1);
        for other in [
            "<c xmlns='urn:other' hash='sha-1' node='n' ver='v'/>",
            "<d xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='n' ver='v'/>",
            "<c xmlns='http://jabber.org/protocol/caps' node='n' ver='0.9'/>",
            "<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' ver='v'/>",
            "<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='n'/>",
            "<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='n' ver=''/>",
            &format!("<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='{long}' ver='v'/>"),
            &format!("<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='n' ver='{long}'/>"),
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn only_a_hash_in_proper_base64_is_one() {
        assert!(Ver::parse("sha-1", "QgayPKawpkPSDYmwT/WM94uAlu0=").is_some());
        for (hash, ver) in [
            ("sha-256", "QgayPKawpkPSDYmwT/WM94uAlu0="),
            ("md5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
            ("SHA-1", "QgayPKawpkPSDYmwT/WM94uAlu0="),
            ("sha-1", "QgayPKawpkPSDYmwT/WM94uAlu0"),
            ("sha-1", "QgayPKawpkPSDYmwT/WM94uAlu1="),
            ("sha-1", "QgayPKawpkPSDYmwT/WM94uAlu0=\n"),
            ("sha-1", "QgayPKawpkPSDYmwT_WM94uAlu0="),
            ("sha-1", ""),
            ("sha-1", "0.9"),
        ] {
            assert_eq!(Ver::parse(hash, ver), None, "{hash} {ver}");
        }
    }

    proptest! {
        #[test]
        fn the_order_of_an_answer_does_not_matter(mut features in proptest::collection::btree_set("[a-z+:]{1,8}", 0..10)
            .prop_map(|set| set.into_iter().collect::<Vec<_>>()).prop_shuffle()) {
            let answer = |features: &[String]| {
                let features: String = features.iter().map(|var| format!("<feature var='{var}'/>")).collect();
                info(&features).unwrap()
            };
            let shuffled = answer(&features);
            features.sort();
            prop_assert_eq!(answer(&features), shuffled);
        }

        #[test]
        fn a_hash_reads_back(digest: [u8; 32]) {
            for hash in [HashFunction::Sha1, HashFunction::Sha256] {
                let ver = Ver::new(hash, &digest[..hash.digest_bytes()]).unwrap();
                prop_assert_eq!(Ver::parse(hash.name(), &ver.to_string()), Some(ver));
            }
        }
    }
}
