//! What the README tells a newcomer, by its own programs: a lamp creates its account, is claimed by its label and read, and a
//! stranger waits for the owner's word.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use crate::broker::{Broker, PASSWORD, PATIENCE};
use crate::clients::python;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs").join(name)
}

/// A lamp that runs, and what it prints.
struct Lamp {
    child: Child,
    lines: Receiver<String>,
}

impl Lamp {
    /// The rest of the next line that begins so.
    fn says(&self, start: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("the lamp never said {start:?}"));
            if let Some(rest) = line.strip_prefix(start) {
                return rest.trim().to_owned();
            }
        }
    }
}

impl Drop for Lamp {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_lamp_is_claimed_by_its_label_and_read_by_whom_its_owner_lets() {
    let broker = Broker::start("");
    let home = broker.scratch();
    symlink(home.join("data"), home.join("plaza-data")).unwrap();
    let made = broker.try_cli(&["apikey", "--json", "create", "ops@maker.example", "--accounts", "10"]);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap_or_else(|error| panic!("{error}: {made:?}"));
    let [key, secret] = ["key", "secret"].map(|name| made["apikeycreated"][name].as_str().unwrap().to_owned());
    let port = broker.starttls.to_string();
    let mut child = Command::new(python())
        .arg(script("lamp.py"))
        .args([&key, &secret, "4711", &port])
        .current_dir(&home)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (tell, lines) = channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    let lamp = Lamp { child, lines };
    assert_eq!(lamp.says("created"), "lamp-4711@localhost");
    let label = lamp.says("label");
    let owner = |user: &str, words: [&str; 2]| {
        let mut command = Command::new(python());
        command.arg(script("owner.py")).args([user, PASSWORD, &port]).args(words).current_dir(&home);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{user} {words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let code = broker.try_cli(&["thing", "label", &label]);
    assert!(code.status.success(), "{code:?}");
    assert_eq!(owner("anna", ["claim", &label]), "claimed lamp-4711@localhost");
    assert_eq!(lamp.says("claimed"), "anna@localhost");
    let address = "lamp-4711@localhost";
    assert_eq!(owner("anna", ["read", address]), "Power 4.2 W");
    let unseen = format!("{address} does not want to be seen: its owner has been asked");
    assert_eq!(owner("bert", ["read", address]), unseen);
    assert_eq!(owner("anna", ["answer", "yes"]), "isFriend bert@localhost: yes");
    let unread = format!("{address} does not want to be read (forbidden): its owner has been asked");
    assert_eq!(owner("bert", ["read", address]), unread);
    assert_eq!(owner("anna", ["answer", "yes"]), "canRead bert@localhost: yes");
    assert_eq!(owner("bert", ["read", address]), "Power 4.2 W");
    drop(lamp);
    broker.stop();
}
