//! Discovery of services, nodes and items (XEP-0060 v1.30.0 §5.1–5.5, XEP-0163 v1.2.2 §6).

use plaza_core::date::DateTime;
use plaza_core::forms::{Field, Form, FormKind, Kind};
use plaza_core::jid::Jid;
use plaza_core::ns;
use plaza_core::rsm;
use plaza_core::xml::read::Node;
use plaza_core::xml::write;

use super::Host;
use super::call::{Call, Loaded};
use super::error::Refusal;
use super::options::{AccessModel, PublishModel, names};
use super::record::{Affiliation, decode_count};
use crate::store::{Store, StoreError, Table};

/// What a service can do (§10), each behind `http://jabber.org/protocol/pubsub#`.
const FEATURES: &[&str] = &[
    "access-authorize",
    "access-open",
    "access-presence",
    "access-roster",
    "access-whitelist",
    "config-node",
    "config-node-max",
    "create-and-configure",
    "create-nodes",
    "delete-items",
    "delete-nodes",
    "get-pending",
    "instant-nodes",
    "item-ids",
    "leased-subscription",
    "manage-subscriptions",
    "member-affiliation",
    "meta-data",
    "modify-affiliations",
    "multi-items",
    "outcast-affiliation",
    "persistent-items",
    "publish",
    "publish-node-full",
    "publish-only-affiliation",
    "publish-options",
    "publisher-affiliation",
    "purge-nodes",
    "retract-items",
    "retrieve-affiliations",
    "retrieve-default",
    "retrieve-default-sub",
    "retrieve-items",
    "retrieve-subscriptions",
    "subscribe",
    "subscription-notifications",
    "subscription-options",
];

/// What an account's service can do, as disco#info of the account has it, sorted; beside the identity `pubsub`/`pep`
/// (XEP-0163 §6.1).
pub const ACCOUNT_FEATURES: &[&str] = &[
    "http://jabber.org/protocol/commands",
    "http://jabber.org/protocol/pubsub",
    "http://jabber.org/protocol/pubsub#access-authorize",
    "http://jabber.org/protocol/pubsub#access-open",
    "http://jabber.org/protocol/pubsub#access-presence",
    "http://jabber.org/protocol/pubsub#access-roster",
    "http://jabber.org/protocol/pubsub#access-whitelist",
    "http://jabber.org/protocol/pubsub#auto-create",
    "http://jabber.org/protocol/pubsub#auto-subscribe",
    "http://jabber.org/protocol/pubsub#config-node",
    "http://jabber.org/protocol/pubsub#config-node-max",
    "http://jabber.org/protocol/pubsub#create-and-configure",
    "http://jabber.org/protocol/pubsub#create-nodes",
    "http://jabber.org/protocol/pubsub#delete-items",
    "http://jabber.org/protocol/pubsub#delete-nodes",
    "http://jabber.org/protocol/pubsub#filtered-notifications",
    "http://jabber.org/protocol/pubsub#get-pending",
    "http://jabber.org/protocol/pubsub#instant-nodes",
    "http://jabber.org/protocol/pubsub#item-ids",
    "http://jabber.org/protocol/pubsub#last-published",
    "http://jabber.org/protocol/pubsub#leased-subscription",
    "http://jabber.org/protocol/pubsub#manage-subscriptions",
    "http://jabber.org/protocol/pubsub#member-affiliation",
    "http://jabber.org/protocol/pubsub#meta-data",
    "http://jabber.org/protocol/pubsub#modify-affiliations",
    "http://jabber.org/protocol/pubsub#multi-items",
    "http://jabber.org/protocol/pubsub#outcast-affiliation",
    "http://jabber.org/protocol/pubsub#persistent-items",
    "http://jabber.org/protocol/pubsub#publish",
    "http://jabber.org/protocol/pubsub#publish-node-full",
    "http://jabber.org/protocol/pubsub#publish-only-affiliation",
    "http://jabber.org/protocol/pubsub#publish-options",
    "http://jabber.org/protocol/pubsub#publisher-affiliation",
    "http://jabber.org/protocol/pubsub#purge-nodes",
    "http://jabber.org/protocol/pubsub#retract-items",
    "http://jabber.org/protocol/pubsub#retrieve-affiliations",
    "http://jabber.org/protocol/pubsub#retrieve-default",
    "http://jabber.org/protocol/pubsub#retrieve-default-sub",
    "http://jabber.org/protocol/pubsub#retrieve-items",
    "http://jabber.org/protocol/pubsub#retrieve-subscriptions",
    "http://jabber.org/protocol/pubsub#subscribe",
    "http://jabber.org/protocol/pubsub#subscription-notifications",
    "http://jabber.org/protocol/pubsub#subscription-options",
    "http://jabber.org/protocol/rsm",
];

impl<S: Store> Call<'_, S> {
    /// Of the service (§5.1), or of a node with what is known of it (§5.3, §5.4).
    pub(super) async fn disco_info(&self, query: &Node) -> Result<Vec<u8>, Refusal> {
        let Some(id) = query.attr("node").filter(|node| !node.is_empty()) else {
            self.may_know(None)?;
            return Ok(self.service_info());
        };
        if let Some(info) = self.command_info(id).await? {
            return Ok(info);
        }
        let loaded = self.visible(id).await?;
        let mut out = Vec::new();
        begin(&mut out, ns::DISCO_INFO, Some(id));
        identity(&mut out, "leaf");
        feature(&mut out, ns::PUBSUB);
        let affiliations = self.affiliations(id).await?;
        let with = |wanted: Affiliation| -> Vec<Jid> {
            affiliations.iter().filter(|(_, one)| *one == wanted).map(|(jid, _)| jid.clone()).collect()
        };
        let node = &loaded.node;
        let owners = match self.host {
            Host::Account(owner) => vec![owner.clone()],
            Host::Service(_) => with(Affiliation::Owner),
        };
        // What the node's form has of it, and what it is beside.
        let configured = node.config.values();
        let mut values = plaza_core::forms::Values::new()
            .with("pubsub#creator", node.creator.clone())
            .with("pubsub#creation_date", &*DateTime::from_unix_millis(node.created).to_string())
            .with("pubsub#owner", owners)
            .with("pubsub#num_subscribers", &*node.subscribers.to_string());
        let publishers = with(Affiliation::Publisher);
        if !publishers.is_empty() {
            values.set("pubsub#publisher", publishers);
        }
        for (var, value) in configured.iter() {
            values.set(var, value.clone());
        }
        meta_data().write(&mut out, FormKind::Result, &values);
        out.extend_from_slice(b"</query>");
        Ok(out)
    }

    fn service_info(&self) -> Vec<u8> {
        let mut out = Vec::new();
        begin(&mut out, ns::DISCO_INFO, None);
        if self.is_account() {
            out.extend_from_slice(b"<identity category='account' type='registered'/>");
            identity(&mut out, "pep");
            feature(&mut out, ns::DISCO_INFO);
            feature(&mut out, ns::DISCO_ITEMS);
            ACCOUNT_FEATURES.iter().for_each(|var| feature(&mut out, var));
        } else {
            identity(&mut out, "service");
            feature(&mut out, ns::DISCO_INFO);
            feature(&mut out, ns::DISCO_ITEMS);
            feature(&mut out, ns::COMMANDS);
            feature(&mut out, ns::PUBSUB);
            for name in FEATURES {
                feature(&mut out, &format!("{}#{name}", ns::PUBSUB));
            }
            feature(&mut out, ns::RSM);
        }
        out.extend_from_slice(b"</query>");
        out
    }

    /// A node whose existence the caller may know of: one that it might subscribe to.
    async fn visible(&self, id: &str) -> Result<Loaded, Refusal> {
        let (loaded, affiliation) = self.existing(id).await?;
        match self.check_access(&loaded, affiliation).await? {
            Ok(()) => Ok(loaded),
            Err(problem) => Err(self.refuse(affiliation, problem)),
        }
    }

    /// The nodes (§5.2), or the items of one (§5.5).
    ///
    /// The names of a service's nodes are for everyone to see; of an account's, those are told that the caller may read.
    pub(super) async fn disco_items(&self, query: &Node, page: Option<rsm::Request>) -> Result<Vec<u8>, Refusal> {
        match query.attr("node").filter(|node| !node.is_empty()) {
            Some(id) => match self.command_items(id).await? {
                Some(items) => Ok(items),
                None => self.disco_node_items(id, page).await,
            },
            None => self.disco_nodes(page).await,
        }
    }

    async fn disco_nodes(&self, page: Option<rsm::Request>) -> Result<Vec<u8>, Refusal> {
        self.may_know(None)?;
        let with_set = page.is_some();
        let page = page.unwrap_or(rsm::Request::ALL);
        let len = page.page_len(self.config.limits.list_max as usize);
        let (mut nodes, count) = if self.is_account() {
            let visible = self.visible_nodes().await?;
            let find = |id: &str| visible.iter().position(|(known, _)| known == id);
            let range = page.page(visible.len(), find, self.config.limits.list_max as usize)?;
            (visible.get(range).unwrap_or_default().to_vec(), visible.len())
        } else {
            let after = page.forwards()?.map(|after| self.keys.node(after));
            let limit = len.saturating_add(1);
            let pairs = self.store.scan(Table::PubSub, &self.keys.nodes(), after.as_deref(), limit).await?;
            let nodes = pairs.iter().map(|pair| self.node_and_title(pair)).collect::<Result<Vec<_>, _>>()?;
            let count = decode_count(self.get(&self.keys.total()).await?.as_deref())?;
            (nodes, count as usize)
        };
        let is_cut = nodes.len() > len;
        nodes.truncate(len);
        let with_set = with_set || is_cut || nodes.len() < count;
        let mut out = Vec::new();
        begin(&mut out, ns::DISCO_ITEMS, None);
        if nodes.is_empty() && !with_set {
            out.pop();
            out.extend_from_slice(b"/>");
            return Ok(out);
        }
        for (id, title) in &nodes {
            out.extend_from_slice(b"<item");
            write::attr(&mut out, "jid", self.host.jid().as_str());
            write::attr(&mut out, "node", id);
            if !title.is_empty() {
                write::attr(&mut out, "name", title);
            }
            out.extend_from_slice(b"/>");
        }
        if with_set {
            let ends = nodes.first().zip(nodes.last()).map(|((first, _), (last, _))| (first.as_str(), last.as_str()));
            rsm::Page { ends, index: None, count: Some(count) }.write(&mut out);
        }
        out.extend_from_slice(b"</query>");
        Ok(out)
    }

    fn node_and_title(&self, (key, record): &(Vec<u8>, Vec<u8>)) -> Result<(String, String), StoreError> {
        let id = self.keys.node_id(key)?.to_owned();
        Ok((id, super::record::NodeRecord::decode(record)?.config.title))
    }

    /// The nodes of an account that the caller may read, and their titles. How many there are was bounded when they were
    /// made.
    async fn visible_nodes(&self) -> Result<Vec<(String, String)>, Refusal> {
        let mut visible = Vec::new();
        for (key, record) in self.store.scan(Table::PubSub, &self.keys.nodes(), None, usize::MAX).await? {
            let id = self.keys.node_id(&key)?.to_owned();
            let node = super::record::NodeRecord::decode(&record)?;
            let loaded = Loaded { id, before: Some(record), node };
            let affiliation = self.affiliation(&loaded.id, self.caller).await?;
            if self.check_read(&loaded, affiliation).await.is_ok() {
                visible.push((loaded.id, loaded.node.config.title));
            }
        }
        Ok(visible)
    }

    async fn disco_node_items(&self, id: &str, page: Option<rsm::Request>) -> Result<Vec<u8>, Refusal> {
        let (loaded, affiliation) = self.existing(id).await?;
        self.check_read(&loaded, affiliation).await?;
        let ids = self.item_ids(&loaded).await?;
        let with_set = page.is_some();
        let page = page.unwrap_or(rsm::Request::ALL);
        let find = |id: &str| ids.iter().position(|known| known == id);
        let range = page.page(ids.len(), find, self.config.limits.list_max as usize)?;
        let found = ids.get(range.clone()).unwrap_or_default();
        let mut out = Vec::new();
        begin(&mut out, ns::DISCO_ITEMS, Some(id));
        for item in found {
            out.extend_from_slice(b"<item");
            write::attr(&mut out, "jid", self.host.jid().as_str());
            write::attr(&mut out, "name", item);
            out.extend_from_slice(b"/>");
        }
        if with_set || found.len() < ids.len() {
            let ends = found.first().zip(found.last()).map(|(first, last)| (first.as_str(), last.as_str()));
            rsm::Page { ends, index: Some(range.start), count: Some(ids.len()) }.write(&mut out);
        }
        out.extend_from_slice(b"</query>");
        Ok(out)
    }
}

/// The form of what is known of a node (§17.4.4).
fn meta_data() -> Form<'static> {
    let field = |var, kind| Field::new(var, "", kind);
    Form::new(
        ns::PUBSUB_META_DATA,
        vec![
            field("pubsub#type", Kind::TextSingle),
            field("pubsub#creator", Kind::JidSingle),
            field("pubsub#creation_date", Kind::TextSingle),
            field("pubsub#title", Kind::TextSingle),
            field("pubsub#description", Kind::TextSingle),
            field("pubsub#access_model", Kind::one_of(&names(AccessModel::ALL, AccessModel::name))),
            field("pubsub#publish_model", Kind::one_of(&names(PublishModel::ALL, PublishModel::name))),
            field("pubsub#max_items", Kind::TextSingle),
            field("pubsub#owner", Kind::JidMulti),
            field("pubsub#publisher", Kind::JidMulti),
            field("pubsub#num_subscribers", Kind::TextSingle),
        ],
    )
}

fn begin(out: &mut Vec<u8>, ns: &str, node: Option<&str>) {
    out.extend_from_slice(b"<query");
    write::attr(out, "xmlns", ns);
    if let Some(node) = node {
        write::attr(out, "node", node);
    }
    out.push(b'>');
}

fn identity(out: &mut Vec<u8>, kind: &str) {
    out.extend_from_slice(b"<identity category='pubsub'");
    write::attr(out, "type", kind);
    out.extend_from_slice(b"/>");
}

fn feature(out: &mut Vec<u8>, var: &str) {
    out.extend_from_slice(b"<feature");
    write::attr(out, "var", var);
    out.extend_from_slice(b"/>");
}
