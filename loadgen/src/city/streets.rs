//! The city at work: one ring, a connection for everybody, and who must be told what in the world outside of XMPP.
//!
//! What owners read off a thing's label, and services hear of it, goes by [`Streets::on_news`]; all else goes through the
//! broker. Everybody comes on schedule, whatever the broker does.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use plaza_core::xml::read::Node;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::device::Device;
use super::entry::{Account, Entry, Fresh, Refused, Step};
use super::funnel::{Funnel, Stage, Timing};
use super::link::{Heard, Link};
use super::owner::Owner;
use super::service::Service;
use super::town::{Town, Who};
use super::wire::{News, SECOND_NS, Turn};
use crate::plan::TlsMode;
use crate::ring::{Event, Ring, RingSettings};

/// How long a turn sleeps at most.
const NAP: Duration = Duration::from_millis(10);
/// Troubles that end the run: more of the same would teach nothing.
const TROUBLES_MAX: u64 = 1000;
/// How often somebody who is told to come later comes again.
const VISITS_MAX: u32 = 30;
/// Descriptors of the ring beside those of connections.
const DESCRIPTORS_SPARE: u32 = 8;
/// A device stays away for so long at least, and at most for twice as long.
const AWAY_NS: u64 = 2 * SECOND_NS;
/// A device that leaves does so within this time after it was read.
const LEAVE_NS_MAX: u64 = 3 * SECOND_NS;
/// How long closing all streams may take.
const CLOSING_NS: u64 = 3 * SECOND_NS;

/// How the city is reached, and how long it lives.
#[derive(Debug, Clone)]
pub(crate) struct Roads {
    /// The server.
    pub server: SocketAddrV4,
    /// TLS.
    pub tls: TlsMode,
    /// Its configuration, if there is any.
    pub tls_config: Option<Arc<ClientConfig>>,
    /// The domain as a certificate would name it.
    pub tls_name: ServerName<'static>,
    /// Source addresses; none: the system's choice.
    pub sources: Vec<Ipv4Addr>,
    /// Devices that come per second.
    pub arrivals: f64,
    /// Seconds that the city lives at least.
    pub seconds_min: f64,
    /// Without progress for so long, it is given up.
    pub patience: Duration,
}

/// Somebody.
#[derive(Debug)]
enum Role<'t> {
    Device(Device<'t>),
    Owner(Owner<'t>),
    Service(Service<'t>),
}

impl Role<'_> {
    fn ready(&mut self, turn: &mut Turn<'_>) {
        match self {
            Self::Device(device) => device.ready(turn),
            Self::Owner(owner) => owner.ready(turn),
            Self::Service(service) => service.ready(turn),
        }
    }

    fn take(&mut self, stanza: &Node, turn: &mut Turn<'_>) {
        match self {
            Self::Device(device) => device.take(stanza, turn),
            Self::Owner(owner) => owner.take(stanza, turn),
            Self::Service(service) => service.take(stanza, turn),
        }
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        match self {
            Self::Device(device) => device.tick(turn),
            Self::Owner(owner) => owner.tick(turn),
            Self::Service(service) => service.tick(turn),
        }
    }

    fn due_ns(&self) -> u64 {
        match self {
            Self::Device(device) => device.due_ns(),
            Self::Owner(owner) => owner.due_ns(),
            Self::Service(service) => service.due_ns(),
        }
    }

    fn gone(&mut self) {
        match self {
            Self::Device(device) => device.gone(),
            Self::Owner(owner) => owner.gone(),
            Self::Service(service) => service.gone(),
        }
    }
}

/// Where somebody is.
#[derive(Debug)]
enum Place {
    /// Not there; comes when it is due, if ever.
    Away,
    Connecting,
    /// On the way in.
    Entering(Box<Entry>),
    /// There.
    In,
    /// On the way out; comes back at that time, if ever.
    Leaving(u64),
}

#[derive(Debug)]
struct Resident<'t> {
    who: Who,
    role: Role<'t>,
    place: Place,
    link: Link,
    account: Account,
    /// When it was to come.
    scheduled_ns: u64,
    /// It was there before.
    returns: bool,
    visits: u32,
    /// It goes away when its time has come.
    leave_ns: u64,
    has_left: bool,
    sending: bool,
    dirty: bool,
    /// For when it is on the agenda.
    armed_ns: u64,
}

/// The city.
pub(crate) struct Streets<'t> {
    town: &'t Town,
    roads: &'t Roads,
    ring: Ring,
    target: usize,
    sources: Vec<usize>,
    epoch: Instant,
    residents: Vec<Resident<'t>>,
    agenda: BinaryHeap<Reverse<(u64, u32)>>,
    dirty: Vec<u32>,
    rearm: Vec<u32>,
    out: Vec<u8>,
    news: Vec<News>,
    /// Things that their owners were shown, those that the registry then gave, and those that were told.
    to_claim: HashSet<u32>,
    won: HashSet<u32>,
    told: HashSet<u32>,
    /// How far the city has come.
    pub funnel: Funnel,
}

impl std::fmt::Debug for Streets<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streets").field("residents", &self.residents.len()).finish_non_exhaustive()
    }
}

impl<'t> Streets<'t> {
    /// Sets everything up; nobody has come yet.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn new(town: &'t Town, roads: &'t Roads) -> io::Result<Self> {
        let accounts = town.accounts();
        let settings =
            RingSettings { slots: accounts + DESCRIPTORS_SPARE, entries: 4096, buffers: 1024, buffer_bytes: 4096 };
        let mut ring = Ring::new(settings)?;
        let target = ring.address(roads.server);
        let sources = roads.sources.iter().map(|&ip| ring.address(SocketAddrV4::new(ip, 0))).collect();
        let mut streets = Self {
            town,
            roads,
            ring,
            target,
            sources,
            epoch: Instant::now(),
            residents: Vec::new(),
            agenda: BinaryHeap::new(),
            dirty: Vec::new(),
            rearm: Vec::new(),
            out: Vec::new(),
            news: Vec::new(),
            to_claim: HashSet::new(),
            won: HashSet::new(),
            told: HashSet::new(),
            funnel: Funnel::new(goals(town)),
        };
        for account in 0..accounts {
            let who = town.who(account);
            let role = match who {
                Who::Device(number) => Role::Device(Device::new(town, number)),
                Who::Owner(number) => Role::Owner(Owner::new(town, number)),
                Who::Service(number) => Role::Service(Service::new(town, number)),
            };
            let scheduled_ns = (f64::from(account) * 1e9 / roads.arrivals) as u64;
            streets.residents.push(Resident {
                who,
                role,
                place: Place::Away,
                link: Link::new(),
                account: Account {
                    user: town.user(who),
                    password: town.password(who),
                    maker: town.maker(who).cloned(),
                    salted: None,
                },
                scheduled_ns,
                returns: false,
                visits: 0,
                leave_ns: u64::MAX,
                has_left: false,
                sending: false,
                dirty: false,
                armed_ns: u64::MAX,
            });
            streets.arm(account, scheduled_ns);
        }
        Ok(streets)
    }

    /// Lets the city live, until all is reached, or nothing more is; `watch` is shown it now and then.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn live(&mut self, mut watch: impl FnMut(&Funnel, u64)) -> io::Result<()> {
        let (mut progress, mut since_ns) = (0, 0);
        loop {
            let now_ns = self.turn()?;
            watch(&self.funnel, now_ns);
            if self.funnel.progress() > progress {
                (progress, since_ns) = (self.funnel.progress(), now_ns);
            }
            let complete = self.funnel.is_complete();
            if complete && now_ns as f64 / 1e9 >= self.roads.seconds_min {
                break;
            }
            if self.funnel.trouble_count() > TROUBLES_MAX {
                self.funnel.trouble("given up", "everybody", "too much went wrong");
                break;
            }
            let waits = Duration::from_nanos(now_ns.saturating_sub(since_ns)) > self.roads.patience;
            let is_to_come =
                |resident: &Resident<'_>| resident.scheduled_ns > now_ns && resident.scheduled_ns != u64::MAX;
            if !complete && waits && !self.residents.iter().any(is_to_come) {
                self.funnel.trouble("given up", "everybody", "nothing more was reached");
                break;
            }
        }
        self.close()
    }

    /// Closes all streams.
    fn close(&mut self) -> io::Result<()> {
        for index in 0..self.residents.len() as u32 {
            self.leave(index, u64::MAX);
        }
        let begun_ns = self.now_ns();
        let is_open = |resident: &Resident<'_>| matches!(resident.place, Place::Leaving(_));
        while self.residents.iter().any(is_open) && self.now_ns() < begun_ns + CLOSING_NS {
            self.turn()?;
        }
        Ok(())
    }

    fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// One turn; gives the time it began.
    fn turn(&mut self) -> io::Result<u64> {
        let now_ns = self.now_ns();
        while let Some(&Reverse((due_ns, index))) = self.agenda.peek()
            && due_ns <= now_ns
        {
            self.agenda.pop();
            self.on_due(index, due_ns, now_ns);
        }
        self.flush();
        let next = self
            .agenda
            .peek()
            .map_or(NAP, |Reverse((due_ns, _))| Duration::from_nanos(due_ns.saturating_sub(self.now_ns())).min(NAP));
        self.ring.submit(Some(next))?;
        let mut events = Vec::new();
        self.ring.reap(&mut events);
        for event in events {
            self.on_event(event);
        }
        Ok(now_ns)
    }

    /// Puts somebody on the agenda.
    fn arm(&mut self, index: u32, due_ns: u64) {
        let Some(resident) = self.residents.get_mut(index as usize) else { return };
        if due_ns != u64::MAX && due_ns < resident.armed_ns {
            resident.armed_ns = due_ns;
            self.agenda.push(Reverse((due_ns, index)));
        }
    }

    /// What somebody wants to be woken for next.
    fn rearm(&mut self, index: u32) {
        let Some(resident) = self.residents.get(index as usize) else { return };
        let due_ns = match resident.place {
            Place::In => resident.role.due_ns().min(resident.leave_ns),
            Place::Away => resident.scheduled_ns,
            Place::Connecting | Place::Entering(_) | Place::Leaving(_) => u64::MAX,
        };
        self.arm(index, due_ns);
    }

    fn on_due(&mut self, index: u32, due_ns: u64, now_ns: u64) {
        let Some(resident) = self.residents.get_mut(index as usize).filter(|resident| resident.armed_ns == due_ns)
        else {
            return; // It was put on the agenda again, for an earlier time.
        };
        resident.armed_ns = u64::MAX;
        match resident.place {
            Place::Away if resident.scheduled_ns <= now_ns => self.come(index),
            Place::In if resident.leave_ns <= now_ns => {
                resident.leave_ns = u64::MAX;
                let away_ns = self.town.pause_ns(u64::from(index), AWAY_NS, 2 * AWAY_NS);
                self.leave(index, now_ns + away_ns);
            }
            Place::In => self.with_role(index, |role, turn| role.tick(turn)),
            Place::Away | Place::Connecting | Place::Entering(_) | Place::Leaving(_) => {}
        }
        self.rearm(index);
    }

    fn come(&mut self, index: u32) {
        let sources = self.sources.len().max(1);
        let source = self.sources.get(index as usize % sources).copied();
        let again_ns = self.now_ns() + SECOND_NS / 10;
        let Some(resident) = self.residents.get_mut(index as usize) else { return };
        if resident.sending {
            resident.scheduled_ns = again_ns; // The former connection still has the buffer.
            return;
        }
        resident.link = Link::new();
        resident.place = Place::Connecting;
        self.ring.connect(index, source, self.target);
    }

    /// Closes somebody's stream; it comes back at a time, if that is one.
    fn leave(&mut self, index: u32, back_ns: u64) {
        let Some(resident) = self.residents.get_mut(index as usize) else { return };
        if !matches!(resident.place, Place::In) {
            if back_ns == u64::MAX {
                resident.scheduled_ns = u64::MAX;
            }
            return;
        }
        resident.place = Place::Leaving(back_ns);
        resident.role.gone();
        if resident.link.say(b"</stream:stream>").is_ok() {
            self.mark(index);
        }
    }

    /// Lets somebody do something, says what it says and hears what it tells.
    fn with_role(&mut self, index: u32, act: impl FnOnce(&mut Role<'t>, &mut Turn<'_>)) {
        let now_ns = self.now_ns();
        let Some(resident) = self.residents.get_mut(index as usize) else { return };
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let (mut out, mut news) = (std::mem::take(&mut self.out), std::mem::take(&mut self.news));
        act(&mut resident.role, &mut Turn { now_ns, unix_ms, out: &mut out, news: &mut news });
        let said = if matches!(resident.place, Place::In) { resident.link.say(&out) } else { Ok(()) };
        out.clear();
        self.out = out;
        if let Err(what) = said {
            self.fail(index, "TLS", &what);
        }
        self.mark(index);
        self.rearm(index);
        for item in news.drain(..) {
            self.on_news(index, item, now_ns);
        }
        self.news = news;
    }

    /// Somebody told something: counts it, and tells those it concerns outside of XMPP.
    fn on_news(&mut self, index: u32, news: News, now_ns: u64) {
        match news {
            News::Took(timing, ns) => self.funnel.time(timing, ns),
            News::Note(what) => self.funnel.note(what),
            News::Trouble(kind, what) => {
                let who =
                    self.residents.get(index as usize).map_or(String::new(), |resident| self.town.jid(resident.who));
                self.funnel.trouble(kind, &who, &what);
            }
            News::Registered(thing) => {
                let Some(owner) = self.town.things.get(thing as usize).map(|thing| thing.owner) else { return };
                let owner = self.town.account(Who::Owner(owner));
                if self.to_claim.insert(thing) {
                    self.with_role(owner, |role, turn| {
                        if let Role::Owner(owner) = role {
                            owner.claim(thing, turn);
                        }
                    });
                }
            }
            News::Won(thing) => {
                self.won.insert(thing);
                self.claimed(thing, now_ns);
            }
            News::Told(thing, owner) => {
                let planned = self.town.things.get(thing as usize).map(|thing| self.town.jid(Who::Owner(thing.owner)));
                if planned.as_ref() != Some(&owner) {
                    self.funnel.trouble("another owner", &owner, &format!("in place of {planned:?}"));
                    return;
                }
                self.told.insert(thing);
                if !self.to_claim.contains(&thing) {
                    self.won.insert(thing); // In a city that was there before, it was claimed before.
                }
                self.claimed(thing, now_ns);
            }
            News::Reached(Stage::Returned, device, _) => {
                if self.town.devices.get(device as usize).is_some_and(|device| device.leaves) {
                    self.funnel.reach(Stage::Returned, device, 0, now_ns);
                }
            }
            News::Reached(stage, who, what) => {
                let new = self.funnel.reach(stage, who, what, now_ns);
                if new && stage == Stage::Read {
                    self.on_first_read(who, now_ns);
                }
            }
        }
    }

    /// A thing may have been claimed: then services may ask for it.
    fn claimed(&mut self, thing: u32, now_ns: u64) {
        if !(self.won.contains(&thing) && self.told.contains(&thing)) {
            return;
        }
        if !self.funnel.reach(Stage::Claimed, thing, 0, now_ns) {
            return;
        }
        let device =
            self.town.things.get(thing as usize).and_then(|thing| self.town.devices.get(thing.device as usize));
        for &service in device.map_or(&[][..], |device| &device.services) {
            let account = self.town.account(Who::Service(service));
            self.with_role(account, |role, turn| {
                if let Role::Service(service) = role {
                    service.welcome(thing, turn);
                }
            });
        }
    }

    /// A device that is to leave does so a while after it was read the first time.
    fn on_first_read(&mut self, thing: u32, now_ns: u64) {
        let Some(number) = self.town.things.get(thing as usize).map(|thing| thing.device) else { return };
        if !self.town.devices.get(number as usize).is_some_and(|device| device.leaves) {
            return;
        }
        let index = self.town.account(Who::Device(number));
        let pause_ns = self.town.pause_ns(u64::from(index) << 8, 0, LEAVE_NS_MAX);
        let Some(resident) = self.residents.get_mut(index as usize) else { return };
        if !std::mem::replace(&mut resident.has_left, true) {
            resident.leave_ns = now_ns + pause_ns;
            self.rearm(index);
        }
    }

    fn mark(&mut self, index: u32) {
        let Some(resident) = self.residents.get_mut(index as usize) else { return };
        if !resident.link.out.is_empty() && !resident.sending && !std::mem::replace(&mut resident.dirty, true) {
            self.dirty.push(index);
        }
    }

    fn flush(&mut self) {
        for index in self.dirty.drain(..) {
            let Some(resident) = self.residents.get_mut(index as usize) else { continue };
            resident.dirty = false;
            if !resident.sending && !resident.link.out.is_empty() {
                resident.sending = true;
                self.ring.send(index, std::mem::take(&mut resident.link.out));
            }
        }
        for index in self.rearm.drain(..) {
            self.ring.receive_all(index);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected(index, result) => self.on_connected(index, result),
            Event::Received(index, lent, more) => {
                let bytes = self.ring.bytes(&lent).to_vec();
                self.ring.recycle(lent);
                if !more {
                    self.rearm.push(index);
                }
                if let Err(Refused { kind, what, later }) = self.on_bytes(index, &bytes) {
                    self.on_refused(index, kind, &what, later);
                }
                self.mark(index);
            }
            Event::Starved(index) => self.rearm.push(index),
            Event::Ended(index, error) => self.on_ended(index, error),
            Event::Sent(index, error, _) => {
                let Some(resident) = self.residents.get_mut(index as usize) else { return };
                resident.sending = false;
                if error == 0 {
                    self.mark(index);
                }
            }
            Event::Readable(_) | Event::Accepted(_) | Event::AcceptEnded => {}
        }
    }

    fn on_connected(&mut self, index: u32, result: Result<(), i32>) {
        let Some(resident) = self.residents.get_mut(index as usize) else { return };
        if !matches!(resident.place, Place::Connecting) {
            return;
        }
        if let Err(error) = result {
            let what = io::Error::from_raw_os_error(error).to_string();
            (resident.place, resident.scheduled_ns) = (Place::Away, u64::MAX);
            return self.funnel.trouble("no connection", &self.town.jid(resident.who), &what);
        }
        let begun = match self.roads.tls {
            TlsMode::Direct => self.secure(index),
            TlsMode::None | TlsMode::Starttls => self.open(index),
        };
        let starttls = self.roads.tls == TlsMode::Starttls;
        let Some(resident) = self.residents.get_mut(index as usize) else { return };
        resident.place = Place::Entering(Box::new(Entry::new(resident.account.clone(), starttls)));
        match begun {
            Err(what) => self.fail(index, "TLS", &what),
            Ok(()) => {
                self.ring.receive_all(index);
                self.mark(index);
            }
        }
    }

    fn secure(&mut self, index: u32) -> Result<(), String> {
        let config = self.roads.tls_config.clone().ok_or("no TLS configuration")?;
        let resident = self.residents.get_mut(index as usize).ok_or("nobody")?;
        resident.link.secure(config, self.roads.tls_name.clone())
    }

    /// Says the header of a stream.
    fn open(&mut self, index: u32) -> Result<(), String> {
        let header = format!(
            "<?xml version='1.0'?><stream:stream to='{}' version='1.0' xml:lang='en' xmlns='jabber:client' \
             xmlns:stream='http://etherx.jabber.org/streams'>",
            self.town.census.domain
        );
        let resident = self.residents.get_mut(index as usize).ok_or("nobody")?;
        resident.link.restart();
        resident.link.say(header.as_bytes())
    }

    fn on_bytes(&mut self, index: u32, bytes: &[u8]) -> Result<(), Refused> {
        let broken = |kind: &'static str| move |what: String| Refused { kind, what, later: false };
        let Some(resident) = self.residents.get_mut(index as usize) else { return Ok(()) };
        if matches!(resident.place, Place::Away | Place::Connecting) {
            return Ok(());
        }
        if resident.link.arrive(bytes).map_err(broken("TLS"))? {
            if let Place::Entering(entry) = &mut resident.place {
                entry.secured();
            }
            self.open(index).map_err(broken("TLS"))?;
        }
        loop {
            let Some(resident) = self.residents.get_mut(index as usize) else { return Ok(()) };
            let Some(heard) = resident.link.next().map_err(broken("not XML"))? else { return Ok(()) };
            match heard {
                Heard::Header => {}
                Heard::Close if matches!(resident.place, Place::Leaving(_)) => self.ring.shutdown(index),
                Heard::Close => return Err(broken("stream closed")("by the server".to_owned())),
                Heard::Element(element) => self.on_element(index, &element)?,
            }
        }
    }

    fn on_element(&mut self, index: u32, element: &Node) -> Result<(), Refused> {
        let broken = |what: String| Refused { kind: "TLS", what, later: false };
        let Some(resident) = self.residents.get_mut(index as usize) else { return Ok(()) };
        match &mut resident.place {
            Place::In if element.ns == plaza_core::ns::STREAMS => {
                let condition = element.children.first().map_or("no condition", |child| &child.name);
                Err(Refused { kind: "stream error", what: condition.to_owned(), later: false })
            }
            Place::In => {
                self.with_role(index, |role, turn| role.take(element, turn));
                Ok(())
            }
            Place::Entering(entry) => {
                let mut out = Vec::new();
                let step = entry.take(element, &fresh(), &mut out)?;
                resident.link.say(&out).map_err(broken)?;
                match step {
                    Step::Wait => Ok(()),
                    Step::StartTls => self.secure(index).map_err(broken),
                    Step::Restart => self.open(index).map_err(broken),
                    Step::Bound(jid) => self.on_bound(index, &jid),
                }
            }
            Place::Away | Place::Connecting | Place::Leaving(_) => Ok(()),
        }
    }

    fn on_bound(&mut self, index: u32, jid: &str) -> Result<(), Refused> {
        let now_ns = self.now_ns();
        let Some(resident) = self.residents.get_mut(index as usize) else { return Ok(()) };
        let wanted = self.town.jid(resident.who);
        if super::wire::bare(jid) != wanted {
            return Err(Refused { kind: "bind refused", what: format!("{jid} in place of {wanted}"), later: false });
        }
        let Place::Entering(entry) = std::mem::replace(&mut resident.place, Place::In) else { return Ok(()) };
        if entry.existed() {
            self.funnel.note("accounts that were there already");
        }
        resident.account = entry.into_account();
        let timing = if std::mem::replace(&mut resident.returns, true) { Timing::Return } else { Timing::Arrival };
        self.funnel.time(timing, now_ns.saturating_sub(resident.scheduled_ns));
        self.funnel.reach(Stage::Created, index, 0, now_ns);
        self.with_role(index, |role, turn| role.ready(turn));
        Ok(())
    }

    /// Somebody was turned away: for now, or for good.
    fn on_refused(&mut self, index: u32, kind: &'static str, what: &str, later: bool) {
        let back_ns = self.now_ns() + self.town.pause_ns(u64::from(index), SECOND_NS, 3 * SECOND_NS);
        let Some(resident) = self.residents.get_mut(index as usize) else { return };
        if !later || resident.visits >= VISITS_MAX {
            return self.fail(index, kind, what);
        }
        resident.visits += 1;
        resident.place = Place::Leaving(back_ns);
        self.funnel.note("asked to wait");
        self.ring.shutdown(index);
    }

    fn fail(&mut self, index: u32, kind: &'static str, what: &str) {
        let Some(resident) = self.residents.get_mut(index as usize) else { return };
        resident.role.gone();
        resident.place = Place::Leaving(u64::MAX);
        resident.scheduled_ns = u64::MAX;
        self.funnel.trouble(kind, &self.town.jid(resident.who), what);
        self.ring.shutdown(index);
    }

    fn on_ended(&mut self, index: u32, error: i32) {
        let Some(resident) = self.residents.get_mut(index as usize) else { return };
        match resident.place {
            Place::Leaving(back_ns) => {
                resident.scheduled_ns = back_ns;
                resident.place = Place::Away;
            }
            Place::Away | Place::Connecting => return, // Of a connection that is no more.
            Place::Entering(_) | Place::In => {
                resident.role.gone();
                resident.place = Place::Away;
                resident.scheduled_ns = u64::MAX;
                let what = match error {
                    0 => "by the server".to_owned(),
                    error => io::Error::from_raw_os_error(error).to_string(),
                };
                self.funnel.trouble("connection ended", &self.town.jid(resident.who), &what);
            }
        }
        self.ring.close(index);
        self.rearm(index);
    }
}

/// What is drawn and read for an element.
fn fresh() -> Fresh {
    let mut nonce = [0_u8; 16];
    // Without randomness a nonce would be used twice, and refused.
    let _ = getrandom::fill(&mut nonce);
    let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Fresh { unix_seconds, nonce: format!("{:032x}", u128::from_le_bytes(nonce)) }
}

/// How many are to come to each stage.
fn goals(town: &Town) -> [(Stage, u64); 8] {
    let friends = |thing: &super::town::Thing| {
        town.devices.get(thing.device as usize).map_or(0, |device| device.services.len() as u64)
    };
    let things = town.things.len() as u64;
    let reads = town.things.iter().map(friends).sum();
    let found = town.things.iter().filter(|thing| thing.public).map(friends).sum();
    let controls = town.things.iter().filter(|thing| thing.kind.parameter().is_some()).map(friends).sum();
    let befriended = town.devices.iter().map(|device| device.services.len() as u64).sum();
    let returns = town.devices.iter().filter(|device| device.leaves).count() as u64;
    [
        (Stage::Created, u64::from(town.accounts())),
        (Stage::Registered, things),
        (Stage::Claimed, things),
        (Stage::Found, found),
        (Stage::Befriended, befriended),
        (Stage::Read, reads),
        (Stage::Controlled, controls),
        (Stage::Returned, returns),
    ]
}
