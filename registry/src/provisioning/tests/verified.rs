//! What tokens are worth: nothing, until who presented them has shown that they come from the holder of the key.

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;

use super::super::tokens::tests::{certificate_of, rsa};
use super::super::tokens::{forget, issue};
use super::*;

const MINUTE: u64 = 60_000;

/// A world with a token, and the key that it stands for.
struct Holder {
    world: World,
    key: KeyPair,
    token: String,
}

impl Holder {
    fn new() -> Self {
        let (world, key) = (World::new(), rsa());
        let der = certificate_of(&key, 2030);
        let issued = issue(&world.config, &world.store, JidRef::from_normal(STRANGER), &der, NOW);
        let Ok(random) = block_on(issued) else { panic!("it is issued") };
        Self { world, key, token: format!("{COMPONENT}:{random}") }
    }

    /// The same, whose token is allowed to read.
    fn allowed() -> Self {
        let holder = Self::new();
        let rule = rule(1, Kind::Read, Level::User, &holder.token, true);
        holder.world.commit(vec![rule.put(JidRef::from_normal(LAMP), &node(""))]);
        holder
    }

    /// The lamp asks about somebody who presents the token: what it is told, and what is to be done.
    fn ask(&self, generation: Generation) -> (bool, After) {
        self.ask_with(generation, &self.token)
    }

    fn ask_with(&self, generation: Generation, tokens: &str) -> (bool, After) {
        let things = self.world.home(LAMP);
        let ns = Interface::Device.ns(generation);
        let (token, momentary) = if generation == Generation::Xsf { ("userToken", "momentary") } else { ("ut", "m") };
        let payload = format!("<canRead xmlns='{ns}' jid='{STRANGER}' {token}='{tokens}' {momentary}='true'/>");
        let device = jid(&format!("{LAMP}/r"));
        let proofs = (self.world.config.proofs(), self.world.now);
        let answered = answer(things.as_deref(), device.as_jid(), COMPONENT, &payload, proofs).unwrap();
        let text = String::from_utf8(answered.payload).unwrap();
        (text.contains("result='true'"), answered.after)
    }

    /// The tokens are challenged.
    fn challenge(&self, after: After) -> Verified {
        let unproven = *after.unproven.unwrap();
        block_on(challenge(&self.world.config, &self.world.store, unproven, self.world.now)).unwrap()
    }

    fn one_challenge(&self, after: After) -> Challenge {
        let Verified { mut challenges, changed, tells } = self.challenge(after);
        assert_eq!((challenges.len(), changed, tells), (1, None, vec![]));
        challenges.pop().unwrap()
    }

    /// What the holder of the key answers.
    fn respond(&self, challenge: &Challenge) -> String {
        let asked = Node::parse(&challenge.payload, "jabber:client").unwrap();
        assert_eq!((&*asked.name, asked.attr("token")), ("tokenChallenge", Some(&*self.token)));
        let key = PrivateDecryptingKey::from_pkcs8(&self.key.serialize_der()).unwrap();
        let key = OaepPrivateDecryptingKey::new(key).unwrap();
        let mut out = vec![0; key.min_output_size()];
        let sealed = STANDARD.decode(&asked.text).unwrap();
        let secret = STANDARD.encode(key.decrypt(&OAEP_SHA1_MGF1SHA1, &sealed, &mut out, None).unwrap());
        format!("<tokenChallengeResponse xmlns='{}'>{secret}</tokenChallengeResponse>", asked.ns)
    }

    fn challenged(&self, challenge: Challenge, response: Option<&str>) -> Verified {
        let done = challenged(&self.world.config, &self.world.store, challenge, response, self.world.now);
        block_on(done).unwrap()
    }

    fn has_to_clear(&self) -> bool {
        self.world.thing(LAMP, "").pending.clear_cache
    }
}

#[test]
fn a_token_counts_once_its_challenge_is_answered_and_the_device_is_told_to_ask_anew() {
    for generation in Generation::ALL {
        let mut holder = Holder::allowed();
        let (may, after) = holder.ask(generation);
        assert!(!may, "{generation:?}");
        let challenge = holder.one_challenge(after);
        assert_eq!(challenge.to(), &jid(&format!("{LAMP}/r")));
        let ns = Interface::Tokens.ns(generation);
        assert!(challenge.payload.starts_with(&format!("<tokenChallenge xmlns='{ns}'")), "{}", challenge.payload);
        // Nothing waits for it, and it is asked once.
        let (may, after) = holder.ask(generation);
        assert!(!may && after.unproven.is_none());
        assert!(!holder.has_to_clear());
        let response = holder.respond(&challenge);
        let verified = holder.challenged(challenge, Some(&response));
        assert_eq!((verified.changed, verified.tells), (Some(jid(LAMP)), vec![]));
        assert!(holder.has_to_clear());
        let (may, after) = holder.ask(generation);
        assert!(may && after.unproven.is_none());
        // Hours later it is asked for again, and counts until that fails.
        holder.world.now += 5 * HOUR;
        let (may, after) = holder.ask(generation);
        assert!(may);
        let challenge = holder.one_challenge(after);
        let verified = holder.challenged(challenge, None);
        assert_eq!((verified.changed, verified.tells.len()), (Some(jid(LAMP)), 1));
        let (may, after) = holder.ask(generation);
        assert!(!may && after.unproven.is_none());
    }
}

#[test]
fn a_wrong_answer_or_none_proves_nothing_and_is_not_asked_for_again_for_minutes() {
    let wrong = |text: &str| {
        let ns = Interface::Tokens.ns(Generation::Nf);
        Some(format!("<tokenChallengeResponse xmlns='{ns}'>{text}</tokenChallengeResponse>"))
    };
    let mut holder = Holder::allowed();
    for response in [wrong(&STANDARD.encode([0; 32])), wrong(""), wrong("***"), Some("<x/>".into()), None] {
        let (may, after) = holder.ask(Generation::Nf);
        assert!(!may);
        let challenge = holder.one_challenge(after);
        let verified = holder.challenged(challenge, response.as_deref());
        assert_eq!(verified.changed, None);
        // The owner is asked, and not shown what is not proven.
        let shown = |tell: &Tell| tell.payload.contains(&holder.token);
        assert!(!verified.tells.iter().any(shown), "{verified:?}");
        let (may, after) = holder.ask(Generation::Nf);
        assert!(!may && after.unproven.is_none(), "{response:?}");
        holder.world.now += 10 * MINUTE;
    }
    assert!(!holder.has_to_clear());
    // The next one may do better.
    let (_, after) = holder.ask(Generation::Nf);
    let challenge = holder.one_challenge(after);
    let response = holder.respond(&challenge);
    assert_eq!(holder.challenged(challenge, Some(&response)).changed, Some(jid(LAMP)));
}

#[test]
fn an_owner_is_asked_when_it_is_known_what_tokens_are_proven() {
    let holder = Holder::new();
    let (_, after) = holder.ask(Generation::Nf);
    assert!(after.unproven.as_ref().unwrap().is_decided_again());
    let challenge = holder.one_challenge(after);
    let response = holder.respond(&challenge);
    let verified = holder.challenged(challenge, Some(&response));
    // No rule speaks of it, so that nothing else is decided.
    assert_eq!(verified.changed, None);
    let question = only(verified.tells).payload;
    assert!(question.contains(&format!("ut='{}'", holder.token)), "{question}");
}

#[test]
fn what_this_broker_did_not_issue_or_does_not_know_any_more_is_absent() {
    let holder = Holder::allowed();
    let (may, after) = holder.ask_with(Generation::Nf, "things.x.example:1 secret");
    assert!(!may && after.unproven.is_none());
    let (_, after) = holder.ask_with(Generation::Nf, &format!("{COMPONENT}:nobodys"));
    let Verified { challenges, changed, tells } = holder.challenge(after);
    assert_eq!((challenges.len(), changed, tells.len()), (0, None, 1));
    let (_, after) = holder.ask_with(Generation::Nf, &format!("{COMPONENT}:nobodys"));
    assert!(after.unproven.is_none());
    // The certificate is forgotten before the device is asked.
    let (_, after) = holder.ask(Generation::Nf);
    holder.world.commit(block_on(forget(&holder.world.store, JidRef::from_normal(STRANGER))).unwrap());
    assert!(holder.challenge(after).challenges.is_empty());
    // Nobody's things are decided without.
    let holder = Holder::allowed();
    holder.world.put(&thing(LAMP, "", None));
    let (may, after) = holder.ask(Generation::Nf);
    assert!(!may && after.unproven.is_none());
}

#[test]
fn who_presents_a_token_to_a_device_that_is_enforced_is_challenged_itself() {
    use plaza_core::provisioning::Request;
    use plaza_core::xml::Scanner;

    let holder = Holder::allowed();
    holder.world.put(&ThingRecord { enforced: true, ..thing(LAMP, "", Some(OWNER)) });
    let things = holder.world.home(LAMP);
    let (device, stranger, component) = (jid(LAMP), jid(&format!("{STRANGER}/r")), jid(COMPONENT));
    let payload = format!("<req xmlns='urn:nf:iot:sd:1.0' m='true' ut='{}'/>", holder.token);
    let mut scanner = Scanner::new();
    let request = Request::read(&mut scanner, &payload).unwrap().unwrap();
    let proofs = holder.world.config.proofs();
    let asks = || {
        let unproven = Unproven::in_request(proofs, Some(&component), stranger.as_jid(), &request, NOW);
        let things = things.as_deref();
        let enforced = enforce(things, device.as_jid(), Some(&component), stranger.as_jid(), &request, (proofs, NOW));
        (enforced == Enforced::Passes, unproven)
    };
    let (passes, unproven) = asks();
    assert!(!passes && !unproven.as_ref().unwrap().is_decided_again());
    let challenge = holder.one_challenge(After { unproven, ..After::default() });
    assert_eq!(challenge.to(), &stranger);
    let response = holder.respond(&challenge);
    let verified = holder.challenged(challenge, Some(&response));
    // It has no cache that the broker would know of.
    assert_eq!((verified.changed, verified.tells), (None, vec![]));
    assert_eq!(asks(), (true, None));
}
