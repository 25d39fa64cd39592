//! What comes out of a sandbox, for the fuzzer: frames of paw-init, and messages of a skill's program.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use rmcp::transport::async_rw::AsyncRwTransport;
use serde_json::Map;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    sync::{Semaphore, oneshot},
    time::timeout,
};

use super::{
    Skill,
    announce::{checked, list},
    content::text_of,
    mcp::{Client, call_tool, converse},
    stream::stream,
    strict::{MAX_LINE, Strict},
    wire::{Entry, Inside, StdinState, read},
};

/// Output that is wanted of each command here, in bytes.
const MOST_OUTPUT: u64 = 4096;

/// The most answers of a program here.
const MOST_PIECES: usize = 6;

/// How long a program waits for a request before it says something unasked.
const PATIENCE: Duration = Duration::from_millis(3);

/// Has a sandbox in which the commands 1 and 2 run say these bytes.
///
/// # Panics
/// When more comes out of a command than was wanted of it.
pub async fn frames(bytes: &[u8]) {
    let inside = Arc::new(Inside::default());
    let (mut outputs, mut ends) = (Vec::new(), Vec::new());
    for number in [1, 2] {
        let (stdout_in, stdout) = stream(inside.tell_writer.clone());
        let (stderr_in, stderr) = stream(inside.tell_writer.clone());
        let (outcome, end) = oneshot::channel();
        let entry = Entry {
            stdout: stdout_in,
            stderr: stderr_in,
            known: [number as usize, 0],
            room: MOST_OUTPUT,
            truncated: Arc::new(AtomicBool::new(false)),
            window: Arc::new(Semaphore::new(0)),
            stdin: StdinState::Open,
            outcome: Some(outcome),
        };
        inside.lock().children.insert(number, entry);
        outputs.push([stdout, stderr]);
        ends.push(end);
    }
    read(bytes, Arc::clone(&inside), || {}).await;
    drop(inside.due());
    for both in outputs {
        let mut came = 0;
        for mut output in both {
            while let Some(bytes) = output.next().await {
                came += bytes.len() as u64;
            }
        }
        assert!(came <= MOST_OUTPUT, "{came} bytes came out of a command");
    }
    for mut end in ends {
        // It was told, or nobody will tell it any more; that somebody waits for ever is not among what can happen.
        assert!(!matches!(
            end.try_recv(),
            Err(oneshot::error::TryRecvError::Empty)
        ));
    }
}

/// Has a skill's program answer the requests of a call with these bytes: each takes what stands before the next empty line. What
/// it has announced is asked for first, and then one of its tools is called.
pub async fn messages(bytes: &[u8], skill: &Skill) {
    let pieces: Vec<Vec<u8>> = split(bytes).take(MOST_PIECES).map(<[u8]>::to_vec).collect();
    let tool = skill.tools.keys().next().cloned().unwrap_or_default();
    // Nothing waits for longer than a connection is there.
    let _ = talk(pieces.clone(), async |client: Client| {
        let listed = list(&client, false).await?;
        let _ = checked(skill, listed);
        Ok(())
    })
    .await;
    let _ = talk(pieces, async |client: Client| {
        let answer = call_tool(client, skill, &tool, Map::new()).await?;
        let _ = text_of(&answer.content);
        Ok(())
    })
    .await;
}

async fn talk<F>(
    pieces: Vec<Vec<u8>>,
    ask: impl FnOnce(Client) -> F,
) -> Result<(), super::mcp::Trouble>
where
    F: Future<Output = Result<(), super::mcp::Trouble>>,
{
    let (ours, theirs) = tokio::io::duplex(MAX_LINE);
    let (from, to) = tokio::io::split(ours);
    let (from, _) = Strict::new(from);
    let transport = AsyncRwTransport::new_client(from, to).with_max_line_length(MAX_LINE);
    let (from, to) = tokio::io::split(theirs);
    tokio::join!(converse(transport, ask), program(pieces, from, to)).0
}

/// Says one piece to each request, or after a moment without one, and goes away when it has none left.
async fn program(
    pieces: Vec<Vec<u8>>,
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) {
    let mut lines = BufReader::new(from).lines();
    for piece in pieces {
        let asked = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("\"id\":") {
                    break;
                }
            }
        };
        // Whoever waits for an answer that was none will ask nothing more.
        let _ = timeout(PATIENCE, asked).await;
        if to.write_all(&piece).await.is_err() || to.write_all(b"\n").await.is_err() {
            return;
        }
    }
    // The other side may still read what was said last; it closes at the end of it.
    let _ = to.shutdown().await;
}

fn split(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let all = rest?;
        match all.windows(2).position(|two| two == b"\n\n") {
            Some(at) => {
                rest = Some(&all[at + 2..]);
                Some(&all[..at])
            }
            None => rest.take(),
        }
    })
}
