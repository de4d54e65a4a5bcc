//! The description of the API, held against the code: `broker/openapi.json` against the one table of routes and against
//! what each of them answers, and the lines of `docs/http.md` against a broker.

mod http;

use std::collections::BTreeSet;

use http::{Answer, Api, Event, Events};
use serde_json::{Value, json};
use tidegate::http::routes::ROUTES;

fn description() -> Value {
    serde_json::from_str(include_str!("../openapi.json")).unwrap()
}

/// Follows `$ref`s.
fn resolve<'a>(description: &'a Value, node: &'a Value) -> &'a Value {
    match node["$ref"].as_str() {
        Some(path) => description.pointer(path.trim_start_matches('#')).expect("what is referred to"),
        None => node,
    }
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let description = description();
    let described: BTreeSet<(String, String)> = (description["paths"].as_object().unwrap().iter())
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| (path.clone(), method.to_uppercase()))
        })
        .collect();
    let routes: BTreeSet<(String, String)> =
        ROUTES.iter().map(|route| (route.path.to_owned(), route.method.to_owned())).collect();
    assert_eq!(described, routes);
}

#[test]
fn the_description_is_whole() {
    fn walk(description: &Value, node: &Value) {
        match node {
            Value::Object(fields) => {
                resolve(description, node);
                fields.values().for_each(|value| walk(description, value));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(description, item)),
            _ => {}
        }
    }
    let description = description();
    walk(&description, &description);
    let mut names = BTreeSet::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for operation in methods.as_object().unwrap().values() {
            assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{path}");
            let parameters = operation["parameters"].as_array().unwrap();
            let in_path = parameters.iter().filter(|parameter| parameter["in"] == "path").count();
            assert_eq!(in_path, path.matches('{').count(), "{path}");
        }
    }
}

/// Whether `value` is what a schema of ours says: types, required fields, items, references, one of several.
fn check(description: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let schema = resolve(description, schema);
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = choices.iter().filter(|choice| check(description, choice, value).is_ok()).count();
        return if fits > 0 { Ok(()) } else { Err(format!("{value} is none of {choices:?}")) };
    }
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64(),
        Some("boolean") => value.is_boolean(),
        None => schema.get("const").is_none_or(|constant| constant == value),
        Some(other) => return Err(format!("{other} is no type of ours")),
    };
    if !fits {
        return Err(format!("{value} is not {schema}"));
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        if value.get(required.as_str().unwrap()).is_none() {
            return Err(format!("{value} has no {required}"));
        }
    }
    if let (Some(properties), Some(fields)) = (schema["properties"].as_object(), value.as_object()) {
        for (name, field) in fields {
            let property =
                properties.get(name).ok_or_else(|| format!("{name} of {value} is not described"))?;
            check(description, property, field)?;
        }
    }
    for item in value.as_array().into_iter().flatten() {
        check(description, &schema["items"], item)?;
    }
    Ok(())
}

/// An operation, its address, headers and body.
type Request = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

/// A good request to each operation; `$SESSION` stands for an open session.
const GOOD: &[Request] = &[
    ("publish", "/v1/topics/a?report=true", &[("Content-Type", "application/json")], "{}"),
    (
        "publishBatch",
        "/v1/publish",
        &[("Content-Type", "application/json")],
        r#"{"messages":[{"topic":"a","text":"x"},{}]}"#,
    ),
    ("history", "/v1/topics/a/history?from=last:2&limit=2", &[], ""),
    ("topics", "/v1/topics?filter=a&limit=1", &[], ""),
    ("streams", "/v1/streams", &[], ""),
    ("subscribe", "/v1/subscribe?filter=a", &[], ""),
    ("openSession", "/v1/sessions", &[], "{\"op\":\"ping\",\"id\":1}"),
    ("bringFrames", "/v1/sessions/$SESSION/frames?seq=1", &[], "{\"op\":\"ping\",\"id\":2}"),
    ("description", "/v1/openapi.json", &[], ""),
    ("metrics", "/metrics", &[], ""),
    ("live", "/live", &[], ""),
    ("ready", "/ready", &[], ""),
    (
        "websocket",
        "/ws",
        &[
            ("Connection", "upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ],
        "",
    ),
];

#[test]
fn every_operation_answers_as_it_is_described() {
    let description = description();
    let api = Api::start();
    let mut session = api.events("POST /v1/sessions", &[], b"");
    let secret = session.next().unwrap().json()["session"].as_str().unwrap().to_owned();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            let good = GOOD.iter().find(|(id, ..)| *id == name);
            let &(_, target, headers, body) = good.unwrap_or_else(|| panic!("no request to {name}"));
            let line = format!("{} {}", method.to_uppercase(), target.replace("$SESSION", &secret));
            let stream = api.send(&line, headers, body.as_bytes());
            let responses = &operation["responses"];
            let (_, success) = responses.as_object().unwrap().iter().next().unwrap();
            if success["content"].get("text/event-stream").is_some() {
                drop(Events::over(stream));
                continue;
            }
            let answer = Answer::read(stream, false);
            let described = &responses[answer.status.to_string()];
            assert!(answer.status < 300 && described.is_object(), "{path}: {answer:?} {:?}", answer.text());
            match described["content"].as_object().and_then(|content| content.iter().next()) {
                None => assert!(answer.body.is_empty(), "{path}"),
                Some((kind, content)) => {
                    assert!(answer.header("content-type").unwrap().starts_with(kind), "{path}");
                    if kind == "application/json" {
                        check(&description, &content["schema"], &answer.json())
                            .unwrap_or_else(|e| panic!("{path}: {e}"));
                    }
                }
            }
            // A mistake is answered as described too.
            if path.starts_with("/v1/") && name != "description" {
                let line = format!("{} {path}?nonsense=1", method.to_uppercase());
                let refused = api.ask(&line.replace(['{', '}'], ""), headers, body.as_bytes());
                let described = resolve(&description, &responses[refused.status.to_string()]);
                let schema = &described["content"]["application/json"]["schema"];
                let body: Value = serde_json::from_slice(&refused.body).unwrap();
                assert!(refused.status >= 400 && described.is_object(), "{path}: {refused:?}");
                check(&description, schema, &body).unwrap_or_else(|e| panic!("{path}: {e}"));
            }
        }
    }
    let served = api.get("/v1/openapi.json").json();
    assert_eq!(served, description);
}

/// The commands of `docs/http.md`: what stands behind `$ ` in a block of a shell, with its continued lines.
fn commands() -> Vec<String> {
    let page = include_str!("../../docs/http.md").replace("\\\n", " ");
    page.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect()
}

/// Splits a command as a shell does, as far as the page needs it.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in command.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn every_curl_line_of_the_page_works() {
    let api = Api::start();
    let mut session = api.events("POST /v1/sessions", &[], b"");
    let secret = session.next().unwrap().json()["session"].as_str().unwrap().to_owned();
    let epoch = api.publish("chat.room1", "{\"text\":\"first\"}")["epoch"].as_str().unwrap().to_owned();
    let mut asked = BTreeSet::new();
    for command in commands() {
        let filled = command.replace("SESSION", &secret).replace("EPOCH", &epoch);
        let mut words = words(&filled).into_iter();
        assert_eq!(words.next().as_deref(), Some("curl"), "{command}");
        let (mut method, mut url, mut headers, mut body) = (None, None, Vec::new(), String::new());
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| panic!("{word} has no value in {command}"));
            match &*word {
                "-N" | "-s" | "-i" => {}
                "-X" => method = Some(value()),
                "-H" => {
                    let header = value();
                    let (name, text) = header.split_once(": ").expect("a header");
                    headers.push((name.to_owned(), text.to_owned()));
                }
                "-d" | "--data-binary" => body = value(),
                _ => url = Some(word),
            }
        }
        let url = url.unwrap_or_else(|| panic!("{command} has no address"));
        let path = url.strip_prefix("http://127.0.0.1:7400").unwrap_or_else(|| panic!("{command}"));
        let method = method.unwrap_or_else(|| if body.is_empty() { "GET" } else { "POST" }.to_owned());
        let headers: Vec<_> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        let stream = api.send(&format!("{method} {path}"), &headers, body.as_bytes());
        let without_query = path.split('?').next().unwrap();
        for route in ROUTES {
            let (form, path) = (route.path.split('/'), without_query.split('/'));
            let same = form.clone().count() == path.clone().count()
                && form.zip(path).all(|(name, segment)| name.starts_with('{') || name == segment);
            if same && route.method == method {
                asked.insert((route.method, route.path));
            }
        }
        if path.starts_with("/v1/subscribe") || without_query == "/v1/sessions" {
            let mut events = Events::over(stream);
            if path.contains("from=") || headers.iter().any(|(name, _)| *name == "Last-Event-ID") {
                let Event { name, data } = events.next().expect("an event");
                assert!(name.is_empty() && data.starts_with("{\"op\":\"message\""), "{command}: {data}");
            }
        } else {
            let answer = Answer::read(stream, false);
            assert!(answer.status < 300, "{command}: {} {:?}", answer.status, answer.text());
            if let Ok(json) = serde_json::from_slice::<Value>(&answer.body) {
                for result in json["results"].as_array().into_iter().flatten() {
                    assert_eq!(result.get("error"), None, "{command}: {json}");
                }
            }
        }
    }
    let routes: BTreeSet<_> =
        ROUTES.iter().filter(|route| route.path != "/ws").map(|route| (route.method, route.path)).collect();
    assert_eq!(asked, routes, "each route has a line");
    assert_ne!(api.get("/v1/topics").json()["topics"], json!([]));
}
