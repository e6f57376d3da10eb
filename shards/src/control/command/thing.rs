//! What is asked and told about things.

use std::fmt::{self, Display};

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Something about things (XEP-0347). An address without a domain is in the first domain of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum ThingCommand {
    /// List things: all, those of a device, or those that somebody owns
    List {
        /// Of this device
        #[arg(long, value_name = "ADDRESS", conflicts_with = "owner")]
        #[serde(default)]
        device: Option<String>,
        /// Of this owner
        #[arg(long, value_name = "ADDRESS")]
        #[serde(default)]
        owner: Option<String>,
        /// Begin after this thing.
        #[arg(skip)]
        #[serde(default)]
        after: Option<ThingName>,
        /// At most so many
        #[arg(long, value_name = "N")]
        #[serde(default)]
        limit: Option<usize>,
    },
    /// Show all that is known of a thing, but for its key
    Show {
        /// Address of the device
        address: String,
        /// Which node of it.
        #[command(flatten)]
        #[serde(default)]
        node: Node,
    },
    /// Give a thing to an account, whether its key is known or not
    Claim {
        /// Address of the device
        address: String,
        /// Address of who is to own it
        #[arg(long, value_name = "ADDRESS")]
        owner: String,
        /// Not to be found by others
        #[arg(long)]
        #[serde(default)]
        private: bool,
        /// Which node of it.
        #[command(flatten)]
        #[serde(default)]
        node: Node,
    },
    /// Apply a thing's rules to what others ask of it, whether its device asks for decisions or not
    Enforce {
        /// Address of the device
        address: String,
        /// `on`: what its owner has not allowed does not reach it. `off`: its device decides
        policy: Enforcement,
        /// Which node of it.
        #[command(flatten)]
        #[serde(default)]
        node: Node,
    },
    /// Take a thing from its owner, without asking the device
    Disown {
        /// Address of the device
        address: String,
        /// Which node of it.
        #[command(flatten)]
        #[serde(default)]
        node: Node,
    },
}

/// Who applies a thing's rules. Things begin with `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// The broker does.
    On,
    /// Its device does, if it does.
    Off,
}

/// A node behind a concentrator; all empty for a device itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Id of a node behind a concentrator
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Source of that node
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub src: String,
    /// Partition of that node
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pt: String,
}

/// Which thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThingName {
    /// Address of the device.
    pub address: String,
    /// Which node of it.
    #[serde(default)]
    pub node: Node,
}

impl Display for ThingName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.address)?;
        let Node { id, src, pt } = &self.node;
        for (name, value) in [("id", id), ("src", src), ("pt", pt)] {
            if !value.is_empty() {
                write!(out, " {name}={value}")?;
            }
        }
        Ok(())
    }
}

/// All that is known of a thing, but for its key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThingInfo {
    /// Which.
    #[serde(flatten)]
    pub name: ThingName,
    /// Where it is in its life.
    pub state: ThingState,
    /// Whose, if it is somebody's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub owner: Option<String>,
    /// To be found by others.
    pub public: bool,
    /// Taken out of the registry by its owner.
    pub removed: bool,
    /// The broker applies its rules itself.
    #[serde(default)]
    pub enforced: bool,
    /// It registered with a key, and was not claimed yet.
    pub has_key: bool,
    /// What its device has not heard of yet.
    pub pending: Vec<String>,
    /// When it was registered first, in seconds since the Unix epoch.
    pub created: u64,
    /// When it last changed.
    pub updated: u64,
    /// What is said of it.
    pub tags: Map<String, Value>,
}

/// Where a thing is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThingState {
    /// Nobody's, to be claimed.
    Unclaimed,
    /// Its own.
    SelfOwned,
    /// Somebody's.
    Claimed,
}

impl ThingInfo {
    /// Whose it is, for people.
    pub(super) fn whose(&self) -> String {
        let whose = match (&self.state, &self.owner) {
            (ThingState::Claimed, Some(owner)) => format!("claimed by {owner}"),
            (ThingState::SelfOwned, _) => "its own".to_owned(),
            (ThingState::Unclaimed | ThingState::Claimed, _) => "unclaimed".to_owned(),
        };
        let seen = match (self.public, self.removed) {
            (true, _) => ", public",
            (false, true) => ", removed",
            (false, false) => "",
        };
        whose + seen
    }
}

/// A thing on a line, and what is said of it on lines of their own.
impl Display for ThingInfo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}  {}", self.name, self.whose())?;
        if self.has_key {
            out.write_str(", has a key")?;
        }
        if self.enforced {
            out.write_str(", enforced")?;
        }
        if !self.pending.is_empty() {
            write!(out, "\n  not told yet: {}", self.pending.join(", "))?;
        }
        for (name, value) in &self.tags {
            write!(out, "\n  {name} = {value}")?;
        }
        Ok(())
    }
}
