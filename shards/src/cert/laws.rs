//! What holds of certificates, whatever bytes they are: none makes a reader panic, and addresses read from one are addresses
//! of accounts.
//!
//! Called by a property test and by a fuzz target; in no broker.

use super::{CertificateDer, CertificateFacts, CertificateFiles, FromDer as _, Jid, X509Certificate};
use super::{server_end_point, xmpp_addresses};

/// Reads a certificate in DER, the broker's own or a client's; gives whether it is one.
///
/// # Panics
/// If the law does not hold.
pub fn certificate(bytes: &[u8]) -> bool {
    let der = CertificateDer::from(bytes);
    for address in xmpp_addresses(&der).unwrap_or_default() {
        assert!(address.as_jid().local().is_some() && address.as_jid().resource().is_none());
        assert_eq!(Jid::parse(address.as_str()).as_ref(), Ok(&address));
    }
    let Ok((_, parsed)) = X509Certificate::from_der(bytes) else { return false };
    assert!(matches!(server_end_point(&parsed, bytes).len(), 0 | 32 | 48 | 64));
    let files = CertificateFiles { certificate: "certificate.pem".into(), key: "key.pem".into() };
    let facts = CertificateFacts::of(&files, &parsed, der.clone().into_owned());
    assert!(facts.days_left().is_none_or(|days| days < 10_000 * 366));
    for domain in ["things.example", "10.255.255.213", "[::1]"] {
        facts.covers(&Jid::parse(domain).expect("a domain"));
    }
    true
}
