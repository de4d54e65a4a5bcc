//! The one table of what is answered where. `broker/openapi.json` describes it, and a test holds the two against each
//! other.

use hyper::Method;

use super::api::Handler;

/// One method at one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// In capitals. A `HEAD` is answered wherever a `GET` is, but of a stream of events.
    pub method: &'static str,
    /// With `{name}` for one segment.
    pub path: &'static str,
    /// What it does.
    pub does: Does,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// Opens a WebSocket.
    WebSocket,
    /// `/metrics`.
    Metrics,
    /// `/live`.
    Live,
    /// `/ready`.
    Ready,
    /// What the API does.
    Api(Handler),
}

const fn get(path: &'static str, does: Does) -> Route {
    Route { method: "GET", path, does }
}

const fn post(path: &'static str, handler: Handler) -> Route {
    Route { method: "POST", path, does: Does::Api(handler) }
}

/// All there is, but for the files of the pages.
pub const ROUTES: &[Route] = &[
    get("/ws", Does::WebSocket),
    get("/metrics", Does::Metrics),
    get("/live", Does::Live),
    get("/ready", Does::Ready),
    post("/v1/publish", Handler::PublishBatch),
    get("/v1/topics", Does::Api(Handler::Topics)),
    post("/v1/topics/{topic}", Handler::PublishOne),
    get("/v1/topics/{topic}/history", Does::Api(Handler::History)),
    get("/v1/streams", Does::Api(Handler::Streams)),
    get("/v1/subscribe", Does::Api(Handler::Subscribe)),
    post("/v1/sessions", Handler::OpenSession),
    post("/v1/sessions/{session}/frames", Handler::BringFrames),
    get("/v1/openapi.json", Does::Api(Handler::Description)),
];

/// The routes at one path.
pub(super) struct At<'a> {
    routes: Vec<&'static Route>,
    /// The segment that a route's `{name}` stands for.
    pub(super) parameter: &'a str,
}

impl<'a> At<'a> {
    /// What is at `path`; `None` where nothing is.
    pub(super) fn find(path: &'a str) -> Option<Self> {
        let mut parameter = "";
        let mut routes = Vec::new();
        for route in ROUTES {
            if let Some(segment) = matches(route.path, path) {
                parameter = segment;
                routes.push(route);
            }
        }
        (!routes.is_empty()).then_some(Self { routes, parameter })
    }

    /// What a method does there.
    pub(super) fn does(&self, method: &Method) -> Option<Does> {
        let as_get = |route: &Route| {
            *method == Method::HEAD
                && route.method == "GET"
                && !matches!(route.does, Does::Api(Handler::Subscribe) | Does::WebSocket)
        };
        let found = self.routes.iter().find(|route| route.method == method.as_str() || as_get(route))?;
        Some(found.does)
    }

    /// The methods there are, as `Allow` lists them.
    pub(super) fn methods(&self) -> String {
        let mut methods = Vec::new();
        for route in &self.routes {
            methods.push(route.method);
            if self.does(&Method::HEAD) == Some(route.does) {
                methods.push("HEAD");
            }
        }
        methods.join(", ")
    }
}

/// What stands for the parameter, where `path` has the form; empty where it has none.
fn matches<'a>(form: &str, path: &'a str) -> Option<&'a str> {
    let (mut form, mut path) = (form.split('/'), path.split('/'));
    let mut parameter = "";
    loop {
        match (form.next(), path.next()) {
            (None, None) => return Some(parameter),
            (Some(name), Some(segment)) if name.starts_with('{') && !segment.is_empty() => {
                parameter = segment
            }
            (Some(name), Some(segment)) if name == segment => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_its_routes_and_its_parameter() {
        let cases = [
            ("/v1/topics", Some(("GET, HEAD", ""))),
            ("/v1/topics/chat.room1", Some(("POST", "chat.room1"))),
            ("/v1/topics/a%2Fb/history", Some(("GET, HEAD", "a%2Fb"))),
            ("/v1/subscribe", Some(("GET", ""))),
            ("/ws", Some(("GET", ""))),
            ("/v1/topics/", None),
            ("/v1/topics//history", None),
            ("/v1/topics/a/b", None),
            ("/v1", None),
            ("", None),
        ];
        for (path, want) in cases {
            let at = At::find(path);
            let got = at.as_ref().map(|at| (at.methods(), at.parameter));
            assert_eq!(got.as_ref().map(|(methods, parameter)| (&**methods, *parameter)), want, "{path}");
        }
    }

    #[test]
    fn no_two_routes_are_for_the_same() {
        for (index, route) in ROUTES.iter().enumerate() {
            let same = |other: &Route| (other.method, other.path) == (route.method, route.path);
            assert!(!ROUTES[..index].iter().any(same), "{route:?}");
        }
    }
}
