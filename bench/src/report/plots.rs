//! Which figures are drawn.

use super::Figure;
use super::svg::{Bar, Chart, Group, Scale};

/// The contenders of the main comparison and of the payloads, from the limit downwards.
const THROUGHPUT: &[&str] = &["smallest", "bare", "native", "noop_reuse", "noop_fresh", "watermill", "python"];
const PAYLOADS: &[(&str, &str)] = &[("_100b", "100 B"), ("", "1 KiB"), ("_16kib", "16 KiB")];
const LATENCIES: &[&str] = &["bare", "noop_fresh"];
const RATES: &[(&str, &str)] = &[("1k", "1,000 events/s"), ("10k", "10,000 events/s"), ("50k", "50,000 events/s")];
const PERCENTILES: &[(&str, &str)] = &[("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")];

/// The plots for which there is a figure, each with the name of its file.
pub(super) fn of(figures: &[Figure]) -> Vec<(&'static str, String)> {
    let bars = |names: &[&str], name: &dyn Fn(&str) -> String| -> Vec<Bar> {
        let found = |contender: &&str| {
            let wanted = name(contender);
            let figure = figures.iter().find(|figure| figure.name == wanted)?;
            let Figure { median, min, max, .. } = *figure;
            Some(Bar { label: (*contender).to_owned(), colour: colour(contender), value: median, low: min, high: max })
        };
        names.iter().filter_map(found).collect()
    };

    let throughput = vec![Group { label: String::new(), bars: bars(THROUGHPUT, &|contender| contender.to_owned()) }];
    let of_payload = |&(suffix, label): &(&str, &str)| Group {
        label: label.to_owned(),
        bars: bars(&THROUGHPUT[..5], &|contender| format!("{contender}{suffix}")),
    };
    let mut latency = Vec::new();
    for (rate, spoken) in RATES {
        for (percentile, shown) in PERCENTILES {
            let bars = bars(LATENCIES, &|contender| format!("{contender}_{rate}_{percentile}_us"));
            latency.push(Group { label: format!("{spoken}, {shown}"), bars });
        }
    }

    let chart = |title, unit, scale, groups| Chart { title, unit, scale, groups };
    let payloads = chart("By payload", "events/s", Scale::Logarithmic, PAYLOADS.iter().map(of_payload).collect());
    let plots = [
        (
            "throughput.svg",
            chart("Backlog of 1 KiB events, handler that does nothing", "events/s", Scale::Linear, throughput),
        ),
        ("payload.svg", payloads),
        ("latency.svg", chart("From the intended time to the acknowledgement", "µs", Scale::Logarithmic, latency)),
    ];
    plots.into_iter().filter_map(|(name, chart)| Some((name, chart.draw()?))).collect()
}

/// The same contender has the same colour everywhere; all can be read on white and on black.
fn colour(contender: &str) -> &'static str {
    match contender {
        "noop_fresh" => "#e0772d",
        "noop_reuse" => "#eaa96f",
        "bare" => "#5b8db8",
        "native" => "#4ba3a3",
        "smallest" => "#9aa5b1",
        _ => "#a884b8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let figure = |name: &str, value| Figure::of(name.into(), String::new(), Some("µs"), &[value]);
        let names = |figures: &[Figure]| of(figures).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&[figure("xapi_fresh", 1.0)]), Vec::<&str>::new());
        assert_eq!(names(&[figure("bare_10k_p99_us", 120.0)]), ["latency.svg"]);
        assert_eq!(names(&[figure("bare_16kib", 3.0)]), ["payload.svg"]);
        let all = of(&[figure("bare", 3.0), figure("python", 2.0)]);
        assert!(all[0].1.contains("python") && !all[0].1.contains("watermill"), "{}", all[0].1);
    }
}
