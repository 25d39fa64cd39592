//! What one user may have of pawd at a time, over all connections, so that nobody else waits for what that user floods it with.
//!
//! ```text
//! connections of a user ──▶ turn: one of them at a time is on a thread of the runtime, for a millisecond or so
//!    calls in flight ──▶ counted, and their bytes ── too many ──▶ busy
//!       that take long ──▶ place of the user ──▶ place of everybody ──▶ worked on, on a thread that nobody waits for
//! ```
//!
//! Turns are what makes it fair: whoever has one connection waits for one slice of each other user, however many connections those have
//! and whatever they send. A user's own connections wait for each other.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Semaphore,
};
use tokio_util::sync::PollSemaphore;

use super::Limits;

/// How long a connection goes on before others have their turn.
const SLICE: Duration = Duration::from_millis(1);

/// Methods that search, count or put together what may be long. pawd itself works on them, so there are few at a time in all.
const SEARCHES: &[&str] = &[
    "action.list",
    "action.show",
    "approval.list",
    "audit.find",
    "audit.list",
    "audit.verify",
    "job.history",
    "policy.explain",
    "route.show",
    "secret.log",
    "session.delete",
    "session.list",
    "session.show",
    "skill.verify",
    "system.backup",
    "system.metrics",
];

/// Methods that ask a helper, which answers one after the other, and may be waited for: there are few at a time of each user.
const ERRANDS: &[&str] = &[
    "sandbox.list",
    "sandbox.runtimes",
    "sandbox.show",
    "sandbox.stats",
    "system.doctor",
    "workspace.diff",
    "workspace.list",
];

/// What it takes to answer a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// A moment.
    Little,
    /// Time of pawd itself.
    Search,
    /// Time of a helper.
    Errand,
}

impl Takes {
    pub(super) fn of(method: &str) -> Self {
        if SEARCHES.contains(&method) {
            Self::Search
        } else if ERRANDS.contains(&method) {
            Self::Errand
        } else {
            Self::Little
        }
    }
}

/// What all connections of one user have together.
#[derive(Debug)]
pub(super) struct Share {
    turn: Arc<Semaphore>,
    long: Arc<Semaphore>,
    work: Arc<Semaphore>,
    calls: AtomicUsize,
    bytes: AtomicUsize,
    unsent: Arc<AtomicUsize>,
}

/// Why a user's call is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooMuch {
    /// As many calls are in flight as may be.
    Calls,
    /// They are as long as they may be together.
    Bytes,
    /// Answers wait that nobody reads.
    Unread,
}

impl TooMuch {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Calls => "this user has as many calls in flight as it may",
            Self::Bytes => "calls in flight of this user are as long as they may be together",
            Self::Unread => "answers of this user wait to be read, as many bytes as may",
        }
    }
}

impl Share {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            long: Arc::new(Semaphore::new(limits.long_frames_per_uid)),
            work: Arc::new(Semaphore::new(limits.work_per_uid)),
            calls: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            unsent: Arc::default(),
        }
    }

    /// A place for one more call of so many bytes.
    pub(super) fn fly(self: &Arc<Self>, bytes: usize, limits: &Limits) -> Result<Flight, TooMuch> {
        if self.calls.fetch_add(1, Relaxed) >= limits.in_flight_per_uid {
            self.calls.fetch_sub(1, Relaxed);
            return Err(TooMuch::Calls);
        }
        if self.bytes.fetch_add(bytes, Relaxed) + bytes > limits.in_flight_bytes_per_uid {
            self.bytes.fetch_sub(bytes, Relaxed);
            self.calls.fetch_sub(1, Relaxed);
            return Err(TooMuch::Bytes);
        }
        Ok(Flight {
            share: Arc::clone(self),
            bytes,
        })
    }

    /// Whether this user reads its answers, or there are few.
    pub(super) fn is_read(&self, limits: &Limits) -> Result<(), TooMuch> {
        if self.unsent.load(Relaxed) > limits.unsent_per_uid {
            Err(TooMuch::Unread)
        } else {
            Ok(())
        }
    }

    /// Places for work of this user that takes long.
    pub(super) fn work(&self) -> Arc<Semaphore> {
        Arc::clone(&self.work)
    }

    /// Places for long frames.
    pub(super) fn long(&self) -> PollSemaphore {
        PollSemaphore::new(Arc::clone(&self.long))
    }

    /// Counts answers that wait to be written.
    pub(super) fn unsent(&self) -> Unsent {
        Unsent {
            all: Arc::clone(&self.unsent),
            own: 0,
        }
    }
}

/// A call in flight; not counted any more when dropped.
#[derive(Debug)]
pub(super) struct Flight {
    share: Arc<Share>,
    bytes: usize,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.share.calls.fetch_sub(1, Relaxed);
        self.share.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

/// Bytes of a connection that wait to be written, counted with those of its user.
#[derive(Debug)]
pub(super) struct Unsent {
    all: Arc<AtomicUsize>,
    own: usize,
}

impl Unsent {
    pub(super) const fn bytes(&self) -> usize {
        self.own
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.own += bytes;
        self.all.fetch_add(bytes, Relaxed);
    }

    pub(super) fn written(&mut self) {
        self.all.fetch_sub(std::mem::take(&mut self.own), Relaxed);
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.written();
    }
}

/// When a connection's turn began, for those inside of it that may go on for long.
#[derive(Debug)]
pub(super) struct Slice {
    epoch: Instant,
    began: AtomicU64,
}

impl Slice {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            began: AtomicU64::new(0),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Lets others have their turn, if this one was long enough.
    pub(super) async fn pass_on(&self) {
        if u128::from(self.now() - self.began.load(Relaxed)) >= SLICE.as_micros() {
            tokio::task::yield_now().await;
        }
    }
}

/// A connection that is driven only in its user's turn.
pub(super) struct InTurn<'a> {
    turn: PollSemaphore,
    slice: Arc<Slice>,
    inner: BoxFuture<'a, ()>,
}

impl<'a> InTurn<'a> {
    pub(super) fn new(share: &Share, slice: Arc<Slice>, inner: BoxFuture<'a, ()>) -> Self {
        Self {
            turn: PollSemaphore::new(Arc::clone(&share.turn)),
            slice,
            inner,
        }
    }
}

impl Future for InTurn<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Nobody closes it.
        let _turn = ready!(self.turn.poll_acquire(cx));
        self.slice.began.store(self.slice.now(), Relaxed);
        self.inner.as_mut().poll(cx)
    }
}

/// Does what may take long on a thread that nobody waits for.
pub(super) fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        Ok(_) | Err(_) => work(),
    }
}

/// A future of which each step may take long.
pub(super) struct Aside<T>(pub(super) BoxFuture<'static, T>);

impl<T> Future for Aside<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        aside(|| self.0.as_mut().poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_in_the_table() {
        for name in SEARCHES.iter().chain(ERRANDS) {
            assert!(
                paw_api::methods::TABLE.iter().any(|it| it.name == *name),
                "{name}"
            );
        }
    }

    #[test]
    fn calls_and_bytes_of_a_user_are_bounded_and_given_back() {
        let limits = Limits {
            in_flight_per_uid: 2,
            in_flight_bytes_per_uid: 10,
            ..Limits::default()
        };
        let share = Arc::new(Share::new(&limits));
        let first = share.fly(6, &limits).unwrap();
        assert_eq!(share.fly(5, &limits).unwrap_err(), TooMuch::Bytes);
        let _second = share.fly(4, &limits).unwrap();
        assert_eq!(share.fly(0, &limits).unwrap_err(), TooMuch::Calls);
        drop(first);
        assert!(share.fly(6, &limits).is_ok());
    }

    #[test]
    fn who_does_not_read_asks_for_no_more() {
        let limits = Limits {
            unsent_per_uid: 10,
            ..Limits::default()
        };
        let share = Arc::new(Share::new(&limits));
        let (mut one, mut other) = (share.unsent(), share.unsent());
        one.add(6);
        assert_eq!(share.is_read(&limits), Ok(()));
        other.add(5);
        assert_eq!(share.is_read(&limits), Err(TooMuch::Unread));
        drop(other);
        assert_eq!(share.is_read(&limits), Ok(()));
        one.written();
        assert_eq!(one.bytes(), 0);
    }

    /// Says when it is being driven, and gives way in between.
    async fn driven(inside: Arc<AtomicUsize>, most: Arc<AtomicUsize>) {
        for _ in 0..200 {
            let now = inside.fetch_add(1, Relaxed) + 1;
            most.fetch_max(now, Relaxed);
            std::hint::black_box(vec![0_u8; 4096]);
            inside.fetch_sub(1, Relaxed);
            tokio::task::yield_now().await;
        }
    }

    async fn together(shares: &[&Arc<Share>]) -> usize {
        let (inside, most) = (Arc::default(), Arc::default());
        let mut all = tokio::task::JoinSet::new();
        for share in shares {
            let work = driven(Arc::clone(&inside), Arc::clone(&most));
            all.spawn(InTurn::new(share, Slice::new(), Box::pin(work)));
        }
        while let Some(ended) = all.join_next().await {
            ended.unwrap();
        }
        most.load(Relaxed)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn connections_of_one_user_are_driven_one_at_a_time() {
        let limits = Limits::default();
        let share = Arc::new(Share::new(&limits));
        assert_eq!(together(&[&share; 16]).await, 1);
    }

    #[tokio::test]
    async fn who_has_gone_on_for_a_slice_gives_way() {
        let slice = Slice::new();
        slice.began.store(slice.now(), Relaxed);
        let mut pass = std::pin::pin!(slice.pass_on());
        assert!(futures_util::poll!(&mut pass).is_ready());
        let began = Instant::now();
        while began.elapsed() < 2 * SLICE {
            std::hint::spin_loop();
        }
        let mut pass = std::pin::pin!(slice.pass_on());
        assert!(futures_util::poll!(&mut pass).is_pending());
    }
}
