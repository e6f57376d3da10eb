//! The binary as an operator meets it: first start, accounts, status, reload, stop, exit statuses.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// A broker on free loopback ports, ended with the test.
struct Running {
    child: Child,
    greeting: Value,
    log: Receiver<String>,
    metrics: String,
    config: PathBuf,
    _directory: tempfile::TempDir,
}

fn plaza(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plaza"));
    command.args(words).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn write_config(directory: &Path) -> PathBuf {
    let file = directory.join("plaza.toml");
    let text = format!(
        "data = '{}'\nshards = 1\nscram_iterations = 4096\n[[listeners]]\naddress = '127.0.0.1:0'\n\
         [limits]\nconnections_per_shard_max = 64\n[metrics]\naddress = '127.0.0.1:0'\n",
        directory.join("data").display()
    );
    fs::write(&file, text).expect("a writable directory");
    file
}

impl Running {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let config = write_config(directory.path());
        let mut child = plaza(&["--json", "--config"])
            .arg(&config)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut first = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let (lines, log) = channel();
        let err = BufReader::new(child.stderr.take().expect("piped"));
        thread::spawn(move || err.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        out.read_line(&mut first).expect("readable");
        let greeting = serde_json::from_str(&first).unwrap_or(Value::Null);
        let mut running = Self { child, greeting, log, metrics: String::new(), config, _directory: directory };
        let line = running.log_line("metrics on http://");
        running.metrics =
            line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("host").to_owned();
        running
    }

    /// Waits for a log line with this text.
    fn log_line(&self, text: &str) -> String {
        loop {
            let line = self.log.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("no line with {text}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()));
    }

    fn ask(&self, words: &[&str]) -> Output {
        plaza(words).arg("--config").arg(&self.config).output().expect("the binary starts")
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.metrics).expect("the metrics port");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("answered");
        response
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn text(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_broker_lives_from_first_start_to_sigterm() {
    let mut running = Running::start();
    assert_eq!(running.greeting["admin"], "admin@localhost");
    assert_eq!(running.greeting["password"].as_str().map(str::len), Some(24));

    assert_eq!(text(&running.ask(&["account", "add", "lamp", "--password", "secret"])), "created lamp@localhost\n");
    assert_eq!(running.ask(&["account", "add", "lamp"]).status.code(), Some(1), "it exists");
    assert_eq!(text(&running.ask(&["account", "disable", "lamp@localhost"])), "disabled lamp@localhost\n");
    assert_eq!(text(&running.ask(&["account", "list"])), "admin@localhost  admin\nlamp@localhost  disabled\n");
    let status: Value = serde_json::from_str(&text(&running.ask(&["status", "--json"]))).expect("JSON");
    assert_eq!(status["status"]["shards"][0]["sessions"], 0);
    assert_eq!(status["status"]["pid"], running.child.id());

    assert!(running.get("/metrics").contains("\nplaza_sessions{shard=\"0\"} 0\n"));
    let metrics = running.get("/metrics");
    assert!(metrics.contains("\nplaza_things_indexed 0\n"), "{metrics}");
    assert!(metrics.contains("\nplaza_things_index_complete 1\n"), "{metrics}");
    assert!(running.get("/healthz").ends_with("\r\n\r\nok\n"));
    assert!(running.get("/").starts_with("HTTP/1.1 404 "));

    let second = running.ask(&[]);
    assert_eq!(second.status.code(), Some(69), "{}", String::from_utf8_lossy(&second.stderr));
    assert_eq!(text(&running.ask(&["account", "list"])).lines().count(), 2, "the second start took nothing away");

    running.signal("-HUP");
    running.log_line("certificate reloaded");
    running.signal("-TERM");
    running.log_line("stopped");
    assert_eq!(running.child.wait().expect("ends").code(), Some(0));

    assert_eq!(running.ask(&["status"]).status.code(), Some(69));
    assert_eq!(text(&running.ask(&["account", "enable", "lamp"])), "enabled lamp@localhost\n", "without a broker");
    assert_eq!(text(&running.ask(&["account", "list"])), "admin@localhost  admin\nlamp@localhost\n");
}

#[test]
fn what_is_kept_of_somebody_is_told_and_erased_with_a_receipt_with_a_broker_and_without() {
    let mut running = Running::start();
    let json = |output: &Output| serde_json::from_str::<Value>(&text(output)).expect("JSON");
    for name in ["lamp", "owner"] {
        text(&running.ask(&["account", "add", name, "--password", "secret"]));
    }
    let export = json(&running.ask(&["subject", "export", "lamp"]));
    assert_eq!(export["address"], "lamp@localhost");
    assert_eq!(export["kept"]["account"][0]["disabled"], false);
    let receipt_file = running.config.with_file_name("receipt.json");
    let path = receipt_file.to_str().expect("UTF-8");
    let receipt = json(&running.ask(&["subject", "erase", "lamp@localhost", "--receipt", path]));
    assert_eq!((&receipt["account_removed"], receipt["sha256"].as_str().map(str::len)), (&true.into(), Some(64)));
    let kept: Value = serde_json::from_slice(&fs::read(&receipt_file).expect("a receipt")).expect("JSON");
    assert_eq!(kept, receipt);
    assert_eq!(text(&running.ask(&["account", "list"])), "admin@localhost  admin\nowner@localhost\n");
    assert_eq!(json(&running.ask(&["subject", "export", "lamp"]))["kept"], serde_json::json!({}));

    running.signal("-TERM");
    running.log_line("stopped");
    assert_eq!(running.child.wait().expect("ends").code(), Some(0));
    assert_eq!(json(&running.ask(&["subject", "export", "owner"]))["kept"]["account"][0]["admin"], false);
    assert_eq!(json(&running.ask(&["subject", "erase", "owner"]))["account_removed"], true);
    assert_eq!(text(&running.ask(&["account", "list"])), "admin@localhost  admin\n");
}

#[test]
fn the_data_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let running = Running::start();
    let data = running.config.with_file_name("data");
    let mode = |name: &str| fs::metadata(data.join(name)).expect(name).permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("control.sock"), mode("tls/key.pem")), (0o700, 0o600, 0o600));
}

#[test]
fn what_is_wrong_is_told_by_the_exit_status() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = write_config(directory.path());
    let status = |words: &[&str]| plaza(words).current_dir(directory.path()).output().expect("starts").status.code();
    let config_text = config.to_str().expect("UTF-8");
    assert_eq!(status(&["config", "validate", config_text]), Some(0));
    assert_eq!(status(&["fly"]), Some(2));
    assert_eq!(status(&["status"]), Some(69));
    assert_eq!(status(&["--config", config_text, "--data", "plaza.toml/x"]), Some(73));
    fs::write(&config, "colour = 1").expect("writable");
    assert_eq!(status(&["config", "validate", config_text]), Some(78));
    assert_eq!(status(&["--config", config_text]), Some(78));
}
