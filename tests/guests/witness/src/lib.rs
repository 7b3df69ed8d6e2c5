//! Does what the event's headers say and leaves a trace of it, so that a test can tell afterwards what was called, how
//! often, and what came of it: a log line for each call and each success, and whichever effects `effects` names: `o`
//! publishes one event, `k` writes one key, `c` adds one to a counter that events share.

use std::hint::black_box;

use sandbar_sdk::{Event, Failure, handler, keys, log, outbox::Draft};

#[handler]
fn handle(event: Event) -> Result<(), Failure> {
    let text = |name| String::from_utf8_lossy(event.header(name).unwrap_or_default()).into_owned();
    let number = |name| text(name).parse::<u32>().unwrap_or(0);
    let attempt = event.delivery().attempt();
    log::info!("called attempt={attempt}");
    let mut sum = 0_u64;
    for n in 0..text("work").parse::<u64>().unwrap_or(0) {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(n));
    }
    black_box(sum);
    let effects = text("effects");
    if effects.contains('o') {
        Draft::new("out", "test.witnessed.v1")
            .header("cause", event.id())
            .header("lane", text("lane"))
            .header("seq", text("seq"))
            .header("attempt", attempt.to_string())
            .publish()?;
    }
    if effects.contains('k') {
        keys::set(&format!("done.{}", event.id()), text("seq").as_bytes())?;
    }
    if effects.contains('c') {
        let name = format!("count.{}", text("lane"));
        let before: u32 = keys::get_json(&name)?.unwrap_or(0);
        keys::set_json(&name, &(before + 1))?;
    }
    // After the effects were asked for: a call that fails must leave none of them.
    if attempt <= number("fail") {
        match text("how").as_str() {
            "trap" => panic!("as the event says"),
            "reject" => return Err(Failure::reject("as-told", "as the event says")),
            _ => return Err(Failure::retry("not yet")),
        }
    }
    log::info!("handled attempt={attempt}");
    Ok(())
}
