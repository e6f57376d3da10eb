//! What a session asks the server and its services over and over, and whether the answers are right.
//!
//! Called by [`crate::part`]; performs no I/O and reads no clock. An id has the number of the request and when it was meant
//! to leave, so that answers can be told apart, and must come in order (RFC 6120 §10.1).

use plaza_core::ns;
use plaza_core::sasl::scram::{self, Hash};
use plaza_core::xml::Element;
use plaza_core::xml::read::Node;

use crate::city::{ApiKey, fill};
use crate::payload;
use crate::plan::Plan;
use crate::ring::thread_cpu_ns;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// The server for a ping (XEP-0199 v2.0.1).
    Ping,
    /// Decision support whether somebody may read the session's thing (XEP-0324 v0.5.1 §3.3), about whom there are rules.
    Decision,
    /// The server for an account (XEP-0077 v2.4, XEP-0348 v0.3): first for the form, then with the form.
    SignUp,
}

/// Whose decisions are asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    /// Address of decision support.
    pub service: String,
    /// Rules of each thing, as the example `town` of the benches writes them.
    pub rules: u32,
}

/// How accounts are created.
#[derive(Debug, Clone)]
pub(crate) struct SignUp {
    /// With whose key.
    pub key: ApiKey,
    /// Prefix of their names; the time of the run follows, so that each run makes others.
    pub users: String,
    /// When the run began, in seconds since 1970.
    pub unix_seconds: u64,
    /// PBKDF2 rounds that the server is configured to.
    pub iterations: u32,
}

impl SignUp {
    /// CPU of deriving what a server keeps of a password, keys for SHA-1 and SHA-256 (RFC 5802 §3), in µs: the mean of so
    /// many, by this thread, on the CPU it is pinned to. `None` if the password is refused.
    pub(crate) fn derivation_us(&self, password: &str, count: u32) -> Option<f64> {
        let before = thread_cpu_ns();
        for number in 0..count {
            let salt = u128::from(number).to_le_bytes();
            for hash in [Hash::Sha1, Hash::Sha256] {
                std::hint::black_box(scram::derive(hash, password, &salt, self.iterations)?);
            }
        }
        Some(thread_cpu_ns().saturating_sub(before) as f64 / 1e3 / f64::from(count.max(1)))
    }
}

/// An answer that was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is what was asked for.
    Done,
    /// It is the form, and the form filled in is what comes next.
    Form,
}

const NS_DECISIONS: &str = "urn:nf:iot:prov:d:1.0";
/// Requests that an account takes: for the form, with an even number, and with the form.
const STEPS: u64 = 2;

impl Question {
    /// Appends the request of a number, for session `me`. A form filled in is [`answered`] with, not asked here.
    pub(crate) fn write(self, plan: &Plan, me: u32, number: u64, sent_ns: u64, out: &mut Vec<u8>) {
        let to = match self {
            Self::Ping | Self::SignUp => &plan.domain,
            Self::Decision => &plan.stage.rules.service,
        };
        out.extend_from_slice(b"<iq type='get' to='");
        out.extend_from_slice(to.as_bytes());
        out.extend_from_slice(b"' id='");
        payload::write_id(out, number, sent_ns);
        out.extend_from_slice(b"'>");
        match self {
            Self::Ping => out.extend_from_slice(b"<ping xmlns='urn:xmpp:ping'/>"),
            Self::SignUp => out.extend_from_slice(b"<query xmlns='jabber:iq:register'/>"),
            Self::Decision => {
                let (asker, _) = case(plan, me, number);
                let question = format!(
                    "<canRead xmlns='{NS_DECISIONS}' jid='{asker}' m='true' i='true'>\
                     <f n='Humidity'/><f n='Temperature'/></canRead>"
                );
                out.extend_from_slice(question.as_bytes());
            }
        }
        out.extend_from_slice(b"</iq>");
    }

    /// How many numbers of requests one question takes.
    pub(crate) const fn steps(self) -> u64 {
        match self {
            Self::Ping | Self::Decision => 1,
            Self::SignUp => STEPS,
        }
    }

    /// Checks the answer to the request of a number, and appends what follows upon it.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn answered(
        self,
        plan: &Plan,
        me: u32,
        (number, sent_ns, now_ns): (u64, u64, u64),
        element: &Element<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Answer, String> {
        let raw = |name| element.attr(name).map_or("", |attr| attr.raw);
        if raw("type") == "error" {
            let error = element.children().find(|child| child.name == "error");
            let content = error.map_or("", |error| error.content);
            return Err(format!("an error answers request {number} of {self:?}: {content}"));
        }
        match self {
            Self::Ping if raw("from") == plan.domain || raw("from").is_empty() => Ok(Answer::Done),
            Self::Ping => Err("a ping's answer from somebody else".to_owned()),
            Self::Decision => {
                crate::traffic::check_from(element, &plan.stage.rules.service)?;
                let (asker, allowed) = case(plan, me, number);
                let answer = read_child(element, "canReadResponse", NS_DECISIONS).ok_or("no decision")?;
                let wanted = if allowed { "true" } else { "false" };
                let (about, result) = (answer.attr("jid").unwrap_or_default(), answer.attr("result"));
                if about != asker || result != Some(wanted) {
                    return Err(format!("{asker} may read is {wanted}; the answer is {result:?} about {about}"));
                }
                Ok(Answer::Done)
            }
            Self::SignUp if !number.is_multiple_of(STEPS) => Ok(Answer::Done),
            Self::SignUp => {
                let sign_up = plan.stage.sign_up.as_ref().ok_or("no key to sign up with")?;
                let query = read_child(element, "query", ns::REGISTER).ok_or("no form")?;
                let SignUp { key, users, unix_seconds, .. } = sign_up;
                let user = format!("{users}{unix_seconds:x}-{me}-{}", number / STEPS);
                let nonce = format!("{unix_seconds:016x}{me:08x}{number:08x}");
                let seconds = unix_seconds + now_ns / 1_000_000_000;
                out.extend_from_slice(b"<iq type='set' to='");
                out.extend_from_slice(plan.domain.as_bytes());
                out.extend_from_slice(b"' id='");
                payload::write_id(out, number + 1, sent_ns);
                out.extend_from_slice(b"'>");
                fill(&query, &user, &plan.password, key, &nonce, seconds, out)?;
                out.extend_from_slice(b"</iq>");
                Ok(Answer::Form)
            }
        }
    }
}

fn read_child(element: &Element<'_>, name: &str, ns: &str) -> Option<Node> {
    element.read(&element.first_child()?).filter(|child| child.name == name && child.ns == ns)
}

/// About whom the decision of a number is asked, and what the rules of the session's thing say: whom a rule names, whom a
/// rule names for a part, whose domain may all, and whom none names.
fn case(plan: &Plan, me: u32, number: u64) -> (String, bool) {
    let thing = plan.account(me);
    let friend = |rule: u32| (format!("friend{}@{}", thing + rule, plan.domain), !(thing + rule).is_multiple_of(3));
    match number % 4 {
        0 => friend(2),
        1 => friend(if plan.stage.rules.rules > 5 { 5 } else { 2 }),
        2 => (format!("friend{thing}@partners.example"), true),
        _ => (format!("friend{thing}@elsewhere.example"), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Scenario;
    use crate::plan::tests::plan;
    use crate::session::tests::with_element;
    use crate::stage::Stage;

    fn answered(question: Question, plan: &Plan, number: u64, text: &str) -> Result<(Answer, String), String> {
        let mut out = Vec::new();
        let answer =
            with_element(text, |element| question.answered(plan, 3, (number, 7, 2_000_000_000), element, &mut out))?;
        Ok((answer, String::from_utf8(out).unwrap()))
    }

    #[test]
    fn decisions_are_held_against_the_rules() {
        let mut plan = plan(Scenario::Staged, 4, 1, 1);
        plan.stage = Stage::decisions("things.localhost".to_owned(), 10);
        let answer = |asker: &str, result: bool| {
            format!(
                "<iq type='result' from='things.localhost' id='1'><canReadResponse xmlns='{NS_DECISIONS}' \
                 jid='{asker}' m='true' i='true' result='{result}'/></iq>"
            )
        };
        // Session 3 has thing 3: the rules about friend5 and friend8 allow.
        for (number, asker, allowed) in [
            (0, "friend5@localhost", true),
            (1, "friend8@localhost", true),
            (2, "friend3@partners.example", true),
            (3, "friend3@elsewhere.example", false),
        ] {
            let mut out = Vec::new();
            Question::Decision.write(&plan, 3, number, 7, &mut out);
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains(&format!("jid='{asker}'")) && text.contains("to='things.localhost'"), "{text}");
            let right = answered(Question::Decision, &plan, number, &answer(asker, allowed));
            assert_eq!(right, Ok((Answer::Done, String::new())));
            assert!(answered(Question::Decision, &plan, number, &answer(asker, !allowed)).is_err());
            assert!(answered(Question::Decision, &plan, number, &answer("other@localhost", allowed)).is_err());
        }
        plan.stage.rules.rules = 4;
        assert_eq!(case(&plan, 1, 1), ("friend3@localhost".to_owned(), false));
        let error = "<iq type='error' from='things.localhost' id='1'><error type='wait'/></iq>";
        assert!(answered(Question::Decision, &plan, 0, error).is_err());
    }

    #[test]
    fn a_derivation_takes_longer_with_more_rounds() {
        let key = ApiKey::parse("maker:secret").unwrap();
        let few = SignUp { key, users: String::new(), unix_seconds: 0, iterations: 10 };
        let many = SignUp { iterations: 1_000, ..few.clone() };
        let (few, many) = (few.derivation_us("secret", 5), many.derivation_us("secret", 5));
        assert!(few.is_some_and(|few| many.is_some_and(|many| few < many)), "{few:?} {many:?}");
    }

    #[test]
    fn a_form_is_filled_in_and_then_the_account_is_there() {
        let mut plan = plan(Scenario::Staged, 4, 1, 1);
        let key = ApiKey::parse("maker:secret").unwrap();
        plan.stage = Stage::register(SignUp { key, users: "made".to_owned(), unix_seconds: 0x10, iterations: 4_096 });
        let fields = ["username", "password", "oauth_token", "oauth_token_secret", "oauth_nonce", "oauth_signature"]
            .into_iter()
            .chain(["oauth_version", "oauth_signature_method", "oauth_timestamp", "oauth_consumer_key"])
            .map(|var| format!("<field var='{var}'><value/></field>"));
        let form = format!(
            "<iq type='result' from='localhost' id='1'><query xmlns='jabber:iq:register'>\
             <x xmlns='jabber:x:data' type='form'>{}</x></query></iq>",
            fields.collect::<String>()
        );
        let (answer, said) = answered(Question::SignUp, &plan, 4, &form).unwrap();
        assert_eq!(answer, Answer::Form);
        for part in ["<value>made10-3-2</value>", "<value>18</value>", "id='0000000000000005"] {
            assert!(said.contains(part), "{part} in {said}");
        }
        let done = answered(Question::SignUp, &plan, 5, "<iq type='result' from='localhost' id='1'/>");
        assert_eq!(done, Ok((Answer::Done, String::new())));
        assert!(answered(Question::SignUp, &plan, 4, "<iq type='result' from='localhost' id='1'/>").is_err());
    }
}
