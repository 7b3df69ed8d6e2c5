//! The event a handler is called with.

use std::time::Duration;

use serde::Deserialize;

use crate::Failure;
use crate::bindings::sandbar::handler::types as wire;

/// One event.
#[derive(Debug)]
pub struct Event {
    inner: wire::Event,
}

/// This attempt at handling the event.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    inner: &'a wire::Delivery,
}

// === impl Event ===

impl Event {
    pub(crate) fn new(inner: wire::Event) -> Self {
        Self { inner }
    }

    /// Unique id. The same event keeps it through every retry.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Event type, for example `org.openedx.learning.course.enrollment.created.v1`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.inner.kind
    }

    /// Who produced it, for example `openedx/lms/web`.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// When it was produced: ISO 8601 with offset, as written on the wire.
    #[must_use]
    pub fn time(&self) -> &str {
        &self.inner.time
    }

    /// The topic it was read from, without the bus's prefix.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.inner.topic
    }

    /// Ordering key, if the wire has one.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.inner.key.as_deref()
    }

    /// How the payload was written on the wire: `application/avro`, `application/json` or another.
    #[must_use]
    pub fn content_type(&self) -> &str {
        &self.inner.content_type
    }

    /// The data as a value of yours, which may borrow from the event.
    ///
    /// # Errors
    ///
    /// A rejection with the code `bad-data`, if the document has another shape (running the event again would not change
    /// that), or if the handler is configured with `payload = "raw"`.
    pub fn data<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        match &self.inner.payload {
            wire::Payload::Json(text) => serde_json::from_str(text).map_err(|error| {
                Failure::reject(crate::failure::BAD_DATA, format!("data of {}: {error}", self.kind()))
            }),
            wire::Payload::Raw(_) => Err(Failure::reject(
                crate::failure::BAD_DATA,
                "the handler gets raw bytes (`payload = \"raw\"` in its configuration) and asked for JSON",
            )),
        }
    }

    /// The data as JSON text; none if the handler is configured with `payload = "raw"`.
    #[must_use]
    pub fn json(&self) -> Option<&str> {
        match &self.inner.payload {
            wire::Payload::Json(text) => Some(text),
            wire::Payload::Raw(_) => None,
        }
    }

    /// The bytes as they were on the wire; none unless the handler is configured with `payload = "raw"`.
    #[must_use]
    pub fn raw(&self) -> Option<&[u8]> {
        match &self.inner.payload {
            wire::Payload::Json(_) => None,
            wire::Payload::Raw(bytes) => Some(bytes),
        }
    }

    /// All other headers, in wire order. A name may come twice.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&str, &[u8])> {
        self.inner.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// This attempt at handling it.
    #[must_use]
    pub fn delivery(&self) -> Delivery<'_> {
        Delivery { inner: &self.inner.delivery }
    }

    /// A property that came to the contract after this SDK was written.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.inner.attributes.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Events for tests of a handler's own logic, which run outside WebAssembly.
#[cfg(not(target_family = "wasm"))]
impl Event {
    /// An event of that type with that JSON document as its data: the first of five attempts, everything else plausible.
    #[must_use]
    pub fn for_test(kind: &str, json: &str) -> Self {
        Self::new(wire::Event {
            id: "6f1f4d0e-8d0c-4b59-9a3c-0a4d2f6d7c11".to_owned(),
            kind: kind.to_owned(),
            source: "openedx/lms/web".to_owned(),
            time: "2026-03-14T15:09:26.535897+00:00".to_owned(),
            topic: "test".to_owned(),
            key: None,
            content_type: "application/json".to_owned(),
            payload: wire::Payload::Json(json.to_owned()),
            headers: Vec::new(),
            delivery: wire::Delivery {
                handler: "test".to_owned(),
                position: "1".to_owned(),
                attempt: 1,
                max_attempts: 5,
                deadline_ms: 1000,
                replayed: false,
            },
            attributes: Vec::new(),
        })
    }

    /// The same with another id.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.inner.id);
        self
    }

    /// The same, produced at another time.
    #[must_use]
    pub fn with_time(mut self, time: &str) -> Self {
        time.clone_into(&mut self.inner.time);
        self
    }

    /// The same at another attempt.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.inner.delivery.attempt = attempt;
        self
    }
}

// === impl Delivery ===

impl<'a> Delivery<'a> {
    /// The handler's name in the operator's configuration.
    #[must_use]
    pub fn handler(&self) -> &'a str {
        &self.inner.handler
    }

    /// Where the event lies in its topic, in the bus's own notation.
    #[must_use]
    pub fn position(&self) -> &'a str {
        &self.inner.position
    }

    /// 1 for the first call, one more for each that was started since.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.inner.attempt
    }

    /// At this attempt a failure becomes a dead letter.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.inner.max_attempts
    }

    /// True if a failure of this call makes the event a dead letter.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.attempt() >= self.max_attempts()
    }

    /// How long this call may take, from its start, before it is stopped.
    #[must_use]
    pub fn time_limit(&self) -> Duration {
        Duration::from_millis(u64::from(self.inner.deadline_ms))
    }

    /// True when an operator replays history: the event was handled before.
    #[must_use]
    pub fn is_replayed(&self) -> bool {
        self.inner.replayed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_may_borrow_from_the_event() {
        #[derive(Deserialize)]
        struct Data<'a> {
            course: &'a str,
        }
        let event = Event::for_test("org.example.v1", r#"{"course": "course-v1:a+b+c", "more": [1]}"#);
        let data: Data<'_> = event.data().unwrap();
        assert_eq!(data.course, "course-v1:a+b+c");
        assert_eq!(event.raw(), None);
    }

    #[test]
    fn data_of_another_shape_is_rejected_with_the_place_and_the_type() {
        let event = Event::for_test("org.example.v1", r#"{"course": 7}"#);
        let failure = event.data::<std::collections::BTreeMap<String, String>>().unwrap_err();
        assert!(!failure.is_retry());
        assert_eq!(
            failure.to_string(),
            "reject (bad-data): data of org.example.v1: invalid type: integer `7`, expected a string at line 1 column 12"
        );
    }

    #[test]
    fn raw_bytes_are_no_json() {
        let mut event = Event::for_test("org.example.v1", "{}");
        event.inner.payload = wire::Payload::Raw(b"{}".to_vec());
        assert_eq!((event.json(), event.raw()), (None, Some(b"{}".as_slice())));
        let failure = event.data::<()>().unwrap_err().to_string();
        assert!(failure.contains(r#"payload = "raw""#), "{failure}");
    }

    #[test]
    fn the_first_of_two_headers_is_found() {
        let mut event = Event::for_test("org.example.v1", "{}");
        event.inner.headers = vec![("a".into(), vec![1]), ("b".into(), vec![2]), ("a".into(), vec![3])];
        assert_eq!(event.header("a"), Some([1].as_slice()));
        assert_eq!(event.header("c"), None);
        assert_eq!(event.headers().len(), 3);
    }

    #[test]
    fn the_last_attempt_is_known() {
        let event = Event::for_test("org.example.v1", "{}");
        assert!(!event.delivery().is_last_attempt());
        assert!(event.with_attempt(5).delivery().is_last_attempt());
    }
}
