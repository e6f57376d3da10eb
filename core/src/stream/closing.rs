//! Closing: the last words are written, and nothing more is read.
//!
//! Spec: RFC 6120 §4.4 (closing), §4.9.1 (errors), §5.4.2.2 (STARTTLS failure).

use super::error::{Condition, StreamError, Violation, write_close, write_error, write_parts};
use super::{Action, Link, State};
use crate::ns;

impl Link {
    /// Answers the peer's `</stream:stream>` (RFC 6120 §4.4).
    pub(super) fn on_close(&mut self, out: &mut Vec<u8>) -> State {
        write_close(out);
        self.close(None)
    }

    /// Ends the stream for what the peer did.
    pub(super) fn on_violation(&mut self, violation: Violation, out: &mut Vec<u8>) -> State {
        if matches!(violation, Violation::UnexpectedStartTls | Violation::PlaintextBehindStartTls { .. }) {
            write_parts(out, &["<failure xmlns='", ns::TLS, "'/>"]);
            write_close(out);
        } else {
            self.write_last_words(violation.error(), violation.text(), out);
        }
        self.close(Some(violation))
    }

    /// Ends the stream for reasons of our own.
    pub(super) fn on_abort(&mut self, condition: Condition, out: &mut Vec<u8>) -> State {
        self.write_last_words(condition.into(), "", out);
        self.close(None)
    }

    /// Writes a stream error; behind our header, if that was not sent yet (RFC 6120 §4.9.1.2).
    fn write_last_words(&mut self, error: StreamError, text: &str, out: &mut Vec<u8>) {
        if !self.header_sent {
            self.from = None;
            self.write_header(out);
        }
        write_error(out, error, text);
    }

    /// Ends the stream without a word; alone, it is for where a word would land in the middle of a TLS handshake.
    pub(super) fn close(&mut self, violation: Option<Violation>) -> State {
        self.action = Some(Action::Close(violation));
        State::Closing
    }
}
