//! The few system calls no crate of ours wraps: an eventfd, mapped memory that the kernel shares with us, and descriptors
//! that pass from one program to the next.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

/// An eventfd: written by whoever wakes a sleeping shard, polled by its ring.
#[derive(Debug)]
pub struct EventFd(File);

impl EventFd {
    /// A non-blocking eventfd at zero.
    ///
    /// # Errors
    /// The system's, when descriptors run out.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no memory is passed; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just created and nobody else owns it.
        Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Makes it readable. A full counter is readable already, so an error changes nothing.
    pub fn signal(&self) {
        let _ = (&self.0).write(&1_u64.to_ne_bytes());
    }

    /// Takes the signal back.
    pub fn clear(&self) {
        let mut count = [0_u8; 8];
        let _ = (&self.0).read(&mut count);
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Anonymous zeroed pages, unmapped on drop.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    len: usize,
}

impl Pages {
    /// Maps `len` bytes.
    ///
    /// # Errors
    /// The system's, when memory runs out.
    pub fn map(len: usize) -> io::Result<Self> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches nothing of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap gave address zero"))?;
        Ok(Self { start, len })
    }

    /// First byte.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `map` mapped, and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

unsafe extern "C" {
    /// mimalloc's, which the crate of that name links: its own bindings have it behind a feature that adds a dependency.
    fn mi_collect(force: bool);
}

/// Has the allocator give the kernel what this thread has freed. It does so by itself when the thread goes on allocating,
/// which one that sleeps does not. Takes up to some milliseconds.
pub fn give_back_pages() {
    // SAFETY: it takes nothing of ours but a flag, and may be called on any thread at any time, also where another allocator
    // is in use.
    unsafe { mi_collect(true) };
}

/// Descriptors this process may have: also the largest table of direct descriptors a ring may have.
pub fn descriptors_max() -> u32 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the struct we own.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 1024;
    }
    u32::try_from(limit.rlim_cur).unwrap_or(u32::MAX)
}

/// First descriptor of those that are handed over (sd_listen_fds(3)).
const HANDED_FIRST: RawFd = 3;

/// Descriptors that were handed to this process, closed when another program takes its place. The first call has them all.
///
/// # Errors
/// The environment says something that cannot be.
pub fn inherited() -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Ok(Vec::new());
    }
    // SAFETY: whoever started this process says that they are its own, and they are taken once.
    Ok(sd_notify::listen_fds()?.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect())
}

/// SIGTERM and SIGINT end this process, as they would had it never looked for them.
pub fn end_at_signals() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: SIG_DFL is no function of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Has a program take this process's place, with descriptors where it looks for them, which alone stay open. Signals that
/// would end a program which has just begun are ignored until it knows better. Returns only if `exec` does; then all is as
/// it was.
pub fn exec_with(descriptors: &[RawFd], exec: impl FnOnce() -> io::Error) -> io::Error {
    let displaced = match place(descriptors) {
        Ok(displaced) => displaced,
        Err(error) => return error,
    };
    let begins_to_die_at = [libc::SIGHUP, libc::SIGUSR2];
    // SAFETY: SIG_IGN is no function of ours, and the others are what was there.
    let before = begins_to_die_at.map(|signal| unsafe { libc::signal(signal, libc::SIG_IGN) });
    let error = exec();
    for (signal, before) in begins_to_die_at.into_iter().zip(before) {
        // SAFETY: see above.
        unsafe { libc::signal(signal, before) };
    }
    // SAFETY: see above. The standard library has it ignored in every program, but for the next one.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    for (place, fd) in displaced {
        match fd {
            // SAFETY: no memory is passed; what has been in this place is put there again.
            Some(fd) => _ = unsafe { libc::dup3(fd.as_raw_fd(), place, libc::O_CLOEXEC) },
            // SAFETY: nothing was in this place but what we put there.
            None => _ = unsafe { libc::close(place) },
        }
    }
    error
}

/// Puts descriptors in their places; what was there before.
fn place(descriptors: &[RawFd]) -> io::Result<Vec<(RawFd, Option<OwnedFd>)>> {
    let count = RawFd::try_from(descriptors.len()).map_err(io::Error::other)?;
    // Out of the way of what is put there.
    let copy = |fd: RawFd| {
        // SAFETY: no memory is passed; the result is checked before it is owned.
        let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, HANDED_FIRST + count) };
        // SAFETY: `copy` was just made and nobody else owns it.
        if copy < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(copy) }) }
    };
    let copies = descriptors.iter().map(|&fd| copy(fd)).collect::<io::Result<Vec<_>>>()?;
    let mut displaced = Vec::with_capacity(copies.len());
    for place in HANDED_FIRST..HANDED_FIRST + count {
        displaced.push((
            place,
            match copy(place) {
                Ok(fd) => Some(fd),
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => None,
                Err(error) => return Err(error),
            },
        ));
    }
    for (place, fd) in (HANDED_FIRST..).zip(&copies) {
        // SAFETY: no memory is passed. Whoever owns the descriptor in this place does not use it until it is there again.
        if unsafe { libc::dup2(fd.as_raw_fd(), place) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(displaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zeros_and_writable_to_their_last_byte() {
        let pages = Pages::map(10_000).unwrap();
        assert!(pages.len() == 10_000 && !pages.is_empty());
        // SAFETY: the pages are mapped, and nobody else has them.
        let bytes = unsafe { std::slice::from_raw_parts_mut(pages.start().as_ptr(), pages.len()) };
        assert!(bytes.iter().all(|byte| *byte == 0));
        bytes.fill(7);
        assert!(bytes.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn an_event_is_there_until_it_is_taken_back() {
        let event = EventFd::new().unwrap();
        event.clear();
        event.signal();
        event.signal();
        let mut count = [0; 8];
        (&event.0).read_exact(&mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 2);
        event.signal();
        event.clear();
        assert!((&event.0).read(&mut count).is_err(), "it would block");
    }
}
