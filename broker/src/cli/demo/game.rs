//! A lagoon with buoys, and bots that sail for them.
//!
//! Every boat says where it is 30 times a second, in bincode, live only, under its own key: who falls behind gets the
//! newest of each boat. Buoys and scores change seldom and are kept: who comes gets the last of them first.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    f32::consts::{PI, TAU},
    time::{Duration, Instant},
};

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use tidegate_client::{Client, Encoding, Event, Message, PublishOptions};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{Failure, REST, failed, is_heard, json};

const BOATS: &str = "game.boats";
/// What the stream keeps.
pub(super) const WORLD: &str = "game.world.*";
const BUOYS: &str = "game.world.buoys";
const SCORES: &str = "game.world.scores";
/// Where boats say that they have reached a buoy.
const CATCHES: &str = "game.catches";

/// Of each boat, a second; the pages keep to it too.
const UPDATES: u32 = 30;

pub(super) async fn publish(client: Client, seed: u64) -> Result<Infallible, Failure> {
    let mut world = World::new(seed);
    let boats = client.topic::<Boat>(BOATS, Encoding::Bincode);
    let mut catches = client.subscribe(CATCHES).await.map_err(failed(CATCHES))?;
    client.publish(BUOYS, json(&world.buoys)?).await.map_err(failed(BUOYS))?;
    client.publish(SCORES, json(&world.best())?).await.map_err(failed(SCORES))?;
    let mut tick = interval(Duration::from_secs(1) / UPDATES);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = Instant::now();
    loop {
        tick.tick().await;
        let now = Instant::now();
        let mut is_changed = world.step(now - before);
        before = now;
        while let Some(event) = catches.try_recv() {
            // Who was not heard is still beside the buoy, and says so again.
            if let Event::Message(message) = event {
                is_changed |= Catch::read(&message).is_some_and(|catch| world.catch(&catch));
            }
        }
        if is_changed {
            client.publish(BUOYS, json(&world.buoys)?).await.map_err(failed(BUOYS))?;
            client.publish(SCORES, json(&world.best())?).await.map_err(failed(SCORES))?;
        }
        let mut is_watched = false;
        for bot in &world.bots {
            let options = PublishOptions::new().key(bot.key).report(true).without_idempotency();
            is_watched |= is_heard(&boats.publish_with(&bot.boat, options).await.map_err(failed(BOATS))?);
        }
        if !is_watched {
            sleep(REST).await;
        }
    }
}

/// A boat as it is on the wire: bincode, which a page reads with a `DataView`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Boat {
    name: String,
    /// Of its sail, in steps of 360/256 degrees.
    hue: u8,
    x: f32,
    y: f32,
    /// In radians, clockwise from the east.
    heading: f32,
    /// Units a second.
    speed: f32,
}

/// Somebody says that his boat has reached a buoy.
#[derive(Debug, Deserialize)]
struct Catch {
    /// The boat's key.
    boat: String,
    name: String,
    buoy: usize,
    /// Which of the buoy's places it has reached: who comes second has reached one that is no more.
    round: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Buoy {
    x: f32,
    y: f32,
    round: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Score {
    boat: String,
    name: String,
    buoys: u32,
}

struct Bot {
    key: &'static str,
    boat: Boat,
    /// The buoy it sails for, and the place it had.
    target: (usize, u32),
}

/// Everything that is not a person's boat. The same seed makes the same world.
struct World {
    rng: Rng,
    bots: Vec<Bot>,
    buoys: Vec<Buoy>,
    scores: BTreeMap<String, Score>,
}

/// In units; the pages scale it to their canvas.
const WIDTH: f32 = 1200.0;
const HEIGHT: f32 = 700.0;
const REACH: f32 = 34.0;
const BOT_SPEED: f32 = 95.0;
/// Radians a second.
const BOT_TURN: f32 = 1.8;
/// A step no longer than this, or a world that rested would leap.
const LONGEST_STEP: Duration = Duration::from_millis(100);
const BOTS: [(&str, &str, u8); 5] = [
    ("bot-1", "Heron", 8),
    ("bot-2", "Otter", 60),
    ("bot-3", "Tern", 110),
    ("bot-4", "Seal", 170),
    ("bot-5", "Crab", 225),
];
const BUOY_COUNT: usize = 6;
/// Boats whose scores are kept; beyond it the lowest goes.
const SCORES_KEPT: usize = 64;
const SCORES_SHOWN: usize = 8;
/// Of a boat's key and name, in bytes.
const NAME_BYTES: usize = 48;

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let buoys = (0..BUOY_COUNT).map(|_| Buoy::anywhere(&mut rng, 1)).collect();
        let bots = BOTS.map(|(key, name, hue)| Bot {
            key,
            boat: Boat {
                name: name.into(),
                hue,
                x: WIDTH * rng.f32(),
                y: HEIGHT * rng.f32(),
                heading: TAU * rng.f32(),
                speed: BOT_SPEED,
            },
            target: (rng.usize(..BUOY_COUNT), 1),
        });
        Self { rng, bots: bots.into(), buoys, scores: BTreeMap::new() }
    }

    /// Moves the bots. Whether one has reached a buoy.
    fn step(&mut self, passed: Duration) -> bool {
        let seconds = passed.min(LONGEST_STEP).as_secs_f32();
        let mut reached = Vec::new();
        for bot in &mut self.bots {
            let (mut target, round) = bot.target;
            if self.buoys[target].round != round {
                target = self.rng.usize(..BUOY_COUNT);
                bot.target = (target, self.buoys[target].round);
            }
            let buoy = &self.buoys[target];
            bot.boat.sail_towards(buoy, seconds);
            if bot.boat.distance(buoy) < REACH {
                reached.push(Catch {
                    boat: bot.key.into(),
                    name: bot.boat.name.clone(),
                    buoy: target,
                    round: buoy.round,
                });
            }
        }
        reached.into_iter().filter(|catch| self.catch(catch)).count() > 0
    }

    /// Whether the buoy was still there: then it scores, and the buoy goes elsewhere.
    fn catch(&mut self, catch: &Catch) -> bool {
        let Some(buoy) = self.buoys.get_mut(catch.buoy).filter(|buoy| buoy.round == catch.round) else {
            return false;
        };
        *buoy = Buoy::anywhere(&mut self.rng, buoy.round + 1);
        let Catch { boat, name, .. } = catch;
        let score = self.scores.entry(boat.clone()).or_insert_with(|| Score {
            boat: boat.clone(),
            name: String::new(),
            buoys: 0,
        });
        score.buoys += 1;
        score.name.clone_from(name);
        if self.scores.len() > SCORES_KEPT
            && let Some(lowest) = self.scores.values().min_by_key(|score| score.buoys)
        {
            let lowest = lowest.boat.clone();
            self.scores.remove(&lowest);
        }
        true
    }

    /// The best first.
    fn best(&self) -> Vec<Score> {
        let mut scores: Vec<_> = self.scores.values().cloned().collect();
        scores.sort_by_key(|score| std::cmp::Reverse(score.buoys));
        scores.truncate(SCORES_SHOWN);
        scores
    }
}

impl Buoy {
    fn anywhere(rng: &mut Rng, round: u32) -> Self {
        const MARGIN: f32 = 60.0;
        let (x, y) = ((WIDTH - 2.0 * MARGIN) * rng.f32(), (HEIGHT - 2.0 * MARGIN) * rng.f32());
        Self { x: (MARGIN + x).round(), y: (MARGIN + y).round(), round }
    }
}

impl Boat {
    /// Turns no faster than a boat does. One that would circle its buoy for ever slows down.
    fn sail_towards(&mut self, buoy: &Buoy, seconds: f32) {
        let wanted = (buoy.y - self.y).atan2(buoy.x - self.x);
        let off = (wanted - self.heading + PI).rem_euclid(TAU) - PI;
        self.heading = (self.heading + off.clamp(-BOT_TURN * seconds, BOT_TURN * seconds)).rem_euclid(TAU);
        self.speed = BOT_SPEED * if off.abs() > 1.0 { 0.5 } else { 1.0 };
        self.x = (self.x + self.heading.cos() * self.speed * seconds).clamp(0.0, WIDTH);
        self.y = (self.y + self.heading.sin() * self.speed * seconds).clamp(0.0, HEIGHT);
    }

    fn distance(&self, buoy: &Buoy) -> f32 {
        (self.x - buoy.x).hypot(self.y - buoy.y)
    }
}

impl Catch {
    /// What a page sent, where it is one and no longer than it may be.
    fn read(message: &Message) -> Option<Self> {
        let catch: Self = serde_json::from_slice(message.payload.data()).ok()?;
        (catch.boat.len() <= NAME_BYTES && catch.name.len() <= NAME_BYTES).then_some(catch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(33);

    #[test]
    fn the_same_seed_makes_the_same_world() {
        let run = |seed| {
            let mut world = World::new(seed);
            (0..3000).for_each(|_| _ = world.step(TICK));
            (world.buoys.clone(), world.best())
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn bots_stay_in_the_lagoon_and_every_one_reaches_buoys() {
        let mut world = World::new(4);
        for _ in 0..30 * 120 {
            world.step(TICK);
            for Bot { boat, .. } in &world.bots {
                assert!((0.0..=WIDTH).contains(&boat.x) && (0.0..=HEIGHT).contains(&boat.y), "{boat:?}");
            }
        }
        assert_eq!(world.scores.len(), BOTS.len(), "{:?}", world.scores);
    }

    fn catch(boat: &str, buoy: usize, round: u32) -> Catch {
        Catch { boat: boat.into(), name: boat.to_uppercase(), buoy, round }
    }

    #[test]
    fn a_buoy_is_caught_once_by_who_says_so_first() {
        let mut world = World::new(1);
        let before = world.buoys[2].clone();
        assert!(world.catch(&catch("a", 2, 1)));
        assert!(!world.catch(&catch("b", 2, 1)), "it is no longer there");
        assert!(!world.catch(&catch("b", 99, 1)), "there is no such buoy");
        assert_eq!(world.buoys[2].round, 2);
        assert_ne!((world.buoys[2].x, world.buoys[2].y), (before.x, before.y));
        assert_eq!(world.best(), [Score { boat: "a".into(), name: "A".into(), buoys: 1 }]);
    }

    #[test]
    fn scores_are_bounded_and_the_best_stay() {
        let mut world = World::new(1);
        for round in 1..=5 {
            assert!(world.catch(&catch("best", 0, round)));
        }
        for round in 1..=200 {
            assert!(world.catch(&catch(&format!("boat-{round}"), 1, round)));
        }
        assert_eq!(world.scores.len(), SCORES_KEPT);
        assert_eq!(world.best()[0].boat, "best");
        assert_eq!(world.best().len(), SCORES_SHOWN);
    }
}
