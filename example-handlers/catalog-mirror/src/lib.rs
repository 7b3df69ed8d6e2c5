//! One current document per course, out of the changes to the course catalog.
//!
//! The lesson: keys. They outlive the call, and are written with the acknowledgement, only if no other call has written
//! meanwhile what this one has read. So reading, deciding and writing needs no lock, on however many hosts.
//!
//! | key | value |
//! |---|---|
//! | `course/<course key>` | the document |
//! | `visible/<course key>` | the course's name; there only while the course is not hidden |
//!
//! Needs `keys = true`.

use jiff::Timestamp;
use sandbar_sdk::{Event, Failure, handler, keys, log};
use serde::{Deserialize, Serialize};

const CATALOG_CHANGED: &str = "org.openedx.content_authoring.course.catalog_info.changed.v1";

#[derive(Deserialize)]
struct CatalogEvent {
    catalog_info: CatalogInfo,
}

/// A course as the event tells it. What it says of the schedule is kept as it came.
#[derive(Debug, Deserialize, Serialize)]
struct CatalogInfo {
    course_key: String,
    name: String,
    schedule_data: serde_json::Value,
    hidden: bool,
    invitation_only: bool,
}

#[derive(Debug, Deserialize, Serialize)]
struct Document {
    /// When the event was produced that this is the state of.
    as_of: Timestamp,
    #[serde(flatten)]
    course: CatalogInfo,
}

#[handler]
fn handle(event: Event) -> Result<(), Failure> {
    let Some(document) = document(&event)? else { return Ok(()) };
    let course = document.course.course_key.clone();
    let key = format!("course/{course}");

    let kept: Option<Document> = keys::get_json(&key)?;
    if !replaces(&document, kept.as_ref()) {
        log::info!("{course}: kept, since this change of {} is older", document.as_of);
        return Ok(());
    }
    keys::set_json(&key, &document)?;
    let visible = format!("visible/{course}");
    if document.course.hidden {
        keys::delete(&visible)?;
    } else {
        keys::set(&visible, &document.course.name)?;
    }
    log::info!("{course}: {}", if kept.is_some() { "changed" } else { "new" });
    Ok(())
}

/// The document that follows from the event; none for other types.
fn document(event: &Event) -> Result<Option<Document>, Failure> {
    if event.kind() != CATALOG_CHANGED {
        return Ok(None);
    }
    let CatalogEvent { catalog_info: course } = event.data()?;
    let as_of = event
        .time()
        .parse()
        .map_err(|error| Failure::reject("bad-time", format!("{:?} is no time: {error}", event.time())))?;
    Ok(Some(Document { as_of, course }))
}

/// Events may be retried, and so come out of order: the later change wins. The same change may come twice.
fn replaces(document: &Document, kept: Option<&Document>) -> bool {
    kept.is_none_or(|kept| kept.as_of <= document.as_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> Document {
        let data = r#"{"catalog_info": {"course_key": "course-v1:a+b+c", "name": "A", "schedule_data":
            {"start": "2026-03-14T15:09:26+00:00", "pacing": "self", "end": null}, "hidden": false, "invitation_only": false}}"#;
        document(&Event::for_test(CATALOG_CHANGED, data).with_time(time)).unwrap().unwrap()
    }

    #[test]
    fn the_later_change_wins_whatever_its_offset() {
        let noon = at("2026-03-14T12:00:00+00:00");
        assert!(replaces(&noon, None));
        assert!(replaces(&noon, Some(&at("2026-03-14T11:59:59.999999+00:00"))));
        assert!(!replaces(&noon, Some(&at("2026-03-14T12:00:00.000001+00:00"))));
        // As text, 13:30 would be later than 12:00.
        assert!(replaces(&noon, Some(&at("2026-03-14T13:30:00+02:00"))));
        assert!(replaces(&noon, Some(&at("2026-03-14T12:00:00Z"))), "the same change again");
    }

    #[test]
    fn a_document_is_read_as_it_was_written() {
        let text = serde_json::to_string(&at("2026-03-14T12:00:00+00:00")).unwrap();
        let back: Document = serde_json::from_str(&text).unwrap();
        assert_eq!(back.as_of.to_string(), "2026-03-14T12:00:00Z");
        assert_eq!(back.course.schedule_data["pacing"], "self");
    }

    #[test]
    fn a_time_without_offset_is_rejected() {
        let data = r#"{"catalog_info": {"course_key": "k", "name": "", "schedule_data": {}, "hidden": true, "invitation_only": true}}"#;
        let failure = document(&Event::for_test(CATALOG_CHANGED, data).with_time("2026-03-14T12:00:00")).unwrap_err();
        assert!(failure.to_string().starts_with("reject (bad-time)"), "{failure}");
    }
}
