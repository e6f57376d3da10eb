//! Ad-hoc commands (XEP-0050 v1.3.0), for a responder whose commands have one form: it is asked for, comes back filled in,
//! and that is all.
//!
//! Called by services that have commands. Nothing is kept between requests: what is submitted says all there is to know,
//! and the session id that is made up at first is repeated and not looked at. So none expires, and one that a command went
//! through with serves again.
//!
//! Differs from XEP-0050 §3.7: what is said to people is English, whatever `xml:lang` wishes for, and no wish is refused
//! with `bad-locale`: a command in another language is better than none.

use std::borrow::Cow;

use crate::forms::{Form, FormError, FormKind, FormLimits, Submission, Values};
use crate::ns;
use crate::stanza::{Condition, Detail, ErrorType, StanzaError};
use crate::xml::read::Node;
use crate::xml::write;

/// Longest session id that is repeated, in bytes: ours have 32. Beyond it, and for an empty one, `bad-sessionid`.
pub const SESSION_BYTES_MAX: usize = 256;

/// A request to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command<'n> {
    /// Which command.
    pub node: &'n str,
    /// The session, if it has begun.
    pub session: Option<&'n str>,
    action: Action,
    form: Option<&'n Node>,
}

/// What is to be done (§4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Execute,
    Cancel,
    Prev,
    Next,
    Complete,
}

/// What a request comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage<'n> {
    /// The form is to be shown.
    Ask,
    /// Here it is, filled in: for [`submitted`].
    Submitted(&'n Node),
    /// It is given up.
    Canceled,
}

/// What is wrong with a request, where XEP-0050 has a condition of its own for it (§4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// There is no such action.
    MalformedAction,
    /// It cannot be done at this stage.
    BadAction,
    /// The form is missing, or not in order: what to change.
    BadPayload(&'static str),
    /// The session id is empty or too long, or there is none to cancel.
    BadSessionId,
}

/// What a request is answered.
#[derive(Debug, Clone, Copy)]
pub enum Answer<'a> {
    /// The form that is asked for, with these values.
    Asks(&'a Form<'a>, &'a Values),
    /// It is done, with these results if there are some, and this note for people if it is not "".
    Completed(Option<(&'a Form<'a>, &'a Values)>, &'a str),
    /// It was given up.
    Canceled,
}

/// A command as it is found (§2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    /// Which one.
    pub node: &'a str,
    /// What people call it.
    pub name: &'a str,
}

impl From<Problem> for StanzaError {
    fn from(problem: Problem) -> Self {
        let (name, text) = match problem {
            Problem::MalformedAction => ("malformed-action", ""),
            Problem::BadAction => ("bad-action", ""),
            Problem::BadPayload(text) => ("bad-payload", text),
            Problem::BadSessionId => ("bad-sessionid", ""),
        };
        let detail = Detail { name, ns: ns::COMMANDS, attr: None };
        Self::from(Condition::BadRequest).with_type(ErrorType::Modify).with_detail(detail).with_text(text)
    }
}

impl<'n> Command<'n> {
    /// Reads `<command/>`.
    ///
    /// # Errors
    /// `bad-request`: it names no command (§4.1), its action is none, or its session id cannot be one.
    pub fn read(command: &'n Node) -> Result<Self, StanzaError> {
        let node = command.attr("node").filter(|node| !node.is_empty()).ok_or(Condition::BadRequest)?;
        let action = match command.attr("action") {
            None | Some("execute") => Action::Execute,
            Some("cancel") => Action::Cancel,
            Some("prev") => Action::Prev,
            Some("next") => Action::Next,
            Some("complete") => Action::Complete,
            Some(_) => return Err(Problem::MalformedAction.into()),
        };
        let session = command.attr("sessionid");
        if session.is_some_and(|session| session.is_empty() || session.len() > SESSION_BYTES_MAX) {
            return Err(Problem::BadSessionId.into());
        }
        Ok(Self { node, session, action, form: command.child("x", ns::DATA_FORMS) })
    }

    /// What it comes to. A form may come at once, from who knows it.
    ///
    /// # Errors
    /// [`Problem`]: nothing is in front of the form or behind it, and without one nothing is completed.
    pub const fn stage(&self) -> Result<Stage<'n>, Problem> {
        match (self.action, self.form, self.session) {
            (Action::Prev | Action::Next, ..) => Err(Problem::BadAction),
            (Action::Cancel, _, Some(_)) => Ok(Stage::Canceled),
            (Action::Cancel, _, None) => Err(Problem::BadSessionId),
            (Action::Execute | Action::Complete, Some(form), _) => Ok(Stage::Submitted(form)),
            (Action::Execute, None, None) => Ok(Stage::Ask),
            (Action::Execute | Action::Complete, None, _) => Err(Problem::BadPayload("the form is missing")),
        }
    }

    /// The answer's `<command/>`. `seed`: what a session that has no id yet is called by, another one each time.
    pub fn answer(&self, seed: u128, answer: &Answer<'_>) -> Vec<u8> {
        let session = self.session.map_or_else(|| Cow::Owned(format!("{seed:032x}")), Cow::Borrowed);
        let status = match answer {
            Answer::Asks(..) => "executing",
            Answer::Completed(..) => "completed",
            Answer::Canceled => "canceled",
        };
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(b"<command");
        let attrs = [("xmlns", ns::COMMANDS), ("node", self.node), ("sessionid", &session), ("status", status)];
        attrs.into_iter().for_each(|(name, value)| write::attr(&mut out, name, value));
        out.extend_from_slice(b" xml:lang='en'>");
        match answer {
            Answer::Asks(form, values) => {
                out.extend_from_slice(b"<actions execute='complete'><complete/></actions>");
                form.write(&mut out, FormKind::Form, values);
            }
            Answer::Completed(results, note) => {
                if let Some((form, values)) = results {
                    form.write(&mut out, FormKind::Result, values);
                }
                if !note.is_empty() {
                    out.extend_from_slice(b"<note type='info'>");
                    write::text(&mut out, note);
                    out.extend_from_slice(b"</note>");
                }
            }
            Answer::Canceled => {}
        }
        out.extend_from_slice(b"</command>");
        out
    }
}

/// Reads the form that a command asked for. One that is given up is one that lacks what is required (§3.5.1).
///
/// # Errors
/// `bad-payload`.
pub fn submitted(form: &Form<'_>, x: &Node, limits: &FormLimits) -> Result<Values, Problem> {
    match form.read(x, limits) {
        Ok(Submission::Submitted(submitted)) => Ok(submitted.values),
        Ok(Submission::Cancelled) => Err(Problem::BadPayload(FormError::Missing(String::new()).text())),
        Err(error) => Err(Problem::BadPayload(error.text())),
    }
}

/// What disco#info says of the list of commands and of each of them (§2.2); `None` for any other node.
pub fn info(node: &str, commands: &[Listed<'_>]) -> Option<Vec<u8>> {
    let (kind, name) = match commands.iter().find(|command| command.node == node) {
        Some(command) => ("command-node", command.name),
        None if node == ns::COMMANDS => ("command-list", "Commands"),
        None => return None,
    };
    let mut out = Vec::with_capacity(256);
    begin_query(&mut out, ns::DISCO_INFO, node);
    out.extend_from_slice(b"<identity category='automation'");
    write::attr(&mut out, "type", kind);
    write::attr(&mut out, "name", name);
    out.extend_from_slice(b"/>");
    for feature in [ns::COMMANDS, ns::DATA_FORMS] {
        out.extend_from_slice(b"<feature");
        write::attr(&mut out, "var", feature);
        out.extend_from_slice(b"/>");
    }
    out.extend_from_slice(b"</query>");
    Some(out)
}

/// What disco#items says of the commands at an address (§2.2), and of each of them, below which there is nothing; `None`
/// for any other node.
pub fn items(node: &str, jid: &str, commands: &[Listed<'_>]) -> Option<Vec<u8>> {
    let listed = if node == ns::COMMANDS { commands } else { &[] };
    if node != ns::COMMANDS && commands.iter().all(|command| command.node != node) {
        return None;
    }
    let mut out = Vec::with_capacity(256);
    begin_query(&mut out, ns::DISCO_ITEMS, node);
    for command in listed {
        out.extend_from_slice(b"<item");
        let attrs = [("jid", jid), ("node", command.node), ("name", command.name)];
        attrs.into_iter().for_each(|(name, value)| write::attr(&mut out, name, value));
        out.extend_from_slice(b"/>");
    }
    out.extend_from_slice(b"</query>");
    Some(out)
}

fn begin_query(out: &mut Vec<u8>, ns: &str, node: &str) {
    out.extend_from_slice(b"<query");
    write::attr(out, "xmlns", ns);
    write::attr(out, "node", node);
    out.push(b'>');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forms::{Field, Kind};

    const FORM: &str = "<x xmlns='jabber:x:data' type='submit'/>";

    fn parsed(attrs: &str, inside: &str) -> Node {
        Node::parse(&format!("<command xmlns='{}' {attrs}>{inside}</command>", ns::COMMANDS), "").unwrap()
    }

    /// What a request comes to, in a word.
    fn word(attrs: &str, inside: &str) -> String {
        let node = parsed(attrs, inside);
        match Command::read(&node).and_then(|command| command.stage().map_err(StanzaError::from)) {
            Ok(Stage::Ask) => "ask".to_owned(),
            Ok(Stage::Submitted(_)) => "submitted".to_owned(),
            Ok(Stage::Canceled) => "canceled".to_owned(),
            Err(error) => {
                assert_eq!((error.condition, error.error_type), (Condition::BadRequest, ErrorType::Modify));
                error.detail.map_or("bad-request", |detail| detail.name).to_owned()
            }
        }
    }

    #[test]
    fn every_action_at_every_stage_has_its_outcome() {
        let table = [
            ("", "ask", "submitted", "bad-payload", "submitted"),
            ("action='execute'", "ask", "submitted", "bad-payload", "submitted"),
            ("action='complete'", "bad-payload", "submitted", "bad-payload", "submitted"),
            ("action='cancel'", "bad-sessionid", "bad-sessionid", "canceled", "canceled"),
            ("action='prev'", "bad-action", "bad-action", "bad-action", "bad-action"),
            ("action='next'", "bad-action", "bad-action", "bad-action", "bad-action"),
            ("action='jump'", "malformed-action", "malformed-action", "malformed-action", "malformed-action"),
            ("action=''", "malformed-action", "malformed-action", "malformed-action", "malformed-action"),
        ];
        for (action, first, first_form, later, later_form) in table {
            let attrs = [format!("node='n' {action}"), format!("node='n' sessionid='s' {action}")];
            let found = [(0, ""), (0, FORM), (1, ""), (1, FORM)].map(|(at, form)| word(&attrs[at], form));
            assert_eq!(found, [first, first_form, later, later_form], "{action}");
        }
    }

    #[test]
    fn what_names_no_command_or_no_session_is_refused() {
        let long = |len: usize| format!("node='n' sessionid='{}' action='cancel'", "s".repeat(len));
        for (attrs, expected) in [
            ("", "bad-request"),
            ("node=''", "bad-request"),
            ("node='n' sessionid=''", "bad-sessionid"),
            (&*long(SESSION_BYTES_MAX + 1), "bad-sessionid"),
            (&*long(SESSION_BYTES_MAX), "canceled"),
        ] {
            assert_eq!(word(attrs, ""), expected, "{attrs}");
        }
    }

    #[test]
    fn answers_repeat_the_session_and_name_one_that_begins() {
        let form = Form::new("", vec![Field::new("a", "", Kind::TextSingle).required()]);
        let values = Values::new().with("a", "<1>");
        let node = parsed("node='n&amp;'", "");
        let begun = Command::read(&node).unwrap();
        assert_eq!(
            String::from_utf8(begun.answer(0x1f, &Answer::Asks(&form, &Values::new()))).unwrap(),
            "<command xmlns='http://jabber.org/protocol/commands' node='n&amp;' \
             sessionid='0000000000000000000000000000001f' status='executing' xml:lang='en'>\
             <actions execute='complete'><complete/></actions><x xmlns='jabber:x:data' type='form'>\
             <field var='a' type='text-single'><required/></field></x></command>"
        );
        let node = parsed("node='n' sessionid='&lt;s'", FORM);
        let command = Command::read(&node).unwrap();
        let head = "<command xmlns='http://jabber.org/protocol/commands' node='n' sessionid='&lt;s' status='";
        for (answer, expected) in [
            (
                Answer::Completed(Some((&form, &values)), "done & over"),
                "completed' xml:lang='en'><x xmlns='jabber:x:data' type='result'><field var='a' type='text-single'>\
                 <value>&lt;1&gt;</value></field></x><note type='info'>done &amp; over</note></command>",
            ),
            (Answer::Completed(None, ""), "completed' xml:lang='en'></command>"),
            (Answer::Canceled, "canceled' xml:lang='en'></command>"),
        ] {
            assert_eq!(String::from_utf8(command.answer(1, &answer)).unwrap(), format!("{head}{expected}"));
        }
    }

    #[test]
    fn a_form_needs_no_form_type_and_what_is_wrong_with_it_is_said() {
        let form = Form::new("", vec![Field::new("a", "", Kind::Boolean).required()]);
        let read = |inside: &str, kind: &str| {
            let x = format!("<x xmlns='jabber:x:data' type='{kind}'>{inside}</x>");
            submitted(&form, &Node::parse(&x, "").unwrap(), &FormLimits::DEFAULT)
        };
        let (yes, typed) =
            ("<field var='a'><value>1</value></field>", "<field var='FORM_TYPE'><value>t</value></field>");
        for inside in [yes.to_owned(), format!("{typed}{yes}")] {
            assert_eq!(read(&inside, "submit").map(|values| values.boolean("a")), Ok(Some(true)));
        }
        let missing = Err(Problem::BadPayload("a required field is missing"));
        assert_eq!([read("", "submit"), read("", "cancel")], [missing.clone(), missing]);
        let wrong = yes.replace('1', "yes");
        assert_eq!(read(&wrong, "submit"), Err(Problem::BadPayload("a boolean is one of 0, 1, true and false")));
    }

    #[test]
    fn commands_are_found() {
        let commands = [Listed { node: "n", name: "Do & see" }];
        let list = |of: fn(&str, &[Listed<'_>]) -> Option<Vec<u8>>, node| {
            of(node, &commands).map(|found| String::from_utf8(found).unwrap())
        };
        let below = |node: &str, commands: &[Listed<'_>]| items(node, "a.example", commands);
        let features = "<feature var='http://jabber.org/protocol/commands'/><feature var='jabber:x:data'/></query>";
        for (node, kind, name) in [("n", "node", "Do &amp; see"), (ns::COMMANDS, "list", "Commands")] {
            let head = format!("<query xmlns='{}' node='{node}'>", ns::DISCO_INFO);
            let identity = format!("<identity category='automation' type='command-{kind}' name='{name}'/>");
            assert_eq!(list(info, node), Some(format!("{head}{identity}{features}")));
        }
        let items = |node, inside| Some(format!("<query xmlns='{}' node='{node}'>{inside}</query>", ns::DISCO_ITEMS));
        let item = "<item jid='a.example' node='n' name='Do &amp; see'/>";
        assert_eq!(list(below, ns::COMMANDS), items(ns::COMMANDS, item));
        assert_eq!(list(below, "n"), items("n", ""));
        assert_eq!((list(info, "x"), list(below, "x")), (None, None));
    }
}
