//! Logging in by SASL2, with all that goes into one round trip: a session bound, a token asked for, and later the password
//! or the token shown and the stream resumed.
//!
//! Part of [`super::Login`]. Tokens are used without a count: nothing is sent as early data, where alone they must have
//! one (XEP-0484 v0.2.0 §3.4).
//!
//! Spec: XEP-0388 v1.0.4; XEP-0386 v1.1.0; XEP-0484 v0.2.0; XEP-0198 v1.6.3 §8; draft-schmaus-kitten-sasl-ht-09.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use plaza_core::ns;
use plaza_core::sasl::ht::HtMechanism;
use plaza_core::xml::Element;
use plaza_core::xml::read::Node;
use sha2::Sha256;

use super::{Entry, Login, LoginStep, State, Way, decode, first_message};
use crate::management::Management;
use crate::plan::Plan;

/// What to use a token with, the best first. The exporter of a connection is not to be had from the TLS we use.
const MECHANISMS: [HtMechanism; 2] = [HtMechanism::EndPoint, HtMechanism::Unbound];

/// A token, and what it is good for.
#[derive(Debug, Clone)]
pub(crate) struct Fast {
    token: String,
    mechanism: HtMechanism,
}

impl Fast {
    /// `HMAC(token, role || cb-data)` (draft-schmaus-kitten-sasl-ht-09 §3).
    fn hash(&self, role: &[u8], binding: &[u8]) -> Hmac<Sha256> {
        let hmac = Hmac::<Sha256>::new_from_slice(self.token.as_bytes()).expect("HMAC takes keys of any length");
        hmac.chain_update(role).chain_update(binding)
    }

    /// The client's one message.
    fn initiator(&self, user: &str, binding: &[u8]) -> Vec<u8> {
        let hash = self.hash(b"Initiator", binding).finalize().into_bytes();
        [user.as_bytes(), &[0], &hash[..]].concat()
    }

    /// Whether the server has shown that it has the token as well.
    fn verify(&self, responder: &[u8], binding: &[u8]) -> bool {
        self.hash(b"Responder", binding).verify_slice(responder).is_ok()
    }
}

impl Login {
    /// Takes the features of a stream that is secure: begins with the password.
    pub(super) fn enlist(
        &mut self,
        plan: &Plan,
        session: u32,
        features: &Element<'_>,
        out: &mut Vec<u8>,
    ) -> Result<LoginStep, String> {
        let (offered, inline) = offered(features, &[("bind", ns::BIND2), ("sm", ns::SM)])?;
        let fast = inline.child("fast", ns::FAST).ok_or("the server does not offer tokens")?;
        let is_offered = |mechanism: &HtMechanism| fast.children.iter().any(|child| child.text == mechanism.name());
        let mechanism = MECHANISMS
            .into_iter()
            .filter(|mechanism| *mechanism == HtMechanism::Unbound || !self.end_point.is_empty())
            .find(is_offered)
            .ok_or("no mechanism for tokens in common")?;
        self.fast = Some(Box::new(Fast { token: String::new(), mechanism }));

        let (sasl, initial, scram) = first_message(plan, session, offered)?;
        begin(sasl.name(), initial.as_bytes(), session, out);
        out.extend_from_slice(b"<bind xmlns='urn:xmpp:bind:0'><tag>r");
        out.extend_from_slice(session.to_string().as_bytes());
        out.extend_from_slice(b"</tag>");
        self.managed = plan.is_managed(session).then(|| Box::new(Management::enable(plan.stage.resumable, out)));
        out.extend_from_slice(b"</bind><request-token xmlns='urn:xmpp:fast:0' mechanism='");
        out.extend_from_slice(mechanism.name().as_bytes());
        out.extend_from_slice(b"'/></authenticate>");
        self.state = match scram {
            Some(scram) => State::Challenged { scram, mechanism: sasl },
            None => State::Enlisting { scram: None },
        };
        Ok(LoginStep::Wait)
    }

    /// Takes the success of a login with the password: a session and a token come with it.
    pub(super) fn on_enlisted(
        &mut self,
        plan: &Plan,
        session: u32,
        success: &Element<'_>,
        out: &mut Vec<u8>,
    ) -> Result<LoginStep, String> {
        let State::Enlisting { scram } = &self.state else { return Err("success of nothing".to_owned()) };
        let text = |name: &str| child(success, name, ns::SASL2).map(|child| child.text).unwrap_or_default();
        if let Some(scram) = scram
            && !scram.verify(&decode(&text("additional-data"))?)
        {
            return Err("the server could not prove that it knows the account".to_owned());
        }
        let jid = text("authorization-identifier");
        if jid.split_once('/').is_none_or(|(bare, _)| bare != plan.bare_jid(session)) {
            return Err(format!("logged in as {}, bound {jid:?}", plan.bare_jid(session)));
        }
        let bound = child(success, "bound", ns::BIND2).ok_or("no resource was bound")?;
        if let Some(managed) = &mut self.managed {
            managed.on_enabled(bound.child("enabled", ns::SM).ok_or("stream management was not enabled")?)?;
        }
        self.take_token(success);
        if self.fast.as_ref().is_none_or(|fast| fast.token.is_empty()) {
            return Err("the server gave no token".to_owned());
        }
        self.greet(plan, out);
        self.state = State::Settling { roster: plan.stage.roster };
        Ok(if plan.stage.roster { LoginStep::Wait } else { LoginStep::Bound })
    }

    /// Remembers the token that comes with success, the first or a newer one (XEP-0484 §3.5).
    fn take_token(&mut self, success: &Element<'_>) {
        let token = child(success, "token", ns::FAST).and_then(|token| token.attr("token").map(str::to_owned));
        if let (Some(fast), Some(token)) = (&mut self.fast, token) {
            fast.token = token;
        }
    }

    /// Appends, right behind the header, the token and the wish to resume, if there is a token.
    pub(super) fn show_token(&mut self, plan: &Plan, session: u32, out: &mut Vec<u8>) {
        let (Entry::Resume(Way::Token), Some(fast), Some(managed)) = (self.entry, &self.fast, &self.managed) else {
            return;
        };
        let binding = if fast.mechanism == HtMechanism::Unbound { Box::default() } else { self.end_point.clone() };
        begin(fast.mechanism.name(), &fast.initiator(&plan.user(session), &binding), session, out);
        out.extend_from_slice(b"<fast xmlns='urn:xmpp:fast:0'/>");
        managed.resume(out);
        out.extend_from_slice(b"</authenticate>");
        self.state = State::Returning { binding };
    }

    /// Takes the features of a stream: begins with the password, and asks in the same breath for the stream that was cut
    /// off (XEP-0198 v1.6.3 §8.2).
    pub(super) fn rejoin(
        &mut self,
        plan: &Plan,
        session: u32,
        features: &Element<'_>,
        out: &mut Vec<u8>,
    ) -> Result<LoginStep, String> {
        let managed = self.managed.as_deref().ok_or("there is no stream to resume")?;
        let (offered, _) = offered(features, &[("sm", ns::SM)])?;
        let (sasl, initial, scram) = first_message(plan, session, offered)?;
        begin(sasl.name(), initial.as_bytes(), session, out);
        managed.resume(out);
        out.extend_from_slice(b"</authenticate>");
        self.state = match scram {
            Some(scram) => State::Challenged { scram, mechanism: sasl },
            None => State::Rejoining { scram: None },
        };
        Ok(LoginStep::Wait)
    }

    /// Takes the success of the password: the stream goes on.
    pub(super) fn on_rejoined(&mut self, success: &Element<'_>) -> Result<LoginStep, String> {
        let State::Rejoining { scram } = &self.state else { return Err("success of nothing".to_owned()) };
        let proof = child(success, "additional-data", ns::SASL2).map(|child| child.text).unwrap_or_default();
        if let Some(scram) = scram
            && !scram.verify(&decode(&proof)?)
        {
            return Err("the server could not prove that it knows the account".to_owned());
        }
        self.on_resumed(success)
    }

    /// Takes the success of a token: the stream goes on.
    pub(super) fn on_returned(&mut self, success: &Element<'_>) -> Result<LoginStep, String> {
        let (State::Returning { binding }, Some(fast)) = (&self.state, &self.fast) else {
            return Err("success of nothing".to_owned());
        };
        let proof = child(success, "additional-data", ns::SASL2).map(|child| child.text).unwrap_or_default();
        let proof = BASE64_STANDARD.decode(proof.trim()).map_err(|error| error.to_string())?;
        if !fast.verify(&proof, binding) {
            return Err("the server could not prove that it knows the token".to_owned());
        }
        self.on_resumed(success)
    }

    /// Takes what success tells of the stream (XEP-0198 v1.6.3 §8.2), and a newer token, if there is one.
    fn on_resumed(&mut self, success: &Element<'_>) -> Result<LoginStep, String> {
        if let Some(failed) = child(success, "failed", ns::SM) {
            let condition = failed.children.first().map_or("no reason given", |child| &child.name);
            return Err(format!("stream management failed: {condition}"));
        }
        let resumed = child(success, "resumed", ns::SM).ok_or("the stream was not resumed")?;
        self.managed.as_deref().ok_or("there is no stream to resume")?.on_resumed(&resumed)?;
        self.take_token(success);
        Ok(LoginStep::Bound)
    }
}

/// What SASL2 offers of mechanisms, and what inside its request, which must have `wanted`.
fn offered<'a>(features: &Element<'a>, wanted: &[(&str, &str)]) -> Result<(&'a str, Node), String> {
    let offered = features.children().find(|child| child.is("authentication", ns::SASL2));
    let offered = offered.ok_or("the server does not offer SASL2")?;
    let inline = features.read(&offered).and_then(|offered| offered.child("inline", ns::SASL2).cloned());
    let inline = inline.ok_or("the server offers nothing inline")?;
    for (name, ns) in wanted {
        inline.child(name, ns).ok_or_else(|| format!("the server does not offer <{name}/> inline"))?;
    }
    Ok((offered.content, inline))
}

/// Appends the beginning of `<authenticate/>`. Each session is a client of its own (XEP-0388 §2.3).
fn begin(mechanism: &str, initial: &[u8], session: u32, out: &mut Vec<u8>) {
    let initial = BASE64_STANDARD.encode(initial);
    out.extend_from_slice(
        format!(
            "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='{mechanism}'>\
             <initial-response>{initial}</initial-response>\
             <user-agent id='6c6f6164-6765-4e00-8000-{session:012x}'/>"
        )
        .as_bytes(),
    );
}

fn child(element: &Element<'_>, name: &str, ns: &str) -> Option<Node> {
    element.children().find(|child| child.is(name, ns)).and_then(|child| element.read(&child))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;
    use crate::plan::{Mechanism, Scenario, TlsMode};
    use crate::session::tests::with_element;
    use crate::stage::{Returns, Stage};

    const FEATURES: &str = "<features xmlns='http://etherx.jabber.org/streams'>\
        <authentication xmlns='urn:xmpp:sasl:2'><mechanism>SCRAM-SHA-256</mechanism><mechanism>PLAIN</mechanism>\
        <inline><bind xmlns='urn:xmpp:bind:0'><inline><feature var='urn:xmpp:sm:3'/></inline></bind>\
        <fast xmlns='urn:xmpp:fast:0'><mechanism>HT-SHA-256-EXPR</mechanism><mechanism>HT-SHA-256-ENDP</mechanism>\
        <mechanism>HT-SHA-256-NONE</mechanism></fast><sm xmlns='urn:xmpp:sm:3'/></inline></authentication></features>";
    /// What [`plaza_core`] makes of 24 times 7.
    const TOKEN: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH";

    fn staged() -> Plan {
        let mut plan = plan(Scenario::Staged, 4, 1, 2);
        (plan.tls, plan.mechanism) = (TlsMode::Direct, Some(Mechanism::Plain));
        plan.stage = Stage::resume(Returns { token: true, tls: true, ..Returns::default() });
        plan
    }

    fn take(login: &mut Login, plan: &Plan, text: &str) -> Result<(LoginStep, String), String> {
        let mut out = Vec::new();
        let step = with_element(text, |element| login.take(plan, 3, element, &mut out))?;
        Ok((step, String::from_utf8(out).unwrap()))
    }

    fn enlisted(plan: &Plan, end_point: &[u8]) -> Login {
        let mut login = Login::new(Entry::Enlist, true, None, None);
        login.end_point = end_point.into();
        let (step, said) = take(&mut login, plan, FEATURES).unwrap();
        let mechanism = if end_point.is_empty() { "HT-SHA-256-NONE" } else { "HT-SHA-256-ENDP" };
        assert_eq!(step, LoginStep::Wait);
        let initial = BASE64_STANDARD.encode("\0load3\0secret");
        assert_eq!(
            said,
            format!(
                "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'>\
                 <initial-response>{initial}</initial-response>\
                 <user-agent id='6c6f6164-6765-4e00-8000-000000000003'/>\
                 <bind xmlns='urn:xmpp:bind:0'><tag>r3</tag><enable xmlns='urn:xmpp:sm:3' resume='true'/></bind>\
                 <request-token xmlns='urn:xmpp:fast:0' mechanism='{mechanism}'/></authenticate>"
            )
        );
        login
    }

    fn success(jid: &str, inside: &str) -> String {
        format!(
            "<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>{jid}</authorization-identifier>{inside}</success>"
        )
    }

    const SESSION: &str = "<bound xmlns='urn:xmpp:bind:0'><enabled xmlns='urn:xmpp:sm:3' id='s1' resume='true'/></bound>\
        <token xmlns='urn:xmpp:fast:0' expiry='2030-01-01T00:00:00Z' token='BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH'/>";

    #[test]
    fn a_login_gets_a_session_and_a_token_and_the_next_needs_one_round_trip() {
        let plan = staged();
        for end_point in [&[2; 32][..], &[]] {
            let mut login = enlisted(&plan, end_point);
            let bound = success("load3@localhost/r3~abc", SESSION);
            let (step, said) = take(&mut login, &plan, &bound).unwrap();
            assert_eq!(step, LoginStep::Wait);
            assert!(said.contains("jabber:iq:roster") && said.ends_with("<presence/>"), "{said}");
            assert_eq!(take(&mut login, &plan, FEATURES).unwrap().0, LoginStep::Wait, "features follow");
            assert_eq!(take(&mut login, &plan, "<iq type='result' id='roster'/>").unwrap().0, LoginStep::Bound);

            let (managed, fast) = login.take_stream();
            let mut login = Login::new(Entry::Resume(Way::Token), true, managed, fast);
            login.end_point = end_point.into();
            let mut out = Vec::new();
            login.show_token(&plan, 3, &mut out);
            let said = String::from_utf8(out).unwrap();
            let token = plaza_core::sasl::ht::TokenSecret([7; 24]);
            assert_eq!(token.to_string(), TOKEN);
            let hash = plaza_core::sasl::ht::initiator_hash(token, end_point);
            assert!(said.contains(&BASE64_STANDARD.encode([&b"load3\0"[..], &hash].concat())), "{said}");
            let tail =
                "<fast xmlns='urn:xmpp:fast:0'/><resume xmlns='urn:xmpp:sm:3' previd='s1' h='1'/></authenticate>";
            assert!(said.ends_with(tail), "{said}");
            assert_eq!(take(&mut login, &plan, FEATURES).unwrap(), (LoginStep::Wait, String::new()));
            let proof = BASE64_STANDARD.encode(plaza_core::sasl::ht::responder_hash(token, end_point));
            let resumed = format!(
                "<additional-data>{proof}</additional-data><resumed xmlns='urn:xmpp:sm:3' previd='s1' h='2'/>\
                 <token xmlns='urn:xmpp:fast:0' token='newer'/>"
            );
            let (step, said) = take(&mut login, &plan, &success("load3@localhost/r3~abc", &resumed)).unwrap();
            assert_eq!((step, said.as_str()), (LoginStep::Bound, ""));
            assert_eq!(login.take_stream().1.unwrap().token, "newer");
        }
    }

    #[test]
    fn the_password_and_the_stream_go_into_one_request() {
        let plan = staged();
        let rejoining = || {
            let mut managed = Management::enable(true, &mut Vec::new());
            let enabled = "<enabled xmlns='urn:xmpp:sm:3' id='s1' resume='true'/>";
            with_element(enabled, |element| managed.on_enabled(element)).unwrap();
            managed.count_outbound(2);
            Login::new(Entry::Resume(Way::Inline), false, Some(Box::new(managed)), None)
        };
        let mut login = rejoining();
        let (step, said) = take(&mut login, &plan, FEATURES).unwrap();
        let initial = BASE64_STANDARD.encode("\0load3\0secret");
        assert_eq!(step, LoginStep::Wait);
        assert_eq!(
            said,
            format!(
                "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'>\
                 <initial-response>{initial}</initial-response>\
                 <user-agent id='6c6f6164-6765-4e00-8000-000000000003'/>\
                 <resume xmlns='urn:xmpp:sm:3' previd='s1' h='0'/></authenticate>"
            )
        );
        let jid = "load3@localhost/r3";
        let resumed = success(jid, "<resumed xmlns='urn:xmpp:sm:3' previd='s1' h='2'/>");
        assert_eq!(take(&mut login, &plan, &resumed).unwrap(), (LoginStep::Bound, String::new()));

        for (inside, said) in [
            ("", "not resumed"),
            ("<resumed xmlns='urn:xmpp:sm:3' previd='s1' h='1'/>", "handled 1"),
            ("<resumed xmlns='urn:xmpp:sm:3' previd='s2' h='2'/>", "another stream"),
            ("<failed xmlns='urn:xmpp:sm:3'><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>", "gone"),
        ] {
            let mut login = rejoining();
            take(&mut login, &plan, FEATURES).unwrap();
            assert!(take(&mut login, &plan, &success(jid, inside)).unwrap_err().contains(said), "{inside}");
        }
        let features = FEATURES.replace("<sm xmlns='urn:xmpp:sm:3'/>", "");
        assert!(take(&mut rejoining(), &plan, &features).unwrap_err().contains("<sm/>"));
    }

    #[test]
    fn a_server_that_does_not_know_the_password_resumes_nothing() {
        let mut plan = staged();
        plan.mechanism = None;
        let managed = Some(Box::new(Management::enable(true, &mut Vec::new())));
        let mut login = Login::new(Entry::Resume(Way::Inline), false, managed, None);
        let (_, said) = take(&mut login, &plan, FEATURES).unwrap();
        let initial = said.split_once("<initial-response>").unwrap().1.split_once('<').unwrap().0;
        let first = decode(initial).unwrap();
        let nonce = first.split_once(",r=").unwrap().1;
        let challenge = BASE64_STANDARD.encode(format!("r={nonce}more,s=c2FsdA==,i=4096"));
        let challenge = format!("<challenge xmlns='urn:xmpp:sasl:2'>{challenge}</challenge>");
        let (step, said) = take(&mut login, &plan, &challenge).unwrap();
        assert_eq!(step, LoginStep::Wait);
        assert!(said.starts_with("<response xmlns='urn:xmpp:sasl:2'>"), "{said}");
        let wrong = BASE64_STANDARD.encode("v=d3Jvbmc=");
        let inside =
            format!("<additional-data>{wrong}</additional-data><resumed xmlns='urn:xmpp:sm:3' previd='' h='0'/>");
        let refused = take(&mut login, &plan, &success("load3@localhost/r3", &inside)).unwrap_err();
        assert!(refused.contains("knows the account"), "{refused}");
    }

    #[test]
    fn what_the_server_leaves_out_is_said() {
        let plan = staged();
        let refused =
            |jid: &str, inside: &str| take(&mut enlisted(&plan, &[2; 32]), &plan, &success(jid, inside)).unwrap_err();
        assert!(refused("load1@localhost/r1", SESSION).contains("load1"));
        assert!(refused("load3@localhost", SESSION).contains("bound"));
        assert!(refused("load3@localhost/r3", "").contains("no resource"));
        let (bound, token) = SESSION.split_once("<token").unwrap();
        assert!(refused("load3@localhost/r3", bound).contains("no token"));
        let unmanaged = format!("<bound xmlns='urn:xmpp:bind:0'/><token{token}");
        assert!(refused("load3@localhost/r3", &unmanaged).contains("not enabled"));

        for (left_out, said) in [("bind", "<bind/>"), ("fast", "tokens"), ("sm", "<sm/>"), ("authentication", "SASL2")]
        {
            let features = FEATURES.replace(&format!("<{left_out} xmlns='urn"), "<other xmlns='other:urn");
            let features = features.replace(&format!("</{left_out}>"), "</other>");
            let mut login = Login::new(Entry::Enlist, true, None, None);
            assert!(take(&mut login, &plan, &features).unwrap_err().contains(said), "{left_out}");
        }
    }

    #[test]
    fn a_server_without_the_token_or_the_stream_is_noticed() {
        let plan = staged();
        let fast = Fast { token: TOKEN.to_owned(), mechanism: HtMechanism::Unbound };
        let returned = |proof: &[u8], inside: &str| {
            let managed = Some(Box::new(Management::enable(true, &mut Vec::new())));
            let mut login = Login::new(Entry::Resume(Way::Token), true, managed, Some(Box::new(fast.clone())));
            login.show_token(&plan, 3, &mut Vec::new());
            let proof = BASE64_STANDARD.encode(proof);
            let inside = format!("<additional-data>{proof}</additional-data>{inside}");
            take(&mut login, &plan, &success("load3@localhost/x", &inside))
        };
        let proof = plaza_core::sasl::ht::responder_hash(plaza_core::sasl::ht::TokenSecret([7; 24]), &[]);
        let resumed = "<resumed xmlns='urn:xmpp:sm:3' previd='' h='0'/>";
        assert_eq!(returned(&proof, resumed).unwrap().0, LoginStep::Bound);
        assert!(returned(b"wrong", resumed).unwrap_err().contains("token"));
        assert!(returned(&proof, "").unwrap_err().contains("not resumed"));
        let failed =
            "<failed xmlns='urn:xmpp:sm:3'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>";
        assert!(returned(&proof, failed).unwrap_err().contains("item-not-found"));
        let mut login = Login::new(Entry::Enlist, true, None, None);
        let refused =
            "<failure xmlns='urn:xmpp:sasl:2'><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></failure>";
        assert!(take(&mut login, &plan, refused).unwrap_err().contains("not-authorized"));
    }
}
