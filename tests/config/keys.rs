//! Every key: in the file, in the environment, and by the names that the Python packages have for it.

use super::*;

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
http_calls = 21
http_request_bytes = "22KiB"
http_response_bytes = "23KiB"
http_header_bytes = "24KiB"
http_connections = 25
http_connect = "26s"
log_lines = 14
log_bytes = "15KiB"
reason_bytes = 160
events_per_second = 17
[handler.grants]
http = ["https://lrs.example.org/*", { url = "http://lms:8000/api", private = true }]
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
        http_calls: 21,
        http_request_bytes: 22 << 10,
        http_response_bytes: 23 << 10,
        http_header_bytes: 24 << 10,
        http_connections: 25,
        http_connect: Duration::from_secs(26),
        log_lines: 14,
        log_bytes: 15 << 10,
        reason_bytes: 160,
    };
    assert_eq!((&xapi.spec.limits, xapi.events_per_second), (&expected, Some(17)));
    let grants = &xapi.spec.grants;
    let plain = PublishGrant { topic: "xapi-statements".to_owned(), types: Vec::new() };
    let typed = PublishGrant { topic: "alerts".to_owned(), types: vec!["org.example.*".to_owned()] };
    assert_eq!(grants.publish, [plain, typed]);
    let url = |text, private| UrlGrant::parse(text, private).unwrap();
    let urls = vec![url("https://lrs.example.org/*", false), url("http://lms:8000/api", true)];
    assert_eq!(grants.http, Http { urls, refused: None });
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
