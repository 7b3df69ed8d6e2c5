//! The WebAssembly module signature format, as far as whole modules are concerned.
//!
//! <https://github.com/WebAssembly/tool-conventions/blob/main/Signatures.md>: the first section is a custom one named
//! `signature`. It holds lists of hashes, each with its signatures; a hash is of all bytes from behind that section up to
//! a delimiter or the end. Here only the end counts: what is cut off at a delimiter verifies by the format, and is another
//! program. All of it is read before anybody is trusted, so every length is held against what there is.
//!
//! It is read here, and not by the format's reference implementation, because that one makes room for a section of the
//! size that an untrusted file claims. The tests sign with it.

use ring::signature::{ED25519, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

/// What the signature section says of the bytes behind it.
#[derive(Debug)]
pub(super) struct Signed<'a> {
    /// The message of each list whose last hash is that of all bytes, and a signature over it.
    over_all: Vec<(Vec<u8>, &'a [u8])>,
    /// Every signature there is: the identifier of its key, which may be empty.
    key_ids: Vec<&'a [u8]>,
}

/// Why a signature section cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Something is longer than what holds it, or is followed by more.
    #[error("a length in it is wrong")]
    Length,
    /// Not version 1 for modules with SHA-256.
    #[error("it is of another version, for other content or made with another hash function")]
    Version,
    /// More than anybody signs with.
    #[error("it has more than {MOST} signatures or hashes")]
    TooMany,
}

/// Name of the section.
const SECTION: &[u8] = b"signature";

/// Version 1, of a module, hashed with SHA-256.
const HEADER: [u8; 3] = [1, 1, 1];

/// What a signature is over: this, the header, and the hashes of its list.
const DOMAIN: &[u8] = b"wasmsig";

/// Number of Ed25519 among the algorithms.
const ALGORITHM: u8 = 1;

const HASH_BYTES: usize = 32;

/// Signatures or hashes of one module: each costs the time of looking at it.
const MOST: usize = 64;

/// The signatures of a module or component; `None` if it is not signed.
pub(super) fn read(wasm: &[u8]) -> Result<Option<Signed<'_>>, Malformed> {
    let mut rest = Reader(wasm.get(8..).unwrap_or_default());
    if rest.0.first() != Some(&0) {
        return Ok(None);
    }
    rest.byte()?;
    // A section that is longer than the file is for the parser to complain about, unless it is ours.
    let Ok(mut section) = rest.part() else { return Ok(None) };
    if !section.part().is_ok_and(|name| name.0 == SECTION) {
        return Ok(None);
    }
    if section.take(HEADER.len())? != HEADER {
        return Err(Malformed::Version);
    }
    let all: [u8; HASH_BYTES] = Sha256::digest(rest.0).into();
    let mut signed = Signed { over_all: Vec::new(), key_ids: Vec::new() };
    for _ in 0..section.count()? {
        signed.add(section.part()?, &all)?;
    }
    section.end()?;
    Ok(Some(signed))
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

// === impl Signed ===

impl<'a> Signed<'a> {
    /// Whether the owner of this key signed all bytes.
    pub(super) fn is_signed_by(&self, key: &[u8; 32]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, key);
        self.over_all.iter().any(|(message, signature)| key.verify(message, signature).is_ok())
    }

    /// The identifiers that the signatures' keys were given, and that anybody can give.
    pub(super) fn key_ids(&self) -> &[&'a [u8]] {
        &self.key_ids
    }

    fn add(&mut self, mut list: Reader<'a>, all: &[u8; HASH_BYTES]) -> Result<(), Malformed> {
        let hashes = list.count()?;
        let hashes = list.take(hashes * HASH_BYTES)?;
        let message = [DOMAIN, &HEADER, hashes].concat();
        for _ in 0..list.count()? {
            let mut one = list.part()?;
            let (key_id, algorithm) = (one.part()?, one.byte()?);
            let signature = one.part()?;
            one.end()?;
            if self.key_ids.len() >= MOST {
                return Err(Malformed::TooMany);
            }
            self.key_ids.push(key_id.0);
            // One of an algorithm that is not known proves nothing, and takes nothing from the others.
            if algorithm == ALGORITHM && hashes.ends_with(all) {
                self.over_all.push((message.clone(), signature.0));
            }
        }
        list.end()
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|taken| taken[0])
    }

    /// An unsigned LEB128 number of 32 bits.
    fn number(&mut self) -> Result<usize, Malformed> {
        let mut number = 0_u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(number).map(|number| number as usize).map_err(|_| Malformed::Length);
            }
        }
        Err(Malformed::Length)
    }

    fn count(&mut self) -> Result<usize, Malformed> {
        self.number().and_then(|count| if count <= MOST { Ok(count) } else { Err(Malformed::TooMany) })
    }

    /// A length and as many bytes.
    fn part(&mut self) -> Result<Self, Malformed> {
        let length = self.number()?;
        self.take(length).map(Self)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Length) }
    }
}
