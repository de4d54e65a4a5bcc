//! UTF-8 that arrives in pieces.

/// Checks text piece by piece and knows of a fault at the first byte that no valid text could hold there.
#[derive(Debug, Default)]
pub(super) struct Utf8 {
    /// The beginning of a character whose end has not come: at most three bytes.
    begun: [u8; 4],
    len: u8,
}

/// The bytes are not, and with whatever may follow never will be, UTF-8.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotUtf8;

impl Utf8 {
    /// Takes the next piece.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> Result<(), NotUtf8> {
        while self.len > 0 {
            let Some((&byte, rest)) = piece.split_first() else {
                return Ok(());
            };
            piece = rest;
            let end = usize::from(self.len);
            self.begun[end] = byte;
            match std::str::from_utf8(&self.begun[..=end]) {
                Ok(_) => self.len = 0,
                Err(fault) if fault.error_len().is_none() => self.len += 1,
                Err(_) => return Err(NotUtf8),
            }
        }
        match std::str::from_utf8(piece) {
            Ok(_) => Ok(()),
            // No `error_len`: the piece ends amid a character, and so far that character is a valid one.
            Err(fault) if fault.error_len().is_none() => {
                let begun = &piece[fault.valid_up_to()..];
                self.begun[..begun.len()].copy_from_slice(begun);
                self.len = begun.len() as u8;
                Ok(())
            }
            Err(_) => Err(NotUtf8),
        }
    }

    /// The text is over: it must not end amid a character.
    pub(super) fn finish(&self) -> Result<(), NotUtf8> {
        if self.len == 0 { Ok(()) } else { Err(NotUtf8) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first byte at which `bytes`, fed in pieces of `size`, is refused; its length if only the end is.
    fn refused_at(bytes: &[u8], size: usize) -> Option<usize> {
        let mut utf8 = Utf8::default();
        for (piece, index) in bytes.chunks(size).zip(0..) {
            if utf8.push(piece).is_err() {
                return Some(index * size);
            }
        }
        utf8.finish().err().map(|NotUtf8| bytes.len())
    }

    #[test]
    fn whole_text_passes_in_pieces_of_any_size() {
        let text = "a\u{7f}\u{80}é\u{7ff}\u{800}κόσμε\u{d7ff}\u{e000}\u{ffff}\u{10000}𝄞\u{10ffff}".as_bytes();
        for size in 1..=text.len() {
            assert_eq!(refused_at(text, size), None, "pieces of {size}");
        }
    }

    #[test]
    fn a_fault_is_told_at_the_byte_that_makes_it_one() {
        let cases: [(&[u8], usize); 12] = [
            (b"\x80", 0),             // a continuation with no beginning
            (b"\xc0\xaf", 0),         // overlong
            (b"\xe0\x9f\xbf", 1),     // overlong
            (b"\xf0\x8f\xbf\xbf", 1), // overlong
            (b"\xed\xa0\x80", 1),     // a surrogate
            (b"\xed\xbf\xbf", 1),     // a surrogate
            (b"\xf4\x90\x80\x80", 1), // beyond U+10FFFF
            (b"\xf5\x80\x80\x80", 0), // beyond U+10FFFF
            (b"\xff", 0),             // never a byte of UTF-8
            (b"\xe2\x82a", 2),        // cut short by another character
            (b"\xf0\x9d\x84", 3),     // cut short by the end
            (b"\xce\xba\xce", 3),     // cut short by the end
        ];
        for (bytes, at) in cases {
            assert_eq!(refused_at(bytes, 1), Some(at), "{bytes:x?}");
        }
    }

    #[test]
    fn it_agrees_with_the_standard_library_on_every_sequence_of_three_bytes() {
        for first in 0..=255u8 {
            for second in 0..=255u8 {
                for third in
                    [0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc2, 0xe0, 0xf0, 0xff]
                {
                    let bytes = [first, second, third];
                    assert_eq!(
                        refused_at(&bytes, 1).is_none(),
                        std::str::from_utf8(&bytes).is_ok(),
                        "{bytes:x?}"
                    );
                }
            }
        }
    }
}
