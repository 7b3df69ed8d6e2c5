//! A web server on a port of its own: what it answers is written out byte by byte, so that it can be as wrong as servers
//! are, and what it was asked is kept byte by byte.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

/// The server. It ends with the test.
pub(crate) struct Web {
    pub(crate) port: u16,
    scheme: &'static str,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// One request, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// On which connection, from 1.
    pub(crate) connection: usize,
    /// The request line.
    pub(crate) line: String,
    /// Header lines in order, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

#[derive(Default)]
struct Shared {
    asked: Mutex<Vec<Asked>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    over: AtomicBool,
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A folder with `ca.pem`, and `cert.pem` and `key.pem` that it vouches for, for these names (`IP:127.0.0.1,DNS:localhost`).
pub(crate) fn certificates(names: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl(folder.path(), &key, &["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca of the test"]);
    let signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=web"];
    let names = format!("subjectAltName={names}");
    let names = ["-addext", names.as_str(), "-addext", "basicConstraints=critical,CA:FALSE"];
    openssl(folder.path(), &key, &[&signed[..], &names].concat());
    folder
}

fn openssl(folder: &Path, key: &[&str], arguments: &[&str]) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-days", "2"]).args(key).args(arguments).current_dir(folder).stdin(Stdio::null());
    let made = command.output().expect("openssl is installed (`make setup`)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

// === impl Web ===

impl Web {
    /// Starts one without TLS.
    pub(crate) fn start() -> Self {
        Self::serve("http", |stream| Some(Box::new(stream)))
    }

    /// One that shows the certificate in `folder`.
    pub(crate) fn secured(folder: &Path) -> Self {
        let chain = CertificateDer::pem_file_iter(folder.join("cert.pem")).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap());
        Self::serve("https", move |stream| {
            let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            Some(Box::new(StreamOwned::new(tls, stream)))
        })
    }

    fn serve(
        scheme: &'static str,
        open: impl Fn(TcpStream) -> Option<Box<dyn Stream>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (port, shared) = (listener.local_addr().unwrap().port(), Arc::new(Shared::default()));
        let (of_thread, open) = (Arc::clone(&shared), Arc::new(open));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if of_thread.over.load(Ordering::SeqCst) {
                    return;
                }
                let (shared, open) = (Arc::clone(&of_thread), Arc::clone(&open));
                let connection = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
                thread::spawn(move || {
                    shared.open.fetch_add(1, Ordering::SeqCst);
                    // What nobody asks on does not keep a thread for ever.
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
                    if let Some(stream) = open(stream) {
                        // Whoever asks may go at any time.
                        let _ = shared.answer_all(connection, stream);
                    }
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, scheme, shared, thread: Some(thread) }
    }

    /// `http://127.0.0.1:PORT` and a path.
    pub(crate) fn url(&self, path: &str) -> String {
        self.url_by("127.0.0.1", path)
    }

    /// The same by another name.
    pub(crate) fn url_by(&self, host: &str, path: &str) -> String {
        format!("{}://{host}:{}{path}", self.scheme, self.port)
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Forgets what it was asked.
    pub(crate) fn forget(&self) {
        self.shared.asked.lock().unwrap().clear();
    }

    /// Connections that were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the one who listens.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

// === impl Asked ===

impl Asked {
    /// The values of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The one value of a header.
    pub(crate) fn header(&self, name: &str) -> &str {
        match self.all(name)[..] {
            [value] => value,
            ref other => panic!("{name}: {other:?} in {self:?}"),
        }
    }
}

// === impl Shared ===

impl Shared {
    fn answer_all(&self, connection: usize, stream: Box<dyn Stream>) -> io::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut served = 0;
        while let Some(asked) = read(&mut reader, connection)? {
            let path = asked.line.split(' ').nth(1).unwrap_or_default().to_owned();
            let head = asked.line.starts_with("HEAD ");
            self.asked.lock().unwrap().push(asked);
            served += 1;
            // As a server that closes a connection just as somebody uses it again.
            if path == "/once" && served > 1 {
                return Ok(());
            }
            if !self.answer(path.split('?').next().unwrap_or_default(), head, &mut **reader.get_mut())? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Answers as the path says; true if the connection may be used again.
    fn answer(&self, path: &str, head: bool, out: &mut dyn Stream) -> io::Result<bool> {
        let (name, argument) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        let number = || argument.parse::<usize>().unwrap_or(0);
        match name {
            // Nothing, until whoever asked has gone.
            "silent" => drop(out.read(&mut [0])?),
            "slow" => {
                self.wait(Duration::from_millis(number() as u64));
                whole(out, "200 OK", "", b"late")?;
                return Ok(true);
            }
            "status" => whole(out, &format!("{argument} Said"), "location: /elsewhere\r\n", b"")?,
            // To another place, as a server that means harm would.
            "redirect" => whole(out, "302 Found", &format!("location: http://{argument}\r\n"), b"gone")?,
            "drip" => {
                out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")?;
                while !self.over.load(Ordering::SeqCst) {
                    out.write_all(b".")?;
                    out.flush()?;
                    self.wait(Duration::from_millis(20));
                }
            }
            "endless" => {
                out.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
                while !self.over.load(Ordering::SeqCst) {
                    out.write_all(b"2000\r\n")?;
                    out.write_all(&[b'e'; 0x2000])?;
                    out.write_all(b"\r\n")?;
                }
            }
            "bomb" => {
                out.write_all(b"HTTP/1.1 200 OK\r\n")?;
                while !self.over.load(Ordering::SeqCst) {
                    out.write_all(b"x-bomb: ")?;
                    out.write_all(&[b'b'; 1_000])?;
                    out.write_all(b"\r\n")?;
                }
            }
            "lines" => whole(out, "200 OK", &"x-line: 1\r\n".repeat(number()), b"")?,
            "cookies" => {
                let lines = "set-cookie: a=1\r\nset-cookie: b=2\r\nkeep-alive: timeout=5\r\nproxy-authenticate: x\r\n";
                whole(out, "200 OK", lines, b"hello")?;
                return Ok(true);
            }
            "chunked" => {
                out.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n")?;
                out.write_all(b"5\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 11\r\n\r\n")?;
                out.flush()?;
                return Ok(true);
            }
            "bytes" => {
                whole(out, "200 OK", "", &vec![b'x'; number()])?;
                return Ok(true);
            }
            "until-closed" => out.write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it")?,
            "cut" => out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")?,
            "nothing" => {}
            "garbage" => out.write_all(b"SMTP hello\r\n\r\n")?,
            _ if head => {
                out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")?;
                out.flush()?;
                return Ok(true);
            }
            _ => {
                whole(out, "200 OK", "", b"hello")?;
                return Ok(true);
            }
        }
        out.flush()?;
        Ok(false)
    }

    fn wait(&self, time: Duration) {
        let end = std::time::Instant::now() + time;
        while std::time::Instant::now() < end && !self.over.load(Ordering::SeqCst) {
            thread::park_timeout(Duration::from_millis(5));
        }
    }
}

fn whole(out: &mut dyn Stream, status: &str, headers: &str, body: &[u8]) -> io::Result<()> {
    write!(out, "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", body.len())?;
    out.write_all(body)?;
    out.flush()
}

/// One request; `None` at the end of the connection.
fn read(reader: &mut BufReader<Box<dyn Stream>>, connection: usize) -> io::Result<Option<Asked>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut asked = Asked { connection, line: line.trim_end().to_owned(), headers: Vec::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        asked.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    assert!(asked.all("transfer-encoding").is_empty(), "bodies come whole: {asked:?}");
    if let [length] = asked.all("content-length")[..] {
        asked.body = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut asked.body)?;
    }
    Ok(Some(asked))
}
