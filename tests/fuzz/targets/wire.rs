//! The fields of a message become an envelope, and the envelope an event.

use std::sync::LazyLock;

use bytes::Bytes;
use sandbar::decode::{Decoder, Settings};
use sandbar::event::{Envelope, Fields, Message};
use sandbar::wire::{Identity, Profile};

/// What separates names and values: a byte that no text has.
const BETWEEN: u8 = 0xff;

/// A line of a log should hold any refusal.
const READABLE: usize = 1_000;

static DECODER: LazyLock<Decoder> = LazyLock::new(|| Decoder::load(&Settings::default()).expect("built-in schemas"));

/// The input is a position, then names and values in turn, with [`BETWEEN`] between them; and the same bytes are taken for
/// fields in the form in which stores keep them.
pub fn run(input: &[u8]) {
    packed(input);
    let mut pieces = input.split(|byte| *byte == BETWEEN);
    let position = String::from_utf8_lossy(pieces.next().unwrap_or_default());
    let pairs: Vec<(&[u8], &[u8])> = std::iter::from_fn(|| Some((pieces.next()?, pieces.next()?))).collect();
    read(&message(&position, Fields::from_pairs(pairs)));
}

fn packed(input: &[u8]) {
    if let Ok(fields) = Fields::unpack(Bytes::copy_from_slice(input)) {
        assert_eq!(fields.pack(), input, "there is one way to pack fields");
        read(&message("1-0", fields));
    }
}

fn message(position: &str, fields: Fields) -> Message {
    Message { topic: "topic".into(), position: position.into(), first: position.into(), fields }
}

fn read(message: &Message) {
    let profile = Profile::OpenEdx;
    let envelope = match profile.read(message) {
        Ok(envelope) => envelope,
        Err(error) => {
            assert!(error.to_string().len() < READABLE, "{error}");
            return;
        }
    };
    assert_eq!(profile.read(message).as_ref(), Ok(&envelope), "the same message gives the same event");

    let identity = Identity { source: "s".into(), host: "h".into(), lib: "1.0.0".into() };
    let write = |envelope: &Envelope| message_of(message, profile.write(envelope, &identity));
    let signed = profile.read(&write(&envelope)).expect("what was written can be read");
    assert_eq!(essence(&signed), essence(&envelope), "writing an event changes nothing of it");
    let again = profile.read(&write(&signed));
    assert_eq!(again.as_ref(), Ok(&signed), "an event that is signed comes out as it was read");

    for raw in [false, true] {
        let _ = DECODER.decode(message, envelope.clone(), raw);
    }
}

fn message_of(message: &Message, fields: Fields) -> Message {
    Message { fields, ..message.clone() }
}

/// All but what a signature adds.
fn essence(envelope: &Envelope) -> Envelope {
    let mut envelope = envelope.clone();
    let signature = ["minorversion", "sourcehost", "sourcelib"];
    envelope.metadata.headers.retain(|(name, _)| !signature.contains(&name.as_str()));
    envelope.metadata.source.clear();
    envelope
}
