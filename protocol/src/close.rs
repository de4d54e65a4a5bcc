//! The one table of close codes: why a connection ended, and whether its client comes back.

use std::fmt;

macro_rules! closes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $reason:literal, reconnect: $reconnect:literal;)*) => {
        /// Why a connection was closed. 4000-4499 say come back, 4500-4999 do not.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum CloseCode { $($(#[$doc])* $variant,)* }

        impl CloseCode {
            /// Every close code this version knows, in order.
            pub const ALL: &'static [CloseCode] = &[$(CloseCode::$variant),*];

            /// The number on the wire.
            pub fn number(self) -> u16 {
                match self { $(Self::$variant => $code,)* }
            }

            /// A reason of a few words; at most 123 bytes with what is added to it (RFC 6455, section 5.5).
            pub fn reason(self) -> &'static str {
                match self { $(Self::$variant => $reason,)* }
            }

            /// Whether the client should come back.
            pub fn reconnect(self) -> bool {
                match self { $(Self::$variant => $reconnect,)* }
            }

            /// The close code with this number.
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

closes! {
    /// The client is done (RFC 6455, section 7.4.1).
    Normal = 1000, "normal", reconnect: false;
    /// The page was left, or the process ends.
    GoingAway = 1001, "going away", reconnect: true;
    /// A frame broke RFC 6455.
    ProtocolError = 1002, "websocket protocol error", reconnect: false;
    /// A message of a kind the subprotocol does not have (text under bincode).
    Unsupported = 1003, "message kind not supported", reconnect: false;
    /// Text that is not UTF-8.
    InvalidText = 1007, "text is not UTF-8", reconnect: false;
    /// A bound that is not a size was broken, such as the number of fragments.
    PolicyViolation = 1008, "policy violation", reconnect: false;
    /// A message was larger than the broker takes.
    TooBig = 1009, "message too big", reconnect: false;
    /// A fault of the broker.
    InternalError = 1011, "internal error", reconnect: true;
    /// The broker is going; `drain` told the delay.
    Drain = 4000, "draining", reconnect: true;
    /// Nothing was heard, not even a pong.
    PingTimeout = 4001, "no pong", reconnect: true;
    /// The broker's memory budget is spent.
    OverBudget = 4002, "over budget", reconnect: true;
    /// A subscription with policy `disconnect` fell behind.
    Slow = 4008, "slow", reconnect: true;
    /// The socket took nothing for `stall_timeout`.
    Stalled = 4009, "stalled", reconnect: true;
    /// No token, or one that is not valid.
    Unauthorized = 4500, "unauthorized", reconnect: false;
    /// Too many frames that could not be read.
    TooManyErrors = 4501, "too many errors", reconnect: false;
    /// A bincode message that cannot be read: where its next frame starts is not known.
    MalformedFrame = 4502, "malformed frame", reconnect: false;
    /// The operator closed it.
    Expelled = 4503, "closed by the operator", reconnect: false;
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number(), self.reason())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_say_whether_to_come_back() {
        for &code in CloseCode::ALL {
            assert_eq!(CloseCode::from_number(code.number()), Some(code));
            match code.number() {
                4000..=4499 => assert!(code.reconnect(), "{code}"),
                4500..=4999 => assert!(!code.reconnect(), "{code}"),
                _ => {}
            }
        }
    }
}
