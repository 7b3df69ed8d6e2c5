//! Notifications that fail now and then.
//!
//! The lesson: how a handler fails. It asks for another attempt, panics, or gives an event up for good. Which of it
//! happens depends on the notification alone, so that a test and the demonstration see the same every time.
//!
//! Needs no grant.

use std::time::Duration;

use sandbar_sdk::{Event, Failure, handler, log};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// What is to happen to a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It goes out at once.
    Sent,
    /// The mail server refuses it so many times.
    Refused(u32),
    /// The handler panics at the first attempt.
    Panics,
}

/// Either of two types of event, told apart by what they hold.
#[derive(Deserialize)]
struct Notification {
    notification_data: Option<UserNotification>,
    course_notification_data: Option<CourseNotification>,
}

#[derive(Deserialize)]
struct UserNotification {
    user_ids: Vec<i64>,
    notification_type: String,
    content_url: String,
}

#[derive(Deserialize)]
struct CourseNotification {
    notification_type: String,
    content_url: String,
    audience_filters: std::collections::BTreeMap<String, Vec<IgnoredAny>>,
}

#[handler]
fn handle(event: Event) -> Result<(), Failure> {
    let Notification { notification_data, course_notification_data } = event.data()?;
    let (kind, url, nobody) = match (notification_data, course_notification_data) {
        (Some(it), _) => (it.notification_type, it.content_url, it.user_ids.is_empty()),
        (None, Some(it)) => (it.notification_type, it.content_url, it.audience_filters.is_empty()),
        (None, None) => return Err(Failure::reject("no-notification", format!("{} holds none", event.kind()))),
    };
    if nobody {
        // No attempt will ever change that: a dead letter, for somebody to look at.
        return Err(Failure::reject("no-audience", format!("{kind} for {url} is addressed to nobody")));
    }
    let attempt = event.delivery().attempt();
    match fate(&url) {
        Fate::Refused(times) if attempt <= times => {
            // The server would say when to come again; that goes before the configured back-off.
            Err(Failure::retry("the mail server is busy").code("mail-server").after(Duration::from_millis(50)))
        }
        Fate::Panics if attempt == 1 => panic!("a template for {kind} is broken"),
        _ => {
            log::info!("sent {kind} for {url} at attempt {attempt}");
            Ok(())
        }
    }
}

/// Out of the last digit of the address, so that examples can be written by hand: 7 is refused once, 8 twice, 9 panics.
fn fate(url: &str) -> Fate {
    match url.as_bytes().last() {
        Some(b'7') => Fate::Refused(1),
        Some(b'8') => Fate::Refused(2),
        Some(b'9') => Fate::Panics,
        _ => Fate::Sent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_sent_in_the_end() {
        for (url, failures) in [("https://lms.example.org/1", 0), ("https://lms.example.org/7", 1), ("https://x/8", 2)]
        {
            let data = format!(
                r#"{{"notification_data": {{"user_ids": [1], "notification_type": "new_post", "content_url": "{url}"}}}}"#
            );
            let event = |attempt| Event::for_test("org.example.v1", &data).with_attempt(attempt);
            let failed = (1..=5).take_while(|attempt| handle(event(*attempt)).is_err()).count();
            assert_eq!(failed, failures, "{url}");
        }
        assert_eq!(fate("https://x/9"), Fate::Panics);
    }

    #[test]
    fn what_is_addressed_to_nobody_is_rejected() {
        let data = r#"{"course_notification_data": {"notification_type": "new_post", "content_url": "https://x",
            "audience_filters": {}}}"#;
        let failure = handle(Event::for_test("org.example.v1", data)).unwrap_err();
        assert!(failure.to_string().starts_with("reject (no-audience)"), "{failure}");
    }

    #[test]
    fn what_is_no_notification_is_rejected() {
        let failure = handle(Event::for_test("org.example.v1", r#"{"enrollment": {}}"#)).unwrap_err();
        assert!(!failure.is_retry(), "{failure}");
    }
}
