//! Newline-delimited frames.
//!
//! tokio-util's `LinesCodec` ends the stream for good when a line is too long, and makes a `String` of each line; this one
//! skips the rest of such a line without keeping it, and hands out the bytes that were read.

use std::{io, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::{connection::Incoming, dispatch::Answer, flow::Flow};

/// A write buffer that grew beyond this for one answer is given back before the next, in bytes.
const MAX_IDLE: usize = 256 * 1024;

/// Line by line, at most `limit` bytes each.
pub(super) struct Lines {
    limit: usize,
    /// How much of the buffer was searched for a newline already.
    searched: usize,
    /// Within the rest of a line that was too long.
    skipping: bool,
    flow: Arc<Flow>,
}

impl Lines {
    pub(super) const fn new(limit: usize, flow: Arc<Flow>) -> Self {
        Self {
            limit,
            searched: 0,
            skipping: false,
            flow,
        }
    }

    fn line(&mut self, buffer: &mut BytesMut) -> Option<Incoming> {
        loop {
            let newline = buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n')
                .map(|at| self.searched + at);
            match newline {
                Some(at) => {
                    let line = buffer.split_to(at + 1);
                    self.searched = 0;
                    if std::mem::take(&mut self.skipping) {
                        continue;
                    }
                    return Some(if at > self.limit {
                        Incoming::TooBig
                    } else {
                        Incoming::Frame(line.freeze().slice(..at))
                    });
                }
                None if self.skipping => {
                    buffer.clear();
                    return None;
                }
                None if buffer.len() > self.limit => {
                    buffer.clear();
                    self.searched = 0;
                    self.skipping = true;
                    return Some(Incoming::TooBig);
                }
                None => {
                    self.searched = buffer.len();
                    return None;
                }
            }
        }
    }
}

impl Decoder for Lines {
    type Item = Incoming;
    type Error = io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Incoming>> {
        let found = self.line(buffer);
        self.flow
            .frame_ended(self.skipping || !buffer.is_empty(), buffer.len());
        Ok(found)
    }

    fn decode_eof(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Incoming>> {
        if let Some(found) = self.decode(buffer)? {
            return Ok(Some(found));
        }
        self.searched = 0;
        // A last line needs no newline: `printf '{…}' | socat - UNIX:…` means what it says.
        Ok((!buffer.is_empty()).then(|| Incoming::Frame(buffer.split().freeze())))
    }
}

impl Encoder<Answer> for Lines {
    type Error = io::Error;

    fn encode(&mut self, answer: Answer, buffer: &mut BytesMut) -> io::Result<()> {
        let text = answer.get().as_bytes();
        if buffer.is_empty() && buffer.capacity() > MAX_IDLE {
            *buffer = BytesMut::new();
        }
        buffer.reserve(text.len() + 1);
        buffer.put_slice(text);
        buffer.put_u8(b'\n');
        Ok(())
    }
}

/// The bytes of an answer with its newline, for a body that streams.
pub(super) fn line(answer: Answer) -> Bytes {
    let mut text = String::from(Box::<str>::from(answer));
    text.push('\n');
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(pieces: &[&str]) -> Vec<String> {
        let mut lines = Lines::new(4, Arc::default());
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        let name = |found| match found {
            Incoming::Frame(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Incoming::TooBig => "(too big)".into(),
            Incoming::Nothing => "(nothing)".into(),
        };
        for piece in pieces {
            buffer.extend_from_slice(piece.as_bytes());
            while let Some(found) = lines.decode(&mut buffer).unwrap() {
                seen.push(name(found));
            }
        }
        while let Some(found) = lines.decode_eof(&mut buffer).unwrap() {
            seen.push(name(found));
        }
        seen
    }

    fn check(pieces: &[&str], expected: &[&str]) {
        assert_eq!(frames(pieces), expected, "{pieces:?}");
    }

    #[test]
    fn lines_come_out_however_they_were_cut() {
        check(&["ab\ncd\n"], &["ab", "cd"]);
        check(&["a", "b", "\nc", "d\n\n"], &["ab", "cd", ""]);
        check(&["1234\n"], &["1234"]);
        check(&["last"], &["last"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_to_its_end() {
        check(&["12345\nab\n"], &["(too big)", "ab"]);
        check(&["12345", "67", "8\nab\n"], &["(too big)", "ab"]);
        check(&["12345678"], &["(too big)"]);
    }

    proptest::proptest! {
        #[test]
        fn where_the_bytes_were_cut_does_not_matter(text in "[ab\n]{0,40}", cuts in proptest::collection::vec(0_usize..40, 0..6)) {
            let whole = frames(&[&text]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect();
            proptest::prop_assert_eq!(frames(&pieces), whole);
        }
    }

    #[test]
    fn nothing_of_a_line_that_is_too_long_is_kept() {
        let mut lines = Lines::new(4, Arc::default());
        let mut buffer = BytesMut::new();
        for _ in 0..1000 {
            buffer.extend_from_slice(&[b'x'; 1024]);
            let _ = lines.decode(&mut buffer).unwrap();
            assert!(buffer.is_empty());
        }
        assert!(buffer.capacity() < 8192);
    }
}
