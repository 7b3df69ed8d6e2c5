//! `http` in `[handler.grants]`: the URLs that a handler may send requests to.

use super::handler::required;
use super::keys;
use super::section::Section;
use super::tree::Node;
use crate::sandbox::limits::HTTP_URLS;
use crate::sandbox::{Http, UrlGrant};

const TAKES: &str =
    "a list of URLs, such as [\"https://lrs.example.org/*\", { url = \"http://lms:8000/api/*\", private = true }]";

/// Reads the URLs.
pub(super) fn granted(section: &mut Section<'_>) -> Http {
    let Some(found) = section.get("http", TAKES, Node::as_items) else { return Http::default() };
    if found.value.len() > HTTP_URLS {
        let message = format!("`http` in {} has {} URLs; the most is {HTTP_URLS}", section.label(), found.value.len());
        section.problem(&found.place, message);
    }
    Http { urls: found.value.into_iter().filter_map(|item| url(section, item)).collect(), refused: None }
}

fn url(section: &mut Section<'_>, item: Node) -> Option<UrlGrant> {
    let what = format!("`http` in {}", section.label());
    let (mut place, shown, mut private) = (item.place.clone(), item.shown(), false);
    let plain = item.as_string().filter(|text| !text.starts_with('{')).map(str::to_owned);
    let text = match plain {
        Some(text) => text,
        None => {
            let Ok(table) = item.into_table() else {
                let message = format!("{what} has {shown}: it takes a URL or {{ url = \"…\", private = true }}");
                section.problem(&place, message);
                return None;
            };
            let mut entry = section.child(what.clone(), &keys::HTTP, table, place.clone());
            let url = required(&mut entry, "url", "where may it send requests?", |entry| entry.string("url"));
            private = entry.boolean("private", false);
            entry.finish();
            let url = url?;
            place = url.place;
            url.value
        }
    };
    match UrlGrant::parse(&text, private) {
        Ok(grant) => Some(grant),
        Err(error) => {
            // Before an `@` stands a password.
            let shown = if text.contains('@') { "a URL".to_owned() } else { format!("{text:?}") };
            section.problem(&place, format!("{what} has {shown}: {error}"));
            None
        }
    }
}
