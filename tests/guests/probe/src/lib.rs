//! A handler that does what the event's type says, so that a test can see how the sandbox takes it. Its arguments are
//! the event's headers; what it finds out it says as the message of a rejection.

#![expect(clippy::disallowed_methods, reason = "a guest does what the host is meant to withstand")]

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use exports::sandbar::handler::guest::Guest;
use sandbar::handler::types::{Event, Failure, Payload, Rejection, RetryRequest};
use sandbar::handler::{config, keys, log, outbox, secrets};

wit_bindgen::generate!({ path: "../../../wit", world: "handler-full" });

struct Probe;

export!(Probe);

static CALLS: AtomicU32 = AtomicU32::new(0);

type Outcome = Result<(), Failure>;

impl Guest for Probe {
    fn handle(event: Event) -> Outcome {
        match event.kind.as_str() {
            "ok" => Ok(()),
            "event" => say(format!("{event:?}")),
            "retry" => retry(&event),
            "reject" => reject(&text(&event, "code"), text(&event, "message")),
            "panic" => panic!("{}", text(&event, "message")),
            "spin" => loop {
                black_box(&event);
            },
            "busy" => busy(&event),
            "exit" => std::process::exit(number(&event, "code") as i32),
            "recurse" => say(format!("{}", recurse(1))),
            "hold" => hold(&event),
            "static" => say(format!("{}", CALLS.fetch_add(1, Ordering::Relaxed))),
            "publish" => publish(&event),
            "keys" => use_keys(&event),
            "depends" => depends(&event),
            "flood" => flood(&event),
            "config" => say(format!("{:?}", config::get(&text(&event, "name")))),
            "secret" => secret(&event),
            "log" => write_log(&event),
            "print" => {
                print!("{}", text(&event, "out"));
                eprint!("{}", text(&event, "err"));
                Ok(())
            }
            "world" => say(world()),
            "sleep" => sleep(&event),
            "random" => say(format!("{:x}", RandomState::new().build_hasher().finish())),
            "wait" => wait(),
            "files" => say(files()),
            "read-stdin" => say(format!("{:?}", std::io::read_to_string(std::io::stdin()))),
            other => say(format!("unknown: {other}")),
        }
    }
}

/// Publishes, writes keys, and then ends as `then` says: for what becomes of the effects.
fn publish(event: &Event) -> Outcome {
    let times = number(event, "times").max(1);
    let size = number(event, "size") as usize;
    let mut headers = (0..number(event, "headers")).map(|n| (format!("h{n}"), vec![1])).collect::<Vec<_>>();
    headers.extend(argument(event, "named").map(|name| (String::from_utf8_lossy(name).into_owned(), vec![1])));
    let mut said = String::new();
    for _ in 0..times {
        let draft = outbox::Draft {
            topic: text(event, "topic"),
            // On the wire `type` is the event's own.
            kind: match (argument(event, "untyped"), argument(event, "type")) {
                (Some(_), _) => String::new(),
                (None, Some(_)) => text(event, "type"),
                (None, None) => "org.x.made".to_owned(),
            },
            key: Some(b"key".to_vec()),
            payload: Payload::Json("1".repeat(size)),
            headers: headers.clone(),
            cause: None,
            attributes: vec![],
        };
        said = format!("{:?}", outbox::publish(&draft));
    }
    match text(event, "then").as_str() {
        "ok" => Ok(()),
        "panic" => panic!("after publishing"),
        "retry" => retry(event),
        _ => say(said),
    }
}

/// Runs the lines of `do`, each `get K`, `set K V`, `fill K BYTES`, `delete K`, `list PREFIX LIMIT`.
fn use_keys(event: &Event) -> Outcome {
    let mut said = Vec::new();
    for line in text(event, "do").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let shown = match words[..] {
            ["get", key] => {
                format!("{:?}", keys::get(key).map(|v| v.map(|v| String::from_utf8_lossy(&v).into_owned())))
            }
            ["set", key, value] => format!("{:?}", keys::set(key, value.as_bytes(), None)),
            ["fill", key, bytes] => format!("{:?}", keys::set(key, &vec![0; bytes.parse().unwrap()], None)),
            ["delete", key] => format!("{:?}", keys::delete(key, None)),
            ["list", prefix, limit] => format!("{:?}", keys::list(prefix, limit.parse().unwrap())),
            _ => "?".to_owned(),
        };
        said.push(shown);
    }
    match text(event, "then").as_str() {
        "ok" => Ok(()),
        "retry" => retry(event),
        _ => say(said.join("\n")),
    }
}

/// Asks for `what` without end, whatever the answer.
fn flood(event: &Event) -> Outcome {
    let value = vec![b'1'; number(event, "size") as usize];
    let long = String::from_utf8_lossy(&value).into_owned();
    let draft = outbox::Draft {
        topic: text(event, "topic"),
        kind: "org.x.flood".to_owned(),
        key: None,
        payload: Payload::Json(long.clone()),
        headers: vec![],
        cause: None,
        attributes: vec![],
    };
    for count in 0_u64.. {
        match text(event, "what").as_str() {
            "publish" => drop(outbox::publish(&draft)),
            "get" => drop(keys::get(&format!("k{count}"))),
            "set" => drop(keys::set(&format!("k{count}"), &value, None)),
            "list" => drop(keys::list("k", u32::MAX)),
            "config" => drop(config::get("base")),
            "log" => log::write(log::Level::Error, &format!("\u{1b}]0;owned\u{7}\u{1b}[2J{long}"), &[]),
            "print" => print!("{}", "\n".repeat(value.len())),
            _ => drop(black_box(Instant::now())),
        }
    }
    Ok(())
}

/// Needs something that a test can take away: fails as `retry` does while the key `dependency` says `down`.
fn depends(event: &Event) -> Outcome {
    match keys::get("dependency") {
        Ok(Some(value)) if value == b"down" => retry(event),
        Ok(_) => Ok(()),
        Err(error) => say(format!("{error:?}")),
    }
}

/// Reads a secret, and tells it in the way that `way` says.
fn secret(event: &Event) -> Outcome {
    let got = secrets::get(&text(event, "name"));
    let shown = match &got {
        Ok(value) => value.clone(),
        Err(error) => format!("{error:?}"),
    };
    match text(event, "way").as_str() {
        "is" => say(format!("{}", got.is_ok_and(|value| value == text(event, "value")))),
        "log" => {
            log::write(log::Level::Error, &format!("it is {shown}"), &[("token".to_owned(), shown.clone())]);
            Ok(())
        }
        "print" => {
            print!("it is {shown}");
            eprintln!("it is {shown:?}");
            Ok(())
        }
        "panic" => panic!("it is {shown}"),
        "abort" => {
            eprintln!("it is {shown}");
            std::process::abort()
        }
        "retry" => Err(Failure::Retry(RetryRequest {
            reason: format!("it is {shown}"),
            after_ms: None,
            attributes: vec![("code".to_owned(), shown)],
        })),
        "reject" => reject(&shown, format!("it is {shown}")),
        _ => say(format!("{got:?}")),
    }
}

fn write_log(event: &Event) -> Outcome {
    let message = text(event, "message");
    for _ in 0..number(event, "times").max(1) {
        log::write(log::Level::Warn, &message, &[("name".to_owned(), "value".to_owned())]);
    }
    Ok(())
}

fn world() -> String {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map(|since| since.as_secs());
    let before = Instant::now();
    let between = before.elapsed();
    let numbers = std::collections::hash_map::RandomState::new();
    let hash = std::hash::BuildHasher::hash_one(&numbers, 1);
    format!(
        "env {:?} args {:?} wall {:?} passed {between:?} hash {hash:x} cwd {:?}",
        std::env::vars().collect::<Vec<_>>(),
        std::env::args().collect::<Vec<_>>(),
        seconds(SystemTime::now()),
        std::env::current_dir().map_err(|error| error.kind()),
    )
}

fn sleep(event: &Event) -> Outcome {
    let before = Instant::now();
    std::thread::sleep(Duration::from_millis(number(event, "ms")));
    say(format!("{}", before.elapsed().as_millis()))
}

/// A loop that ends because time passes.
fn wait() -> Outcome {
    let before = Instant::now();
    while before.elapsed() < Duration::from_millis(1) {}
    Ok(())
}

fn busy(event: &Event) -> Outcome {
    let mut sum = 0_u64;
    for n in 0..number(event, "rounds") {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(n));
    }
    black_box(sum);
    Ok(())
}

fn files() -> String {
    let read = std::fs::read("/etc/passwd").map(|bytes| bytes.len()).map_err(|error| error.kind());
    let write = std::fs::write("/tmp/x", b"x").map_err(|error| error.kind());
    let list = std::fs::read_dir("/").map(Iterator::count).map_err(|error| error.kind());
    let thread = std::thread::Builder::new().spawn(|| ()).is_ok();
    format!("{read:?} {write:?} {list:?} thread {thread}")
}

/// Takes memory a mebibyte at a time and touches it.
fn hold(event: &Event) -> Outcome {
    let mut held = Vec::new();
    for _ in 0..number(event, "mebibytes") {
        held.push(vec![1_u8; 1 << 20]);
    }
    black_box(&held);
    Ok(())
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + frame[3]
}

fn retry(event: &Event) -> Outcome {
    let code = text(event, "code");
    Err(Failure::Retry(RetryRequest {
        reason: text(event, "message"),
        after_ms: argument(event, "after").map(|_| number(event, "after")),
        attributes: if code.is_empty() { vec![] } else { vec![("code".to_owned(), code)] },
    }))
}

fn say(message: String) -> Outcome {
    reject("said", message)
}

fn reject(code: &str, message: String) -> Outcome {
    Err(Failure::Reject(Rejection { code: code.to_owned(), message, attributes: vec![] }))
}

fn argument<'a>(event: &'a Event, name: &str) -> Option<&'a [u8]> {
    event.headers.iter().find(|(found, _)| found == name).map(|(_, value)| &value[..])
}

fn text(event: &Event, name: &str) -> String {
    String::from_utf8_lossy(argument(event, name).unwrap_or_default()).into_owned()
}

fn number(event: &Event, name: &str) -> u64 {
    text(event, name).parse().unwrap_or_default()
}
