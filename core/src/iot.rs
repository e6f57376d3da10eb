//! The interfaces of the Internet of Things that a broker speaks itself, in all their generations.
//!
//! The same protocols were published under four prefixes. Clients negotiate none of it: each sends the newest that it knows,
//! looks for the same in the answer, and may speak one generation to the registry and another about decisions. So a
//! request's namespace selects the answer's, and what the broker sends unasked is in the one that was last seen of the peer
//! at that interface.

/// A generation of the namespaces, the oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generation {
    /// `urn:xmpp:iot:`, of XEP-0324 and XEP-0347.
    Xsf = 1,
    /// `urn:ieee:iot:`, of the IEEE working group.
    Ieee = 2,
    /// `urn:nf:iot:`, of the Neuro-Foundation.
    Nf = 3,
    /// `urn:nfi:iot:`, the same with its registered name.
    Nfi = 4,
}

impl Generation {
    /// All of them, the oldest first.
    pub const ALL: [Self; 4] = [Self::Xsf, Self::Ieee, Self::Nf, Self::Nfi];

    /// In which to address somebody of whom nothing is known: what today's clients send.
    pub const DEFAULT: Self = Self::Nf;

    /// The generation of a number that [`Generation`] is cast to.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Xsf),
            2 => Some(Self::Ieee),
            3 => Some(Self::Nf),
            4 => Some(Self::Nfi),
            _ => None,
        }
    }
}

impl Default for Generation {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// An interface that the broker serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Interface {
    /// The Thing Registry (XEP-0347).
    Discovery,
    /// Decision support for devices; in the first generation for all (XEP-0324).
    Device,
    /// Decision support for owners. The first generation had none.
    Owner,
    /// Tokens of certificates; in the first generation with the devices'.
    Tokens,
}

impl Interface {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Discovery, Self::Device, Self::Owner, Self::Tokens];

    /// Its namespace in a generation. For owners there is none in the first, where the second's is used.
    pub const fn ns(self, generation: Generation) -> &'static str {
        match (self, generation) {
            (Self::Discovery, Generation::Xsf) => "urn:xmpp:iot:discovery",
            (Self::Discovery, Generation::Ieee) => "urn:ieee:iot:disco:1.0",
            (Self::Discovery, Generation::Nf) => "urn:nf:iot:disco:1.0",
            (Self::Discovery, Generation::Nfi) => "urn:nfi:iot:disco:1.0",
            (Self::Device | Self::Tokens, Generation::Xsf) => "urn:xmpp:iot:provisioning",
            (Self::Device, Generation::Ieee) => "urn:ieee:iot:prov:d:1.0",
            (Self::Device, Generation::Nf) => "urn:nf:iot:prov:d:1.0",
            (Self::Device, Generation::Nfi) => "urn:nfi:iot:prov:d:1.0",
            (Self::Owner, Generation::Xsf | Generation::Ieee) => "urn:ieee:iot:prov:o:1.0",
            (Self::Owner, Generation::Nf) => "urn:nf:iot:prov:o:1.0",
            (Self::Owner, Generation::Nfi) => "urn:nfi:iot:prov:o:1.0",
            (Self::Tokens, Generation::Ieee) => "urn:ieee:iot:prov:t:1.0",
            (Self::Tokens, Generation::Nf) => "urn:nf:iot:prov:t:1.0",
            (Self::Tokens, Generation::Nfi) => "urn:nfi:iot:prov:t:1.0",
        }
    }

    /// The interface and generation of a namespace. The first generation's common one is [`Interface::Device`]; a name in it
    /// tells tokens apart.
    pub fn of(ns: &str) -> Option<(Self, Generation)> {
        // Nearly all that is asked about is something else.
        if !ns.starts_with("urn:") || !ns.contains(":iot:") {
            return None;
        }
        let named =
            |interface: Self| Generation::ALL.into_iter().rev().find(|&generation| interface.ns(generation) == ns);
        Self::ALL.into_iter().find_map(|interface| Some((interface, named(interface)?)))
    }
}

/// What devices and those that use them say to each other, past the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exchange {
    /// Sensor data (XEP-0323).
    SensorData,
    /// Events: sensor data by subscription.
    Events,
    /// Control (XEP-0325).
    Control,
}

impl Exchange {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::SensorData, Self::Events, Self::Control];

    /// Its namespace in a generation.
    pub const fn ns(self, generation: Generation) -> &'static str {
        match (self, generation) {
            (Self::SensorData, Generation::Xsf) => "urn:xmpp:iot:sensordata",
            (Self::SensorData, Generation::Ieee) => "urn:ieee:iot:sd:1.0",
            (Self::SensorData, Generation::Nf) => "urn:nf:iot:sd:1.0",
            (Self::SensorData, Generation::Nfi) => "urn:nfi:iot:sd:1.0",
            (Self::Events, Generation::Xsf) => "urn:xmpp:iot:events",
            (Self::Events, Generation::Ieee) => "urn:ieee:iot:events:1.0",
            (Self::Events, Generation::Nf) => "urn:nf:iot:events:1.0",
            (Self::Events, Generation::Nfi) => "urn:nfi:iot:events:1.0",
            (Self::Control, Generation::Xsf) => "urn:xmpp:iot:control",
            (Self::Control, Generation::Ieee) => "urn:ieee:iot:ctr:1.0",
            (Self::Control, Generation::Nf) => "urn:nf:iot:ctr:1.0",
            (Self::Control, Generation::Nfi) => "urn:nfi:iot:ctr:1.0",
        }
    }

    /// The exchange and generation of a namespace.
    pub fn of(ns: &str) -> Option<(Self, Generation)> {
        if !ns.starts_with("urn:") || !ns.contains(":iot:") {
            return None;
        }
        let named = |exchange: Self| Generation::ALL.into_iter().find(|&generation| exchange.ns(generation) == ns);
        Self::ALL.into_iter().find_map(|exchange| Some((exchange, named(exchange)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_names_its_interface_and_generation() {
        for interface in Interface::ALL {
            for generation in Generation::ALL {
                let expected = match (interface, generation) {
                    (Interface::Tokens, Generation::Xsf) => (Interface::Device, Generation::Xsf),
                    (Interface::Owner, Generation::Xsf) => (Interface::Owner, Generation::Ieee),
                    _ => (interface, generation),
                };
                assert_eq!(Interface::of(interface.ns(generation)), Some(expected));
            }
        }
        for other in ["urn:xmpp:ping", "urn:xmpp:iot:control", "jabber:client", "urn:nf:iot:disco:1.1", ""] {
            assert_eq!(Interface::of(other), None);
        }
    }

    #[test]
    fn a_namespace_names_its_exchange_and_generation() {
        for exchange in Exchange::ALL {
            for generation in Generation::ALL {
                assert_eq!(Exchange::of(exchange.ns(generation)), Some((exchange, generation)));
                assert_eq!(Interface::of(exchange.ns(generation)), None);
            }
        }
        for other in ["urn:xmpp:ping", "urn:xmpp:iot:discovery", "urn:nf:iot:sd:1.1", ""] {
            assert_eq!(Exchange::of(other), None);
        }
    }

    #[test]
    fn a_generation_reads_back_from_its_number() {
        for generation in Generation::ALL {
            assert_eq!(Generation::from_number(generation as u8), Some(generation));
        }
        assert_eq!((Generation::from_number(0), Generation::from_number(5)), (None, None));
    }
}
