//! `sandbar probe`, which no help shows: confines this process and then tries what must be refused, so that anybody can
//! see what is in force on a machine.

use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use sandbar::sandbox::{CompileLimits, confine_as_compiler, confine_as_worker};

use super::{ConfigArgs, Exit, Failure, harden, out};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As what this process is confined
    #[arg(value_enum)]
    role: Role,
    #[command(flatten)]
    config: ConfigArgs,
    /// A file to read, beside which one is to be made
    #[arg(long)]
    file: PathBuf,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Role {
    /// As the host of the configuration
    Host,
    /// As a process that compiles a module
    Compiler,
    /// As a process in which the calls of an isolated handler run
    Worker,
    /// Not at all
    Nothing,
}

/// More than a compiler may have.
const MUCH: usize = 6 << 30;

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    match args.role {
        Role::Host => harden::harden(&args.config.load()?)?,
        Role::Compiler => {
            confine_as_compiler(&CompileLimits::default()).map_err(|error| Failure::new(Exit::Refused, error))?;
        }
        Role::Worker => confine_as_worker().map_err(|error| Failure::new(Exit::Refused, error))?,
        Role::Nothing => {}
    }
    let beside = args.file.with_extension("made");
    tell("read", File::open(&args.file).map(drop))?;
    tell("write", fs::write(&beside, b""))?;
    tell("list", fs::read_dir(beside.parent().unwrap_or(&beside)).map(drop))?;
    tell("make", fs::create_dir(args.file.with_extension("folder")))?;
    tell("listen", TcpListener::bind("127.0.0.1:0").map(drop))?;
    // Nobody is there: who is let through is turned away at the other end.
    tell("connect", TcpStream::connect("127.0.0.1:1").map(drop))?;
    tell("socket", UnixStream::pair().map(drop))?;
    tell("thread", thread::Builder::new().spawn(|| {}).map(|thread| drop(thread.join())))?;
    tell("fork", fork())?;
    tell("signal", signal())?;
    tell("look", look())?;
    tell("code", executable_memory())?;
    tell("memory", Vec::<u8>::new().try_reserve_exact(MUCH).map_err(io::Error::other))?;
    // The last one: if it is not refused, this process is another program.
    tell("execute", Err(Command::new("/proc/self/exe").arg("--version").exec()))?;
    Ok(Exit::Clean)
}

fn tell(what: &str, tried: io::Result<()>) -> io::Result<()> {
    match tried {
        Ok(()) => out::line(&format!("{what}: done")),
        Err(error) => out::line(&format!("{what}: {error}")),
    }
}

fn done(answer: i64) -> io::Result<()> {
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn fork() -> io::Result<()> {
    // SAFETY: the copy, if there is one, does nothing but end.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: it ends a process that has done nothing.
        unsafe { libc::_exit(0) };
    }
    done(child.into())
}

fn signal() -> io::Result<()> {
    // SAFETY: no signal is sent, only asked for the right to; no memory is touched.
    done(unsafe { libc::kill(libc::getppid(), 0) }.into())
}

/// Looks into a process: this one, which nobody but a filter refuses.
fn look() -> io::Result<()> {
    let (from, mut into) = ([1_u8; 8], [0_u8; 8]);
    let remote = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: both pieces of memory live for as long as the call, which writes to the second one alone.
    let read = unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    done(read as i64)
}

fn executable_memory() -> io::Result<()> {
    let (access, kind) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new piece of memory, at a place of the kernel's choice, which nothing uses.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, kind, -1, 0) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}
