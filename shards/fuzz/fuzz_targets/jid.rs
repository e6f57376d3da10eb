//! An address in normal form is its own normal form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plaza_core::jid::Jid;

fuzz_target!(|text: &str| {
    if let Ok(jid) = Jid::parse(text) {
        assert_eq!(Jid::parse(jid.as_str()).as_ref(), Ok(&jid));
    }
});
