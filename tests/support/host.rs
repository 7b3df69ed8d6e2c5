//! The real `sandbar` binary, run as a process that ends with the test that started it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use sandbar::sandbox::confine::{self, Call};
use serde_json::Value;

use super::BOUND;
use super::process::{Ran, finish};
use super::shim::Shim;

/// A folder of one test's own: configuration, log files, perhaps the bus.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
}

/// A running host.
pub(crate) struct Host {
    child: Child,
    log: PathBuf,
    stdout: PathBuf,
}

/// One `[[handler]]` of a configuration, as TOML.
pub(crate) struct HandlerToml(String);

/// Where the built guests are.
pub(crate) fn guest(name: &str) -> PathBuf {
    let dir = std::env::var_os("SANDBAR_GUESTS").map_or_else(|| workspace().join("target/guests/out"), PathBuf::from);
    let path = dir.join(format!("{name}.wasm"));
    assert!(path.is_file(), "{} is missing: run `make guests`", path.display());
    path
}

/// The workspace's folder.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The binary under test: beside this test's own directory, or where `SANDBAR_BIN` says.
pub(crate) fn binary() -> PathBuf {
    let beside = || {
        let own = std::env::current_exe().unwrap();
        own.parent().unwrap().parent().unwrap().join("sandbar")
    };
    let path = std::env::var_os("SANDBAR_BIN").map_or_else(beside, PathBuf::from);
    assert!(path.is_file(), "{} is missing: run `cargo build -p sandbar`, or `make test`", path.display());
    path
}

/// Which Landlock this kernel has; 0 for none. 4 restricts listening, 6 signals.
pub(crate) fn landlock() -> i64 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call reads and writes no memory.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) }.max(0)
}

/// Starts it as on a kernel that lacks these system calls.
pub(crate) fn without(command: &mut Command, calls: &'static [i64]) {
    let lack = move || {
        let calls: Vec<Call> = calls.iter().copied().map(Call::any).collect();
        confine::no_new_privileges().map_err(io::Error::other)?;
        confine::refuse(&calls, libc::ENOSYS).map_err(io::Error::other)
    };
    // SAFETY: the copy of this process makes no use of what another thread may have been changing, but for the heap, which
    // the C library leaves in order.
    unsafe { command.pre_exec(lack) };
}

// === impl HandlerToml ===

impl HandlerToml {
    /// A handler that reads one topic from its beginning, with a lease that runs out within a test.
    pub(crate) fn new(name: &str, module: &str, topic: &str) -> Self {
        Self::of(name, module, &[topic])
    }

    /// The same of several topics.
    pub(crate) fn of(name: &str, module: &str, topics: &[&str]) -> Self {
        let module = guest(module);
        Self(format!(
            "[[handler]]\nname = {name:?}\nmodule = {module:?}\ntopics = {topics:?}\nstart = \"beginning\"\nlease = \"1s\"\n"
        ))
    }

    /// Adds one line; tables come last.
    pub(crate) fn with(mut self, line: &str) -> Self {
        writeln!(self.0, "{line}").unwrap();
        self
    }
}

// === impl Bench ===

impl Bench {
    /// An empty folder.
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A folder with this `sandbar.toml`.
    pub(crate) fn with(config: &str) -> Self {
        let bench = Self::new();
        fs::write(bench.path("sandbar.toml"), config).unwrap();
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes `sandbar.toml` and returns where.
    pub(crate) fn config(&self, url: &str, handlers: &[HandlerToml]) -> PathBuf {
        let path = self.path("sandbar.toml");
        let mut text = format!("[bus]\nurl = {url:?}\n\n");
        for HandlerToml(handler) in handlers {
            writeln!(text, "{handler}").unwrap();
        }
        fs::write(&path, text).unwrap();
        path
    }

    /// The binary with a clean environment, these arguments, and pipes for [`finish`].
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).env_clear().current_dir(self.dir.path());
        // Control sockets are in the folder too, so that tests do not find each other's hosts.
        command.env("XDG_RUNTIME_DIR", self.dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn call(&self, args: &[&str], stdin: &[u8]) -> Ran {
        finish(self.command(args).spawn().unwrap(), stdin)
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) fn ok(&self, args: &[&str], stdin: &[u8]) -> String {
        let ran = self.call(args, stdin);
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.stderr, ran.text());
        ran.text()
    }

    /// The one document that a command prints.
    pub(crate) fn json(&self, args: &[&str], stdin: &[u8]) -> Value {
        let text = self.ok(args, stdin);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// Starts `sandbar run`.
    pub(crate) fn run(&self, config: &Path, more: &[&str]) -> Host {
        self.run_as(config, more, |_| {})
    }

    /// Starts `sandbar run` as `set_up` says.
    pub(crate) fn run_as(&self, config: &Path, more: &[&str], set_up: impl FnOnce(&mut Command)) -> Host {
        let mut command = self.command(&["run", "--config"]);
        command.arg(config).args(more);
        set_up(&mut command);
        self.start(command)
    }

    /// Starts `sandbar run` so that it obeys.
    pub(crate) fn run_under(&self, shim: &Shim, config: &Path) -> Host {
        self.run_as(config, &[], |command| {
            command.envs(shim.environment());
        })
    }

    /// Starts a host by a command of its own.
    pub(crate) fn start(&self, mut command: Command) -> Host {
        let name = uuid::Uuid::new_v4().simple().to_string();
        let (log, stdout) = (self.path(&format!("{name}.log")), self.path(&format!("{name}.out")));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Host { child, log, stdout }
    }
}

// === impl Host ===

impl Host {
    /// Ends it as a power failure would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Processor time it has used.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        // The name, in parentheses, may hold spaces. After it, fields 14 and 15 of proc(5), in hundredths of a second.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends a signal as `kill` names it: `-STOP` freezes the process, `-CONT` lets it go on.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, bound: Duration) -> ExitStatus {
        let end = Instant::now() + bound;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the host did not end within {bound:?}");
            #[expect(clippy::disallowed_methods, reason = "a test's own thread, and the wait is bounded")]
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end and asserts that it went well.
    pub(crate) fn finish(&mut self) {
        let status = self.wait(BOUND * 3);
        assert!(status.success(), "the host ended with {status}");
    }

    /// What it did, if it was started with `--json` and has ended.
    pub(crate) fn summary(&self) -> Value {
        let text = fs::read_to_string(&self.stdout).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Both fail if it has ended, which is as good.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}
