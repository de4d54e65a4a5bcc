//! The servers that are compared, and what each cannot do.

use std::{collections::HashMap, fs, io, path::Path};

use crate::contest::{Ability, Contender};

/// A server in `benches/peers`.
#[derive(Debug)]
pub struct Peer {
    /// What it is called in tables and options.
    pub name: &'static str,
    /// Its folder in `benches/peers`, and its name in what the install script writes down.
    pub folder: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    adapter: &'static str,
    many_topics: Option<&'static str>,
    arguments: &'static [&'static str],
    cannot: &'static [(Ability, &'static str)],
}

const EXACT: (Ability, &str) = (Ability::Wildcards, "topics are exact strings");
const KEEPS_NOTHING: (Ability, &str) = (Ability::Resume, "keeps nothing");
const CENTRIFUGO_LIVE: &[(Ability, &str)] = &[EXACT, (Ability::Resume, "without history")];

/// The same server under another name takes part there.
const ELSEWHERE: &[(Ability, &str)] = &[
    (Ability::Deliver, ""),
    (Ability::Topics, ""),
    (Ability::Wildcards, ""),
    (Ability::Many, ""),
    (Ability::Resume, ""),
];

/// All of them.
pub const PEERS: &[Peer] = &[
    Peer {
        name: "bun",
        folder: "bun",
        what: "Bun's native publish/subscribe (uWebSockets)",
        adapter: "plain",
        many_topics: Some("plain-topics"),
        arguments: &[],
        cannot: &[EXACT, KEEPS_NOTHING],
    },
    Peer {
        name: "bun-confirmed",
        folder: "bun",
        what: "the same, where a client subscribes by a message and is told when it is",
        adapter: "plain-topics",
        many_topics: None,
        arguments: &[],
        cannot: ELSEWHERE,
    },
    Peer {
        name: "nats",
        folder: "nats",
        what: "NATS, its WebSocket listener",
        adapter: "nats",
        many_topics: None,
        arguments: &[],
        cannot: &[(Ability::Resume, "core NATS keeps nothing; JetStream is not measured")],
    },
    Peer {
        name: "centrifugo-json",
        folder: "centrifuge",
        what: "Centrifugo's engine, JSON",
        adapter: "centrifuge-json",
        many_topics: None,
        arguments: &[],
        cannot: CENTRIFUGO_LIVE,
    },
    Peer {
        name: "centrifugo-protobuf",
        folder: "centrifuge",
        what: "Centrifugo's engine, Protobuf",
        adapter: "centrifuge-protobuf",
        many_topics: None,
        arguments: &[],
        cannot: CENTRIFUGO_LIVE,
    },
    Peer {
        name: "centrifugo-json-history",
        folder: "centrifuge",
        what: "Centrifugo's engine, JSON, with history and recovery",
        adapter: "centrifuge-json",
        many_topics: None,
        arguments: &["-history"],
        cannot: &[EXACT],
    },
    Peer {
        name: "centrifugo-protobuf-history",
        folder: "centrifuge",
        what: "Centrifugo's engine, Protobuf, with history and recovery",
        adapter: "centrifuge-protobuf",
        many_topics: None,
        arguments: &["-history"],
        cannot: &[EXACT],
    },
    Peer {
        name: "nchan",
        folder: "nchan",
        what: "nginx with nchan",
        adapter: "nchan",
        many_topics: None,
        arguments: &[],
        cannot: &[(Ability::Topics, "a connection has the channels of its URL, and publishes to one"), EXACT],
    },
    Peer {
        name: "mosquitto",
        folder: "mosquitto",
        what: "Mosquitto, MQTT 3.1.1 over WebSocket, QoS 0",
        adapter: "mqtt",
        many_topics: None,
        arguments: &[],
        cannot: &[(Ability::Resume, "at QoS 0 nothing is kept; sessions at QoS 1 are not measured")],
    },
    Peer {
        name: "sockudo",
        folder: "sockudo",
        what: "Sockudo, Pusher's protocol 7, client events",
        adapter: "pusher",
        many_topics: None,
        arguments: &[],
        cannot: &[
            (Ability::Topics, "who publishes client events subscribes to the channel"),
            EXACT,
            (Ability::Many, "who publishes client events gets those of the others"),
            (Ability::Resume, "not in protocol 7"),
        ],
    },
    Peer {
        name: "ws",
        folder: "ws",
        what: "`ws` on Node",
        adapter: "plain",
        many_topics: Some("plain-topics"),
        arguments: &[],
        cannot: &[EXACT, KEEPS_NOTHING],
    },
    Peer {
        name: "socketio",
        folder: "socketio",
        what: "Socket.IO on Node",
        adapter: "socketio",
        many_topics: None,
        arguments: &[],
        cannot: &[EXACT, (Ability::Resume, "connection state recovery is not measured")],
    },
];

impl Peer {
    /// How it is started, from the project's root.
    pub fn contender(&self, root: &Path) -> Contender {
        let run = root.join("benches/peers").join(self.folder).join("run");
        let run = run.to_string_lossy();
        let command: Vec<&str> =
            [&*run, "{port}"].into_iter().chain(self.arguments.iter().copied()).collect();
        Contender {
            many_topics: self.many_topics.map(str::to_owned),
            // A master and a worker.
            processes: if self.folder == "nchan" { 2 } else { 1 },
            cannot: self.cannot.to_vec(),
            ..Contender::new(self.name, self.adapter, &command)
        }
    }
}

/// The broker whose clients subscribe by their URL, where what they do on connecting is measured.
pub fn by_url(command: &[&str]) -> Contender {
    Contender { cannot: ELSEWHERE.to_vec(), ..Contender::new(TIDEGATE_BY_URL, TIDEGATE_BY_URL, command) }
}

/// The broker's name there.
pub const TIDEGATE_BY_URL: &str = "tidegate-url";

/// Whether a server's clients subscribe by their URL, and send nothing for it.
pub fn subscribes_by_url(name: &str) -> bool {
    name == FLOOR
        || name == TIDEGATE_BY_URL
        || PEERS.iter().any(|peer| peer.name == name && matches!(peer.adapter, "plain" | "nchan"))
}

/// The floor's name.
pub const FLOOR: &str = "floor";

/// The floor, which can do little.
pub fn floor(command: &str) -> Contender {
    let why = "it only sends";
    let cannot = [Ability::Topics, Ability::Wildcards, Ability::Resume].map(|ability| (ability, why));
    Contender { cannot: cannot.to_vec(), ..Contender::new(FLOOR, FLOOR, &[command]) }
}

/// What the install script wrote down: a version, or `not installed: …`, for each folder.
///
/// # Errors
/// Where nothing was installed.
pub fn versions(root: &Path) -> io::Result<HashMap<String, String>> {
    let text = fs::read_to_string(root.join("target/peers/versions.tsv"))?;
    Ok(text.lines().filter_map(|line| line.split_once('\t')).map(|(k, v)| (k.into(), v.into())).collect())
}
