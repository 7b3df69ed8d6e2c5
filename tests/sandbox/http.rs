//! HTTP for handlers: a guest that speaks nothing but `wasi:http`, and a real server.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sandbar::event::{Event, Verdict};
use sandbar::sandbox::{Grants, Handler, Http, Limits, Module, Sandbox, Services, Settings, Spec, UrlGrant};

use super::support::{Remembering, called, event, guest, spec};
use crate::support::web::Web;

mod answers;
mod bounds;
mod granted;
mod repeats;
mod waiting;

/// A sandbox that the tests share, and the guest loaded into it.
fn shared() -> &'static (Arc<Sandbox>, Module) {
    static SHARED: OnceLock<(Arc<Sandbox>, Module)> = OnceLock::new();
    SHARED.get_or_init(|| trusting(None))
}

/// A sandbox whose client trusts the authority in this file too.
fn trusting(roots: Option<&Path>) -> (Arc<Sandbox>, Module) {
    let http_ca_file = roots.map(Path::to_owned);
    let sandbox = Sandbox::new(&Settings { threads: 2, http_ca_file, ..Settings::default() }).unwrap();
    let module = sandbox.load(&guest("fetch")).unwrap();
    (sandbox, module)
}

fn granted(urls: &[&str]) -> Http {
    Http { urls: urls.iter().map(|url| UrlGrant::parse(url, false).unwrap()).collect(), refused: None }
}

/// Everything of a server, by its address.
fn all_of(web: &Web) -> Http {
    granted(&[&web.url("/*")])
}

fn limits() -> Limits {
    Limits { time: Duration::from_secs(20), ..Limits::default() }
}

fn handler_with(http: Http, limits: Limits) -> Arc<Handler> {
    let (sandbox, module) = shared();
    handler_in(sandbox, module, http, limits)
}

fn handler_in(sandbox: &Sandbox, module: &Module, http: Http, limits: Limits) -> Arc<Handler> {
    let services: Arc<dyn Services> = Arc::new(Remembering::default());
    let grants = Grants { http, ..Grants::default() };
    sandbox.handler(module, Spec { limits, grants, ..spec() }, services).unwrap()
}

fn handler(http: Http) -> Arc<Handler> {
    handler_with(http, limits())
}

/// An event that makes the guest send these requests.
fn fetches(lines: &[&str], more: &[(&str, &str)]) -> Event {
    let lines = lines.join("\n");
    event("fetch", &[&[("do", lines.as_str())], more].concat())
}

fn verdict(handler: &Handler, event: &Event) -> Verdict {
    called(shared().0.call(handler, event, 1, false)).0
}

/// What the guest says, and what the host says after it.
fn said(handler: &Handler, event: &Event) -> String {
    match verdict(handler, event) {
        Verdict::Reject { code, reason } if code == "said" => reason,
        other => panic!("{other:?}"),
    }
}

/// Sends one request and says what came of it.
fn fetch(handler: &Handler, line: &str) -> String {
    said(handler, &fetches(&[line], &[]))
}

/// The code and the reason of a call that is to be repeated.
fn retried(handler: &Handler, event: &Event) -> (String, String) {
    super::support::retried(verdict(handler, event))
}
