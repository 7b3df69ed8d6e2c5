//! Where the handler is CHOSEN: which events of its topics it gets, and which of them must wait for others.

mod filter;
mod lanes;

pub use filter::{BadGlob, Filter};
pub use lanes::{Lanes, Release};

use crate::event::{Event, Lane, Payload};

/// Which events of one handler may run at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// All of them.
    #[default]
    None,
    /// Those of different keys. Events without a key are not ordered.
    Key,
    /// One at a time per topic.
    Topic,
}

/// The lane an event belongs to, or `None` if it may run beside every other.
///
/// `pointer` is the JSON pointer (RFC 6901) to the key in the event's data, for wires that have none; where it is given
/// it overrides the wire's key.
#[must_use]
pub fn lane(order: Order, pointer: Option<&str>, event: &Event) -> Option<Lane> {
    match order {
        Order::None => None,
        Order::Topic => Some(Lane::of(&event.topic, b"")),
        Order::Key => match pointer {
            None => event.metadata.key.as_ref().map(|key| Lane::of(&event.topic, key)),
            Some(pointer) => {
                let Payload::Json(document) = &event.payload else { return None };
                let data: serde_json::Value = serde_json::from_str(document).ok()?;
                match data.pointer(pointer)? {
                    serde_json::Value::Null => None,
                    serde_json::Value::String(text) => Some(Lane::of(&event.topic, text.as_bytes())),
                    other => Some(Lane::of(&event.topic, other.to_string().as_bytes())),
                }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Metadata, Position};

    fn event(json: &str, key: Option<&'static [u8]>) -> Event {
        Event {
            topic: "t".into(),
            position: Position::from("1"),
            first: Position::from("1"),
            metadata: Metadata { key: key.map(Into::into), ..Metadata::default() },
            content_type: "application/json".into(),
            payload: Payload::Json(json.into()),
        }
    }

    #[test]
    fn a_lane_is_named_by_topic_by_key_or_not_at_all() {
        let json = r#"{"a": {"b": "x"}, "n": 7, "nil": null}"#;
        let keyed = event(json, Some(b"k"));
        let at = |order, pointer| lane(order, pointer, &keyed);
        assert_eq!(at(Order::None, None), None);
        assert_eq!(at(Order::Topic, None), Some(Lane::of("t", b"")));
        assert_eq!(at(Order::Key, None), Some(Lane::of("t", b"k")));
        assert_eq!(at(Order::Key, Some("/a/b")), Some(Lane::of("t", b"x")));
        assert_eq!(at(Order::Key, Some("/n")), Some(Lane::of("t", b"7")));
        assert_eq!(at(Order::Key, Some("/nil")), None);
        assert_eq!(at(Order::Key, Some("/none")), None);
        assert_eq!(lane(Order::Key, None, &event(json, None)), None);
    }
}
