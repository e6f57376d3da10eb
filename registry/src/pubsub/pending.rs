//! Requests for subscriptions that wait, sent to an owner again (XEP-0060 v1.30.0 §8.7): an ad-hoc command (XEP-0050).

use plaza_core::adhoc::{self, Answer, Command, Listed, Stage};
use plaza_core::forms::{Choice, Field, Form, Kind, Values};
use plaza_core::ns;
use plaza_core::stanza::{Condition, StanzaError};
use plaza_core::xml::read::Node;
use xxhash_rust::xxh3::xxh3_128;

use super::call::{Call, Outcome};
use super::error::Refusal;
use super::keys::{rest, rest_jid};
use super::notify::{ApprovalRequest, RECIPIENTS_PAGE};
use super::options::form_limits;
use super::record::{Affiliation, NodeRecord, Subscription};
use crate::store::{Store, Table};

const NODE: &str = "pubsub#node";
const COMMANDS: &[Listed<'static>] =
    &[Listed { node: ns::PUBSUB_GET_PENDING, name: "Requests for subscriptions that wait" }];

/// Nodes of an owner that are looked at for the form. Default 1 000: fifteen times as many as one creates. One that is not
/// shown may be submitted all the same.
const NODES_MAX: usize = 1_000;

/// Whether a node is one of those of the commands, and none that keeps items.
pub(super) fn is_command(node: &str) -> bool {
    node == ns::COMMANDS || COMMANDS.iter().any(|command| command.node == node)
}

/// What is asked for (§8.7.2). What comes back is judged by what the node is by then, whatever was shown.
fn form<'a>(form_type: &'a str, choices: Vec<Choice<'a>>, open: bool) -> Form<'a> {
    let kind = Kind::ListSingle { choices, open };
    Form {
        title: "Requests for subscriptions that wait",
        instructions: "Choose a node. Each request comes as a message.",
        ..Form::new(form_type, vec![Field::new(NODE, "The node", kind).required()])
    }
}

impl<S: Store> Call<'_, S> {
    /// Carries out a command.
    pub(super) async fn command(&self, payload: &Node, out: &mut Outcome) -> Result<Vec<u8>, Refusal> {
        let problem = |error: StanzaError| self.refuse(None, error);
        let command = Command::read(payload).map_err(problem)?;
        if command.node != ns::PUBSUB_GET_PENDING {
            return Err(self.refuse(None, Condition::ItemNotFound));
        }
        let seed = xxh3_128(format!("{}\0{}\0{}", self.host.jid(), self.caller, self.now).as_bytes());
        match command.stage().map_err(|error| problem(error.into()))? {
            Stage::Ask => {
                let waiting = self.waiting_nodes().await?;
                if waiting.is_empty() {
                    return Ok(command.answer(seed, &Answer::Completed(None, "no requests wait")));
                }
                let choices = waiting.iter().map(|node| Choice::plain(node)).collect();
                let form = form(ns::PUBSUB_SUBSCRIBE_AUTHORIZATION, choices, false);
                Ok(command.answer(seed, &Answer::Asks(&form, &Values::new())))
            }
            Stage::Submitted(x) => {
                // The XEP's own example has no FORM_TYPE (§8.7.4).
                let values = adhoc::submitted(&form("", Vec::new(), true), x, &form_limits(&self.config.limits));
                let values = values.map_err(|error| problem(error.into()))?;
                let (requests, are_all) = self.waiting_requests(values.text(NODE).unwrap_or_default()).await?;
                let rest = if are_all { "" } else { "; more wait, which come once some of these are decided" };
                let note = format!("requests sent: {}{rest}", requests.len());
                out.requests.extend(requests);
                Ok(command.answer(seed, &Answer::Completed(None, &note)))
            }
            Stage::Canceled => {
                self.may_know(None)?;
                Ok(command.answer(seed, &Answer::Canceled))
            }
        }
    }

    /// What is said of the commands and what they are: to who owns a node, and to others that it may not know
    /// (XEP-0050 §2.2). `None` if the node is none of theirs.
    pub(super) async fn command_info(&self, node: &str) -> Result<Option<Vec<u8>>, Refusal> {
        let Some(info) = adhoc::info(node, COMMANDS) else { return Ok(None) };
        if node != ns::COMMANDS {
            self.owned_nodes().await?;
        }
        self.may_know(None)?;
        Ok(Some(info))
    }

    /// The commands that the caller has; `None` if the node is none of theirs.
    pub(super) async fn command_items(&self, node: &str) -> Result<Option<Vec<u8>>, Refusal> {
        if !is_command(node) {
            return Ok(None);
        }
        self.may_know(None)?;
        let has_some = match self.owned_nodes().await {
            Ok(_) => true,
            Err(refusal) if refusal.error.condition == Condition::Forbidden => false,
            Err(refusal) => return Err(refusal),
        };
        let commands = if has_some || node != ns::COMMANDS { COMMANDS } else { &[] };
        Ok(adhoc::items(node, self.host.jid().as_str(), commands))
    }

    /// The nodes that the caller owns, but for those beyond [`NODES_MAX`].
    ///
    /// # Errors
    /// `forbidden` to who owns none (§8.7.3.3), but for the owner of the account, who may have some.
    async fn owned_nodes(&self) -> Result<Vec<String>, Refusal> {
        if self.is_own_account() {
            let nodes = self.store.scan(Table::PubSub, &self.keys.nodes(), None, NODES_MAX).await?;
            return nodes.iter().map(|(key, _)| Ok(self.keys.node_id(key)?.to_owned())).collect();
        }
        let prefix = self.keys.affiliations_of(self.caller);
        let mut owned = Vec::new();
        for (key, record) in self.store.scan(Table::PubSub, &prefix, None, NODES_MAX).await? {
            if Affiliation::decode(&record)? == Affiliation::Owner {
                owned.push(rest(&key, &prefix)?.to_owned());
            }
        }
        if owned.is_empty() { Err(self.refuse(None, Condition::Forbidden)) } else { Ok(owned) }
    }

    /// Those of them for which requests wait, as many as one answer holds.
    async fn waiting_nodes(&self) -> Result<Vec<String>, Refusal> {
        let mut waiting = Vec::new();
        for id in self.owned_nodes().await? {
            let record = self.get(&self.keys.node(&id)).await?;
            let node = record.map(|record| NodeRecord::decode(&record)).transpose()?;
            if node.is_some_and(|node| node.pending > 0) {
                waiting.push(id);
            }
            if waiting.len() >= self.config.limits.list_max as usize {
                break;
            }
        }
        Ok(waiting)
    }

    /// The requests for a node of the caller's, for this resource of it; at most as many as one answer has entries, and
    /// whether these are all.
    async fn waiting_requests(&self, id: &str) -> Result<(Vec<ApprovalRequest>, bool), Refusal> {
        let loaded = self.owned(id).await?;
        let prefix = self.keys.subscriptions(id);
        let (mut requests, mut after, mut left) = (Vec::new(), prefix.clone(), loaded.node.pending);
        while left > 0 {
            let page = self.store.scan(Table::PubSub, &prefix, Some(&after), RECIPIENTS_PAGE).await?;
            let is_last = page.len() < RECIPIENTS_PAGE;
            for (key, record) in page {
                let subscription = Subscription::decode(&record)?;
                if subscription.pending {
                    left = left.saturating_sub(1);
                    if !subscription.has_expired(self.now) {
                        if requests.len() >= self.config.limits.list_max as usize {
                            return Ok((requests, false));
                        }
                        let subscriber = rest_jid(&key, &prefix)?;
                        let owners = vec![self.caller.to_jid()];
                        requests.extend(self.requests_to(owners, &loaded, subscriber.as_jid()));
                    }
                }
                after = key;
            }
            if is_last {
                break;
            }
        }
        Ok((requests, true))
    }
}
