//! What is measured: the same for every server.

use std::{fmt, str::FromStr};

/// A scenario. Written as `kind[@subscribers][:payload]`, with the kinds as at [`Kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scenario {
    /// What happens.
    pub kind: Kind,
    /// Subscribers of a fan-out.
    pub subscribers: usize,
    /// Bytes of a payload.
    pub payload: usize,
}

/// What happens in a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `window/burst[+stalled]`: one publisher to all, so many out, so many written at a time; beside so many that
    /// never read.
    FanOut {
        /// Messages.
        window: usize,
        /// Messages.
        burst: usize,
        /// Subscribers that never read.
        stalled: usize,
    },
    /// `rate/deliveries`: one publisher to all at so many deliveries a second.
    Rate(usize),
    /// `slow/stalled`: 20,000 deliveries a second to the healthy, beside so many that never read and had 256 KiB
    /// before.
    Slow(usize),
    /// `pairs[/in flight]`: 1,000 publishers and subscribers one to one.
    Pairs(usize),
    /// `many/publishers`: so many to one subscriber, each with one message out.
    Many(usize),
    /// `topics/topics`: one publisher to so many topics, shared by all subscribers.
    Topics(usize),
    /// `wildcards/filters`: the same, by filters with a wildcard.
    Wildcards(usize),
    /// `idle/connections`.
    Idle(usize),
    /// `storm/connections`: cut at once and back.
    Storm(usize),
    /// `resume/connections`: cut at once, and back for the 100 messages they missed.
    Resume(usize),
}

/// Bytes of payload to each subscriber before a slow-consumer scenario is measured: more than a socket with a
/// segment size of the open net holds of what is not read.
const FLOOD_BYTES: usize = 256 * 1024;
/// How many times longer a fixed rate is measured than the rest: a 99th percentile takes many messages.
const RATE_LENGTH: f64 = 3.0;
/// Messages missed before a resume.
const MISSED: usize = 100;

impl Scenario {
    /// The arguments of `load`.
    pub fn arguments(self, seconds: f64, warm_up: f64) -> Vec<String> {
        let Self { kind, subscribers, payload } = self;
        let length = format!("--seconds {seconds} --warm-up {warm_up}");
        let text = match kind {
            Kind::FanOut { window, burst, stalled } => format!(
                "fan-out --subscribers {subscribers} --window {window} --burst {burst} --stalled {stalled} {length}"
            ),
            Kind::Rate(rate) => format!(
                "fan-out --subscribers {subscribers} --rate {rate} --seconds {} --warm-up {warm_up}",
                RATE_LENGTH * seconds
            ),
            Kind::Slow(stalled) => format!(
                "fan-out --subscribers {subscribers} --stalled {stalled} --rate 20000 --flood {FLOOD_BYTES} {length}"
            ),
            Kind::Pairs(window) => format!("pairs --window {window} --burst {window} {length}"),
            Kind::Many(publishers) => format!("fan-out --subscribers 1 --publishers {publishers} {length}"),
            Kind::Topics(topics) => {
                format!(
                    "topics --topics {topics} --subscribers {subscribers} --window 32 --burst 16 {length}"
                )
            }
            Kind::Wildcards(topics) => format!(
                "topics --topics {topics} --subscribers {subscribers} --wildcards --window 32 --burst 16 {length}"
            ),
            Kind::Idle(connections) => format!("idle --connections {connections} --seconds {seconds}"),
            Kind::Storm(connections) => format!("comeback --connections {connections}"),
            Kind::Resume(connections) => format!("comeback --connections {connections} --missed {MISSED}"),
        };
        text.split_whitespace().map(str::to_owned).chain(["--payload".into(), payload.to_string()]).collect()
    }

    /// The same with fewer of everybody, for trying things out.
    pub fn shrunk(self, by: usize) -> Self {
        let by = by.max(1);
        let less = |count: usize| (count / by).max(1);
        let subscribers = less(self.subscribers);
        // As many for each subscriber.
        let topics = |count: usize| less(count).div_ceil(subscribers) * subscribers;
        let kind = match self.kind {
            Kind::FanOut { window, burst, stalled } => {
                Kind::FanOut { window, burst, stalled: stalled.div_ceil(by) }
            }
            Kind::Slow(stalled) => Kind::Slow(stalled.div_ceil(by)),
            Kind::Many(count) => Kind::Many(less(count)),
            Kind::Topics(count) => Kind::Topics(topics(count)),
            Kind::Wildcards(count) => Kind::Wildcards(topics(count)),
            Kind::Idle(count) => Kind::Idle(less(count)),
            Kind::Storm(count) => Kind::Storm(less(count)),
            Kind::Resume(count) => Kind::Resume(less(count)),
            kind @ (Kind::Rate(_) | Kind::Pairs(_)) => kind,
        };
        Self { kind, subscribers, ..self }
    }

    /// What is measured, for people.
    pub fn title(self) -> String {
        let subscribers = thousands(self.subscribers);
        let payload = match self.payload {
            bytes if bytes.is_multiple_of(1024) => format!("{} KiB", bytes / 1024),
            bytes => format!("{bytes} B"),
        };
        match self.kind {
            Kind::FanOut { window, burst, stalled: 0 } => {
                format!("fan-out to {subscribers}, {window}/{burst}, {payload}")
            }
            Kind::FanOut { window, burst, stalled } => {
                format!(
                    "fan-out to {subscribers}, {window}/{burst}, {payload}, beside {stalled} that never read"
                )
            }
            Kind::Rate(rate) => {
                format!("fan-out to {subscribers}, {payload}, {} deliveries a second", thousands(rate))
            }
            Kind::Slow(0) => format!("{subscribers} healthy, 20,000 deliveries a second, {payload}"),
            Kind::Slow(stalled) => {
                format!("{subscribers} healthy and {stalled} stalled, 20,000 deliveries a second, {payload}")
            }
            Kind::Pairs(window) => format!("1,000 pairs, {window} in flight, {payload}"),
            Kind::Many(publishers) => format!("{} publishers to one, {payload}", thousands(publishers)),
            Kind::Topics(topics) => {
                format!("{} topics of {subscribers} subscribers, 32/16, {payload}", thousands(topics))
            }
            Kind::Wildcards(topics) => {
                format!(
                    "{} wildcard filters of {subscribers} subscribers, 32/16, {payload}",
                    thousands(topics)
                )
            }
            Kind::Idle(connections) => format!("{} idle subscribers", thousands(connections)),
            Kind::Storm(connections) => format!("{} cut at once come back", thousands(connections)),
            Kind::Resume(connections) => {
                format!("{} cut at once come back for {MISSED} messages, {payload}", thousands(connections))
            }
        }
    }
}

/// With commas.
pub fn thousands(number: usize) -> String {
    if number < 1000 {
        number.to_string()
    } else {
        format!("{},{:03}", thousands(number / 1000), number % 1000)
    }
}

/// Why a text is no scenario.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a scenario is window/burst[+stalled], rate/…, slow/…, pairs[/…], many/…, topics/…, wildcards/…, idle/…, storm/… or resume/…, then [@subscribers][:payload]"
)]
pub struct NoScenario;

impl FromStr for Scenario {
    type Err = NoScenario;

    fn from_str(text: &str) -> Result<Self, NoScenario> {
        let number = |text: &str| text.parse::<usize>().map_err(|_| NoScenario);
        let (text, payload) =
            text.split_once(':').map_or((text, None), |(text, payload)| (text, Some(payload)));
        let (text, subscribers) =
            text.split_once('@').map_or((text, None), |(text, count)| (text, Some(count)));
        let (kind, rest) = text.split_once('/').unwrap_or((text, "1"));
        let kind = match kind {
            "rate" => Kind::Rate(number(rest)?),
            "slow" => Kind::Slow(number(rest)?),
            "pairs" => Kind::Pairs(number(rest)?),
            "many" => Kind::Many(number(rest)?),
            "topics" => Kind::Topics(number(rest)?),
            "wildcards" => Kind::Wildcards(number(rest)?),
            "idle" => Kind::Idle(number(rest)?),
            "storm" => Kind::Storm(number(rest)?),
            "resume" => Kind::Resume(number(rest)?),
            window => {
                let (burst, stalled) = rest.split_once('+').unwrap_or((rest, "0"));
                Kind::FanOut { window: number(window)?, burst: number(burst)?, stalled: number(stalled)? }
            }
        };
        let usual_payload = if matches!(kind, Kind::Slow(_)) { 1024 } else { 128 };
        Ok(Self {
            kind,
            subscribers: subscribers.map_or(Ok(1000), number)?,
            payload: payload.map_or(Ok(usual_payload), number)?,
        })
    }
}

/// As it is parsed, in full.
impl fmt::Display for Scenario {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::FanOut { window, burst, stalled: 0 } => write!(out, "{window}/{burst}"),
            Kind::FanOut { window, burst, stalled } => write!(out, "{window}/{burst}+{stalled}"),
            Kind::Rate(n) => write!(out, "rate/{n}"),
            Kind::Slow(n) => write!(out, "slow/{n}"),
            Kind::Pairs(n) => write!(out, "pairs/{n}"),
            Kind::Many(n) => write!(out, "many/{n}"),
            Kind::Topics(n) => write!(out, "topics/{n}"),
            Kind::Wildcards(n) => write!(out, "wildcards/{n}"),
            Kind::Idle(n) => write!(out, "idle/{n}"),
            Kind::Storm(n) => write!(out, "storm/{n}"),
            Kind::Resume(n) => write!(out, "resume/{n}"),
        }?;
        write!(out, "@{}:{}", self.subscribers, self.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_read_as_documented_and_read_back_as_they_are_written() {
        let usual = |kind| Ok(Scenario { kind, subscribers: 1000, payload: 128 });
        assert_eq!("32/16".parse(), usual(Kind::FanOut { window: 32, burst: 16, stalled: 0 }));
        assert_eq!("32/16+50".parse(), usual(Kind::FanOut { window: 32, burst: 16, stalled: 50 }));
        assert_eq!("pairs".parse(), usual(Kind::Pairs(1)));
        let large = Scenario { kind: Kind::Rate(60_000), subscribers: 5000, payload: 1024 };
        assert_eq!("rate/60000@5000:1024".parse(), Ok(large));
        for text in
            ["1/1", "32/16+50@10:16", "slow/50", "many/9", "topics/6@2", "wildcards/6", "idle/1", "storm/1"]
        {
            let scenario: Scenario = text.parse().unwrap();
            assert_eq!(scenario.to_string().parse(), Ok(scenario));
        }
        assert_eq!("idle/x".parse::<Scenario>(), Err(NoScenario));
    }
}
