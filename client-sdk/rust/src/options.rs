//! How to connect.

use std::{fmt, io, pin::Pin, sync::Arc, time::Duration};

use tidegate_protocol::{Codec, limits};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    client::Client,
    error::{ConnectError, ConnectErrorKind},
};

/// A stream of bytes a WebSocket can run on; every such stream is one.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::{Io, Options};
/// use tokio::net::TcpStream;
///
/// # let address = url.trim_start_matches("ws://").trim_end_matches("/ws").to_owned();
/// async fn dial(address: String) -> std::io::Result<impl Io> {
///     let stream = TcpStream::connect(address).await?;
///     stream.set_nodelay(true)?;
///     Ok(stream)
/// }
/// let client = Options::new().dial(move || dial(address.clone())).connect(url).await?;
/// # Ok(()) });
/// ```
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(crate) type DialFuture = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;
pub(crate) type Dial = Arc<dyn Fn() -> DialFuture + Send + Sync>;

/// How to connect.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::{Codec, Options};
///
/// # let here = url;
/// let url = "ws://broker.internal:7400";
/// # let url = here;
/// let client = Options::new()
///     .client_name("shop/2.1")
///     .codec(Codec::Json) // readable on the wire; bincode is the default
///     .token("eyJhbGciOi…")
///     .connect(url)
///     .await?;
/// # Ok(()) });
/// ```
#[derive(Clone)]
pub struct Options {
    pub(crate) client_name: Option<String>,
    pub(crate) codec: Codec,
    pub(crate) token: Option<String>,
    pub(crate) instance: Option<String>,
    pub(crate) connect_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) max_message_bytes: usize,
    pub(crate) dial: Option<Dial>,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// The defaults, each with its method.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::Options;
    ///
    /// let client = Options::new().connect(url).await?; // the same as `Client::connect(url)`
    /// # Ok(()) });
    /// ```
    pub fn new() -> Self {
        Self {
            client_name: None,
            codec: Codec::Bincode,
            token: None,
            instance: None,
            connect_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
            max_message_bytes: 16 << 20,
            dial: None,
        }
    }

    /// The application's name and version, for the broker's log: at most 128 bytes.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::Options;
    ///
    /// let client = Options::new().client_name("shop/2.1").connect(url).await?;
    /// # Ok(()) });
    /// ```
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.client_name = Some(name.into());
        self
    }

    /// How frames are written: bincode if it is not said.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::{Codec, Options};
    ///
    /// let client = Options::new().codec(Codec::Json).connect(url).await?;
    /// # Ok(()) });
    /// ```
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// A JWT, at most 8192 bytes. It is sent in the `connect` frame, never in the URL.
    /// [`Client::refresh`] renews it.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::Options;
    ///
    /// # let token = "eyJhbGciOi…";
    /// let client = Options::new().token(token).connect(url).await?;
    /// # Ok(()) });
    /// ```
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// What the broker knows this client by over its reconnects, at most 128 bytes; random if it is not said.
    /// `echo(false)` and idempotency keys go by it. No two clients may share one.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::Options;
    ///
    /// let client = Options::new().instance("till-4").connect(url).await?;
    /// # Ok(()) });
    /// ```
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.instance = Some(instance.into());
        self
    }

    /// How long one attempt may take up to the broker's welcome; 10 s if it is not said.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use std::time::Duration;
    /// use tidegate_client::Options;
    ///
    /// let client = Options::new().connect_timeout(Duration::from_secs(3)).connect(url).await?;
    /// # Ok(()) });
    /// ```
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long [`Client::drain`], and a client whose last handle is gone, wait for acks; 10 s if it is not said.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use std::time::Duration;
    /// use tidegate_client::Options;
    ///
    /// let client = Options::new().drain_timeout(Duration::from_secs(30)).connect(url).await?;
    /// client.enqueue("orders", "7").await?;
    /// client.drain().await?; // at most 30 s
    /// # Ok(()) });
    /// ```
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// The largest WebSocket message taken from the broker, in bytes over all its fragments; 16 MiB if it is not
    /// said. A larger one ends the connection.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::Options;
    ///
    /// let client = Options::new().max_message_bytes(1 << 20).connect(url).await?;
    /// # Ok(()) });
    /// ```
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Connects over what `dial` gives in place of TCP: a proxy, a Unix socket, TLS of the application's own. It is
    /// asked again for each attempt. The URL still gives the `Host` and the path.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::Options;
    /// use tokio::net::TcpStream;
    ///
    /// # let address = url.trim_start_matches("ws://").trim_end_matches("/ws").to_owned();
    /// let client = Options::new().dial(move || TcpStream::connect(address.clone())).connect(url).await?;
    /// # Ok(()) });
    /// ```
    pub fn dial<F, S>(mut self, dial: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: Io + 'static,
    {
        self.dial = Some(Arc::new(move || {
            let dialled = dial();
            Box::pin(async move { Ok(Box::new(dialled.await?) as Box<dyn Io>) })
        }));
        self
    }

    /// Connects, and waits for the broker's welcome. This first attempt can fail; a connection lost later comes back
    /// by itself.
    ///
    /// `url` is `ws://HOST[:PORT][/PATH]`; the scheme and the path `/ws` may be left out, and the port is 80 unless
    /// it says otherwise, as for any WebSocket.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::Options;
    ///
    /// # let here = url;
    /// let url = "127.0.0.1:7400";
    /// # let url = here;
    /// let client = Options::new().client_name("shop/2.1").connect(url).await?;
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// [`ConnectErrorKind`] says whether the URL, the network or the broker refused.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub async fn connect(self, url: impl AsRef<str>) -> Result<Client, ConnectError> {
        self.check()?;
        Client::start(self, url.as_ref()).await
    }

    fn check(&self) -> Result<(), ConnectError> {
        let checks = [
            ("client_name", &self.client_name, limits::ID_BYTES),
            ("instance", &self.instance, limits::ID_BYTES),
            ("token", &self.token, limits::TOKEN_BYTES),
        ];
        for (name, value, bound) in checks {
            if value.as_ref().is_some_and(|value| value.len() > bound) {
                let detail = format!("{name} is longer than {bound} bytes");
                return Err(ConnectError::with_detail(ConnectErrorKind::InvalidOption, detail));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("client_name", &self.client_name)
            .field("codec", &self.codec)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("instance", &self.instance)
            .field("connect_timeout", &self.connect_timeout)
            .field("drain_timeout", &self.drain_timeout)
            .field("max_message_bytes", &self.max_message_bytes)
            .finish_non_exhaustive()
    }
}
