//! No socket of ours holds small pieces back: looked at in every process of ours while a chat and a request of a sandbox are under way.

use std::{fs, net::SocketAddr};

use harness::{
    Answer as Says, Model, Step, cases,
    report::Case,
    standalone::Standalone,
    within,
    words::{accepted, next, say},
};
use paw_api::provider::ChatEvent;
use rustix::{
    net::{AddressFamily, SocketType, getsockname, sockopt},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    egress::{GET, shell, system_with},
    without_sandboxes,
};

pub(crate) fn cases() -> Vec<Case> {
    cases![without_sandboxes; no_socket_of_ours_holds_small_pieces_back]
}

/// A socket of TCP with a connection, and whether small pieces go out at once.
#[derive(Debug)]
struct Tcp {
    program: String,
    peer: Option<SocketAddr>,
    at_once: bool,
}

/// Those of every process of a system.
fn sockets(system: &Standalone) -> Vec<Tcp> {
    let mut found = Vec::new();
    for process in system.seen() {
        let pid = Pid::from_raw(process.pid.cast_signed()).expect("it has one");
        let Ok(process_fd) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        let open = fs::read_dir(format!("/proc/{}/fd", process.pid));
        for entry in open.into_iter().flatten().filter_map(Result::ok) {
            let number = entry.file_name().to_str().and_then(|it| it.parse().ok());
            let number = number.expect("descriptors are numbers");
            // One that was closed meanwhile is none.
            let Ok(socket) = pidfd_getfd(&process_fd, number, PidfdGetfdFlags::empty()) else {
                continue;
            };
            let of_tcp = sockopt::socket_type(&socket) == Ok(SocketType::STREAM)
                && getsockname(&socket).is_ok_and(|it| {
                    [AddressFamily::INET, AddressFamily::INET6].contains(&it.address_family())
                });
            if !of_tcp || sockopt::socket_acceptconn(&socket) == Ok(true) {
                continue;
            }
            let stream = std::net::TcpStream::from(socket);
            found.push(Tcp {
                program: process.command.clone(),
                peer: stream.peer_addr().ok(),
                at_once: stream.nodelay().expect("it is one of TCP"),
            });
        }
    }
    found
}

async fn no_socket_of_ours_holds_small_pieces_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let port = listener.local_addr().expect("it is bound").port();
    let model = Model::start().await;
    let provider = format!(
        "[provider.local]\nkind = \"ollama\"\nbase_url = \"{}\"\nmodel = \"m\"\n",
        model.url()
    );
    let system = system_with(port, false, &[("etc/pawd.d/20-provider.toml", &provider)]).await;
    let client = system.client().await;
    let (steps, answer) = Says::steps();
    model.will(answer);
    let mut chat = say(&client, "hello").await;
    accepted(&mut chat).await;
    steps.send(Step::Piece("so".into())).await.expect("it asks");
    while !matches!(next(&mut chat).await, ChatEvent::Delta { .. }) {}

    let rules = [format!("allowed.test:{port}")];
    let script = format!("{GET} get http://allowed.test:{port}/");
    let looked = async {
        let (mut stream, _) = within("a request", listener.accept())
            .await
            .expect("a connection");
        let read = stream.read(&mut [0; 4096]).await;
        assert!(read.is_ok_and(|it| it > 0), "it asks");
        let found = sockets(&system);
        let answer = "HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\nreached\n";
        stream.write_all(answer.as_bytes()).await.expect("it reads");
        found
    };
    let (found, (said, _)) = tokio::join!(looked, shell(&system, "native", &rules, &script));
    assert!(said.contains("reached"), "{said}");
    steps.send(Step::End).await.expect("it asks");

    let model_port = model
        .url()
        .rsplit(':')
        .next()
        .map(|it| it.trim_end_matches('/').to_owned());
    let model_port: u16 = model_port
        .and_then(|it| it.parse().ok())
        .expect("it has one");
    let ours: Vec<&Tcp> = found
        .iter()
        .filter(|it| it.program.contains("paw"))
        .collect();
    let to = |peer: u16| {
        ours.iter()
            .any(|it| it.peer.is_some_and(|at| at.port() == peer))
    };
    assert!(to(model_port), "none of a provider: {found:?}");
    assert!(to(port), "none of paw-egress: {found:?}");
    assert!(
        ours.iter().any(|it| it.program.contains("/.paw/init")),
        "none inside of the sandbox: {found:?}"
    );
    let held: Vec<_> = ours.iter().filter(|it| !it.at_once).collect();
    assert!(held.is_empty(), "{held:?}");
}
