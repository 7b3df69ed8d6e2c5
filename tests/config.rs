//! The configuration: every fault at once with its line, the sample, the environment.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandbar::bus::{Durability, Start, Trim};
use sandbar::config::{Config, ControlSocket, Environment, PayloadForm, Place};
use sandbar::dispatch::Order;
use sandbar::sandbox::{Http, Limits, PublishGrant, Secret, UrlGrant};
use sandbar::settle::BreakerSettings;

mod keys;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Loads `text` as a file of a directory of its own.
fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sandbar.toml");
    fs::write(&path, text).unwrap();
    let environment = environment.iter().copied().collect();
    let shown = format!("{}", path.display());
    Config::load(&path, &environment).map_err(|problems| problems.to_string().replace(&shown, "sandbar.toml"))
}

const SMALL: &str = r#"
[bus]
url = "redis://127.0.0.1:6379/0"
[[handler]]
name = "mirror-v1.2"
module = "mirror.wasm"
topics = ["catalog"]
"#;

/// A case is `tests/config/NAME.toml` and, beside it, `NAME.txt` with all messages. Lines `#env NAME=VALUE` at its top
/// set the environment.
#[test]
fn bad_configurations_are_told_all_at_once() {
    let mut cases: Vec<PathBuf> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("config"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    cases.sort();
    assert!(cases.len() >= 15, "only {} cases found", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let text = fs::read_to_string(&case).unwrap();
        let variables: Environment =
            text.lines().filter_map(|line| line.strip_prefix("#env ")?.split_once('=')).collect();
        let expected = fs::read_to_string(case.with_extension("txt")).unwrap_or_default();
        let found = match Config::load(&case, &variables) {
            Ok(_) => "it loads\n".to_owned(),
            Err(problems) => format!("{problems}\n").replace(&case.display().to_string(), "sandbar.toml"),
        };
        if found != expected {
            wrong.push(format!("--- {}\nexpected:\n{expected}found:\n{found}", case.display()));
            if std::env::var_os("SANDBAR_TEST_BLESS").is_some() {
                fs::write(case.with_extension("txt"), found).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_sample_loads_and_its_defaults_are_the_defaults() {
    let sample = Config::load(&root().join("docs/sandbar.toml"), &Environment::default()).unwrap();
    let small = load(SMALL, &[]).unwrap();
    assert_eq!(sample.host, small.host);
    assert_eq!(sample.profile, small.profile);
    assert_eq!(sample.schemas, small.schemas);
    let [terse, full] = sample.handlers.as_slice() else { panic!("two handlers") };
    assert_eq!(full.group.name, full.name);
    assert_eq!(
        (full.group.start.clone(), full.group.lease, full.group.consumer.as_str(), full.order),
        (terse.group.start.clone(), terse.group.lease, terse.group.consumer.as_str(), terse.order)
    );
    assert_eq!((full.order, full.policy, full.payload), (terse.order, terse.policy, terse.payload));
    assert_eq!((full.in_flight, full.parked_max), (terse.in_flight, terse.parked_max));
    assert_eq!(full.breaker, terse.breaker);
    assert_eq!(terse.dead_letters, Default::default());
    // There is no number for "as many as there are".
    let limits = Limits { core_slots: 1, ..terse.spec.limits.clone() };
    assert_eq!(full.spec.limits, limits);
    assert!(terse.types.is_empty() && terse.key.is_none() && terse.spec.grants == Default::default());
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = load(SMALL, &[]).unwrap();
    let handler = &config.handlers[0];
    assert_eq!(handler.group.start, Start::New);
    assert_eq!(handler.order, Order::None);
    assert_eq!(handler.policy.max_attempts, 5);
    assert_eq!((handler.policy.first, handler.policy.max), (Duration::from_secs(1), Duration::from_secs(300)));
    assert_eq!(handler.group.lease, Duration::from_secs(30));
    assert_eq!((handler.in_flight, handler.parked_max), (256, 100_000));
    assert_eq!(handler.spec.reuse, 0);
    assert_eq!(config.host.code_cache, None, "without a home there is no place for it");
    for (set, expected) in [
        (&[("HOME", "/home/x")][..], Some("/home/x/.cache/sandbar/code")),
        (&[("HOME", "/home/x"), ("XDG_CACHE_HOME", "/caches")], Some("/caches/sandbar/code")),
        (&[("HOME", "/home/x"), ("XDG_CACHE_HOME", "caches")], Some("/home/x/.cache/sandbar/code")),
        (&[("HOME", "/home/x"), ("SANDBAR_HOST__CODE_CACHE", "false")], None),
        (&[("HOME", "/home/x"), ("SANDBAR_HOST__CODE_CACHE", "/code")], Some("/code")),
    ] {
        assert_eq!(load(SMALL, set).unwrap().host.code_cache.as_deref(), expected.map(Path::new), "{set:?}");
    }
    assert_eq!(handler.payload, PayloadForm::Json);
    assert_eq!((handler.spec.limits.time, handler.spec.limits.memory), (Duration::from_secs(1), 64 << 20));
    assert_eq!((&handler.spec.limits, handler.events_per_second), (&Limits::default(), None));
    assert_eq!(handler.spec.max_attempts, 5);
    let (pause_first, pause_max) = (Duration::from_secs(1), Duration::from_secs(60));
    assert_eq!(handler.breaker, Some(BreakerSettings { failures: 50, pause_first, pause_max }));
    assert_eq!((handler.dead_letters.max, handler.dead_letters.max_age), (None, None));
    assert_eq!(config.host.control, ControlSocket::Default);
    assert_eq!((config.bus.topic_prefix.clone(), config.bus.stream_max_len), (None, None));
    assert_eq!((config.bus.durability, config.bus.trim), (None, None));
    assert_eq!((config.schemas.builtin, config.schemas.max_payload), (true, 1 << 20));
    assert_eq!(config.host.grace, Duration::from_secs(30));
    assert_eq!(config.host.consecutive_errors_limit, None);
    assert!(config.host.consumers_enabled);
    assert_eq!(config.host.secret, None);
}

#[test]
fn the_embedded_bus_lies_beside_the_file() {
    for (url, tail) in [("sqlite:events.db", "events.db"), ("sqlite:data/events.db", "data/events.db")] {
        let config = load(&format!("[bus]\nurl = {url:?}\n"), &[]).unwrap();
        let directory = config.path.parent().unwrap().display().to_string();
        assert_eq!(config.bus.url, format!("sqlite:{directory}/{tail}"));
    }
    assert_eq!(load("[bus]\nurl = \"sqlite:/var/e.db\"\n", &[]).unwrap().bus.url, "sqlite:/var/e.db");
}

#[test]
fn sentinel_and_cluster_are_known_and_a_prefix_may_be_a_hash_tag() {
    for url in ["redis+sentinel://a:1,b:2/m/3", "rediss+sentinel://a/m", "redis+cluster://a,b", "rediss+cluster://a"] {
        let config = load(&format!("[bus]\nurl = {url:?}\ntopic_prefix = \"{{dev}}\"\n"), &[]).unwrap();
        assert_eq!((config.bus.url.as_str(), config.bus.topic_prefix.as_deref()), (url, Some("{dev}")));
    }
    for prefix in ["{}", "{dev", "a{dev}", "{a}{b}"] {
        let problems = load(&format!("[bus]\nurl = \"redis://h\"\ntopic_prefix = {prefix:?}\n"), &[]).unwrap_err();
        assert!(problems.contains("topic_prefix"), "{problems}");
    }
}

#[test]
fn no_message_shows_a_password() {
    let error = load("[bus]\nurl = \"redsi://user:hunter2@bus:6379/\"\n", &[]).unwrap_err();
    assert!(error.contains("@bus:6379") && !error.contains("hunter2") && !error.contains("user:"), "{error}");
    let several = "redis+sentinal://:hunter2@a:1,b:2/m?sentinel_password=hunter3";
    let error = load(&format!("[bus]\nurl = {several:?}\n"), &[]).unwrap_err();
    assert!(error.contains("redis+sentinel://") && !error.contains("hunter"), "{error}");
}

#[test]
fn the_secret_is_never_shown() {
    const NAME: &str = "SANDBAR_HOST__SECRET";
    let config = load(SMALL, &[(NAME, "hunter2 and hunter3")]).unwrap();
    assert!(config.host.secret.is_some());
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    let environment: Environment = [(NAME, "hunter2 and hunter3")].into_iter().collect();
    assert_eq!(format!("{environment:?}"), r#"{"SANDBAR_HOST__SECRET"}"#);
    for (short, shown) in [("hunter2", "hunter2"), ("1234567", "1234567")] {
        let error = load(SMALL, &[(NAME, short)]).unwrap_err();
        assert!(error.contains("`secret` in [host]") && !error.contains(shown), "{error}");
    }
    let error = load("[host]\nsecret = 1234567\n[bus]\nurl = \"sqlite:e.db\"\n", &[]).unwrap_err();
    assert!(error.contains("16 bytes or more") && !error.contains("1234567"), "{error}");
    assert_eq!(load(SMALL, &[(NAME, "")]).unwrap().host.secret, None, "empty is not set");
}

#[test]
fn a_breaker_is_a_table_or_off_and_a_control_socket_a_path_or_off() {
    let with = |host: &str, handler: &str| format!("[host]\n{host}\n{SMALL}{handler}\n");
    let config = load(
        &with(
            "control = \"run/s.sock\"",
            "dead_letters_max = 7\ndead_letters_max_age = \"7d\"\n[handler.breaker]\nfailures = 3\npause_first = \"2s\"",
        ),
        &[("SANDBAR_HANDLER__MIRROR_V1_2__BREAKER__PAUSE_MAX", "5m")],
    )
    .unwrap();
    let handler = &config.handlers[0];
    let (pause_first, pause_max) = (Duration::from_secs(2), Duration::from_secs(300));
    assert_eq!(handler.breaker, Some(BreakerSettings { failures: 3, pause_first, pause_max }));
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    assert_eq!((handler.dead_letters.max, handler.dead_letters.max_age), (Some(7), Some(week)));
    let ControlSocket::At(path) = &config.host.control else { panic!("{:?}", config.host.control) };
    assert!(path.ends_with("run/s.sock") && path.is_absolute(), "{}", path.display());

    let off = load(&with("control = false", "breaker = false"), &[]).unwrap();
    assert_eq!((off.handlers[0].breaker, &off.host.control), (None, &ControlSocket::Off));
    let variables = [("SANDBAR_HANDLER__MIRROR_V1_2__BREAKER", "false"), ("SANDBAR_HOST__CONTROL", "off")];
    let off = load(SMALL, &variables).unwrap();
    assert_eq!((off.handlers[0].breaker, &off.host.control), (None, &ControlSocket::Off));

    for (handler, says) in [
        ("breaker = 5", "`breaker` in [[handler]] \"mirror-v1.2\" takes a table: write [handler.breaker]"),
        ("[handler.breaker]\nfailures = 0", "`failures` in [handler.breaker] of \"mirror-v1.2\" is 0"),
        (
            "[handler.breaker]\npause_first = \"2m\"",
            "`pause_first` in the breaker of [[handler]] \"mirror-v1.2\" is longer",
        ),
        ("[handler.breaker]\nfailure = 5", "did you mean `failures`?"),
        ("dead_letters_max = 0", "`dead_letters_max` in [[handler]] \"mirror-v1.2\" is 0"),
    ] {
        let error = load(&with("", handler), &[]).unwrap_err();
        assert!(error.contains(says), "{handler}: {error}");
    }
    let error = load(&with("control = 5", ""), &[]).unwrap_err();
    assert!(error.contains("the path of a socket, or false for none"), "{error}");
}

#[test]
fn what_a_handler_is_given_and_trusted_for_is_read() {
    let grants = |lines: &str, environment: &[(&str, &str)]| {
        load(&format!("{SMALL}sha256 = \"{}\"\n[handler.grants]\n{lines}\n", "0A".repeat(32)), environment).unwrap()
    };
    for (line, expected) in [
        ("", (false, None)),
        ("keys = false", (false, None)),
        ("keys = true", (true, None)),
        ("keys = { max_bytes = \"1MiB\" }", (true, Some(1 << 20))),
        ("keys = { max_bytes = 1 }", (true, Some(1))),
    ] {
        let config = grants(line, &[]);
        let given = &config.handlers[0].spec.grants;
        assert_eq!((given.keys, given.key_bytes), expected, "{line}");
        assert!(!given.clock && !given.random && given.secrets.is_empty());
    }
    let config = grants("clock = true\nrandom = true\nsecrets = [\"B\", \"A\", \"B\"]", &[]);
    let handler = &config.handlers[0];
    assert!(handler.spec.grants.clock && handler.spec.grants.random);
    assert_eq!(handler.spec.grants.secrets.names().collect::<Vec<_>>(), ["A", "B"]);
    assert_eq!((handler.trust.sha256, &handler.trust.keys), (Some([10; 32]), &None));

    // By the environment, as every key; and a name of a secret that looks like a setting is none.
    let set = [
        ("SANDBAR_HANDLER__MIRROR_V1_2__GRANTS__KEYS", "{ max_bytes = \"2KiB\" }"),
        ("SANDBAR_HANDLER__MIRROR_V1_2__GRANTS__SECRETS", "ONE,T__WO"),
        ("SANDBAR_SECRET_ONE", "the value of one"),
        ("SANDBAR_SECRET_T__WO", "the value of the other"),
        (
            "SANDBAR_HOST__TRUSTED_KEYS",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
        ),
    ];
    let config = grants("", &set);
    let handler = &config.handlers[0];
    assert_eq!(handler.spec.grants.key_bytes, Some(2048));
    assert_eq!(handler.trust.keys.as_ref().map(Vec::len), Some(1));
    let found = config.secrets_of(handler).unwrap();
    assert_eq!(found.secrets.names().collect::<Vec<_>>(), ["ONE", "T__WO"]);
    for shown in [format!("{config:?}"), format!("{found:?}")] {
        assert!(shown.contains("T__WO") && !shown.contains("the value"), "{shown}");
    }
    let missing = grants("secrets = [\"THREE\"]", &set[..0]);
    let problems = missing.secrets_of(&missing.handlers[0]).unwrap_err().to_string();
    assert!(problems.contains("sandbar.toml:10: ") && problems.contains("SANDBAR_SECRET_THREE"), "{problems}");
}
