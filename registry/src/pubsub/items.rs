//! Retrieving items (XEP-0060 v1.30.0 §6.5).
//!
//! The order of publication is read whole, since it is bounded and small; of the items only the page that is answered.

use plaza_core::ns;
use plaza_core::rsm;
use plaza_core::stanza::Condition;
use plaza_core::xml::read::Node;
use plaza_core::xml::write;

use super::begin;
use super::call::{Call, Loaded, node_id};
use super::error::{Problem, Refusal};
use super::notify::write_item;
use super::record::Item;
use crate::store::{Store, StoreError, Table};

/// Items of an answer, in the order of publication.
struct Page {
    items: Vec<(String, Item)>,
    /// Position of the first among all of the node, and how many those are; `None` for items asked for by id.
    place: Option<(usize, usize)>,
    /// Nothing of what was asked for is left out.
    is_whole: bool,
}

impl<S: Store> Call<'_, S> {
    /// Items by id, the most recent ones, or a page of all.
    pub(super) async fn items(&self, asked: &Node, page: Option<rsm::Request>) -> Result<Vec<u8>, Refusal> {
        let id = node_id(asked)?;
        let (loaded, affiliation) = self.existing(id).await?;
        self.check_read(&loaded, affiliation).await?;
        if !loaded.node.config.persist {
            return Err(Problem::Unsupported("persistent-items").into());
        }
        let ids: Vec<&str> =
            asked.children.iter().filter(|item| item.name == "item").filter_map(|i| i.attr("id")).collect();
        let with_set = page.is_some();
        let found = if ids.is_empty() {
            self.page_of_items(&loaded, most_recent(asked)?, page).await?
        } else {
            self.items_by_id(&loaded, &ids).await?
        };
        let mut out = Vec::new();
        begin(&mut out, ns::PUBSUB);
        out.extend_from_slice(b"<items");
        write::attr(&mut out, "node", id);
        out.push(b'>');
        for (id, item) in &found.items {
            write_item(&mut out, id, item, loaded.node.config.tell_publisher, true);
        }
        out.extend_from_slice(b"</items>");
        // §6.5.4: a list that is not whole says so.
        if with_set || !found.is_whole {
            let ends = found.items.first().zip(found.items.last());
            let ends = ends.map(|((first, _), (last, _))| (first.as_str(), last.as_str()));
            let (index, count) = found.place.unzip();
            rsm::Page { ends, index, count }.write(&mut out);
        }
        out.extend_from_slice(b"</pubsub>");
        Ok(out)
    }

    /// The ids of a node's items in the order of publication, without what is too old.
    pub(super) async fn item_ids(&self, loaded: &Loaded) -> Result<Vec<String>, StoreError> {
        let places = self.oldest_places(&loaded.id, loaded.node.oldest, usize::MAX).await?;
        let config = &loaded.node.config;
        let current = places.into_iter().filter(|(_, place)| !config.has_expired(place.published, self.now));
        Ok(current.map(|(_, place)| place.item).collect())
    }

    /// The items of these ids that are there (§6.5.6, §6.5.8). None is no error (§6.5.9.12).
    async fn items_by_id(&self, loaded: &Loaded, ids: &[&str]) -> Result<Page, Refusal> {
        if ids.len() > self.config.limits.page_max as usize {
            return Err(Condition::NotAcceptable.into());
        }
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        let (items, is_cut) = self.load_items(loaded, &ids, false).await?;
        Ok(Page { items, place: None, is_whole: !is_cut })
    }

    /// The most recent items (§6.5.7), or the page asked for, or the first one.
    async fn page_of_items(
        &self,
        loaded: &Loaded,
        most_recent: Option<usize>,
        page: Option<rsm::Request>,
    ) -> Result<Page, Refusal> {
        let ids = self.item_ids(loaded).await?;
        let request = page.unwrap_or(match most_recent {
            Some(max) => rsm::Request { max: Some(u32::try_from(max).unwrap_or(u32::MAX)), start: rsm::Start::Last },
            None => rsm::Request::ALL,
        });
        let find = |id: &str| ids.iter().position(|known| known == id);
        let range = request.page(ids.len(), find, self.config.limits.page_max as usize)?;
        let backwards = request.is_backwards();
        let wanted = ids.get(range.clone()).unwrap_or_default();
        let (items, _) = self.load_items(loaded, wanted, backwards).await?;
        let is_whole = items.len() >= most_recent.unwrap_or(usize::MAX).min(ids.len());
        let index = if backwards { range.end.saturating_sub(items.len()) } else { range.start };
        Ok(Page { place: Some((index, ids.len())), items, is_whole })
    }

    /// Loads items until the answer is full, from the front or from the back; whether some did not fit.
    async fn load_items(
        &self,
        loaded: &Loaded,
        ids: &[String],
        backwards: bool,
    ) -> Result<(Vec<(String, Item)>, bool), StoreError> {
        // All are asked for before the first is awaited.
        let gets: Vec<_> =
            ids.iter().map(|id| self.store.get(Table::PubSub, &self.keys.item(&loaded.id, id))).collect();
        let mut records = Vec::with_capacity(ids.len());
        for (id, get) in ids.iter().zip(gets) {
            if let Some(record) = get.await? {
                records.push((id.clone(), Item::decode(&record)?));
            }
        }
        records.retain(|(_, item)| !loaded.node.config.has_expired(item.published, self.now));
        if backwards {
            records.reverse();
        }
        let mut bytes = 0;
        let bytes_max = self.config.limits.reply_bytes_max as usize;
        let fits = records.iter().take_while(|(id, item)| {
            bytes += id.len() + item.payload.len() + item.publisher.as_str().len() + 64;
            bytes <= bytes_max
        });
        // One is given whatever its size: it was not too large to be published.
        let len = fits.count().max(1).min(records.len());
        let is_cut = len < records.len();
        records.truncate(len);
        if backwards {
            records.reverse();
        }
        Ok((records, is_cut))
    }
}

/// How many of the most recent items are asked for (§6.5.7).
fn most_recent(asked: &Node) -> Result<Option<usize>, Refusal> {
    let Some(max) = asked.attr("max_items") else { return Ok(None) };
    let digits = !max.is_empty() && max.bytes().all(|byte| byte.is_ascii_digit());
    // A number beyond all bounds asks for all there are.
    if digits { Ok(Some(max.parse().unwrap_or(usize::MAX))) } else { Err(Condition::BadRequest.into()) }
}
