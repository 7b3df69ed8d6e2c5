//! Compiled modules, kept on disk, so that a start does not compile what an earlier one has compiled.
//!
//! Compiled code is what the host runs outside of any sandbox, so an entry is believed only if this host's user wrote it:
//! the folder and the files belong to that user and are closed to all others, and each entry carries a code (HMAC-SHA256)
//! over what it was made of and all of its bytes. The bytes are read once, into memory of this process, checked there and
//! used from there. Whatever does not fit is compiled again and replaced. No file made elsewhere is ever loaded.
//!
//! The key is derived from `host.secret`, or lies in the folder if there is none. In the folder it proves nothing to
//! somebody who can write there *as this user*: such a one need not bother with the cache. What it does tell is damage,
//! and an entry that was copied here.

use std::fs::{DirBuilder, File};
use std::hash::{Hash as _, Hasher};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use hmac::{Hmac, Mac as _};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::limits;
use super::secret::Secret;

/// An open cache of one engine's code.
pub(super) struct Cache {
    folder: OwnedFd,
    path: PathBuf,
    key: Key,
    /// What code must have been made by: this program's version, the engine and its settings, the processor.
    maker: [u8; 32],
    /// That it cannot be written was said.
    told: AtomicBool,
}

/// Why there is no cache, or nothing is written to it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("the code cache {0} must be a directory of this user's, closed to all others (mode 0700)")]
    NotPrivate(PathBuf),
    #[error("the code cache {0} cannot be used")]
    Folder(PathBuf, #[source] io::Error),
    #[error("the code cache {0} has no key and none can be written")]
    Key(PathBuf, #[source] io::Error),
    #[error("the code cache {0} cannot be written")]
    Write(PathBuf, #[source] io::Error),
}

type Key = [u8; 32];
type Code = Hmac<Sha256>;

/// What an entry begins with; another layout gets another one.
const MAGIC: &[u8; 16] = b"sandbar code 1\n\0";
const TAG: usize = 32;
const KEY_FILE: &str = "key";
const ENTRY: &str = ".code";
const TEMPORARY: &str = ".tmp";

/// Somebody who writes an entry is done with it long before.
const ABANDONED: Duration = Duration::from_secs(3600);

// === impl Cache ===

impl Cache {
    /// Opens the folder, and makes it if there is none.
    pub(super) fn open(path: &Path, engine: &Engine, secret: Option<&Secret>) -> Result<Self, Trouble> {
        // Without a slash at its end, which would lead through a link.
        let path: PathBuf = path.components().collect();
        let failed = |error: io::Error| Trouble::Folder(path.clone(), error);
        // Where it is there already nothing is made, also on a disk that cannot be written.
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => return Err(Trouble::NotPrivate(path)),
            opened => opened.map_err(|error| failed(error.into()))?,
        };
        let about = rustix::fs::fstat(&folder).map_err(|error| failed(error.into()))?;
        if !is_private(about.st_uid, about.st_mode) {
            return Err(Trouble::NotPrivate(path));
        }
        let key = match secret {
            Some(secret) => code(secret.bytes()).chain_update(b"sandbar code cache").finalize().into_bytes().into(),
            None => key_of(&folder).map_err(|error| Trouble::Key(path.clone(), error))?,
        };
        Ok(Self { folder, path, key, maker: maker(engine), told: AtomicBool::new(false) })
    }

    /// The code of the component with this digest, if it is here and is what it claims to be.
    pub(super) fn load(&self, engine: &Engine, digest: &[u8; 32]) -> Option<Component> {
        let (name, begun) = (self.name(digest), Instant::now());
        let (file, bytes) = match read(&self.folder, &name, limits::CODE_CACHE_BYTES) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(entry = name, %error, "an entry of the code cache is not used: the module is compiled again");
                return None;
            }
        };
        let Some(compiled) = self.verified(digest, &bytes) else {
            tracing::warn!(
                entry = name,
                "an entry of the code cache is damaged or not of this host: the module is compiled again"
            );
            return None;
        };
        match deserialize(engine, compiled) {
            Ok(component) => {
                // What is used is not old. Where it cannot be said nothing is dropped either.
                drop(file.set_modified(SystemTime::now()));
                tracing::debug!(bytes = bytes.len(), took = ?begun.elapsed(), "the module's code is in the code cache");
                Some(component)
            }
            Err(error) => {
                tracing::warn!(entry = name, %error, "an entry of the code cache does not load: the module is compiled again");
                None
            }
        }
    }

    /// Keeps the code of a component for later starts. That it cannot be done is said once, and is no reason to stop.
    pub(super) fn store(&self, digest: &[u8; 32], component: &Component) {
        let stored = component.serialize().map_err(io::Error::other).and_then(|compiled| {
            let tag = self.tag(digest, &compiled).finalize().into_bytes();
            write(&self.folder, &self.name(digest), &[MAGIC, &tag, &compiled])?;
            self.trim(limits::CODE_CACHE_ENTRIES, limits::CODE_CACHE_BYTES)
        });
        if let Err(error) = stored
            && !self.told.swap(true, Ordering::Relaxed)
        {
            Trouble::Write(self.path.clone(), error).tell();
        }
    }

    /// Drops the entries that were not used for longest until no more are left than there may be.
    fn trim(&self, entries: usize, bytes: u64) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            // Another host may have been faster.
            let Ok(about) = rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let used = about.st_mtime;
            if name.ends_with(ENTRY) {
                found.push((used, about.st_mtime_nsec, u64::try_from(about.st_size).unwrap_or(0), name.to_owned()));
            } else if name.ends_with(TEMPORARY) && is_abandoned(used) {
                remove(&self.folder, name);
            }
        }
        found.sort_unstable();
        let (mut count, mut sum) = (found.len(), found.iter().map(|entry| entry.2).sum::<u64>());
        // The last one was written just now.
        let old = found.len().saturating_sub(1);
        for (_, _, size, name) in &found[..old] {
            if count <= entries && sum <= bytes {
                break;
            }
            remove(&self.folder, name);
            (count, sum) = (count - 1, sum - size);
        }
        Ok(())
    }

    /// An entry's name says nothing to whoever lacks the key; hosts with another key do not replace each other's.
    fn name(&self, digest: &[u8; 32]) -> String {
        let name = code(&self.key).chain_update(b"name").chain_update(digest).chain_update(self.maker).finalize();
        let mut text: String = name.into_bytes()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        text.push_str(ENTRY);
        text
    }

    fn tag(&self, digest: &[u8; 32], compiled: &[u8]) -> Code {
        // Each part but the last has a fixed length, so that no two entries run together into the same bytes.
        code(&self.key).chain_update(b"code").chain_update(digest).chain_update(self.maker).chain_update(compiled)
    }

    /// The code in an entry, if the entry is one that this key was used for, with this digest.
    fn verified<'a>(&self, digest: &[u8; 32], entry: &'a [u8]) -> Option<&'a [u8]> {
        let (tag, compiled) = entry.strip_prefix(MAGIC)?.split_at_checked(TAG)?;
        self.tag(digest, compiled).verify_slice(tag).is_ok().then_some(compiled)
    }
}

// === impl Trouble ===

impl Trouble {
    /// Writes a warning, with the cause.
    pub(super) fn tell(&self) {
        let cause = std::error::Error::source(self).map_or_else(String::new, |cause| format!(": {cause}"));
        tracing::warn!(
            "{self}{cause}; modules are compiled at each start (host.code_cache = false says that they shall be)"
        );
    }
}

/// Whether there is no code in this code cache, if it is there at all.
#[must_use]
pub fn is_bare(path: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(path) else { return true };
    !entries.flatten().any(|entry| entry.file_name().as_encoded_bytes().ends_with(ENTRY.as_bytes()))
}

/// Makes a component of code that [`Cache::verified`] let through.
fn deserialize(engine: &Engine, compiled: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes are what `Component::serialize` gave to a process of this user, of this version of this program:
    // they carry a code over all of them that only the holder of a key can make, the key is read from a file that only
    // this user can read or derived from a secret of the operator's, and `store` alone makes such codes, of nothing else.
    // They lie in memory of this process, where nobody changes them after the check. wasmtime itself refuses code of
    // another version of its own, of other settings, or for another processor.
    unsafe { Component::deserialize(engine, compiled) }
}

/// What code depends on beside the component.
fn maker(engine: &Engine) -> [u8; 32] {
    struct Bytes(Sha256);
    impl Hasher for Bytes {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        fn finish(&self) -> u64 {
            unreachable!("the digest is asked for instead")
        }
    }
    let mut bytes = Bytes(Sha256::new());
    env!("CARGO_PKG_VERSION").hash(&mut bytes);
    engine.precompile_compatibility_hash().hash(&mut bytes);
    bytes.0.finalize().into()
}

fn code(key: &[u8]) -> Code {
    #[expect(clippy::expect_used, reason = "there is no length that HMAC does not take")]
    Code::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// The folder's key. One that is not private, or no key, is replaced: then all entries are made anew.
fn key_of(folder: &OwnedFd) -> io::Result<Key> {
    let found = || read(folder, KEY_FILE, 32).and_then(|(_, bytes)| Key::try_from(bytes).map_err(|_| unfit("no key")));
    match found() {
        Ok(key) => return Ok(key),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(%error, "the key of the code cache is replaced");
            remove(folder, KEY_FILE);
        }
    }
    let made: Vec<u8> = [Uuid::new_v4(), Uuid::new_v4()].iter().flat_map(|uuid| *uuid.as_bytes()).collect();
    let temporary = temporary(folder, &[&made])?;
    // Unlike renaming, linking replaces nothing: of several hosts that start at once one is first, and all have its key.
    let linked = rustix::fs::linkat(folder, &temporary, folder, KEY_FILE, AtFlags::empty());
    remove(folder, &temporary);
    match linked {
        Ok(()) | Err(rustix::io::Errno::EXIST) => found(),
        Err(error) => Err(error.into()),
    }
}

/// Reads a file of this user's that is closed to all others, of at most so many bytes.
fn read(folder: &OwnedFd, name: &str, most: u64) -> io::Result<(File, Vec<u8>)> {
    // A pipe in its place would keep whoever opens it waiting.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(folder, name, flags, Mode::empty())?);
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(unfit("it is no file"));
    }
    if !is_private(about.uid(), about.mode()) {
        return Err(unfit("it is open to others than this user"));
    }
    if about.len() > most {
        return Err(unfit("it is too large"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0) + 1);
    (&mut file).take(most).read_to_end(&mut bytes)?;
    Ok((file, bytes))
}

/// Puts a file in place, whole.
fn write(folder: &OwnedFd, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let temporary = temporary(folder, parts)?;
    rustix::fs::renameat(folder, &temporary, folder, name).map_err(|error| {
        remove(folder, &temporary);
        error.into()
    })
}

/// Writes a file under a name of its own.
fn temporary(folder: &OwnedFd, parts: &[&[u8]]) -> io::Result<String> {
    let name = format!("{}{TEMPORARY}", Uuid::new_v4());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(folder, &name, flags, Mode::RUSR | Mode::WUSR)?);
    // Not synced: what a crash of the machine leaves of it does not verify.
    match parts.iter().try_for_each(|part| file.write_all(part)) {
        Ok(()) => Ok(name),
        Err(error) => {
            remove(folder, &name);
            Err(error)
        }
    }
}

fn remove(folder: &OwnedFd, name: &str) {
    // Another host may have been faster; what cannot be removed stays.
    let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
}

fn is_private(owner: u32, mode: u32) -> bool {
    owner == rustix::process::geteuid().as_raw() && mode & 0o077 == 0
}

fn is_abandoned(since: i64) -> bool {
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(since).unwrap_or(0));
    since.elapsed().is_ok_and(|age| age > ABANDONED)
}

fn unfit(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
