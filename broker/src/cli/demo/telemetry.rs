//! 200 devices in eight cities, each with a temperature, a humidity and a battery; and one that floods.
//!
//! One device in each city fell silent after its first report. The flood pushes those reports out of the stream's log
//! within seconds; what each topic said last is retained beside the log, under a bound of its own.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use fastrand::Rng;
use serde::Serialize;
use tidegate_client::{Client, PublishErrorKind, PublishOptions, Topic};
use tokio::time::sleep;

use super::{Failure, REST, failed, json, pace::Pace, report};

/// What the stream keeps: `fleet.CITY.DEVICE.METRIC`.
pub(super) const FLEET: &str = "fleet.>";
/// How far the publisher has come; who is subscribed to this has the page open.
const PROGRESS: &str = "demo.telemetry";

/// Reports a second of all devices but the flood: each metric of each device about every three seconds.
const RATE: u32 = 200;
/// The same with nobody watching.
const RESTING_RATE: u32 = 20;
/// What the one device floods with while somebody watches, in reports a second.
const FLOOD_RATE: u32 = 1000;
const TICK: Duration = Duration::from_millis(20);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Serialize)]
struct Progress {
    /// Reports since the start, the flood's too.
    published: u64,
    /// The flood's reports since the start.
    flooded: u64,
    devices: usize,
}

pub(super) async fn publish(client: Client, seed: u64) -> Result<Infallible, Failure> {
    let mut fleet = Fleet::new(seed).map_err(failed(FLEET))?;
    let (mut published, mut flooded) = (0, 0);
    for reading in fleet.first_readings() {
        client.publish(reading.topic.clone(), json(&reading.value)?).await.map_err(failed(FLEET))?;
        published += 1;
    }
    let now = Instant::now();
    let (mut pace, mut resting, mut flood) =
        (Pace::new(RATE, now), Pace::new(RESTING_RATE, now), Pace::new(FLOOD_RATE, now));
    let (mut is_watched, mut next_progress) = (false, now);
    loop {
        let now = Instant::now();
        if now >= next_progress {
            let progress = Progress { published: published + flooded, flooded, devices: DEVICES };
            is_watched = report(&client, PROGRESS, &progress).await?;
            next_progress = now + PROGRESS_INTERVAL;
        }
        for _ in 0..if is_watched { pace.due(now) } else { resting.due(now) } {
            published += u64::from(send(&client, &fleet.next())?);
        }
        if !is_watched {
            sleep(REST).await;
            continue;
        }
        for _ in 0..flood.due(now) {
            flooded += u64::from(send(&client, &fleet.next_flood())?);
        }
        sleep(TICK).await;
    }
}

/// Whether there was room; a device that is told there is none drops its reading, and has another soon.
fn send(client: &Client, reading: &Reading) -> Result<bool, Failure> {
    let options = PublishOptions::new().without_idempotency();
    match client.try_publish_with(reading.topic.clone(), json(&reading.value)?, options) {
        Ok(ack) => {
            drop(ack);
            Ok(true)
        }
        Err(error) if error.kind() == PublishErrorKind::Full => Ok(false),
        Err(error) => Err(failed(reading.topic.as_str())(error)),
    }
}

const CITIES: [&str; 8] = ["berlin", "hamburg", "lisbon", "nairobi", "osaka", "oslo", "perth", "quito"];
const DEVICES: usize = 200;
const DEVICES_OF_A_CITY: usize = DEVICES / CITIES.len();
/// Of each city's devices, the one that reports once and never again.
const SILENT: usize = 7;
/// Where the flood comes from.
const FLOODING: (usize, usize) = (0, 13);

/// What the devices measure. The same seed makes the same readings.
struct Fleet {
    rng: Rng,
    sensors: Vec<Sensor>,
    next: usize,
    flooding: Sensor,
}

#[derive(Debug)]
struct Sensor {
    topic: Topic,
    is_silent: bool,
    metric: Metric,
    value: f64,
}

#[derive(Debug, Clone, Copy)]
enum Metric {
    /// Degrees Celsius.
    Temperature,
    /// Percent.
    Humidity,
    /// Percent, slowly falling.
    Battery,
    /// Millimetres a second.
    Vibration,
}

#[derive(Debug, PartialEq)]
struct Reading {
    topic: Topic,
    value: f64,
}

impl Fleet {
    fn new(seed: u64) -> Result<Self, tidegate_client::TopicError> {
        let mut rng = Rng::with_seed(seed);
        let mut sensors = Vec::new();
        for (city, device) in (0..DEVICES).map(|n| (n / DEVICES_OF_A_CITY, n % DEVICES_OF_A_CITY)) {
            for metric in [Metric::Temperature, Metric::Humidity, Metric::Battery] {
                sensors.push(Sensor {
                    topic: topic(city, device, metric)?,
                    is_silent: device == SILENT,
                    metric,
                    value: metric.first(&mut rng),
                });
            }
        }
        // Else a city would report as one.
        rng.shuffle(&mut sensors);
        let (city, device) = FLOODING;
        let metric = Metric::Vibration;
        let flooding = Sensor { topic: topic(city, device, metric)?, is_silent: false, metric, value: 2.0 };
        Ok(Self { rng, sensors, next: 0, flooding })
    }

    /// Everything that is measured, once.
    fn first_readings(&self) -> impl Iterator<Item = Reading> {
        self.sensors.iter().map(Sensor::reading)
    }

    /// The next reading of a device that is not silent: they take turns.
    fn next(&mut self) -> Reading {
        loop {
            let sensor = &mut self.sensors[self.next];
            self.next = (self.next + 1) % (3 * DEVICES);
            if !sensor.is_silent {
                return sensor.measure(&mut self.rng);
            }
        }
    }

    fn next_flood(&mut self) -> Reading {
        self.flooding.measure(&mut self.rng)
    }
}

impl Sensor {
    fn measure(&mut self, rng: &mut Rng) -> Reading {
        self.value = self.metric.next(self.value, rng);
        self.reading()
    }

    fn reading(&self) -> Reading {
        Reading { topic: self.topic.clone(), value: (self.value * 10.0).round() / 10.0 }
    }
}

impl Metric {
    fn name(self) -> &'static str {
        match self {
            Self::Temperature => "temperature",
            Self::Humidity => "humidity",
            Self::Battery => "battery",
            Self::Vibration => "vibration",
        }
    }

    fn first(self, rng: &mut Rng) -> f64 {
        let (from, to) = self.range();
        from + (to - from) * rng.f64()
    }

    fn next(self, value: f64, rng: &mut Rng) -> f64 {
        let (from, to) = self.range();
        let next = match self {
            // A battery that is empty has been changed.
            Self::Battery if value <= from => to,
            Self::Battery => value - 0.2 * rng.f64(),
            _ => value + (to - from) * 0.08 * (rng.f64() - 0.5),
        };
        next.clamp(from, to)
    }

    fn range(self) -> (f64, f64) {
        match self {
            Self::Temperature => (-5.0, 38.0),
            Self::Humidity => (20.0, 95.0),
            Self::Battery => (5.0, 100.0),
            Self::Vibration => (0.0, 12.0),
        }
    }
}

fn topic(city: usize, device: usize, metric: Metric) -> Result<Topic, tidegate_client::TopicError> {
    Topic::parse(&format!("fleet.{}.d{:02}.{}", CITIES[city], device, metric.name()))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn two_hundred_devices_say_everything_once() {
        let fleet = Fleet::new(1).unwrap();
        let topics: BTreeSet<_> = fleet.first_readings().map(|reading| reading.topic.to_string()).collect();
        assert_eq!(topics.len(), 600);
        let devices: BTreeSet<_> = topics.iter().map(|topic| topic.rsplit_once('.').unwrap().0).collect();
        assert_eq!(devices.len(), 200);
    }

    #[test]
    fn one_device_of_each_city_stays_silent_and_the_others_take_turns() {
        let mut fleet = Fleet::new(1).unwrap();
        let mut said = BTreeMap::new();
        for _ in 0..1200 {
            *said.entry(fleet.next().topic.to_string()).or_insert(0) += 1;
        }
        assert_eq!(said.len(), 600 - 3 * CITIES.len());
        assert!(said.values().all(|n| (2..=3).contains(n)), "{said:?}");
        assert!(!said.keys().any(|topic| topic.contains(".d07.")));
    }

    #[test]
    fn readings_stay_in_their_range_and_the_same_seed_makes_the_same() {
        let run = |seed| {
            let mut fleet = Fleet::new(seed).unwrap();
            (0..20_000)
                .map(|n| if n % 2 == 0 { fleet.next() } else { fleet.next_flood() })
                .collect::<Vec<_>>()
        };
        let readings = run(5);
        assert!(readings.iter().all(|reading| (-5.0..=100.0).contains(&reading.value)));
        assert_eq!(readings, run(5));
        assert_ne!(readings, run(6));
    }
}
