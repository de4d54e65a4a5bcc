//! One pass over a JSON text (RFC 8259): whether it is one value, no deeper than it may be, and on one line.
//!
//! A parser that throws away what it parses does neither of the last two, and needs a pass before it and one after it.

use crate::limits::JSON_DEPTH;

/// What open containers are is kept in the bits of one word.
const _: () = assert!(JSON_DEPTH <= u64::BITS as usize);

/// Why a text is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScanError {
    /// No JSON value, or more than one; the offset of the first byte that cannot be.
    Syntax(usize),
    /// Deeper than [`JSON_DEPTH`].
    Depth,
}

/// Checks that `data` is one JSON value, but for its texts' UTF-8. Says whether there are line breaks between tokens.
pub(super) fn scan(data: &[u8]) -> Result<bool, ScanError> {
    let mut scanner = Scanner { data, at: 0, line_breaks: false };
    scanner.document()?;
    Ok(scanner.line_breaks)
}

/// A one in each byte of a word.
const ONES: u64 = u64::MAX / 255;
/// Each byte's highest bit.
const HIGH: u64 = ONES * 0x80;

struct Scanner<'a> {
    data: &'a [u8],
    at: usize,
    line_breaks: bool,
}

/// The containers around a place: a bit each, set for an object, the innermost lowest.
#[derive(Default)]
struct Containers {
    objects: u64,
    depth: usize,
}

impl Containers {
    fn open(&mut self, object: bool) -> Result<(), ScanError> {
        if self.depth == JSON_DEPTH {
            return Err(ScanError::Depth);
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u64::from(object);
        Ok(())
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
    }

    fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }
}

impl Scanner<'_> {
    fn document(&mut self) -> Result<(), ScanError> {
        let mut around = Containers::default();
        loop {
            if !self.value(&mut around)? {
                continue;
            }
            loop {
                self.skip_white_space();
                if around.depth == 0 {
                    return if self.at == self.data.len() { Ok(()) } else { Err(self.here()) };
                }
                match (self.next(), around.in_object()) {
                    (Some(b','), true) => {
                        self.field_name()?;
                        break;
                    }
                    (Some(b','), false) => break,
                    (Some(b'}'), true) | (Some(b']'), false) => around.close(),
                    _ => return Err(self.before()),
                }
            }
        }
    }

    /// Passes over a value, or over what opens one. Says whether the value has ended.
    fn value(&mut self, around: &mut Containers) -> Result<bool, ScanError> {
        self.skip_white_space();
        match self.next() {
            Some(b'"') => self.text()?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word(b"rue")?,
            Some(b'f') => self.word(b"alse")?,
            Some(b'n') => self.word(b"ull")?,
            Some(b'[') => {
                around.open(false)?;
                self.skip_white_space();
                if self.peek() != Some(b']') {
                    return Ok(false);
                }
                self.at += 1;
                around.close();
            }
            Some(b'{') => {
                around.open(true)?;
                self.skip_white_space();
                if self.peek() != Some(b'}') {
                    self.field_name()?;
                    return Ok(false);
                }
                self.at += 1;
                around.close();
            }
            _ => return Err(self.before()),
        }
        Ok(true)
    }

    /// A field's name and its colon.
    fn field_name(&mut self) -> Result<(), ScanError> {
        self.skip_white_space();
        self.expect(b'"')?;
        self.text()?;
        self.skip_white_space();
        self.expect(b':')
    }

    /// A text whose opening quote was passed.
    fn text(&mut self) -> Result<(), ScanError> {
        loop {
            self.skip_plain();
            match self.next() {
                Some(b'"') => return Ok(()),
                Some(b'\\') => match self.next() {
                    Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {}
                    Some(b'u') => {
                        for _ in 0..4 {
                            if !self.next().is_some_and(|digit| digit.is_ascii_hexdigit()) {
                                return Err(self.before());
                            }
                        }
                    }
                    _ => return Err(self.before()),
                },
                // The end, or a control character.
                _ => return Err(self.before()),
            }
        }
    }

    /// Passes over what needs no look: no quote, no backslash, no control character. Most texts are long runs of that.
    fn skip_plain(&mut self) {
        /// What a compiler turns into a few wide instructions.
        const WIDE: usize = 32;
        while let Some(chunk) = self.data[self.at..].first_chunk::<WIDE>() {
            let found = chunk.iter().fold(0, |found, &byte| {
                found | u8::from(byte < 0x20) | u8::from(byte == b'"') | u8::from(byte == b'\\')
            });
            if found != 0 {
                break;
            }
            self.at += WIDE;
        }
        // Eight bytes at a time, by what borrows from a byte's highest bit; the lowest that does is exact.
        while let Some(chunk) = self.data[self.at..].first_chunk() {
            let word = u64::from_le_bytes(*chunk);
            let quote = word ^ (ONES * b'"' as u64);
            let backslash = word ^ (ONES * b'\\' as u64);
            let found = (word.wrapping_sub(ONES * 0x20) & !word)
                | (quote.wrapping_sub(ONES) & !quote)
                | (backslash.wrapping_sub(ONES) & !backslash);
            if found & HIGH != 0 {
                self.at += (found & HIGH).trailing_zeros() as usize / 8;
                return;
            }
            self.at += 8;
        }
        while self.peek().is_some_and(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
            self.at += 1;
        }
    }

    /// A number whose first byte was passed.
    fn number(&mut self) -> Result<(), ScanError> {
        if self.data[self.at - 1] == b'-' {
            self.at += 1;
        }
        match self.data.get(self.at - 1) {
            Some(b'0') => {}
            Some(b'1'..=b'9') => self.skip_digits(),
            _ => return Err(self.before()),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// One digit or more.
    fn digits(&mut self) -> Result<(), ScanError> {
        if !self.next().is_some_and(|byte| byte.is_ascii_digit()) {
            return Err(self.before());
        }
        self.skip_digits();
        Ok(())
    }

    fn skip_digits(&mut self) {
        while let Some(chunk) = self.data[self.at..].first_chunk() {
            let word = u64::from_le_bytes(*chunk);
            // A digit's upper half is 3, and stays so with 6 added.
            let uppers = (word & (ONES * 0xf0)) | (word.wrapping_add(ONES * 6) & (ONES * 0xf0)) >> 4;
            if uppers != ONES * 0x33 {
                break;
            }
            self.at += 8;
        }
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    /// The rest of `true`, `false` or `null`.
    fn word(&mut self, rest: &[u8]) -> Result<(), ScanError> {
        if !self.data[self.at..].starts_with(rest) {
            return Err(self.here());
        }
        self.at += rest.len();
        Ok(())
    }

    fn skip_white_space(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\n' | b'\r')) = self.peek() {
            self.line_breaks |= matches!(byte, b'\n' | b'\r');
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), ScanError> {
        if self.next() == Some(byte) { Ok(()) } else { Err(self.before()) }
    }

    fn peek(&self) -> Option<u8> {
        self.data.get(self.at).copied()
    }

    /// The next byte, which is passed. At the end it counts one on, so that [`Self::before`] is the end.
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek();
        self.at += 1;
        byte
    }

    fn here(&self) -> ScanError {
        ScanError::Syntax(self.at)
    }

    fn before(&self) -> ScanError {
        ScanError::Syntax(self.at - 1)
    }
}
