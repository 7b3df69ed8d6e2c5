//! A request leaves the guest: whether it may, and what the host adds to it.

use std::sync::Arc;
use std::thread;

use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method};
use uuid::Uuid;

use super::code::{ErrorCode, Failure};
use super::exchange::{Exchange, Times};
use super::grant::{Reach, Target};
use super::outlet::Outlet;
use super::sending::Ask;
use super::table::{Request, Table};
use super::unsent::Unsent;
use crate::event::Event;
use crate::sandbox::host::State;
use crate::sandbox::{limits, text};

/// The namespace of keys by which receivers tell a repeat. Random, and never to be changed: a repeat has the same key after
/// an upgrade too.
const KEYS: Uuid = Uuid::from_u128(0x3d0e_7c51_8a42_4b9f_b6c7_50f2_19ad_e834);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

const USER_AGENT: &str = concat!("sandbar/", env!("CARGO_PKG_VERSION"));

/// What becomes of a request that may be asked.
enum Way {
    Sent(Arc<Outlet>, Reach),
    /// It is not sent, and why.
    Unsent(String),
}

// === impl State ===

impl State {
    /// What the guest holds of HTTP.
    pub(in crate::sandbox) fn http(&mut self) -> &mut Table {
        let limits = &self.handling.spec.limits;
        self.http.get_or_insert_with(|| Box::new(Table::new(limits)))
    }

    /// Sends a request, if it was granted. The answer comes later.
    pub(in crate::sandbox) fn ask(&mut self, request: Request, times: Times) -> Result<Exchange, ErrorCode> {
        let asked = self.may_ask(&request).and_then(|(target, way)| {
            let (deadline, budget) = (self.deadline, Arc::clone(&self.http().budget));
            let (outlet, reach) = match way {
                Way::Sent(outlet, reach) => (outlet, reach),
                Way::Unsent(why) => {
                    let unsent = Unsent::new(&request.method, &target, request.body);
                    let answer = self.handling.services.answer(unsent);
                    let answer = answer.ok_or_else(|| Failure::told(ErrorCode::HttpRequestDenied, why))?;
                    return Ok(Exchange::answered(answer, &budget));
                }
            };
            let number = self.http().calls;
            let mut headers = request.fields.map().clone();
            add_own(&mut headers, &request.method, &target, &self.handling.spec.group, &self.event, number);
            let Request { method, body, .. } = request;
            let waiter = thread::current();
            let ask = Ask { target, reach, method, headers, body, times, deadline, budget, waiter };
            Ok(Exchange::start(&outlet, ask))
        });
        asked.map_err(|failure| self.http().failed(failure))
    }

    fn may_ask(&mut self, request: &Request) -> Result<(Target, Way), Failure> {
        let handling = Arc::clone(&self.handling);
        let (spec, http) = (&handling.spec, &handling.spec.grants.http);
        if matches!(request.method, Method::CONNECT | Method::TRACE) {
            return Err(Failure::plain(ErrorCode::HttpRequestMethodInvalid));
        }
        let authority = request.authority.as_deref().unwrap_or_default();
        let path = request.path_and_query.as_deref().unwrap_or("/");
        let target = Target::parse(request.https.unwrap_or(true), authority, path)?;
        let Some(reach) = http.permits(&target) else {
            let (shown, name, origin) = (target.shown(), &spec.name, target.origin());
            let text = format!(
                "{shown} is not granted to handler {name:?}; to allow it: [handler.grants] http = [\"{origin}/*\"]"
            );
            return Err(Failure::told(ErrorCode::HttpRequestDenied, text));
        };
        let most = spec.limits.http_calls;
        if self.http().calls >= most {
            let more = limits::more_bytes("http_calls", most);
            let text = format!("a call may send {most} requests; {more}");
            return Err(Failure::limit(ErrorCode::ConnectionLimitReached, text));
        }
        self.http().calls += 1;
        let way = match (&http.refused, &handling.outlet) {
            (Some(why), _) => Way::Unsent(why.clone()),
            (None, Some(outlet)) => Way::Sent(Arc::clone(outlet), reach),
            (None, None) => return Err(Failure::plain(ErrorCode::InternalError(None))),
        };
        Ok((target, way))
    }

    /// What is said of a call that failed, if a request may be why.
    pub(in crate::sandbox) fn with_http(&self, reason: &str) -> Option<(String, bool)> {
        let why = self.http.as_ref()?.why()?;
        let (most, secrets) = (self.handling.spec.limits.reason_bytes, &self.handling.spec.grants.secrets);
        let of_host = secrets.line(&format!("HTTP: {}", why.text), most);
        let room = most.saturating_sub(of_host.len() + "; ".len());
        let said = text::line(reason, room.max(1));
        let joined = if room == 0 || reason.is_empty() { of_host } else { format!("{said}; {of_host}") };
        Some((joined, why.limit))
    }
}

/// Adds what the guest has not chosen itself.
fn add_own(headers: &mut HeaderMap, method: &Method, target: &Target, group: &str, event: &Event, number: usize) {
    if !headers.contains_key(header::USER_AGENT) {
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    }
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if !reads && !headers.contains_key(&IDEMPOTENCY_KEY) {
        let key = idempotency_key(method, target, group, event, number).to_string();
        if let Ok(key) = HeaderValue::from_str(&key) {
            headers.insert(IDEMPOTENCY_KEY, key);
        }
    }
}

/// The same for the same request of the same event, however often it is handled. Not of the event's id: that is its
/// producer's word, which may be missing or said twice, and its second event would pass for a repeat of the first.
fn idempotency_key(method: &Method, target: &Target, group: &str, event: &Event, number: usize) -> Uuid {
    let (topic, first, origin, path) = (&event.topic, &event.first, target.origin(), &target.path_and_query);
    let name = format!("{group}\0{topic}\0{first}\0{number}\0{method}\0{origin}{path}");
    Uuid::new_v5(&KEYS, name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Metadata, Payload};

    fn event(topic: &str, first: &str, position: &str) -> Event {
        Event {
            topic: topic.into(),
            position: position.into(),
            first: first.into(),
            metadata: Metadata::default(),
            content_type: String::new(),
            payload: Payload::Json("{}".into()),
        }
    }

    #[test]
    fn a_repeat_has_the_same_key_and_nothing_else_has() {
        let target = |path: &str| Target::parse(true, "lrs.example.org", path).unwrap();
        let key = |group: &str, event: &Event, number: usize, method: &Method, path: &str| {
            idempotency_key(method, &target(path), group, event, number)
        };
        let one = key("g", &event("t", "1", "1"), 1, &Method::POST, "/a");
        assert_eq!(one.to_string(), "11ac2d55-8ee6-53a2-86db-ae94c2c1757b", "it outlives upgrades");
        assert_eq!(one, key("g", &event("t", "1", "9"), 1, &Method::POST, "/a"), "requeued at another place");
        for other in [
            key("h", &event("t", "1", "1"), 1, &Method::POST, "/a"),
            key("g", &event("u", "1", "1"), 1, &Method::POST, "/a"),
            key("g", &event("t", "2", "1"), 1, &Method::POST, "/a"),
            key("g", &event("t", "1", "1"), 2, &Method::POST, "/a"),
            key("g", &event("t", "1", "1"), 1, &Method::PUT, "/a"),
            key("g", &event("t", "1", "1"), 1, &Method::POST, "/b"),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn the_host_adds_what_the_guest_has_not_chosen() {
        let (target, event) = (Target::parse(true, "lrs.example.org", "/").unwrap(), event("t", "1", "1"));
        let added = |method: Method, own: &[(&'static str, &'static str)]| {
            let mut headers: HeaderMap = HeaderMap::new();
            for (name, value) in own {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            add_own(&mut headers, &method, &target, "g", &event, 1);
            headers
        };
        let headers = added(Method::POST, &[]);
        assert_eq!(headers["user-agent"], USER_AGENT);
        assert_eq!(headers["idempotency-key"].len(), 36);
        let headers = added(Method::PATCH, &[("user-agent", "mine"), ("idempotency-key", "my-own")]);
        assert_eq!(
            (headers["user-agent"].as_bytes(), headers["idempotency-key"].as_bytes()),
            (&b"mine"[..], &b"my-own"[..])
        );
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert!(!added(method, &[]).contains_key("idempotency-key"), "what only reads may be repeated");
        }
    }
}
