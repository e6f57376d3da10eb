//! The network ring: one io_uring per shard for sockets. The only room, beside `sys`, that says `unsafe`.
//!
//! Sockets live in the ring's own table of direct descriptors ([`Slot`]), reads land in a provided-buffer pool, and
//! every operation carries a [`Token`] that names the connection and the operation. The ring never looks at bytes.
//!
//! Who owns what while the kernel works on it: a received buffer belongs to the caller from its completion until
//! [`Ring::recycle`]; a buffer being sent belongs to the ring's caller but must stay untouched until its completion,
//! which the type [`Sending`] enforces by owning it.

mod buffers;
mod peer;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};

use buffers::Buffers;
pub use buffers::Received;
use peer::Peer;

/// A direct descriptor: an index into the ring's table of sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub u32);

/// What an operation is, to be read back from its completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// A connection arrived on the listener of that index.
    Accept = 0,
    /// Bytes arrived, once.
    Recv = 1,
    /// Bytes arrived, and go on arriving.
    RecvMulti = 2,
    /// The socket is readable.
    Poll = 3,
    /// Bytes were sent.
    Send = 4,
    /// Whatever was outstanding on the socket was cancelled.
    Cancel = 5,
    /// The socket was closed.
    Close = 6,
    /// The socket got a descriptor outside the ring.
    Export = 7,
    /// A descriptor got a slot in the ring.
    Import = 8,
    /// The shard's eventfd was signalled.
    Wake = 9,
}

impl Op {
    const ALL: [Self; 10] = [
        Self::Accept,
        Self::Recv,
        Self::RecvMulti,
        Self::Poll,
        Self::Send,
        Self::Cancel,
        Self::Close,
        Self::Export,
        Self::Import,
        Self::Wake,
    ];
}

/// Which connection of the shard an operation is for: its slab index, and a generation that tells a reused index apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Index in the slab.
    pub index: u32,
    /// Which use of that index; 24 bits count.
    pub generation: u32,
}

/// The largest generation a [`Key`] keeps.
pub const GENERATION_MAX: u32 = 0x00ff_ffff;

const fn user_data(op: Op, key: Key) -> u64 {
    ((op as u64) << 56) | (((key.generation & GENERATION_MAX) as u64) << 32) | key.index as u64
}

/// One completed operation.
#[derive(Debug)]
pub struct Completion {
    /// What was asked.
    pub op: Op,
    /// For which connection (for [`Op::Accept`]: `index` is the listener).
    pub key: Key,
    /// Bytes, slot or descriptor; or the system's error number, negative.
    pub result: i32,
    /// Whether more completions of this operation follow.
    pub more: bool,
    /// Whether a receive left something in the socket.
    pub crowded: bool,
    /// The bytes, for the two kinds of receive that got some. Give them back with [`Ring::recycle`].
    pub received: Option<Received>,
}

/// Sizes of a ring.
#[derive(Debug, Clone, Copy)]
pub struct RingOptions {
    /// Direct descriptors: sockets at once. The kernel caps it at the process's descriptor limit.
    pub slots: u32,
    /// Submission entries.
    pub entries: u32,
    /// Receive buffers, a power of two.
    pub recv_buffers: u16,
    /// Bytes of each.
    pub recv_buffer_bytes: u32,
}

/// A buffer on its way out. Owned here so that nobody can touch it before the kernel is done.
#[derive(Debug, Default)]
pub struct Sending {
    bytes: Vec<u8>,
    sent: usize,
    rank: Rank,
}

impl Sending {
    /// Bytes not yet sent.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.sent
    }
}

/// Whose an operation is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rank {
    /// Somebody's who has bound a resource: it goes in with the next [`Ring::enter`].
    #[default]
    Session,
    /// Somebody's who has not, or not any more. It goes in behind those of sessions, and few at a time ([`STRANGERS`]), in the
    /// order in which they were asked for, as whatever is done to listeners, and closing.
    Stranger,
}

/// The network ring.
pub struct Ring {
    io: IoUring,
    buffers: Buffers,
    backlog: Vec<squeue::Entry>,
    /// Of strangers, waiting for their turn.
    strangers: VecDeque<squeue::Entry>,
    reaped: Vec<(u64, i32, u32)>,
    reaped_next: usize,
    /// Descriptors being imported: the kernel writes the slot over the number.
    imports: slab::Slab<(OwnedFd, Box<RawFd>)>,
    /// Who connects: the kernel writes here for each accept.
    peers: Vec<Peer>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("backlog", &self.backlog.len()).finish_non_exhaustive()
    }
}

/// Accepts outstanding on one listener, which is as many as one turn takes from it.
pub const ACCEPTS: u32 = 16;

/// Operations of strangers that go in at once. Accepting, sending and closing take the kernel tens of microseconds each, which
/// whatever sessions wait for comes behind.
pub const STRANGERS: usize = 4;

/// Bytes that go in with one send; the rest follows in the next turns, so that nobody waits while megabytes are copied.
const SEND_BYTES_MAX: usize = 64 * 1024;

/// Group id of our one buffer pool.
const BUFFER_GROUP: u16 = 0;

impl Ring {
    /// Sets up the ring. Must be called on the thread that will drive it.
    ///
    /// # Errors
    /// The system's: io_uring is missing or forbidden, or memory or descriptors run out.
    pub fn new(options: RingOptions) -> io::Result<Self> {
        let io = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(options.entries * 4)
            .build(options.entries)?;
        io.submitter().register_files_sparse(options.slots)?;
        let buffers = Buffers::new(options.recv_buffers, options.recv_buffer_bytes)?;
        // SAFETY: the ring of entries is page-aligned, as long as `recv_buffers` entries, and `buffers` is dropped after
        // `io` (fields drop in order), when the kernel no longer knows it.
        unsafe {
            io.submitter().register_buf_ring_with_flags(
                buffers.entries_address(),
                options.recv_buffers,
                BUFFER_GROUP,
                0,
            )?;
        }
        Ok(Self {
            io,
            buffers,
            backlog: Vec::new(),
            strangers: VecDeque::new(),
            reaped: Vec::with_capacity(options.entries as usize * 4),
            reaped_next: 0,
            imports: slab::Slab::new(),
            peers: Vec::new(),
        })
    }

    /// Queues a submission; it reaches the kernel with the next [`Ring::enter`].
    fn push(&mut self, entry: squeue::Entry) {
        if !self.backlog.is_empty() {
            self.backlog.push(entry);
            return;
        }
        // SAFETY: every operand of every entry we build is a slot number, lives in `self`, or is owned by a `Sending`,
        // the import slab or a `Peer` until its completion.
        if unsafe { self.io.submission().push(&entry) }.is_err() {
            self.backlog.push(entry);
        }
    }

    fn push_as(&mut self, rank: Rank, entry: squeue::Entry) {
        match rank {
            Rank::Session => self.push(entry),
            Rank::Stranger => self.strangers.push_back(entry),
        }
    }

    /// Whether operations of strangers wait for their turn.
    pub fn strangers_wait(&self) -> bool {
        !self.strangers.is_empty()
    }

    /// Accepts a connection on the listener, which becomes a slot; `place`, one of [`ACCEPTS`], tells accepts outstanding on
    /// one listener apart. One at a time, since only so does the kernel say who it is.
    pub fn accept(&mut self, listener: &TcpListener, index: u32, place: u32) {
        let at = index as usize * ACCEPTS as usize + place as usize;
        while self.peers.len() <= at {
            self.peers.push(Peer::new());
        }
        let Some(peer) = self.peers.get(at) else { return };
        let (address, len) = peer.reset();
        let entry = opcode::Accept::new(Fd(listener.as_raw_fd()), address, len)
            .file_index(Some(io_uring::types::DestinationSlot::auto_target()))
            .build();
        self.strangers.push_back(entry.user_data(user_data(Op::Accept, Key { index, generation: place })));
    }

    /// Whom a completed [`Op::Accept`] let in.
    pub fn accepted_from(&self, completion: &Completion) -> Option<IpAddr> {
        let Key { index, generation } = completion.key;
        self.peers.get(index as usize * ACCEPTS as usize + generation as usize)?.address()
    }

    /// Stops accepting on the listener of that index.
    pub fn cancel_accept(&mut self, index: u32) {
        for place in 0..ACCEPTS {
            let target = user_data(Op::Accept, Key { index, generation: place });
            let key = Key { index: u32::MAX, generation: 0 };
            self.strangers.push_back(opcode::AsyncCancel::new(target).build().user_data(user_data(Op::Cancel, key)));
        }
    }

    /// Waits until the eventfd is signalled; completes as [`Op::Wake`] each time.
    pub fn watch(&mut self, event: &crate::sys::EventFd) {
        let entry = opcode::PollAdd::new(Fd(event.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
        self.push(entry.user_data(user_data(Op::Wake, Key { index: 0, generation: 0 })));
    }

    /// Receives once, into a pool buffer. `later`: the bytes are not expected to be there yet, so that the kernel should
    /// wait for them before it looks.
    pub fn recv(&mut self, slot: Slot, key: Key, later: bool, rank: Rank) {
        let entry = opcode::Recv::new(Fixed(slot.0), std::ptr::null_mut(), 0)
            .buf_group(BUFFER_GROUP)
            .ioprio(if later { RECVSEND_POLL_FIRST } else { 0 })
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push_as(rank, entry.user_data(user_data(Op::Recv, key)));
    }

    /// Receives into pool buffers until cancelled, closed or out of buffers.
    pub fn recv_multi(&mut self, slot: Slot, key: Key) {
        let entry = opcode::RecvMulti::new(Fixed(slot.0), BUFFER_GROUP).build();
        self.push(entry.user_data(user_data(Op::RecvMulti, key)));
    }

    /// Completes once the socket is readable; the cheapest way to wait.
    pub fn poll(&mut self, slot: Slot, key: Key) {
        let entry = opcode::PollAdd::new(Fixed(slot.0), libc::POLLIN as u32).build();
        self.push(entry.user_data(user_data(Op::Poll, key)));
    }

    /// Cancels one outstanding operation of the connection. By its token, since cancelling by descriptor makes the kernel
    /// look through everything that is armed on the ring.
    pub fn cancel(&mut self, op: Op, key: Key) {
        let entry = opcode::AsyncCancel::new(user_data(op, key)).build();
        self.push(entry.user_data(user_data(Op::Cancel, key)));
    }

    /// Sends the bytes, all of them; the buffer comes back from [`Ring::sent`].
    pub fn send(&mut self, slot: Slot, key: Key, sending: &mut Sending, bytes: Vec<u8>, rank: Rank) {
        debug_assert!(sending.bytes.is_empty(), "one send in flight per connection");
        sending.bytes = bytes;
        sending.sent = 0;
        sending.rank = rank;
        self.submit_send(slot, key, sending);
    }

    fn submit_send(&mut self, slot: Slot, key: Key, sending: &Sending) {
        let rest = sending.bytes.get(sending.sent..).unwrap_or_default();
        let len = rest.len().min(SEND_BYTES_MAX) as u32;
        let entry = opcode::Send::new(Fixed(slot.0), rest.as_ptr(), len).flags(libc::MSG_NOSIGNAL).build();
        self.push_as(sending.rank, entry.user_data(user_data(Op::Send, key)));
    }

    /// Takes the completion of a send: `Some` gives the buffer back, empty, when all bytes are out; `None` means the
    /// rest was submitted again.
    pub fn sent(&mut self, slot: Slot, key: Key, sending: &mut Sending, result: i32) -> Option<Vec<u8>> {
        let count = usize::try_from(result).unwrap_or(0);
        sending.sent = sending.sent.saturating_add(count).min(sending.bytes.len());
        if result > 0 && sending.left() > 0 {
            self.submit_send(slot, key, sending);
            return None;
        }
        let mut bytes = std::mem::take(&mut sending.bytes);
        bytes.clear();
        sending.sent = 0;
        Some(bytes)
    }

    /// Closes the socket, and cancels what is outstanding on it: else it stayed open until that completes.
    pub fn close(&mut self, slot: Slot, key: Key, outstanding: impl IntoIterator<Item = Op>) {
        for op in outstanding {
            let entry = opcode::AsyncCancel::new(user_data(op, key)).build();
            self.strangers.push_back(entry.user_data(user_data(Op::Cancel, key)));
        }
        self.strangers.push_back(opcode::Close::new(Fixed(slot.0)).build().user_data(user_data(Op::Close, key)));
    }

    /// Gives the socket an ordinary descriptor, so that it can leave the ring.
    pub fn export(&mut self, slot: Slot, key: Key) {
        self.push(opcode::FixedFdInstall::new(Fixed(slot.0), 0).build().user_data(user_data(Op::Export, key)));
    }

    /// Owns a descriptor that [`Op::Export`] completed with.
    pub fn exported(completion: &Completion) -> Option<OwnedFd> {
        if completion.op != Op::Export || completion.result < 0 {
            return None;
        }
        // SAFETY: the kernel just installed this descriptor for us, and each completion is taken once.
        Some(unsafe { OwnedFd::from_raw_fd(completion.result) })
    }

    /// Takes a descriptor into the ring's table; completes as [`Op::Import`], with the slot as [`Ring::imported`] reads it.
    /// Returns the index its completion's key will carry.
    pub fn import(&mut self, fd: OwnedFd, generation: u32) -> u32 {
        let entry = self.imports.vacant_entry();
        let index = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        let cell = Box::new(fd.as_raw_fd());
        let address: *const RawFd = &raw const *cell;
        entry.insert((fd, cell));
        // The offset -1 (IORING_FILE_INDEX_ALLOC) lets the kernel choose free slots and write them over the array.
        let update = opcode::FilesUpdate::new(address, 1).offset(-1).build();
        self.push(update.user_data(user_data(Op::Import, Key { index, generation })));
        index
    }

    /// Ends an import: closes the ordinary descriptor and yields the slot, or the system's error.
    ///
    /// # Errors
    /// The system's: the table is full.
    pub fn imported(&mut self, completion: &Completion) -> io::Result<Slot> {
        let Some((_fd, cell)) = self.imports.try_remove(completion.key.index as usize) else {
            return Err(io::Error::other("no such import"));
        };
        if completion.result < 1 {
            return Err(io::Error::from_raw_os_error(completion.result.saturating_neg()));
        }
        u32::try_from(*cell).map(Slot).map_err(|_| io::Error::other("kernel gave no slot"))
    }

    /// Gives a receive buffer back to the kernel.
    pub fn recycle(&mut self, received: Received) {
        self.buffers.give(received);
    }

    /// Submits what is queued and waits for at least one completion, or for `timeout`; does not wait if `wait` is false.
    ///
    /// # Errors
    /// The system's; `EINTR`, `EBUSY` and `ETIME` are not errors here.
    pub fn enter(&mut self, wait: bool, timeout: Option<Duration>) -> io::Result<()> {
        for _ in 0..STRANGERS {
            let Some(entry) = self.strangers.pop_front() else { break };
            self.push(entry);
        }
        let wait = wait && !self.strangers_wait();
        loop {
            self.io.submission().sync();
            let result = self.enter_once(wait && self.backlog.is_empty(), timeout);
            match result {
                Err(error) if !is_passing(&error) => return Err(error),
                Ok(_) | Err(_) => {}
            }
            if self.backlog.is_empty() {
                break;
            }
            self.refill();
        }
        self.reap();
        Ok(())
    }

    /// Hands what is queued over now, without a look at what is done: for who would otherwise wait for the rest of a turn.
    ///
    /// # Errors
    /// The system's; the ring cannot go on.
    pub fn submit(&mut self) -> io::Result<()> {
        let (submitter, mut submission, _) = self.io.split();
        submission.sync();
        let queued = u32::try_from(submission.len()).unwrap_or(u32::MAX);
        drop(submission);
        if queued == 0 {
            return Ok(());
        }
        // SAFETY: no argument is passed.
        match unsafe { submitter.enter::<libc::sigset_t>(queued, 0, 0, None) } {
            Err(error) if !is_passing(&error) => Err(error),
            // What was not taken is taken by the next `enter`.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn enter_once(&mut self, wait: bool, timeout: Option<Duration>) -> io::Result<usize> {
        let (submitter, mut submission, _) = self.io.split();
        submission.sync();
        let queued = u32::try_from(submission.len()).unwrap_or(u32::MAX);
        drop(submission);
        match (wait, timeout) {
            (true, Some(timeout)) => {
                let timespec = Timespec::from(timeout);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
            (true, None) => submitter.submit_and_wait(1),
            // SAFETY: no argument is passed. GETEVENTS is what runs deferred completions when nobody waits.
            (false, _) => unsafe { submitter.enter::<libc::sigset_t>(queued, 0, GETEVENTS, None) },
        }
    }

    fn refill(&mut self) {
        let mut submission = self.io.submission();
        let mut pushed = 0;
        for entry in &self.backlog {
            // SAFETY: as in `push`.
            if unsafe { submission.push(entry) }.is_err() {
                break;
            }
            pushed += 1;
        }
        drop(submission);
        self.backlog.drain(..pushed);
    }

    fn reap(&mut self) {
        debug_assert!(self.reaped_next >= self.reaped.len(), "completions are taken before the next enter");
        self.reaped.clear();
        self.reaped_next = 0;
        self.reaped.extend(self.io.completion().map(|entry| (entry.user_data(), entry.result(), entry.flags())));
    }

    /// The next completion of the last [`Ring::enter`].
    pub fn next_completion(&mut self) -> Option<Completion> {
        let &(data, result, flags) = self.reaped.get(self.reaped_next)?;
        self.reaped_next += 1;
        let op = *Op::ALL.get((data >> 56) as usize)?;
        let key = Key { index: data as u32, generation: (data >> 32) as u32 & GENERATION_MAX };
        let received = io_uring::cqueue::buffer_select(flags)
            .map(|buffer| self.buffers.take(buffer, usize::try_from(result).unwrap_or(0)));
        let (more, crowded) = (io_uring::cqueue::more(flags), io_uring::cqueue::sock_nonempty(flags));
        Some(Completion { op, key, result, more, crowded, received })
    }
}

/// Whether the ring can go on: a signal, a wait that is over, or a kernel that is short of something for now.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN))
}

/// `IORING_ENTER_GETEVENTS`.
const GETEVENTS: u32 = 1;
/// `IORING_RECVSEND_POLL_FIRST`.
const RECVSEND_POLL_FIRST: u16 = 1;
