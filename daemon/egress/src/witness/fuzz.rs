//! What root says of where checkpoints go, and what pawd hands on of them; for the fuzzer.

use std::path::Path;

use paw_api::egress::{Checkpoint, MAX_CHECKPOINT, MOST_CHECKPOINTS, Tag, Witnessed};
use tokio::{
    io::AsyncWriteExt as _,
    net::UnixStream,
    runtime::{Builder, Runtime},
};

use super::{Door, serve, sink};
use crate::{
    ceiling::Ceiling,
    lane::frame,
    run::{control, next},
};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime of one thread needs no more than this process has");
}

/// Reads a text as `egress.toml`.
///
/// # Panics
/// When a place is taken that is shown as another one than is connected to, or that the kernel would not hold.
pub fn words(text: &str) {
    let nowhere = Path::new("/nonexistent");
    let Ok(ceiling) = Ceiling::parse(text, nowhere, nowhere) else {
        return;
    };
    let Some(sink) = &ceiling.witness else {
        return;
    };
    let ports = ceiling.all_ports();
    assert!(ports.contains(&sink.port), "{sink}: its port is not held");
    assert!(!ports.contains(&0), "{sink}: any port would be");
    let shown = sink.to_string();
    let again = toml::Value::from(shown.as_str());
    let again = Ceiling::parse(&format!("[witness]\nurl = {again}\n"), nowhere, nowhere);
    let again = again.ok().and_then(|ceiling| ceiling.witness);
    assert_eq!(
        again.map(|sink| sink.to_string()).as_ref(),
        Some(&shown),
        "it is shown as what is not taken"
    );
}

/// Has paw-egress read bytes from pawd on a connection for checkpoints, behind their [`paw_api::egress::Witness`].
///
/// # Panics
/// When more is kept than has room, or when what would be sent of one is not one line of a log server.
pub fn checkpoints(bytes: &[u8]) {
    let Ok(ceiling) = Ceiling::parse(
        "[witness]\nurl = \"syslog://logs.example\"\n",
        Path::new("/nonexistent"),
        Path::new("/nonexistent"),
    ) else {
        return;
    };
    let door = Door::new(ceiling.witness.as_ref());
    let told = RUNTIME.with(|runtime| runtime.block_on(hear(bytes, &door)));

    let queue = door.lock();
    assert!(queue.waiting.len() <= MOST_CHECKPOINTS);
    let state = door.state.borrow();
    assert_eq!(
        usize::try_from(state.queued).ok(),
        Some(queue.waiting.len())
    );
    assert_eq!(queue.count, u64::from(state.queued) + state.dropped);
    for (_, checkpoint) in &queue.waiting {
        assert!(checkpoint.line.len() <= MAX_CHECKPOINT);
        let framed = sink::framed("host.example", &checkpoint.line, 0);
        let space = framed.iter().position(|byte| *byte == b' ');
        let (length, message) = framed.split_at(space.expect("there is a length before it"));
        let length = std::str::from_utf8(length)
            .ok()
            .and_then(|it| it.parse().ok());
        assert_eq!(
            length,
            Some(message.len() - 1),
            "it is more or less than it says"
        );
        assert!(
            !message.iter().any(u8::is_ascii_control),
            "it is more than one line"
        );
    }
    // Each state that was told is one that can be, and nothing has been sent.
    for said in told {
        assert!(said.queued <= state.queued && said.sent == 0 && said.error.is_none());
    }
}

/// What is told back while the bytes are read.
async fn hear(bytes: &[u8], door: &Door) -> Vec<Witnessed> {
    let Ok((ours, theirs)) = UnixStream::pair() else {
        return Vec::new();
    };
    let (mut from, mut to) = ours.into_split();
    let say = async {
        // The other side may have heard enough before the end.
        let _ = to.write_all(bytes).await;
        drop(to);
    };
    let read = async {
        let mut told = Vec::new();
        while let Ok(Some((tag, _, payload))) = next(&mut from).await {
            assert_eq!(tag, Tag::Witnessed);
            told.push(control(tag, &payload).expect("it is what paw-egress wrote"));
        }
        told
    };
    let (told, (), _) = tokio::join!(read, say, serve(theirs, door));
    told
}

/// Frames as pawd writes them, to begin with.
#[must_use]
pub fn frames() -> Vec<u8> {
    let one = |seq, line: &str| {
        let checkpoint = Checkpoint {
            seq,
            line: line.to_owned(),
        };
        let json = serde_json::to_vec(&checkpoint).expect("numbers and texts are always JSON");
        frame(Tag::Checkpoint, 0, &json)
    };
    let line = "{\"checkpoint\":{\"v\":2,\"n\":1,\"seq\":7},\"signature\":\"00\"}";
    [one(7, line), one(7, line), one(8, "{}")].concat()
}
