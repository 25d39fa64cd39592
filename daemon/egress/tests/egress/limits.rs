//! Bytes, requests, and clients and servers that never end.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use paw_api::egress::{MAX_CONNECTIONS, Reason, Tag, WINDOW, header};
use paw_egress::{
    names::{OF_A_RUN, OF_AN_AGENT},
    upstream::Lookup,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::UnixStream,
    sync::Barrier,
    time::{Instant, timeout},
};

use crate::rig::{Run, Server, control, loopback, next, shared};

#[tokio::test]
async fn requests_beyond_the_rule_are_refused() {
    let server = Server::hello().await;
    let port = server.port();
    let mut run = Run::begin(
        &loopback(port),
        &[&format!("allowed.example:{port},requests=2")],
    )
    .await
    .unwrap();
    let target = format!("http://allowed.example:{port}/");
    assert_eq!(run.get(&target).await.status(), 200);
    assert_eq!(run.get(&target).await.status(), 200);
    assert_eq!(
        (run.get(&target).await.status(), run.reason()),
        (403, Some(Reason::UsedUp))
    );
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn an_answer_beyond_the_rule_is_cut() {
    let long = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}",
        "x".repeat(1_000_000)
    );
    let server = Server::saying(long).await;
    let port = server.port();
    let mut run = Run::begin(
        &loopback(port),
        &[&format!("allowed.example:{port},received=100000")],
    )
    .await
    .unwrap();
    let answer = run.get(&format!("http://allowed.example:{port}/")).await;
    assert!(answer.body().len() <= 100_000, "{}", answer.body().len());
    run.settle().await;
    assert!(run.finished[0].received <= 100_000);
    assert_eq!(run.finished[0].fault, Some(Reason::UsedUp));
}

#[tokio::test]
async fn a_tunnel_beyond_the_rule_is_cut_in_both_directions() {
    let server = Server::saying("x".repeat(1_000_000)).await;
    let port = server.port();
    let rule = format!("allowed.example:{port},received=100000,sent=2000");
    let mut run = Run::begin(&loopback(port), &[&rule]).await.unwrap();
    let answer = run
        .say(format!("CONNECT allowed.example:{port} HTTP/1.1\r\n\r\nhi\r\n\r\n").as_bytes())
        .await;
    assert!(answer.bytes.len() < 100_100, "{}", answer.bytes.len());
    let long = format!(
        "CONNECT allowed.example:{port} HTTP/1.1\r\n\r\nhi\r\n{}",
        "y".repeat(10_000)
    );
    run.say(long.as_bytes()).await;
    run.settle().await;
    assert_eq!(run.reason(), Some(Reason::UsedUp));
    assert!(server.asked().iter().all(|asked| asked.len() <= 2000));
}

#[tokio::test]
async fn a_request_body_beyond_the_rule_is_cut() {
    let server = Server::hello().await;
    let port = server.port();
    let mut run = Run::begin(
        &loopback(port),
        &[&format!("allowed.example:{port},sent=1000")],
    )
    .await
    .unwrap();
    let host = format!("allowed.example:{port}");
    let request = format!(
        "POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 40000\r\n\r\n{}",
        "z".repeat(40_000)
    );
    run.say(request.as_bytes()).await;
    run.settle().await;
    assert_eq!(run.finished[0].fault, Some(Reason::UsedUp));
    assert!(run.finished[0].sent <= 1000);
}

#[tokio::test]
async fn an_answer_with_an_endless_head_is_refused() {
    let server = Server::saying(format!(
        "HTTP/1.1 200 OK\r\n{}",
        "X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(100_000)
    ))
    .await;
    let port = server.port();
    let mut run = Run::begin(&loopback(port), &[&format!("allowed.example:{port}")])
        .await
        .unwrap();
    assert_eq!(
        run.get(&format!("http://allowed.example:{port}/"))
            .await
            .status(),
        502
    );
}

#[tokio::test]
async fn a_long_answer_to_a_slow_reader_is_held_back_by_its_windows() {
    let long = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n{}",
        "x".repeat(8_000_000)
    );
    let server = Server::saying(long).await;
    let port = server.port();
    let mut run = Run::begin(&loopback(port), &[&format!("allowed.example:{port}")])
        .await
        .unwrap();
    let answer = run.get(&format!("http://allowed.example:{port}/")).await;
    assert_eq!(answer.body().len(), 8_000_000);
    run.settle().await;
    let head = u64::try_from(answer.bytes.len()).unwrap() - 8_000_000;
    let received = run.finished[0].received;
    assert!(
        (8_000_001..=8_000_000 + head).contains(&received),
        "{received}"
    );
}

#[tokio::test]
async fn heads_of_answers_count_as_what_was_received() {
    let head = format!("X-Long: {}\r\n", "y".repeat(1000));
    let server = Server::saying(format!(
        "HTTP/1.1 200 OK\r\n{head}Content-Length: 0\r\n\r\n"
    ))
    .await;
    let port = server.port();
    let rule = format!("allowed.example:{port},received=2500");
    let mut run = Run::begin(&loopback(port), &[&rule]).await.unwrap();
    let target = format!("http://allowed.example:{port}/");
    for status in [200, 200, 403] {
        assert_eq!(run.get(&target).await.status(), status);
    }
    run.settle().await;
    assert_eq!(run.finished[2].fault, Some(Reason::UsedUp));
    let received: u64 = run.finished.iter().map(|one| one.received).sum();
    assert!((2000..=2500).contains(&received), "{received}");
}

#[tokio::test]
async fn a_connection_without_a_place_is_told_so() {
    let server = Server::hello().await;
    let port = server.port();
    let shared = loopback(port);
    let all = u32::try_from(shared.places.available_permits()).unwrap();
    let taken = shared.places.acquire_many(all).await.unwrap();
    let mut run = Run::begin(&shared, &[&format!("allowed.example:{port}")])
        .await
        .unwrap();
    let target = format!("http://allowed.example:{port}/");
    assert_eq!(
        (run.get(&target).await.status(), run.reason()),
        (503, Some(Reason::Busy))
    );
    drop(taken);
    assert_eq!(run.get(&target).await.status(), 200);
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_loses_the_place() {
    let long = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n{}",
        "x".repeat(8_000_000)
    );
    let server = Server::saying(long).await;
    let port = server.port();
    let shared = loopback(port);
    let all = u32::try_from(shared.places.available_permits()).unwrap();
    let mut run = Run::begin(&shared, &[&format!("allowed.example:{port}")])
        .await
        .unwrap();
    let host = format!("allowed.example:{port}");
    run.say_and_take_nothing(
        format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(),
    )
    .await;
    // From here on time passes as fast as nothing happens.
    tokio::time::pause();
    let begun = Instant::now();
    let places = timeout(Duration::from_secs(3600), shared.places.acquire_many(all)).await;
    assert!(places.is_ok(), "the place is never given back");
    assert_eq!(begun.elapsed().as_secs() / 60, 6, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_greeting_that_does_not_come_is_not_waited_for() {
    let server = Server::hello().await;
    let port = server.port();
    let mut run = Run::begin(&loopback(port), &[&format!("allowed.example:{port}")])
        .await
        .unwrap();
    let connect = format!("CONNECT allowed.example:{port} HTTP/1.1\r\n\r\n");
    tokio::time::pause();
    for greeting in ["\x16\x03\x01", "GET /"] {
        let begun = Instant::now();
        run.say(format!("{connect}{greeting}").as_bytes()).await;
        run.settle().await;
        assert_eq!(run.reason(), Some(Reason::OtherName), "{greeting:?}");
        assert_eq!(begun.elapsed().as_secs(), 15, "{greeting:?}");
    }
    assert_eq!(server.asked().concat(), "");
}

/// A lookup that never finds anything and notes how many are under way at once, each of which waits until there are `together`.
fn counted(together: usize) -> (Lookup, Arc<AtomicUsize>) {
    let (asking, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let together = Arc::new(Barrier::new(together));
    let noted = Arc::clone(&most);
    let lookup: Lookup = Arc::new(move |_| {
        let (asking, most) = (asking.clone(), most.clone());
        let together = Arc::clone(&together);
        Box::pin(async move {
            let now = asking.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            // All that may be there at once have to be, and whoever else is ready comes first.
            together.wait().await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            asking.fetch_sub(1, Ordering::SeqCst);
            Err(std::io::ErrorKind::NotFound.into())
        })
    });
    (lookup, noted)
}

const WIDE: &str = "hosts = [\"*\"]\nports = [80]";

/// Asks for names of which none is found, all at once.
async fn ask_for_names(run: &mut Run) {
    let requests: Vec<String> = (0..12)
        .map(|number| {
            format!(
                "GET http://{number}.slow.example/ HTTP/1.1\r\nHost: {number}.slow.example\r\n\r\n"
            )
        })
        .collect();
    for answer in run.say_at_once(&requests).await {
        assert_eq!(answer.status(), 502);
    }
}

#[tokio::test]
async fn one_run_has_a_few_names_looked_up_at_once() {
    let (lookup, most) = counted(OF_A_RUN);
    let shared = shared(WIDE, Path::new("/nonexistent"), lookup);
    let mut run = Run::begin(&shared, &["*.slow.example:80"]).await.unwrap();
    ask_for_names(&mut run).await;
    assert_eq!(most.load(Ordering::SeqCst), OF_A_RUN);
}

#[tokio::test]
async fn all_runs_of_one_agent_have_a_few_names_looked_up_at_once() {
    let (lookup, most) = counted(OF_AN_AGENT);
    let shared = shared(WIDE, Path::new("/nonexistent"), lookup);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mut run = Run::begin(&shared, &["*.slow.example:80"]).await.unwrap();
        asking.spawn(async move { ask_for_names(&mut run).await });
    }
    asking.join_all().await;
    assert_eq!(most.load(Ordering::SeqCst), OF_AN_AGENT);
}

#[tokio::test]
async fn a_pawd_that_breaks_the_protocol_loses_its_run() {
    let number = u32::try_from(MAX_CONNECTIONS).unwrap();
    let open = |number| header(0, Tag::Open, number).to_vec();
    let too_much = {
        let mut out = open(1);
        for _ in 0..2 {
            out.extend_from_slice(&header(WINDOW, Tag::Data, 1));
            out.extend_from_slice(&vec![b'a'; WINDOW]);
        }
        out
    };
    for wrong in [
        [open(1), open(1)].concat(),
        (1..=number + 1).flat_map(open).collect(),
        too_much,
        vec![0, 0, 0, 0, 99, 0, 0, 0, 0],
        vec![255, 255, 255, 255, 18, 1, 0, 0, 0],
        control(Tag::Ready, &1),
    ] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let served = tokio::spawn(paw_egress::run::serve(theirs, loopback(1)));
        let mut run = Run::over(ours, &[]).await.unwrap().into_stream();
        // It may be closed before all of it is taken.
        let _ = run.write_all(&wrong).await;
        assert!(served.await.unwrap().is_err());
        while next(&mut run).await.is_some() {}
    }
}
