//! Downgrade protection: a hash of what the server advertised, inside SCRAM, where nobody in between can change it.
//!
//! Sent by [`super::scram`], checked by [`super::client`]. Whoever takes a mechanism or a type of channel binding out of
//! the lists has to change the hash as well, and then the proofs no longer fit.
//!
//! Spec: XEP-0474 v0.5.0.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::scram::Hash;

/// Between two names of a list.
const BETWEEN: &str = "\u{1e}";
/// Between the list of mechanisms and that of types of channel binding.
const LISTS: &str = "\u{1f}";

/// The hash of the advertised lists, in Base64 (XEP-0474 v0.5.0 §6.1): mechanisms of the profile of SASL in use, and the
/// types of channel binding if XEP-0440 was used to advertise any. Their order does not matter.
pub fn hash(hash: Hash, mechanisms: &[&str], bindings: Option<&[&str]>) -> String {
    let mut lists = joined(mechanisms);
    if let Some(bindings) = bindings {
        lists.push_str(LISTS);
        lists.push_str(&joined(bindings));
    }
    STANDARD.encode(hash.digest(lists.as_bytes()))
}

/// The names in the order of their bytes (`i;octet`, RFC 4790 §9.3).
fn joined(names: &[&str]) -> String {
    let mut names = names.to_vec();
    names.sort_unstable();
    names.join(BETWEEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_example() {
        // XEP-0474 §6.3, in the order in which the server advertised.
        let mechanisms = ["SCRAM-SHA-1", "SCRAM-SHA-1-PLUS"];
        let bindings = ["tls-server-end-point", "tls-exporter"];
        assert_eq!(hash(Hash::Sha1, &mechanisms, Some(&bindings)), "G6k/rBLDqgOhRRaCuuatSDFkJ08=");
    }

    #[test]
    fn every_name_counts_and_their_order_does_not() {
        let of = |mechanisms: &[&str], bindings: Option<&[&str]>| hash(Hash::Sha256, mechanisms, bindings);
        let whole = of(&["SCRAM-SHA-256", "SCRAM-SHA-1"], Some(&["tls-exporter"]));
        assert_eq!(of(&["SCRAM-SHA-1", "SCRAM-SHA-256"], Some(&["tls-exporter"])), whole);
        assert_ne!(of(&["SCRAM-SHA-1"], Some(&["tls-exporter"])), whole);
        assert_ne!(of(&["SCRAM-SHA-1", "SCRAM-SHA-256"], None), whole);
        assert_ne!(of(&["SCRAM-SHA-1", "SCRAM-SHA-256"], Some(&[])), whole);
        assert_ne!(of(&["SCRAM-SHA-1", "SCRAM-SHA-256", "tls-exporter"], None), whole);
    }
}
