//! Connections of one sandbox on their way to paw-egress and back. What they carry is not looked at, only counted.
//!
//! ```text
//!  paw-init ── hear() ──► lanes: at most a window each ──► task ──► paw-egress
//!  paw-init ◄── frames ◄── task ◄── paw-egress ── decisions ──► whoever records them
//! ```
//!
//! The task that reads from the sandbox never waits: what paw-egress has not taken is bounded by the window of its connection.
//! Where paw-egress is away, or has never been there, every connection is closed at once.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use paw_api::egress::{
    Added, Decision, Finished, MAX_PAYLOAD, NetRule, Recorded, Tag as Out, Taken,
};
use paw_launch::{
    egress::{EgressTaken, MAX_CONNECTIONS, WINDOW},
    frame::Tag,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::{Notify, mpsc, oneshot},
    time::timeout,
};

use super::{
    egress::{self, EgressError, Way},
    frames::{Sandbox, SandboxError},
    wire,
};

/// How long paw-egress may take to say how everything ended.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// How long paw-init may take to open the proxy's port.
const PORT_LIMIT: Duration = Duration::from_secs(10);

/// What paw-egress says about a run.
#[derive(Debug)]
pub enum Said {
    /// It has judged a request. One that is allowed waits for [`Answerer::recorded`].
    Decided(Box<Decision>),
    /// Something that was allowed has ended.
    Finished(Finished),
    /// What became of an approved rule, by the number it was given.
    Added(u32, Added),
}

/// Answers paw-egress, as long as the run lasts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Answerer(mpsc::Sender<Bytes>);

impl Answerer {
    /// A channel for answers, and what goes into it.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Bytes>) {
        let (to, from) = mpsc::channel(16);
        (Self(to), from)
    }

    /// Says whether a decision is on record. Returns whether anybody hears it.
    pub async fn recorded(&self, recorded: Recorded) -> bool {
        let frame = egress::control(Out::Recorded, 0, &recorded);
        self.0.send(frame).await.is_ok()
    }

    /// Asks for a rule that a person has approved to be added; [`Said::Added`] has the same number. Returns whether anybody hears it.
    pub async fn allow(&self, number: u32, rule: &NetRule) -> bool {
        self.0
            .send(egress::control(Out::Allow, number, rule))
            .await
            .is_ok()
    }
}

/// A sandbox broke the protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// The connections of one sandbox.
#[derive(Default)]
pub(super) struct Relay {
    state: Mutex<Lanes>,
    /// There is something for paw-egress.
    outward: Notify,
    /// The sandbox is over: what is open is ended, and how it ended is still heard.
    over: AtomicBool,
}

#[derive(Default)]
struct Lanes {
    open: BTreeMap<u32, Lane>,
    last: u32,
    alive: bool,
}

#[derive(Default)]
struct Lane {
    /// paw-egress knows of it.
    opened: bool,
    /// From the sandbox, and not passed on yet.
    data: BytesMut,
    /// From the sandbox, and not taken by paw-egress yet; what is in `data` included.
    unacknowledged: usize,
    ended: bool,
    ended_passed: bool,
    /// Acknowledged by the sandbox, and not passed on yet.
    taken: u32,
    closed: bool,
    closed_passed: bool,
    /// Passed on to the sandbox, and not acknowledged by it.
    outstanding: usize,
    /// What paw-egress, or we in its place, said last.
    outside_ended: bool,
    outside_closed: bool,
    /// There is nobody outside: the sandbox has to be told.
    orphaned: bool,
}

impl Lane {
    /// Both sides have said everything. The sandbox forgets it then.
    const fn is_over_inside(&self) -> bool {
        self.ended && self.closed && self.outside_ended && self.outside_closed
    }

    /// And where somebody is outside, all of it was passed on.
    const fn is_over(&self, alive: bool) -> bool {
        let passed = !alive || (self.ended_passed && self.closed_passed);
        self.is_over_inside() && passed
    }
}

impl Relay {
    fn lock(&self) -> MutexGuard<'_, Lanes> {
        // No code that can panic runs under this lock, so the state is whole even after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A frame of the sandbox. Returns whether the sandbox has to be told something.
    pub(super) fn hear(&self, tag: Tag, number: u32, payload: &[u8]) -> Result<bool, Broken> {
        let mut lanes = self.lock();
        let alive = lanes.alive;
        if tag == Tag::EgressOpen {
            // What is only still to be passed on takes no place. Of such there are never more than of the others: each was known to
            // paw-egress when the last ones were passed on.
            let of_sandbox = lanes.open.values().filter(|lane| !lane.is_over_inside());
            if number <= lanes.last
                || of_sandbox.count() >= MAX_CONNECTIONS
                || lanes.open.len() >= 2 * MAX_CONNECTIONS
            {
                return Err(Broken("it opened a connection that it may not open"));
            }
            lanes.last = number;
            lanes.open.insert(
                number,
                Lane {
                    orphaned: !alive,
                    ..Lane::default()
                },
            );
        } else {
            let Some(lane) = lanes.open.get_mut(&number) else {
                return Err(Broken("it speaks of a connection that is not open"));
            };
            match tag {
                Tag::EgressData => {
                    if lane.ended || lane.unacknowledged + payload.len() > WINDOW {
                        return Err(Broken("more bytes of a connection than its window allows"));
                    }
                    lane.unacknowledged += payload.len();
                    if alive && !lane.outside_closed {
                        lane.data.extend_from_slice(payload);
                    }
                }
                Tag::EgressEnd => lane.ended = true,
                Tag::EgressTaken => {
                    let taken: EgressTaken = serde_json::from_slice(payload)
                        .map_err(|_| Broken("a control frame of a connection is not readable"))?;
                    let bytes = taken.bytes as usize;
                    if lane.closed || bytes > lane.outstanding {
                        return Err(Broken("it took more of a connection than it was given"));
                    }
                    lane.outstanding -= bytes;
                    lane.taken += taken.bytes;
                    lane.closed = taken.closed;
                }
                _ => return Err(Broken("a frame that is no connection's")),
            }
            if lane.is_over(alive) {
                lanes.open.remove(&number);
            }
        }
        drop(lanes);
        self.outward.notify_one();
        Ok(!alive)
    }

    /// Frames for the sandbox that end what has nobody outside.
    pub(super) fn due(&self) -> Vec<Bytes> {
        let mut due = Vec::new();
        let mut lanes = self.lock();
        let alive = lanes.alive;
        lanes.open.retain(|number, lane| {
            if std::mem::take(&mut lane.orphaned) {
                if !lane.outside_closed {
                    lane.outside_closed = true;
                    let taken = EgressTaken {
                        bytes: 0,
                        closed: true,
                    };
                    due.extend(wire::control(Tag::EgressTaken, *number, &taken));
                }
                if !lane.outside_ended {
                    lane.outside_ended = true;
                    due.push(wire::data(Tag::EgressEnd, *number, &[]));
                }
            }
            !lane.is_over(alive)
        });
        due
    }

    /// paw-egress is there.
    pub(super) fn begin(&self) {
        self.lock().alive = true;
    }

    /// The sandbox is over.
    pub(super) fn close(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.outward.notify_one();
    }

    /// paw-egress is gone: whatever is open has nobody outside any more.
    fn orphan(&self) {
        let mut lanes = self.lock();
        lanes.alive = false;
        for lane in lanes.open.values_mut() {
            lane.orphaned = true;
            lane.data = BytesMut::new();
        }
    }

    /// Frames for paw-egress.
    fn outward(&self) -> Vec<Bytes> {
        let mut due = Vec::new();
        self.lock().open.retain(|number, lane| {
            if !lane.opened {
                lane.opened = true;
                due.push(egress::data(Out::Open, *number, &[]));
            }
            while !lane.data.is_empty() {
                let piece = lane.data.split_to(lane.data.len().min(MAX_PAYLOAD));
                due.push(egress::data(Out::Data, *number, &piece));
            }
            if lane.ended && !lane.ended_passed {
                lane.ended_passed = true;
                due.push(egress::data(Out::End, *number, &[]));
            }
            if !lane.closed_passed && (lane.taken > 0 || lane.closed) {
                let taken = Taken {
                    bytes: std::mem::take(&mut lane.taken),
                    closed: lane.closed,
                };
                lane.closed_passed = lane.closed;
                due.push(egress::control(Out::Taken, *number, &taken));
            }
            !lane.is_over(true)
        });
        due
    }

    /// A frame of paw-egress about a connection, as the sandbox is told it; nothing for one that is over.
    fn inward(&self, tag: Out, number: u32, payload: &[u8]) -> Result<Option<Bytes>, EgressError> {
        let mut lanes = self.lock();
        let Some(lane) = lanes.open.get_mut(&number) else {
            return Ok(None);
        };
        let frame = match tag {
            Out::Data => {
                lane.outstanding += payload.len();
                Some(wire::pieces(Tag::EgressData, number, payload))
            }
            Out::End => {
                lane.outside_ended = true;
                Some(wire::data(Tag::EgressEnd, number, &[]))
            }
            Out::Taken => {
                let Taken { bytes, closed } = egress::read(payload)?;
                lane.unacknowledged = lane.unacknowledged.saturating_sub(bytes as usize);
                lane.outside_closed |= closed;
                wire::control(Tag::EgressTaken, number, &EgressTaken { bytes, closed })
            }
            other => return Err(EgressError::Confused(format!("it sends a frame {other:?}"))),
        };
        if lane.is_over(true) {
            lanes.open.remove(&number);
        }
        Ok(frame)
    }
}

impl Sandbox {
    /// Opens the proxy's port inside and carries its connections over this way.
    ///
    /// # Errors
    /// When the sandbox is gone, or the port is not to be had.
    pub(super) async fn open_way(&mut self, way: Way) -> Result<(), SandboxError> {
        let inside = &self.starter.inside;
        let (tell, told) = oneshot::channel();
        *inside.port.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
        inside.relay.begin();
        self.way.spawn(carry(
            way,
            inside.relay.clone(),
            self.frames.clone(),
            inside.tell_writer.clone(),
        ));
        let gone = |_| inside.fault(self.id());
        self.frames
            .send(wire::data(Tag::EgressListen, 0, &[]))
            .await
            .map_err(|_| inside.fault(self.id()))?;
        let listening = timeout(PORT_LIMIT, told)
            .await
            .map_err(|_| SandboxError::Gone)?
            .map_err(gone)?;
        match listening.errno {
            None => Ok(()),
            Some(errno) => Err(SandboxError::Port(io::Error::from_raw_os_error(errno))),
        }
    }
}

/// Carries everything between the sandbox and paw-egress until either is gone.
pub(super) async fn carry(
    way: Way,
    relay: Arc<Relay>,
    frames: mpsc::Sender<Bytes>,
    tell_writer: Arc<Notify>,
) {
    let Way {
        stream,
        said,
        answers,
    } = way;
    let (from, to) = stream.into_split();
    let hearing = hear(from, &relay, &frames, &said);
    tokio::pin!(hearing);
    let ended = tokio::select! {
        heard = &mut hearing => heard,
        written = tell(to, &relay, answers) => match written {
            // How the last connections ended is part of the record.
            Ok(_closed) => timeout(LAST_WORDS, hearing).await.unwrap_or(Ok(())),
            Err(error) => Err(error),
        },
    };
    if let Err(error) = ended {
        tracing::warn!(error = %paw_log::Chain(&error), "the way out of a sandbox is lost");
    }
    relay.orphan();
    tell_writer.notify_one();
}

async fn hear(
    mut from: OwnedReadHalf,
    relay: &Relay,
    frames: &mpsc::Sender<Bytes>,
    said: &mpsc::Sender<Said>,
) -> Result<(), EgressError> {
    while let Some((tag, number, payload)) = egress::next(&mut from).await? {
        let told = match tag {
            Out::Decision => said
                .send(Said::Decided(Box::new(egress::read(&payload)?)))
                .await
                .is_ok(),
            Out::Finished => said
                .send(Said::Finished(egress::read(&payload)?))
                .await
                .is_ok(),
            Out::Added => said
                .send(Said::Added(number, egress::read(&payload)?))
                .await
                .is_ok(),
            _ => match relay.inward(tag, number, &payload)? {
                // A sandbox that is over hears nothing any more.
                Some(frame) => {
                    let _ = frames.send(frame).await;
                    true
                }
                None => true,
            },
        };
        if !told {
            // Nobody records any more, so nothing may go on.
            return Ok(());
        }
    }
    Ok(())
}

/// Gives the answers back when the sandbox is over; only then may they be dropped, and with them whoever gives them.
async fn tell(
    mut to: OwnedWriteHalf,
    relay: &Relay,
    mut answers: mpsc::Receiver<Bytes>,
) -> Result<mpsc::Receiver<Bytes>, EgressError> {
    loop {
        if relay.over.load(Ordering::Relaxed) {
            to.shutdown().await.map_err(EgressError::Away)?;
            return Ok(answers);
        }
        tokio::select! {
            answer = answers.recv() => match answer {
                Some(answer) => to.write_all(&answer).await.map_err(EgressError::Away)?,
                None => return Ok(answers),
            },
            () = relay.outward.notified() => {
                for frame in relay.outward() {
                    to.write_all(&frame).await.map_err(EgressError::Away)?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bytes: usize, closed: bool) -> Vec<u8> {
        let bytes = u32::try_from(bytes).unwrap();
        serde_json::to_vec(&EgressTaken { bytes, closed }).unwrap()
    }

    fn tags(frames: &[Bytes]) -> Vec<u8> {
        frames.iter().map(|frame| frame[4]).collect()
    }

    #[test]
    fn both_wires_have_the_same_bounds() {
        assert_eq!(WINDOW, paw_api::egress::WINDOW);
        assert_eq!(MAX_CONNECTIONS, paw_api::egress::MAX_CONNECTIONS);
    }

    #[test]
    fn without_anybody_outside_a_connection_is_closed_at_once() {
        let relay = Relay::default();
        assert_eq!(relay.hear(Tag::EgressOpen, 1, &[]), Ok(true));
        relay.hear(Tag::EgressData, 1, b"GET").unwrap();
        assert_eq!(
            tags(&relay.due()),
            [Tag::EgressTaken as u8, Tag::EgressEnd as u8]
        );
        relay.hear(Tag::EgressEnd, 1, &[]).unwrap();
        relay.hear(Tag::EgressTaken, 1, &taken(0, true)).unwrap();
        assert!(relay.lock().open.is_empty());
    }

    #[test]
    fn a_connection_is_passed_on_whole_and_then_forgotten() {
        let relay = Relay::default();
        relay.begin();
        relay.hear(Tag::EgressOpen, 1, &[]).unwrap();
        relay.hear(Tag::EgressData, 1, b"GE").unwrap();
        relay.hear(Tag::EgressData, 1, b"T").unwrap();
        relay.hear(Tag::EgressEnd, 1, &[]).unwrap();
        let passed = relay.outward();
        assert_eq!(
            tags(&passed),
            [Out::Open as u8, Out::Data as u8, Out::End as u8]
        );
        assert!(passed[1].ends_with(b"GET"));
        let closed = serde_json::to_vec(&Taken {
            bytes: 3,
            closed: true,
        });
        relay.inward(Out::Taken, 1, &closed.unwrap()).unwrap();
        relay.inward(Out::Data, 1, b"answer").unwrap();
        relay.inward(Out::End, 1, &[]).unwrap();
        relay.hear(Tag::EgressTaken, 1, &taken(6, true)).unwrap();
        assert_eq!(tags(&relay.outward()), [Out::Taken as u8]);
        assert!(relay.lock().open.is_empty());
    }

    #[test]
    fn a_sandbox_that_breaks_the_protocol_of_a_connection_is_found_out() {
        let relay = Relay::default();
        relay.begin();
        relay.hear(Tag::EgressOpen, 1, &[]).unwrap();
        relay.hear(Tag::EgressData, 1, &vec![0; WINDOW]).unwrap();
        assert!(relay.hear(Tag::EgressData, 1, &[0]).is_err(), "overrun");
        assert!(relay.hear(Tag::EgressOpen, 1, &[]).is_err(), "reused");
        assert!(relay.hear(Tag::EgressData, 9, &[]).is_err(), "unknown");
        assert!(
            relay.hear(Tag::EgressTaken, 1, &taken(1, false)).is_err(),
            "more than was given"
        );
        assert!(relay.hear(Tag::EgressTaken, 1, b"?").is_err(), "unreadable");
        let most = u32::try_from(MAX_CONNECTIONS).unwrap();
        for number in 2..=most {
            relay.hear(Tag::EgressOpen, number, &[]).unwrap();
        }
        assert!(
            relay.hear(Tag::EgressOpen, most + 1, &[]).is_err(),
            "too many"
        );
    }

    #[test]
    fn a_connection_that_is_over_for_the_sandbox_takes_no_place() {
        let relay = Relay::default();
        relay.begin();
        let most = u32::try_from(MAX_CONNECTIONS).unwrap();
        for number in 1..=most {
            relay.hear(Tag::EgressOpen, number, &[]).unwrap();
        }
        relay.outward();
        let closed = serde_json::to_vec(&Taken {
            bytes: 0,
            closed: true,
        });
        let closed = closed.unwrap();
        for number in 1..=most {
            relay.inward(Out::Taken, number, &closed).unwrap();
            relay.inward(Out::End, number, &[]).unwrap();
            relay.hear(Tag::EgressEnd, number, &[]).unwrap();
            relay
                .hear(Tag::EgressTaken, number, &taken(0, true))
                .unwrap();
        }
        // Nothing was passed on in between.
        for number in most + 1..=2 * most {
            relay.hear(Tag::EgressOpen, number, &[]).unwrap();
        }
        assert!(
            relay.hear(Tag::EgressOpen, 2 * most + 1, &[]).is_err(),
            "too many"
        );
        // Ends are passed on before what took their places begins.
        let passed = tags(&relay.outward());
        let first = passed.iter().position(|tag| *tag == Out::Open as u8);
        assert_eq!(first, Some(2 * MAX_CONNECTIONS));
        assert_eq!(passed.len(), 3 * MAX_CONNECTIONS);
    }

    #[test]
    fn the_end_of_paw_egress_ends_every_connection() {
        let relay = Relay::default();
        relay.begin();
        relay.hear(Tag::EgressOpen, 1, &[]).unwrap();
        relay.outward();
        relay.orphan();
        assert_eq!(
            tags(&relay.due()),
            [Tag::EgressTaken as u8, Tag::EgressEnd as u8]
        );
    }
}
