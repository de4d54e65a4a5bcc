//! The numbered table of errors.

use std::fmt;

macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, retry: $retry:literal;)*) => {
        /// Why a request was refused. The numbers and names are part of the protocol and never change meaning.
        ///
        /// ```
        /// use tidegate_protocol::ErrorCode;
        ///
        /// assert_eq!(ErrorCode::PayloadTooLarge.to_string(), "1203 (payload_too_large)");
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode { $($(#[$doc])* $variant,)* /// A number this version does not know.
            Unknown(u16), }

        impl ErrorCode {
            /// Every error this version knows, in order.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant),*];

            /// The number on the wire.
            ///
            /// ```
            /// use tidegate_protocol::ErrorCode;
            ///
            /// assert_eq!(ErrorCode::PayloadTooLarge.number(), 1203);
            /// ```
            pub fn number(self) -> u16 {
                match self { $(Self::$variant => $code,)* Self::Unknown(number) => number }
            }

            /// The name on the wire.
            ///
            /// ```
            /// use tidegate_protocol::ErrorCode;
            ///
            /// assert_eq!(ErrorCode::PayloadTooLarge.name(), "payload_too_large");
            /// ```
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* Self::Unknown(_) => "unknown" }
            }

            /// Whether the same request can succeed later.
            ///
            /// ```
            /// use tidegate_protocol::ErrorCode;
            ///
            /// assert!(ErrorCode::RateLimited.retry());
            /// assert!(!ErrorCode::PayloadTooLarge.retry());
            /// ```
            pub fn retry(self) -> bool {
                match self { $(Self::$variant => $retry,)* Self::Unknown(_) => false }
            }

            /// The error with this number.
            ///
            /// ```
            /// use tidegate_protocol::ErrorCode;
            ///
            /// assert_eq!(ErrorCode::from_number(1203), ErrorCode::PayloadTooLarge);
            /// assert_eq!(ErrorCode::from_number(1999), ErrorCode::Unknown(1999));
            /// ```
            pub fn from_number(number: u16) -> Self {
                match number { $($code => Self::$variant,)* other => Self::Unknown(other) }
            }
        }
    };
}

errors! {
    /// A fault of the broker.
    Internal = 1000, "internal", retry: true;
    /// The frame could not be read.
    MalformedFrame = 1001, "malformed_frame", retry: false;
    /// The frame's `op` is not known.
    UnknownOp = 1002, "unknown_op", retry: false;
    /// A field is missing, of the wrong type, out of its range or not known.
    BadField = 1003, "bad_field", retry: false;
    /// The request's `id` does not exceed the one before it.
    IdNotGrowing = 1004, "id_not_growing", retry: false;
    /// `connect` came twice, or after another frame.
    AlreadyConnected = 1005, "already_connected", retry: false;
    /// A token is needed.
    Unauthorized = 1100, "unauthorized", retry: false;
    /// The token is not valid.
    TokenInvalid = 1101, "token_invalid", retry: false;
    /// The token's time is over.
    TokenExpired = 1102, "token_expired", retry: false;
    /// The token does not grant this.
    PermissionDenied = 1103, "permission_denied", retry: false;
    /// Not a topic.
    TopicInvalid = 1200, "topic_invalid", retry: false;
    /// Not a filter.
    FilterInvalid = 1201, "filter_invalid", retry: false;
    /// The payload is not of the kind it claims.
    PayloadInvalid = 1202, "payload_invalid", retry: false;
    /// The payload is larger than the broker takes.
    PayloadTooLarge = 1203, "payload_too_large", retry: false;
    /// The frame or its payload nests too deep.
    TooDeep = 1204, "too_deep", retry: false;
    /// The topic is the broker's own.
    TopicReserved = 1205, "topic_reserved", retry: false;
    /// Key, headers or idempotency key are larger than the broker takes.
    AttributesTooLarge = 1206, "attributes_too_large", retry: false;
    /// No subscription of this connection has that id.
    SubscriptionUnknown = 1300, "subscription_unknown", retry: false;
    /// The connection has as many subscriptions as it may.
    TooManySubscriptions = 1301, "too_many_subscriptions", retry: false;
    /// `from` cannot be met.
    FromInvalid = 1302, "from_invalid", retry: false;
    /// The topic is in no stream, so it has no history.
    NoHistory = 1303, "no_history", retry: false;
    /// The broker's memory budget is spent.
    OverBudget = 1400, "over_budget", retry: true;
    /// Too many frames, subscriptions or bytes a second.
    RateLimited = 1401, "rate_limited", retry: true;
    /// A history request is already under way on this connection.
    HistoryBusy = 1402, "history_busy", retry: true;
    /// The broker is going.
    Draining = 1500, "draining", retry: true;
    /// The engine did not take the message.
    EngineUnavailable = 1501, "engine_unavailable", retry: true;
    /// A publish was under way with the same idempotency key, and failed.
    OutcomeUnknown = 1502, "outcome_unknown", retry: true;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_read_back() {
        let numbers: HashSet<_> = ErrorCode::ALL.iter().map(|e| e.number()).collect();
        let names: HashSet<_> = ErrorCode::ALL.iter().map(|e| e.name()).collect();
        assert_eq!((numbers.len(), names.len()), (ErrorCode::ALL.len(), ErrorCode::ALL.len()));
        for &error in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(error.number()), error);
        }
    }
}
