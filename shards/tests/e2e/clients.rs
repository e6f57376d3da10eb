//! Clients others wrote: slixmpp, aioxmpp (Python), tokio-xmpp (Rust) and libstrophe (C).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio_xmpp::connect::DnsConfig;
use tokio_xmpp::jid::Jid;
use tokio_xmpp::parsers::message::{Lang, Message};
use tokio_xmpp::parsers::presence::{Presence, Type};
use tokio_xmpp::xmlstream::Timeouts;
use tokio_xmpp::{Client, Event, Stanza};

use crate::broker::{Broker, PASSWORD, PATIENCE};
use crate::wire::Wire;

/// What the virtual environment holds.
const PACKAGES: [&str; 3] = ["slixmpp==1.17.0", "aioxmpp==0.13.3", "pytz==2025.2"];

/// The Python of a virtual environment under `target/`, made at its first use.
pub(crate) fn python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("e2e-venv");
        let (python, done) = (home.join("bin/python"), home.join(PACKAGES.join("_")));
        if !done.exists() {
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home));
            run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES));
            std::fs::write(done, "").unwrap();
        }
        python
    };
    PYTHON.get_or_init(make).clone()
}

/// Runs it; it must succeed.
pub(crate) fn run(command: &mut Command) {
    // What is shared by Python clients is not compiled into the source tree.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
}

fn python_client(script: &str) {
    let broker = Broker::start("");
    broker.cli(&["account", "disable", "emil@localhost"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/clients").join(script);
    let mut command = Command::new(python());
    command.arg(script).args([broker.starttls, broker.direct].map(|port| port.to_string())).arg(PASSWORD);
    run(command.args(["anna", "bert", "cleo", "dora", "emil"]));
    broker.stop();
}

#[test]
fn slixmpp_is_at_home() {
    python_client("slix.py");
}

#[test]
fn aioxmpp_is_at_home() {
    python_client("aio.py");
}

#[test]
fn slixmpp_reads_an_archive() {
    let broker = Broker::start("[archive]\nmodes = ['roster', 'always']\n");
    broker.cli(&["account", "archive", "anna@localhost", "allowed"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/clients/slix_mam.py");
    let mut command = Command::new(python());
    run(command.arg(script).arg(broker.starttls.to_string()).args([PASSWORD, "anna", "bert"]));
    broker.stop();
}

/// The client's own ideas of the sensor data and control interfaces pass through, and are judged for a thing that is enforced.
#[test]
fn slixmpp_reads_and_controls_a_lamp() {
    let broker = Broker::start("");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/clients/slix_iot.py");
    let talk = |mode: &str| {
        let mut command = Command::new(python());
        run(command.arg(&script).arg(broker.starttls.to_string()).args([PASSWORD, "dora", "anna", "bert", mode]));
    };
    talk("open");
    broker.cli(&["thing", "claim", "dora@localhost", "--owner", "anna@localhost"]);
    broker.cli(&["thing", "enforce", "dora@localhost", "on"]);
    talk("enforced");
    broker.stop();
}

#[test]
fn slixmpp_runs_the_commands_of_owners() {
    let broker = Broker::start("");
    let mut lamp = Wire::available(&broker, "dora", "a");
    let register = "<register xmlns='urn:xmpp:iot:discovery'><str name='SN' value='1'/></register>";
    lamp.ask("set", "things.localhost", register);
    broker.cli(&["thing", "claim", "dora@localhost", "--owner", "anna@localhost"]);
    drop(lamp);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/clients/slix_adhoc.py");
    let mut command = Command::new(python());
    run(command.arg(script).arg(broker.starttls.to_string()).args([PASSWORD, "anna", "bert", "dora"]));
    broker.stop();
}

#[test]
fn slixmpp_resumes_while_the_broker_is_upgraded() {
    let mut broker = Broker::start_copy("");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/clients/slix_upgrade.py");
    let pairs = broker.pairs();
    for (one, other) in &pairs {
        let mut command = Command::new(python());
        command.arg(&script).arg(broker.starttls.to_string()).args([PASSWORD, one, other]);
        command.arg(env!("CARGO_BIN_EXE_plaza")).arg("--config").arg(broker.scratch().join("plaza.toml"));
        run(command.arg("upgrade"));
    }
    assert_eq!(broker.log().matches("handing over").count(), 2 * pairs.len());
    broker.stop();
}

#[test]
fn libstrophe_is_at_home() {
    let broker = Broker::start("");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/clients/strophe.c");
    let program = broker.scratch().join("strophe");
    let has = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    if !has(Command::new("cc").arg("--version")) || !Path::new("/usr/include/strophe.h").exists() {
        eprintln!("SKIPPED libstrophe: needs cc and strophe.h (apt-get install libstrophe-dev)");
        return broker.stop();
    }
    run(Command::new("cc").args(["-Wall", "-Wextra", "-o"]).arg(&program).arg(source).arg("-lstrophe"));
    run(Command::new(program).args([broker.starttls, broker.direct].map(|port| port.to_string())).arg(PASSWORD));
    broker.stop();
}

#[test]
fn tokio_xmpp_is_at_home() {
    let broker = Broker::start("");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let chat = chat(broker.plain);
        tokio::time::timeout(PATIENCE * 2, chat).await.expect("the chat ends in time");
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    broker.stop();
}

async fn chat(port: u16) {
    let mut clients = Vec::new();
    for user in ["anna", "bert", "cleo"] {
        let address = DnsConfig::addr(&format!("127.0.0.1:{port}"));
        let jid = Jid::new(&format!("{user}@localhost/rust")).unwrap();
        let mut client = Client::new_plaintext(jid.clone(), PASSWORD, address, Timeouts::default());
        loop {
            match client.next().await {
                Some(Event::Online { bound_jid, .. }) => break assert_eq!(bound_jid, jid),
                Some(Event::Stanza(_)) => {}
                other => panic!("{user}: {other:?}"),
            }
        }
        client.send_stanza(Presence::new(Type::None).into()).await.unwrap();
        clients.push((jid, client));
    }
    // One's own presence comes back: from then on the bare address reaches.
    for (jid, client) in &mut clients {
        while !matches!(next(client).await, Stanza::Presence(presence) if presence.from.as_ref() == Some(jid)) {}
    }
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        let full = clients[to].0.clone();
        for address in [full.clone(), Jid::from(full.to_bare())] {
            let text = format!("{} → {address}: <&> ünï🦀", clients[from].0);
            let message = Message::chat(address).with_body(Lang::from(""), text.clone());
            clients[from].1.send_stanza(message.into()).await.unwrap();
            let received = loop {
                if let Stanza::Message(message) = next(&mut clients[to].1).await {
                    break message;
                }
            };
            assert_eq!(received.from.as_ref(), Some(&clients[from].0));
            assert_eq!(received.bodies.values().next(), Some(&text));
        }
    }
    for (_, client) in clients {
        client.send_end().await.unwrap();
    }
}

async fn next(client: &mut Client) -> Stanza {
    loop {
        match client.next().await {
            Some(Event::Stanza(stanza)) => return stanza,
            Some(Event::Online { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}
