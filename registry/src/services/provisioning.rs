//! Decision support and tokens, at the address of the things (XEP-0324 v0.5.1): brings requests to
//! [`crate::provisioning`], and back what leaves unasked.
//!
//! A device whose session is at its home is answered there from memory; who comes this way is answered from the store.

use plaza_core::iot::{Generation, Interface};
use plaza_core::jid::Jid;
use plaza_core::provisioning::TokenRequest;
use plaza_core::stanza::{Condition, IqType};

use super::{Effect, Request, ServiceConfig};
use crate::provisioning::{self, HomeThings, Tell};
use crate::store::Store;

/// Answers a request in one of its namespaces.
pub(super) async fn answer<S: Store>(
    config: &ServiceConfig,
    store: &S,
    request: &Request,
    service: &Jid,
    effects: &mut Vec<Effect>,
) -> Result<Vec<u8>, Condition> {
    let (caller, now) = (request.caller.as_jid(), request.unix_millis);
    match Interface::of(&request.payload_ns) {
        Some((Interface::Device, generation)) if !is_token(generation, &request.payload_name) => {
            if request.iq_type != IqType::Get {
                return Err(Condition::BadRequest);
            }
            let things = HomeThings::load(store, caller.bare()).await.map_err(|error| super::condition(&error))?;
            let answered = provisioning::answer(things.as_deref(), caller, service.as_str(), &request.payload)?;
            if let Some(inquiry) = answered.inquiry {
                // The device has its answer whether the owner could be asked or not; it asks again.
                let tells = provisioning::ask(&config.provisioning, store, &inquiry, now).await;
                effects.extend(tells.unwrap_or_default().into_iter().map(Effect::from));
            }
            Ok(answered.payload)
        }
        Some((Interface::Device | Interface::Tokens, _)) => {
            let payload = super::read(request)?;
            let payload = (request.iq_type, &payload);
            provisioning::serve_tokens(&config.provisioning, store, &request.caller, service, payload, now).await
        }
        Some((Interface::Owner, _)) => {
            let payload = super::read(request)?;
            let payload = (request.iq_type, &payload);
            let told = provisioning::serve(&config.provisioning, store, caller, service, payload, now).await?;
            if !told.changed.is_empty() {
                effects.push(Effect::ThingsChanged(told.changed));
            }
            effects.extend(told.tells.into_iter().map(Effect::from));
            Ok(told.payload)
        }
        Some((Interface::Discovery, _)) | None => Err(Condition::ServiceUnavailable),
    }
}

/// Whether a name in a namespace for devices is about tokens, which the first generation has in the same one.
fn is_token(generation: Generation, name: &str) -> bool {
    generation == Generation::Xsf && TokenRequest::is_name(name)
}

impl From<Tell> for Effect {
    fn from(Tell { to, from, payload }: Tell) -> Self {
        Self::Tell { to, from, payload }
    }
}
