//! Every known way around a proxy that filters: other spellings, other addresses, second requests, other names.

use std::{
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use paw_api::egress::{HostName, Reason};
use paw_egress::upstream::Lookup;

use crate::rig::{Run, Server, loopback, names, shared};

#[tokio::test]
async fn names_that_lead_inside_are_refused() {
    let server = Server::hello().await;
    let port = server.port();
    let inside = [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "192.168.1.1",
        "172.16.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fd00:ec2::254",
        "fe80::1",
        "ff02::1",
    ];
    for address in inside {
        let ceiling = shared(
            &format!("hosts = [\"*\"]\nports = [{port}]"),
            Path::new("/nonexistent"),
            names(&[
                ("rebound.example", &[address]),
                ("mixed.example", &["93.184.216.34", address]),
            ]),
        );
        let mut run = Run::begin(&ceiling, &[&format!("*.example:{port}")])
            .await
            .unwrap();
        for host in ["rebound.example", "mixed.example"] {
            let answer = run.get(&format!("http://{host}:{port}/")).await;
            assert_eq!(
                (answer.status(), run.reason()),
                (403, Some(Reason::Address)),
                "{host} {address}"
            );
            let answer = run
                .say(format!("CONNECT {host}:{port} HTTP/1.1\r\n\r\n").as_bytes())
                .await;
            assert_eq!(
                (answer.status(), run.reason()),
                (403, Some(Reason::Address)),
                "{host} {address}"
            );
        }
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn an_address_that_was_opened_is_reached_beside_one_that_is_public() {
    let server = Server::hello().await;
    let port = server.port();
    let ceiling = shared(
        &format!("hosts = [\"*\"]\nports = [{port}]\nallow_addresses = [\"127.0.0.1/32\"]"),
        Path::new("/nonexistent"),
        names(&[("mixed.example", &["127.0.0.1", "93.184.216.34"])]),
    );
    let mut run = Run::begin(&ceiling, &[&format!("mixed.example:{port}")])
        .await
        .unwrap();
    let answer = run.get(&format!("http://mixed.example:{port}/")).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

#[tokio::test]
async fn a_name_is_resolved_once_and_the_checked_address_is_connected_to() {
    let (good, bad) = (Server::hello().await, Server::hello().await);
    // Both listen on loopback; the second lookup would lead to an address that is not open, and the first leads to the server.
    let asked = Arc::new(AtomicU64::new(0));
    let lookup: Lookup = {
        let asked = asked.clone();
        Arc::new(move |_: HostName| {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            let address: IpAddr = if number == 0 {
                "127.0.0.1"
            } else {
                "127.0.0.2"
            }
            .parse()
            .unwrap();
            Box::pin(async move { Ok(vec![address]) })
        })
    };
    let port = good.port();
    let ceiling = shared(
        &format!("hosts = [\"*\"]\nports = [{port}]\nallow_addresses = [\"127.0.0.1/32\"]"),
        Path::new("/nonexistent"),
        lookup,
    );
    let mut run = Run::begin(&ceiling, &[&format!("rebinding.example:{port}")])
        .await
        .unwrap();
    assert_eq!(
        run.get(&format!("http://rebinding.example:{port}/"))
            .await
            .status(),
        200
    );
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // The next request asks again, and is judged by what it hears then.
    assert_eq!(
        run.get(&format!("http://rebinding.example:{port}/"))
            .await
            .status(),
        403
    );
    assert_eq!(run.reason(), Some(Reason::Address));
    assert_eq!((good.connections(), bad.connections()), (1, 0));
}

#[tokio::test]
async fn every_spelling_that_is_not_the_rules_own_is_refused() {
    let server = Server::hello().await;
    let port = server.port();
    let mut run = Run::begin(&loopback(port), &[&format!("allowed.example:{port}")])
        .await
        .unwrap();
    let connects = [
        format!("127.0.0.1:{port}"),
        format!("127.1:{port}"),
        format!("2130706433:{port}"),
        format!("0x7f000001:{port}"),
        format!("0177.0.0.1:{port}"),
        format!("0:{port}"),
        format!("[::1]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("[64:ff9b::7f00:1]:{port}"),
        format!("[::]:{port}"),
        format!("localhost:{port}"),
        format!("allowed.example.evil.test:{port}"),
        format!("xallowed.example:{port}"),
        format!("allowed.example@evil.test:{port}"),
        format!("user:pw@allowed.example:{port}"),
        format!("allowed.example:0{port}"),
        "allowed.example:0".to_owned(),
        format!("allowed.example%00.evil.test:{port}"),
        format!("allowed.example\\.evil.test:{port}"),
        format!("xn--llowed-5ta.example:{port}"),
        "allowed.example".to_owned(),
        format!("{}.example:{port}", "a".repeat(300)),
    ];
    for target in &connects {
        let answer = run
            .say(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes())
            .await;
        assert!(
            matches!(answer.status(), 400 | 403),
            "CONNECT {target}: {}",
            answer.text()
        );
        let answer = run
            .say(format!("GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes())
            .await;
        assert!(
            matches!(answer.status(), 400 | 403),
            "GET {target}: {}",
            answer.text()
        );
    }
    for target in [
        format!("http://evil.test/?x=allowed.example:{port}"),
        format!("http://evil.test#allowed.example:{port}"),
        format!("http://evil.test/allowed.example:{port}"),
        format!("https://evil.test/allowed.example:{port}"),
        format!("https://allowed.example@evil.test:{port}/"),
        "/".to_owned(),
        "*".to_owned(),
        format!("ftp://allowed.example:{port}/"),
        format!("//allowed.example:{port}/"),
    ] {
        let answer = run
            .say(
                format!("GET {target} HTTP/1.1\r\nHost: allowed.example:{port}\r\n\r\n").as_bytes(),
            )
            .await;
        assert!(
            matches!(answer.status(), 400 | 403),
            "{target}: {}",
            answer.text()
        );
    }
    assert_eq!(server.connections(), 0);
    // The rule's own host, however it is spelled, is one host.
    for same in ["allowed.example", "ALLOWED.example", "allowed.example."] {
        assert_eq!(
            run.get(&format!("http://{same}:{port}/")).await.status(),
            200,
            "{same}"
        );
    }
}

#[tokio::test]
async fn a_host_header_of_another_host_is_refused() {
    let server = Server::hello().await;
    let port = server.port();
    let mut run = Run::begin(&loopback(port), &[&format!("allowed.example:{port}")])
        .await
        .unwrap();
    for host in [
        "other.example",
        &format!("other.example:{port}"),
        "allowed.example",
        "",
        &format!("allowed.example:{port},other.example"),
    ] {
        let answer = run
            .say(
                format!("GET http://allowed.example:{port}/ HTTP/1.1\r\nHost: {host}\r\n\r\n")
                    .as_bytes(),
            )
            .await;
        assert_eq!(
            (answer.status(), run.reason()),
            (400, Some(Reason::Malformed)),
            "{host}"
        );
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn requests_that_two_readers_read_differently_are_refused() {
    let server = Server::hello().await;
    let port = server.port();
    let mut run = Run::begin(&loopback(port), &[&format!("allowed.example:{port}")])
        .await
        .unwrap();
    let host = format!("allowed.example:{port}");
    let smuggled = format!("GET http://{host}/secret HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for headers in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "X: y\r\n folded: z\r\n",
        "X: y\n",
        "Content-Length: 5\nTransfer-Encoding: chunked\r\n",
        "\x00X: y\r\n",
    ] {
        let request = format!(
            "POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n0\r\n\r\n{smuggled}"
        );
        let answer = run.say(request.as_bytes()).await;
        assert_eq!(
            (answer.status(), run.reason()),
            (400, Some(Reason::Malformed)),
            "{headers:?}"
        );
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_second_request_on_a_connection_is_never_sent_on() {
    let server = Server::hello().await;
    let port = server.port();
    let mut run = Run::begin(
        &loopback(port),
        &[&format!("allowed.example:{port},path=/open/")],
    )
    .await
    .unwrap();
    let host = format!("allowed.example:{port}");
    let one = format!(
        "GET http://{host}/open/ HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive\r\n\r\n"
    );
    let two = format!("GET http://{host}/closed HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let answer = run.say(format!("{one}{two}").as_bytes()).await;
    assert_eq!(
        answer.text().matches("HTTP/1.1").count(),
        1,
        "{}",
        answer.text()
    );
    assert!(
        answer
            .text()
            .to_ascii_lowercase()
            .contains("connection: close")
    );
    assert_eq!(server.asked().len(), 1);
    assert!(!server.asked()[0].contains("closed"));
}

#[tokio::test]
async fn what_follows_a_body_is_not_sent_on() {
    let server = Server::hello().await;
    let port = server.port();
    let mut run = Run::begin(&loopback(port), &[&format!("allowed.example:{port}")])
        .await
        .unwrap();
    let host = format!("allowed.example:{port}");
    for body in [
        "Content-Length: 3\r\n\r\nabcGET http://x/smuggled HTTP/1.1\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET http://x/smuggled HTTP/1.1\r\n\r\n",
    ] {
        run.say(format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{body}").as_bytes())
            .await;
    }
    assert_eq!(server.asked().len(), 2);
    for asked in server.asked() {
        assert!(
            asked.contains("abc") && !asked.contains("smuggled"),
            "{asked}"
        );
    }
}

#[tokio::test]
async fn headers_of_one_hop_stay_here() {
    let server = Server::saying(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-mine, close\r\nX-Mine: y\r\nProxy-Authenticate: Basic\r\nKeep-Alive: 1\r\n\r\nok",
    )
    .await;
    let port = server.port();
    let mut run = Run::begin(&loopback(port), &[&format!("allowed.example:{port}")])
        .await
        .unwrap();
    let request = format!(
        "GET http://allowed.example:{port}/ HTTP/1.1\r\nHost: allowed.example:{port}\r\nProxy-Authorization: Basic abc\r\n\
         Connection: x-hop, upgrade\r\nX-Hop: 1\r\nUpgrade: websocket\r\nTE: trailers\r\nX-Kept: 1\r\n\r\n"
    );
    let answer = run
        .say(request.as_bytes())
        .await
        .text()
        .to_ascii_lowercase();
    let asked = server.asked()[0].to_ascii_lowercase();
    for gone in ["proxy-authorization", "x-hop", "upgrade", "te:"] {
        assert!(!asked.contains(gone), "{gone}: {asked}");
    }
    assert!(asked.contains("x-kept"), "{asked}");
    for gone in ["x-mine", "proxy-authenticate", "keep-alive"] {
        assert!(!answer.contains(gone), "{gone}: {answer}");
    }
}

#[tokio::test]
async fn headers_that_ask_for_another_request_stay_here() {
    let server = Server::hello().await;
    let port = server.port();
    let rule = format!("allowed.example:{port},method=GET,path=/public/");
    let mut run = Run::begin(&loopback(port), &[&rule]).await.unwrap();
    let request = format!(
        "GET http://allowed.example:{port}/public/ HTTP/1.1\r\nHost: allowed.example:{port}\r\nX-Original-URL: /secret\r\n\
         X-Rewrite-URL: /secret\r\nX_HTTP_Method_Override: DELETE\r\nX-HTTP-Method: DELETE\r\nX-Kept: 1\r\n\r\n"
    );
    assert_eq!(run.say(request.as_bytes()).await.status(), 200);
    let asked = server.asked()[0].to_ascii_lowercase();
    assert!(asked.contains("x-kept"), "{asked}");
    for gone in ["secret", "delete"] {
        assert!(!asked.contains(gone), "{gone}: {asked}");
    }
}

#[tokio::test]
async fn a_request_in_the_clear_does_not_pass_through_a_tunnel() {
    let server = Server::hello().await;
    let port = server.port();
    let mut run = Run::begin(&loopback(port), &[&format!("allowed.example:{port}")])
        .await
        .unwrap();
    for request in [
        "GET / HTTP/1.1\r\nHost: other.example\r\n\r\n",
        "\r\nPOST / HTTP/1.1\r\nHost: other.example\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let tunnel = format!("CONNECT allowed.example:{port} HTTP/1.1\r\n\r\n{request}");
        run.say(tunnel.as_bytes()).await;
        run.settle().await;
        assert_eq!(run.reason(), Some(Reason::OtherName), "{request:?}");
    }
    assert_eq!(server.asked().concat(), "");
}

/// Runs in a network of its own, in which this host has a public address and answers to a range of them.
fn with_public_addresses(test: impl Future<Output = ()> + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        // Past what the test runner keeps of a test that passes.
        let said =
            "skipped: a network of its own is root's to make, and the test is not run by root\n";
        std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes()).unwrap();
        return;
    }
    let run = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        for words in [
            "link set lo up",
            "addr add 93.184.216.34/32 dev lo",
            "addr add 2606:4700::7/128 dev lo",
            "route add local 93.184.217.0/24 dev lo",
        ] {
            let done = std::process::Command::new("ip")
                .args(words.split(' '))
                .status();
            assert!(done.unwrap().success(), "ip {words}");
        }
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test);
    });
    run.join().unwrap();
}

#[test]
fn a_public_address_of_this_host_is_not_reached() {
    with_public_addresses(async {
        // Those of an interface are known before anybody connects.
        let own = [
            ("93.184.216.34", "an address of this host"),
            ("2606:4700::7", "an address of this host"),
            ("93.184.217.9", "this host"),
        ];
        let everywhere = tokio::net::TcpListener::bind("[::]:0").await.unwrap();
        let port = everywhere.local_addr().unwrap().port();
        for (address, why) in own {
            let reached = tokio::net::TcpStream::connect((address, port)).await;
            assert!(reached.is_ok(), "{address}: {reached:?}");
            let ceiling = shared(
                &format!("hosts = [\"*\"]\nports = [{port}]"),
                Path::new("/nonexistent"),
                names(&[("a.example", &[address])]),
            );
            let mut run = Run::begin(&ceiling, &[&format!("a.example:{port}")])
                .await
                .unwrap();
            let answer = run.get(&format!("http://a.example:{port}/")).await;
            assert_eq!(answer.status(), 403, "{address}");
            let refusal = format!("that no sandbox may reach: {why}\n");
            assert!(
                answer.body().ends_with(&refusal),
                "{address}: {}",
                answer.text()
            );
            let tunnel = format!("CONNECT a.example:{port} HTTP/1.1\r\n\r\n");
            assert_eq!(run.say(tunnel.as_bytes()).await.status(), 403, "{address}");
        }
    });
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_its_target_is_judged_like_any_other() {
    let server = Server::saying("HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest\r\nContent-Length: 0\r\n\r\n").await;
    let port = server.port();
    let mut run = Run::begin(&loopback(port), &[&format!("allowed.example:{port}")])
        .await
        .unwrap();
    let answer = run.get(&format!("http://allowed.example:{port}/")).await;
    assert_eq!(answer.status(), 302);
    assert_eq!(server.connections(), 1);
    assert_eq!(run.get("http://169.254.169.254/latest").await.status(), 400);
}

/// The greeting of a TLS client that asks for this name, or for none.
fn hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut greeting = Vec::new();
    client.write_tls(&mut greeting).unwrap();
    greeting
}

#[tokio::test]
async fn an_encrypted_connection_that_asks_for_another_host_is_cut_before_a_byte_goes_out() {
    let server = Server::saying("never").await;
    let port = server.port();
    let mut run = Run::begin(&loopback(port), &[&format!("allowed.example:{port}")])
        .await
        .unwrap();
    for greeting in [
        hello("other.example"),
        hello("127.0.0.1"),
        b"\x16\x03\x01\x00\x05hello and more of it".to_vec(),
    ] {
        let mut request = format!("CONNECT allowed.example:{port} HTTP/1.1\r\n\r\n").into_bytes();
        request.extend_from_slice(&greeting);
        run.say(&request).await;
        run.settle().await;
        assert_eq!(run.reason(), Some(Reason::OtherName));
    }
    assert_eq!(server.asked().concat(), "");
    let mut request = format!("CONNECT allowed.example:{port} HTTP/1.1\r\n\r\n").into_bytes();
    request.extend_from_slice(&hello("allowed.example"));
    request.extend_from_slice(b"\r\n\r\n");
    assert!(run.say(&request).await.text().ends_with("never"));
}
