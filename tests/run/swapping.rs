//! Modules that are swapped while events flow: on one host and on several, and what keeps a swap from being made.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio::task::JoinSet;

use super::*;
use crate::support::host::guest;

fn variant(bench: &Bench, mark: u8) -> PathBuf {
    variant_of(bench, "probe", mark)
}

/// A guest with something behind it that changes its digest and nothing else.
pub(super) fn variant_of(bench: &Bench, name: &str, mark: u8) -> PathBuf {
    let mut wasm = fs::read(guest(name)).unwrap();
    // A custom section: its size, the length of its name, its name, its content.
    wasm.extend([0, 3, 1, b'v', mark]);
    let path = bench.path(&format!("{name}-{mark}.wasm"));
    fs::write(&path, wasm).unwrap();
    path
}

pub(super) fn digest(path: &Path) -> String {
    sandbar::sandbox::inspect(&fs::read(path).unwrap()).digest
}

pub(super) async fn until(bench: &Bench, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + BOUND;
    loop {
        let now = bench.json(&["status", "--json"], b"")["handlers"][0].clone();
        if holds(&now) {
            return now;
        }
        assert!(Instant::now() < end, "{what}: {now}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Every host serves this module.
pub(super) fn serve(now: &Value, hosts: usize, module: &str) -> bool {
    let all = now["hosts"].as_array().unwrap();
    all.len() == hosts && all.iter().all(|host| host["module"] == module)
}

fn swap(bench: &Bench, file: &Path) -> String {
    bench.ok(&["swap", "probe", file.to_str().unwrap()], b"")
}

/// Two hosts follow one swap; a third that starts begins with what is wanted; a rollback undoes it everywhere; and what
/// failed names the module it failed on.
async fn followed(bench: &Bench, url: &str) {
    let bus = open(url).await;
    let config = bench.config(url, &[probe()]);
    let (first, second) = (digest(&guest("probe")), variant(bench, 1));
    let digest = digest(&second);
    let mut hosts = vec![bench.run(&config, &[]), bench.run(&config, &[])];
    until(bench, "both run", |now| serve(now, 2, &first)).await;
    publish(&bus, "in", &[Draft::new("reject").header("code", "before")]).await;
    until(bench, "it is dead", |now| now["dead_letters"] == 1).await;

    let said = swap(bench, &second);
    assert!(said.starts_with(&format!("probe serves {}, before {}", &digest[..12], &first[..12])), "{said}");
    until(bench, "both follow", |now| serve(now, 2, &digest)).await;
    assert!(swap(bench, &second).contains("already"));
    let rejects: Vec<_> = (0..8).map(|_| Draft::new("reject").header("code", "after")).collect();
    publish(&bus, "in", &rejects).await;
    until(bench, "they are dead", |now| now["dead_letters"] == 9).await;
    for letter in bus.dead_letters(&"in".into(), "probe", None, 100).await.unwrap() {
        let expected = if letter.cause.code == "before" { &first } else { &digest };
        assert_eq!(letter.cause.module, *expected, "{}", letter.cause.code);
    }

    hosts.push(bench.run(&config, &[]));
    until(bench, "the third begins with it", |now| serve(now, 3, &digest)).await;
    let log = hosts[2].log();
    let joined = log.lines().find(|line| line.contains("joined its group")).unwrap();
    assert!(joined.contains(&digest), "before it calls anything: {joined}");

    let said = bench.ok(&["rollback", "probe"], b"");
    assert!(said.starts_with(&format!("probe serves {} again", &first[..12])), "{said}");
    until(bench, "all go back", |now| serve(now, 3, &first)).await;
    for host in &mut hosts {
        host.terminate();
        assert!(host.wait(BOUND).success());
    }
    let versions = bench.json(&["versions", "--json"], b"");
    let history = versions["handlers"][0]["versions"].as_array().unwrap().clone();
    let digests: Vec<_> = history.iter().map(|entry| entry["digest"].as_str().unwrap()).collect();
    assert_eq!(digests, [&first, &digest, &first], "{versions}");
    let counts: Vec<_> = history.iter().map(|entry| (&entry["events"], &entry["failures"])).collect();
    assert_eq!(counts[1], (&8.into(), &8.into()), "{versions}");
    assert!(bench.ok(&["versions", "probe"], b"").contains(&digest[..12]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_follow_a_swap_and_a_rollback_on_sqlite() {
    let bench = Bench::new();
    let url = embedded(&bench);
    followed(&bench, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_follow_a_swap_and_a_rollback_on_redis() {
    let server = Server::start(&[]).await;
    followed(&Bench::new(), &server.url()).await;
}

/// Whatever keeps it from being made is said, and the module before goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_swapped_leaves_the_one_before_serving() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    fs::copy(guest("probe"), bench.path("own.wasm")).unwrap();
    let first = digest(&guest("probe"));
    let pinned =
        format!("[[handler]]\nname = \"pinned\"\nmodule = \"own.wasm\"\ntopics = [\"other\"]\nsha256 = \"{first}\"\n");
    let config = bench.config(&url, &[probe().with("[handler.limits]\nmemory = \"16MiB\"")]);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n{pinned}")).unwrap();
    let none = bench.call(&["swap", "probe", "own.wasm"], b"");
    assert_eq!(none.code, 1, "nobody runs: {}", none.stderr);
    let host = bench.run(&config, &[]);
    until(&bench, "it runs", |now| serve(now, 1, &first)).await;

    let other = variant(&bench, 2);
    let other = other.to_str().unwrap();
    fs::write(bench.path("core.wasm"), [b"\0asm".as_slice(), &[1, 0, 0, 0]].concat()).unwrap();
    let fixture = |kind: &str, verdict: &str| {
        let event = serde_json::json!({ "topic": "in", "type": kind, "content_type": "application/json", "data": {} });
        serde_json::json!({ "event": event, "expect": { "verdict": verdict } }).to_string()
    };
    fs::create_dir(bench.path("probe-2")).unwrap();
    fs::write(bench.path("probe-2/one.event.json"), fixture("ok", "done")).unwrap();
    fs::write(bench.path("probe-2/two.event.json"), fixture("ok", "reject")).unwrap();
    for (args, code, told) in [
        (&["swap", "probe", "core.wasm"][..], 4, "core module"),
        (&["swap", "probe", "absent.wasm"], 2, "cannot be read"),
        (&["swap", "prob", other], 2, "no enabled handler"),
        (&["swap", "probe", other], 4, "fails its own tests: two: the verdict is done, expected is reject"),
        (&["swap", "pinned", other], 4, "sha256"),
        (&["rollback", "probe"], 4, "there is no module to go back to"),
    ] {
        let ran = bench.call(args, b"");
        assert_eq!(ran.code, code, "{args:?}: {}{}", ran.stderr, ran.text());
        assert!(ran.stderr.contains(told), "{args:?}: {}", ran.stderr);
    }
    publish(&bus, "in", &[Draft::new("ok")]).await;
    let now = until(&bench, "it goes on", |now| now["hosts"][0]["module_calls"] == 1).await;
    assert!(serve(&now, 1, &first) && now["hosts"][0]["module_trouble"].is_null(), "{now}");
    assert!(bench.ok(&["versions", "probe"], b"").contains("never swapped"));

    fs::write(bench.path("probe-2/two.event.json"), fixture("retry", "retry")).unwrap();
    let said = bench.ok(&["swap", "probe", other], b"");
    assert!(said.contains("2 fixtures passed"), "{said}");
    drop(host);
}

/// A pin keeps a host from following, and it says so; the others follow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_keeps_a_host_from_following() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let first = digest(&guest("probe"));
    let config = bench.config(&url, &[probe().with(&format!("sha256 = \"{first}\""))]);
    let pinned = bench.path("pinned.toml");
    fs::rename(&config, &pinned).unwrap();
    let config = bench.config(&url, &[probe()]);
    let (_host, held) = (bench.run(&config, &[]), bench.run(&pinned, &[]));
    until(&bench, "both run", |now| serve(now, 2, &first)).await;
    let second = variant(&bench, 3);
    swap(&bench, &second);
    let now = until(&bench, "one follows and one says why not", |now| {
        let hosts = now["hosts"].as_array().unwrap();
        let one = |holds: &dyn Fn(&Value) -> bool| hosts.iter().filter(|host| holds(host)).count() == 1;
        one(&|host| host["module"] == *digest(&second)) && one(&|host| !host["module_trouble"].is_null())
    })
    .await;
    let trouble = now["hosts"].as_array().unwrap().iter().find_map(|host| host["module_trouble"].as_str()).unwrap();
    assert!(trouble.contains("sha256"), "{trouble}");
    assert!(bench.ok(&["status"], b"").contains("does not serve the wanted module"));
    drop(held);
    // It begins with its own, and says so, after a restart too.
    let again = bench.run(&pinned, &[]);
    until(&bench, "it says so again", |now| {
        let hosts = now["hosts"].as_array().unwrap();
        hosts.len() == 2 && hosts.iter().any(|host| !host["module_trouble"].is_null() && host["module"] == *first)
    })
    .await;
    drop(again);
}

/// A file that changes is swapped in; one that cannot be served is not, and that is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_file_is_swapped_in_when_it_changes() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let own = bench.path("own.wasm");
    fs::copy(guest("probe"), &own).unwrap();
    let text = format!(
        "[bus]\nurl = {url:?}\n[[handler]]\nname = \"probe\"\nmodule = \"own.wasm\"\nwatch = true\ntopics = [\"in\"]\nlease = \
         \"1s\"\n"
    );
    fs::write(bench.path("sandbar.toml"), text).unwrap();
    let host = bench.run(&bench.path("sandbar.toml"), &[]);
    let first = digest(&own);
    until(&bench, "it runs", |now| serve(now, 1, &first)).await;
    fs::write(&own, b"\0asm, and no more").unwrap();
    until(&bench, "it is refused", |now| serve(now, 1, &first) && !now["hosts"][0]["module_trouble"].is_null()).await;
    fs::copy(variant(&bench, 4), &own).unwrap();
    let second = digest(&own);
    until(&bench, "it is served", |now| serve(now, 1, &second) && now["hosts"][0]["module_trouble"].is_null()).await;
    // By hand over the file's; the file has not changed since.
    bench.ok(&["rollback", "probe"], b"");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let log = host.log();
    until(&bench, "it stays", |now| serve(now, 1, &first)).await;
    assert!(!log.contains("no longer kept"), "{log}");
}

/// Events flow while modules come and go: none is lost, none handled twice, none fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn events_flow_while_modules_are_swapped_on_sqlite() {
    let bench = &Bench::new();
    let url = &embedded(bench);
    let bus = open(url).await;
    let config = bench.config(url, &[probe().with("in_flight = 64\n[handler.grants]\npublish = [\"out\"]")]);
    let mut hosts = [bench.run(&config, &["--json"]), bench.run(&config, &["--json"])];
    until(bench, "both run", |now| now["hosts"].as_array().unwrap().len() == 2).await;
    let files: Vec<_> = (10..14).map(|mark| variant(bench, mark)).collect();
    let (to, over) = (Arc::clone(&bus), Arc::new(AtomicBool::new(false)));
    let swapped = Arc::clone(&over);
    let mut publishing = JoinSet::new();
    publishing.spawn(async move {
        let mut count = 0;
        while !swapped.load(Ordering::Relaxed) {
            let draft = || Draft::new("publish").header("topic", "out").header("size", 1).header("then", "ok");
            publish(&to, "in", &(0..200).map(|_| draft()).collect::<Vec<_>>()).await;
            count += 200;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        count
    });
    for n in 0..12 {
        let said = swap(bench, &files[n % files.len()]);
        assert!(said.contains("serves"), "{said}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    over.store(true, Ordering::Relaxed);
    let events: usize = publishing.join_next().await.unwrap().unwrap();
    until(bench, "all is settled", |now| {
        (&now["lag"], &now["pending"], &now["retrying"]) == (&0.into(), &0.into(), &0.into())
    })
    .await;
    let mut done = 0;
    for host in &mut hosts {
        host.terminate();
        assert!(host.wait(BOUND).success());
        let tally = host.summary()["handlers"][0].clone();
        assert_eq!((&tally["retried"], &tally["dead"]), (&0.into(), &0.into()), "no call fails by a swap: {tally}");
        done += tally["acked"].as_u64().unwrap();
    }
    assert_eq!(done, events as u64);
    let made = read_all(&bus, "out").await;
    assert_eq!(made.len(), events, "each was published once");
    let known: Vec<String> = files.iter().map(|file| digest(file)).chain([digest(&guest("probe"))]).collect();
    let mut by: BTreeMap<String, usize> = BTreeMap::new();
    for fields in &made {
        let module = fields.get("sandbar-module").map(|digest| String::from_utf8(digest.to_vec()).unwrap());
        *by.entry(module.expect("it names the module that made it")).or_default() += 1;
    }
    assert!(by.len() > 1 && by.keys().all(|module| known.contains(module)), "{by:?}");
}

/// A call that has begun ends on the module it began on, while the next one is served by another already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_under_way_ends_on_the_module_it_began_on() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    let grants = "[handler.limits]\ntime = \"120s\"\n[handler.grants]\npublish = [\"out\"]";
    let config = bench.config(&url, &[HandlerToml::new("h", "witness", "in").with(grants)]);
    let mut host = bench.run(&config, &["--json"]);
    let (first, second) = (digest(&guest("witness")), variant_of(&bench, "witness", 1));
    until(&bench, "it runs", |now| serve(now, 1, &first)).await;
    // Rounds of a nanosecond or more: seconds, whatever the machine.
    publish(&bus, "in", &[Draft::new("e").numbered(1).header("effects", "o").header("work", 2_000_000_000_u64)]).await;
    said(&host, "called attempt=1", 1).await;
    bench.ok(&["swap", "h", second.to_str().unwrap()], b"");
    publish(&bus, "in", &[Draft::new("e").numbered(2).header("effects", "o")]).await;
    let end = Instant::now() + BOUND;
    let mut made = Vec::new();
    while made.len() < 2 {
        assert!(Instant::now() < end, "{made:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        made = read_all(&bus, "out").await;
    }
    let text =
        |fields: &sandbar::event::Fields, name: &str| String::from_utf8(fields.get(name).unwrap().to_vec()).unwrap();
    let by: Vec<_> = made.iter().map(|fields| (text(fields, "cause"), text(fields, "sandbar-module"))).collect();
    let id = |number: u128| uuid::Uuid::from_u128(number).to_string();
    assert_eq!(by, [(id(2), digest(&second)), (id(1), first)], "the second has not waited for the first");
    host.terminate();
    assert!(host.wait(BOUND).success());
    let tally = host.summary()["handlers"][0].clone();
    assert_eq!((&tally["acked"], &tally["retried"]), (&2.into(), &0.into()), "{tally}");
}
