//! The scanner agrees with rxml and quick-xml, and with itself however the bytes are split.
#![no_main]

#[path = "../../../core/tests/oracle/mod.rs"]
mod oracle;

use libfuzzer_sys::fuzz_target;
use plaza_core::limits::ScanLimits;
use plaza_core::xml::{Scanned, Scanner, StreamNamespaces};

fuzz_target!(|input: &[u8]| {
    oracle::agree(input);
    let whole = first(input, usize::MAX);
    assert_eq!(whole, first(input, 1));
    assert_eq!(whole, first(input, 7));
    header(input);
});

/// The first event of bytes that arrive in pieces of one size, and where it ends.
fn first(input: &[u8], size: usize) -> (&'static str, usize) {
    let (mut scanner, ns) = (Scanner::new(), StreamNamespaces::default());
    let (mut kept, mut arrived) = (0, 0);
    loop {
        match scanner.next(&ScanLimits::BEFORE_AUTH, &ns, &input[kept..arrived]) {
            Ok(Scanned::Incomplete { skip }) => kept += skip,
            Ok(Scanned::Element { consumed, .. }) => return ("element", kept + consumed),
            Ok(Scanned::Close { consumed }) => return ("close", kept + consumed),
            Err(_) => return ("error", 0),
        }
        if arrived == input.len() {
            return ("incomplete", kept);
        }
        arrived = input.len().min(arrived.saturating_add(size));
    }
}

fn header(input: &[u8]) {
    let verdict = |scanner: &mut Scanner, input: &[u8]| match scanner.header(&ScanLimits::BEFORE_AUTH, input) {
        Ok(found) => found.map(|(_, ns, end)| Some((ns, end))),
        Err(_) => Some(None),
    };
    let whole = verdict(&mut Scanner::new(), input);
    let mut scanner = Scanner::new();
    let slow = (1..=input.len()).find_map(|end| verdict(&mut scanner, &input[..end]));
    assert_eq!(whole, slow);
}
