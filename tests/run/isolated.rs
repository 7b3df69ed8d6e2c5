//! Handlers whose calls run in processes of their own, in a real host: on every bus, and for as long as they are there.

use super::swapping::variant_of;
use super::*;
use crate::sandbox::isolated::PROCESS;
use crate::support::beside::{beside, children, is_in_memory, is_over, is_started_with, launcher, signal};
use crate::support::process::processor;

const ISOLATOR: &str = "isolate-server";

/// The process of a host that makes others, once it is there.
fn isolator(host: &Host) -> u32 {
    beside(host.id(), ISOLATOR)
}

/// Waits until a host has so many workers.
async fn workers(host: &Host, count: usize) -> Vec<u32> {
    workers_if(host, |now| now == count).await
}

async fn workers_if(host: &Host, are: impl Fn(usize) -> bool) -> Vec<u32> {
    let (launcher, end) = (launcher(host.id()), Instant::now() + BOUND);
    loop {
        let isolators = children(launcher).into_iter().filter(|id| is_started_with(*id, ISOLATOR));
        let now: Vec<u32> = isolators.flat_map(children).collect();
        if are(now.len()) {
            return now;
        }
        assert!(Instant::now() < end, "{now:?}: {}", host.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What handlers ask for is done, and nothing of the bus's or of another handler's is in their processes.
async fn served(bench: &Bench, url: &str, password: Option<&str>) {
    let secret = |of: &str| format!("secret-of-{of}-{:x}", std::process::id());
    let bus = open(url).await;
    let asking = |kind: &str, arguments: &[(&str, &str)]| {
        arguments.iter().fold(Draft::new(kind), |draft, (name, value)| draft.header(name, value))
    };
    let is = |of: &str| {
        let name = if of == "probe" { "TOKEN" } else { "OTHER" };
        asking("secret", &[("name", name), ("way", "is"), ("value", &secret(of))])
    };
    let drafts = [
        asking("publish", &[("topic", "out"), ("type", "org.x.made"), ("then", "ok"), ("times", "2"), ("size", "3")]),
        asking("publish", &[("topic", "elsewhere"), ("type", "org.x.made")]),
        asking("keys", &[("do", "set a 1\nget a\nget b"), ("then", "ok")]),
        asking("config", &[("name", "base")]),
        asking("log", &[("message", "so it says")]),
        is("probe"),
    ];
    publish(&bus, "in", &drafts).await;
    publish(&bus, "other", &[is("other")]).await;
    let grants = |of: &str, more: &str| format!("{PROCESS}\n[handler.grants]\nsecrets = [\"{of}\"]\n{more}");
    let more = "publish = [\"out\"]\nkeys = true\nconfig = { base = \"https://lms\" }";
    let config = bench.config(
        url,
        &[probe().with(&grants("TOKEN", more)), HandlerToml::new("other", "probe", "other").with(&grants("OTHER", ""))],
    );
    let host = bench.run_as(&config, &[], |command| {
        command.env("SANDBAR_SECRET_TOKEN", secret("probe")).env("SANDBAR_SECRET_OTHER", secret("other"));
    });
    progress(&bus, "probe", |lag| lag == 0).await;
    said(&host, "so it says", 1).await;
    // Of one that is called twice at once there are two.
    let found = workers_if(&host, |now| now >= 2).await;

    let made = read_all(&bus, "out").await;
    assert_eq!(made.len(), 2, "{made:?}");
    let end = Instant::now() + BOUND;
    let letters = loop {
        let letters = bus.dead_letters(&"in".into(), "probe", None, 10).await.unwrap();
        if letters.len() == 3 {
            break letters;
        }
        assert!(Instant::now() < end, "{letters:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let reasons: Vec<&str> = letters.iter().map(|letter| letter.cause.reason.as_str()).collect();
    for part in ["publishing to \\\"elsewhere\\\" is not granted", "Ok(Some(\"https://lms\"))", "true"] {
        assert!(reasons.iter().any(|reason| reason.contains(part)), "{part}: {reasons:?}");
    }
    assert_eq!(bus.read_key("probe", "a").await.unwrap().value.as_deref(), Some(&b"1"[..]));

    if !rustix::process::geteuid().is_root() {
        // Nobody else can look into them at all.
        return;
    }
    let holding = |what: &str| found.iter().filter(|worker| is_in_memory(**worker, what.as_bytes())).count();
    let (of_probe, of_other) = (holding(&secret("probe")), holding(&secret("other")));
    assert!(of_probe > 0 && of_other > 0 && of_probe + of_other == found.len(), "each has its own, and no other");
    if let Some(password) = password {
        assert_eq!(holding(password), 0);
        assert!(is_in_memory(host.id(), password.as_bytes()), "what is looked for can be found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_they_ask_for_is_done_on_sqlite() {
    let bench = Bench::new();
    let url = embedded(&bench);
    served(&bench, &url, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_they_ask_for_is_done_on_redis_and_they_do_not_have_its_password() {
    let password = format!("password-of-the-bus-{:x}", std::process::id());
    let server = Server::start(&["requirepass", &password]).await;
    let url = format!("redis://:{password}@127.0.0.1:{}/0", server.port());
    served(&Bench::new(), &url, Some(&password)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_ends_its_process_again_and_again_becomes_a_dead_letter() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    let config = bench.config(&url, &[probe().with(PROCESS).with("[handler.limits]\ntime = \"60s\"")]);
    let host = bench.run(&config, &[]);
    let first = workers(&host, 1).await[0];
    publish(&bus, "in", &[Draft::new("spin")]).await;
    let mut ended = first;
    for attempt in 1..=2 {
        // The one that computes: others may be there that wait.
        let end = Instant::now() + BOUND;
        let busy = loop {
            let computes = |id: &u32| processor(*id) > Duration::from_millis(200);
            let found = children(isolator(&host)).into_iter().find(computes);
            if let Some(found) = found.filter(|id| attempt == 1 || *id != ended) {
                break found;
            }
            assert!(Instant::now() < end, "nobody computes: {}", host.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        signal(busy, "KILL");
        ended = busy;
    }
    publish(&bus, "in", &[Draft::new("ok")]).await;
    progress(&bus, "probe", |lag| lag == 0).await;
    let end = Instant::now() + BOUND;
    let letters = loop {
        let letters = bus.dead_letters(&"in".into(), "probe", None, 10).await.unwrap();
        if !letters.is_empty() {
            break letters;
        }
        assert!(Instant::now() < end, "{}", host.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let cause = &letters[0].cause;
    assert_eq!((cause.code.as_str(), cause.attempts, letters.len()), (code::TRAP, 2, 1));
    assert!(cause.reason.contains("was ended by signal 9"), "{}", cause.reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_killed_in_a_call_leaves_no_process_behind() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    publish(&bus, "in", &[Draft::new("spin")]).await;
    let config = bench.config(&url, &[probe().with(PROCESS).with("[handler.limits]\ntime = \"600s\"")]);
    let host = bench.run(&config, &[]);
    let (isolator, workers) = (isolator(&host), workers(&host, 1).await);
    progress(&bus, "probe", |lag| lag == 0).await;
    host.kill();
    is_over(isolator);
    workers.into_iter().for_each(is_over);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolation_is_turned_on_and_off_while_the_host_runs() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    let config = bench.config(&url, &[probe()]);
    let host = bench.run_as(&config, &[], |command| {
        command.env("SANDBAR_LOG", "info");
    });
    said(&host, "has joined its group", 1).await;
    workers(&host, 0).await;
    for (times, handler, count) in [(1, probe().with(PROCESS), 1), (2, probe(), 0)] {
        bench.config(&url, &[handler]);
        host.signal("-HUP");
        said(&host, "is taken over", times).await;
        publish(&bus, "in", &[Draft::new("ok")]).await;
        progress(&bus, "probe", |lag| lag == 0).await;
        workers(&host, count).await;
    }
    assert!(host.log().contains("the host is confined"), "{}", host.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_is_swapped_takes_its_process_with_it() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    let config = bench.config(&url, &[probe().with(PROCESS)]);
    let host = bench.run_as(&config, &[], |command| {
        command.env("SANDBAR_LOG", "info");
    });
    said(&host, "has joined its group", 1).await;
    let before = workers(&host, 1).await[0];
    let next = variant_of(&bench, "probe", 1);
    bench.ok(&["swap", "probe", next.to_str().unwrap()], b"");
    publish(&bus, "in", &[Draft::new("ok")]).await;
    progress(&bus, "probe", |lag| lag == 0).await;
    is_over(before);
    assert_ne!(workers(&host, 1).await[0], before);
    let status = bench.json(&["status", "--json"], b"");
    assert_eq!(status["handlers"][0]["isolation"], "process", "{status}");
}

#[test]
fn a_word_that_is_no_isolation_is_refused() {
    let bench = Bench::new();
    bench.config("sqlite:bus.db", &[probe().with("isolation = \"thread\"")]);
    let ran = bench.call(&["check", "--offline"], b"");
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("isolation") && ran.stderr.contains("\"process\""), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_makes_them_and_hangs_is_ended_and_replaced() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    let config = bench.config(&url, &[probe().with(PROCESS)]);
    let host = bench.run(&config, &[]);
    let (hangs, waits) = (isolator(&host), workers(&host, 1).await[0]);
    signal(hangs, "STOP");
    signal(waits, "KILL");
    publish(&bus, "in", &[Draft::new("ok")]).await;
    progress(&bus, "probe", |lag| lag == 0).await;
    is_over(hangs);
    assert_ne!(isolator(&host), hangs);
    assert!(bus.dead_letters(&"in".into(), "probe", None, 10).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_tells_all_processes_of_a_host_to_end_lets_calls_end_first() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    let config = bench.config(&url, &[probe().with(PROCESS).with("[handler.limits]\ntime = \"60s\"")]);
    let mut host = bench.run_as(&config, &["--json"], |command| {
        command.env("SANDBAR_LOG", "info");
    });
    let workers = workers(&host, 1).await;
    publish(&bus, "in", &[Draft::new("busy").header("rounds", "300000000")]).await;
    progress(&bus, "probe", |lag| lag == 0).await;
    let begun = Instant::now();
    while processor(workers[0]) < Duration::from_millis(50) {
        assert!(begun.elapsed() < BOUND, "it is not called");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // As whoever stops a unit of services does it.
    for process in [&workers[..], &[isolator(&host), launcher(host.id()), host.id()]].concat() {
        signal(process, "TERM");
    }
    host.finish();
    let probe = &host.summary()["handlers"][0];
    assert_eq!((&probe["acked"], &probe["retried"]), (&1.into(), &0.into()), "{}", host.log());
}
