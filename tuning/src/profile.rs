//! The profile of a good host, and the judgement of a host against it. Pure: facts in, findings out.

use crate::host::{Host, RingTrial};
use crate::{Finding, Needs};

/// A kernel setting that should be at least so much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sysctl {
    /// Its name, with dots.
    pub name: &'static str,
    /// The least value wanted, whatever the number of connections.
    pub at_least: u64,
    /// What is wanted on top for every connection, in hundredths.
    pub per_hundred_connections: u64,
    /// What happens below that.
    pub consequence: &'static str,
}

impl Sysctl {
    /// Where it is read.
    pub fn path(&self) -> String {
        format!("/proc/sys/{}", self.name.replace('.', "/"))
    }

    /// The least value for so many connections.
    pub fn wanted(&self, connections: u64) -> u64 {
        self.at_least + connections * self.per_hundred_connections / 100
    }
}

/// The settings looked at. A setting this kernel does not have (no connection tracking, say) is passed over.
pub const SYSCTLS: [Sysctl; 5] = [
    Sysctl {
        name: "net.core.somaxconn",
        at_least: 4_096,
        per_hundred_connections: 0,
        consequence: "a reconnect storm overflows the accept queue",
    },
    Sysctl {
        name: "net.ipv4.tcp_max_syn_backlog",
        at_least: 1_024,
        per_hundred_connections: 0,
        consequence: "a reconnect storm overflows the queue of half-open connections",
    },
    Sysctl {
        name: "net.ipv4.tcp_syncookies",
        at_least: 1,
        per_hundred_connections: 0,
        consequence: "a full queue of half-open connections drops every newcomer",
    },
    Sysctl {
        name: "fs.file-max",
        at_least: 8_192,
        per_hundred_connections: 100,
        consequence: "the machine runs out of files before the shards are full",
    },
    Sysctl {
        name: "net.netfilter.nf_conntrack_max",
        at_least: 8_192,
        per_hundred_connections: 110,
        consequence: "the firewall drops connections it can't track",
    },
];

/// Oldest kernel that has all the shards use: `IORING_OP_FIXED_FD_INSTALL` came with Linux 6.8.
const KERNEL_MIN: (u32, u32) = (6, 8);

/// Locked memory below which the executor refuses to start.
const LOCKED_MEMORY_MIN: u64 = 512 * 1024;

/// Bytes a bound idle session takes of broker and kernel together, TLS 1.3: 3.5 KiB and 4.5 KiB.
const BYTES_PER_SESSION: u64 = 8 * 1024;

/// Descriptors the process opens beside its connections: files of the store, event descriptors, the control socket.
const OPEN_FILES_MIN: u64 = 1_024;

// Linux error numbers, which the io_uring set-up and registration calls answer with.
const EPERM: i32 = 1;
const ENOMEM: i32 = 12;
const EINVAL: i32 = 22;
const EMFILE: i32 = 24;
const ENOSYS: i32 = 38;

/// Judges a host by the profile.
pub fn judge(host: &Host, needs: &Needs) -> Vec<Finding> {
    let mut findings = vec![kernel(host), ring(host, needs), open_files(host, needs), locked_memory(host)];
    findings.push(cpus(host, needs));
    findings.extend(memory(host, needs));
    findings.extend(SYSCTLS.iter().zip(&host.sysctls).filter_map(|(sysctl, value)| {
        let (value, wanted) = ((*value)?, sysctl.wanted(needs.connections()));
        Some(if value >= wanted {
            Finding::info(sysctl.name, value.to_string())
        } else {
            Finding::warn(
                sysctl.name,
                format!("{value}, so {}", sysctl.consequence),
                format!("run `sysctl -w {}={wanted}`", sysctl.name),
            )
        })
    }));
    findings
}

fn kernel(host: &Host) -> Finding {
    let (major, minor) = KERNEL_MIN;
    match version(&host.kernel) {
        Some(version) if version < KERNEL_MIN => Finding::fatal(
            "kernel",
            format!("Linux {} is older than {major}.{minor}", host.kernel),
            format!("run Plaza on Linux {major}.{minor} or newer"),
        ),
        Some(_) | None => Finding::info("kernel", format!("Linux {}", host.kernel)),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn ring(host: &Host, needs: &Needs) -> Finding {
    const SUBJECT: &str = "io_uring";
    match &host.ring {
        RingTrial::Refused(ENOSYS) => Finding::fatal(
            SUBJECT,
            "this kernel, or the sandbox around this process, does not have it",
            "use a kernel built with CONFIG_IO_URING, or a sandbox that passes io_uring through (not gVisor)",
        ),
        RingTrial::Refused(EPERM) => match host.io_uring_disabled {
            Some(2) => Finding::fatal(
                SUBJECT,
                "switched off for everybody (kernel.io_uring_disabled=2)",
                "run `sysctl -w kernel.io_uring_disabled=0`",
            ),
            Some(1) => Finding::fatal(
                SUBJECT,
                "switched off for unprivileged processes (kernel.io_uring_disabled=1)",
                "run `sysctl -w kernel.io_uring_disabled=0`, or add this user to the group in kernel.io_uring_group",
            ),
            Some(_) | None => Finding::fatal(
                SUBJECT,
                "forbidden to this process, as container runtimes do by default",
                "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile \
                 (Docker: `--security-opt seccomp=PROFILE.json`)",
            ),
        },
        RingTrial::Refused(ENOMEM) => Finding::fatal(
            SUBJECT,
            "no memory for a ring",
            "raise the memory limit of this process or its container, and `ulimit -l`",
        ),
        RingTrial::Refused(EINVAL) => Finding::fatal(
            SUBJECT,
            "this kernel lacks IORING_SETUP_SINGLE_ISSUER or IORING_SETUP_DEFER_TASKRUN",
            "run Plaza on Linux 6.8 or newer",
        ),
        RingTrial::Refused(EMFILE) => {
            Finding::fatal(SUBJECT, "no descriptor left for a ring", "raise the open-files limit: `ulimit -n 65536`")
        }
        RingTrial::Refused(errno) => Finding::fatal(
            SUBJECT,
            format!("refused with error {errno}"),
            "see `man io_uring_setup` for what the kernel objects to",
        ),
        RingTrial::Granted { missing, .. } if !missing.is_empty() => Finding::fatal(
            SUBJECT,
            format!("operations missing: {}", missing.join(", ")),
            "run Plaza on Linux 6.8 or newer, and let no seccomp filter hide operations",
        ),
        RingTrial::Granted { descriptors: Some(EMFILE), .. } => Finding::fatal(
            SUBJECT,
            format!(
                "a ring may hold {} direct descriptors, connections_per_shard_max is {}",
                host.open_files.0, needs.descriptors_per_shard
            ),
            format!(
                "raise the open-files limit to {} (systemd: LimitNOFILE=), or lower limits.connections_per_shard_max",
                needs.descriptors_per_shard
            ),
        ),
        RingTrial::Granted { descriptors: Some(errno), .. } => Finding::fatal(
            SUBJECT,
            format!("{} direct descriptors refused with error {errno}", needs.descriptors_per_shard),
            "lower limits.connections_per_shard_max, or give the process more memory",
        ),
        RingTrial::Granted { descriptors: None, .. } => {
            Finding::info(SUBJECT, format!("works, {} direct descriptors per shard", needs.descriptors_per_shard))
        }
    }
}

/// The limit on direct descriptors is judged by trying ([`ring`]); here is what the process needs beside them.
fn open_files(host: &Host, needs: &Needs) -> Finding {
    let (soft, hard) = host.open_files;
    let wanted = OPEN_FILES_MIN.max(64 * u64::from(needs.shards));
    if hard < wanted {
        Finding::warn(
            "open files",
            format!("at most {hard}, wanted are {wanted} for the store, the rings and the control socket"),
            format!("raise the hard limit to {wanted}: LimitNOFILE= in the systemd unit, or /etc/security/limits.conf"),
        )
    } else {
        Finding::info("open files", format!("{soft}, at most {hard}"))
    }
}

fn locked_memory(host: &Host) -> Finding {
    if host.locked_memory < LOCKED_MEMORY_MIN {
        Finding::fatal(
            "locked memory",
            format!("limited to {} bytes, a shard's rings need {LOCKED_MEMORY_MIN}", host.locked_memory),
            "raise it: `ulimit -l 8192`, LimitMEMLOCK=8M in the systemd unit, or `--ulimit memlock=8388608` for a container",
        )
    } else if host.locked_memory == u64::MAX {
        Finding::info("locked memory", "unlimited")
    } else {
        Finding::info("locked memory", format!("{} KiB", host.locked_memory / 1024))
    }
}

fn cpus(host: &Host, needs: &Needs) -> Finding {
    let forbidden: Vec<String> =
        needs.cpus.iter().filter(|cpu| !host.cpus.contains(cpu)).map(|cpu| cpu.to_string()).collect();
    if !forbidden.is_empty() {
        return Finding::fatal(
            "cpus",
            format!("this process may not run on CPU {}", forbidden.join(", ")),
            format!("choose `cpus` from {:?}, or widen the CPU set of the container or unit", host.cpus),
        );
    }
    if usize::from(needs.shards) > host.cpus.len() {
        return Finding::warn(
            "cpus",
            format!("{} shards share {} CPUs", needs.shards, host.cpus.len()),
            "lower `shards`, unless this is meant",
        );
    }
    Finding::info("cpus", format!("{} shards on {} CPUs", needs.shards, host.cpus.len()))
}

fn memory(host: &Host, needs: &Needs) -> Option<Finding> {
    let (has, wanted) = (host.memory?, needs.connections() * BYTES_PER_SESSION);
    let (has_mib, wanted_mib) = (has >> 20, wanted >> 20);
    Some(if wanted > has / 10 * 9 {
        Finding::warn(
            "memory",
            format!("{has_mib} MiB, {} idle TLS sessions take {wanted_mib} MiB", needs.connections()),
            "lower limits.connections_per_shard_max, or add memory",
        )
    } else {
        Finding::info("memory", format!("{has_mib} MiB, all sessions idle take {wanted_mib} MiB"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Severity;

    fn good() -> Host {
        Host {
            kernel: "6.18.44-generic".into(),
            ring: RingTrial::Granted { missing: vec![], descriptors: None },
            io_uring_disabled: Some(0),
            open_files: (20_000, 20_000),
            locked_memory: 8 << 20,
            cpus: vec![0, 1],
            memory: Some(24 << 30),
            sysctls: vec![Some(4_096), Some(4_096), Some(1), Some(1 << 20), None],
        }
    }

    fn needs() -> Needs {
        Needs { shards: 2, cpus: vec![], descriptors_per_shard: 16_384 }
    }

    fn check(change: impl FnOnce(&mut Host), subject: &str, severity: Severity, remedy: &str) {
        let mut host = good();
        change(&mut host);
        let findings = judge(&host, &needs());
        let finding = findings.iter().find(|finding| finding.subject == subject).expect(subject);
        assert_eq!(finding.severity, severity, "{finding}");
        assert!(finding.remedy.contains(remedy), "{finding}");
    }

    #[test]
    fn a_good_host_has_no_complaint() {
        for finding in judge(&good(), &needs()) {
            assert_eq!(finding.severity, Severity::Info, "{finding}");
        }
    }

    #[test]
    fn every_way_io_uring_is_refused_has_its_remedy() {
        let refused = |errno| move |host: &mut Host| host.ring = RingTrial::Refused(errno);
        check(refused(ENOSYS), "io_uring", Severity::Fatal, "CONFIG_IO_URING");
        check(refused(EPERM), "io_uring", Severity::Fatal, "seccomp");
        check(refused(EINVAL), "io_uring", Severity::Fatal, "6.8");
        check(refused(ENOMEM), "io_uring", Severity::Fatal, "ulimit -l");
        check(refused(99), "io_uring", Severity::Fatal, "man io_uring_setup");
        let disabled = |level| {
            move |host: &mut Host| {
                host.ring = RingTrial::Refused(EPERM);
                host.io_uring_disabled = Some(level);
            }
        };
        check(disabled(2), "io_uring", Severity::Fatal, "io_uring_disabled=0");
        check(disabled(1), "io_uring", Severity::Fatal, "io_uring_group");
        let lacking = |host: &mut Host| host.ring = RingTrial::Granted { missing: vec!["recv"], descriptors: None };
        check(lacking, "io_uring", Severity::Fatal, "seccomp");
        let capped = |host: &mut Host| host.ring = RingTrial::Granted { missing: vec![], descriptors: Some(EMFILE) };
        check(capped, "io_uring", Severity::Fatal, "connections_per_shard_max");
    }

    #[test]
    fn an_old_kernel_and_tight_limits_are_named() {
        check(|host| host.kernel = "5.15.0-91".into(), "kernel", Severity::Fatal, "6.8");
        check(|host| host.locked_memory = 64 * 1024, "locked memory", Severity::Fatal, "LimitMEMLOCK");
        check(|host| host.open_files = (256, 256), "open files", Severity::Warn, "LimitNOFILE");
        check(|host| host.memory = Some(128 << 20), "memory", Severity::Warn, "connections_per_shard_max");
        check(|host| host.cpus = vec![0], "cpus", Severity::Warn, "shards");
    }

    #[test]
    fn a_small_setting_is_a_warning_and_a_missing_one_is_passed_over() {
        check(|host| host.sysctls[0] = Some(128), "net.core.somaxconn", Severity::Warn, "somaxconn=4096");
        check(|host| host.sysctls[4] = Some(32_768), "net.netfilter.nf_conntrack_max", Severity::Warn, "=44236");
        assert!(judge(&good(), &needs()).iter().all(|finding| finding.subject != "net.netfilter.nf_conntrack_max"));
    }

    #[test]
    fn a_cpu_outside_our_set_is_fatal() {
        let findings = judge(&good(), &Needs { cpus: vec![0, 7], ..needs() });
        assert!(findings.iter().any(|finding| finding.severity == Severity::Fatal && finding.found.contains("CPU 7")));
    }

    #[test]
    fn releases_of_many_makers_have_a_version() {
        assert_eq!(version("6.8.0"), Some((6, 8)));
        assert_eq!(version("5.15.0-1053-aws"), Some((5, 15)));
        assert_eq!(version("6.18-rc3"), Some((6, 18)));
        assert_eq!(version("unknown"), None);
    }
}
