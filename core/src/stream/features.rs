//! What we say at the start of each stream: our header and the features open to the client in its present state.
//!
//! Spec: RFC 6120 §4.3.2, §4.7, §5.3.1, §6.3.3, §7.2; RFC 6121 §2.6.1, §3.4.1; XEP-0077 v2.4 §8; XEP-0115 v1.6.0 §6.3; XEP-0198 v1.6.3 §2,
//! §8; XEP-0352; XEP-0386 v1.1.0 §3.1; XEP-0388 v1.0.4 §2.1; XEP-0440 v1.0.0; XEP-0478 v0.2.0; XEP-0484 v0.2.0 §3.1.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::error::write_parts;
use super::{Link, StreamConfig};
use crate::limits::ScanLimits;
use crate::ns;
use crate::sasl::ht::HtMechanism;
use crate::xml::write;

impl Link {
    /// Writes our header, to the bare JID that the client has named as its own, if it has (RFC 6120 §4.7.2).
    pub(super) fn write_header(&mut self, out: &mut Vec<u8>) {
        self.header_sent = true;
        out.extend_from_slice(b"<?xml version='1.0'?><stream:stream");
        write::attr(out, "from", self.domain());
        if let Some(from) = &self.from {
            write::attr(out, "to", from.as_str());
        }
        write::attr(out, "id", &URL_SAFE_NO_PAD.encode(self.id));
        write::attr(out, "xml:lang", self.lang.as_deref().unwrap_or("en"));
        write_parts(out, &[" version='1.0' xmlns='", ns::CLIENT, "' xmlns:stream='", ns::STREAMS, "'>"]);
    }

    /// Writes the features before authentication.
    pub(super) fn write_features_before_auth(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"<stream:features>");
        if self.offers_starttls() {
            let required = if self.config.tls_required { "'><required/></starttls>" } else { "'/>" };
            write_parts(out, &["<starttls xmlns='", ns::TLS, required]);
        }
        self.write_mechanisms(out);
        if self.offers_registration() {
            write_parts(out, &["<register xmlns='", ns::REGISTER_FEATURE, "'/>"]);
        }
        self.write_limits(&self.config.before_auth, 0, out);
        out.extend_from_slice(b"</stream:features>");
    }

    /// The mechanisms, in both profiles of SASL, and the types of channel binding they may use; nothing if no mechanism can be used yet.
    fn write_mechanisms(&self, out: &mut Vec<u8>) {
        if self.permitted().next().is_none() {
            return;
        }
        write_parts(out, &["<mechanisms xmlns='", ns::SASL, "'>"]);
        self.write_permitted(out);
        out.extend_from_slice(b"</mechanisms>");
        if self.offers_sasl2() {
            write_parts(out, &["<authentication xmlns='", ns::SASL2, "'>"]);
            self.write_permitted(out);
            self.write_inline(out);
            out.extend_from_slice(b"</authentication>");
        }
        if !self.tls.binding.is_empty() {
            write_parts(out, &["<sasl-channel-binding xmlns='", ns::SASL_CHANNEL_BINDING, "'>"]);
            for (name, _) in self.tls.binding.types() {
                write_parts(out, &["<channel-binding type='", name, "'/>"]);
            }
            out.extend_from_slice(b"</sasl-channel-binding>");
        }
    }

    /// The mechanisms. They don't depend on who the client says it is (XEP-0388 §2.1): that would tell accounts apart.
    fn write_permitted(&self, out: &mut Vec<u8>) {
        for mechanism in self.permitted() {
            write_parts(out, &["<mechanism>", mechanism.name(), "</mechanism>"]);
        }
    }

    /// What can be asked for while authenticating: a new session, and how it may begin; a former one (XEP-0386 §3.1,
    /// XEP-0198 §8); a token for the next time (XEP-0484 §3.1).
    fn write_inline(&self, out: &mut Vec<u8>) {
        let StreamConfig { offers_carbons, offers_csi, offers_sm, .. } = *self.config;
        write_parts(out, &["<inline><bind xmlns='", ns::BIND2]);
        let mut features = [(offers_carbons, ns::CARBONS), (offers_csi, ns::CSI), (offers_sm, ns::SM)]
            .into_iter()
            .filter_map(|(offered, name)| offered.then_some(name))
            .peekable();
        if features.peek().is_some() {
            out.extend_from_slice(b"'><inline>");
            for name in features {
                write_parts(out, &["<feature var='", name, "'/>"]);
            }
            out.extend_from_slice(b"</inline></bind>");
        } else {
            out.extend_from_slice(b"'/>");
        }
        if self.offers_fast() {
            write_parts(out, &["<fast xmlns='", ns::FAST, "'>"]);
            for mechanism in HtMechanism::OFFERED.into_iter().filter(|mechanism| self.permits_token(*mechanism)) {
                write_parts(out, &["<mechanism>", mechanism.name(), "</mechanism>"]);
            }
            out.extend_from_slice(b"</fast>");
        }
        if offers_sm {
            write_parts(out, &["<sm xmlns='", ns::SM, "'/>"]);
        }
        out.extend_from_slice(b"</inline>");
    }

    /// Writes the features after authentication.
    pub(super) fn write_features_after_auth(&self, out: &mut Vec<u8>) {
        write_parts(out, &["<stream:features><bind xmlns='", ns::BIND, "'/>"]);
        if self.config.legacy_session {
            write_parts(out, &["<session xmlns='", ns::SESSION, "'><optional/></session>"]);
        }
        write_parts(out, &["<ver xmlns='", ns::ROSTER_VERSIONING, "'/><sub xmlns='", ns::PRE_APPROVAL, "'/>"]);
        if let Some(caps) = &self.config.caps {
            caps.write(out);
        }
        self.write_features_of_session(self.config.offers_sm, out);
        self.write_limits(&self.config.after_auth, self.config.idle_seconds, out);
        out.extend_from_slice(b"</stream:features>");
    }

    /// Writes the features of a stream that is a session already (XEP-0388 §2.6.1); `managed`: stream management is on.
    pub(super) fn write_features_after_bind(&self, managed: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"<stream:features>");
        self.write_features_of_session(self.config.offers_sm && !managed, out);
        self.write_limits(&self.config.after_auth, self.config.idle_seconds, out);
        out.extend_from_slice(b"</stream:features>");
    }

    /// What can be used once a resource is bound.
    fn write_features_of_session(&self, sm: bool, out: &mut Vec<u8>) {
        for (offered, name, namespace) in [(sm, "sm", ns::SM), (self.config.offers_csi, "csi", ns::CSI)] {
            if offered {
                write_parts(out, &["<", name, " xmlns='", namespace, "'/>"]);
            }
        }
    }

    /// The limits of this stream (XEP-0478). Before authentication there is no idling, only the deadline.
    fn write_limits(&self, limits: &ScanLimits, idle_seconds: u32, out: &mut Vec<u8>) {
        write_parts(out, &["<limits xmlns='", ns::STREAM_LIMITS, "'><max-bytes>"]);
        write_parts(out, &[&limits.stanza_bytes_max.to_string(), "</max-bytes>"]);
        if idle_seconds > 0 {
            write_parts(out, &["<idle-seconds>", &idle_seconds.to_string(), "</idle-seconds>"]);
        }
        out.extend_from_slice(b"</limits>");
    }
}
