//! A client in JavaScript, xmpp.js: it logs in with SASL2 and Bind 2, comes back with a token, and resumes its stream when it
//! is cut off.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::broker::{Broker, PASSWORD};
use crate::clients::run;

/// Oldest Node.js the client runs on.
const NODE_MIN: u32 = 20;

/// Where the client lies with what it needs, under `target/`; made at the first use. `None`, with a word why, where there is
/// no Node.js to run it.
fn installed() -> Option<PathBuf> {
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").output().ok().filter(|output| output.status.success())?;
        let text = String::from_utf8(output.stdout).ok()?;
        text.trim().trim_start_matches('v').split('.').next()?.parse::<u32>().ok()
    };
    let (node, npm) = (version("node"), version("npm"));
    if node.is_none_or(|node| node < NODE_MIN) || npm.is_none() {
        eprintln!("SKIPPED xmpp.js: needs node {NODE_MIN} or later and npm (apt-get install nodejs npm), has {node:?}");
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/clients/javascript");
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("e2e-node");
    std::fs::create_dir_all(&home).unwrap();
    let lock = std::fs::read(source.join("package-lock.json")).unwrap();
    // The lock's copy is written last: it stands for an installation that is complete.
    let done = home.join("installed-lock.json");
    if std::fs::read(&done).ok().as_ref() != Some(&lock) {
        for file in ["package.json", "package-lock.json"] {
            std::fs::copy(source.join(file), home.join(file)).unwrap();
        }
        run(Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(&home));
        std::fs::write(done, lock).unwrap();
    }
    std::fs::copy(source.join("client.mjs"), home.join("client.mjs")).unwrap();
    Some(home)
}

#[test]
fn xmpp_js_binds_at_once_resumes_and_comes_back_with_a_token() {
    let broker = Broker::start("");
    let Some(home) = installed() else { return broker.stop() };
    run(Command::new("node")
        .arg(home.join("client.mjs"))
        .args([broker.starttls, broker.direct].map(|port| port.to_string()))
        .arg(PASSWORD)
        .env("NODE_EXTRA_CA_CERTS", broker.scratch().join("data/tls/certificate.pem")));
    broker.stop();
}
