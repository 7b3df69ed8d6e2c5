use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use hyper::{HeaderMap, Method};

use super::super::exchange::{Exchange, Side, Times};
use super::super::sending::{Ask, Budget};
use super::*;

/// Answers whoever connects; counts them.
fn server(address: &str, port: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((address, port)).unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 1 << 10]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    (port, count)
}

fn ask(target: Target, reach: Reach) -> Ask {
    Ask {
        target,
        reach,
        method: Method::GET,
        headers: HeaderMap::new(),
        body: None,
        times: Times::default(),
        deadline: Instant::now() + Duration::from_secs(30),
        budget: Arc::new(Budget::new(0)),
        waiter: thread::current(),
    }
}

/// The status of one request to `rebinding.test`, if the name has these addresses at each look-up, in turn.
fn asked(port: u16, private: bool, answers: &'static [&'static [&'static str]]) -> (Result<u16, ErrorCode>, usize) {
    let client = Arc::new(Client::start(None).unwrap());
    let lookups = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lookups);
    let lookup: Box<Lookup> = Box::new(move |name, _| {
        assert_eq!(name, "rebinding.test");
        let turn = counted.fetch_add(1, Ordering::SeqCst);
        let found: Vec<IpAddr> = answers[turn.min(answers.len() - 1)].iter().map(|ip| ip.parse().unwrap()).collect();
        Box::pin(async move { Ok(found) })
    });
    let url = format!("http://rebinding.test:{port}/*");
    let grants = Http { urls: vec![UrlGrant::parse(&url, private).unwrap()], refused: None };
    let outlet = Outlet::with_lookup(&client, "h", &grants, &Limits::default(), lookup).unwrap();
    let target = Target::parse(false, &format!("rebinding.test:{port}"), "/").unwrap();
    let reach = grants.permits(&target).unwrap();
    let exchange = Exchange::start(&outlet, ask(target, reach));
    while !exchange.ready(Side::Head) {
        thread::park_timeout(Duration::from_millis(10));
    }
    let status = exchange.head().unwrap().map(|head| head.status).map_err(|failure| failure.code);
    (status, lookups.load(Ordering::SeqCst))
}

#[test]
fn a_name_is_looked_up_once_and_what_was_checked_is_connected_to() {
    let (port, good) = server("127.0.0.1", 0);
    let (_, other) = server("127.0.0.2", port);
    assert_eq!(asked(port, true, &[&["127.0.0.1"], &["127.0.0.2"]]), (Ok(200), 1));
    assert_eq!((good.load(Ordering::SeqCst), other.load(Ordering::SeqCst)), (1, 0));
}

#[test]
fn of_several_addresses_only_those_that_may_be_reached_are() {
    let (port, good) = server("127.0.0.1", 0);
    let prohibited = Err(ErrorCode::DestinationIpProhibited);
    for private in [&["127.0.0.1"][..], &["10.0.0.1", "127.0.0.1"], &["::ffff:127.0.0.1", "fd00::1"]] {
        let answers = Box::leak(Box::new([private]));
        assert_eq!(asked(port, false, answers).0, prohibited, "{private:?}");
    }
    assert_eq!(asked(port, true, &[&["169.254.169.254"]]).0, prohibited);
    assert_eq!(good.load(Ordering::SeqCst), 0);
    assert_eq!(asked(port, true, &[&["169.254.169.254", "0.0.0.0", "::ffff:127.0.0.1"]]), (Ok(200), 1));
    assert_eq!(good.load(Ordering::SeqCst), 1);
}

#[test]
fn so_many_names_are_looked_up_at_once_and_no_more() {
    let client = Arc::new(Client::start(None).unwrap());
    let (begun, counted) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    let (held, count) = (Arc::clone(&begun), Arc::clone(&counted));
    // No server answers: what is given up still has its turn.
    let lookup: Box<Lookup> = Box::new(move |_, turn| {
        held.lock().unwrap().push(turn);
        count.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::pending())
    });
    let grants = Http { urls: vec![UrlGrant::parse("http://a.test/*", false).unwrap()], refused: None };
    let limits = Limits { http_connect: Duration::from_millis(50), ..Limits::default() };
    let outlet = Outlet::with_lookup(&client, "h", &grants, &limits, lookup).unwrap();
    let target = Target::parse(false, "a.test", "/").unwrap();
    for _ in 0..3 * limits::HTTP_LOOKUPS {
        let exchange = Exchange::start(&outlet, ask(target.clone(), Reach::Public));
        while !exchange.ready(Side::Head) {
            thread::park_timeout(Duration::from_millis(10));
        }
        assert_eq!(exchange.head().unwrap().unwrap_err().code, ErrorCode::ConnectionTimeout);
    }
    assert_eq!(counted.load(Ordering::SeqCst), limits::HTTP_LOOKUPS);
}
