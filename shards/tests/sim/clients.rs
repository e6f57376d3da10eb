//! What clients do: they come and go, and say this and that.

use std::collections::{HashMap, VecDeque};

use plaza_core::jid::Jid;
use plaza_core::stream;
use plaza_shards::ring::Key;
use plaza_shards::shard::Shard;

use super::{Client, DOMAIN, Pending, Sent, World};

impl World {
    pub(super) fn someone(&mut self) -> Option<usize> {
        let alive: Vec<usize> =
            self.clients.iter().enumerate().filter(|(_, client)| !client.ended).map(|(index, _)| index).collect();
        (!alive.is_empty()).then(|| self.random.pick(&alive))
    }

    pub(super) fn bind(&mut self) {
        let alive = self.clients.iter().filter(|client| !client.ended).count();
        if alive >= self.plan.clients_max {
            return;
        }
        let account = self.random.pick(&self.accounts);
        let index = self.clients.len();
        let resource = match self.random.below(10) {
            _ if self.plan.exact => "r".to_owned(),
            0..=1 => "r".to_owned(),
            _ => format!("r{index}"),
        };
        if self.plan.blocks {
            // What an account blocks is known before it has sessions.
            let key = Key { index: self.logging_in.len() as u32, generation: 2 };
            self.logging_in.push((account.clone(), resource));
            if self.shard_of(&account).login(key, account.as_jid()) {
                self.logged_in(key.index as usize);
            }
            return;
        }
        self.bind_as(&account, &resource);
    }

    pub(super) fn shard_of(&mut self, account: &Jid) -> &mut Shard {
        let shard = usize::from(self.shards[0].home(account.as_jid()).0);
        &mut self.shards[shard]
    }

    /// What is known of an account is in memory: a client of its is bound.
    pub(super) fn logged_in(&mut self, login: usize) {
        let (account, resource) = self.logging_in[login].clone();
        if self.shard_of(&account).facts(account.as_jid()).is_some() {
            self.bind_as(&account, &resource);
        }
    }

    fn bind_as(&mut self, account: &Jid, resource: &str) {
        let index = self.clients.len();
        let shard = usize::from(self.shards[0].home(account.as_jid()).0);
        let key = Key { index: index as u32, generation: 1 };
        let Ok((id, jid)) = self.shards[shard].bind(key, account, Some(resource), 0) else { return };
        if self.resources.iter().any(|known| known == jid.as_str()) {
            self.rebound.insert(jid.as_str().to_owned());
        } else {
            self.resources.push(jid.as_str().to_owned());
        }
        self.clients.push(Client {
            shard,
            id,
            jid,
            pending: VecDeque::new(),
            paused: false,
            awaiting: false,
            ended: false,
            reads: true,
            sending: None,
            flush: false,
            available: false,
            priority: 0,
            directed: Vec::new(),
            latest: HashMap::new(),
            events: HashMap::new(),
            latest_live: HashMap::new(),
            seen: HashMap::new(),
            last: HashMap::new(),
            hid: false,
            managed: None,
            cut: false,
            life: self.life,
            bound_at: self.activity,
            said: Vec::new(),
            enabling: false,
            told_blocks: 0,
        });
        if !self.plan.exact && self.random.percent(self.plan.managed_percent) {
            self.managed_clients.insert(index);
            self.queue(index, "<enable xmlns='urn:xmpp:sm:3' resume='true'/>".into(), None);
        }
        if self.random.percent(90) {
            self.appear(index);
        }
    }

    /// Available, with a priority, and at times a long status.
    pub(super) fn appear(&mut self, client: usize) {
        let priority = if self.random.percent(10) { -1 } else { self.random.below(3) as i32 };
        let (priority, payload) = match self.random.below(3) {
            0 => (0, String::new()),
            1 => (priority, format!("<priority>{priority}</priority>")),
            _ => (priority, format!("<priority>{priority}</priority><status>{}</status>", self.body())),
        };
        (self.clients[client].available, self.clients[client].priority) = (true, priority);
        if self.plan.exact {
            self.send(client, "presence", "", "", &payload);
        } else {
            self.queue(client, format!("<presence>{payload}</presence>"), None);
        }
    }

    /// Unavailable, if it is available.
    pub(super) fn hide(&mut self, client: usize) {
        if std::mem::take(&mut self.clients[client].available) {
            self.clients[client].hid = true;
            self.clients[client].directed.clear();
            self.queue(client, "<presence type='unavailable'/>".into(), None);
        }
    }

    pub(super) fn say(&mut self) {
        let Some(client) = self.someone() else { return };
        if self.plan.blocks && self.random.percent(15) {
            self.say_block(client);
        }
        if self.plan.killed && self.random.percent(30) {
            self.ask_count(client);
        }
        if self.plan.slow && self.random.percent(10) {
            self.say_note(client);
        }
        if self.plan.things && self.random.percent(60) {
            self.say_thing(client);
        }
        if self.plan.owners && self.random.percent(60) {
            self.say_owner(client);
        }
        for _ in 0..=self.random.below(6) {
            match self.random.below(20) {
                0..=9 => self.say_message(client),
                10..=13 => self.say_iq(client),
                14 => self.send(client, "iq", "get", DOMAIN, "<ping xmlns='urn:xmpp:ping'/>"),
                15 => {
                    let odd = self.random.pick(&["x@elsewhere.example/r", "@@", "x@things.example/", DOMAIN]);
                    self.send(client, "message", "chat", odd, "<body/>");
                }
                16 => self.send(client, "iq", "get", DOMAIN, ""),
                _ if self.plan.exact => {}
                17 if self.random.percent(30) => self.hide(client),
                17 => self.appear(client),
                _ => self.say_directed(client),
            }
        }
    }

    pub(super) fn say_message(&mut self, client: usize) {
        let message_type = self.random.pick(&["chat", "chat", "normal", "headline", "groupchat", "error", ""]);
        let body = format!("<body>{}</body>", self.body());
        let to = match self.address() {
            // Which of several resources had no room is no stanza's drop.
            to if message_type == "headline" && !to.contains('/') => String::new(),
            to => to,
        };
        self.send(client, "message", message_type, &to, &body);
    }

    pub(super) fn say_iq(&mut self, client: usize) {
        let iq_type = self.random.pick(&["get", "set", "result", "error"]);
        let to = match self.random.below(4) {
            0 => String::new(),
            1 => DOMAIN.to_owned(),
            _ => self.address(),
        };
        self.send(client, "iq", iq_type, &to, "<query xmlns='jabber:iq:roster'/>");
    }

    pub(super) fn say_directed(&mut self, client: usize) {
        let to = self.address();
        if self.random.percent(30) {
            return self.send(client, "presence", "error", &to, "");
        }
        if self.random.percent(50) {
            // Not followed: what becomes of them is looked at when all is quiet.
            let kinds = ["subscribe", "subscribe", "subscribed", "subscribed", "unsubscribe", "unsubscribed", "probe"];
            let kind = self.random.pick(&kinds);
            // Who asks before it is available is answered, and not told what follows.
            self.clients[client].hid |= kind == "probe";
            return self.queue(client, format!("<presence type='{kind}' to='{to}'/>"), None);
        }
        let known = self.clients[client].directed.iter().position(|known| *known == to);
        match known {
            // To its own account, what it says itself and what the broker says would add up.
            Some(at) if !to.starts_with(self.clients[client].jid.bare().as_str()) && self.random.percent(50) => {
                self.clients[client].directed.remove(at);
                self.send(client, "presence", "unavailable", &to, "");
            }
            None if self.clients[client].directed.len() < 4 => {
                self.clients[client].directed.push(to.clone());
                self.send(client, "presence", "", &to, "");
            }
            Some(_) => self.send(client, "presence", "", &to, ""),
            None => {}
        }
    }

    /// A JID here: bare or full, bound, gone or never there.
    pub(super) fn address(&mut self) -> String {
        if self.random.percent(self.plan.crowd_percent)
            && let Some(latest) = self.resources.last()
        {
            return latest.clone();
        }
        match self.random.below(8) {
            0 | 1 => self.random.pick(&self.accounts).as_str().to_owned(),
            2 => format!("nobody@{DOMAIN}/r"),
            _ if self.resources.is_empty() => format!("a0@{DOMAIN}/gone"),
            3 => self.random.pick(&self.resources),
            // The later ones are more likely alive.
            _ => {
                let last = self.resources.len();
                self.resources[last - 1 - self.random.below(last.min(6))].clone()
            }
        }
    }

    pub(super) fn body(&mut self) -> String {
        "b".repeat(self.random.below(self.plan.body_bytes_max))
    }

    /// Queues a stanza that is followed to its end.
    pub(super) fn send(&mut self, client: usize, name: &str, kind: &str, to: &str, payload: &str) {
        let number = self.sent.len();
        let mut text = format!("<{name} id='n{number}'");
        for (attr, value) in [("type", kind), ("to", to)] {
            if !value.is_empty() {
                text.push_str(&format!(" {attr}='{value}'"));
            }
        }
        text.push_str(&format!(">{payload}</{name}>"));
        self.sent.push(Sent {
            sender: client,
            tag: text[..text.len().min(100)].to_owned(),
            to: to.to_owned(),
            request: name == "iq" && matches!(kind, "get" | "set"),
            error: kind == "error",
            taken: false,
            taken_at: 0,
            held_up: false,
            away: false,
            durable: false,
            delivered: Vec::new(),
            answers: 0,
        });
        self.queue(client, text, Some(number));
    }

    pub(super) fn queue(&mut self, client: usize, text: String, number: Option<usize>) {
        self.clients[client].pending.push_back(Pending { text, number });
    }

    /// Something is said ahead of nearly all that waits.
    pub(super) fn queue_soon(&mut self, client: usize, text: String) {
        let pending = &mut self.clients[client].pending;
        // The first one may have been begun.
        pending.insert(pending.len().min(1), Pending { text, number: None });
    }

    /// What comes from outside: a client leaves or stops reading, an account is shut.
    pub(super) fn disturb(&mut self) {
        let Some(client) = self.someone() else { return };
        match self.random.below(9) {
            0 => self.disconnect(client),
            8 => self.cut(client),
            1 if self.random.percent(20) => {
                let account = self.clients[client].jid.bare();
                let shard = self.clients[client].shard;
                self.shards[shard].terminate_account(account.as_jid(), stream::Condition::NotAuthorized);
            }
            _ => self.clients[client].reads = !self.random.percent(self.plan.idle_percent),
        }
    }
}
