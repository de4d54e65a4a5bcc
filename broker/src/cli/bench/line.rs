//! The sockets that subscribers run on: they can be cut, and left unread.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use hyper::Uri;
use tidegate_client::Options;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
};

/// Cuts the lines it was given to, all at once.
#[derive(Debug)]
pub(super) struct Cut(watch::Sender<u64>);

/// Whether a line is left unread.
pub(super) type Stall = Arc<AtomicBool>;

impl Cut {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Resets every line there is.
    pub(super) fn cut(&self) {
        self.0.send_modify(|cuts| *cuts += 1);
    }

    /// `options`, over lines of this.
    pub(super) fn dial(&self, options: Options, url: &str, stall: &Stall) -> Options {
        // A URL that is none is refused by the SDK before it dials.
        let (host, port) = address(url).unwrap_or_default();
        let (cuts, stall) = (self.0.clone(), stall.clone());
        options.dial(move || {
            let (host, stall, mut cuts) = (host.clone(), stall.clone(), cuts.subscribe());
            async move {
                let stream = TcpStream::connect((host.as_str(), port)).await?;
                stream.set_nodelay(true)?;
                let cut = Box::pin(async move {
                    // A sender that is gone cuts nothing any more.
                    if cuts.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                });
                Ok(Line { stream, cut, stall })
            }
        })
    }
}

/// The host, without the brackets of an IPv6 address, and the port.
fn address(url: &str) -> Option<(String, u16)> {
    let uri: Uri = url.strip_prefix("ws://").unwrap_or(url).split('/').next()?.parse().ok()?;
    let host = uri.host()?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host.to_owned(), uri.port_u16().unwrap_or(80)))
}

struct Line {
    stream: TcpStream,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    stall: Stall,
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.stall.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_every_form_of_url() {
        for (url, host, port) in [
            ("ws://127.0.0.1:7400/ws", "127.0.0.1", 7400),
            ("broker.internal:7400", "broker.internal", 7400),
            ("ws://[::1]:7400", "::1", 7400),
            ("ws://broker.internal/ws", "broker.internal", 80),
        ] {
            assert_eq!(address(url), Some((host.to_owned(), port)), "{url}");
        }
        assert_eq!(address("not a url"), None);
    }
}
