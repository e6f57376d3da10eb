//! Decisions in a device's stead: whether the broker lets it have what somebody asks of it. Called by the device's home shard
//! for each request to a device with a thing that is enforced, so it does no I/O.

use plaza_core::jid::{Jid, JidRef};
use plaza_core::provisioning::{NodeRef, Request};

use super::answer::{Inquiry, inquire};
use super::decide::{Asked, decide};
use super::home::HomeThings;
use super::proofs::Proofs;

/// What becomes of a request to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enforced {
    /// The device has it: all that is asked is allowed, or is asked of what nobody enforces.
    Passes,
    /// The device does not.
    Denied {
        /// What its owner is to be asked, for [`super::ask`].
        inquiry: Option<Box<Inquiry>>,
    },
}

/// Decides what becomes of a request that `asker` sent to a device. `things` are those of the device's account; `component` is
/// the address of the service, as which owners are asked; `proofs` say which of the asker's tokens count, at a time in
/// milliseconds since 1970.
///
/// A node concerns its own thing only. What is no thing is the device's own: a device that has no nodes does what it is asked,
/// whichever it is asked of.
pub fn enforce(
    things: Option<&HomeThings>,
    device: JidRef<'_>,
    component: Option<&Jid>,
    asker: JidRef<'_>,
    request: &Request<'_>,
    (proofs, now): (&Proofs, u64),
) -> Enforced {
    let Some(things) = things.filter(|things| things.is_enforced()) else { return Enforced::Passes };
    let (asker, device) = (asker.bare(), device.bare());
    if asker.as_str() == device.as_str() {
        return Enforced::Passes;
    }
    let named = if request.nodes.is_empty() { &[NodeRef::DEVICE] } else { &request.nodes[..] };
    let mut nodes: Vec<NodeRef<'_>> = Vec::with_capacity(named.len());
    for node in named {
        let node = if things.find(node).is_some() { node } else { &NodeRef::DEVICE };
        if things.find(node).is_some_and(|thing| thing.enforced) && !nodes.contains(node) {
            nodes.push(node.clone());
        }
    }
    let Some(first) = nodes.first() else { return Enforced::Passes };
    let generation = things.find(first).and_then(|thing| thing.device).unwrap_or(request.generation);
    let address = component.map_or("", |component| component.as_str());
    let (tokens, _) = proofs.sift(asker, address, &request.tokens, now);
    let asked = Asked {
        kind: request.kind,
        asker,
        tokens: &tokens,
        nodes: &nodes,
        categories: request.categories,
        names: &request.names,
    };
    let decision = decide(Some(things), address, asked);
    // Of nobody's thing nothing is allowed, denied or open.
    let is_all = decision.permission.is_some_and(|permission| permission.nodes.len() == nodes.len());
    if is_all && !decision.denied && decision.open.is_empty() {
        return Enforced::Passes;
    }
    let inquiry = component.and_then(|component| inquire(device, component, generation, asked, &decision.open));
    Enforced::Denied { inquiry }
}
