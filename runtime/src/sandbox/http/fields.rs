//! Headers: those that a guest may choose, and no more of them than it may.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use wasmtime::component::{ComponentType, Lower};

use crate::sandbox::limits;

/// `wasi:http/types#header-error`, and what there is no case for in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lower)]
#[component(variant)]
pub(in crate::sandbox) enum HeaderError {
    #[component(name = "invalid-syntax")]
    InvalidSyntax,
    #[component(name = "forbidden")]
    Forbidden,
    #[component(name = "immutable")]
    Immutable,
}

/// Why fields did not take a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sandbox) enum Refusal {
    /// Told to the guest.
    Error(HeaderError),
    /// More than may be: nothing that the guest could be told says so.
    TooMuch,
}

/// A set of headers that a guest holds, made by it or come with an answer.
#[derive(Clone, Debug, Default)]
pub(in crate::sandbox) struct Fields {
    map: HeaderMap,
    bytes: usize,
    immutable: bool,
}

/// Those of one connection, or about who is spoken to: they are the host's. `proxy-…` is refused with them.
const FORBIDDEN: [HeaderName; 8] = [
    header::HOST,
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
];

/// What a line of a header section has beside name and value.
const LINE: usize = ": \r\n".len();

fn is_forbidden(name: &HeaderName) -> bool {
    FORBIDDEN.contains(name) || name.as_str().starts_with("proxy-") || name.as_str() == "http2-settings"
}

// === impl Fields ===

impl Fields {
    /// What an answer came with. Headers of the connection are the host's to read.
    pub(super) fn received(mut map: HeaderMap) -> Self {
        let forbidden: Vec<HeaderName> = map.keys().filter(|name| is_forbidden(name)).cloned().collect();
        for name in forbidden {
            map.remove(name);
        }
        let bytes = map.iter().map(|(name, value)| line(name, value)).sum();
        Self { map, bytes, immutable: true }
    }

    /// The same for somebody who may only look.
    pub(super) fn view(&self) -> Self {
        Self { immutable: true, ..self.clone() }
    }

    /// The same for somebody who may change it.
    pub(in crate::sandbox) fn copy(&self) -> Self {
        Self { immutable: false, ..self.clone() }
    }

    pub(super) fn map(&self) -> &HeaderMap {
        &self.map
    }

    /// Puts a value beside those there are. `most`: bytes of all.
    pub(in crate::sandbox) fn append(&mut self, name: &str, value: &[u8], most: usize) -> Result<(), Refusal> {
        let (name, value) = (self.writable(name)?, parsed(value)?);
        self.add(name, value, most)
    }

    /// Puts values in the place of those there are.
    pub(in crate::sandbox) fn set(&mut self, name: &str, values: &[Vec<u8>], most: usize) -> Result<(), Refusal> {
        let name = self.writable(name)?;
        let values: Vec<HeaderValue> = values.iter().map(|value| parsed(value)).collect::<Result<_, _>>()?;
        self.remove(&name);
        values.into_iter().try_for_each(|value| self.add(name.clone(), value, most))
    }

    /// Takes all values of a name away.
    pub(in crate::sandbox) fn delete(&mut self, name: &str) -> Result<(), HeaderError> {
        let name = self.writable(name)?;
        self.remove(&name);
        Ok(())
    }

    /// All values of a name. One that cannot be a name has none.
    pub(in crate::sandbox) fn get(&self, name: &str) -> Vec<Vec<u8>> {
        self.map.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect()
    }

    pub(in crate::sandbox) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    pub(in crate::sandbox) fn entries(&self) -> Vec<(String, Vec<u8>)> {
        self.map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
    }

    pub(in crate::sandbox) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    fn writable(&self, name: &str) -> Result<HeaderName, HeaderError> {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| HeaderError::InvalidSyntax)?;
        match () {
            () if self.immutable => Err(HeaderError::Immutable),
            () if is_forbidden(&name) => Err(HeaderError::Forbidden),
            () => Ok(name),
        }
    }

    fn add(&mut self, name: HeaderName, value: HeaderValue, most: usize) -> Result<(), Refusal> {
        let bytes = self.bytes + line(&name, &value);
        if bytes > most || self.map.len() >= limits::HTTP_HEADERS {
            return Err(Refusal::TooMuch);
        }
        self.bytes = bytes;
        self.map.append(name, value);
        Ok(())
    }

    fn remove(&mut self, name: &HeaderName) {
        let gone: usize = self.map.get_all(name).iter().map(|value| line(name, value)).sum();
        self.bytes -= gone;
        self.map.remove(name);
    }
}

// === impl Refusal ===

impl From<HeaderError> for Refusal {
    fn from(error: HeaderError) -> Self {
        Self::Error(error)
    }
}

/// A value, which has no line breaks.
fn parsed(value: &[u8]) -> Result<HeaderValue, HeaderError> {
    HeaderValue::from_bytes(value).map_err(|_| HeaderError::InvalidSyntax)
}

fn line(name: &HeaderName, value: &HeaderValue) -> usize {
    name.as_str().len() + value.len() + LINE
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1_000;

    fn refused(error: HeaderError) -> Result<(), Refusal> {
        Err(Refusal::Error(error))
    }

    #[test]
    fn a_guest_chooses_no_header_of_the_connection() {
        for name in [
            "host",
            "Host",
            "CONNECTION",
            "Transfer-Encoding",
            "te",
            "Trailer",
            "Upgrade",
            "keep-alive",
            "Expect",
            "Proxy-Authorization",
            "proxy-connection",
            "PROXY-anything",
            "HTTP2-Settings",
        ] {
            let mut fields = Fields::default();
            assert_eq!(fields.append(name, b"x", MOST), refused(HeaderError::Forbidden), "{name}");
            assert_eq!(fields.set(name, &[b"x".to_vec()], MOST), refused(HeaderError::Forbidden), "{name}");
            assert!(fields.entries().is_empty());
            let mut map = HeaderMap::new();
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("x"));
            map.append("content-type", HeaderValue::from_static("text/plain"));
            let received = Fields::received(map).entries();
            assert_eq!(received, [("content-type".to_owned(), b"text/plain".to_vec())], "{name}");
        }
    }

    #[test]
    fn no_value_or_name_has_a_line_break() {
        for (name, value) in [
            ("a", &b"x\r\nhost: evil"[..]),
            ("a", b"x\ny"),
            ("a", b"x\ry"),
            ("a", b"x\0y"),
            ("a\r\nhost: evil", b"x"),
            ("a b", b"x"),
            ("a:", b"x"),
            ("", b"x"),
            ("\u{fc}", b"x"),
        ] {
            assert_eq!(Fields::default().append(name, value, MOST), refused(HeaderError::InvalidSyntax), "{name:?}");
        }
    }

    #[test]
    fn headers_have_so_many_bytes_and_so_many_lines() {
        let mut fields = Fields::default();
        assert_eq!(fields.append("a", &[b'x'; 990], MOST), Ok(()));
        assert_eq!(fields.append("b", b"xx", MOST), Err(Refusal::TooMuch));
        // What is taken away makes room.
        fields.set("A", &[vec![b'x'; 10], vec![b'y'; 10]], MOST).unwrap();
        assert_eq!(fields.get("a"), [vec![b'x'; 10], vec![b'y'; 10]]);
        fields.append("b", &[b'x'; 900], MOST).unwrap();
        fields.delete("a").unwrap();
        assert!(!fields.has("a") && fields.has("B"));

        let mut fields = Fields::default();
        for _ in 0..limits::HTTP_HEADERS {
            fields.append("a", b"", 1 << 20).unwrap();
        }
        assert_eq!(fields.append("a", b"", 1 << 20), Err(Refusal::TooMuch));
    }

    #[test]
    fn what_was_received_is_only_looked_at() {
        let mut fields = Fields::received(HeaderMap::new());
        assert_eq!(fields.append("a", b"x", MOST), refused(HeaderError::Immutable));
        assert_eq!(fields.delete("a"), Err(HeaderError::Immutable));
        assert_eq!(fields.copy().append("a", b"x", MOST), Ok(()));
        assert_eq!(fields.copy().view().delete("a"), Err(HeaderError::Immutable));
    }
}
