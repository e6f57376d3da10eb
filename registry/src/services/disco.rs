//! Service discovery (XEP-0030 v2.5.0): what the server and an account are, to those who may know.

use plaza_core::ns;
use plaza_core::stanza::Condition;
use plaza_core::xml::read::Node;
use plaza_core::xml::write;

/// What the server understands. Sorted, so that the answer is the same on every broker and a hash over it is, too.
const SERVER_FEATURES: [&str; 6] = [ns::DISCO_INFO, ns::DISCO_ITEMS, ns::ROSTER, ns::VERSION, ns::PING, ns::TIME];
/// What the server understands on behalf of an account.
const ACCOUNT_FEATURES: [&str; 4] = [ns::DISCO_INFO, ns::DISCO_ITEMS, ns::ROSTER, ns::PING];

/// What is asked about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entity<'a> {
    /// The server, by its software's name.
    Server { name: &'a str },
    /// An account, asked by its owner (XEP-0030 §8: nobody else learns whether it exists).
    OwnAccount,
}

/// Identity and features (XEP-0030 §3).
pub(super) fn info(query: &Node, entity: Entity<'_>) -> Result<Vec<u8>, Condition> {
    refuse_node(query)?;
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"<query");
    write::attr(&mut out, "xmlns", ns::DISCO_INFO);
    out.extend_from_slice(b"><identity");
    let (category, kind, name, features) = match entity {
        Entity::Server { name } => ("server", "im", name, &SERVER_FEATURES[..]),
        Entity::OwnAccount => ("account", "registered", "", &ACCOUNT_FEATURES[..]),
    };
    write::attr(&mut out, "category", category);
    write::attr(&mut out, "type", kind);
    if !name.is_empty() {
        write::attr(&mut out, "name", name);
    }
    out.extend_from_slice(b"/>");
    for feature in features {
        out.extend_from_slice(b"<feature");
        write::attr(&mut out, "var", feature);
        out.extend_from_slice(b"/>");
    }
    out.extend_from_slice(b"</query>");
    Ok(out)
}

/// Items (XEP-0030 §4): there are none, neither of the server nor of an account.
pub(super) fn items(query: &Node) -> Result<Vec<u8>, Condition> {
    refuse_node(query)?;
    let mut out = Vec::new();
    out.extend_from_slice(b"<query");
    write::attr(&mut out, "xmlns", ns::DISCO_ITEMS);
    out.extend_from_slice(b"/>");
    Ok(out)
}

/// We have no nodes (XEP-0030 §7: `item-not-found`). An empty one is none.
fn refuse_node(query: &Node) -> Result<(), Condition> {
    match query.attr("node") {
        None | Some("") => Ok(()),
        Some(_) => Err(Condition::ItemNotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_sorted() {
        assert!(SERVER_FEATURES.is_sorted());
        assert!(ACCOUNT_FEATURES.is_sorted());
    }
}
