//! The tables of the README.

use std::fmt::Write as _;

use super::Figure;

/// What stands in the first table; everything else is folded away below it.
const HEADLINES: &[&str] = &[
    "smallest",
    "bare",
    "native",
    "noop_fresh",
    "noop_reuse",
    "watermill",
    "python",
    "xapi_fresh",
    "xapi_python",
    "added_p99_10k_us",
    "idle_handler_kib",
    "cold_start_ms",
    "sqlite_noop",
    "raw_sqlite",
    "publish",
    "publish_python",
    "noop_fresh/python",
    "noop_fresh/bare",
    "noop_fresh/native",
    "noop_fresh/watermill",
    "xapi_fresh/python",
    "sqlite_noop/raw_sqlite",
    "publish/python",
];

/// The main table, the plots (their folder and their names), the rest in a fold, and what was measured on what.
pub(super) fn write(
    machine: &str,
    notes: &[String],
    figures: &[Figure],
    ratios: &[Figure],
    plots: Option<(&str, &[&str])>,
) -> String {
    let all = || figures.iter().chain(ratios);
    let main = |figure: &&Figure| HEADLINES.contains(&figure.name.as_str());
    let mut text = String::new();
    table(&mut text, all().filter(main));
    if let Some((folder, names)) = plots {
        text.push('\n');
        for name in names {
            let title = name.trim_end_matches(".svg");
            line(&mut text, format_args!("![{title}]({folder}/{name})"));
        }
    }
    if all().any(|figure| !main(&figure)) {
        text.push_str("\n<details><summary>Everything else that was measured</summary>\n\n");
        table(&mut text, all().filter(|figure| !main(figure)));
        text.push_str("\n</details>\n");
    }
    text.push('\n');
    for note in notes {
        line(&mut text, format_args!("{note};"));
    }
    line(&mut text, format_args!("{machine}."));
    text
}

fn table<'a>(text: &mut String, figures: impl Iterator<Item = &'a Figure>) {
    text.push_str("| | median | min | max | |\n|---|---:|---:|---:|---|\n");
    for Figure { what, unit, median, min, max, .. } in figures {
        let (median, min, max) = (number(*median), number(*min), number(*max));
        line(text, format_args!("| {what} | {median} | {min} | {max} | {} |", unit.unwrap_or("×")));
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}

/// With as many digits as say something: `0.44`, `25.1`, `142,749`.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => {
            let digits = format!("{value:.0}");
            let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |digits| ("-", digits));
            let mut text = sign.to_owned();
            for (place, digit) in digits.chars().enumerate() {
                if place > 0 && (digits.len() - place).is_multiple_of(3) {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        let shown = [0.4369, 25.09, 100.0, 999.6, 142_749.2, 1e6, -1234.0, -0.5].map(number);
        assert_eq!(shown, ["0.44", "25.1", "100", "1,000", "142,749", "1,000,000", "-1,234", "-0.50"]);
    }

    #[test]
    fn only_headlines_stand_in_the_first_table() {
        let figure = |name: &str| Figure::of(name.into(), format!("what {name} is"), Some("µs"), &[1.0]);
        let ratio = Figure::of("noop_fresh/bare".into(), "`noop_fresh/bare`".into(), None, &[0.5]);
        let text = write("machine", &["events".into()], &[figure("bare"), figure("bare_10k_p99_us")], &[ratio], None);
        let (first, folded) = text.split_once("<details>").unwrap();
        assert!(
            first.contains("what bare is") && first.contains("| `noop_fresh/bare` | 0.50 | 0.50 | 0.50 | × |"),
            "{text}"
        );
        assert!(folded.contains("what bare_10k_p99_us is"), "{text}");
        assert!(text.ends_with("events;\nmachine.\n"), "{text}");
    }
}
