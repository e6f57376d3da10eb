//! Tokens: names for certificates whose private key the client has shown to hold, so that what it sends can be traced by who
//! is shown the token (XEP-0324 v0.5.1 §3.2).

use aws_lc_rs::{constant_time, rand};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use plaza_core::iot::{Generation, Interface};
use plaza_core::jid::{Jid, JidRef};
use plaza_core::provisioning::{self, TokenRequest};
use plaza_core::stanza::{Condition, IqType};
use plaza_core::xml::read::Node;
use sha2::{Digest, Sha256};

use super::Config;
use super::certificate::{BadCertificate, CERTIFICATE_BYTES_MAX, Certificate};
use super::challenges::Challenge;
use super::serve::Failure;
#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::owned::ATTEMPTS_MAX;
use crate::record::{Reader, put_bytes, put_count};
use crate::store::{Batch, CommitError, Guard, Store, StoreError, Table, Write};

const VERSION: u8 = 1;
/// What a token stands for, below the token's random part.
const TOKEN: u8 = b't';
/// The tokens of a bare JID, by the hash of the certificate.
const HOLDER: u8 = b'h';
const SEPARATOR: u8 = 0;
/// Random bytes of a token.
const RANDOM_BYTES: usize = 24;
/// Longest text that may be a certificate: its Base64, with line breaks.
const TEXT_BYTES_MAX: usize = CERTIFICATE_BYTES_MAX * 3 / 2;

/// Answers an iq about tokens to the service at `component`: the payload of the result.
///
/// # Errors
/// `bad-request` for what is not whole, is no certificate, or a wrong answer to a challenge; `not-acceptable` for a
/// certificate that no token can stand for; `item-not-found` for an unknown challenge or token; `resource-constraint`
/// beyond the bounds, and when the store or the helpers are busy; those of [`TokenRequest::read`].
pub async fn serve<S: Store>(
    config: &Config,
    store: &S,
    caller: &Jid,
    component: &Jid,
    (iq_type, payload): (IqType, &Node),
    unix_millis: u64,
) -> Result<Vec<u8>, Condition> {
    let Some((Interface::Tokens | Interface::Device, generation)) = Interface::of(&payload.ns) else {
        return Err(Condition::BadRequest);
    };
    let request = TokenRequest::read(payload)?;
    if iq_type != IqType::Get {
        return Err(Condition::BadRequest);
    }
    let served = match request {
        TokenRequest::Get { certificate } => challenge(config, caller, generation, &certificate, unix_millis).await,
        TokenRequest::Respond { number, response } => {
            let opened = open(config, caller, number, &response, unix_millis)?;
            issue(config, store, caller.as_jid().bare(), &opened, unix_millis).await.map(|random| {
                let mut out = Vec::new();
                provisioning::write_token(&mut out, generation, &format!("{component}:{random}"));
                out
            })
        }
        TokenRequest::Certificate { token } => certificate(store, component, generation, &token, unix_millis).await,
    };
    served.map_err(Condition::from)
}

impl From<BadCertificate> for Failure {
    fn from(bad: BadCertificate) -> Self {
        Self::Refused(match bad {
            BadCertificate::Malformed => Condition::BadRequest,
            BadCertificate::TooLarge | BadCertificate::Key | BadCertificate::Time => Condition::NotAcceptable,
        })
    }
}

/// Challenges who asks for a token to show that it holds the private key.
async fn challenge(
    config: &Config,
    caller: &Jid,
    generation: Generation,
    base64: &str,
    now: u64,
) -> Result<Vec<u8>, Failure> {
    if base64.len() > TEXT_BYTES_MAX {
        return Err(BadCertificate::TooLarge.into());
    }
    let der = decode(base64).ok_or(BadCertificate::Malformed)?;
    if !config.challenges.has_room(caller, now) {
        return Err(Condition::ResourceConstraint.into());
    }
    let secret: [u8; 32] = random()?;
    let encrypt = move || {
        let sealed = Certificate::read(&der, now).and_then(|certificate| certificate.encrypt(&secret));
        sealed.map(|sealed| (sealed, der))
    };
    let (sealed, der) = match &config.helpers {
        Some(helpers) => helpers.run(encrypt).await.ok_or(Condition::ResourceConstraint)??,
        None => encrypt()?,
    };
    for _ in 0..ATTEMPTS_MAX {
        let number = i32::from_le_bytes(random()?) & i32::MAX;
        let challenge = Challenge { jid: caller.clone(), number, secret, der: der.clone(), made: now };
        if config.challenges.put(challenge) {
            let mut out = Vec::new();
            provisioning::write_challenge(&mut out, generation, number, &STANDARD.encode(&sealed));
            return Ok(out);
        }
    }
    Err(Condition::ResourceConstraint.into())
}

/// The certificate whose challenge is answered. A challenge is answered once, rightly or not.
fn open(config: &Config, caller: &Jid, number: i32, response: &str, now: u64) -> Result<Vec<u8>, Condition> {
    let challenge = config.challenges.take(caller, number, now).ok_or(Condition::ItemNotFound)?;
    let response = decode(response).ok_or(Condition::BadRequest)?;
    let is_right = constant_time::verify_slices_are_equal(&challenge.secret, &response).is_ok();
    if is_right { Ok(challenge.der) } else { Err(Condition::BadRequest) }
}

/// A secret for the holder of a token's private key.
pub(super) struct Sealed {
    pub(super) secret: [u8; 32],
    /// What it can be read from, in Base64.
    pub(super) text: String,
    /// When the certificate ends, in milliseconds since 1970.
    pub(super) ends: u64,
}

/// Makes a secret for the holder of the private key that a token stands for. `token` has the address in front.
pub(super) async fn seal<S: Store>(config: &Config, store: &S, token: &str, now: u64) -> Result<Sealed, Failure> {
    let (_, random_part) = token.rsplit_once(':').ok_or(Condition::ItemNotFound)?;
    let key = [&[TOKEN], random_part.as_bytes()].concat();
    let record = store.get(Table::Certificates, &key).await?.ok_or(Condition::ItemNotFound)?;
    let der = Stored::decode(&record)?.der.to_vec();
    let secret: [u8; 32] = random()?;
    let encrypt = move || {
        let certificate = Certificate::read(&der, now)?;
        Ok::<_, BadCertificate>((certificate.encrypt(&secret)?, certificate.expires()))
    };
    let sealed = match &config.helpers {
        Some(helpers) => helpers.run(encrypt).await.ok_or(Condition::ResourceConstraint)?,
        None => encrypt(),
    };
    // One that was good when the token was made, and is not now, is none any more.
    let (sealed, expires) = sealed.map_err(|_| Condition::ItemNotFound)?;
    Ok(Sealed { secret, text: STANDARD.encode(sealed), ends: expires.saturating_mul(1_000) })
}

/// The random part of the token for a certificate: the one there is, or a new one.
pub(super) async fn issue<S: Store>(
    config: &Config,
    store: &S,
    holder: JidRef<'_>,
    der: &[u8],
    now: u64,
) -> Result<String, Failure> {
    let certificate = Certificate::read(der, now)?;
    let prefix = holder_key(holder);
    let index = [&*prefix, &*Sha256::digest(der)].concat();
    let held = store.scan(Table::Certificates, &prefix, None, config.limits.tokens_max as usize).await?;
    if let Some((_, random)) = held.iter().find(|(key, _)| *key == index) {
        return String::from_utf8(random.clone()).map_err(|_| StoreError::Corrupt.into());
    }
    let mut writes = Vec::new();
    if held.len() >= config.limits.tokens_max as usize {
        // Those go whose certificates have ended.
        for (key, random) in held {
            let token = [&[TOKEN], &*random].concat();
            let record = store.get(Table::Certificates, &token).await?;
            let has_ended = record.map(|record| Stored::decode(&record).map(|stored| stored.has_ended(now)));
            if has_ended.transpose()?.unwrap_or(true) {
                writes.extend([key, token].map(|key| Write::Delete { table: Table::Certificates, key }));
            }
        }
        if writes.is_empty() {
            return Err(Condition::ResourceConstraint.into());
        }
    }
    let random = URL_SAFE_NO_PAD.encode(random::<RANDOM_BYTES>()?);
    let key = [&[TOKEN], random.as_bytes()].concat();
    let stored = Stored { expires: certificate.expires(), holder: holder.as_str(), der };
    writes.push(Write::Put { table: Table::Certificates, key, value: stored.encode() });
    writes.push(Write::Put { table: Table::Certificates, key: index.clone(), value: random.clone().into_bytes() });
    let guards = vec![Guard::Absent { table: Table::Certificates, key: index }];
    match store.commit(Batch { guards, writes }).await {
        Ok(()) => Ok(random),
        // The same client was faster on another stream.
        Err(CommitError::Guard(_)) => Err(StoreError::Busy.into()),
        Err(CommitError::Store(error)) => Err(error.into()),
    }
}

/// What the keys of somebody's tokens begin with.
fn holder_key(holder: JidRef<'_>) -> Vec<u8> {
    [&[HOLDER], holder.bare().as_str().as_bytes(), &[SEPARATOR]].concat()
}

/// What deletes the tokens of a bare JID.
pub(super) async fn forget<S: Store>(store: &S, holder: JidRef<'_>) -> Result<Vec<Write>, StoreError> {
    let held = store.scan(Table::Certificates, &holder_key(holder), None, usize::MAX).await?;
    let keys = held.into_iter().flat_map(|(key, random)| [key, [&[TOKEN], &*random].concat()]);
    Ok(keys.map(|key| Write::Delete { table: Table::Certificates, key }).collect())
}

/// The certificate that a token stands for, for everybody who asks.
async fn certificate<S: Store>(
    store: &S,
    component: &Jid,
    generation: Generation,
    token: &str,
    now: u64,
) -> Result<Vec<u8>, Failure> {
    let random = match token.rsplit_once(':') {
        Some((address, random)) if address == component.as_str() => random,
        Some(_) => return Err(Condition::ItemNotFound.into()),
        None => token,
    };
    let key = [&[TOKEN], random.as_bytes()].concat();
    let record = store.get(Table::Certificates, &key).await?.ok_or(Condition::ItemNotFound)?;
    let stored = Stored::decode(&record)?;
    if stored.has_ended(now) {
        return Err(Condition::ItemNotFound.into());
    }
    let mut out = Vec::new();
    provisioning::write_certificate(&mut out, generation, &STANDARD.encode(stored.der));
    Ok(out)
}

/// version · second in which it ends · bare JID of the holder · certificate.
struct Stored<'a> {
    expires: u64,
    holder: &'a str,
    der: &'a [u8],
}

impl<'a> Stored<'a> {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_count(&mut out, self.expires);
        put_bytes(&mut out, self.holder.as_bytes());
        out.extend_from_slice(self.der);
        out
    }

    fn decode(record: &'a [u8]) -> Result<Self, StoreError> {
        let mut reader = Reader::open(record, VERSION)?;
        let (expires, holder) = (reader.count()?, reader.text()?);
        Ok(Self { expires, holder, der: reader.rest() })
    }

    const fn has_ended(&self, now: u64) -> bool {
        now / 1_000 > self.expires
    }
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] = &[|record| Stored::decode(record).map(|stored| stored.encode())];

fn decode(base64: &str) -> Option<Vec<u8>> {
    let text: Vec<u8> = base64.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(text).ok()
}

fn random<const N: usize>() -> Result<[u8; N], Condition> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| Condition::InternalServerError)?;
    Ok(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize, date_time_ymd};

    use super::super::Limits;
    use super::*;
    use crate::helpers::Helpers;
    use crate::store::memory::MemoryStore;
    use crate::testing::jid;
    use crate::wait::block_on;

    const NOW: u64 = 1_767_323_045_000;

    pub(in super::super) fn certificate_of(key: &KeyPair, until: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["lamp.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2025, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        params.self_signed(key).unwrap().der().to_vec()
    }

    pub(in super::super) fn rsa() -> KeyPair {
        KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
    }

    struct Client {
        config: Config,
        store: MemoryStore,
        jid: Jid,
        now: u64,
    }

    impl Client {
        fn new() -> Self {
            let (config, store) = (Config::new(Limits::DEFAULT, [7; 32]), MemoryStore::new());
            Self { config, store, jid: jid("lamp@things.example/a"), now: NOW }
        }

        fn ask(&self, payload: &str) -> Result<Node, Condition> {
            let node = Node::parse(payload, "jabber:client").unwrap();
            let component = jid("things.things.example");
            let asked = serve(&self.config, &self.store, &self.jid, &component, (IqType::Get, &node), self.now);
            let answer = String::from_utf8(block_on(asked)?).unwrap();
            let answer = Node::parse(&answer, "jabber:client").unwrap();
            assert_eq!(answer.ns, node.ns);
            Ok(answer)
        }

        fn get_token(&self, ns: &str, der: &[u8]) -> Result<Node, Condition> {
            self.ask(&format!("<getToken xmlns='{ns}'>\n{}\n</getToken>", STANDARD.encode(der)))
        }

        fn respond(&self, challenge: &Node, secret: &[u8]) -> Result<String, Condition> {
            let (ns, number) = (&challenge.ns, challenge.attr("seqnr").unwrap());
            let secret = STANDARD.encode(secret);
            let payload = format!(
                "<getTokenChallengeResponse xmlns='{ns}' seqnr='{number}'>{secret}</getTokenChallengeResponse>"
            );
            let answer = self.ask(&payload)?;
            assert_eq!(answer.name, "getTokenResponse");
            Ok(answer.attr("token").unwrap().to_owned())
        }
    }

    fn open(key: &KeyPair, challenge: &Node) -> Vec<u8> {
        assert_eq!(challenge.name, "getTokenChallenge");
        let key = PrivateDecryptingKey::from_pkcs8(&key.serialize_der()).unwrap();
        let key = OaepPrivateDecryptingKey::new(key).unwrap();
        let mut out = vec![0; key.min_output_size()];
        let sealed = STANDARD.decode(&challenge.text).unwrap();
        key.decrypt(&OAEP_SHA1_MGF1SHA1, &sealed, &mut out, None).unwrap().to_vec()
    }

    #[test]
    fn who_holds_the_key_has_a_token_in_all_generations_and_everybody_the_certificate() {
        let key = rsa();
        let der = certificate_of(&key, 2030);
        let mut client = Client::new();
        client.config = client.config.with_helpers(Helpers::start(1, 9));
        let mut tokens = Vec::new();
        for generation in Generation::ALL {
            let ns = Interface::Tokens.ns(generation);
            let challenge = client.get_token(ns, &der).unwrap();
            let token = client.respond(&challenge, &open(&key, &challenge)).unwrap();
            let random = token.strip_prefix("things.things.example:").unwrap();
            assert!(random.len() == 32 && !random.contains(char::is_whitespace));
            let stranger = Client { jid: jid("other.example"), config: client.config.clone(), ..Client::new() };
            let stranger = Client { store: client.store.clone(), ..stranger };
            for payload in [
                format!("<getCertificate xmlns='{ns}' token='{token}'/>"),
                format!("<getCertificate xmlns='{ns}' token='{random}'/>"),
                format!("<getCertificate xmlns='{ns}'>{token}</getCertificate>"),
                format!("<getCertificate xmlns='{ns}'>{random}</getCertificate>"),
            ] {
                let answer = stranger.ask(&payload).unwrap();
                assert_eq!((answer.name.as_str(), STANDARD.decode(&answer.text)), ("certificate", Ok(der.clone())));
            }
            for other in [format!("other.example:{random}"), format!("{random}x"), "t".to_owned()] {
                let asked = stranger.ask(&format!("<getCertificate xmlns='{ns}' token='{other}'/>"));
                assert_eq!(asked, Err(Condition::ItemNotFound));
            }
            tokens.push(token);
        }
        // One certificate of one client has one token.
        assert!(tokens.windows(2).all(|pair| pair[0] == pair[1]), "{tokens:?}");
        client.now = 1_900_000_000_000;
        let ended = client.ask(&format!("<getCertificate xmlns='urn:nf:iot:prov:t:1.0' token='{}'/>", tokens[0]));
        assert_eq!(ended, Err(Condition::ItemNotFound));
    }

    #[test]
    fn a_wrong_answer_is_a_bad_request_and_another_streams_challenge_is_unknown() {
        let (key, ns) = (rsa(), "urn:nf:iot:prov:t:1.0");
        let der = certificate_of(&key, 2030);
        let client = Client::new();
        let challenge = client.get_token(ns, &der).unwrap();
        let secret = open(&key, &challenge);
        let other = Client { jid: jid("lamp@things.example/b"), store: client.store.clone(), ..Client::new() };
        let other = Client { config: client.config.clone(), ..other };
        assert_eq!(other.respond(&challenge, &secret), Err(Condition::ItemNotFound));
        assert_eq!(client.respond(&challenge, &[0; 32]), Err(Condition::BadRequest));
        assert_eq!(client.respond(&challenge, &secret), Err(Condition::ItemNotFound));
        let challenge = client.get_token(ns, &der).unwrap();
        assert_eq!(client.respond(&challenge, &open(&key, &challenge)).map(|token| token.len()), Ok(54));
        let late = client.get_token(ns, &der).unwrap();
        let secret = open(&key, &late);
        let client = Client { now: NOW + 600_000, ..client };
        assert_eq!(client.respond(&late, &secret), Err(Condition::ItemNotFound));
    }

    #[test]
    fn what_no_token_can_stand_for_is_refused() {
        let (client, ns) = (Client::new(), "urn:nf:iot:prov:t:1.0");
        let key = rsa();
        let der = certificate_of(&key, 2030);
        let get = |der: &[u8]| client.get_token(ns, der).map(|node| node.name);
        assert_eq!(get(&certificate_of(&key, 2025)), Err(Condition::NotAcceptable));
        let elliptic = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        assert_eq!(get(&certificate_of(&elliptic, 2030)), Err(Condition::NotAcceptable));
        assert_eq!(get(&[&*der, &[0]].concat()), Err(Condition::BadRequest));
        assert_eq!(get(&der[..der.len() - 1]), Err(Condition::BadRequest));
        assert_eq!(get(b""), Err(Condition::BadRequest));
        assert_eq!(get(&vec![0x30; CERTIFICATE_BYTES_MAX + 1]), Err(Condition::NotAcceptable));
        assert_eq!(get(&vec![0x30; 2 * CERTIFICATE_BYTES_MAX]), Err(Condition::NotAcceptable));
        let text = client.ask(&format!("<getToken xmlns='{ns}'>***</getToken>")).unwrap_err();
        assert_eq!(text, Condition::BadRequest);
        // No byte of it makes the reader panic.
        for at in 0..der.len() {
            let mut torn = der.clone();
            torn[at] ^= 0xff;
            let _ = Certificate::read(&torn, NOW);
        }
    }

    #[test]
    fn tokens_of_a_client_are_bounded_and_ended_ones_make_room() {
        let (key, ns) = (rsa(), "urn:nf:iot:prov:t:1.0");
        let mut client = Client::new();
        client.config.limits.tokens_max = 2;
        let token = |client: &Client, until: i32| {
            let challenge = client.get_token(ns, &certificate_of(&key, until))?;
            client.respond(&challenge, &open(&key, &challenge))
        };
        assert!(token(&client, 2027).is_ok() && token(&client, 2030).is_ok());
        assert_eq!(token(&client, 2031), Err(Condition::ResourceConstraint));
        client.now = 1_830_000_000_000;
        assert!(token(&client, 2031).is_ok());
        let kept = || block_on(client.store.scan(Table::Certificates, b"", None, 99)).unwrap().len();
        assert_eq!(kept(), 4);
        let writes = block_on(forget(&client.store, client.jid.as_jid())).unwrap();
        block_on(client.store.commit(Batch { guards: Vec::new(), writes })).unwrap();
        assert_eq!(kept(), 0);
    }
}
