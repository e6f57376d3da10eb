//! Tokens over the running broker (XEP-0324 v0.5.1 §3.2): a service has one for its certificate, who presents it is challenged,
//! owners make rules about it, and what is stolen or made up counts for nothing.

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use plaza_core::ns;
use plaza_core::xml::read::Node;
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};

use crate::broker::{Broker, PASSWORD, USERS};
use crate::wire::{HEADER, Wire, bind};

const REGISTRY: &str = "things.localhost";
const DISCO: &str = "urn:nf:iot:disco:1.0";
const DEVICE: &str = "urn:nf:iot:prov:d:1.0";
const OWNER: &str = "urn:nf:iot:prov:o:1.0";
const TOKENS: &str = "urn:nf:iot:prov:t:1.0";
const SENSOR: &str = "urn:nf:iot:sd:1.0";

/// A key pair that tokens stand for.
struct Identity {
    key: KeyPair,
}

impl Identity {
    fn new() -> Self {
        Self { key: KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap() }
    }

    fn certificate(&self) -> String {
        let params = CertificateParams::new(vec!["service.example".to_owned()]).unwrap();
        STANDARD.encode(params.self_signed(&self.key).unwrap().der())
    }

    /// What a challenge holds.
    fn open(&self, sealed: &str) -> String {
        let key = PrivateDecryptingKey::from_pkcs8(&self.key.serialize_der()).unwrap();
        let key = OaepPrivateDecryptingKey::new(key).unwrap();
        let mut out = vec![0; key.min_output_size()];
        let sealed = STANDARD.decode(sealed).unwrap();
        STANDARD.encode(key.decrypt(&OAEP_SHA1_MGF1SHA1, &sealed, &mut out, None).unwrap())
    }

    /// Asks the service at `localhost` for a token.
    fn token(&self, wire: &mut Wire) -> String {
        let get = format!("<getToken xmlns='{TOKENS}'>{}</getToken>", self.certificate());
        let challenge = payload(&wire.ask("get", REGISTRY, &get));
        assert_eq!(challenge.name, "getTokenChallenge");
        let (number, secret) = (challenge.attr("seqnr").unwrap().to_owned(), self.open(&challenge.text));
        let respond = |secret: &str| {
            format!("<getTokenChallengeResponse xmlns='{TOKENS}' seqnr='{number}'>{secret}</getTokenChallengeResponse>")
        };
        let token = payload(&wire.ask("get", REGISTRY, &respond(&secret)));
        assert_eq!(token.name, "getTokenResponse");
        // A challenge is good once.
        let again = wire.ask("get", REGISTRY, &respond(&secret));
        assert!(again.contains("<item-not-found "), "{again}");
        let token = token.attr("token").unwrap().to_owned();
        assert!(token.starts_with("things.localhost:"), "{token}");
        token
    }
}

/// The last stanza of what was said.
fn stanza(said: &str) -> Node {
    let at = said.rfind("<iq").max(said.rfind("<message")).unwrap_or_else(|| panic!("no stanza in {said}"));
    Node::parse(&said[at..], ns::CLIENT).unwrap_or_else(|| panic!("no stanza: {said}"))
}

/// What is in the last stanza.
fn payload(said: &str) -> Node {
    stanza(said).children.into_iter().next().unwrap_or_else(|| panic!("nothing in {said}"))
}

/// A challenge on its way.
struct Asked {
    id: String,
    from: String,
    token: String,
    sealed: String,
}

/// Reads up to a challenge.
fn challenge(wire: &mut Wire) -> Asked {
    let said = wire.until("<tokenChallenge ") + &wire.until("</iq>");
    let iq = stanza(&said);
    let challenge = payload(&said);
    let attr = |node: &Node, name: &str| node.attr(name).unwrap().to_owned();
    Asked {
        id: attr(&iq, "id"),
        from: attr(&iq, "from"),
        token: attr(&challenge, "token"),
        sealed: challenge.text.trim().to_owned(),
    }
}

/// Answers a challenge.
fn respond(wire: &mut Wire, asked: &Asked, secret: &str) {
    let response = format!("<tokenChallengeResponse xmlns='{TOKENS}'>{secret}</tokenChallengeResponse>");
    wire.send(format!("<iq type='result' id='{}' to='{}'>{response}</iq>", asked.id, asked.from));
}

/// A device that belongs to somebody, and has heard so; and its owner.
fn owned(broker: &Broker, device: &str, owner: &str) -> (Wire, Wire) {
    let tags = "<str name='SN' value='1'/><str name='KEY' value='key'/>";
    let mut theirs = Wire::login(broker, device, "d");
    let said = theirs.ask("set", REGISTRY, &format!("<register xmlns='{DISCO}'>{tags}</register>"));
    assert!(said.contains("type='result'"), "{said}");
    drop(theirs);
    let mut ours = Wire::available(broker, owner, "o");
    let said = ours.ask("set", REGISTRY, &format!("<mine xmlns='{DISCO}'>{tags}</mine>"));
    assert!(said.contains("<claimed "), "{said}");
    let mut theirs = Wire::login(broker, device, "d");
    theirs.send("<presence/>");
    forget(&mut theirs);
    theirs.ping();
    (theirs, ours)
}

/// The device is told to forget its answers, and does.
fn forget(device: &mut Wire) {
    let said = device.until("<clearCache ") + &device.until("</iq>");
    let id = stanza(&said).attr("id").unwrap().to_owned();
    device.send(format!("<iq type='result' id='{id}' to='{REGISTRY}'/>"));
}

/// A device asks whether somebody may read it who presents a service's token.
fn may_read(device: &mut Wire, jid: &str, token: &str) -> bool {
    let query = format!("<canRead xmlns='{DEVICE}' jid='{jid}' st='{token}' m='true'/>");
    let answer = payload(&device.ask("get", REGISTRY, &query));
    assert_eq!(answer.name, "canReadResponse");
    answer.attr("result") == Some("true")
}

/// What an owner is asked about reading, once it is shown a token.
fn question(owner: &mut Wire, token: &str) -> Node {
    loop {
        let said = owner.until(&format!("<canRead xmlns='{OWNER}'")) + &owner.until("</message>");
        let asked = payload(&said);
        if asked.attr("st") == Some(token) {
            return asked;
        }
    }
}

/// The owner lets in who has the token.
fn allow(owner: &mut Wire, asked: &Node, token: &str) {
    let attr = |name: &str| asked.attr(name).unwrap();
    let rule = format!(
        "<canReadRule xmlns='{OWNER}' jid='{}' remoteJid='{}' key='{}' result='true'><fromService token='{token}'/>\
         </canReadRule>",
        attr("jid"),
        attr("remoteJid"),
        attr("key")
    );
    let said = owner.ask("set", REGISTRY, &rule);
    assert!(said.contains("type='result'"), "{said}");
}

#[test]
fn a_token_is_challenged_through_the_device_and_its_owner_decides_by_it() {
    let mut broker = Broker::start("");
    for (device, owner) in broker.pairs() {
        let mut others = USERS.into_iter().filter(|user| ![device, owner].contains(user));
        let (service, colleague) = (others.next().unwrap(), others.next().unwrap());
        let (mut theirs, mut ours) = owned(&broker, device, owner);
        let mut reader = Wire::available(&broker, service, "s");
        let identity = Identity::new();
        let token = identity.token(&mut reader);
        let certificate = format!("<getCertificate xmlns='{TOKENS}' token='{token}'/>");
        assert_eq!(payload(&ours.ask("get", REGISTRY, &certificate)).name, "certificate", "anybody sees whose it is");

        // The device shows the broker the token that it was shown, and hands on what the broker wants to know of it.
        let jid = format!("{service}@localhost");
        assert!(!may_read(&mut theirs, &jid, &token));
        let asked = challenge(&mut theirs);
        assert_eq!((&*asked.from, &*asked.token), (REGISTRY, &*token));
        theirs.send(format!(
            "<iq type='get' id='on' to='{jid}/s'><tokenChallenge xmlns='{TOKENS}' token='{token}'>{}</tokenChallenge></iq>",
            asked.sealed
        ));
        let handed_on = challenge(&mut reader);
        assert_eq!(handed_on.from, format!("{device}@localhost/d"));
        respond(&mut reader, &handed_on, &identity.open(&handed_on.sealed));
        let said = theirs.until("<tokenChallengeResponse ") + &theirs.until("</iq>");
        respond(&mut theirs, &asked, &payload(&said).text);

        // Its owner is shown the token, and makes a rule about it.
        let asked = question(&mut ours, &token);
        assert_eq!((asked.attr("jid"), asked.attr("remoteJid")), (Some(&*format!("{device}@localhost")), Some(&*jid)));
        allow(&mut ours, &asked, &token);
        forget(&mut theirs);
        assert!(may_read(&mut theirs, &jid, &token));
        assert!(may_read(&mut theirs, &format!("{colleague}@localhost"), &token), "whoever has it");
        assert!(!may_read(&mut theirs, &jid, ""), "and nobody without");

        // What was made up counts for nothing, and there is nothing to ask about it.
        for forged in ["things.localhost:0123456789abcdef", "things.elsewhere.example:1", &token[..token.len() - 1]] {
            assert!(!may_read(&mut theirs, &jid, forged), "{forged}");
        }
        assert!(may_read(&mut theirs, &jid, &token));
        assert!(!theirs.ping().contains("<tokenChallenge "));
        broker.cli(&["thing", "disown", device]);
    }
    broker.stop();
}

/// A session of a domain that is not `localhost`.
fn guest(broker: &Broker, user: &str, domain: &str) -> Wire {
    let header = HEADER.replace("to='localhost'", &format!("to='{domain}'"));
    let mut wire = Wire::connect(broker.plain);
    wire.send(&header);
    wire.until("</stream:features>");
    let last = wire.scram(user, PASSWORD);
    assert!(last.contains("<success"), "{last}");
    wire.send(&header);
    wire.until("</stream:features>");
    wire.send(bind("g"));
    let bound = wire.until("</iq>");
    assert!(bound.contains(&format!("<jid>{user}@{domain}/g</jid>")), "{bound}");
    wire.send("<presence/>");
    wire.ping();
    wire
}

#[test]
fn a_stolen_token_opens_nothing_and_its_service_is_known_across_domains() {
    let mut broker = Broker::start("");
    broker.reconfigure(|text| text.replace("domains = ['localhost']", "domains = ['localhost', 'other.example']"));
    broker.restart_in_order();
    // Names enough to be at home on either shard.
    let guests = ["guest1", "guest2", "guest3", "guest4"];
    for name in guests {
        broker.cli(&["account", "add", &format!("{name}@other.example"), "--password", PASSWORD]);
    }
    let (device, owner, thief) = (USERS[0], USERS[1], USERS[2]);
    let (mut theirs, mut ours) = owned(&broker, device, owner);
    let mut stranger = Wire::available(&broker, thief, "t");
    let read = |token: &str| {
        format!(
            "<iq type='get' id='r' to='{device}@localhost/d'><req xmlns='{SENSOR}' seqnr='1' m='true' st='{token}'/></iq>"
        )
    };
    let is_refused = |wire: &mut Wire, device: &mut Wire, token: &str| {
        wire.send(read(token));
        loop {
            if device.ping().contains("<req ") {
                return false;
            }
            if wire.ping().contains("<forbidden ") {
                return true;
            }
        }
    };
    broker.cli(&["thing", "enforce", device, "on"]);
    // The shards hear of it in a moment.
    assert!((0..40).any(|_| is_refused(&mut stranger, &mut theirs, "")));
    for name in guests {
        let mut service = guest(&broker, name, "other.example");
        let identity = Identity::new();
        let token = identity.token(&mut service);

        // Who knows the token and not the key is asked for it once, and has nothing.
        stranger.send(read(&token));
        let asked = challenge(&mut stranger);
        assert_eq!((&*asked.from, &*asked.token), (REGISTRY, &*token));
        respond(&mut stranger, &asked, &STANDARD.encode([0; 32]));
        assert!(is_refused(&mut stranger, &mut theirs, &token), "{name}");

        // Who has the key is asked by the service that issued the token, which is not that of its own domain.
        service.send(read(&token));
        let asked = challenge(&mut service);
        assert_eq!((&*asked.from, &*asked.token), (REGISTRY, &*token), "{name}");
        respond(&mut service, &asked, &identity.open(&asked.sealed));
        // Nobody has allowed it yet; the owner is asked as soon as it is proven.
        let mut shown = (0..40).filter_map(|_| {
            assert!(is_refused(&mut service, &mut theirs, &token), "{name}");
            let said = ours.ping();
            let message = said.split_inclusive("</message>").find(|message| message.contains(&token));
            message.map(payload)
        });
        let question = shown.next().unwrap();
        drop(shown);
        allow(&mut ours, &question, &token);
        assert!((0..40).any(|_| !is_refused(&mut service, &mut theirs, &token)), "{name}");
        assert!(is_refused(&mut stranger, &mut theirs, &token), "{name}");
    }
    drop((theirs, ours, stranger));
    broker.stop();
}
