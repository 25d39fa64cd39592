//! What a sandbox says to its way out, and what people say of ways out.

use paw_api::egress::{HostName, NetRule};
use paw_egress::{
    head::check,
    hello::{Greeting, Opening},
    target::{agrees, connect, objection, plain},
    witness::fuzz,
};

pub(crate) fn request(bytes: &[u8]) {
    if let Ok(head) = check(bytes) {
        assert!(head.length <= bytes.len());
        for target in [connect(&head.target), plain(&head.target)]
            .into_iter()
            .flatten()
        {
            let _ = objection(&target.path);
            if let Some(host) = &head.host {
                let _ = agrees(host, &target, Some(443));
            }
        }
    }
    let text = String::from_utf8_lossy(bytes);
    for target in [connect(&text), plain(&text)].into_iter().flatten() {
        // A host has one form, so what is judged is what is asked for.
        let host = target.host.as_str();
        assert!(
            host.parse::<HostName>()
                .is_ok_and(|again| again == target.host),
            "{host}"
        );
    }
    if let Ok(rule) = text.parse::<NetRule>() {
        assert_eq!(
            rule.to_string().parse(),
            Ok(rule),
            "it is another rule afterwards"
        );
    }
}

pub(crate) fn request_seeds() -> Vec<Vec<u8>> {
    [
        "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
        "GET http://example.org/a?b=c HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\nContent-Length: 0\r\n\r\n",
        "POST http://example.org:8080/ HTTP/1.1\r\nHost: example.org:8080\r\nTransfer-Encoding: chunked\r\n\r\n",
        "example.org:443",
        "*.example.org:443",
        "GET,POST http://example.org/a/*",
        "http://example.org/%2e%2e/",
        "broker:name",
    ]
    .map(|seed| seed.as_bytes().to_vec())
    .to_vec()
}

/// The first byte says whether it must be encrypted, and in pieces of which length the others come.
pub(crate) fn hello(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else {
        return;
    };
    let Ok(host) = "example.org".parse::<HostName>() else {
        return;
    };
    let must = how & 0x80 != 0;
    let at_once = Opening::new(&host, must).look(bytes);
    let mut opening = Opening::new(&host, must);
    let step = usize::from(how & 0x7f).max(1);
    let mut seen = 0;
    while seen < bytes.len() {
        seen = (seen + step).min(bytes.len());
        match opening.look(&bytes[..seen]) {
            Ok(Greeting::Unfinished) => {}
            Ok(Greeting::Good) => return,
            Err(_) => {
                assert!(
                    at_once.is_err(),
                    "it is refused only where it comes in pieces"
                );
                return;
            }
        }
    }
    assert!(
        !matches!(at_once, Ok(Greeting::Good)),
        "it is good only where it comes at once"
    );
}

pub(crate) fn hello_seeds() -> Vec<Vec<u8>> {
    // A ClientHello with one cipher, one group and the name of a host.
    let name = b"example.org";
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes();
    let extension =
        |number: u16, body: &[u8]| [&number.to_be_bytes()[..], &length(body), body].concat();
    let server = [&[0][..], &length(name), name].concat();
    let extensions = [
        extension(0, &[&length(&server)[..], &server].concat()),
        extension(10, &[0, 2, 0, 29]),
        extension(13, &[0, 2, 4, 3]),
        extension(43, &[2, 3, 4]),
        extension(51, &[&[0, 36, 0, 29, 0, 32][..], &[9; 32]].concat()),
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0, 0, 2, 0x13, 1, 1, 0],
        &length(&extensions),
        &extensions,
    ]
    .concat();
    let handshake = [&[1, 0][..], &length(&body), &body].concat();
    let record = [&[22, 3, 1][..], &length(&handshake), &handshake].concat();
    vec![
        [&[0x80 | 5][..], &record].concat(),
        [&[5][..], &record].concat(),
        b"\x03GET / HTTP/1.1\r\nHost: example.org\r\n\r\n".to_vec(),
        b"\x7fSSH-2.0-x\r\n".to_vec(),
    ]
}

/// Words where they are text that says where checkpoints go; or else what pawd hands on.
pub(crate) fn witness(bytes: &[u8]) {
    match str::from_utf8(bytes) {
        Ok(text) if text.contains("[witness]") => fuzz::words(text),
        _ => fuzz::checkpoints(bytes),
    }
}

pub(crate) fn witness_seeds() -> Vec<Vec<u8>> {
    let words = |url: &str| format!("[witness]\nurl = \"{url}\"\n").into_bytes();
    vec![
        words("syslog://logs.example.com:6514"),
        words("https://logs.example.com/a/b"),
        b"hosts = [\"example.org\"]\n[witness]\nurl = \"https://logs.example.com:8443/\"\ncredential = \"c\"\n".to_vec(),
        fuzz::frames(),
    ]
}
