//! What the host says of memory: the kernel's files, which say nothing on a host that has none of them.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the kernel's files are.
#[derive(Debug, Clone)]
pub struct Host {
    proc: PathBuf,
    cgroups: PathBuf,
}

/// Bytes of a page, as `/proc/self/statm` counts.
const PAGE_BYTES: u64 = 4_096;

/// Which of the two kinds of control groups has the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Default for Host {
    fn default() -> Self {
        Self { proc: "/proc".into(), cgroups: "/sys/fs/cgroup".into() }
    }
}

impl Host {
    /// Bytes this process may use: the smallest of the host's memory and the limits of its control groups. `None` if the
    /// kernel does not say.
    pub fn limit(&self) -> Option<u64> {
        let total = fs::read_to_string(self.proc.join("meminfo")).ok();
        let total = total.and_then(|text| field(&text, "MemTotal:")).map(|kibibytes| kibibytes.saturating_mul(1024));
        let groups = self.groups().into_iter().filter_map(|(version, group)| {
            let file = match version {
                Version::One => "memory.limit_in_bytes",
                Version::Two => "memory.max",
            };
            number(&group.join(file))
        });
        groups.chain(total).min()
    }

    /// Bytes this process uses, those of files left out. In a control group that it has for itself, as that group counts
    /// (the kernel's own for its sockets among them), and else as the process does.
    pub fn resident(&self) -> Option<u64> {
        let own = self.own();
        let group = self.groups().into_iter().next().and_then(|(version, group)| alone(version, &group));
        own.into_iter().chain(group).max()
    }

    fn own(&self) -> Option<u64> {
        let text = fs::read_to_string(self.proc.join("self/statm")).ok()?;
        let mut pages = text.split_whitespace().skip(1).map(str::parse::<u64>);
        let (resident, of_files) = (pages.next()?.ok()?, pages.next()?.ok()?);
        Some(resident.saturating_sub(of_files) * PAGE_BYTES)
    }

    /// The control groups that this process is in, from its own upwards.
    fn groups(&self) -> Vec<(Version, PathBuf)> {
        let Ok(text) = fs::read_to_string(self.proc.join("self/cgroup")) else { return Vec::new() };
        let mut found = Vec::new();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let (version, root) = match controllers {
                "" => (Version::Two, self.cgroups.clone()),
                _ if controllers.split(',').any(|name| name == "memory") => (Version::One, self.cgroups.join("memory")),
                _ => continue,
            };
            // In a container its own group is what is mounted, by whatever name the host knows it.
            let below = path.trim_start_matches('/');
            let whole = root.join(below);
            let path = if whole.is_dir() { whole } else { root.clone() };
            let upwards = path.ancestors().take_while(|group| group.starts_with(&root));
            found.extend(upwards.map(|group| (version, group.to_owned())));
        }
        found.sort_by_key(|(version, _)| *version == Version::Two);
        found
    }
}

/// What a group uses, if this process is alone in it.
fn alone(version: Version, group: &Path) -> Option<u64> {
    let processes = fs::read_to_string(group.join("cgroup.procs")).ok()?;
    let own = std::process::id().to_string();
    if !processes.lines().eq([own.as_str()]) {
        return None;
    }
    let (used, prefix) = match version {
        Version::One => (number(&group.join("memory.usage_in_bytes"))?, "total_"),
        Version::Two => (number(&group.join("memory.current"))?, ""),
    };
    let stat = fs::read_to_string(group.join("memory.stat")).ok()?;
    let of_files = ["inactive_file", "active_file"].map(|name| field(&stat, &format!("{prefix}{name}")).unwrap_or(0));
    Some(used.saturating_sub(of_files.iter().sum()))
}

/// The number behind a word at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        if words.next()? == name { words.next()?.parse().ok() } else { None }
    })
}

/// A file of one number; `max` is none.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host of files that a test writes.
    fn host(files: &[(&str, String)]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host { proc: root.path().join("proc"), cgroups: root.path().join("cgroup") };
        (root, host)
    }

    fn of(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn this_host_says_what_there_is_and_what_is_used() {
        let host = Host::default();
        let (limit, resident) = (host.limit().unwrap(), host.resident().unwrap());
        assert!(resident > 100_000 && resident < limit, "{resident} of {limit}");
    }

    #[test]
    fn the_smallest_limit_of_a_group_or_one_above_it_counts() {
        let meminfo = ("proc/meminfo", of("MemTotal:       1000 kB\nMemFree: 1 kB\n"));
        let (_root, plain) = host(std::slice::from_ref(&meminfo));
        assert_eq!(plain.limit(), Some(1_024_000));
        let (_root, two) = host(&[
            meminfo.clone(),
            ("proc/self/cgroup", of("0::/a/b\n")),
            ("cgroup/a/memory.max", of("500000\n")),
            ("cgroup/a/b/memory.max", of("max\n")),
        ]);
        assert_eq!(two.limit(), Some(500_000));
        let (_root, one) = host(&[
            meminfo.clone(),
            ("proc/self/cgroup", of("5:cpu:/\n4:memory:/elsewhere\n0::/\n")),
            ("cgroup/memory/memory.limit_in_bytes", of("600000\n")),
        ]);
        assert_eq!(one.limit(), Some(600_000), "a container is mounted at the root");
        let (_root, none) = host(&[]);
        assert_eq!((none.limit(), none.resident()), (None, None));
    }

    #[test]
    fn a_group_of_ones_own_counts_what_the_kernel_holds_as_well() {
        let files = |processes: String| {
            vec![
                ("proc/self/statm", of("9000 100 40 1 0 1 0\n")),
                ("proc/self/cgroup", of("0::/a\n")),
                ("cgroup/a/cgroup.procs", processes),
                ("cgroup/a/memory.current", of("900000\n")),
                ("cgroup/a/memory.stat", of("anon 1\ninactive_file 100000\nactive_file 200000\n")),
            ]
        };
        let (_root, own) = host(&files(format!("{}\n", std::process::id())));
        assert_eq!(own.resident(), Some(600_000));
        let (_root, shared) = host(&files(format!("{}\n1\n", std::process::id())));
        assert_eq!(shared.resident(), Some(60 * PAGE_BYTES), "others' memory is not ours");
    }
}
