//! Tokens, which stand for certificates.

use crate::iot::{Generation, Interface};
use crate::stanza::Condition;
use crate::xml::read::Node;
use crate::xml::write;

/// What is asked of the service about tokens, by an iq get. What is binary is Base64, as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenRequest {
    /// `getToken`: a certificate, for which there is to be a token.
    Get {
        /// The certificate.
        certificate: String,
    },
    /// `getTokenChallengeResponse`: what the challenge holds.
    Respond {
        /// Which challenge.
        number: i32,
        /// What it holds.
        response: String,
    },
    /// `getCertificate`: what a token stands for.
    Certificate {
        /// The token, with or without the address in front.
        token: String,
    },
}

impl TokenRequest {
    /// Whether a name in the common namespace of the first generation is one of these.
    pub fn is_name(name: &str) -> bool {
        matches!(name, "getToken" | "getTokenChallengeResponse" | "getCertificate" | "tokenChallenge")
    }

    /// Reads the payload of an iq get.
    ///
    /// # Errors
    /// `bad-request` for what is not whole, or for the service to send; `feature-not-implemented` for another name.
    pub fn read(payload: &Node) -> Result<Self, Condition> {
        let text = || payload.text.trim_ascii().to_owned();
        match &*payload.name {
            "getToken" => Ok(Self::Get { certificate: text() }),
            "getTokenChallengeResponse" => {
                let number = payload.attr("seqnr").and_then(|number| number.trim_ascii().parse().ok());
                Ok(Self::Respond { number: number.ok_or(Condition::BadRequest)?, response: text() })
            }
            "getCertificate" => {
                let token = payload.attr("token").map_or_else(text, |token| token.trim_ascii().to_owned());
                if token.is_empty() { Err(Condition::BadRequest) } else { Ok(Self::Certificate { token }) }
            }
            "getTokenChallenge" | "getTokenResponse" | "certificate" | "tokenChallenge" | "tokenChallengeResponse" => {
                Err(Condition::BadRequest)
            }
            _ => Err(Condition::FeatureNotImplemented),
        }
    }
}

/// Writes `<getTokenChallenge/>`.
pub fn write_challenge(out: &mut Vec<u8>, generation: Generation, number: i32, base64: &str) {
    begin(out, "getTokenChallenge", generation);
    write::attr_raw(out, "seqnr", &number.to_string());
    end(out, "getTokenChallenge", base64);
}

/// Writes `<getTokenResponse/>`.
pub fn write_token(out: &mut Vec<u8>, generation: Generation, token: &str) {
    begin(out, "getTokenResponse", generation);
    write::attr(out, "token", token);
    out.extend_from_slice(b"/>");
}

/// Writes `<certificate/>`.
pub fn write_certificate(out: &mut Vec<u8>, generation: Generation, base64: &str) {
    begin(out, "certificate", generation);
    end(out, "certificate", base64);
}

/// Writes `<tokenChallenge/>`, the payload of an iq get to whoever used a token.
pub fn write_token_challenge(out: &mut Vec<u8>, generation: Generation, token: &str, base64: &str) {
    begin(out, "tokenChallenge", generation);
    write::attr(out, "token", token);
    end(out, "tokenChallenge", base64);
}

/// Reads `<tokenChallengeResponse/>`: Base64, as it was sent.
pub fn read_token_challenge_response(payload: &Node) -> Option<&str> {
    (payload.name == "tokenChallengeResponse").then(|| payload.text.trim_ascii())
}

fn begin(out: &mut Vec<u8>, name: &str, generation: Generation) {
    out.push(b'<');
    out.extend_from_slice(name.as_bytes());
    write::attr_raw(out, "xmlns", Interface::Tokens.ns(generation));
}

fn end(out: &mut Vec<u8>, name: &str, text: &str) {
    out.push(b'>');
    write::text(out, text);
    out.extend_from_slice(b"</");
    out.extend_from_slice(name.as_bytes());
    out.push(b'>');
}
