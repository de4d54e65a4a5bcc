//! What every subscriber got, and whether it is what was published: all of it, once, in order.

use crate::{
    adapter::Fault,
    payload::{Shape, Stamp},
};

/// Who subscribes to which flows. A flow is what one publisher publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// Every subscriber gets every flow.
    FanOut {
        /// How many subscribe.
        subscribers: usize,
        /// How many publish.
        publishers: usize,
    },
    /// Subscriber `i` gets flow `i`.
    Pairs(usize),
    /// One flow, whose messages go round over all topics; each topic has one subscriber, each subscriber as many
    /// topics as the others.
    Topics {
        /// How many topics: a multiple of `subscribers`.
        topics: usize,
        /// How many subscribe.
        subscribers: usize,
    },
}

impl Topology {
    /// How many subscribe.
    pub fn subscribers(self) -> usize {
        match self {
            Self::FanOut { subscribers, .. } => subscribers,
            Self::Pairs(pairs) => pairs,
            Self::Topics { subscribers, .. } => subscribers,
        }
    }

    /// How many publish.
    pub fn flows(self) -> usize {
        match self {
            Self::FanOut { publishers, .. } => publishers,
            Self::Pairs(pairs) => pairs,
            Self::Topics { .. } => 1,
        }
    }

    /// How messages go round, where they do.
    pub fn round(self) -> Option<Round> {
        let Self::Topics { topics, subscribers } = self else { return None };
        let (topics, subscribers) = (topics as u64, subscribers as u64);
        let near = topics / 3 / subscribers * subscribers + 1;
        // One that has no factor with the topics in common, or some would be left out.
        let leap = (0..).map(|k| near + k * subscribers).find(|&leap| coprime(leap, topics)).unwrap_or(1);
        Some(Round { topics, leap })
    }

    /// Subscribers of each message.
    fn readers(self) -> u32 {
        match self {
            Self::FanOut { subscribers, .. } => subscribers as u32,
            Self::Pairs(_) | Self::Topics { .. } => 1,
        }
    }

    /// By how much the sequence of a flow's messages to one subscriber grows.
    fn step(self) -> u64 {
        match self {
            Self::FanOut { .. } | Self::Pairs(_) => 1,
            Self::Topics { subscribers, .. } => subscribers as u64,
        }
    }
}

/// The order in which a flow's messages go to topics: from one to the next it leaps over a third of them, so that no
/// cache helps. Message `n` belongs to subscriber `n` modulo the subscribers.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    topics: u64,
    leap: u64,
}

impl Round {
    /// A message's topic, from 0.
    pub fn topic(self, sequence: u64) -> usize {
        (sequence % self.topics * self.leap % self.topics) as usize
    }
}

fn coprime(mut a: u64, mut b: u64) -> bool {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a == 1
}

/// The books of a run.
#[derive(Debug)]
pub struct Tally {
    topology: Topology,
    shape: Shape,
    /// What each subscriber gets next of each flow it gets.
    next: Vec<u64>,
    flows: Vec<Flow>,
    /// Flows that moved on since they were last taken.
    moved: Vec<usize>,
    deliveries: u64,
}

/// The books of one publisher. The slots of messages that are out stand one after the other in a ring.
#[derive(Debug, Clone)]
struct Flow {
    published: u64,
    /// Every subscriber has all messages before this one.
    complete: u64,
    /// Of each message that is out: how many subscribers have it.
    arrived: Box<[u32]>,
    moved: bool,
}

impl Tally {
    /// Books for runs with at most `window` messages of a flow out.
    pub fn new(topology: Topology, shape: Shape, window: usize) -> Self {
        let flow = Flow {
            published: 0,
            complete: 0,
            arrived: vec![0; window.next_power_of_two()].into(),
            moved: false,
        };
        let cells = match topology {
            Topology::FanOut { subscribers, publishers } => subscribers * publishers,
            Topology::Pairs(pairs) => pairs,
            Topology::Topics { subscribers, .. } => subscribers,
        };
        let mut next = vec![0; cells];
        if let Topology::Topics { .. } = topology {
            // Message `n` is the first of subscriber `n`.
            next.iter_mut().enumerate().for_each(|(subscriber, next)| *next = subscriber as u64);
        }
        Self {
            topology,
            shape,
            next,
            flows: vec![flow; topology.flows()],
            moved: Vec::with_capacity(topology.flows()),
            deliveries: 0,
        }
    }

    /// The shape of the payloads.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Messages received by all subscribers together.
    pub fn deliveries(&self) -> u64 {
        self.deliveries
    }

    /// Messages of `flow` that some subscriber has not yet.
    pub fn out(&self, flow: usize) -> usize {
        (self.flows[flow].published - self.flows[flow].complete) as usize
    }

    /// Whether every subscriber has everything.
    pub fn is_settled(&self) -> bool {
        self.flows.iter().all(|flow| flow.published == flow.complete)
    }

    /// Enters a message as published and gives its stamp.
    pub fn publish(&mut self, flow: usize) -> Stamp {
        let sequence = self.flows[flow].published;
        self.flows[flow].published += 1;
        debug_assert!(self.out(flow) <= self.flows[flow].arrived.len());
        Stamp { flow, sequence }
    }

    /// Enters a message as received, and says which it was.
    ///
    /// # Errors
    /// The run is void: the payload is not one that was published, or not the next one of its flow.
    #[inline]
    pub fn deliver(&mut self, subscriber: usize, payload: &[u8]) -> Result<Stamp, Fault> {
        let stamp = self.shape.read(payload).ok_or_else(|| Fault::Corrupt {
            subscriber,
            payload: String::from_utf8_lossy(&payload[..payload.len().min(200)]).into_owned(),
        })?;
        let Stamp { flow, sequence } = stamp;
        let cell = match self.topology {
            Topology::FanOut { publishers, .. } => subscriber * publishers + flow,
            Topology::Pairs(_) | Topology::Topics { .. } => subscriber,
        };
        let misrouted = match self.topology {
            Topology::FanOut { publishers, .. } => flow >= publishers,
            Topology::Pairs(_) => flow != subscriber,
            Topology::Topics { subscribers, .. } => {
                flow > 0 || sequence % subscribers as u64 != subscriber as u64
            }
        };
        if misrouted {
            return Err(Fault::Misrouted { subscriber, flow });
        }
        let expected = self.next[cell];
        let books = &mut self.flows[flow];
        if sequence >= books.published {
            return Err(Fault::NeverPublished { subscriber, flow, sequence });
        }
        match sequence {
            sequence if sequence > expected => {
                return Err(Fault::Missing { subscriber, flow, expected, sequence });
            }
            sequence if sequence < expected => {
                return Err(Fault::Repeated { subscriber, flow, expected, sequence });
            }
            _ => self.next[cell] += self.topology.step(),
        }
        self.deliveries += 1;
        let mask = books.arrived.len() as u64 - 1;
        let readers = self.topology.readers();
        books.arrived[(sequence & mask) as usize] += 1;
        while books.complete < books.published && books.arrived[(books.complete & mask) as usize] == readers {
            books.arrived[(books.complete & mask) as usize] = 0;
            books.complete += 1;
            if !books.moved {
                books.moved = true;
                self.moved.push(flow);
            }
        }
        Ok(stamp)
    }

    /// Takes a flow whose slowest subscriber has moved on.
    pub fn take_moved(&mut self) -> Option<usize> {
        let flow = self.moved.pop()?;
        self.flows[flow].moved = false;
        Some(flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAN_OUT: Topology = Topology::FanOut { subscribers: 2, publishers: 1 };

    fn tally(topology: Topology) -> Tally {
        Tally::new(topology, Shape::new(32).unwrap(), 4)
    }

    fn payload(sequence: u64) -> Vec<u8> {
        Shape::new(32).unwrap().payload(Stamp { flow: 0, sequence })
    }

    #[test]
    fn a_flow_moves_on_with_its_slowest_subscriber() {
        let mut tally = tally(FAN_OUT);
        tally.publish(0);
        tally.publish(0);
        tally.deliver(0, &payload(0)).unwrap();
        tally.deliver(0, &payload(1)).unwrap();
        assert_eq!((tally.out(0), tally.take_moved()), (2, None));
        tally.deliver(1, &payload(0)).unwrap();
        assert_eq!((tally.out(0), tally.take_moved()), (1, Some(0)));
        assert!(!tally.is_settled());
        tally.deliver(1, &payload(1)).unwrap();
        assert!(tally.is_settled());
        assert_eq!(tally.deliveries(), 4);
    }

    #[test]
    fn what_is_missing_repeated_or_was_never_published_is_a_fault() {
        let mut tally = tally(FAN_OUT);
        for _ in 0..3 {
            tally.publish(0);
        }
        tally.deliver(0, &payload(0)).unwrap();
        assert!(matches!(
            tally.deliver(0, &payload(2)),
            Err(Fault::Missing { expected: 1, sequence: 2, .. })
        ));
        assert!(matches!(
            tally.deliver(0, &payload(0)),
            Err(Fault::Repeated { expected: 1, sequence: 0, .. })
        ));
        assert!(matches!(tally.deliver(0, &payload(3)), Err(Fault::NeverPublished { sequence: 3, .. })));
        assert!(matches!(tally.deliver(0, b"{}"), Err(Fault::Corrupt { .. })));
    }

    #[test]
    fn going_round_reaches_every_topic_once_and_its_one_subscriber() {
        for (topics, subscribers) in [(100_000, 1_000), (60, 6), (7, 7), (5, 1)] {
            let round = Topology::Topics { topics, subscribers }.round().unwrap();
            let mut seen = vec![false; topics];
            for sequence in 0..topics as u64 {
                let topic = round.topic(sequence);
                assert_eq!(topic % subscribers, sequence as usize % subscribers);
                assert!(!std::mem::replace(&mut seen[topic], true), "topic {topic} of {topics} twice");
            }
        }
    }

    #[test]
    fn of_many_topics_a_subscriber_gets_its_own_and_all_of_them() {
        let mut tally = tally(Topology::Topics { topics: 4, subscribers: 2 });
        for _ in 0..4 {
            tally.publish(0);
        }
        assert!(matches!(tally.deliver(0, &payload(1)), Err(Fault::Misrouted { subscriber: 0, .. })));
        assert!(matches!(
            tally.deliver(0, &payload(2)),
            Err(Fault::Missing { expected: 0, sequence: 2, .. })
        ));
        for sequence in 0..4 {
            tally.deliver(sequence as usize % 2, &payload(sequence)).unwrap();
        }
        assert!(tally.is_settled());
    }

    #[test]
    fn a_message_of_another_pair_is_a_fault() {
        let mut tally = tally(Topology::Pairs(2));
        tally.publish(0);
        assert!(matches!(tally.deliver(1, &payload(0)), Err(Fault::Misrouted { subscriber: 1, flow: 0 })));
        tally.deliver(0, &payload(0)).unwrap();
        assert!(tally.is_settled());
    }
}
