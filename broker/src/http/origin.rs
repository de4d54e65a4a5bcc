//! Which web pages may open a WebSocket, and which names of this host a request may use.
//!
//! A browser sends a page's `Origin` with a WebSocket handshake but lets any page ask, so it is the server that keeps
//! foreign pages out (RFC 6455, section 10.2). And a page whose own name is made to resolve to this machine (DNS
//! rebinding) shows itself by its `Host`.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The host and port of a URL or of a `Host` header, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// A name, an IPv4 address or an IPv6 address in brackets. A name's trailing dot is kept: it is another name.
    name: String,
    port: Option<u16>,
}

impl Host {
    /// `name`, `name:port`, `[address]` or `[address]:port`; nothing else, and so no user, path or white space.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                address.parse::<Ipv6Addr>().ok()?;
                (&text[..address.len() + 2], port)
            }
            None => {
                let end = text.find(':').unwrap_or(text.len());
                let (name, port) = text.split_at(end);
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
                if name.is_empty() || !name.bytes().all(plain) {
                    return None;
                }
                (name, port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            Some(_) => return None,
            None if port.is_empty() => None,
            None => return None,
        };
        Some(Self { name: name.to_ascii_lowercase(), port })
    }

    /// Whether it means this machine and can mean no other, whatever a name server says: `localhost`, 127.0.0.0/8 or
    /// `[::1]`.
    fn is_loopback(&self) -> bool {
        let inner = self.name.trim_start_matches('[').trim_end_matches(']');
        self.name == "localhost"
            || self.name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
            || inner.len() + 2 == self.name.len()
                && inner.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback())
    }

    /// The same host with no port where the port is the scheme's own.
    fn without_default_port(mut self, scheme: &str) -> Self {
        if self.port.is_some() && self.port == default_port(scheme) {
            self.port = None;
        }
        self
    }
}

/// An origin (RFC 6454): scheme, host, and the port where it is not the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: Host,
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, host) = text.split_once("://")?;
        let mut bytes = scheme.bytes();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        if !bytes.next()?.is_ascii_alphabetic() || !bytes.all(plain) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let host = Host::parse(host)?.without_default_port(&scheme);
        Some(Self { scheme, host })
    }

    fn is_web(&self) -> bool {
        matches!(self.scheme.as_str(), "http" | "https")
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// A listener's rule on origins and hosts.
#[derive(Debug, Clone)]
pub struct Origins {
    any: bool,
    allowed: Vec<Origin>,
    loopback: bool,
}

impl Origins {
    /// The rule of a listener: `allowed` as in `server.allowed_origins` (`scheme://host[:port]`, or `*` for any), and
    /// whether it listens on loopback only.
    ///
    /// # Errors
    ///
    /// The entry that is neither.
    pub fn new(allowed: &[String], loopback: bool) -> Result<Self, String> {
        let listed = allowed.iter().filter(|entry| *entry != "*");
        let listed = listed.map(|entry| Origin::parse(entry).ok_or_else(|| entry.clone()));
        Ok(Self {
            any: allowed.iter().any(|entry| entry == "*"),
            allowed: listed.collect::<Result<_, _>>()?,
            loopback,
        })
    }

    /// Whether a request may name this host. On a loopback listener only a loopback one, or that of an allowed origin
    /// (a proxy before the broker passes on the name it was asked by), so that no other name that was made to resolve to
    /// this machine gets in.
    ///
    /// # Errors
    ///
    /// Why not, for the developer who sees it.
    pub fn check_host(&self, host: &Host) -> Result<(), String> {
        let named = |origin: &Origin| origin.host.name == host.name;
        if !self.loopback || self.any || host.is_loopback() || self.allowed.iter().any(named) {
            return Ok(());
        }
        Err(format!(
            "the Host {:?} is not this machine's own, and the broker listens on loopback only: ask for localhost, or \
             add the page's origin to server.allowed_origins",
            host.name
        ))
    }

    /// Whether a page of this `Origin` may open a WebSocket by a request with this `Host`: one of the own host, of an
    /// allowed origin, or, where the listener is on loopback, any loopback page (a developer's own server).
    ///
    /// # Errors
    ///
    /// Why not, for the developer who sees it.
    pub fn check_origin(&self, text: &str, host: Option<&Host>) -> Result<(), String> {
        if self.any {
            return Ok(());
        }
        let refused = || {
            Err(format!(
                "the origin {:?} may not connect: add it to server.allowed_origins if it is yours",
                text.chars().take(256).collect::<String>()
            ))
        };
        let Some(origin) = Origin::parse(text) else { return refused() };
        let own =
            || host.is_some_and(|host| origin.host == host.clone().without_default_port(&origin.scheme));
        let near = self.loopback && origin.host.is_loopback();
        if self.allowed.contains(&origin) || origin.is_web() && (near || own()) { Ok(()) } else { refused() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(allowed: &[&str], loopback: bool) -> Origins {
        let allowed: Vec<_> = allowed.iter().map(|&entry| entry.to_owned()).collect();
        Origins::new(&allowed, loopback).unwrap()
    }

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap_or_else(|| panic!("{text} is a host"))
    }

    #[test]
    fn beyond_loopback_only_the_own_host_and_the_listed_origins_get_in() {
        let origins =
            origins(&["https://shop.example", "http://dev.example:5173", "capacitor://localhost"], false);
        let cases = [
            // The own host, as the request names it.
            ("https://tide.example", "tide.example", true),
            ("http://tide.example", "tide.example", true),
            ("https://tide.example:443", "tide.example", true),
            ("https://tide.example", "tide.example:443", true),
            ("HTTPS://TIDE.Example", "tide.exAMPLE", true),
            ("http://tide.example:7400", "tide.example:7400", true),
            ("http://[2001:db8::1]:7400", "[2001:DB8::1]:7400", true),
            ("http://tide.example", "tide.example:7400", false),
            ("http://tide.example:7401", "tide.example:7400", false),
            ("http://tide.example:443", "tide.example", false),
            ("https://tide.example.", "tide.example", false),
            ("https://evil-tide.example", "tide.example", false),
            ("https://tide.example.evil.test", "tide.example", false),
            ("https://sub.tide.example", "tide.example", false),
            ("file://tide.example", "tide.example", false),
            // The listed ones: scheme, host and port must all agree.
            ("https://shop.example", "tide.example", true),
            ("https://shop.example:443", "tide.example", true),
            ("https://SHOP.example", "tide.example", true),
            ("http://dev.example:5173", "tide.example", true),
            ("capacitor://localhost", "tide.example", true),
            ("http://shop.example", "tide.example", false),
            ("https://shop.example:8443", "tide.example", false),
            ("https://shop.example.", "tide.example", false),
            ("https://evil-shop.example", "tide.example", false),
            ("https://shop.example.evil.test", "tide.example", false),
            ("http://dev.example", "tide.example", false),
            ("https://dev.example:5173", "tide.example", false),
            // Not origins at all.
            ("null", "tide.example", false),
            ("", "tide.example", false),
            ("*", "tide.example", false),
            ("tide.example", "tide.example", false),
            ("https://", "tide.example", false),
            ("://tide.example", "tide.example", false),
            ("https://tide.example/", "tide.example", false),
            ("https://tide.example/path", "tide.example", false),
            ("https://user@tide.example", "tide.example", false),
            ("https://tide.example@evil.test", "tide.example", false),
            ("https://tide.example:", "tide.example", false),
            ("https://tide.example:99999", "tide.example", false),
            ("https://tide.example:+443", "tide.example", false),
            ("https://tide.example, https://evil.test", "tide.example", false),
            ("https://tide.example https://evil.test", "tide.example", false),
            ("https://tide.example\\@evil.test", "tide.example", false),
            // A page of the visitor's own machine is a stranger here.
            ("http://localhost:5173", "tide.example", false),
            ("http://127.0.0.1", "tide.example", false),
        ];
        for (origin, own, welcome) in cases {
            let checked = origins.check_origin(origin, Some(&host(own)));
            assert_eq!(checked.is_ok(), welcome, "{origin} asks {own}: {checked:?}");
        }
    }

    #[test]
    fn on_loopback_every_loopback_page_gets_in_and_no_other() {
        let origins = origins(&[], true);
        let cases = [
            ("http://localhost:5173", true),
            ("http://LOCALHOST", true),
            ("https://localhost:8443", true),
            ("http://127.0.0.1:3000", true),
            ("http://127.8.9.10", true),
            ("http://[::1]:3000", true),
            ("null", false),
            ("http://localhost.evil.test", false),
            ("http://localhost.", false),
            ("http://evil.localhost.test", false),
            ("http://127.0.0.1.evil.test", false),
            ("http://127.0.0.01", false),
            ("http://2130706433", false),
            ("http://0.0.0.0:3000", false),
            ("http://128.0.0.1", false),
            ("http://[::2]", false),
            ("http://[::ffff:127.0.0.1]", false),
            ("http://::1", false),
            ("http://evil@localhost", false),
            ("https://evil.test", false),
            ("chrome-extension://localhost", false),
        ];
        for (origin, welcome) in cases {
            let checked = origins.check_origin(origin, Some(&host("localhost:7400")));
            assert_eq!(checked.is_ok(), welcome, "{origin}: {checked:?}");
        }
    }

    #[test]
    fn a_star_lets_every_page_in() {
        for loopback in [true, false] {
            let origins = origins(&["*"], loopback);
            for origin in ["https://evil.test", "null", "rubbish"] {
                assert_eq!(origins.check_origin(origin, None), Ok(()));
            }
            assert_eq!(origins.check_host(&host("evil.test")), Ok(()));
        }
    }

    #[test]
    fn on_loopback_a_name_that_was_made_to_resolve_here_is_refused() {
        let own = origins(&["https://shop.example"], true);
        let cases = [
            ("localhost", true),
            ("localhost:7400", true),
            ("LocalHost:7400", true),
            ("127.0.0.1:7400", true),
            ("127.1.2.3", true),
            ("[::1]:7400", true),
            ("shop.example", true),
            ("evil.test", false),
            ("evil.test:7400", false),
            ("localhost.evil.test:7400", false),
            ("127.0.0.1.evil.test", false),
            ("192.168.1.7:7400", false),
            ("0.0.0.0:7400", false),
        ];
        for (name, welcome) in cases {
            assert_eq!(own.check_host(&host(name)).is_ok(), welcome, "{name}");
            assert_eq!(origins(&[], false).check_host(&host(name)), Ok(()), "{name} beyond loopback");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_at_most_a_port() {
        let bad = [
            "", ":80", "a b", "a/b", "a@b", "a:b", "a:80:80", "a:-1", "a:65536", "[::1", "::1", "[a]",
            "[::1]80", "[::1]:x", "a,b", "a%41", "a\"",
        ];
        for text in bad {
            assert_eq!(Host::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_entry_that_is_no_origin_is_told() {
        assert_eq!(Origins::new(&["shop.example".to_owned()], true).err().as_deref(), Some("shop.example"));
    }
}
