//! xAPI 1.0.3, as far as enrollments and grades need it.

use sandbar_sdk::{Event, Failure};
use serde::Deserialize;
use serde_json::{Value, json};

const ENROLLMENT_CREATED: &str = "org.openedx.learning.course.enrollment.created.v1";
const ENROLLMENT_CHANGED: &str = "org.openedx.learning.course.enrollment.changed.v1";
const UNENROLLED: &str = "org.openedx.learning.course.unenrollment.completed.v1";
const GRADE_CHANGED: &str = "org.openedx.learning.course.persistent_grade_summary.changed.v1";

/// A statement, and the course it is about.
#[derive(Debug)]
pub struct Said {
    pub course_key: String,
    pub statement: Value,
}

#[derive(Deserialize)]
struct EnrollmentEvent {
    enrollment: Enrollment,
}

#[derive(Deserialize)]
struct Enrollment {
    user: User,
    course: Course,
    mode: String,
    is_active: bool,
}

#[derive(Deserialize)]
struct User {
    id: i64,
}

#[derive(Deserialize)]
struct GradeEvent {
    grade: Grade,
}

#[derive(Deserialize)]
struct Grade {
    user_id: i64,
    course: Course,
    /// From 0 to 1.
    percent_grade: f64,
    /// Empty below the lowest passing grade.
    letter_grade: String,
}

#[derive(Deserialize)]
struct Course {
    course_key: String,
    display_name: String,
}

/// What the event says, in xAPI; none for other types.
pub fn of(event: &Event, base: &str) -> Result<Option<Said>, Failure> {
    match event.kind() {
        ENROLLMENT_CREATED | ENROLLMENT_CHANGED | UNENROLLED => {
            let EnrollmentEvent { enrollment } = event.data()?;
            let mut statement = frame(event, base, enrollment.user.id, &enrollment.course)?;
            // A change may go either way.
            statement["verb"] = if enrollment.is_active && event.kind() != UNENROLLED {
                verb("http://adlnet.gov/expapi/verbs/registered", "registered")
            } else {
                verb("http://id.tincanapi.com/verb/unregistered", "unregistered")
            };
            statement["object"]["definition"]["extensions"] =
                json!({ "https://w3id.org/xapi/acrossx/extensions/type": enrollment.mode });
            Ok(Some(Said { course_key: enrollment.course.course_key, statement }))
        }
        GRADE_CHANGED => {
            let GradeEvent { grade } = event.data()?;
            if !(0.0..=1.0).contains(&grade.percent_grade) {
                let message = format!("percent_grade is {}, not from 0 to 1", grade.percent_grade);
                return Err(Failure::reject("bad-data", message));
            }
            let mut statement = frame(event, base, grade.user_id, &grade.course)?;
            statement["verb"] = verb("http://adlnet.gov/expapi/verbs/scored", "scored");
            let passed = !grade.letter_grade.is_empty();
            statement["result"] = json!({ "score": { "scaled": grade.percent_grade }, "success": passed });
            if passed {
                statement["result"]["response"] = grade.letter_grade.into();
            }
            Ok(Some(Said { course_key: grade.course.course_key, statement }))
        }
        _ => Ok(None),
    }
}

/// What all statements have: who, about which course, when, and where it was seen.
fn frame(event: &Event, base: &str, user: i64, course: &Course) -> Result<Value, Failure> {
    if !is_uuid(event.id()) {
        return Err(Failure::reject("bad-id", format!("a statement's id is a UUID, not {:?}", event.id())));
    }
    let mut statement = json!({
        // The event's own id, so that a record store knows a statement that it has.
        "id": event.id(),
        // The number of the user, not the name: a statement needs no personal data, and grades come without.
        "actor": { "objectType": "Agent", "account": { "homePage": base, "name": user.to_string() } },
        "object": {
            "objectType": "Activity",
            "id": format!("{base}/courses/{}", course.course_key),
            "definition": { "type": "http://adlnet.gov/expapi/activities/course" },
        },
        "context": { "platform": event.source() },
        "timestamp": event.time(),
    });
    if !course.display_name.is_empty() {
        // "und": the event does not say in which language the name is.
        statement["object"]["definition"]["name"] = json!({ "und": course.display_name });
    }
    Ok(statement)
}

fn verb(id: &str, english: &str) -> Value {
    json!({ "id": id, "display": { "en": english } })
}

/// In the hyphenated form, which is the only one that xAPI takes.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grade(percent: &str, letter: &str) -> Result<Option<Said>, Failure> {
        let data = json!({ "grade": {
            "user_id": 7,
            "course": { "course_key": "course-v1:a+b+c", "display_name": "", "start": null, "end": null },
            "percent_grade": serde_json::from_str::<Value>(percent).unwrap(),
            "letter_grade": letter,
        }});
        of(&Event::for_test(GRADE_CHANGED, &data.to_string()), "https://lms.example.org")
    }

    #[test]
    fn a_passing_grade_is_a_success_with_its_letter() {
        let said = grade("0.77", "B").unwrap().unwrap();
        assert_eq!(said.statement["result"], json!({ "score": { "scaled": 0.77 }, "success": true, "response": "B" }));
        assert_eq!(said.course_key, "course-v1:a+b+c");
        let failed = grade("0.2", "").unwrap().unwrap();
        assert_eq!(failed.statement["result"], json!({ "score": { "scaled": 0.2 }, "success": false }));
    }

    #[test]
    fn what_is_no_grade_is_rejected() {
        for percent in ["1.01", "-0.1", "\"NaN\""] {
            let failure = grade(percent, "A").unwrap_err();
            assert!(!failure.is_retry() && failure.to_string().contains("bad-data"), "{percent}: {failure}");
        }
    }

    #[test]
    fn an_id_that_is_no_uuid_is_rejected() {
        assert!(is_uuid("1d2f8a0b-0b0c-11f1-8de9-0242ac120002"));
        for id in ["", "1d2f8a0b0b0c11f18de90242ac120002", "1d2f8a0b-0b0c-11f1-8de9-0242ac12000g"] {
            assert!(!is_uuid(id), "{id}");
        }
    }

    #[test]
    fn other_events_say_nothing() {
        assert!(of(&Event::for_test("org.example.other.v1", "{}"), "b").unwrap().is_none());
    }
}
