//! The fields of one message in one block of memory.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

/// Named byte strings in the order they came; names may repeat, and nothing need be UTF-8.
///
/// All bytes lie in one shared block, so that a message costs two allocations however many fields it has, and a
/// clone costs none. A backend that reads many messages at once may let them share the block of the whole read.
#[derive(Clone, Default)]
pub struct Fields {
    block: Bytes,
    spans: Arc<[Span]>,
}

#[derive(Clone, Copy)]
struct Span {
    name: (u32, u32),
    value: (u32, u32),
}

/// Bytes that are not the packed form of any fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packed fields are cut short or malformed")]
pub struct Malformed;

// === impl Fields ===

impl Fields {
    /// Copies the pairs into one block.
    ///
    /// # Panics
    ///
    /// If all bytes together exceed 4 GiB, which no bus takes.
    pub fn from_pairs<N, V>(pairs: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let mut block = BytesMut::new();
        let mut put = |bytes: &[u8]| {
            let start = offset(block.len());
            block.put_slice(bytes);
            (start, offset(block.len()))
        };
        let spans: Vec<Span> = pairs
            .into_iter()
            .map(|(name, value)| Span { name: put(name.as_ref()), value: put(value.as_ref()) })
            .collect();
        Self { block: block.freeze(), spans: spans.into() }
    }

    /// Fields that lie in `block` already, as pairs of (name, value) ranges.
    ///
    /// # Panics
    ///
    /// If a range lies outside the block.
    pub fn in_block(block: Bytes, ranges: impl IntoIterator<Item = (Range<usize>, Range<usize>)>) -> Self {
        let span = |range: Range<usize>| {
            assert!(range.start <= range.end && range.end <= block.len(), "field outside its block");
            (offset(range.start), offset(range.end))
        };
        let spans: Vec<Span> =
            ranges.into_iter().map(|(name, value)| Span { name: span(name), value: span(value) }).collect();
        Self { block, spans: spans.into() }
    }

    /// The fields in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.spans.iter().map(|span| (self.slice(span.name), self.slice(span.value)))
    }

    /// The value of the first field of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(found, _)| *found == name.as_bytes()).map(|(_, value)| value)
    }

    /// The value of field `index`, sharing this block.
    #[must_use]
    pub fn value(&self, index: usize) -> Option<Bytes> {
        self.spans.get(index).map(|span| self.block.slice(span.value.0 as usize..span.value.1 as usize))
    }

    /// The value of the first field of that name, sharing this block.
    #[must_use]
    pub fn get_shared(&self, name: &str) -> Option<Bytes> {
        let index = self.iter().position(|(found, _)| found == name.as_bytes())?;
        self.value(index)
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// True if there is no field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Bytes of all names and values together.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// These fields without those that `keep` refuses, by name.
    #[must_use]
    pub fn filtered(&self, keep: impl Fn(&[u8]) -> bool) -> Self {
        let spans: Vec<Span> = self.spans.iter().copied().filter(|span| keep(self.slice(span.name))).collect();
        Self { block: self.block.clone(), spans: spans.into() }
    }

    /// One self-contained byte string, for stores that keep an event as one value.
    ///
    /// Layout, all integers little-endian `u32`: count, then for each field the lengths of name and value and
    /// their bytes.
    #[must_use]
    pub fn pack(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(4 + self.byte_len() + 8 * self.len());
        out.put_u32_le(offset(self.len()));
        for (name, value) in self.iter() {
            out.put_u32_le(offset(name.len()));
            out.put_u32_le(offset(value.len()));
            out.put_slice(name);
            out.put_slice(value);
        }
        out.freeze()
    }

    /// The inverse of [`Fields::pack`]; shares `packed`.
    ///
    /// # Errors
    ///
    /// If `packed` was not made by `pack`.
    pub fn unpack(packed: Bytes) -> Result<Self, Malformed> {
        let mut at = 0;
        let mut take = |count: usize| -> Result<Range<usize>, Malformed> {
            let end = at + count;
            if end > packed.len() {
                return Err(Malformed);
            }
            let range = at..end;
            at = end;
            Ok(range)
        };
        let int = |range: Range<usize>| -> Result<usize, Malformed> {
            let four: [u8; 4] = packed[range].try_into().map_err(|_| Malformed)?;
            Ok(u32::from_le_bytes(four) as usize)
        };
        let count = int(take(4)?)?;
        // A hostile count must not reserve memory: every field takes at least eight bytes.
        let mut ranges = Vec::with_capacity(count.min(packed.len() / 8));
        for _ in 0..count {
            let (name, value) = (int(take(4)?)?, int(take(4)?)?);
            ranges.push((take(name)?, take(value)?));
        }
        if at != packed.len() {
            return Err(Malformed);
        }
        Ok(Self::in_block(packed, ranges))
    }

    fn slice(&self, (start, end): (u32, u32)) -> &[u8] {
        &self.block[start as usize..end as usize]
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Fields {}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (name, value) in self.iter() {
            map.entry(&String::from_utf8_lossy(name), &format_args!("{} bytes", value.len()));
        }
        map.finish()
    }
}

#[expect(clippy::expect_used, reason = "no bus takes a message of 4 GiB; the limit is far below")]
fn offset(length: usize) -> u32 {
    u32::try_from(length).expect("fields under 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_keeps_order_repeats_and_bytes() {
        let fields = Fields::from_pairs([(&b"type"[..], &b"a"[..]), (b"", b"\xff\x00"), (b"type", b"")]);
        let back = Fields::unpack(fields.pack()).unwrap();
        assert_eq!(back, fields);
        assert_eq!(back.get("type"), Some(&b"a"[..]));
        assert_eq!(back.get("none"), None);
        assert_eq!(back.byte_len(), 11);
    }

    #[test]
    fn unpacking_refuses_what_pack_did_not_make() {
        let packed = Fields::from_pairs([("a", "b")]).pack();
        for end in 0..packed.len() {
            assert_eq!(Fields::unpack(packed.slice(..end)), Err(Malformed), "cut at {end}");
        }
        let mut longer = packed.to_vec();
        longer.push(0);
        assert_eq!(Fields::unpack(longer.into()), Err(Malformed));
        assert_eq!(Fields::unpack(Bytes::from_static(&[0xff; 12])), Err(Malformed));
    }
}
