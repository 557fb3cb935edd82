//! What this machine is, and what its processes use, as Linux tells it under `/proc`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

/// The unit of processor time in `/proc`: `USER_HZ`, which is 100 on every usual Linux.
const TICK: Duration = Duration::from_millis(10);
/// Of the fields of `/proc/PID/stat` behind the name: user and system time are the 14th and 15th of all, and the name is the second.
const USER_TIME: usize = 11;

/// Names and values.
pub fn facts(folder: &Path) -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    vec![
        ("cores", cores.to_string()),
        ("processor", processor().unwrap_or_else(unknown)),
        ("kernel", kernel().unwrap_or_else(unknown)),
        ("file system", file_system(folder).unwrap_or_else(unknown)),
        ("revision", revision().unwrap_or_else(unknown)),
    ]
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn processor() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn kernel() -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    Some(format!("{} {}", std::env::consts::OS, release.trim()))
}

/// The type of the file system of a folder: that of the deepest mount above it.
fn file_system(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (Path::new(fields.next()?), fields.next()?);
        folder
            .starts_with(at)
            .then(|| (at.components().count(), kind))
    });
    above
        .max_by_key(|(depth, _)| *depth)
        .map(|(_, kind)| kind.to_owned())
}

fn revision() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let revision = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() {
        revision
    } else {
        format!("{revision} with changes")
    })
}

/// The processor time that these processes have used since they began, together.
pub fn cpu_time(pids: &[u32]) -> anyhow::Result<Duration> {
    let mut ticks: u32 = 0;
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid} is gone"))?;
        // The name may hold anything, also spaces and brackets.
        let (_, fields) = stat.rsplit_once(')').context("no name")?;
        for field in fields.split_whitespace().skip(USER_TIME).take(2) {
            ticks += field.parse::<u32>()?;
        }
    }
    Ok(TICK * ticks)
}

/// The processor time that everything on this machine has used since it began, over all cores.
pub fn busy_time() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let fields = line.split_whitespace().skip(1).take(8).map(str::parse);
    let fields: Vec<u32> = fields.collect::<Result<_, _>>()?;
    // user, nice, system, idle, iowait, irq, softirq, steal
    let is_work = |place: usize| !matches!(place, 3 | 4);
    let ticks = fields
        .iter()
        .enumerate()
        .filter(|(place, _)| is_work(*place));
    Ok(TICK * ticks.map(|(_, ticks)| ticks).sum())
}

/// The memory that each process has in use (`VmRSS`).
pub fn rss_bytes(pids: &[u32]) -> anyhow::Result<Vec<u64>> {
    pids.iter()
        .map(|pid| rss(*pid).with_context(|| format!("memory of process {pid}")))
        .collect()
}

fn rss(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
