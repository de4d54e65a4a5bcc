//! Bots that talk in two rooms, and a gauge that tells the water level each second.
//!
//! The rooms keep a day; the gauge's log keeps 15 seconds, so that whoever is away for longer meets a gap.

use std::{convert::Infallible, time::Duration};

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use tidegate_client::{Client, Event, Message, PublishOptions};
use tokio::time::{Instant, sleep_until};

use super::{Failure, failed, is_heard, json};

/// What keeps a day.
pub(super) const ROOMS: &str = "chat.room.*";
/// What keeps seconds.
pub(super) const BRIEF: &str = "chat.brief.*";
const GAUGE: &str = "chat.brief.gauge";

/// What stands in each room at the start, for whoever scrolls back.
const HISTORY: usize = 120;
const GAUGE_INTERVAL: Duration = Duration::from_secs(1);
/// A bot takes so long to answer.
const ANSWER_DELAY: Duration = Duration::from_millis(1500);

/// What is said, on the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Line {
    from: String,
    text: String,
}

pub(super) async fn publish(client: Client, seed: u64) -> Result<Infallible, Failure> {
    let mut bots = Bots::new(seed);
    for _ in 0..HISTORY {
        for room in &ROOM {
            say(&client, room, bots.say(room)).await?;
        }
    }
    let mut people = client.subscribe(ROOMS).echo(false).await.map_err(failed(ROOMS))?;
    let started = Instant::now();
    let mut next_second = started;
    let mut answer: Option<Answer> = None;
    loop {
        tokio::select! {
            event = people.recv() => match event {
                Some(Event::Message(message)) => {
                    // One answer at a time: who says more meanwhile is heard, not answered.
                    answer = answer.or_else(|| bots.answer(&message, Instant::now()));
                }
                // What was said while the bots were away is answered by nobody.
                Some(_) => {}
                None => return Err(Failure::Failed(format!("{ROOMS}: the subscription ended"))),
            },
            () = sleep_until(answer.as_ref().map_or(next_second, |answer| answer.due)), if answer.is_some() => {
                if let Some(Answer { room, line, .. }) = answer.take() {
                    say(&client, room, line).await?;
                }
            }
            () = sleep_until(next_second) => {
                let options = PublishOptions::new().report(true);
                let level = json(&level(started.elapsed()))?;
                let ack = client.publish_with(GAUGE, level, options).await.map_err(failed(GAUGE))?;
                let second = (next_second - started).as_secs();
                // Nobody talks in an empty house.
                for room in ROOM.iter().filter(|room| is_heard(&ack) && second.is_multiple_of(room.pause)) {
                    say(&client, room, bots.say(room)).await?;
                }
                // A second that was missed is not made up for.
                next_second = started + GAUGE_INTERVAL * (started.elapsed().as_secs() as u32 + 1);
            }
        }
    }
}

async fn say(client: &Client, room: &Room, line: Line) -> Result<(), Failure> {
    client.publish(room.topic, json(&line)?).await.map(drop).map_err(failed(room.topic))
}

/// The gauge's line: a tide of two minutes.
fn level(passed: Duration) -> Line {
    let phase = passed.as_secs_f64() / 120.0 * std::f64::consts::TAU;
    let text =
        format!("{:.2} m, {}", 2.4 + 1.1 * phase.sin(), if phase.cos() > 0.0 { "rising" } else { "falling" });
    Line { from: "Gauge".into(), text }
}

/// A room and who is always there.
struct Room {
    topic: &'static str,
    /// Seconds between two things that bots say.
    pause: u64,
    bots: [&'static str; 3],
    lines: &'static [&'static str],
}

const ROOM: [Room; 2] = [
    Room {
        topic: "chat.room.harbour",
        pause: 4,
        bots: ["Ada", "Bruno", "Chidi"],
        lines: &[
            "High water in twenty minutes.",
            "The gate is closed. Nothing comes back in.",
            "Two barges wait at the lock.",
            "Who has the night watch?",
            "I do, until six.",
            "Wind has turned to the west.",
            "The pilot boat is back.",
            "Berth four is free again.",
            "Copy that.",
            "The ferry is late, as ever.",
            "Fog over the outer buoys.",
            "Somebody left a rope on the quay.",
            "Mine, sorry. I will fetch it.",
            "The crane is down for an hour.",
            "Then they unload by hand, as my father did.",
            "Radio check, please.",
            "Loud and clear.",
            "Spring tide on Thursday, mind the cellars.",
            "All boats are in.",
            "Coffee is on.",
        ],
    },
    Room {
        topic: "chat.room.kitchen",
        pause: 7,
        bots: ["Dilara", "Emil", "Farah"],
        lines: &[
            "Soup of the day is leek.",
            "Again?",
            "The market had leeks.",
            "We need more lemons.",
            "Table seven asks for the fish.",
            "The fish swims until tomorrow.",
            "Who took the good knife?",
            "It is in the other drawer.",
            "Bread is out of the oven.",
            "Ten minutes for the pie.",
            "A party of twelve at eight.",
            "Without warning?",
            "They sent a message. It came through.",
            "Salt, please.",
            "The cat is in the pantry.",
            "Leave her, she works here.",
            "Everything is mopped.",
            "Good night, all.",
        ],
    },
];

const ANSWERS: [&str; 5] =
    ["Welcome aboard, {}.", "Well said, {}.", "Noted, {}.", "Aye, {}.", "{}, you are early. Have a coffee."];
/// A name longer than this is no name to be called by, in characters.
const NAME_CHARS: usize = 24;

/// What a bot is about to say to somebody.
struct Answer {
    due: Instant,
    room: &'static Room,
    line: Line,
}

/// What the bots say. The same seed makes the same talk.
struct Bots {
    rng: Rng,
    /// For each room, how far its lines have come: they belong together.
    next: [usize; 2],
}

impl Bots {
    fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), next: [0; 2] }
    }

    fn say(&mut self, room: &Room) -> Line {
        let next = &mut self.next[usize::from(room.topic != ROOM[0].topic)];
        let text = room.lines[*next % room.lines.len()];
        // Nobody talks to himself: the next line is the next bot's or the one's after.
        let from = room.bots[(*next + usize::from(self.rng.u8(..4) == 0)) % room.bots.len()];
        *next += 1;
        Line { from: from.into(), text: text.into() }
    }

    /// What to answer somebody, and when, where that is a person in a room.
    fn answer(&mut self, message: &Message, now: Instant) -> Option<Answer> {
        let room = ROOM.iter().find(|room| room.topic == message.topic.as_str())?;
        let said: Line = serde_json::from_slice(message.payload.data()).ok()?;
        let name = said.from.trim();
        if name.is_empty() || name.chars().count() > NAME_CHARS {
            return None;
        }
        let text = self.rng.choice(ANSWERS)?.replace("{}", name);
        let from = *self.rng.choice(&room.bots)?;
        Some(Answer { due: now + ANSWER_DELAY, room, line: Line { from: from.into(), text } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_talk() {
        let run = |seed| {
            let mut bots = Bots::new(seed);
            (0..100).map(|n| bots.say(&ROOM[n % 2])).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!(run(1).iter().enumerate().all(|(n, line)| ROOM[n % 2].bots.contains(&&*line.from)));
    }

    #[test]
    fn the_tide_rises_and_falls() {
        let at = |seconds| level(Duration::from_secs(seconds)).text;
        assert_eq!([at(0), at(30), at(90)], ["2.40 m, rising", "3.50 m, rising", "1.30 m, falling"]);
    }
}
