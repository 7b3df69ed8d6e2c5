//! The configuration: every fault at once with its line, the sample, the environment.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandbar::bus::{Durability, Start, Trim};
use sandbar::config::{Config, ControlSocket, Environment, PayloadForm, Place};
use sandbar::dispatch::Order;
use sandbar::sandbox::{Limits, PublishGrant, Secret};
use sandbar::settle::BreakerSettings;

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
fn every_documented_key_is_read() {
    let text = r#"
[bus]
url = "redis://127.0.0.1:6379/0"
topic_prefix = "dev"
profile = "openedx"
durability = 2
trim = "acked"
stream_max_len = 500
[schemas]
dirs = ["schemas/openedx", "/etc/schemas"]
builtin = false
[host]
threads = 3
grace = "1m30s"
max_payload = "2MB"
consumer_name = "blue"
service = "lms"
poll_timeout = "250ms"
consumers_enabled = false
consecutive_errors_limit = 7
secret = "sixteen letters!"
log = { level = "debug", format = "json" }
[[handler]]
name = "xapi"
group = "statements"
module = "xapi.wasm"
topics = ["course-enrollment", "grades"]
types = ["org.openedx.learning.*"]
start = "1526919030474-55"
order = "key"
key = "/enrollment/course/course_key"
max_attempts = 9
retry_first = "2s"
retry_max = "1h30m"
lease = "45s"
in_flight = 16
reuse = 50
payload = "json"
parked_max = 10
[handler.limits]
time = "250ms"
memory = 33554432
core_slots = 3
handles = 7
host_calls = 800
host_call_bytes = "9KiB"
published_events = 10
published_bytes = "11KiB"
key_operations = 0
key_bytes = "13KiB"
log_lines = 14
log_bytes = "15KiB"
reason_bytes = 160
events_per_second = 17
[handler.grants]
publish = ["xapi-statements", { topic = "alerts", types = ["org.example.*"] }]
keys = true
config = { base = "https://lms.example.org" }
[[handler]]
name = "off"
enabled = false
module = "/opt/off.wasm"
topics = ["x"]
start = 2026-01-01T00:00:00Z
payload = "raw"
"#;
    let config = load(text, &[]).unwrap();
    let directory = config.path.parent().unwrap();
    assert_eq!(config.bus.topic_prefix.as_deref(), Some("dev"));
    assert_eq!(config.bus.stream_max_len, Some(500));
    assert_eq!((config.bus.durability, config.bus.trim), (Some(Durability::Replicas(2)), Some(Trim::Acked)));
    let set = load(text, &[("SANDBAR_BUS__DURABILITY", "3"), ("SANDBAR_BUS__TRIM", "none")]).unwrap();
    assert_eq!((set.bus.durability, set.bus.trim), (Some(Durability::Replicas(3)), Some(Trim::None)));
    assert_eq!(config.schemas.dirs, [directory.join("schemas/openedx"), PathBuf::from("/etc/schemas")]);
    assert!(!config.schemas.builtin);
    assert_eq!(config.schemas.max_payload, 2_000_000);
    let host = &config.host;
    assert_eq!((host.threads, host.grace), (3, Duration::from_secs(90)));
    assert_eq!((host.service.as_str(), host.poll_timeout), ("lms", Duration::from_millis(250)));
    assert_eq!((host.consumers_enabled, host.consecutive_errors_limit), (false, Some(7)));
    assert_eq!(host.secret, Some(Secret::new(b"sixteen letters!")));
    assert_eq!((host.log.level.as_str(), host.log.format), ("debug", sandbar::telemetry::Format::Json));

    let xapi = &config.handlers[0];
    assert_eq!(xapi.module, directory.join("xapi.wasm"));
    assert_eq!(xapi.group.name, "statements");
    assert_eq!(xapi.group.topics.iter().map(|topic| &**topic).collect::<Vec<_>>(), ["course-enrollment", "grades"]);
    assert_eq!(xapi.group.start, Start::After("1526919030474-55".into()));
    assert_eq!((xapi.group.consumer.as_str(), xapi.order), ("blue", Order::Key));
    assert_eq!(xapi.group.lease, Duration::from_secs(45));
    assert!(xapi.filter.matches("org.openedx.learning.course.enrollment.created.v1"));
    assert!(!xapi.filter.matches("org.openedx.enterprise.subsidy.redeemed.v1"));
    assert_eq!((xapi.order, xapi.key.as_deref()), (Order::Key, Some("/enrollment/course/course_key")));
    assert_eq!(xapi.policy.max_attempts, 9);
    assert_eq!((xapi.policy.first, xapi.policy.max), (Duration::from_secs(2), Duration::from_secs(5400)));
    assert_eq!((xapi.in_flight, xapi.parked_max, xapi.spec.reuse), (16, 10, 50));
    assert_eq!((xapi.spec.name.as_str(), xapi.spec.group.as_str(), xapi.spec.max_attempts), ("xapi", "statements", 9));
    let expected = Limits {
        time: Duration::from_millis(250),
        memory: 32 << 20,
        core_slots: 3,
        handles: 7,
        host_calls: 800,
        host_call_bytes: 9 << 10,
        published_events: 10,
        published_bytes: 11 << 10,
        key_operations: 0,
        key_bytes: 13 << 10,
        log_lines: 14,
        log_bytes: 15 << 10,
        reason_bytes: 160,
    };
    assert_eq!((&xapi.spec.limits, xapi.events_per_second), (&expected, Some(17)));
    let grants = &xapi.spec.grants;
    let plain = PublishGrant { topic: "xapi-statements".to_owned(), types: Vec::new() };
    let typed = PublishGrant { topic: "alerts".to_owned(), types: vec!["org.example.*".to_owned()] };
    assert_eq!(grants.publish, [plain, typed]);
    assert!(grants.keys);
    assert_eq!(grants.config.as_ref().unwrap()["base"], "https://lms.example.org");
    let line = |wanted: &str| Place::Line(text.lines().position(|line| line.starts_with(wanted)).unwrap() + 1);
    assert_eq!(xapi.places.module, line("module"));
    assert_eq!(xapi.places.handler, line("[[handler]]"));
    assert_eq!(xapi.places.topics, line("topics"));
    assert_eq!(xapi.places.types, [line("types")]);
    assert_eq!(xapi.places.grants, line("[handler.grants]"));

    let off = &config.disabled[0];
    assert_eq!((off.name.as_str(), off.payload), ("off", PayloadForm::Raw));
    assert_eq!(off.module, PathBuf::from("/opt/off.wasm"));
    assert_eq!(off.group.start, Start::At(std::time::UNIX_EPOCH + Duration::from_secs(1_767_225_600)));
    assert_eq!(config.all_handlers().count(), 2);
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
fn the_environment_overrides_every_key() {
    let config = load(
        SMALL,
        &[
            ("SANDBAR_BUS__URL", "redis://bus:6379/3"),
            ("SANDBAR_BUS__TOPIC_PREFIX", "stage"),
            ("SANDBAR_BUS__STREAM_MAX_LEN", "77"),
            ("SANDBAR_SCHEMAS__DIRS", "one, two"),
            ("SANDBAR_SCHEMAS__BUILTIN", "false"),
            ("SANDBAR_HOST__THREADS", "2"),
            ("SANDBAR_HOST__MAX_PAYLOAD", "4096"),
            ("SANDBAR_HOST__SECRET", "0123456789abcdef"),
            ("SANDBAR_HOST__LOG__LEVEL", "warn"),
            ("SANDBAR_HANDLER__MIRROR_V1_2__MAX_ATTEMPTS", "8"),
            ("SANDBAR_HANDLER__MIRROR_V1_2__TOPICS", r#"["a", "b,c"]"#),
            ("SANDBAR_HANDLER__MIRROR_V1_2__TYPES", "org.a.*,org.b.*"),
            ("SANDBAR_HANDLER__MIRROR_V1_2__START", "42"),
            ("SANDBAR_HANDLER__MIRROR_V1_2__LIMITS__MEMORY", "1MiB"),
            ("SANDBAR_HANDLER__MIRROR_V1_2__LIMITS__EVENTS_PER_SECOND", "30"),
            ("SANDBAR_HANDLER__MIRROR_V1_2__GRANTS__KEYS", "true"),
            ("SANDBAR_HANDLER__MIRROR_V1_2__GRANTS__PUBLISH", r#"["x", {topic = "y", types = ["t"]}]"#),
            ("SANDBAR_HANDLER__MIRROR_V1_2__GRANTS__CONFIG__BASE", "https://x"),
            ("SANDBAR_GUESTS", "not ours to read"),
            ("SANDBAR_CONFIG", "elsewhere.toml"),
        ],
    )
    .unwrap();
    assert_eq!(config.bus.url, "redis://bus:6379/3");
    assert_eq!(config.bus.topic_prefix.as_deref(), Some("stage"));
    assert_eq!(config.bus.stream_max_len, Some(77));
    assert_eq!(config.schemas.dirs.len(), 2);
    assert!(!config.schemas.builtin);
    assert_eq!((config.host.threads, config.schemas.max_payload), (2, 4096));
    assert_eq!(config.host.log.level, "warn");
    assert_eq!(config.host.secret, Some(Secret::new(b"0123456789abcdef")));
    assert_eq!(config.bus_place, Place::Environment("SANDBAR_BUS__URL".to_owned()));
    let handler = &config.handlers[0];
    assert_eq!(handler.policy.max_attempts, 8);
    assert_eq!(handler.group.topics.iter().map(|topic| &**topic).collect::<Vec<_>>(), ["a", "b,c"]);
    assert_eq!(handler.types, ["org.a.*", "org.b.*"]);
    assert_eq!(handler.group.start, Start::After("42".into()));
    assert_eq!((handler.spec.limits.memory, handler.events_per_second), (1 << 20, Some(30)));
    assert!(handler.spec.grants.keys);
    assert_eq!(handler.spec.grants.publish.len(), 2);
    assert_eq!(handler.spec.grants.publish[1].types, ["t"]);
    assert_eq!(handler.spec.grants.config.as_ref().unwrap()["base"], "https://x");
}

#[test]
fn the_python_names_stand_under_the_file() {
    let old = [
        ("EVENT_BUS_REDIS_CONNECTION_URL", "redis://:secret@old:6379/"),
        ("EVENT_BUS_TOPIC_PREFIX", "prod"),
        ("EVENT_BUS_REDIS_STREAM_MAX_LEN", "10000"),
        ("EVENT_BUS_REDIS_CONSUMER_POLL_TIMEOUT", "60"),
        ("EVENT_BUS_REDIS_CONSUMER_CONSECUTIVE_ERRORS_LIMIT", "3"),
        ("EVENT_BUS_REDIS_CONSUMERS_ENABLED", "False"),
        ("EVENTS_SERVICE_NAME", "lms"),
        ("SERVICE_VARIANT", "cms"),
    ];
    let config = load("", &old).unwrap();
    assert_eq!(config.bus.url, "redis://:secret@old:6379/");
    assert_eq!(config.bus.topic_prefix.as_deref(), Some("prod"));
    assert_eq!(config.bus.stream_max_len, Some(10_000));
    assert_eq!(config.host.poll_timeout, Duration::from_secs(60));
    assert_eq!(config.host.consecutive_errors_limit, Some(3));
    assert!(!config.host.consumers_enabled);
    assert_eq!(config.host.service, "lms");

    let file = "[bus]\nurl = \"redis://file:1/\"\ntopic_prefix = \"\"\n[host]\nconsumers_enabled = true\n";
    let config = load(file, &old).unwrap();
    assert_eq!((config.bus.url.as_str(), config.bus.topic_prefix), ("redis://file:1/", None));
    assert!(config.host.consumers_enabled, "the file stands over the old names");
    let mut all = old.to_vec();
    all.push(("SANDBAR_BUS__URL", "redis://new:1/"));
    assert_eq!(load(file, &all).unwrap().bus.url, "redis://new:1/", "the new names stand over the file");

    let unset = [("EVENT_BUS_REDIS_CONNECTION_URL", ""), ("EVENT_BUS_REDIS_CONSUMER_CONSECUTIVE_ERRORS_LIMIT", "None")];
    assert_eq!(load(SMALL, &unset).unwrap().host.consecutive_errors_limit, None, "Python's None and '' are unset");
    assert_eq!(load("", &[("SERVICE_VARIANT", "cms")]).unwrap_err().lines().count(), 1, "only bus.url is missing");
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
