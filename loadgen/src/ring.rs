//! One io_uring with its direct descriptors and its provided buffers: the only room with `unsafe`.
//!
//! Called by [`crate::worker`] (the load) and [`crate::relay`] (the raw relay). A connection is a slot of the ring's
//! own descriptor table, so neither the process's descriptor limit nor its shared table is touched. Knows nothing of
//! XMPP. Buffers the kernel may still write to or read from are owned here, never by the caller.
//!
//! Measured: raw ring with multishot recv, provided buffers and direct descriptors 8.2 µs per relayed message at
//! window 1, epoll 7.9–10, readiness-based async sockets 10–11.6.

#![allow(unsafe_code, reason = "the one room that talks to the kernel directly")]

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, DestinationSlot, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

/// Socket level for TCP options.
const TCP: u32 = libc::IPPROTO_TCP as u32;
/// Requests in the chain of a connect: socket, two options, bind, connect.
const CHAIN_ENTRIES: usize = 5;
/// The buffer group of every ring's only pool.
const GROUP: u16 = 0;
const PAGE: usize = 4096;
/// Operand of the options that are switched on; the kernel reads it while the request runs.
static ON: i32 = 1;

/// Sizes of a ring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingSettings {
    /// Connections it can hold; at most `RLIMIT_NOFILE`.
    pub slots: u32,
    /// Submission entries; completions get four times as many.
    pub entries: u32,
    /// Provided buffers, a power of two up to 32 768.
    pub buffers: u16,
    /// Bytes of each.
    pub buffer_bytes: u32,
}

/// What a request was, kept in the upper half of its user data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Op {
    Accept = 1,
    Open = 2,
    Connect = 3,
    Poll = 4,
    Recv = 5,
    Send = 6,
    Close = 7,
    Shutdown = 8,
}

impl Op {
    const fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Accept,
            2 => Self::Open,
            3 => Self::Connect,
            4 => Self::Poll,
            5 => Self::Recv,
            6 => Self::Send,
            7 => Self::Close,
            8 => Self::Shutdown,
            _ => return None,
        })
    }

    const fn tag(self, slot: u32) -> u64 {
        (self as u64) << 32 | slot as u64
    }
}

/// A provided buffer in our hands. Give it back with [`Ring::recycle`].
#[derive(Debug)]
pub(crate) struct Lent {
    id: u16,
    len: u32,
}

/// What happened on a slot.
#[derive(Debug)]
pub(crate) enum Event {
    /// The listener yielded a connection, now in this slot.
    Accepted(u32),
    /// The listener's multishot accept ended; arm it again.
    AcceptEnded,
    /// The connection stands, or the errno why not. May come twice for a failure.
    Connected(u32, Result<(), i32>),
    /// There is something to read.
    Readable(u32),
    /// Bytes arrived. `more`: the multishot recv goes on.
    Received(u32, Lent, bool),
    /// No buffer was free: nothing is lost, arm the recv again.
    Starved(u32),
    /// The peer closed (0), or the errno of the recv.
    Ended(u32, i32),
    /// A send is over: 0, or the errno if it failed, and its buffer.
    Sent(u32, i32, Vec<u8>),
}

/// An io_uring with direct descriptors. Belongs to the thread that made it (`SINGLE_ISSUER`).
///
/// Memory lent to the kernel is never freed: a ring lives as long as its run, and a process has few of them.
pub(crate) struct Ring {
    uring: IoUring,
    pool: Pool,
    /// The buffer of each slot's send in flight.
    flights: Vec<Option<Vec<u8>>>,
    /// Addresses named by connects in flight; boxed so that they stay put.
    #[expect(clippy::vec_box, reason = "the kernel holds pointers to them while the vector grows")]
    addresses: Vec<Box<libc::sockaddr_in>>,
    /// Provided buffers returned since the tail was last published.
    returned: bool,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("slots", &self.flights.len()).finish_non_exhaustive()
    }
}

/// The provided-buffer ring and its buffers, all from one page-aligned allocation each, never freed.
struct Pool {
    entries: NonNull<BufRingEntry>,
    bytes: NonNull<u8>,
    count: u16,
    buffer_bytes: u32,
    tail: u16,
}

impl Pool {
    fn new(count: u16, buffer_bytes: u32) -> Self {
        assert!(count.is_power_of_two() && buffer_bytes > 0, "a power of two of buffers");
        let entries = pages(count as usize * size_of::<BufRingEntry>()).cast();
        let bytes = pages(count as usize * buffer_bytes as usize);
        Self { entries, bytes, count, buffer_bytes, tail: 0 }
    }

    /// Queues a buffer for the kernel; it sees it once the tail is published.
    fn give(&mut self, id: u16) {
        let index = self.tail & (self.count - 1);
        // SAFETY: `index` < `count` entries were allocated, `id` < `count` buffers likewise; the kernel reads an entry
        // only below the published tail, and this one is above it.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(index as usize);
            entry.set_addr(self.bytes.as_ptr().add(id as usize * self.buffer_bytes as usize) as u64);
            entry.set_len(self.buffer_bytes);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the tail lies in the first entry's reserved field, aligned for u16, and lives as long as the process;
        // the kernel reads it with acquire, which pairs with this release.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

/// Zeroed, page-aligned memory that is never freed.
fn pages(bytes: usize) -> NonNull<u8> {
    let layout = Layout::from_size_align(bytes.max(PAGE), PAGE).expect("a buffer pool fits the address space");
    // SAFETY: the layout's size is not zero.
    NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

impl Ring {
    /// Sets up a ring.
    ///
    /// # Errors
    /// What the kernel said: no io_uring, too many slots for `RLIMIT_NOFILE`, not enough memory.
    pub(crate) fn new(settings: RingSettings) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(settings.entries * 4)
            .build(settings.entries)?;
        uring.submitter().register_files_sparse(settings.slots)?;
        let mut pool = Pool::new(settings.buffers, settings.buffer_bytes);
        // SAFETY: the entries are page-aligned, `count` of them, and never freed.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(pool.entries.as_ptr() as u64, settings.buffers, GROUP, 0)?;
        }
        for id in 0..settings.buffers {
            pool.give(id);
        }
        pool.publish();
        let flights = (0..settings.slots).map(|_| None).collect();
        Ok(Self { uring, pool, flights, addresses: Vec::new(), returned: false })
    }

    /// Completions signal this eventfd; for a thread that waits on several rings.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn signal(&self, eventfd: &OwnedFd) -> io::Result<()> {
        self.uring.submitter().register_eventfd(eventfd.as_raw_fd())
    }

    /// Remembers an address for connects of this ring; gives its number.
    pub(crate) fn address(&mut self, address: SocketAddrV4) -> usize {
        self.addresses.push(Box::new(libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
            sin_zero: [0; 8],
        }));
        self.addresses.len() - 1
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: every entry made in this file names memory that outlives its request: buffers in `flights`,
            // addresses in boxes that are never dropped before the process's requests are, statics, or none.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return;
            }
            // The queue is full: hand it to the kernel. Errors (EBUSY, EAGAIN) pass once completions are reaped by it.
            let _ = self.uring.submit();
        }
    }

    /// Hands the queue to the kernel unless it has room for a chain of linked requests: a chain must not be cut. The kernel
    /// takes the end of what is submitted for the end of the chain, and leaves its beginning to a worker thread; what
    /// follows later then finds no socket.
    fn room_for_chain(&mut self) {
        let submission = self.uring.submission();
        let room = submission.capacity() - submission.len();
        drop(submission);
        if room < CHAIN_ENTRIES {
            let _ = self.uring.submit();
        }
    }

    /// Makes a socket in `slot`, binds it to `source` (port left to connect) and connects it to `target`.
    pub(crate) fn connect(&mut self, slot: u32, source: Option<usize>, target: usize) {
        let Ok(destination) = DestinationSlot::try_from_slot_target(slot) else { return };
        self.room_for_chain();
        let linked = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
        let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        let socket = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).file_index(Some(destination)).build();
        self.push(&socket.flags(linked).user_data(Op::Open.tag(slot)));
        self.switch_on(slot, TCP, libc::TCP_NODELAY as u32, linked);
        if let Some(source) = source.and_then(|index| self.addresses.get(index)) {
            let source: *const libc::sockaddr_in = &**source;
            self.switch_on(slot, libc::SOL_IP as u32, libc::IP_BIND_ADDRESS_NO_PORT as u32, linked);
            let bind = opcode::Bind::new(Fixed(slot), source.cast(), length).build();
            self.push(&bind.flags(linked).user_data(Op::Open.tag(slot)));
        }
        let Some(target) = self.addresses.get(target) else { return };
        let target: *const libc::sockaddr_in = &**target;
        let connect = opcode::Connect::new(Fixed(slot), target.cast(), length).build();
        self.push(&connect.user_data(Op::Connect.tag(slot)));
    }

    fn switch_on(&mut self, slot: u32, level: u32, option: u32, flags: squeue::Flags) {
        let value: *const i32 = &raw const ON;
        let entry = opcode::SetSockOpt::new(Fixed(slot), level, option, value.cast(), size_of::<i32>() as u32).build();
        self.push(&entry.flags(flags).user_data(Op::Open.tag(slot)));
    }

    /// Accepts connections into free slots until told otherwise.
    pub(crate) fn accept(&mut self, listener: &TcpListener) {
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true).build();
        self.push(&entry.user_data(Op::Accept.tag(0)));
    }

    /// Switches Nagle's algorithm off.
    pub(crate) fn no_delay(&mut self, slot: u32) {
        self.switch_on(slot, TCP, libc::TCP_NODELAY as u32, squeue::Flags::SKIP_SUCCESS);
    }

    /// Tells once when there is something to read: all an idle session holds in the kernel.
    pub(crate) fn poll(&mut self, slot: u32) {
        let entry = opcode::PollAdd::new(Fixed(slot), libc::POLLIN as u32).build();
        self.push(&entry.user_data(Op::Poll.tag(slot)));
    }

    /// Receives once.
    pub(crate) fn receive(&mut self, slot: u32) {
        let length = self.pool.buffer_bytes;
        let entry = opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), length).buf_group(GROUP).build();
        self.push(&entry.flags(squeue::Flags::BUFFER_SELECT).user_data(Op::Recv.tag(slot)));
    }

    /// Receives until it is starved, closed or fails.
    pub(crate) fn receive_all(&mut self, slot: u32) {
        let entry = opcode::RecvMulti::new(Fixed(slot), GROUP).build();
        self.push(&entry.user_data(Op::Recv.tag(slot)));
    }

    /// Sends `buffer` from `from` on, whole unless the connection fails; the buffer comes back with [`Event::Sent`].
    /// One at a time per slot.
    ///
    /// # Panics
    /// If one is in flight: then the caller lost count.
    pub(crate) fn send(&mut self, slot: u32, buffer: Vec<u8>) {
        let flight = self.flights.get_mut(slot as usize).expect("a slot of this ring");
        assert!(flight.is_none(), "one send in flight per slot");
        // The vector moves into `flights`, its bytes stay where they are and are not touched until completion.
        let (pointer, length) = (buffer.as_ptr(), buffer.len() as u32);
        *flight = Some(buffer);
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = opcode::Send::new(Fixed(slot), pointer, length).flags(flags).build();
        self.push(&entry.user_data(Op::Send.tag(slot)));
    }

    /// Ends the slot's connection in both directions: its recv ends, and then it may be closed. Closing alone would leave it
    /// open for as long as the recv runs.
    pub(crate) fn shutdown(&mut self, slot: u32) {
        let entry = opcode::Shutdown::new(Fixed(slot), libc::SHUT_RDWR).build();
        self.push(&entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(Op::Shutdown.tag(slot)));
    }

    /// Ends the slot's connection in our direction: the peer reads to the end of what was sent, and then closes.
    pub(crate) fn finish(&mut self, slot: u32) {
        let entry = opcode::Shutdown::new(Fixed(slot), libc::SHUT_WR).build();
        self.push(&entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(Op::Shutdown.tag(slot)));
    }

    /// Closes the slot's connection.
    pub(crate) fn close(&mut self, slot: u32) {
        let entry = opcode::Close::new(Fixed(slot)).build();
        self.push(&entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(Op::Close.tag(slot)));
    }

    /// Submits what was asked for, and waits up to `wait` for a completion if none is there (`None`: does not wait).
    ///
    /// # Errors
    /// What the kernel said, other than that the time is over.
    pub(crate) fn submit(&mut self, wait: Option<Duration>) -> io::Result<()> {
        if std::mem::take(&mut self.returned) {
            self.pool.publish();
        }
        let result = match wait.filter(|_| self.uring.completion().is_empty()) {
            None => {
                let submission = self.uring.submission();
                let idle = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
                drop(submission);
                if idle { Ok(0) } else { self.uring.submit() }
            }
            Some(wait) => {
                let time = Timespec::new().sec(wait.as_secs()).nsec(wait.subsec_nanos());
                self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Takes what happened. The caller must give every [`Lent`] back.
    pub(crate) fn reap(&mut self, events: &mut Vec<Event>) {
        let mut completions = self.uring.completion();
        completions.sync();
        for completion in completions {
            let slot = completion.user_data() as u32;
            let result = completion.result();
            let flags = completion.flags();
            let more = cqueue::more(flags);
            let event = match Op::of((completion.user_data() >> 32) as u8) {
                Some(Op::Accept) => {
                    if let Ok(slot) = u32::try_from(result) {
                        events.push(Event::Accepted(slot));
                    }
                    if more {
                        continue;
                    }
                    Event::AcceptEnded
                }
                Some(Op::Open) => Event::Connected(slot, Err(-result)),
                Some(Op::Connect) if result == 0 => Event::Connected(slot, Ok(())),
                Some(Op::Connect) => Event::Connected(slot, Err(-result)),
                Some(Op::Poll) if result >= 0 => Event::Readable(slot),
                Some(Op::Poll) => Event::Ended(slot, -result),
                Some(Op::Recv) => match (u32::try_from(result), cqueue::buffer_select(flags)) {
                    (Ok(len), Some(id)) if len > 0 => Event::Received(slot, Lent { id, len }, more),
                    (_, Some(id)) => {
                        self.pool.give(id);
                        self.returned = true;
                        Event::Ended(slot, -result)
                    }
                    (_, None) if result == -libc::ENOBUFS => Event::Starved(slot),
                    (_, None) => Event::Ended(slot, -result),
                },
                Some(Op::Send) => {
                    let Some(buffer) = self.flights.get_mut(slot as usize).and_then(Option::take) else { continue };
                    match usize::try_from(result) {
                        Ok(sent) if sent == buffer.len() => Event::Sent(slot, 0, buffer),
                        Ok(_) => Event::Sent(slot, libc::EPIPE, buffer), // MSG_WAITALL falls short only at the end.
                        Err(_) => Event::Sent(slot, -result, buffer),
                    }
                }
                Some(Op::Close | Op::Shutdown) | None => continue,
            };
            events.push(event);
        }
    }

    /// The bytes of a lent buffer.
    pub(crate) fn bytes(&mut self, lent: &Lent) -> &mut [u8] {
        let length = lent.len.min(self.pool.buffer_bytes) as usize;
        // SAFETY: `id` names one of the pool's buffers (the kernel picked it, `Lent` is made nowhere else and cannot be
        // copied); until it is given back the kernel does not write to it; `&mut self` keeps the borrow exclusive.
        unsafe {
            let start = self.pool.bytes.as_ptr().add(lent.id as usize * self.pool.buffer_bytes as usize);
            std::slice::from_raw_parts_mut(start, length)
        }
    }

    /// Gives a buffer back to the kernel.
    pub(crate) fn recycle(&mut self, lent: Lent) {
        self.pool.give(lent.id);
        self.returned = true;
    }

    /// Whether nothing has been completed that was not reaped, and nothing waits for submission.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let submission = self.uring.submission();
        let quiet = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        quiet && self.uring.completion().is_empty()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Requests may still be in flight when the ring's descriptor closes; what they name must outlive them.
        std::mem::forget(std::mem::take(&mut self.flights));
        std::mem::forget(std::mem::take(&mut self.addresses));
    }
}

/// An eventfd several rings signal, for the thread that owns them all.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    /// Makes one.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; a non-negative result is a descriptor nobody else owns.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        Ok(Self(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(descriptor) }))
    }

    /// The descriptor to register.
    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.0
    }

    /// Sleeps until it rings or the time is over; stills it.
    pub(crate) fn wait(&self, wait: Duration) {
        let descriptor: RawFd = self.0.as_raw_fd();
        let time = libc::timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
        let mut count = 0_u64;
        // SAFETY: both calls are given one valid object each, alive across the call, and its size.
        unsafe {
            if libc::ppoll(&raw mut poll, 1, &raw const time, std::ptr::null()) > 0 {
                libc::read(descriptor, (&raw mut count).cast(), size_of::<u64>());
            }
        }
    }
}

/// Pins the calling thread to one cpu and lets its timers fire on time.
///
/// # Errors
/// What the kernel said: no such cpu, or not allowed.
pub(crate) fn pin(cpu: Option<usize>) -> io::Result<()> {
    // SAFETY: prctl with plain integers; the set is a plain value, and CPU_SET checks its range.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1_000_u64);
        let Some(cpu) = cpu else { return Ok(()) };
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        match libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Gives the calling thread, and those it starts, the lowest priority there is (`SCHED_IDLE`): it takes what CPU others leave.
/// Unlike one that is merely nice, it does not finish its slice, which is milliseconds, once somebody else is woken.
///
/// # Errors
/// The system's.
pub(crate) fn yield_to_others() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread; `parameters` is valid for the read.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// CPU time of the calling thread so far, in ns.
pub(crate) fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists for every thread; `time` is valid for the write.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CPU time of a process so far in ns, kernel time and ended threads included: the scheduler's own count.
/// `None` if there is no such process.
pub(crate) fn process_cpu_ns(pid: u32) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let mut clock = 0;
    // SAFETY: both calls are given one valid object each, alive across the call.
    let read = unsafe {
        libc::clock_getcpuclockid(libc::pid_t::try_from(pid).ok()?, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    read.then(|| time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Raises the soft descriptor limit to the hard one, and gives it.
pub(crate) fn raise_descriptors() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls are given a valid object, alive across the call.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
    limit.rlim_cur
}

/// Whether a loopback address, so that sources of 127/8 may be used.
pub(crate) fn is_loopback(address: Ipv4Addr) -> bool {
    address.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_sent_from_one_slot_arrive_in_another() {
        let settings = RingSettings { slots: 8, entries: 64, buffers: 16, buffer_bytes: 4096 };
        let mut ring = Ring::new(settings).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(target) = listener.local_addr().unwrap() else { unreachable!("IPv4 was bound") };
        let target = ring.address(target);
        let source = ring.address("127.0.7.9:0".parse().unwrap());
        ring.connect(5, Some(source), target);
        ring.submit(Some(Duration::from_millis(100))).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip().to_string(), "127.0.7.9");
        ring.receive_all(5);
        ring.send(5, b"ping".to_vec());
        io::Write::write_all(&mut server, b"pong").unwrap();
        let mut heard = Vec::new();
        let mut events = Vec::new();
        for _ in 0..20 {
            ring.submit(Some(Duration::from_millis(20))).unwrap();
            ring.reap(&mut events);
            for event in events.drain(..) {
                match event {
                    Event::Received(5, lent, _) => {
                        heard.extend_from_slice(ring.bytes(&lent));
                        ring.recycle(lent);
                    }
                    Event::Sent(5, 0, buffer) => assert_eq!(buffer, b"ping"),
                    Event::Connected(5, Ok(())) => {}
                    Event::Accepted(_)
                    | Event::AcceptEnded
                    | Event::Connected(..)
                    | Event::Readable(_)
                    | Event::Received(..)
                    | Event::Starved(_)
                    | Event::Ended(..)
                    | Event::Sent(..) => panic!("{event:?}"),
                }
            }
            if heard == b"pong" {
                break;
            }
        }
        assert_eq!(heard, b"pong");
        let mut read = [0; 4];
        io::Read::read_exact(&mut server, &mut read).unwrap();
        assert_eq!(&read, b"ping");
    }

    #[test]
    fn connects_that_fill_the_queue_all_succeed() {
        const CONNECTS: u32 = 64;
        let settings = RingSettings { slots: CONNECTS, entries: 8, buffers: 2, buffer_bytes: 4096 };
        let mut ring = Ring::new(settings).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(target) = listener.local_addr().unwrap() else { unreachable!("IPv4 was bound") };
        let target = ring.address(target);
        let source = ring.address("127.0.7.9:0".parse().unwrap());
        for slot in 0..CONNECTS {
            ring.connect(slot, Some(source), target);
        }
        let mut events = Vec::new();
        for _ in 0..50 {
            ring.submit(Some(Duration::from_millis(20))).unwrap();
            ring.reap(&mut events);
        }
        assert_eq!(events.len(), CONNECTS as usize, "{events:?}");
        assert!(events.iter().all(|event| matches!(event, Event::Connected(_, Ok(())))), "{events:?}");
    }

    #[test]
    fn cpu_time_of_a_process_only_grows() {
        let before = process_cpu_ns(std::process::id()).unwrap();
        let mut sum = 0_u64;
        for number in 0..1_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_add(number));
        }
        assert!(process_cpu_ns(std::process::id()).unwrap() > before);
        assert!(process_cpu_ns(u32::MAX).is_none());
    }

    #[test]
    fn a_refused_connection_says_so() {
        let mut ring = Ring::new(RingSettings { slots: 2, entries: 16, buffers: 2, buffer_bytes: 4096 }).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let target = ring.address(SocketAddrV4::new(Ipv4Addr::LOCALHOST, free));
        ring.connect(0, None, target);
        let mut events = Vec::new();
        for _ in 0..10 {
            ring.submit(Some(Duration::from_millis(20))).unwrap();
            ring.reap(&mut events);
        }
        assert!(matches!(events.first(), Some(Event::Connected(0, Err(libc::ECONNREFUSED)))), "{events:?}");
    }
}
