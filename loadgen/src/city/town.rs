//! The plan of a city: who and what there is, the same for the same seed.
//!
//! Accounts are numbered: owners first, then services, then devices; things are numbered in the order of their devices.

use std::collections::HashMap;

use plaza_core::iot::Generation;
use plaza_core::thing::{KEY, NodeName, Tag, TagValue};

use super::sign::ApiKey;
use super::wire::Names;

/// What a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An electricity meter.
    Meter,
    /// A lamp, which can be switched.
    Lamp,
    /// A weather sensor.
    Sensor,
    /// A gateway with nodes behind it.
    Concentrator,
}

impl Kind {
    /// The name of its class, in tags and addresses.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Meter => "meter",
            Self::Lamp => "lamp",
            Self::Sensor => "sensor",
            Self::Concentrator => "concentrator",
        }
    }

    /// The field that says most, with its unit; a lamp's is a boolean.
    pub(crate) const fn field(self) -> (&'static str, &'static str) {
        match self {
            Self::Meter => ("Energy", "kWh"),
            Self::Lamp => ("Output", ""),
            Self::Sensor => ("Temperature", "C"),
            Self::Concentrator => ("Nodes", ""),
        }
    }

    /// The parameter that can be set.
    pub(crate) const fn parameter(self) -> Option<&'static str> {
        match self {
            Self::Lamp => Some("Output"),
            Self::Meter | Self::Sensor | Self::Concentrator => None,
        }
    }

    /// The harmonised interface it announces.
    const fn interface(self) -> &'static str {
        match self {
            Self::Meter => "urn_nfi_iot_hi_meter_electricity",
            Self::Lamp => "urn_nfi_iot_hi_actuator_switch",
            Self::Sensor => "urn_nfi_iot_hi_sensor_temperature",
            Self::Concentrator => "urn_nfi_iot_hi_concentrator",
        }
    }
}

/// A thing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Thing {
    /// The number of the device that has it.
    pub device: u32,
    /// Which of the device's things it is.
    pub node: NodeName,
    /// What it is.
    pub kind: Kind,
    /// What is told of it, its KEY as well.
    pub tags: Vec<Tag>,
    /// The number of the owner.
    pub owner: u32,
    /// Whether it is claimed to be found by everybody.
    pub public: bool,
}

impl Thing {
    /// What a tag says, if it is a string.
    pub(crate) fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find(|tag| tag.is(name)).and_then(|tag| match &tag.value {
            TagValue::Str(value) => Some(&**value),
            TagValue::Num(_) => None,
        })
    }
}

/// A device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Device {
    /// The numbers of its things, itself first.
    pub things: std::ops::Range<u32>,
    /// The numbers of the services it is befriended by.
    pub services: Vec<u32>,
    /// It goes away once, and comes back.
    pub leaves: bool,
}

/// Who an account is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The owner of that number.
    Owner(u32),
    /// The service of that number.
    Service(u32),
    /// The device of that number.
    Device(u32),
}

/// What a city is made of.
#[derive(Debug, Clone)]
pub(crate) struct Census {
    /// Domain of the accounts.
    pub domain: String,
    /// Prefix of their names.
    pub users: String,
    /// Their password, if they are there already and share it.
    pub password: String,
    /// Makers' API keys; none: the accounts are there already.
    pub makers: Vec<ApiKey>,
    /// What the same city is made from.
    pub seed: u64,
    /// The generations of the namespaces that clients speak, each its own; at least one.
    pub generations: Vec<Generation>,
    /// Devices.
    pub devices: u32,
    /// Owners.
    pub owners: u32,
    /// Services.
    pub services: u32,
    /// Services that befriend each device.
    pub friends: u32,
    /// Nodes behind each concentrator.
    pub nodes: u32,
    /// Share of the devices that go away once.
    pub churn: f64,
    /// How often a service reads a thing, in ns.
    pub interval_ns: u64,
}

/// The plan.
#[derive(Debug, Clone)]
pub(crate) struct Town {
    /// What it is made of.
    pub census: Census,
    /// The address of registry and decision support.
    pub registry: String,
    /// Devices.
    pub devices: Vec<Device>,
    /// Things.
    pub things: Vec<Thing>,
    /// Who is who, by bare JID.
    addresses: HashMap<String, Who>,
}

/// What numbers are drawn for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Draw {
    /// The kind of a device or node.
    Kind = 1,
    /// The owner of a thing.
    Owner,
    /// Whether it is public.
    Public,
    /// A name of an account.
    Name,
    /// Its password.
    Password,
    /// A KEY.
    Key,
    /// Where a thing stands.
    Place,
    /// How an owner answers.
    Style,
    /// How long somebody waits.
    Pause,
    /// Whether a device goes away.
    Churn,
    /// A value that is read.
    Value,
    /// The generation that a client speaks.
    Generation,
}

/// One concentrator among so many devices.
const CONCENTRATOR_EVERY: u32 = 20;

impl Town {
    /// Plans it.
    pub(crate) fn new(census: Census) -> Self {
        let mut town = Self {
            registry: format!("things.{}", census.domain),
            devices: Vec::new(),
            things: Vec::new(),
            addresses: HashMap::new(),
            census,
        };
        for number in 0..town.census.devices {
            let device = town.device(number);
            town.devices.push(device);
        }
        let addresses = (0..town.accounts()).map(|account| town.who(account)).map(|who| (town.jid(who), who));
        town.addresses = addresses.collect();
        town
    }

    /// Plans a device and its things.
    fn device(&mut self, number: u32) -> Device {
        const SINGLE: [Kind; 3] = [Kind::Meter, Kind::Lamp, Kind::Sensor];
        let single = |draw: u64| SINGLE.get((draw % 3) as usize).copied().unwrap_or(Kind::Sensor);
        let begin = self.things.len() as u32;
        let is_concentrator = number % CONCENTRATOR_EVERY == CONCENTRATOR_EVERY / 2;
        let kind = if is_concentrator { Kind::Concentrator } else { single(self.draw(Draw::Kind, u64::from(number))) };
        self.things.push(self.thing(number, begin, NodeName::default(), kind));
        for node in 0..if is_concentrator { self.census.nodes } else { 0 } {
            let index = begin + 1 + node;
            let name = NodeName {
                id: format!("node {node}").into(),
                source: "MeteringTopology".into(),
                partition: if node % 2 == 0 { "".into() } else { "east & west".into() },
            };
            // Each kind is there, whatever the seed.
            self.things.push(self.thing(number, index, name, single(u64::from(node))));
        }
        let services = (0..self.census.friends).map(|friend| (number + friend) % self.census.services).collect();
        let share = (self.census.churn * 1e6) as u64;
        let leaves = self.draw(Draw::Churn, u64::from(number)) % 1_000_000 < share;
        Device { things: begin..self.things.len() as u32, services, leaves }
    }

    fn thing(&self, device: u32, index: u32, node: NodeName, kind: Kind) -> Thing {
        let place = self.draw(Draw::Place, u64::from(index));
        let part = |bits: u32| ((place >> bits) & 0xffff) as f64 / 65_536.0;
        let key = format!(
            "{:016x}{:016x}",
            self.draw(Draw::Key, u64::from(index) * 2),
            self.draw(Draw::Key, u64::from(index) * 2 + 1)
        );
        let text = |name: &str, value: &str| Tag { name: name.into(), value: TagValue::Str(value.into()) };
        let number = |name: &str, value: f64| Tag { name: name.into(), value: TagValue::Num(value) };
        let class = kind.name();
        let tags = vec![
            text("MAN", &format!("maker{}.example", device % self.makers())),
            text("MODEL", &format!("{class} & co")),
            text("CLASS", class),
            text("TYPE", &format!("City {class}")),
            text("SN", &format!("{:08x}-{index}", self.census.seed as u32)),
            text("CITY", "Valparaíso"),
            number("V", 1.0 + f64::from((place % 4) as u32) / 10.0),
            number("LAT", -33.1 + part(0) / 10.0),
            number("LON", -71.7 + part(16) / 10.0),
            number(kind.interface(), 1.0),
            text(KEY, &key),
        ];
        let owner = (self.draw(Draw::Owner, u64::from(index)) % u64::from(self.census.owners)) as u32;
        let public = !self.draw(Draw::Public, u64::from(index)).is_multiple_of(5);
        Thing { device, node, kind, tags, owner, public }
    }

    fn makers(&self) -> u32 {
        (self.census.makers.len() as u32).max(1)
    }

    /// A number that depends on the seed, on what it is for, and on an index.
    pub(crate) fn draw(&self, draw: Draw, index: u64) -> u64 {
        mix(mix(self.census.seed ^ (draw as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(index))
    }

    /// A time between two, in ns, by a draw.
    pub(crate) fn pause_ns(&self, index: u64, least_ns: u64, most_ns: u64) -> u64 {
        least_ns + self.draw(Draw::Pause, index) % (most_ns - least_ns).max(1)
    }

    /// Accounts in all.
    pub(crate) fn accounts(&self) -> u32 {
        self.census.owners + self.census.services + self.census.devices
    }

    /// Who an account is.
    pub(crate) fn who(&self, account: u32) -> Who {
        let Census { owners, services, .. } = self.census;
        if account < owners {
            Who::Owner(account)
        } else if account < owners + services {
            Who::Service(account - owners)
        } else {
            Who::Device(account - owners - services)
        }
    }

    /// The namespaces that somebody speaks. The first generation is spoken by devices alone: it has nothing for owners.
    pub(crate) fn names(&self, who: Who) -> Names {
        let is_device = matches!(who, Who::Device(_));
        let spoken = |generation: &&Generation| is_device || **generation != Generation::Xsf;
        let generations = || self.census.generations.iter().filter(spoken);
        let draw = self.draw(Draw::Generation, u64::from(self.account(who)));
        let at = usize::try_from(draw % (generations().count() as u64).max(1)).unwrap_or_default();
        Names::of(generations().nth(at).copied().unwrap_or(Generation::DEFAULT))
    }

    /// Who has a bare JID.
    pub(crate) fn resident(&self, jid: &str) -> Option<Who> {
        self.addresses.get(jid).copied()
    }

    /// A device's thing of a name.
    pub(crate) fn thing_of(&self, device: u32, node: &NodeName) -> Option<(u32, &Thing)> {
        let range = self.devices.get(device as usize)?.things.clone();
        range.filter_map(|index| Some((index, self.things.get(index as usize)?))).find(|(_, thing)| thing.node == *node)
    }

    /// The number of an account.
    pub(crate) fn account(&self, who: Who) -> u32 {
        match who {
            Who::Owner(number) => number,
            Who::Service(number) => self.census.owners + number,
            Who::Device(number) => self.census.owners + self.census.services + number,
        }
    }

    /// The name of an account: one that nobody else has, unless the accounts are there already.
    pub(crate) fn user(&self, who: Who) -> String {
        let account = self.account(who);
        if self.census.makers.is_empty() {
            return format!("{}{account}", self.census.users);
        }
        let kind = match who {
            Who::Owner(_) => "owner",
            Who::Service(_) => "service",
            Who::Device(number) => self.devices.get(number as usize).map_or("device", |device| self.kind_of(device)),
        };
        format!("{}-{kind}-{:016x}", self.census.users, self.draw(Draw::Name, u64::from(account)))
    }

    fn kind_of(&self, device: &Device) -> &'static str {
        self.things.get(device.things.start as usize).map_or("device", |thing| thing.kind.name())
    }

    /// The bare JID of an account.
    pub(crate) fn jid(&self, who: Who) -> String {
        format!("{}@{}", self.user(who), self.census.domain)
    }

    /// The password of an account.
    pub(crate) fn password(&self, who: Who) -> String {
        if self.census.makers.is_empty() {
            return self.census.password.clone();
        }
        let account = u64::from(self.account(who));
        format!("{:016x}{:016x}", self.draw(Draw::Password, account * 2), self.draw(Draw::Password, account * 2 + 1))
    }

    /// The maker of an account.
    pub(crate) fn maker(&self, who: Who) -> Option<&ApiKey> {
        let makers = &self.census.makers;
        makers.get(self.account(who) as usize % makers.len().max(1))
    }
}

/// A step of SplitMix64, which spreads every bit over all of them.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashSet;

    use super::*;

    /// A city of `devices`, to be changed as a test needs.
    pub(crate) fn census(devices: u32) -> Census {
        Census {
            domain: "city.example".to_owned(),
            users: "city".to_owned(),
            password: "secret".to_owned(),
            makers: vec![ApiKey::parse("key:secret").unwrap()],
            seed: 7,
            generations: vec![Generation::Nf],
            devices,
            owners: 3,
            services: 2,
            friends: 1,
            nodes: 4,
            churn: 0.1,
            interval_ns: 10_000_000_000,
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_city_and_another_another() {
        let (town, again) = (Town::new(census(100)), Town::new(census(100)));
        assert_eq!((&town.things, &town.devices), (&again.things, &again.devices));
        let other = Town::new(Census { seed: 8, ..census(100) });
        assert_ne!(town.things, other.things);
        assert_ne!(town.user(Who::Device(1)), other.user(Who::Device(1)));
    }

    #[test]
    fn there_is_some_of_everything_and_nobody_twice() {
        let town = Town::new(census(200));
        assert_eq!(town.things.len(), 200 + 10 * 4);
        for kind in [Kind::Meter, Kind::Lamp, Kind::Sensor, Kind::Concentrator] {
            assert!(town.things.iter().any(|thing| thing.kind == kind), "{kind:?}");
        }
        let names: HashSet<String> = (0..town.accounts()).map(|account| town.user(town.who(account))).collect();
        let keys: HashSet<&str> = town.things.iter().filter_map(|thing| thing.tag(KEY)).collect();
        assert_eq!((names.len(), keys.len()), (205, town.things.len()));
        assert!((5..40).contains(&town.devices.iter().filter(|device| device.leaves).count()));
        assert!(town.things.iter().any(|thing| thing.public) && town.things.iter().any(|thing| !thing.public));
        assert!((0..3).all(|owner| town.things.iter().any(|thing| thing.owner == owner)));
        for account in 0..town.accounts() {
            assert_eq!(town.account(town.who(account)), account);
            assert_eq!(town.resident(&town.jid(town.who(account))), Some(town.who(account)));
        }
        for tag in town.things.iter().flat_map(|thing| &thing.tags) {
            assert_eq!(plaza_core::thing::check_tag_name(&tag.name), Ok(()));
        }
    }

    #[test]
    fn accounts_that_are_there_already_have_the_usual_names() {
        let town = Town::new(Census { makers: Vec::new(), ..census(5) });
        assert_eq!(town.jid(Who::Owner(2)), "city2@city.example");
        assert_eq!(
            (town.user(Who::Device(0)), town.password(Who::Device(0))),
            ("city5".to_owned(), "secret".to_owned())
        );
        assert_eq!(town.maker(Who::Device(0)), None);
    }
}
