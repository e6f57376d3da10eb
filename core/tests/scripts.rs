//! Scripted streams: what a client says and what [`Stream`] answers, line by line, from `scripts/*.txt`.
//!
//! Each script runs three ways, and must go the same: as written, one byte at a time, and split at random places.
//!
//! A comment line opens a script; then come, in any order:
//!
//! - `C: …`: bytes from the client. `\xNN` is a byte, `{header}` a stream header, `{auth:M:text}` an `<auth/>` with its
//!   text in Base64, `{response:text}` the same for `<response/>`, `{authenticate:M:text}` and `{response2:text}` those of
//!   XEP-0388, whose first goes on with what is behind a further colon; `{first}` and `{final}` what the SCRAM client of the
//!   last `! scram` says (in Base64), `{repeat:N:text}` what it says.
//! - `S: …`: all that the server has said since, compared whole. `…` stands for anything, `{any}` for anything but
//!   nothing, `{header}`, `{features}`, `{error:…}`, `{failure:…}`, `{failure2:…}` for what they say, `{challenge}` for what the SCRAM
//!   client takes, `{proof}` for what must convince it. A SCRAM client has read the features and checks their hash.
//! - `! config key=value …`, `! tls [exporter] [end-point] [cert=jid,…]`, `! direct-tls`, `! whole` (only as written):
//!   before the first line of either side.
//! - `! scram hash user password [binding [data]]`, `! bind condition` (answers the next request to bind), `! resume jid h`,
//!   `! resume condition [h]`, `! resume too-high sent` (answer the next request to resume), `! enabled [max]`,
//!   `! enabled condition` (answers the next wish for stream management), `! timeout`, `! abort`: what happens next.
//! - `! token byte mechanism [counted] [expired]`: the client has this token, made of that byte; `! tokens [byte]` and
//!   `! tokens failure` answer the next question what becomes of its tokens. `{fast:M:byte:name:…}` is an `<authenticate/>`
//!   with a token and what is behind the last colon, `{responder:M:byte}` what proves our side.
//! - `! closed [reason]`, `! bound jid`, `! asked …` (the last request to bind or resume), `! kept …` (the last about tokens):
//!   what must have happened.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plaza_core::caps::{Caps, Ver};
use plaza_core::jid::Jid;
use plaza_core::sasl::SaslFailure;
use plaza_core::sasl::client::ScramClient;
use plaza_core::sasl::ht::{HtMechanism, TOKEN_BYTES, Token, TokenSecret, initiator_hash, responder_hash};
use plaza_core::sasl::scram::{Hash, Keys, derive, verify_password};
use plaza_core::sm::{Enabled, Failed, HandledCountTooHigh, SmId};
use plaza_core::stanza;
use plaza_core::stream::{
    Action, Bound, Claimed, Condition, Credentials, Entropy, Inline, IssuedToken, Need, NotResumed, Proof, Resumed,
    Stream, StreamConfig, TlsFacts, UsedToken, Violation, Wish, tagged,
};
use plaza_core::xml::Scanner;

const ITERATIONS: u32 = 4096;

static KEYS: LazyLock<[Keys; 2]> = LazyLock::new(|| {
    [Hash::Sha1, Hash::Sha256].map(|hash| derive(hash, "pencil", b"0123456789abcdef", ITERATIONS).unwrap())
});

#[test]
fn scripts_run_as_written() {
    run_all(Split::Whole);
}

#[test]
fn scripts_run_one_byte_at_a_time() {
    run_all(Split::Bytes);
}

#[test]
fn scripts_run_however_they_are_split() {
    for seed in 1..=10 {
        run_all(Split::Random(seed));
    }
}

fn run_all(split: Split) {
    let mut ran = 0;
    let mut failed = String::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for script in Script::read(&text) {
            if script.lines.iter().any(|(_, line)| *line == "! whole") && !matches!(split, Split::Whole) {
                continue;
            }
            ran += 1;
            if let Err((line, message)) = Run::new(split).play(&script) {
                let name = file.file_name().unwrap().to_string_lossy();
                writeln!(failed, "\n{name}:{line} {}\n{message}", script.title).unwrap();
            }
        }
    }
    assert!(failed.is_empty(), "split {split:?}:{failed}");
    assert!(ran > 0, "no scripts found");
}

#[derive(Clone, Copy, Debug)]
enum Split {
    Whole,
    Bytes,
    Random(u64),
}

/// A script: its title, and its lines with their numbers.
struct Script<'a> {
    title: &'a str,
    lines: Vec<(usize, &'a str)>,
}

impl<'a> Script<'a> {
    fn read(text: &'a str) -> Vec<Self> {
        let mut scripts: Vec<Self> = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match (line.strip_prefix("# "), scripts.last_mut()) {
                (Some(_), Some(script)) if script.lines.is_empty() => {}
                (Some(title), _) => scripts.push(Self { title, lines: Vec::new() }),
                (None, script) => script.expect("a title comes first").lines.push((number + 1, line)),
            }
        }
        scripts
    }
}

type Failure = (usize, String);

struct Run {
    split: Split,
    config: StreamConfig,
    facts: TlsFacts,
    direct_tls: bool,
    /// `None` until the first line of either side.
    stream: Option<Stream>,
    scanner: Scanner,
    /// What the client said and the stream has not taken yet.
    input: Vec<u8>,
    /// What the stream said and no line has been compared with yet.
    output: Vec<u8>,
    expected: String,
    ids: Vec<String>,
    entropy: u8,
    random: u64,
    scram: Option<ScramClient>,
    scram_says: String,
    /// The last features that offered mechanisms.
    features: String,
    tokens: [Option<Token>; 2],
    tokens_answer: Result<Option<IssuedToken>, SaslFailure>,
    /// The last question about tokens.
    kept: String,
    bind_answer: Option<stanza::Condition>,
    register_answer: Option<stanza::Condition>,
    enabled: Option<Result<Enabled, Failed>>,
    /// The words of the last `! resume`.
    resume_answer: Vec<String>,
    /// The last request to bind or resume.
    asked: String,
    bound: Option<Bound>,
    closed: Option<Option<Violation>>,
}

impl Run {
    fn new(split: Split) -> Self {
        Self {
            split,
            config: StreamConfig {
                scram_iterations: ITERATIONS,
                tls_required: false,
                plain: true,
                offers_sm: false,
                offers_carbons: false,
                offers_csi: false,
                offers_fast: false,
                offers_registration: false,
                idle_seconds: 900,
                ..StreamConfig::new(vec![Jid::parse("things.example").unwrap()])
            },
            facts: TlsFacts::default(),
            direct_tls: false,
            stream: None,
            scanner: Scanner::new(),
            input: Vec::new(),
            output: Vec::new(),
            expected: String::new(),
            ids: Vec::new(),
            entropy: 0,
            random: match split {
                Split::Random(seed) => seed,
                Split::Whole | Split::Bytes => 1,
            },
            scram: None,
            scram_says: String::new(),
            features: String::new(),
            tokens: [None; 2],
            tokens_answer: Ok(None),
            kept: String::new(),
            bind_answer: None,
            register_answer: None,
            enabled: None,
            resume_answer: Vec::new(),
            asked: String::new(),
            bound: None,
            closed: None,
        }
    }

    fn play(mut self, script: &Script<'_>) -> Result<(), Failure> {
        let mut last = 0;
        for (number, line) in &script.lines {
            let failed = |message: String| (*number, message);
            if let Some(says) = line.strip_prefix("S: ") {
                self.begin();
                self.expected.push_str(says);
                last = *number;
                continue;
            }
            self.compare().map_err(|message| (last, message))?;
            last = *number;
            if let Some(says) = line.strip_prefix("C: ") {
                self.begin();
                let bytes = self.client_bytes(says);
                self.feed(&bytes).map_err(failed)?;
            } else {
                let directive = line.strip_prefix("! ").ok_or_else(|| failed(format!("what is this? {line}")))?;
                self.obey(directive).map_err(failed)?;
            }
        }
        self.compare().map_err(|message| (last, message))
    }

    fn begin(&mut self) {
        if self.stream.is_none() {
            let facts = self.direct_tls.then(|| self.facts.clone());
            let entropy = self.next_entropy();
            self.stream = Some(Stream::new(Arc::new(self.config.clone()), facts, entropy));
        }
    }

    fn next_entropy(&mut self) -> Entropy {
        self.entropy += 1;
        Entropy([self.entropy; 32])
    }

    fn obey(&mut self, directive: &str) -> Result<(), String> {
        let words: Vec<_> = directive.split(' ').collect();
        match words[0] {
            "config" => words[1..].iter().for_each(|word| self.configure(word)),
            "tls" => words[1..].iter().for_each(|word| match word.split_once('=') {
                Some(("cert", jids)) => {
                    self.facts.certificate_jids = jids.split(',').map(|jid| Jid::parse(jid).unwrap()).collect()
                }
                None if *word == "exporter" => self.facts.binding.exporter = Box::new([1; 32]),
                None if *word == "end-point" => self.facts.binding.server_end_point = Box::new([2; 32]),
                _ => panic!("what is {word}?"),
            }),
            "direct-tls" => self.direct_tls = true,
            "whole" => {}
            "scram" => self.begin_scram(&words[1..]),
            "bind" => {
                self.bind_answer = Some(stanza::Condition::from_name(words[1]).expect("a condition"));
            }
            "register" => {
                self.register_answer = Some(stanza::Condition::from_name(words[1]).expect("a condition"));
            }
            "enabled" => {
                let word = words.get(1).copied().unwrap_or("");
                let resumable = |max: &str| max.parse().ok().map(|max| (SmId { secret: [0xa5; 16], session: 7 }, max));
                self.enabled = Some(match stanza::Condition::from_name(word) {
                    Some(condition) => Err(condition.into()),
                    None => Ok(Enabled { resumable: resumable(word) }),
                });
            }
            "resume" => self.resume_answer = words[1..].iter().copied().map(str::to_owned).collect(),
            "token" => {
                let token = Token {
                    secret: secret(words[1]),
                    mechanism: HtMechanism::from_name(words[2]).unwrap(),
                    counted: words.get(3).map_or(0, |counted| counted.parse().unwrap()),
                    expired: words.get(4).is_some(),
                };
                let [first, second] = &mut self.tokens;
                *if first.is_none() { first } else { second } = Some(token);
            }
            "tokens" => {
                self.tokens_answer = match words.get(1).copied() {
                    None => Ok(None),
                    Some("temporary-auth-failure") => Err(SaslFailure::TemporaryAuthFailure),
                    Some("not-authorized") => Err(SaslFailure::NotAuthorized),
                    Some(byte) => Ok(Some(IssuedToken { secret: secret(byte), expiry: "2030-01-01T00:00:00Z".into() })),
                };
            }
            "kept" => {
                if self.kept != words[1..].join(" ") {
                    return Err(format!("kept {}", self.kept));
                }
            }
            "asked" => {
                if self.asked != words[1..].join(" ") {
                    return Err(format!("asked {}", self.asked));
                }
            }
            "timeout" => {
                self.begin();
                self.stream.as_mut().unwrap().handle_timeout(&mut self.output);
                self.act()?;
            }
            "abort" => {
                self.begin();
                self.stream.as_mut().unwrap().handle_abort(Condition::SystemShutdown, &mut self.output);
                self.act()?;
            }
            "closed" => {
                let reason = self.closed.ok_or("the stream is not closed")?.map(|violation| violation.reason());
                if reason != words.get(1).copied() {
                    return Err(format!("closed for {reason:?}"));
                }
            }
            "bound" => {
                let bound = self.bound.as_ref().ok_or("no resource is bound")?;
                if bound.jid.as_str() != words[1] || bound.lang.as_deref() != words.get(2).copied() {
                    return Err(format!("bound {bound:?}"));
                }
            }
            other => return Err(format!("what is {other}?")),
        }
        Ok(())
    }

    fn configure(&mut self, word: &str) {
        let (key, value) = word.split_once('=').unwrap_or((word, "true"));
        let flag = value == "true";
        match key {
            "domains" => self.config.domains = value.split(',').map(|domain| Jid::parse(domain).unwrap()).collect(),
            "starttls" => self.config.starttls = flag,
            "tls_required" => self.config.tls_required = flag,
            "plain" => self.config.plain = flag,
            "plain_without_tls" => self.config.plain_without_tls = flag,
            "offers_sm" => self.config.offers_sm = flag,
            "offers_carbons" => self.config.offers_carbons = flag,
            "offers_fast" => self.config.offers_fast = flag,
            "offers_csi" => self.config.offers_csi = flag,
            "offers_registration" => self.config.offers_registration = flag,
            "unsigned_registration" => self.config.unsigned_registration = flag,
            "legacy_session" => self.config.legacy_session = flag,
            "caps" => {
                let caps = Ver::parse("sha-1", value).map(|ver| Caps::new("https://plaza.example", ver));
                self.config.caps = Some(caps.unwrap());
            }
            "idle_seconds" => self.config.idle_seconds = value.parse().unwrap(),
            "stanza_bytes_max" => self.config.after_auth.stanza_bytes_max = value.parse().unwrap(),
            _ => panic!("what is {key}?"),
        }
    }

    fn begin_scram(&mut self, words: &[&str]) {
        let hash = if words[0] == "sha-1" { Hash::Sha1 } else { Hash::Sha256 };
        let nonce = format!("nonce{}", self.entropy);
        let data = match (words.get(3), words.get(4)) {
            (None, _) => None,
            (Some(name), Some(data)) => Some((*name, data.as_bytes().to_vec())),
            (Some(name @ &"tls-exporter"), None) => Some((*name, vec![1; 32])),
            (Some(name), None) => Some((*name, vec![2; 32])),
        };
        let data = data.as_ref().map(|(name, data)| (*name, data.as_slice()));
        let (client, first) = ScramClient::start(hash, words[1], words[2], &nonce, data);
        (self.scram, self.scram_says) = (Some(client), first);
    }

    /// The bytes of a `C:` line.
    fn client_bytes(&self, line: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = line;
        while let Some(at) = rest.find(['{', '\\']) {
            bytes.extend_from_slice(&rest.as_bytes()[..at]);
            if let Some(hex) = rest[at..].strip_prefix("\\x") {
                bytes.push(u8::from_str_radix(&hex[..2], 16).unwrap());
                rest = &hex[2..];
                continue;
            }
            let (inside, after) = rest[at + 1..].split_once('}').expect("a brace is closed");
            rest = after;
            let (name, argument) = inside.split_once(':').unwrap_or((inside, ""));
            let sasl = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'";
            let encoded = |text: &str| STANDARD.encode(self.client_bytes(text));
            let text = match name {
                "header" => HEADER.to_owned(),
                "auth" => {
                    let (mechanism, text) = argument.split_once(':').unwrap();
                    format!("<auth {sasl} mechanism='{mechanism}'>{}</auth>", encoded(text))
                }
                "response" => format!("<response {sasl}>{}</response>", encoded(argument)),
                "authenticate" => {
                    let mut parts = argument.splitn(3, ':');
                    let (mechanism, text) = (parts.next().unwrap(), encoded(parts.next().unwrap()));
                    format!(
                        "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='{mechanism}'>\
                         <initial-response>{text}</initial-response>{}</authenticate>",
                        parts.next().unwrap_or("")
                    )
                }
                "fast" => {
                    let mut parts = argument.splitn(4, ':');
                    let mechanism = HtMechanism::from_name(parts.next().unwrap()).unwrap();
                    let secret = secret(parts.next().unwrap());
                    let name = parts.next().unwrap();
                    let hashed = initiator_hash(secret, mechanism.binding(&self.facts.binding).unwrap_or_default());
                    let text = STANDARD.encode([name.as_bytes(), b"\0", &hashed].concat());
                    format!(
                        "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='{}'>\
                         <initial-response>{text}</initial-response>{}</authenticate>",
                        mechanism.name(),
                        parts.next().unwrap_or("")
                    )
                }
                "response2" => format!("<response xmlns='urn:xmpp:sasl:2'>{}</response>", encoded(argument)),
                "first" | "final" => STANDARD.encode(&self.scram_says),
                "repeat" => {
                    let (times, text) = argument.split_once(':').unwrap();
                    text.repeat(times.parse().unwrap())
                }
                other => panic!("what is {other}?"),
            };
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(rest.as_bytes());
        bytes
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = match self.split {
                Split::Whole => rest.len(),
                Split::Bytes => 1,
                Split::Random(_) => {
                    self.random =
                        self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    1 + (self.random >> 33) as usize % rest.len().min(200)
                }
            };
            let (now, later) = rest.split_at(len);
            self.input.extend_from_slice(now);
            rest = later;
            self.pump()?;
        }
        Ok(())
    }

    /// Offers the input until the stream takes no more of it, carrying out its actions.
    fn pump(&mut self) -> Result<(), String> {
        loop {
            let (ended, before) = (self.closed.is_some(), self.output.len());
            let stream = self.stream.as_mut().unwrap();
            let taken = stream.handle_bytes(&mut self.scanner, &self.input, &mut self.output);
            self.input.drain(..taken);
            if ended && (!self.input.is_empty() || self.output.len() > before) {
                return Err("a closed stream swallows its input and says nothing".to_owned());
            }
            if !self.act()? {
                return Ok(());
            }
        }
    }

    /// Carries out what the stream asks for; whether there was anything.
    fn act(&mut self) -> Result<bool, String> {
        let Some(action) = self.stream.as_mut().unwrap().poll_action() else { return Ok(false) };
        let entropy = self.next_entropy();
        let stream = self.stream.as_mut().unwrap();
        if stream.wants_bytes() {
            return Err(format!("{action:?} is to be answered first"));
        }
        match action {
            Action::StartTls if self.input.is_empty() => stream.handle_tls(self.facts.clone(), entropy),
            Action::StartTls => return Err("bytes in clear behind STARTTLS".to_owned()),
            Action::Authenticate { account, need } => {
                let credentials = match (account.as_str(), need) {
                    ("user@things.example", Need::Tokens(_)) => Credentials::Tokens(self.tokens),
                    _ => credentials(&account, need),
                };
                stream.handle_credentials(credentials, entropy, &mut self.output);
            }
            Action::VerifyPassword { keys, password } => {
                stream.handle_password(Some(verify_password(&keys, &password)), &mut self.output);
            }
            Action::Tokens { account, proof, wanted, .. } => {
                let proof = match proof {
                    Proof::Keys(_) => "password".to_owned(),
                    Proof::Certificate => "certificate".to_owned(),
                    Proof::Token(UsedToken { secret: TokenSecret([byte, ..]), count, invalidate }) => {
                        format!("token {byte}{}", if invalidate { " invalidate" } else { "" })
                            + &count.map_or(String::new(), |count| format!(" count={count}"))
                    }
                };
                self.kept = format!("{account} {proof}");
                self.kept.extend(wanted.map(|mechanism| format!(" wanted={}", mechanism.name())));
                stream.handle_tokens(std::mem::replace(&mut self.tokens_answer, Ok(None)), &mut self.output);
            }
            Action::Register(registration) => {
                let signed = registration.signed.as_ref().map_or("nobody", |signed| &signed.consumer_key);
                self.asked = format!("register {} {} {signed}", registration.account, &*registration.password);
                let answer = self.register_answer.take().map_or(Ok(()), |condition| Err(condition.into()));
                stream.handle_registered(answer, &mut self.output);
            }
            Action::Bind { account, resource, inline } => {
                self.asked = format!("bind {account} {}", described(&resource, inline));
                let resource = match resource {
                    Wish::Any => "made".to_owned(),
                    Wish::Named(resource) => resource.into(),
                    Wish::Tagged { tag, client } => tagged(tag.as_deref(), [u8::from(client.is_some()); 12]),
                };
                let sm = inline.sm.map(|_| self.enabled.take().unwrap_or(Ok(Enabled::default())));
                let claimed = Claimed { jid: account.with_resource(&resource).unwrap(), sm };
                stream.handle_bind(self.bind_answer.take().map_or(Ok(claimed), Err), &mut self.output);
            }
            Action::Resume { account, previd, h } => {
                self.asked = format!("resume {account} {previd} {h}");
                stream.handle_resume(resume_answer(&std::mem::take(&mut self.resume_answer), h), &mut self.output);
            }
            Action::Established(bound) => self.bound = Some(bound),
            Action::Close(violation) => self.closed = Some(violation),
        }
        Ok(true)
    }

    /// Compares what the stream has said with what it should have.
    fn compare(&mut self) -> Result<(), String> {
        let output = String::from_utf8(std::mem::take(&mut self.output)).unwrap();
        let output = output.replace("<?xml version='1.0'?>", "");
        let expected = std::mem::take(&mut self.expected);
        for header in output.split("<stream:stream ").skip(1) {
            let id = header.split(" id='").nth(1).unwrap().split('\'').next().unwrap().to_owned();
            if self.ids.contains(&id) || id.len() < 16 {
                return Err(format!("stream id {id} is not unique, or short"));
            }
            self.ids.push(id);
        }
        if let Some((_, features)) =
            output.rsplit_once("<stream:features>").filter(|(_, text)| text.contains("<mechanism>"))
        {
            self.features = features.to_owned();
        }
        let mut captured = Vec::new();
        if !matches(&pattern(&expected), &output, &mut captured) {
            return Err(format!("expected {expected}\n    said {output}"));
        }
        for (token, text) in captured {
            let text = String::from_utf8(STANDARD.decode(text).unwrap()).unwrap();
            let scram = self.scram.as_mut().unwrap();
            if token == Expected::Challenge {
                let (mechanisms, bindings) = advertised(&self.features, output.contains("urn:xmpp:sasl:2'>"));
                scram.expect_advertised(&mechanisms, (!bindings.is_empty()).then_some(&bindings));
                if !text.contains(",h=") {
                    return Err(format!("no downgrade protection in {text}"));
                }
                self.scram_says = scram.answer(&text, None).ok_or(format!("refused {text}"))?;
            } else if !scram.verify(&text) {
                return Err(format!("{text} proves nothing"));
            }
        }
        Ok(())
    }
}

/// A token, by the byte that it is made of.
fn secret(byte: &str) -> TokenSecret {
    TokenSecret([byte.parse().unwrap(); TOKEN_BYTES])
}

const HEADER: &str = "<stream:stream to='things.example' version='1.0' xmlns='jabber:client' \
                      xmlns:stream='http://etherx.jabber.org/streams'>";

/// What the features advertise for one profile of SASL: mechanisms, and types of channel binding.
fn advertised(features: &str, sasl2: bool) -> (Vec<&str>, Vec<&str>) {
    let (profile, end) = if sasl2 { ("<authentication ", "<inline>") } else { ("<mechanisms ", "</mechanisms>") };
    let mechanisms = features.split(profile).nth(1).unwrap().split(end).next().unwrap();
    let mechanisms = mechanisms.split("</authentication>").next().unwrap();
    let between = |text, before: &str, after: char| -> Vec<&str> {
        str::split(text, before).skip(1).map(|rest| rest.split(after).next().unwrap()).collect()
    };
    (between(mechanisms, "<mechanism>", '<'), between(features, "<channel-binding type='", '\''))
}

/// The registry's answer for the accounts that scripts know.
fn credentials(account: &Jid, need: Need) -> Credentials {
    match (account.as_str(), need) {
        ("user@things.example", Need::Keys(Hash::Sha1)) => Credentials::Keys(KEYS[0].clone()),
        ("user@things.example", Need::Keys(Hash::Sha256)) => Credentials::Keys(KEYS[1].clone()),
        ("user@things.example", Need::Account) => Credentials::Granted,
        ("torn@things.example", _) => Credentials::Keys(Keys { stored_key: Box::default(), ..KEYS[1].clone() }),
        ("disabled@things.example", _) => Credentials::Refused(SaslFailure::AccountDisabled),
        ("expired@things.example", _) => Credentials::Refused(SaslFailure::CredentialsExpired),
        ("busy@things.example", _) => Credentials::Refused(SaslFailure::TemporaryAuthFailure),
        _ => Credentials::Unknown { secret: [7; 32] },
    }
}

/// A request to bind, for `! asked`: the resource, and how the session shall begin.
fn described(resource: &Wish, inline: Inline) -> String {
    let mut text = match resource {
        Wish::Any => "any".to_owned(),
        Wish::Named(resource) => format!("named {resource}"),
        Wish::Tagged { tag, client } => {
            format!("tagged {}{}", tag.as_deref().unwrap_or("-"), if client.is_some() { " client" } else { "" })
        }
    };
    if let Some(enable) = inline.sm {
        text.push_str(if enable.resume { " sm-resume" } else { " sm" });
        text.extend(enable.max.map(|max| format!("={max}")));
    }
    if inline.carbons {
        text.push_str(" carbons");
    }
    text.push_str(match inline.active {
        None => "",
        Some(true) => " active",
        Some(false) => " inactive",
    });
    text
}

/// The registry's answer to a request to resume, by the words of the script: there is no such session if it says nothing.
fn resume_answer(words: &[String], h: u32) -> Result<Resumed, NotResumed> {
    let number = |index: usize| words.get(index).map(|word| word.parse().unwrap());
    let first = words.first().map_or("item-not-found", String::as_str);
    match stanza::Condition::from_name(first) {
        Some(condition) => Err(NotResumed::Failed(Failed { condition, h: number(1) })),
        None if first == "too-high" => {
            Err(NotResumed::HandledCountTooHigh(HandledCountTooHigh { h, send_count: number(1).unwrap() }))
        }
        None => Ok(Resumed { jid: Jid::parse(first).unwrap(), h: number(1).unwrap() }),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Expected {
    Text(String),
    /// `…`
    Anything,
    /// `{any}`
    Something,
    Challenge,
    Proof,
}

fn pattern(expected: &str) -> Vec<Expected> {
    let mut tokens = Vec::new();
    let mut rest = expected;
    while let Some(at) = rest.find(['{', '…']) {
        tokens.push(Expected::Text(rest[..at].to_owned()));
        if let Some(after) = rest[at..].strip_prefix('…') {
            tokens.push(Expected::Anything);
            rest = after;
            continue;
        }
        let (inside, after) = rest[at + 1..].split_once('}').expect("a brace is closed");
        rest = after;
        let (name, argument) = inside.split_once(':').unwrap_or((inside, ""));
        match name {
            "responder" => {
                let (mechanism, byte) = argument.split_once(':').unwrap();
                let data: &[u8] = match HtMechanism::from_name(mechanism).unwrap() {
                    HtMechanism::Exporter => &[1; 32],
                    HtMechanism::EndPoint => &[2; 32],
                    HtMechanism::Unbound => &[],
                };
                tokens.push(Expected::Text(STANDARD.encode(responder_hash(secret(byte), data))));
            }
            "any" => tokens.push(Expected::Something),
            "challenge" => tokens.push(Expected::Challenge),
            "proof" => tokens.push(Expected::Proof),
            "header" => tokens.extend(pattern(
                "<stream:stream from='things.example' id='{any}' xml:lang='en' version='1.0' xmlns='jabber:client' \
                 xmlns:stream='http://etherx.jabber.org/streams'>",
            )),
            "features" => tokens.extend(pattern("<stream:features>…</stream:features>")),
            "error" => tokens.extend(pattern(&format!(
                "<stream:error><{argument} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>…</stream:error></stream:stream>"
            ))),
            "failure" => tokens.push(Expected::Text(format!(
                "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><{argument}/></failure>"
            ))),
            "failure2" => tokens.push(Expected::Text(format!(
                "<failure xmlns='urn:xmpp:sasl:2'><{argument} xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></failure>"
            ))),
            other => panic!("what is {other}?"),
        }
    }
    tokens.push(Expected::Text(rest.to_owned()));
    tokens
}

/// Whether the text is all of the pattern. Wild cards take as little as they can.
fn matches<'a>(pattern: &[Expected], text: &'a str, captured: &mut Vec<(Expected, &'a str)>) -> bool {
    let Some((token, pattern)) = pattern.split_first() else { return text.is_empty() };
    if let Expected::Text(literal) = token {
        return text.strip_prefix(literal.as_str()).is_some_and(|rest| matches(pattern, rest, captured));
    }
    let shortest = usize::from(*token != Expected::Anything);
    let ends = (shortest..=text.len()).filter(|end| text.is_char_boundary(*end));
    for end in ends {
        let before = captured.len();
        if matches!(token, Expected::Challenge | Expected::Proof) {
            captured.push((token.clone(), &text[..end]));
        }
        if matches(pattern, &text[end..], captured) {
            return true;
        }
        captured.truncate(before);
    }
    false
}
