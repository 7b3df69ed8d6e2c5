//! What the retry store and the dead letters keep of a message besides its fields.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::super::{DeadLetter, Error};
use crate::event::{Cause, Fields, Message, Position, Topic, from_unix_millis, unix_millis};

/// First byte of a record: another layout takes another number.
const LAYOUT: u8 = 1;
/// A script passes at most some 8,000 arguments on (the Lua stack), names and values each being one. Messages with
/// more fields than this lie among the dead letters as one packed field.
pub(super) const PLAIN_FIELDS_MAX: usize = 3_000;
/// How many fields of ours stand at the end of a dead letter.
pub(super) const OURS: usize = NAMES.len();

const NAMES: [&str; 9] = [
    "sandbar-why",
    "sandbar-code",
    "sandbar-attempts",
    "sandbar-handler",
    "sandbar-module",
    "sandbar-at",
    "sandbar-position",
    "sandbar-first",
    "sandbar-form",
];
const PACKED: &str = "sandbar-packed";

/// One entry of the retry store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Calls started so far.
    pub(super) attempts: u32,
    /// Code of the last failure.
    pub(super) code: String,
    /// Reason of the last failure.
    pub(super) reason: String,
    /// Where the message was first published.
    pub(super) first: Position,
    /// Its fields.
    pub(super) fields: Fields,
}

// === impl Record ===

impl Record {
    pub(super) fn pack(&self) -> Vec<u8> {
        let fields = self.fields.pack();
        let texts = [self.first.as_str(), &self.code, &self.reason];
        let mut out = BytesMut::with_capacity(32 + texts.iter().map(|text| text.len()).sum::<usize>() + fields.len());
        out.put_u8(LAYOUT);
        out.put_u32_le(self.attempts);
        for text in texts {
            out.put_u32_le(u32::try_from(text.len()).unwrap_or(u32::MAX));
            out.put_slice(text.as_bytes());
        }
        out.put_slice(&fields);
        out.into()
    }

    pub(super) fn unpack(mut bytes: Bytes) -> Option<Self> {
        if bytes.try_get_u8().ok()? != LAYOUT {
            return None;
        }
        let attempts = bytes.try_get_u32_le().ok()?;
        let mut text = || {
            let length = bytes.try_get_u32_le().ok()? as usize;
            (length <= bytes.len()).then(|| bytes.split_to(length)).and_then(|text| String::from_utf8(text.into()).ok())
        };
        let (first, code, reason) = (text()?, text()?, text()?);
        Some(Self { attempts, code, reason, first: first.into(), fields: Fields::unpack(bytes).ok()? })
    }

    pub(super) fn message(self, topic: &Topic, id: String) -> Message {
        Message { topic: topic.clone(), position: id.into(), first: self.first, fields: self.fields }
    }
}

/// The fields of a dead letter: those of the message as they came, then ours.
pub(super) fn dead_fields(message: &Message, cause: &Cause) -> Vec<(Vec<u8>, Vec<u8>)> {
    let packed = message.fields.len() > PLAIN_FIELDS_MAX;
    let mut out: Vec<(Vec<u8>, Vec<u8>)> = if packed {
        vec![(PACKED.into(), message.fields.pack().into())]
    } else {
        message.fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
    };
    let values: [String; OURS] = [
        cause.reason.clone(),
        cause.code.clone(),
        cause.attempts.to_string(),
        cause.handler.clone(),
        cause.module.clone(),
        unix_millis(cause.at).to_string(),
        message.position.to_string(),
        message.first.to_string(),
        if packed { "packed" } else { "plain" }.to_owned(),
    ];
    out.extend(NAMES.iter().zip(values).map(|(name, value)| (name.as_bytes().to_vec(), value.into_bytes())));
    out
}

/// The inverse of [`dead_fields`].
pub(super) fn dead_letter(topic: &Topic, id: String, stored: &Fields) -> Result<DeadLetter, Error> {
    let foreign = || {
        Error::Unexpected(format!("dead letter {id} was not stored by Sandbar: somebody else writes to this stream"))
    };
    let pairs: Vec<(&[u8], &[u8])> = stored.iter().collect();
    let at = pairs.len().checked_sub(OURS).ok_or_else(foreign)?;
    let (came, ours) = pairs.split_at(at);
    if ours.iter().zip(NAMES).any(|((found, _), name)| *found != name.as_bytes()) {
        return Err(foreign());
    }
    let text = |index: usize| String::from_utf8_lossy(ours[index].1).into_owned();
    let fields = match (text(8).as_str(), came) {
        ("packed", [(_, packed)]) => Fields::unpack(Bytes::copy_from_slice(packed)).map_err(|_| foreign())?,
        _ => Fields::from_pairs(came.iter().copied()),
    };
    Ok(DeadLetter {
        topic: topic.clone(),
        first: text(7).into(),
        position: text(6).into(),
        fields,
        cause: Cause {
            reason: text(0),
            code: text(1),
            attempts: text(2).parse().map_err(|_| foreign())?,
            handler: text(3),
            module: text(4),
            at: from_unix_millis(text(5).parse().map_err(|_| foreign())?),
        },
        id: id.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(count: usize) -> Message {
        let fields = Fields::from_pairs((0..count).map(|n| (format!("sandbar-{n}"), vec![0xff, n as u8])));
        Message { topic: "t".into(), position: "5-1".into(), first: "3-0".into(), fields }
    }

    #[test]
    fn a_record_comes_back_whole_and_a_cut_one_not_at_all() {
        let record = Record {
            attempts: 3,
            code: "trap".into(),
            reason: "ü".into(),
            first: "1-0".into(),
            fields: message(2).fields,
        };
        let packed = Bytes::from(record.pack());
        assert_eq!(Record::unpack(packed.clone()), Some(record));
        for end in 0..packed.len() {
            assert_eq!(Record::unpack(packed.slice(..end)), None, "cut at {end}");
        }
    }

    #[test]
    fn a_dead_letter_keeps_the_bytes_as_they_came_however_many() {
        let cause = Cause {
            code: "c".into(),
            reason: "r".into(),
            attempts: 2,
            handler: "h".into(),
            module: "m".into(),
            at: from_unix_millis(1_700_000_000_123),
        };
        for count in [0, 2, PLAIN_FIELDS_MAX + 1] {
            let message = message(count);
            let letter =
                dead_letter(&message.topic, "9-0".into(), &Fields::from_pairs(dead_fields(&message, &cause))).unwrap();
            assert_eq!((letter.fields, letter.cause), (message.fields, cause.clone()));
            assert_eq!((letter.first.as_str(), letter.position.as_str()), ("3-0", "5-1"));
        }
        assert!(dead_letter(&"t".into(), "9-0".into(), &message(3).fields).is_err());
    }
}
