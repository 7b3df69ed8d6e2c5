//! What a command prints: results to stdout, the rest to stderr, never a terminal escape that came from outside.

use std::fmt::Arguments;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde_json::Value;

/// Prints one line.
pub(super) fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", clean(text))
}

/// Prints a document on one line.
pub(super) fn json(value: &Value) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{value}")
}

/// Writes bytes as they are.
pub(super) fn bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Says something on stderr. If that is closed there is nobody to tell.
pub(super) fn note(text: Arguments<'_>) {
    drop(writeln!(io::stderr().lock(), "{}", clean(&text.to_string())));
}

/// Prints rows under a header, columns aligned.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    let all = || std::iter::once(&header).chain(&rows);
    let width = |column: usize| all().map(|row| row.get(column).map_or(0, |cell| cell.chars().count())).max();
    let widths: Vec<usize> = (0..header.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut stdout = io::stdout().lock();
    for row in all() {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&format!("{cell:width$}  "));
        }
        writeln!(stdout, "{}", text.trim_end())?;
    }
    Ok(())
}

/// A counter on stderr, if that is a terminal and the work is long enough to be seen; hidden otherwise.
pub(super) fn progress(what: &'static str, total: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::no_length(),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    let template = if total.is_some() { "{msg} {bar:30} {pos}/{len} ({rate})" } else { "{msg} {pos} ({rate})" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        // The library's own has four digits after the point.
        let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // A bar that cannot be written is no reason to stop.
            let _ = write!(out, "{:.0}/s", state.per_sec());
        };
        bar.set_style(style.with_key("rate", rate));
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Bytes that are text as such, others as base64 that says so.
pub(super) fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("base64:{}", BASE64.encode(bytes)),
    }
}

/// Reasons and headers are written by handlers and producers: control characters are shown, not sent.
pub(super) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => clean.push('\n'),
            c if c.is_control() => clean.extend(c.escape_default()),
            c => clean.push(c),
        }
    }
    clean
}

/// Begins a new picture of something that is shown again and again: on an empty screen if stdout is a terminal, after an
/// empty line if not.
pub(super) fn picture(first: bool) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    if stdout.is_terminal() {
        // Home, then erase what is below.
        stdout.write_all(b"\x1b[H\x1b[J")?;
    } else if !first {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()
}
