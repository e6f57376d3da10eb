//! The binary under test: a process on free loopback ports and a temporary data directory.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::wire::Wire;

/// The password of every account.
pub(crate) const PASSWORD: &str = "open-sesame";
/// Accounts every broker has; enough for some to be at home on each of the two shards.
pub(crate) const USERS: [&str; 6] = ["anna", "bert", "cleo", "dora", "emil", "fred"];
/// Longest wait for anything; machines under load are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running broker.
pub(crate) struct Broker {
    child: Child,
    data: TempDir,
    /// What its environment has beside ours.
    variables: Vec<(&'static str, OsString)>,
    shards: u64,
    /// Ports: no TLS, STARTTLS, TLS from the first byte, no TLS with PLAIN, metrics.
    pub(crate) plain: u16,
    pub(crate) starttls: u16,
    pub(crate) direct: u16,
    pub(crate) sasl_plain: u16,
    pub(crate) metrics: u16,
    baseline: u64,
    stopped: bool,
}

impl Broker {
    /// Starts one with the given lines in its `[limits]`, and gives it its accounts.
    pub(crate) fn start(limits: &str) -> Self {
        Self::start_with(limits, Vec::new())
    }

    /// The same in an environment with these variables.
    pub(crate) fn start_with(limits: &str, variables: Vec<(&'static str, OsString)>) -> Self {
        Self::start_sharded(2, limits, variables)
    }

    /// The same with as many shards.
    pub(crate) fn start_sharded(shards: u64, limits: &str, variables: Vec<(&'static str, OsString)>) -> Self {
        Self::start_in(TempDir::new().unwrap(), shards, limits, variables, None)
    }

    /// The same with its log in a pipe, rather than in a file.
    pub(crate) fn start_logging(limits: &str, variables: Vec<(&'static str, OsString)>, log: io::PipeWriter) -> Self {
        Self::start_in(TempDir::new().unwrap(), 2, limits, variables, Some(log))
    }

    /// The same from a copy of the binary, which may be replaced by another.
    pub(crate) fn start_copy(limits: &str) -> Self {
        let data = TempDir::new().unwrap();
        let copied =
            Command::new("cp").args([env!("CARGO_BIN_EXE_plaza"), "plaza"]).current_dir(&data).status().unwrap();
        assert!(copied.success());
        Self::start_in(data, 2, limits, Vec::new(), None)
    }

    /// The same with its plain listener's socket handed over, as a service manager does (sd_listen_fds(3)).
    pub(crate) fn start_handed(limits: &str) -> Self {
        let data = TempDir::new().unwrap();
        File::create(data.path().join("handed")).unwrap();
        Self::start_in(data, 2, limits, Vec::new(), None)
    }

    /// Puts another program where it was started from, in one piece.
    pub(crate) fn replace(&self, program: impl FnOnce(&Path)) {
        let new = self.data.path().join("plaza.new");
        program(&new);
        fs::rename(new, self.data.path().join("plaza")).unwrap();
    }

    fn start_in(
        data: TempDir,
        shards: u64,
        limits: &str,
        variables: Vec<(&'static str, OsString)>,
        log: Option<io::PipeWriter>,
    ) -> Self {
        let [plain, starttls, direct, sasl_plain, metrics] = [(); 5].map(|()| free_port());
        let mut config = format!(
            "domains = ['localhost']\ndata = '{}'\nshards = {shards}\nscram_iterations = 4096\n",
            data.path().join("data").display()
        );
        for (port, tls, with_plain) in [
            (plain, "none", false),
            (starttls, "starttls", true),
            (direct, "direct", false),
            (sasl_plain, "none", true),
        ] {
            write!(
                config,
                "[[listeners]]\naddress = '127.0.0.1:{port}'\nkind = 'c2s'\ntls = '{tls}'\nplain = {with_plain}\n"
            )
            .unwrap();
        }
        // Most tests ask how much comes through, not how fast it may come.
        let pace = match limits.contains("inbound_") {
            true => "",
            false => "inbound_stanzas_per_second = 0\ninbound_bytes_per_second = 0\n",
        };
        let sessions = if limits.contains("sessions_per_account_max") { "" } else { "sessions_per_account_max = 5\n" };
        write!(
            config,
            "[metrics]\naddress = '127.0.0.1:{metrics}'\n[limits]\nstop_deadline = '5s'\n{sessions}{pace}{limits}\n"
        )
        .unwrap();
        fs::write(data.path().join("plaza.toml"), config).unwrap();
        let handed = data.path().join("handed").exists().then(|| TcpListener::bind(("127.0.0.1", plain)).unwrap());
        let child = match handed {
            Some(socket) => Self::spawn_handed(&data, socket),
            None => Self::spawn(&data, &variables, log),
        };
        let mut broker = Self {
            child,
            data,
            variables,
            shards,
            plain,
            starttls,
            direct,
            sasl_plain,
            metrics,
            baseline: 0,
            stopped: false,
        };
        broker.wait("to serve", |broker| {
            assert!(broker.child.try_wait().unwrap().is_none(), "ended at its start:\n{}", broker.log());
            broker.http("/healthz").is_some_and(|answer| answer.contains("200 OK"))
        });
        for user in USERS {
            broker.cli(&["account", "add", &format!("{user}@localhost"), "--password", PASSWORD]);
        }
        broker.baseline = broker.connections();
        broker
    }

    /// Kills it as a power cut would, and starts it again on what it left.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.stopped = true;
    }

    /// Starts it again where it may refuse to: then its status, and what it said.
    pub(crate) fn try_start_again(&mut self) -> Result<(), (Option<i32>, String)> {
        let before = self.log().len();
        self.child = Self::spawn(&self.data, &self.variables, None);
        self.stopped = false;
        let mut status = None;
        self.wait("to serve again, or not", |broker| {
            status = broker.child.try_wait().unwrap();
            status.is_some() || broker.http("/healthz").is_some_and(|answer| answer.contains("200 OK"))
        });
        if let Some(status) = status {
            self.stopped = true;
            return Err((status.code(), self.log().split_off(before)));
        }
        self.baseline = self.connections();
        Ok(())
    }

    /// Stops it in order, and starts it again.
    pub(crate) fn restart_in_order(&mut self) {
        self.terminate();
        let status = self.ended(PATIENCE);
        self.check_end(status);
        self.stopped = false;
        self.start_again();
    }

    fn start_again(&mut self) {
        self.try_start_again().unwrap();
    }

    fn spawn(data: &TempDir, variables: &[(&'static str, OsString)], log: Option<io::PipeWriter>) -> Child {
        let file = || File::options().create(true).append(true).open(data.path().join("log")).unwrap();
        let log = log.map_or_else(|| Stdio::from(file()), Stdio::from);
        let mut command = Self::command(data);
        let copy = data.path().join("plaza");
        if copy.exists() {
            command = Self::command_of(copy.as_os_str(), data);
        }
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// With the socket as descriptor 3, and one that is no listener's as 4.
    fn spawn_handed(data: &TempDir, socket: TcpListener) -> Child {
        let log = File::options().create(true).append(true).open(data.path().join("log")).unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let script = "exec 3<&0 4>&1 0</dev/null 1>/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_plaza"), "--config"]).arg(data.path().join("plaza.toml"));
        command.env_remove("RUST_LOG").stdin(OwnedFd::from(socket)).stdout(OwnedFd::from(other)).stderr(log);
        command.spawn().unwrap()
    }

    fn command(data: &TempDir) -> Command {
        Self::command_of(OsStr::new(env!("CARGO_BIN_EXE_plaza")), data)
    }

    fn command_of(program: &OsStr, data: &TempDir) -> Command {
        let mut command = Command::new(program);
        command.arg("--config").arg(data.path().join("plaza.toml")).env_remove("RUST_LOG");
        command
    }

    /// Runs a command of the same binary.
    pub(crate) fn try_cli(&self, args: &[&str]) -> Output {
        Self::command(&self.data).args(args).output().unwrap()
    }

    /// Starts it under a limit as `prlimit` takes it, where it has to refuse.
    pub(crate) fn start_limited(&self, limit: &str) -> Output {
        let broker = Self::command(&self.data);
        let mut command = Command::new("prlimit");
        command.arg(limit).arg(broker.get_program()).args(broker.get_args()).env_remove("RUST_LOG");
        command.output().unwrap()
    }

    /// Runs a command of the same binary, which must succeed.
    pub(crate) fn cli(&self, args: &[&str]) {
        let output = self.try_cli(args);
        assert!(output.status.success(), "{args:?}: {output:?}\n{}", self.log());
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.data.path().join("log")).unwrap_or_default()
    }

    /// A directory for the test's own files.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.data.path().to_owned()
    }

    fn http(&self, path: &str) -> Option<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.metrics)).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// The sum of a family's numbers over those whose labels contain `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> u64 {
        let text = self.http("/metrics").expect("metrics are served");
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
        });
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    }

    fn connections(&self) -> u64 {
        self.metric("plaza_connections", "")
    }

    /// All that is not zero, for a failure's message.
    pub(crate) fn gauges(&self) -> String {
        let text = self.http("/metrics").unwrap_or_default();
        let lines = text.lines().filter(|line| line.starts_with("plaza_") && !line.ends_with(" 0"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// CPU time its threads have had: what they do, whoever else the machine has to serve.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanoseconds = |task: io::Result<fs::DirEntry>| {
            let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(tasks.filter_map(nanoseconds).sum())
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        self.metric("process_resident_memory_bytes", "")
    }

    /// Waits until something is so.
    pub(crate) fn wait(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(Instant::now() < end, "waited too long {what}; log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The shard an account is at home on, found by logging in.
    pub(crate) fn shard_of(&mut self, user: &str) -> u64 {
        let on = |broker: &Self| {
            let sessions = |shard| broker.metric("plaza_sessions", &format!("shard=\"{shard}\""));
            (0..broker.shards).map(sessions).collect::<Vec<_>>()
        };
        let before = on(self);
        let probe = Wire::login(self, user, "probe");
        let mut shard = 0;
        self.wait("for the session to count", |broker| {
            let now = on(broker);
            let more = now.iter().zip(&before).position(|(now, before)| now > before);
            shard = more.unwrap_or(0) as u64;
            now != before
        });
        drop(probe);
        self.wait("for the session to end", |broker| on(broker) == before);
        shard
    }

    /// Two pairs of users: two who share a shard, and two who don't. With six on two shards both exist, nearly always.
    pub(crate) fn pairs(&mut self) -> Vec<(&'static str, &'static str)> {
        let homes = USERS.map(|user| self.shard_of(user));
        let first = (1..USERS.len()).find(|&other| homes[other] == homes[0]);
        let second = (1..USERS.len()).find(|&other| homes[other] != homes[0]);
        [first, second].into_iter().flatten().map(|other| (USERS[0], USERS[other])).collect()
    }

    /// Writes another configuration, in one piece: it is read at any moment.
    pub(crate) fn reconfigure(&self, change: impl FnOnce(&str) -> String) {
        let file = self.data.path().join("plaza.toml");
        let text = fs::read_to_string(&file).unwrap_or_default();
        fs::write(self.data.path().join("plaza.toml.new"), change(&text)).unwrap();
        fs::rename(self.data.path().join("plaza.toml.new"), file).unwrap();
    }

    /// SIGHUP: read it again.
    pub(crate) fn hang_up(&self) {
        self.signal("-HUP");
    }

    /// SIGTERM, without waiting.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// SIGUSR2: be upgraded.
    pub(crate) fn upgrade(&self) {
        self.signal("-USR2");
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(name).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end of the process.
    pub(crate) fn ended(&mut self, within: Duration) -> ExitStatus {
        let end = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.stopped = true;
                return status;
            }
            assert!(Instant::now() < end, "did not end within {within:?}; log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// All clients are gone: the gauge is back where it was. Then stops it.
    pub(crate) fn stop(mut self) {
        let baseline = self.baseline;
        let end = Instant::now() + PATIENCE;
        while self.connections() != baseline {
            assert!(Instant::now() < end, "connections are left:\n{}\n{}", self.gauges(), self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.metric("plaza_panics_total", ""), 0, "a stream's code panicked");
        self.terminate();
        let status = self.ended(PATIENCE);
        self.check_end(status);
    }

    /// As [`Broker::stop`], while sessions wait to be resumed.
    pub(crate) fn stop_with_hibernated(self) {
        assert!(self.metric("plaza_hibernated_sessions", "") <= 1);
        self.stop();
    }

    /// It ended well.
    pub(crate) fn check_end(&self, status: ExitStatus) {
        let log = self.log();
        assert_eq!(status.code(), Some(0), "log:\n{log}");
        assert!(!log.contains("panicked"), "log:\n{log}");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if !self.stopped {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A port nobody has, nor any other test of this run: the broker's listeners would share it without a word. Below those that
/// the system gives to connections (32768 and up), of which tests make thousands: one of them might have it by the time the
/// broker wants it. Where to begin is left to chance, since there may be other runs.
fn free_port() -> u16 {
    const FIRST: u64 = 10_000;
    const COUNT: u64 = 22_000;
    /// Has no factor in common with the count, so that each port comes once before any comes again.
    const STRIDE: u64 = 7_919;
    static BEGIN: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(FIRST) % COUNT);
    static GIVEN: AtomicU64 = AtomicU64::new(0);
    loop {
        let place = (*BEGIN + GIVEN.fetch_add(1, Ordering::Relaxed) * STRIDE) % COUNT;
        let port = u16::try_from(FIRST + place).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
