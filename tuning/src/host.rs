//! The facts of a host: tried where trying is possible (io_uring), read from `/proc` and `/sys` where not.

use std::fs;

use io_uring::{IoUring, Probe, opcode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::Needs;

/// What is known of the host. `None`: the file is missing or says something unexpected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Kernel release, as `uname -r` gives it.
    pub kernel: String,
    /// What became of the trial of io_uring.
    pub ring: RingTrial,
    /// `kernel.io_uring_disabled` (since Linux 6.6): 0, 1 or 2.
    pub io_uring_disabled: Option<u64>,
    /// Soft and hard limit of open files; `u64::MAX` is unlimited.
    pub open_files: (u64, u64),
    /// Soft limit of locked memory in bytes; `u64::MAX` is unlimited.
    pub locked_memory: u64,
    /// CPUs this process may run on.
    pub cpus: Vec<usize>,
    /// Bytes of memory this process may use: the machine's, or its control group's if that is less.
    pub memory: Option<u64>,
    /// The settings of [`crate::profile::SYSCTLS`], in that order; first number of each.
    pub sysctls: Vec<Option<u64>>,
}

/// What became of setting up a ring as a shard does. Error numbers are the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RingTrial {
    /// The set-up itself was refused.
    Refused(i32),
    /// It was granted.
    Granted {
        /// Operations a shard needs and this kernel lacks.
        missing: Vec<&'static str>,
        /// Why the table of direct descriptors was refused, if it was.
        descriptors: Option<i32>,
    },
}

impl Host {
    /// Gathers the facts. Allocates one ring with the descriptors asked for, and frees it.
    pub fn read(needs: &Needs) -> Self {
        let open_files = getrlimit(Resource::Nofile);
        Self {
            kernel: text("/proc/sys/kernel/osrelease").unwrap_or_default(),
            ring: try_ring(needs.descriptors_per_shard),
            io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
            open_files: (unlimited(open_files.current), unlimited(open_files.maximum)),
            locked_memory: unlimited(getrlimit(Resource::Memlock).current),
            cpus: text("/proc/self/status").as_deref().map(allowed_cpus).unwrap_or_default(),
            memory: memory(),
            sysctls: crate::profile::SYSCTLS.iter().map(|sysctl| number(&sysctl.path())).collect(),
        }
    }
}

/// Lifts this process's soft limits of open files and locked memory to the hard ones: a table of direct descriptors may
/// not be larger than the one, the memory of the rings than the other. A limit that stays is found by the preflight.
pub fn raise_limits() {
    for resource in [Resource::Nofile, Resource::Memlock] {
        let maximum = getrlimit(resource).maximum;
        _ = setrlimit(resource, Rlimit { current: maximum, maximum });
    }
}

/// Operations the shards use, as the kernel's probe knows them.
const OPERATIONS: [(&str, u8); 10] = [
    ("accept", opcode::Accept::CODE),
    ("recv", opcode::Recv::CODE),
    ("send", opcode::Send::CODE),
    ("read", opcode::Read::CODE),
    ("poll_add", opcode::PollAdd::CODE),
    ("poll_remove", opcode::PollRemove::CODE),
    ("async_cancel", opcode::AsyncCancel::CODE),
    ("close", opcode::Close::CODE),
    ("timeout", opcode::Timeout::CODE),
    ("files_update", opcode::FilesUpdate::CODE),
];

fn try_ring(descriptors: u32) -> RingTrial {
    let ring: IoUring = match IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_submit_all().build(8)
    {
        Ok(ring) => ring,
        Err(error) => return RingTrial::Refused(error.raw_os_error().unwrap_or_default()),
    };
    let mut probe = Probe::new();
    let probed = ring.submitter().register_probe(&mut probe).is_ok();
    let missing = OPERATIONS.iter().filter(|(_, code)| !probed || !probe.is_supported(*code)).map(|(name, _)| *name);
    RingTrial::Granted {
        missing: missing.collect(),
        descriptors: ring
            .submitter()
            .register_files_sparse(descriptors)
            .err()
            .map(|error| error.raw_os_error().unwrap_or_default()),
    }
}

fn unlimited(limit: Option<u64>) -> u64 {
    limit.unwrap_or(u64::MAX)
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

fn number(path: &str) -> Option<u64> {
    text(path)?.split_whitespace().next()?.parse().ok()
}

fn memory() -> Option<u64> {
    let meminfo = text("/proc/meminfo")?;
    let total = field(&meminfo, "MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok()? * 1024;
    Some(number("/sys/fs/cgroup/memory.max").map_or(total, |group| group.min(total)))
}

fn field<'a>(table: &'a str, name: &str) -> Option<&'a str> {
    table.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// The list in `/proc/self/status`: `0-3,8,10-11`.
fn allowed_cpus(status: &str) -> Vec<usize> {
    let list = field(status, "Cpus_allowed_list:").unwrap_or_default();
    let ranges = list.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?)
    });
    ranges.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_list_has_ranges_and_single_cpus() {
        assert_eq!(allowed_cpus("Name:\tplaza\nCpus_allowed_list:\t0-2,5,7-8\n"), [0, 1, 2, 5, 7, 8]);
        assert_eq!(allowed_cpus("Name:\tplaza\n"), [0usize; 0]);
    }

    #[test]
    fn this_host_is_readable() {
        let host = Host::read(&Needs { shards: 1, cpus: vec![], descriptors_per_shard: 64 });
        assert!(!host.kernel.is_empty());
        assert!(!host.cpus.is_empty());
        assert!(host.memory.is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(host.sysctls.len(), crate::profile::SYSCTLS.len());
    }

    #[test]
    fn the_soft_limits_rise_to_the_hard_ones() {
        raise_limits();
        for resource in [Resource::Nofile, Resource::Memlock] {
            assert_eq!(getrlimit(resource).current, getrlimit(resource).maximum);
        }
    }
}
