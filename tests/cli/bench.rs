//! A directory to run the binary in, and what it came to.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use tempfile::TempDir;

/// No command here takes a second; a busy machine may take many.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

pub(crate) const KIND: &str = "org.openedx.content_authoring.course.catalog_info.changed.v1";

/// A directory with a configuration, and the binary to run in it.
pub(crate) struct Bench {
    pub(crate) directory: TempDir,
}

/// What a command came to.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Bench {
    pub(crate) fn new(config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("sandbar.toml"), config).unwrap();
        Self { directory }
    }

    /// One handler on the embedded bus.
    pub(crate) fn embedded() -> Self {
        Self::new(
            "[bus]\nurl = \"sqlite:events.db\"\ntopic_prefix = \"dev\"\n[[handler]]\nname = \"mirror\"\nmodule = \
             \"mirror.wasm\"\ntopics = [\"catalog\"]\nstart = \"beginning\"\n",
        )
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).current_dir(self.directory.path()).env_clear();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, args: &[&str], stdin: &[u8]) -> Ran {
        finish(self.command(args).spawn().unwrap(), stdin)
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) fn ok(&self, args: &[&str], stdin: &[u8]) -> String {
        let ran = self.run(args, stdin);
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.stderr, ran.text());
        ran.text()
    }

    pub(crate) fn json(&self, args: &[&str], stdin: &[u8]) -> Value {
        let text = self.ok(args, stdin);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }
}

impl Ran {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }
}

/// The binary beside this test's own directory, or where `SANDBAR_BIN` says.
pub(crate) fn binary() -> PathBuf {
    let beside = || {
        let own = std::env::current_exe().unwrap();
        own.parent().unwrap().parent().unwrap().join("sandbar")
    };
    let path = std::env::var_os("SANDBAR_BIN").map_or_else(beside, PathBuf::from);
    assert!(path.is_file(), "{} is missing: run `cargo build -p sandbar` first, or set SANDBAR_BIN", path.display());
    path
}

/// Feeds a process and waits for its end, within a bound.
pub(crate) fn finish(mut child: Child, stdin: &[u8]) -> Ran {
    let mut input = child.stdin.take().unwrap();
    let bytes = stdin.to_vec();
    // A process that does not read its input breaks the pipe, which is its right.
    let writer = thread::spawn(move || drop(input.write_all(&bytes)));
    let output = bounded(child);
    writer.join().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(crate) fn bounded(mut child: Child) -> Output {
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |pipe: &mut dyn std::io::Read| {
        let mut bytes = Vec::new();
        // What was read until then is the output, however it ended.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    };
    let (tell, told) = mpsc::channel();
    let out = thread::spawn(move || {
        let bytes = read(&mut stdout);
        let _ = tell.send(());
        bytes
    });
    let err = thread::spawn(move || read(&mut stderr));
    if told.recv_timeout(BOUND).is_err() {
        drop(child.kill());
        drop(child.wait());
        panic!("the command took longer than {BOUND:?}: {}", String::from_utf8_lossy(&err.join().unwrap()));
    }
    let status = child.wait().unwrap();
    Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}

pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) datum: Vec<u8>,
    pub(crate) data: Value,
}

pub(crate) fn vectors() -> Vec<Vector> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        let vector: Value = serde_json::from_str(&text).unwrap();
        let fields = vector["redis"]["fields"].as_array().unwrap();
        let datum = fields.iter().find(|field| field["name"] == "event_data").unwrap();
        found.push(Vector {
            name: vector["name"].as_str().unwrap().to_owned(),
            kind: vector["event_type"].as_str().unwrap().to_owned(),
            datum: BASE64.decode(datum["value_b64"].as_str().unwrap()).unwrap(),
            data: vector["event_data_avro_json"].clone(),
        });
    }
    assert!(found.len() >= 10, "vectors are missing");
    found
}

pub(crate) fn catalog() -> Vector {
    vectors().into_iter().find(|vector| vector.kind == KIND).unwrap()
}

/// A component that was built against the released contract; it imports everything there is.
pub(crate) fn component() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contract/handler-0.1.0.wasm")
}
