//! How a requeued message carries the position at which it was first published.

use crate::event::{Fields, Message, Position, Topic};

/// The field that a requeued message has on the bus, besides those it came with. Publishers may not use the name.
const FIRST: &str = "sandbar-first";

/// The message that lies at `position` with these fields.
pub(crate) fn message(topic: Topic, position: Position, fields: Fields) -> Message {
    let first = fields.get(FIRST).and_then(|first| std::str::from_utf8(first).ok()).map(Position::from);
    match first {
        None => Message { topic, first: position.clone(), position, fields },
        Some(first) => Message { topic, position, first, fields: fields.filtered(|name| name != FIRST.as_bytes()) },
    }
}

/// The fields under which a message is published again.
pub(crate) fn requeued(fields: &Fields, first: &Position) -> Fields {
    let first = (FIRST.as_bytes(), first.as_str().as_bytes());
    Fields::from_pairs(fields.iter().filter(|(name, _)| *name != FIRST.as_bytes()).chain([first]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_position_travels_beside_the_fields() {
        let fields = Fields::from_pairs([("type", "a"), ("type", "")]);
        let fresh = message("t".into(), "7".into(), fields.clone());
        assert_eq!((fresh.first.as_str(), &fresh.fields), ("7", &fields));
        let again = message("t".into(), "9".into(), requeued(&fields, &fresh.first));
        assert_eq!((again.first.as_str(), again.position.as_str(), &again.fields), ("7", "9", &fields));
        let twice = requeued(&requeued(&fields, &"7".into()), &"7".into());
        assert_eq!(twice.len(), 3, "the field is there once");
    }
}
