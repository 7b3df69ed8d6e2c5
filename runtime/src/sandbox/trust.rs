//! What a module's bytes must be before anything is made of them: those of a digest, or signed by somebody trusted.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::signature::{self, Malformed};

/// What is asked of a module. The default asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The digest its bytes must have.
    pub sha256: Option<[u8; 32]>,
    /// Whose signature it must have, any one of them; nobody's will do if there are none. `None`: it need not be signed.
    pub keys: Option<Vec<TrustedKey>>,
}

/// Somebody's public Ed25519 key.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustedKey([u8; 32]);

/// Why text or a file holds no public keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadKey {
    /// It is the secret half.
    #[error("is a private key, which belongs to whoever signs: name the public one")]
    Private,
    /// Another algorithm or format.
    #[error(
        "is no Ed25519 public key: it takes `ssh-ed25519 …`, PEM or DER (SubjectPublicKeyInfo), or a key file of wasmsign2"
    )]
    Unknown,
}

/// Why a module is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Untrusted {
    /// Other bytes.
    #[error("has the digest {is}, and `sha256` pins {wanted}: these are not the bytes that were meant")]
    Digest {
        /// What it has, in hex.
        is: String,
        /// What it must have.
        wanted: String,
    },
    /// No signature.
    #[error(
        "is not signed, and `trusted_keys` asks for it: sign it with `wasmsign2 sign`; the signature is its first section"
    )]
    Unsigned,
    /// A signature section that cannot be read.
    #[error("has a signature section that cannot be read: {0}")]
    Malformed(Malformed),
    /// Signed, by nobody of `trusted_keys` or for other bytes.
    #[error("has no signature of one of the `trusted_keys` over these bytes: it is somebody else's, or was changed")]
    Stranger,
}

// === impl Trust ===

impl Trust {
    /// Whether these bytes are what is asked for; whose signature they have, if one is asked for.
    ///
    /// # Errors
    ///
    /// In what they are not. What cannot be read is not trusted.
    pub fn check(&self, wasm: &[u8]) -> Result<Option<TrustedKey>, Untrusted> {
        if let Some(wanted) = self.sha256 {
            let is: [u8; 32] = Sha256::digest(wasm).into();
            if is != wanted {
                return Err(Untrusted::Digest { is: hex(&is), wanted: hex(&wanted) });
            }
        }
        let Some(keys) = &self.keys else { return Ok(None) };
        let signed = signature::read(wasm).map_err(Untrusted::Malformed)?.ok_or(Untrusted::Unsigned)?;
        let by = keys.iter().find(|key| signed.is_signed_by(&key.0));
        by.cloned().map(Some).ok_or(Untrusted::Stranger)
    }
}

// === impl TrustedKey ===

/// How OpenSSH names the algorithm.
const SSH: &str = "ssh-ed25519";

/// What precedes the 32 bytes of a key in DER: SubjectPublicKeyInfo of RFC 8410.
const DER: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// First byte of the key files of wasmsign2.
const RAW_PUBLIC: u8 = 0x01;
const RAW_SECRET: u8 = 0x81;

impl TrustedKey {
    /// The keys of a text or file: one key of wasmsign2 or in DER, or any number in PEM or as lines of OpenSSH.
    ///
    /// # Errors
    ///
    /// If there is anything else in it, or nothing.
    pub fn parse(bytes: &[u8]) -> Result<Vec<Self>, BadKey> {
        match bytes {
            [RAW_PUBLIC, key @ ..] if key.len() == 32 => return Ok(vec![Self::of(key)?]),
            [RAW_SECRET, key @ ..] if key.len() == 64 => return Err(BadKey::Private),
            _ => {}
        }
        if bytes.starts_with(&DER) {
            return Ok(vec![Self::of_der(bytes)?]);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| BadKey::Unknown)?;
        if text.contains("PRIVATE KEY-----") {
            return Err(BadKey::Private);
        }
        let (mut keys, mut block) = (Vec::new(), None::<String>);
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match (line, &mut block) {
                ("-----BEGIN PUBLIC KEY-----", None) => block = Some(String::new()),
                ("-----END PUBLIC KEY-----", Some(inside)) => {
                    keys.push(Self::of_der(&STANDARD.decode(inside).map_err(|_| BadKey::Unknown)?)?);
                    block = None;
                }
                (line, Some(inside)) => inside.push_str(line),
                (line, None) => keys.push(Self::of_ssh(line)?),
            }
        }
        if block.is_some() || keys.is_empty() { Err(BadKey::Unknown) } else { Ok(keys) }
    }

    fn of(key: &[u8]) -> Result<Self, BadKey> {
        key.try_into().map(Self).map_err(|_| BadKey::Unknown)
    }

    fn of_der(der: &[u8]) -> Result<Self, BadKey> {
        Self::of(der.strip_prefix(&DER).ok_or(BadKey::Unknown)?)
    }

    fn of_ssh(line: &str) -> Result<Self, BadKey> {
        let blob = line.strip_prefix(SSH).and_then(|rest| rest.split_whitespace().next()).ok_or(BadKey::Unknown)?;
        let blob = STANDARD.decode(blob).map_err(|_| BadKey::Unknown)?;
        Self::of(blob.strip_prefix(&Self::ssh_prefix()[..]).ok_or(BadKey::Unknown)?)
    }

    /// RFC 8709: the name and the key, each after its length.
    fn ssh_prefix() -> Vec<u8> {
        [&[0, 0, 0, 11], SSH.as_bytes(), &[0, 0, 0, 32]].concat()
    }
}

/// As OpenSSH writes it.
impl fmt::Display for TrustedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SSH} {}", STANDARD.encode([&Self::ssh_prefix(), &self.0[..]].concat()))
    }
}

impl fmt::Debug for TrustedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustedKey({self})")
    }
}

/// Bytes in lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    fn key() -> TrustedKey {
        TrustedKey(std::array::from_fn(|n| u8::try_from(n).unwrap()))
    }

    #[test]
    fn a_key_is_read_in_every_form() {
        assert_eq!(key().to_string(), LINE);
        let der = [&DER[..], &key().0].concat();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&der));
        let raw = [&[RAW_PUBLIC][..], &key().0].concat();
        let line = format!("# who\n\n{LINE} somebody@somewhere\n");
        for form in [LINE.as_bytes(), line.as_bytes(), &der, pem.as_bytes(), &raw] {
            assert_eq!(TrustedKey::parse(form), Ok(vec![key()]), "{form:?}");
        }
        assert_eq!(TrustedKey::parse(format!("{line}{pem}{LINE}").as_bytes()).map(|keys| keys.len()), Ok(3));
    }

    #[test]
    fn nothing_else_is_a_key() {
        let secret = [&[RAW_SECRET][..], &[7; 64]].concat();
        let pem = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----";
        for private in [&secret[..], pem.as_bytes()] {
            assert_eq!(TrustedKey::parse(private), Err(BadKey::Private));
        }
        let (short, rsa) = (&LINE[..LINE.len() - 4], "ssh-rsa AAAAB3NzaC1yc2E=");
        let open = "-----BEGIN PUBLIC KEY-----\nMCow";
        let mixed = format!("{LINE}\nand more");
        let der = [&DER[..], &[0; 33]].concat();
        for other in ["", "# nobody", "ssh-ed25519", "ssh-ed25519 !", short, rsa, open, &mixed] {
            assert_eq!(TrustedKey::parse(other.as_bytes()), Err(BadKey::Unknown), "{other}");
        }
        assert_eq!(TrustedKey::parse(&der), Err(BadKey::Unknown));
        assert_eq!(TrustedKey::parse(&[RAW_PUBLIC; 32]), Err(BadKey::Unknown));
    }
}
