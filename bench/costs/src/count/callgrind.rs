//! Talks to callgrind from within, and reads what it has counted.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Requests of `callgrind.h`; the upper half is "CT".
#[derive(Clone, Copy)]
#[repr(u64)]
enum Request {
    ToggleCollect = 0x4354_0002,
    StartInstrumentation = 0x4354_0004,
}

/// From here on callgrind looks at every instruction, which makes everything ten times slower still. Does nothing
/// without it.
pub(crate) fn start() {
    ask(Request::StartInstrumentation);
}

/// Counting on this thread begins, or ends. Does nothing without callgrind.
pub(crate) fn toggle() {
    ask(Request::ToggleCollect);
}

/// Valgrind's sign: four rotations that cancel out, and an exchange of a register with itself. The address of the
/// request goes in RAX, and RDX comes back as the answer. See `valgrind.h`, PLAT_amd64_linux.
#[cfg(target_arch = "x86_64")]
fn ask(request: Request) {
    let arguments: [u64; 6] = [request as u64, 0, 0, 0, 0, 0];
    // SAFETY: on a processor this changes nothing but flags. Under valgrind it reads `arguments`, which lives until
    // after it, and neither request writes to memory of this process.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") &raw const arguments,
            inout("rdx") 0_u64 => _,
            options(nostack),
        );
    }
}

/// The baseline is of another machine then, so nothing is counted.
#[cfg(not(target_arch = "x86_64"))]
fn ask(_request: Request) {}

/// Runs this program under callgrind with these arguments and answers how many instructions were counted. Of system calls
/// callgrind's count is no use: it takes those of all threads, whether they are to be counted or not.
pub(crate) fn count(arguments: &[&str], folder: &Path) -> Result<f64> {
    let out = folder.join("callgrind.out");
    let output = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind", "--instr-atstart=no", "--collect-atstart=no"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(arguments)
        .envs(super::child::ENVIRONMENT)
        .stdin(Stdio::null())
        .output()
        .context("cannot run valgrind; `make bench-count` installs it")?;
    if !output.status.success() {
        bail!("under valgrind ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    read(&std::fs::read_to_string(&out).with_context(|| format!("cannot read {}", out.display()))?)
}

fn read(text: &str) -> Result<f64> {
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    ensure!(line("events:") == Some("Ir"), "callgrind has counted something else than instructions");
    line("totals:").context("callgrind has no totals")?.parse().context("a total that is no number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_found() {
        assert_eq!(read("# callgrind format\nevents: Ir\nfn=x\n12 3\n\ntotals: 4500\n").unwrap(), 4500.0);
        assert!(read("events: Ir sysCount\ntotals: 1 2\n").is_err());
        assert!(read("events: Ir\n").is_err());
        assert!(read("").is_err());
    }
}
