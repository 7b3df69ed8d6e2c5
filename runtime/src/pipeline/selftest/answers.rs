//! A fixture in the place of the servers that a module asks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use url::Url;

use super::fixture::Fixture;
use super::judge;
use crate::sandbox::{Answer, Http, Unsent, UrlGrant};

/// What is said to a module that asks for something else.
pub(super) const NO_REQUESTS: &str =
    "a test sends no requests, and `http` of the fixture has no answer (left) to this one";

/// The answers of a fixture, each to one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers(Arc<Mutex<Vec<One>>>);

#[derive(Debug)]
struct One {
    method: String,
    url: String,
    answer: Answer,
    asked: Option<Unsent>,
}

/// What has to be granted for them, all of each host that is named.
pub(super) fn grants(fixture: &Fixture) -> Http {
    let all_of = |url: &String| {
        let origin = Url::parse(url).ok()?.origin().ascii_serialization();
        UrlGrant::parse(&format!("{origin}/*"), false).ok()
    };
    Http { urls: fixture.http.iter().filter_map(|one| all_of(&one.url)).collect(), refused: None }
}

// === impl Answers ===

impl Answers {
    /// Those of a fixture; if one cannot be, why.
    pub(super) fn of(fixture: &Fixture) -> Result<Self, String> {
        let mut all = Vec::new();
        for (n, given) in fixture.http.iter().enumerate() {
            let bad = |why: String| format!("`http[{n}]` of the fixture: {why}");
            let url = Url::parse(&given.url).map_err(|error| bad(format!("`url`: {error}")))?;
            let body = given.body.as_ref().map_or_else(|| Ok(Bytes::new()), |body| body.bytes().map_err(bad))?;
            let headers = given.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let answer = Answer::new(given.status, headers, body).map_err(bad)?;
            all.push(One { method: given.method.to_ascii_uppercase(), url: url.into(), answer, asked: None });
        }
        Ok(Self(Arc::new(Mutex::new(all))))
    }

    /// The first one that is left to this request.
    pub(super) fn take(&self, unsent: Unsent) -> Option<Answer> {
        let mut all = self.lock();
        let one = all.iter_mut().find(|one| one.is_left_for(&unsent))?;
        one.asked = Some(unsent);
        Some(one.answer.clone())
    }

    /// What was not asked for, or not so.
    pub(super) fn differences(&self, fixture: &Fixture) -> Vec<String> {
        let mut found = Vec::new();
        for (n, (one, given)) in self.lock().iter_mut().zip(&fixture.http).enumerate() {
            let what = format!("http[{n}], {} {}", one.method, one.url);
            match (&mut one.asked, &given.sent) {
                (None, _) => found.push(format!("{what}: it is not sent")),
                (Some(_), None) => {}
                (Some(unsent), Some(expected)) => match unsent.take_body() {
                    Some(body) => found.extend(judge::value_differs(&format!("{what}: its body"), expected, &body)),
                    None => found.push(format!("{what}: its body is not finished")),
                },
            }
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, Vec<One>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl One ===

impl One {
    fn is_left_for(&self, unsent: &Unsent) -> bool {
        // However either is written.
        let same_url = || Url::parse(&unsent.url).is_ok_and(|url| url.as_str() == self.url);
        self.asked.is_none() && self.method == unsent.method && same_url()
    }
}
