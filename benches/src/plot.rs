//! Plots as SVG, for light and dark pages.

use std::fmt::Write as _;

/// What a plot shows.
#[derive(Debug)]
pub struct Plot<'a> {
    /// Above it.
    pub title: &'a str,
    /// Below the title, smaller: what is better, what was measured.
    pub note: &'a str,
    /// What the values are.
    pub unit: &'a str,
}

const WIDTH: f64 = 860.0;
/// The floor's, Tidegate's three, then the peers'.
const COLORS: [&str; 16] = [
    "#8b949e", "#0969da", "#54aeff", "#0a3069", "#d1242f", "#1a7f37", "#8250df", "#c297ff", "#bf3989",
    "#e85aad", "#0e8a8a", "#7a5230", "#9a9a00", "#4ac26b", "#bc4c00", "#d4a72c",
];

/// A series and its color: that of its place, so that a server has the same in every plot.
pub type Series<T> = (String, usize, T);

/// Bars on a logarithmic axis: for each group the value of each series. What is not positive is left out.
pub fn bars(plot: &Plot<'_>, groups: &[(String, Vec<Series<f64>>)]) -> String {
    let values = groups.iter().flat_map(|(_, series)| series.iter().map(|(.., value)| *value));
    let axis = Axis::over(values, 250.0, WIDTH - 70.0);
    let rows: usize = groups.iter().map(|(_, series)| series.len() + 2).sum();
    let height = 75.0 + 17.0 * rows as f64 + 20.0;
    let mut out = open(plot, height);
    for (at, label) in axis.ticks() {
        line(&mut out, (at, 60.0), (at, height - 25.0), "grid");
        text(&mut out, (at, height - 10.0), "middle", "small", &label);
    }
    let mut y = 75.0;
    for (group, series) in groups {
        text(&mut out, (20.0, y), "start", "group", group);
        y += 17.0;
        for (name, color, value) in series.iter().filter(|(.., value)| *value > 0.0) {
            let end = axis.place(*value);
            text(&mut out, (240.0, y), "end", "label", name);
            let (width, color) = ((end - 250.0).max(1.0), COLORS[color % COLORS.len()]);
            let _ = writeln!(
                out,
                r#"<rect x="250" y="{:.1}" width="{width:.1}" height="12" rx="2" fill="{color}"/>"#,
                y - 10.0
            );
            text(&mut out, (end + 5.0, y), "start", "small", &short(*value));
            y += 17.0;
        }
        y += 17.0;
    }
    out + "</svg>\n"
}

/// Lines on a logarithmic vertical axis: for each series a value at each of `places`, where it has one.
pub fn lines(plot: &Plot<'_>, places: &[String], series: &[Series<Vec<Option<f64>>>]) -> String {
    let height = 470.0_f64.max(90.0 + 18.0 * series.len() as f64);
    let values = series.iter().flat_map(|(.., values)| values.iter().flatten().copied());
    let axis = Axis::over(values, height - 50.0, 70.0);
    let step = 540.0 / (places.len().max(2) - 1) as f64;
    let mut out = open(plot, height);
    for (at, label) in axis.ticks() {
        line(&mut out, (70.0, at), (630.0, at), "grid");
        text(&mut out, (62.0, at + 4.0), "end", "small", &label);
    }
    for (index, place) in places.iter().enumerate() {
        text(&mut out, (80.0 + step * index as f64, height - 28.0), "middle", "small", place);
    }
    for (row, (name, color, values)) in series.iter().enumerate() {
        let color = COLORS[color % COLORS.len()];
        let points: Vec<(f64, f64)> = (values.iter().enumerate())
            .filter_map(|(index, value)| Some((80.0 + step * index as f64, axis.place((*value)?))))
            .collect();
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            out,
            r#"<polyline points="{}" fill="none" stroke="{color}" stroke-width="2"/>"#,
            path.join(" ")
        );
        for (x, y) in points {
            let _ = writeln!(out, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{color}"/>"#);
        }
        let y = 80.0 + 18.0 * row as f64;
        let _ = writeln!(out, r#"<rect x="645" y="{:.1}" width="12" height="4" fill="{color}"/>"#, y - 6.0);
        text(&mut out, (663.0, y), "start", "label", name);
    }
    out + "</svg>\n"
}

/// A logarithmic axis between two places of the picture.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// Over all positive values, from a step of 1, 2 or 5 to another.
    fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = (values.filter(|value| *value > 0.0 && value.is_finite()))
            .fold((f64::MAX, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        if high == 0.0 {
            return Self { low: 1.0, high: 10.0, from, to };
        }
        let low = steps().take_while(|step| *step < low).last().unwrap_or(low);
        let high = steps().find(|step| *step >= high).unwrap_or(high);
        Self { low, high: high.max(low * 2.0), from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let part = (value.max(self.low) / self.low).ln() / (self.high / self.low).ln();
        self.from + part.min(1.0) * (self.to - self.from)
    }

    /// At most about ten: all steps, or the powers of ten.
    fn ticks(&self) -> Vec<(f64, String)> {
        let within = || steps().filter(|step| (self.low * 0.999..self.high * 1.001).contains(step));
        let every = if within().count() > 10 { 3 } else { 1 };
        let all: Vec<f64> = steps()
            .step_by(every)
            .filter(|step| (self.low * 0.999..self.high * 1.001).contains(step))
            .collect();
        all.into_iter().map(|step| (self.place(step), short(step))).collect()
    }
}

/// 1, 2 and 5 at every power of ten.
fn steps() -> impl Iterator<Item = f64> {
    (-6..12).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power)))
}

/// Three digits that matter, and a letter beyond a thousand.
pub fn short(value: f64) -> String {
    match value {
        value if !value.is_finite() => "-".into(),
        1e6.. => format!("{} M", digits(value / 1e6)),
        1e4.. => format!("{} k", digits(value / 1e3)),
        _ => digits(value),
    }
}

fn digits(value: f64) -> String {
    let places = (2 - value.abs().max(1e-6).log10().floor() as i32).clamp(0, 5) as usize;
    let text = format!("{value:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn open(plot: &Plot<'_>, height: f64) -> String {
    let mut out = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif">
<style>
text {{ fill: #1f2328 }} .title {{ font-size: 16px; font-weight: 600 }} .group {{ font-size: 13px; font-weight: 600 }}
.label {{ font-size: 12px }} .small {{ font-size: 11px; fill: #59636e }} .grid {{ stroke: #d1d9e0; stroke-width: 1 }}
.page {{ fill: #ffffff }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #f0f6fc }} .small {{ fill: #9198a1 }} .grid {{ stroke: #3d444d }} .page {{ fill: #0d1117 }}
}}
</style>
<rect class="page" width="{WIDTH}" height="{height}"/>
"#
    );
    text(&mut out, (20.0, 26.0), "start", "title", plot.title);
    text(&mut out, (20.0, 45.0), "start", "small", &format!("{}. {}", plot.unit, plot.note));
    out
}

fn line(out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
    let _ = writeln!(out, r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#);
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, class: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ =
        writeln!(out, r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_holds_all_values_and_grows_by_the_logarithm() {
        let axis = Axis::over([0.3, 40.0, f64::NAN].into_iter(), 0.0, 100.0);
        assert_eq!((axis.low, axis.high), (0.2, 50.0));
        assert_eq!((axis.place(0.2), axis.place(50.0)), (0.0, 100.0));
        assert!((axis.place(2.0) - axis.place(0.2) - (axis.place(20.0) - axis.place(2.0))).abs() < 1e-9);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0512, 1.0, 12.34, 999.4, 12_345.0, 2_500_000.0].map(short),
            ["0.0512", "1", "12.3", "999", "12.3 k", "2.5 M"]
        );
    }

    #[test]
    fn a_plot_escapes_its_text_and_leaves_out_what_is_absent() {
        let plot = Plot { title: "a < b & c", note: "", unit: "µs" };
        let svg = bars(&plot, &[("g".into(), vec![("one".into(), 0, 2.0), ("none".into(), 1, f64::NAN)])]);
        assert!(
            svg.contains("a &lt; b &amp; c") && svg.contains(">one<") && !svg.contains(">none<"),
            "{svg}"
        );
        let svg = lines(&plot, &["1".into(), "2".into()], &[("s".into(), 0, vec![Some(1.0), None])]);
        assert_eq!(svg.matches("<circle").count(), 1);
    }
}
