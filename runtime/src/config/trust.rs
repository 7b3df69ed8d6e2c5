//! `sha256` and `trusted_keys`: which modules may be loaded.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::section::Section;
use crate::sandbox::{Trust, TrustedKey};

/// A file of keys is not longer.
const MOST_BYTES: u64 = 64 << 10;

/// Reads `trusted_keys`. `None` if it is not there or empty. A key that cannot be read is told and left out, and the
/// others are still asked for: with none that can be read, nobody is trusted.
pub(super) fn keys(section: &mut Section<'_>, directory: &Path) -> Option<Vec<TrustedKey>> {
    if !section.holds("trusted_keys") {
        return None;
    }
    // Something that is no list is told by this, and is nobody to trust.
    let Some(found) = section.strings("trusted_keys") else { return Some(Vec::new()) };
    let what = format!("`trusted_keys` in {}", section.label());
    let (none, mut keys) = (found.value.is_empty(), Vec::new());
    for entry in found.value {
        match read(&entry.value, directory) {
            Ok(read) => keys.extend(read),
            Err(why) => section.problem(&entry.place, format!("{what}: {why}")),
        }
    }
    (!none).then_some(keys)
}

/// Reads `sha256` and `trusted_keys` of a handler, for which those of the host stand in. `None` if the digest cannot be
/// used: such a handler must not be taken for one that asks for nothing.
pub(super) fn of_handler(section: &mut Section<'_>, directory: &Path, host: Option<&[TrustedKey]>) -> Option<Trust> {
    let own = section.holds("trusted_keys");
    let keys = keys(section, directory);
    if own && keys.is_none() {
        let (place, label) = (section.place().clone(), section.label().to_owned());
        section.problem(&place, format!("`trusted_keys` in {label} is empty: leave it out, or name who is trusted"));
    }
    let keys = keys.or_else(|| host.map(<[_]>::to_vec));
    let pinned = section.holds("sha256");
    let takes = "64 hexadecimal digits, as `sha256sum` and `sandbar inspect` print them";
    let sha256 = section.get("sha256", takes, |node| node.as_string().and_then(digest)).map(|found| found.value);
    (!pinned || sha256.is_some()).then_some(Trust { sha256, keys })
}

fn digest(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (n, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(digest)
}

/// A key as text, else the path of a file of keys.
fn read(entry: &str, directory: &Path) -> Result<Vec<TrustedKey>, String> {
    if entry.starts_with("ssh-") || entry.trim_start().starts_with("-----BEGIN") {
        return TrustedKey::parse(entry.as_bytes()).map_err(|error| format!("this key {error}"));
    }
    let path = directory.join(entry);
    let bytes = file(&path).map_err(|error| format!("{entry} cannot be read: {error}"))?;
    TrustedKey::parse(&bytes).map_err(|error| format!("{entry} {error}"))
}

fn file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}
