//! Horizontal bars as SVG, with the text in a grey that can be read on white and on black.

use std::fmt::Write as _;

use super::table::number;

/// In pixels.
const WIDTH: f64 = 760.0;
const LABELS: f64 = 120.0;
/// Room on the right for the number.
const NUMBERS: f64 = 90.0;
const BAR: f64 = 18.0;
const GAP: f64 = 6.0;
const HEAD: f64 = 44.0;
const GROUP: f64 = 24.0;

/// Bars under a title.
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    pub(super) scale: Scale,
    pub(super) groups: Vec<Group>,
}

/// Bars under a heading, or under none if it is empty.
pub(super) struct Group {
    pub(super) label: String,
    pub(super) bars: Vec<Bar>,
}

/// A median, and the least and the most as a line over its end.
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) colour: &'static str,
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// How long a bar is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// As its value.
    Linear,
    /// From the power of ten below the least value; the title says so.
    Logarithmic,
}

// === impl Chart ===

impl Chart {
    /// None if there is no bar, or none of a size.
    pub(super) fn draw(&self) -> Option<String> {
        let bars = || self.groups.iter().flat_map(|group| &group.bars);
        let most = bars().map(|bar| bar.high).fold(0.0, f64::max);
        let least = bars().map(|bar| bar.low).fold(f64::INFINITY, f64::min).max(f64::MIN_POSITIVE);
        if !most.is_finite() || most <= 0.0 {
            return None;
        }
        let floor = 10_f64.powf(least.log10().floor());
        let length = |value: f64| {
            let share = match self.scale {
                Scale::Linear => value / most,
                // Where all values are equal to a power of ten there is nothing to divide by.
                Scale::Logarithmic => (value.max(floor) / floor).log10() / (most / floor).log10().max(0.01),
            };
            share.max(0.0) * (WIDTH - LABELS - NUMBERS)
        };

        let mut body = String::new();
        let mut top = HEAD;
        for group in self.groups.iter().filter(|group| !group.bars.is_empty()) {
            if !group.label.is_empty() {
                text(&mut body, 0.0, top + 14.0, "start", "group", &group.label);
                top += GROUP;
            }
            for bar in &group.bars {
                let (width, low, high) = (length(bar.value), length(bar.low), length(bar.high));
                let (middle, base) = (top + BAR / 2.0, top + BAR / 2.0 + 4.5);
                text(&mut body, LABELS - 8.0, base, "end", "label", &bar.label);
                // Writing to a string does not fail.
                let _ = writeln!(
                    body,
                    r#"<rect x="{LABELS}" y="{top:.1}" width="{width:.1}" height="{BAR}" fill="{}"/>"#,
                    bar.colour
                );
                let (from, to) = (LABELS + low, LABELS + high);
                let _ = writeln!(body, r#"<path class="range" d="M{from:.1} {middle:.1}H{to:.1}"/>"#);
                text(&mut body, LABELS + high.max(width) + 6.0, base, "start", "label", &number(bar.value));
                top += BAR + GAP;
            }
        }

        let note = if self.scale == Scale::Logarithmic { ", logarithmic" } else { "" };
        let mut title = String::new();
        text(&mut title, 0.0, 20.0, "start", "title", &format!("{} ({}{note})", self.title, self.unit));
        Some(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top:.0}\" width=\"{WIDTH}\" height=\"{top:.0}\">\n\
             <style>text{{font:13px sans-serif;fill:#808890}}.title{{font-size:16px}}.group{{font-weight:bold}}\
             .range{{stroke:#808890;stroke-width:2}}</style>\n{title}{body}</svg>\n"
        ))
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, class: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widths(scale: Scale, values: &[f64]) -> Vec<f64> {
        let bar = |&value: &f64| Bar { label: "a<b".into(), colour: "#000", value, low: value, high: value };
        let groups = vec![Group { label: String::new(), bars: values.iter().map(bar).collect() }];
        let svg = Chart { title: "t", unit: "u", scale, groups }.draw().unwrap();
        assert!(svg.contains(">a&lt;b</text>") && svg.ends_with("</svg>\n"), "{svg}");
        let rects = svg.split("<rect ").skip(1);
        rects.map(|rect| rect.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn bars_are_as_long_as_their_values_say() {
        assert_eq!(widths(Scale::Linear, &[100.0, 50.0, 0.0]), [550.0, 275.0, 0.0]);
        assert_eq!(widths(Scale::Logarithmic, &[1000.0, 100.0, 10.0]), [550.0, 275.0, 0.0]);
    }

    #[test]
    fn without_a_value_there_is_nothing_to_draw() {
        let chart = Chart { title: "t", unit: "u", scale: Scale::Linear, groups: Vec::new() };
        assert!(chart.draw().is_none());
    }
}
