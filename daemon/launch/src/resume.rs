//! How another outside goes on with the frames of a sandbox where a killed one stopped.
//!
//! A process that is killed stops between any two instructions: in the middle of a frame that it writes, and in the middle of
//! one that it reads. The two directions need two answers.
//!
//! *Towards paw-init nothing is ever torn.* Linux takes a write of at most [`MAX_WRITE`] bytes to a pipe or FIFO whole or not
//! at all, whoever dies meanwhile, and reads it in order. So a frame is one such write, and a longer one is cut: its payload
//! goes ahead in [`Tag::Part`] frames, and the frame itself has the rest ([`writes`]). Parts without their frame are forgotten
//! at the next [`Tag::Resume`].
//!
//! *From paw-init the rest is skipped.* The new outside sends [`Tag::Resume`] with a [`Nonce`] that nobody can guess, and throws
//! away what it reads until that nonce comes back ([`Seeker`]). Behind it comes [`Resumed`]: each command with how much of its
//! streams was acknowledged. Then paw-init says again every byte that was not, and every end that was not forgotten.
//!
//! ```text
//! new outside                     paw-init
//!    │ ── resume(nonce) ────────────► │   forgets parts and whatever it had not written yet
//!    │ ◄─ …half a frame, frames…      │   thrown away
//!    │ ◄─ resume(nonce, resumed) ──── │
//!    │ ◄─ stdout(1) exited(1) … ───── │   from the last acknowledged byte on
//! ```
//!
//! So acknowledging means: taken, and safe. What comes between is bounded by the window of each stream, which is also what
//! paw-init keeps, out of the memory of its own sandbox.

use serde::{Deserialize, Serialize};

use crate::frame::{HEADER, MAX_PAYLOAD, Tag, header};

/// The most bytes that a pipe takes whole or not at all: `PIPE_BUF` of Linux.
pub const MAX_WRITE: usize = 4096;

/// The most payload of a frame that is one write.
pub const MAX_PIECE: usize = MAX_WRITE - HEADER;

/// What tells the answer to one [`Tag::Resume`] from everything that was said before it.
pub type Nonce = [u8; 16];

/// Bytes of an answer before the length of its list is known: tag, child, nonce.
const SIGN: usize = 1 + 4 + size_of::<Nonce>();

/// What paw-init answers to [`Tag::Resume`], behind the nonce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resumed {
    /// Every command that runs, or whose end is not forgotten.
    pub children: Vec<ResumedChild>,
}

/// One command, as far as the earlier outside got with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumedChild {
    /// Its number.
    pub number: u32,
    /// Bytes of stdout that were acknowledged; what it said after them follows.
    pub stdout: u64,
    /// Bytes of stderr that were acknowledged.
    pub stderr: u64,
    /// Bytes of stdin that the command has taken.
    pub stdin: u64,
    /// Whether it would take more input: its stdin is open, and its end was not told.
    pub takes_input: bool,
}

/// The writes that carry one frame, each whole or not at all.
pub fn writes(tag: Tag, child: u32, payload: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    debug_assert!(payload.len() <= MAX_PAYLOAD);
    let pieces = payload.len().div_ceil(MAX_PIECE).max(1);
    (1..=pieces).map(move |number| {
        let piece = &payload[(number - 1) * MAX_PIECE..payload.len().min(number * MAX_PIECE)];
        let tag = if number < pieces { Tag::Part } else { tag };
        let mut write = Vec::with_capacity(HEADER + piece.len());
        write.extend_from_slice(&header(piece.len(), tag, child));
        write.extend_from_slice(piece);
        write
    })
}

/// Why the answer was not found, or is none.
#[derive(Debug, thiserror::Error)]
pub enum NotResumed {
    /// More was said before the answer than paw-init can have had to say.
    #[error("{0} bytes came, and no answer among them")]
    TooMuch(u64),
    /// The answer is longer than a frame.
    #[error("its answer has {0} bytes")]
    TooLong(usize),
    /// The answer is not what it must be.
    #[error("its answer cannot be read")]
    Unreadable(#[source] serde_json::Error),
}

/// Looks for the answer to one [`Tag::Resume`] in what a sandbox says.
#[derive(Debug)]
pub struct Seeker {
    /// Tag, child and nonce, as they come in a row.
    sign: [u8; SIGN],
    bytes: Vec<u8>,
    seen: u64,
    most: u64,
}

impl Seeker {
    /// One that gives up after `most` bytes.
    #[must_use]
    pub fn new(nonce: &Nonce, most: u64) -> Self {
        let mut sign = [0; SIGN];
        sign[0] = Tag::Resume as u8;
        sign[SIGN - nonce.len()..].copy_from_slice(nonce);
        Self {
            sign,
            bytes: Vec::new(),
            seen: 0,
            most,
        }
    }

    /// Takes what came. Once the answer is whole: what it says, and the bytes behind it.
    ///
    /// # Errors
    /// When there is too much before it, or it is none.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<(Resumed, Vec<u8>)>, NotResumed> {
        self.seen += bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        let length_at = size_of::<u32>();
        let found = self
            .bytes
            .windows(SIGN)
            .skip(length_at)
            .position(|window| window == self.sign);
        let Some(at) = found else {
            if self.seen > self.most {
                return Err(NotResumed::TooMuch(self.seen));
            }
            // The answer may have begun: its length, and all of its sign but the last byte.
            let kept = self.bytes.len().min(length_at + SIGN - 1);
            self.bytes.drain(..self.bytes.len() - kept);
            return Ok(None);
        };
        // `at` counts from the first place where a length can stand before it.
        self.bytes.drain(..at);
        let (length, rest) = self
            .bytes
            .split_first_chunk::<4>()
            .expect("a length stands before the sign");
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let nonce = size_of::<Nonce>();
        if !(nonce..=MAX_PAYLOAD).contains(&length) {
            return Err(NotResumed::TooLong(length));
        }
        let Some((list, behind)) = rest[SIGN..].split_at_checked(length - nonce) else {
            return Ok(None);
        };
        let resumed = serde_json::from_slice(list).map_err(NotResumed::Unreadable)?;
        Ok(Some((resumed, behind.to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::parse_header;

    const NONCE: Nonce = *b"nobody guesses !";

    fn answer(list: &Resumed) -> Vec<u8> {
        let payload = [&NONCE[..], &serde_json::to_vec(list).unwrap()].concat();
        [&header(payload.len(), Tag::Resume, 0)[..], &payload].concat()
    }

    fn list() -> Resumed {
        let child = ResumedChild {
            number: 7,
            stdout: 1 << 40,
            stderr: 0,
            stdin: 3,
            takes_input: true,
        };
        Resumed {
            children: vec![child],
        }
    }

    #[test]
    fn every_write_is_whole_or_not_and_together_they_are_the_frame() {
        for length in [
            0,
            1,
            MAX_PIECE - 1,
            MAX_PIECE,
            MAX_PIECE + 1,
            3 * MAX_PIECE,
            MAX_PAYLOAD,
        ] {
            let payload: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let writes: Vec<Vec<u8>> = writes(Tag::Start, 9, &payload).collect();
            let mut together = Vec::new();
            for (at, write) in writes.iter().enumerate() {
                assert!(write.len() <= MAX_WRITE);
                let (head, piece) = write.split_first_chunk::<HEADER>().unwrap();
                let last = at + 1 == writes.len();
                let tag = if last { Tag::Start } else { Tag::Part };
                assert_eq!(parse_header(*head), Ok((piece.len(), tag, 9)));
                together.extend_from_slice(piece);
            }
            assert_eq!(together, payload);
        }
    }

    #[test]
    fn answer_is_found_behind_any_half_frame_however_it_is_cut() {
        let before = [
            &header(300, Tag::Stdout, 1)[3..],
            &[14, 0, 0, 0, 0],
            &NONCE[..15],
            &header(5, Tag::Resume, 0),
        ]
        .concat();
        let whole = [&before[..], &answer(&list()), b"behind"].concat();
        for first in 0..whole.len() {
            let (one, two) = whole.split_at(first);
            let mut seeker = Seeker::new(&NONCE, 1 << 20);
            let (found, mut behind) = match seeker.take(one).unwrap() {
                Some((found, behind)) => (found, [&behind[..], two].concat()),
                None => seeker.take(two).unwrap().unwrap(),
            };
            assert_eq!(found, list(), "cut at {first}");
            assert!(b"behind".ends_with(&behind[..]) || behind.len() <= 6);
            behind.truncate(6);
            assert_eq!(behind, b"behind", "cut at {first}");
        }
        let mut seeker = Seeker::new(&NONCE, 1 << 20);
        let mut found = None;
        for byte in &whole[..whole.len() - 6] {
            assert!(found.is_none());
            found = seeker.take(&[*byte]).unwrap();
        }
        assert_eq!(found, Some((list(), Vec::new())));
    }

    #[test]
    fn who_never_answers_is_given_up_and_costs_no_memory() {
        let mut seeker = Seeker::new(&NONCE, 1_000_000);
        let mut given_up = false;
        for _ in 0..200 {
            match seeker.take(&[b'x'; 10_000]) {
                Ok(None) => assert!(seeker.bytes.len() < 100),
                Ok(Some(_)) => panic!("there is no answer"),
                Err(NotResumed::TooMuch(seen)) => {
                    given_up = true;
                    assert!(seen <= 1_010_000, "{seen}");
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!(given_up);
    }

    #[test]
    fn answer_that_is_none_is_refused() {
        let mut seeker = Seeker::new(&NONCE, 1000);
        let payload = [&NONCE[..], b"[]"].concat();
        let said = [&header(payload.len(), Tag::Resume, 0)[..], &payload].concat();
        assert!(matches!(seeker.take(&said), Err(NotResumed::Unreadable(_))));
        let mut said = answer(&list());
        said[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut seeker = Seeker::new(&NONCE, 1000);
        assert!(matches!(seeker.take(&said), Err(NotResumed::TooLong(_))));
    }
}
