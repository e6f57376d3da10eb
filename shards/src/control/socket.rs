//! The control socket: newline-delimited JSON, a [`Command`] per line there, an [`Answer`] per line back, in order.

use std::future::Future;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tracing::{debug, warn};

use super::command::{Answer, Command, Refusal};

/// Longest line a client may send, in bytes.
const COMMAND_BYTES_MAX: u64 = 64 * 1024;
/// Longest line a broker may answer with: a page of accounts.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most clients at once; more wait in the listen queue.
const CLIENTS_MAX: usize = 16;
/// How long a client may be silent, or take to read its answer.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Pause after an accept that failed, lest it spin when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers clients for ever. `execute` carries out one command.
pub(super) async fn serve<F, Answered>(listener: UnixListener, execute: F)
where
    F: Fn(Command) -> Answered + 'static,
    Answered: Future<Output = Answer> + 'static,
{
    let execute = Rc::new(execute);
    let clients = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(permit) = clients.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let execute = execute.clone();
                spawn_local(async move {
                    if let Err(error) = converse(client, &*execute).await {
                        debug!(%error, "control client gone");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "control socket: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse<F, Answered>(client: UnixStream, execute: &F) -> io::Result<()>
where
    F: Fn(Command) -> Answered,
    Answered: Future<Output = Answer>,
{
    let (reading, mut writing) = client.into_split();
    let mut reading = BufReader::new(reading);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut reading).take(COMMAND_BYTES_MAX);
        tokio::time::timeout(SILENCE_MAX, bounded.read_until(b'\n', &mut line)).await??;
        if line.is_empty() {
            return Ok(());
        }
        let whole = line.ends_with(b"\n");
        let answer = match serde_json::from_slice(&line) {
            Ok(command) if whole => execute(command).await,
            Ok(_) => Answer::Error(Refusal::bad_request("a command ends with a newline, within 64 KiB")),
            Err(error) => Answer::Error(Refusal::bad_request(format!("not a command: {error}"))),
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        tokio::time::timeout(SILENCE_MAX, writing.write_all(&text)).await??;
        if !whole {
            return Ok(());
        }
    }
}

/// A client of a running broker.
pub struct Client {
    stream: io::BufReader<BlockingStream>,
}

impl Client {
    /// Connects; `None` if no broker listens there.
    ///
    /// # Errors
    /// Anything but its absence: not permitted, path too long.
    pub fn connect(socket: &Path) -> io::Result<Option<Self>> {
        match BlockingStream::connect(socket) {
            Ok(stream) => {
                stream.set_read_timeout(Some(SILENCE_MAX))?;
                stream.set_write_timeout(Some(SILENCE_MAX))?;
                Ok(Some(Self { stream: io::BufReader::new(stream) }))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// The broker went away, or does not answer in a minute.
    pub fn ask(&mut self, command: &Command) -> io::Result<Answer> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        line.clear();
        (&mut self.stream).take(ANSWER_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the broker closed the connection"));
        }
        Ok(serde_json::from_slice(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as BlockingListener;
    use std::thread;

    use tokio::task::LocalSet;

    use super::*;
    use crate::control::command::{AccountCommand, Reply};

    /// Runs `client` against a socket that answers each command by naming the account removed.
    fn with_server(client: impl FnOnce(&Path) + Send + 'static) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let listener = UnixListener::bind(&path).unwrap();
            let serving = spawn_local(serve(listener, |command| async move {
                match command {
                    Command::Account(AccountCommand::Remove { address }) => Answer::Ok(Reply::Removed { address }),
                    Command::Account(_)
                    | Command::Thing(_)
                    | Command::ApiKey(_)
                    | Command::Subject(_)
                    | Command::Backup(_)
                    | Command::Status
                    | Command::Upgrade => Answer::Error(Refusal::busy()),
                }
            }));
            let client = thread::spawn(move || client(&path));
            while !client.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            client.join().unwrap();
            serving.abort();
        });
    }

    #[test]
    fn commands_are_answered_in_order_on_one_connection() {
        with_server(|path| {
            let mut client = Client::connect(path).unwrap().expect("a broker");
            for address in ["a@localhost", "b@localhost"] {
                let command = Command::Account(AccountCommand::Remove { address: address.into() });
                assert_eq!(client.ask(&command).unwrap(), Answer::Ok(Reply::Removed { address: address.into() }));
            }
            assert_eq!(client.ask(&Command::Status).unwrap(), Answer::Error(Refusal::busy()));
        });
    }

    #[test]
    fn what_is_no_command_is_refused_and_the_connection_goes_on() {
        with_server(|path| {
            let mut stream = io::BufReader::new(BlockingStream::connect(path).unwrap());
            let mut ask = |text: &[u8]| {
                stream.get_mut().write_all(text).unwrap();
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                line
            };
            for text in ["{}\n", "null\n", "[[[[\n", "\u{1}\n", "\n"] {
                assert!(ask(text.as_bytes()).starts_with("{\"error\":{\"code\":\"bad-request\""), "{text}");
            }
            assert!(ask(b"\"status\"\n").contains("\"busy\""));
        });
    }

    #[test]
    fn an_endless_line_is_refused_at_the_bound() {
        with_server(|path| {
            let mut stream = BlockingStream::connect(path).unwrap();
            // The broker may close before all is written.
            _ = stream.write_all(&vec![b'x'; 80 * 1024]);
            let mut answer = String::new();
            _ = stream.read_to_string(&mut answer);
            assert!(answer.is_empty() || answer.contains("bad-request"), "{answer}");
        });
    }

    #[test]
    fn no_broker_is_not_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        assert!(Client::connect(&path).unwrap().is_none());
        drop(BlockingListener::bind(&path).unwrap());
        assert!(Client::connect(&path).unwrap().is_none(), "a socket left behind is no broker");
    }
}
