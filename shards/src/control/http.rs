//! The metrics port: `GET /metrics` for Prometheus, `GET /healthz` for load balancers and service managers.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tracing::{debug, warn};

use super::Running;
use crate::metrics::{ProcessNumber, Type, encode};

/// Most connections at once; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 32;
/// Longest time a client may take for the head of a request; idle ones are closed then too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const UPTIME: &str = "plaza_uptime_seconds";
const NOT_AFTER: &str = "plaza_certificate_not_after_seconds";
const THINGS_INDEXED: &str = "plaza_things_indexed";
const THINGS_INDEX_COMPLETE: &str = "plaza_things_index_complete";
const THINGS_INDEX_BYTES: &str = "plaza_things_index_bytes";
const THINGS_INDEX_QUEUE: &str = "plaza_things_index_queue";
const STORE_READ_ONLY: &str = "plaza_store_read_only";
const STORE_FAILED_READS: &str = "plaza_store_failed_reads_total";
const RELOAD_FAILURES: &str = "plaza_reload_failures_total";
const STALLED_SHARDS: &str = "plaza_stalled_shards";
const SHARD_STALLS: &str = "plaza_shard_stalls_total";
const LOG_DROPPED: &str = "plaza_log_lines_dropped_total";
const LOG_LEFT_OUT: &str = "plaza_log_lines_left_out_total";
const MEMORY_BYTES: &str = "plaza_memory_bytes";
const MEMORY_LIMIT: &str = "plaza_memory_limit_bytes";
const MEMORY_USED: &str = "plaza_memory_used_bytes";
const MEMORY_LEVEL: &str = "plaza_memory_level";
const RESIDENT_BYTES: &str = "process_resident_memory_bytes";
const CPU_SECONDS: &str = "process_cpu_seconds_total";

/// Answers for ever.
pub(super) async fn serve(listener: TcpListener, running: Rc<Running>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((connection, peer)) => {
                let running = running.clone();
                spawn_local(async move {
                    let answering = service_fn(|request| {
                        let response = answer(&request, &running);
                        async { Ok::<_, Infallible>(response) }
                    });
                    let served = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_TIMEOUT)
                        .max_buf_size(HEAD_BYTES_MAX)
                        .serve_connection(TokioIo::new(connection), answering)
                        .await;
                    log_end(peer, served);
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "metrics: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn log_end(peer: SocketAddr, served: Result<(), hyper::Error>) {
    if let Err(error) = served {
        debug!(%peer, %error, "metrics client gone");
    }
}

fn answer<B>(request: &Request<B>, running: &Running) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD only\n");
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => text(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            encode(&running.shards, &process_numbers(running)).into(),
        ),
        "/healthz" if running.is_stopping() => plain(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        _ => plain(StatusCode::NOT_FOUND, "there is /metrics and /healthz\n"),
    }
}

fn plain(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    text(status, "text/plain; charset=utf-8", Bytes::from_static(body.as_bytes()))
}

fn text(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

/// Numbers of the process; those the kernel does not tell are left out.
fn process_numbers(running: &Running) -> Vec<ProcessNumber> {
    let not_after = running.tls.current().certificate.not_after;
    let gauge = |name, help, number| ProcessNumber { name, kind: Type::Gauge, help, label: None, number };
    let counter =
        |name, help, number| ProcessNumber { name, kind: Type::Counter, help, label: None, number: float(number) };
    let log = crate::log::missing();
    let (sample, limit) = running.memory.last();
    let held = |subsystem, number| ProcessNumber {
        label: Some(("subsystem", subsystem)),
        ..gauge(MEMORY_BYTES, "Bytes held, by what holds them", float(number))
    };
    let index = running.index.progress();
    let mut numbers = vec![
        gauge(UPTIME, "Time since the start", running.started.elapsed().as_secs_f64()),
        gauge(
            NOT_AFTER,
            "End of the certificate's validity, in seconds since 1970",
            not_after.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
        ),
        gauge(THINGS_INDEXED, "Things that strangers find, in the index of searches", float(index.things)),
        gauge(
            THINGS_INDEX_COMPLETE,
            "1 once the index has all that was in the store at the start; until then searches wait",
            f64::from(u8::from(index.is_filled)),
        ),
        gauge(THINGS_INDEX_BYTES, "About how much memory the index of things takes", float(index.bytes)),
        gauge(THINGS_INDEX_QUEUE, "Changes and searches that wait for the index of things", float(index.waiting)),
        gauge(
            STORE_READ_ONLY,
            "1 once a write failed: nothing more is stored until the broker is restarted",
            f64::from(u8::from(running.store.is_read_only())),
        ),
        counter(
            STORE_FAILED_READS,
            "Reads that failed: of a damaged record, or of a disk that does not answer",
            running.store.failed_reads(),
        ),
        counter(RELOAD_FAILURES, "Reloads refused, what was in force kept", running.reloads_failed.get()),
        gauge(STALLED_SHARDS, "Shards that do not finish their turn", float(running.stalls.now.get())),
        counter(SHARD_STALLS, "Times a shard did not finish its turn for ten seconds", running.stalls.total.get()),
        counter(LOG_DROPPED, "Log lines dropped because standard error was not read", log.dropped),
        counter(LOG_LEFT_OUT, "Log lines left out because there were many like them", log.left_out),
    ];
    numbers.extend([
        held("index", index.bytes),
        held("store", running.store.memory_bytes()),
        gauge(MEMORY_LIMIT, "Bytes the broker may use; 0 if there is no bound", float(limit)),
        gauge(MEMORY_USED, "Bytes it uses, for the watermarks", float(sample.used)),
        gauge(MEMORY_LEVEL, "How near it is to its bound: 0 to 3", f64::from(sample.level.number())),
    ]);
    numbers.extend(resident_bytes().map(|number| gauge(RESIDENT_BYTES, "Resident memory", number)));
    numbers.extend(cpu_seconds().map(|number| ProcessNumber {
        name: CPU_SECONDS,
        kind: Type::Counter,
        help: "User and system time of all threads",
        label: None,
        number,
    }));
    numbers
}

#[expect(clippy::cast_precision_loss, reason = "nothing that is counted here comes to 2^53")]
const fn float(number: u64) -> f64 {
    number as f64
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kibibytes| kibibytes * 1024.0)
}

fn cpu_seconds() -> Option<f64> {
    // USER_HZ is 100 wherever Linux runs us.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // Fields 14 and 15; the name in field 2 may hold anything, so count from the parenthesis behind it.
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operations_manual_names_every_number_of_the_process() {
        let manual = include_str!("../../../docs/operations.md");
        let things = [THINGS_INDEXED, THINGS_INDEX_COMPLETE, THINGS_INDEX_BYTES, THINGS_INDEX_QUEUE];
        let process =
            [UPTIME, NOT_AFTER, STORE_READ_ONLY, STORE_FAILED_READS, RELOAD_FAILURES, RESIDENT_BYTES, CPU_SECONDS];
        let faults = [STALLED_SHARDS, SHARD_STALLS, LOG_DROPPED, LOG_LEFT_OUT];
        let memory = [MEMORY_LIMIT, MEMORY_USED, MEMORY_LEVEL];
        for name in things.into_iter().chain(process).chain(faults).chain(memory) {
            assert!(manual.contains(&format!("`{name}`")), "docs/operations.md lacks {name}");
        }
    }

    #[test]
    fn the_kernel_tells_memory_and_cpu_time() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000.0));
        assert!(cpu_seconds().is_some_and(|seconds| seconds >= 0.0));
    }
}
