//! An encrypted connection: two streams of bytes, counted, and checked once for the name that it asks for.

use std::sync::{Arc, atomic::Ordering};

use bytes::{Bytes, BytesMut};
use paw_api::egress::{HostName, Reason};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Duration, Instant, timeout_at},
};

use crate::{
    head::Head,
    hello::{Greeting, Opening},
    lane::Lane,
    proxy::{Activity, Passed, decision, finished, refuse},
    rules::{Granted, Refusal},
    run::Run,
    target::Target,
};

/// How long nothing at all may pass.
const IDLE: Duration = Duration::from_secs(600);

/// How long a greeting may take from its first byte, and where it has to be one, from the beginning.
const GREETING_LIMIT: Duration = Duration::from_secs(15);

/// The port on which everything has to be encrypted.
const HTTPS: u16 = 443;

/// How much is moved at once.
const PIECE: usize = 16 * 1024;

/// Serves a `CONNECT`.
pub(crate) async fn serve(mut lane: Lane, run: &Run, head: &Head, bytes: Bytes, target: Target) {
    let mut decision = decision("CONNECT", Some(&target));
    let made = async {
        let granted = run.rules.judge_connect(&target)?;
        decision.rule = Some(granted.rule.clone());
        granted.send(head.length).map_err(|_| used_up())?;
        let checked = run
            .shared
            .outside
            .find(run.rules.ceiling(), &run.names, &target.host, target.port)
            .await?;
        decision.address = checked.first();
        Ok::<_, Refusal>((granted, checked))
    };
    let (granted, checked) = match made.await {
        Ok(made) => made,
        Err(refusal) => return refuse(lane, run, decision, &refusal).await,
    };
    let seq = match run.allow(decision.clone()).await {
        Ok(allowed) => allowed.seq,
        Err(refusal) => return refuse(lane, run, decision, &refusal).await,
    };
    let passed = Arc::new(Passed::default());
    passed.sent.store(head.length as u64, Ordering::Relaxed);
    let tcp = match checked.connect().await {
        Ok(tcp) => tcp,
        Err(refusal) => {
            run.finish(finished(seq, &passed, None, Some(refusal.reason)))
                .await;
            return refuse(lane, run, decision, &refusal).await;
        }
    };
    let established = lane
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await;
    let fault = if established.is_ok() {
        lane.unread(bytes.slice(head.length..));
        pump(lane, tcp, &granted, &target, &passed).await.err()
    } else {
        None
    };
    let reason = fault.as_ref().map(|refusal| refusal.reason);
    if let Some(refusal) = fault {
        // It was allowed and turned out not to be what was allowed: that is a decision of its own.
        decision.refused = Some(refusal.reason);
        decision.message = refusal.message;
        run.refuse(decision).await;
    }
    run.finish(finished(seq, &passed, None, reason)).await;
}

fn used_up() -> Refusal {
    Refusal::new(Reason::UsedUp, "the bytes of this rule are used up")
}

async fn pump(
    lane: Lane,
    tcp: TcpStream,
    granted: &Granted,
    target: &Target,
    passed: &Passed,
) -> Result<(), Refusal> {
    let (from_inside, to_inside) = tokio::io::split(lane);
    let (from_outside, to_outside) = tcp.into_split();
    let activity = Activity::default();
    let must = target.port == HTTPS;
    let both = async {
        tokio::try_join!(
            outward(
                from_inside,
                to_outside,
                (&target.host, must),
                granted,
                passed,
                &activity
            ),
            inward(from_outside, to_inside, granted, passed, &activity),
        )
        .map(drop)
    };
    tokio::select! {
        ended = both => ended,
        () = activity.idle(IDLE) => Ok(()),
    }
}

async fn outward(
    mut from: ReadHalf<Lane>,
    mut to: OwnedWriteHalf,
    (host, must): (&HostName, bool),
    granted: &Granted,
    passed: &Passed,
    activity: &Activity,
) -> Result<(), Refusal> {
    let mut buffer = BytesMut::with_capacity(PIECE);
    let mut opening = Some(Opening::new(host, must));
    let mut due = must.then(|| Instant::now() + GREETING_LIMIT);
    loop {
        let read = from.read_buf(&mut buffer);
        let read = match due {
            None => read.await,
            Some(due) => timeout_at(due, read).await.map_err(|_| {
                Refusal::new(
                    Reason::OtherName,
                    "the connection did not say in time what it is for",
                )
            })?,
        };
        match read {
            Ok(0) | Err(_) => break,
            Ok(_) => activity.note(),
        }
        if let Some(open) = &mut opening {
            match open.look(&buffer)? {
                // Nothing of it goes out before it is known.
                Greeting::Unfinished => {
                    due = due.or_else(|| Some(Instant::now() + GREETING_LIMIT));
                    continue;
                }
                Greeting::Good => (opening, due) = (None, None),
            }
        }
        granted.send(buffer.len()).map_err(|_| used_up())?;
        if to.write_all(&buffer).await.is_err() {
            return Ok(());
        }
        passed
            .sent
            .fetch_add(buffer.len() as u64, Ordering::Relaxed);
        buffer.clear();
    }
    // The other side may have closed first.
    let _ = to.shutdown().await;
    Ok(())
}

async fn inward(
    mut from: OwnedReadHalf,
    mut to: WriteHalf<Lane>,
    granted: &Granted,
    passed: &Passed,
    activity: &Activity,
) -> Result<(), Refusal> {
    let mut buffer = BytesMut::with_capacity(PIECE);
    loop {
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => activity.note(),
        }
        granted.receive(buffer.len()).map_err(|_| used_up())?;
        if to.write_all(&buffer).await.is_err() {
            return Ok(());
        }
        passed
            .received
            .fetch_add(buffer.len() as u64, Ordering::Relaxed);
        buffer.clear();
    }
    let _ = to.shutdown().await;
    Ok(())
}
