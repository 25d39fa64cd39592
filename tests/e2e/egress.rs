//! What a sandbox reaches: what its rules name, through its proxy, in each runtime; and nothing else by any way.

use std::sync::Arc;

use harness::{
    LIMIT, POOL, cases,
    report::Case,
    standalone::{Standalone, look},
    within,
    words::{answer, finally},
};
use paw_api::{
    action::{Answer, ApprovalRpcClient},
    sandbox::{RunEvent, RunResult, RunSpec, SandboxRpcClient},
    trail::AuditRpcClient,
};
use paw_policy::State;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::Barrier,
};

use crate::{secrets::host_addresses, shim::without_shim, without_sandboxes};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = cases![
        without_sandboxes;
        only_what_the_rules_name_is_reached_natively,
        only_what_the_rules_name_is_reached_in_gvisor,
        an_encrypted_connection_is_carried_to_the_host_that_it_names,
        a_rule_narrows_method_path_requests_and_bytes,
        a_credential_is_used_and_is_nowhere_inside_natively,
        a_credential_is_used_and_is_nowhere_inside_in_gvisor,
        without_rules_there_is_no_proxy,
        sandboxes_at_once_reach_what_their_own_rules_name,
        sandbox_that_waited_has_the_network_of_its_run_alone,
        more_connections_than_there_are_places_are_served_one_after_the_other,
        attack_is_on_record_behind_a_hundred_harmless_refusals,
        rules_beyond_the_agent_or_the_host_are_denied,
        a_refused_host_is_reached_once_a_person_has_approved_it,
    ];
    cases.extend(cases![without_shim; only_what_the_rules_name_is_reached_through_a_shim]);
    cases
}

/// A server on this host's loopback that says the same to everybody, but sends on who asks for `/away`, and lets who asks for `/meet`
/// wait for a second one. It ends with the test's runtime.
pub(crate) async fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback is there");
    let port = listener.local_addr().expect("it is bound").port();
    let two = Arc::new(Barrier::new(2));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let two = Arc::clone(&two);
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let read = stream.read(&mut head).await.unwrap_or_default();
                let answer = if head[..read].starts_with(b"GET /away ") {
                    format!(
                        "HTTP/1.0 302 Found\r\nLocation: http://later.test:{port}/\r\nContent-Length: 0\r\n\r\n"
                    )
                } else {
                    if head[..read].starts_with(b"GET /meet ") {
                        two.wait().await;
                    }
                    "HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\nreached\n".to_owned()
                };
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    port
}

async fn system(port: u16, with_shim: bool) -> Standalone {
    system_with(port, with_shim, &[]).await
}

/// A system whose sandboxes may reach this port of loopback under some names, with further files.
pub(crate) async fn system_with(port: u16, with_shim: bool, files: &[(&str, &str)]) -> Standalone {
    let ceiling = format!(
        "hosts = [\"*.test\", \"ceiling.example\"]\nports = [{port}]\nallow_addresses = [\"127.0.0.1/32\"]\n[addresses]\n\
         \"allowed.test\" = [\"127.0.0.1\"]\n\"below.allowed.test\" = [\"127.0.0.1\"]\n\
         \"later.test\" = [\"127.0.0.1\"]\n\"inside.test\" = [\"127.0.0.2\"]\n\"cloud.test\" = [\"169.254.169.254\"]\n\
         \"mapped.test\" = [\"::ffff:127.0.0.2\"]\n"
    );
    Standalone::start_with(
        &format!("net = [\"*.test:{port}\", \"agent.example:{port}\"]\n"),
        with_shim,
        &[&[("etc/egress.toml", ceiling.as_str())], files].concat(),
    )
    .await
}

/// A function `get` for shells: asks the proxy as it is told, and prints what is answered. Not wget: busybox's asks the C library
/// for the port of http, which a static one answers with a fault.
pub(crate) const GET: &str =
    "get() { printf \"${2:-GET} $1 HTTP/1.0\\r\\n\\r\\n\" | nc -w 10 127.0.0.1 3128; }; ";

/// What a shell in a sandbox says, and how it ended.
pub(crate) async fn shell(
    system: &Standalone,
    runtime: &str,
    net: &[String],
    script: &str,
) -> (String, RunResult) {
    let client = system.client().await;
    let spec = RunSpec {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        runtime: Some(runtime.to_owned()),
        net: net
            .iter()
            .map(|rule| rule.parse().expect("a rule"))
            .collect(),
        timeout_ms: Some(60_000),
        pids: Some(512),
        ..RunSpec::default()
    };
    let mut events = within("sandbox.run", SandboxRpcClient::run(&client, spec))
        .await
        .expect("it is accepted");
    let mut said = String::new();
    loop {
        let event = within("an event", events.next())
            .await
            .expect("it goes on")
            .expect("it can be read");
        match event {
            RunEvent::Ended(result) => return (said, *result),
            other => said.push_str(&text_of(other)),
        }
    }
}

/// What a command said; a failure to run it is one of the test.
pub(crate) fn text_of(event: RunEvent) -> String {
    use base64::Engine as _;
    match event {
        RunEvent::Stdout { data } | RunEvent::Stderr { data } => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(data);
            String::from_utf8_lossy(&bytes.expect("it is base64")).into_owned()
        }
        RunEvent::Failed { message, .. } => panic!("{message}"),
        RunEvent::Ended(result) => panic!("it ended: {result:?}"),
        RunEvent::Started { .. } | RunEvent::Waiting { .. } => String::new(),
    }
}

async fn only_what_the_rules_name_is_reached(runtime: &str) {
    let port = server().await;
    let system = system(port, runtime == "kata").await;
    let outside = std::net::UdpSocket::bind("0.0.0.0:0").expect("the host has a network");
    outside.set_nonblocking(true).expect("it is a socket");
    let udp = outside.local_addr().expect("it is bound").port();
    let rules: Vec<String> = ["allowed", "inside", "cloud", "mapped"]
        .map(|name| format!("{name}.test:{port}"))
        .into();
    let script = format!(
        "{GET} get http://allowed.test:{port}/ | grep reached && echo ok; \
         to=$(get http://allowed.test:{port}/away | tr -d '\\r' | sed -n 's/^[Ll]ocation: //p'); echo sent on to $to; \
         for url in $to http://below.allowed.test:{port}/ http://inside.test:{port}/ http://cloud.test:{port}/ http://mapped.test:{port}/ \
           http://127.0.0.1:{port}/ http://allowed.test:22/ http://169.254.169.254/ http://broker/x/; \
           do get $url | grep reached && echo LEAK $url; done; \
         for to in '127.0.0.1 {port}' '10.0.0.1 80' '1.1.1.1 80' '169.254.169.254 80'; do nc -w 3 $to </dev/null 2>/dev/null && echo LEAK $to; done; \
         for to in {hosts}; do nc -w 3 $to {port} </dev/null 2>/dev/null && echo LEAK $to; \
           timeout 1 tftp -g -r x -l /tmp/x $to {udp} 2>/dev/null && echo LEAK udp $to; done; \
         nslookup allowed.test 2>/dev/null && echo LEAK dns; ping -c 1 -W 1 127.0.0.1 2>/dev/null && echo LEAK raw; \
         ls /sys/class/net 2>/dev/null | grep -v '^lo$' && echo LEAK interface; echo $http_proxy $HTTPS_PROXY; echo done",
        hosts = host_addresses().join(" "),
    );
    let (said, result) = shell(&system, runtime, &rules, &script).await;
    assert!(said.contains("reached\nok\n"), "{said}");
    assert!(
        said.contains(&format!("sent on to http://later.test:{port}/\n")),
        "{said}"
    );
    assert!(!said.contains("LEAK"), "{said}");
    assert!(
        said.ends_with("http://127.0.0.1:3128 http://127.0.0.1:3128\ndone\n"),
        "{said}"
    );
    let heard = outside.recv(&mut [0; 16]);
    assert!(heard.is_err(), "a datagram came out: {heard:?}");
    let net = result.net.expect("it had a network");
    let head = |more: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{more}\r\n").len();
    let sent_on = format!("location: http://later.test:{port}/\r\n");
    let received = head("") + "reached\n".len() + head(&sent_on);
    assert_eq!(
        (net.allowed, net.refused, net.received),
        (2, 9, received as u64),
        "{net:?}"
    );

    let client = system.client().await;
    let shown = SandboxRpcClient::show(&client, result.id.clone())
        .await
        .expect("it is remembered");
    assert_eq!(shown.net, Some(net));
    let records = AuditRpcClient::list(&client, None, None, None, None)
        .await
        .expect("root may read the log");
    let records = serde_json::Value::Array(records).to_string();
    for event in ["egress_allowed", "egress_refused", "egress_ended"] {
        assert!(records.contains(event), "{event}");
    }
}

async fn only_what_the_rules_name_is_reached_through_a_shim() {
    only_what_the_rules_name_is_reached("kata").await;
}

async fn only_what_the_rules_name_is_reached_natively() {
    only_what_the_rules_name_is_reached("native").await;
}

async fn only_what_the_rules_name_is_reached_in_gvisor() {
    only_what_the_rules_name_is_reached("gvisor").await;
}

async fn an_encrypted_connection_is_carried_to_the_host_that_it_names() {
    let port = server().await;
    let system = system(port, false).await;
    let rules = [format!("allowed.test:{port}")];
    let greeting = |name: &'static str| {
        let config = rustls::ClientConfig::builder_with_provider(ring())
            .with_safe_default_protocol_versions()
            .expect("ring has what they need")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = name.try_into().expect("a name");
        let mut client =
            rustls::ClientConnection::new(Arc::new(config), name).expect("it can begin");
        let mut greeting = Vec::new();
        client.write_tls(&mut greeting).expect("a vector has room");
        // As printf of a shell reads it.
        greeting
            .iter()
            .fold(String::new(), |text, byte| format!("{text}\\{byte:03o}"))
    };
    let script = format!(
        "ask() {{ printf \"CONNECT $1 HTTP/1.1\\r\\n\\r\\n$2\" | nc -w 10 127.0.0.1 3128 | grep reached; }}; \
         ask allowed.test:{port} '{right}' && echo ok; \
         ask allowed.test:{port} '{wrong}' && echo LEAK name; \
         ask later.test:{port} '{right}' && echo LEAK host; echo done",
        right = greeting("allowed.test"),
        wrong = greeting("later.test"),
    );
    let (said, result) = shell(&system, "native", &rules, &script).await;
    assert_eq!(said, "reached\nok\ndone\n");
    let net = result.net.expect("it had a network");
    assert!(net.refused >= 1 && net.sent > 0, "{net:?}");
}

async fn a_rule_narrows_method_path_requests_and_bytes() {
    let port = server().await;
    let system = system(port, false).await;
    let rules = [
        format!("allowed.test:{port},method=GET,path=/v1/,requests=2"),
        format!("later.test:{port},received=4"),
    ];
    let url = format!("http://allowed.test:{port}");
    let script = format!(
        "{GET} see() {{ get $1 $2 | grep -c reached; }}; see {url}/v1/a; see {url}/v1/a POST; see {url}/v2/a; \
         see {url}/v1/../v2/a; see {url}/v1/b; see {url}/v1/c; see http://later.test:{port}/"
    );
    let (said, _) = shell(&system, "native", &rules, &script).await;
    assert_eq!(said, "1\n0\n0\n0\n1\n0\n0\n");
}

async fn more_connections_than_there_are_places_are_served_one_after_the_other() {
    let port = server().await;
    let system = system(port, false).await;
    // Twice as many at once as a sandbox may have open, and each is over only when another is there.
    let script = format!(
        "{GET} for one in $(seq 1 128); do \
           (for again in 1 2 3; do get http://allowed.test:{port}/meet; done) & \
         done | grep -c reached"
    );
    let rules = [format!("allowed.test:{port}")];
    let (said, result) = shell(&system, "native", &rules, &script).await;
    assert_eq!((result.exit_code, &*said), (Some(0), "384\n"));
}

async fn attack_is_on_record_behind_a_hundred_harmless_refusals() {
    let port = server().await;
    let system = system(port, false).await;
    let rules = ["allowed", "inside", "cloud"].map(|name| format!("{name}.test:{port}"));
    let script = format!(
        "{GET} for one in $(seq 1 100); do get http://d$one.test:{port}/ >/dev/null; done; \
         get http://inside.test:{port}/ >/dev/null; get http://cloud.test:{port}/ >/dev/null"
    );
    let (_, result) = shell(&system, "native", &rules, &script).await;
    assert_eq!(result.net.expect("it had a network").refused, 102);
    let client = system.client().await;
    let listed = AuditRpcClient::list(&client, None, None, None, Some(200)).await;
    let listed = listed.expect("root may read the log");
    let refused = |wanted: &[(&str, &str)]| {
        let of = listed
            .iter()
            .filter(|record| record["entry"]["event"] == "egress_refused");
        of.filter(|record| {
            let detail = &record["entry"]["detail"];
            wanted.iter().all(|(name, value)| detail[*name] == **value)
        })
        .count()
    };
    for host in ["inside.test", "cloud.test"] {
        assert_eq!(
            refused(&[("host", host), ("reason", "address")]),
            1,
            "{host}"
        );
    }
    assert_eq!(refused(&[("reason", "no_rule"), ("further", "36")]), 1);
}

/// What only paw-egress and its endpoint know.
const CREDENTIAL: &str = "sk-live/0123456789+abcdefghij";

/// An https endpoint that says whether it was given the credential, with the certificate that vouches for it.
async fn endpoint() -> (u16, String) {
    let answer = |head: &str| {
        let known = head.starts_with("GET /base/hello ")
            && head.contains(&format!("Bearer {CREDENTIAL}\r\n"));
        if known { "known\n" } else { "who?!\n" }.to_owned()
    };
    endpoint_of("api.test", answer).await
}

/// An https server of this name that says what `answer` makes of a request's head, with the certificate that vouches for it.
pub(crate) async fn endpoint_of(
    name: &str,
    answer: impl Fn(&str) -> String + Send + 'static,
) -> (u16, String) {
    let key = rcgen::generate_simple_self_signed([name.to_owned()]).expect("ring makes keys");
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(ring())
        .with_safe_default_protocol_versions()
        .expect("ring has what they need")
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private.expect("a key"))
        .expect("they belong together");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback is there");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.unwrap_or_default();
            let answer = answer(&String::from_utf8_lossy(&head[..read]));
            let length = answer.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{answer}");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (port, key.cert.pem())
}

/// Bytes of a page, and pages that are looked through at once.
const PAGE: usize = 4096;
const BLOCK: usize = 4096;

/// Whether the credential is in the memory, the environment or the arguments of a process.
fn holds_the_credential(pid: u32) -> bool {
    holds_any(pid, &[CREDENTIAL.as_bytes().to_vec()])
}

/// Whether any of these is in the memory, the environment or the arguments of a process.
pub(crate) fn holds_any(pid: u32, wanted: &[Vec<u8>]) -> bool {
    use std::os::unix::fs::FileExt as _;
    let is_in = |bytes: &[u8]| {
        let mut each = wanted.iter();
        each.any(|one| memchr::memmem::find(bytes, one).is_some())
    };
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    if is_in(&read("environ")) || is_in(&read("cmdline")) {
        return true;
    }
    let maps = String::from_utf8_lossy(&read("maps")).into_owned();
    let open = |name| std::fs::File::open(format!("/proc/{pid}/{name}")).expect("root may look");
    let (memory, pages) = (open("mem"), open("pagemap"));
    let mut block = vec![0; BLOCK * PAGE];
    maps.lines()
        .filter_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (from, to) = range.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).ok();
            rest.starts_with('r')
                .then_some((number(from)?, number(to)?))
        })
        .flat_map(|(from, to)| touched(&pages, from, to))
        .any(|(begin, length)| {
            // What belongs to a device cannot be read.
            let read = memory.read_at(&mut block[..length], begin as u64);
            is_in(&block[..read.unwrap_or(0)])
        })
}

/// Where a process has pages between these places, by its pagemap, and how many bytes there: no more than [`BLOCK`] pages each. Reading what
/// was never touched would make it, at the cost of the process, and there are terabytes of that.
pub(crate) fn touched(pages: &std::fs::File, from: usize, to: usize) -> Vec<(usize, usize)> {
    use std::os::unix::fs::FileExt as _;
    let (mut entries, mut found) = (vec![0; BLOCK * 8], Vec::new());
    for at in (from..to).step_by(BLOCK * PAGE) {
        let listed = pages
            .read_at(&mut entries, (at / PAGE * 8) as u64)
            .unwrap_or(0);
        let there: Vec<bool> = entries[..listed]
            .chunks(8)
            .map(|entry| entry[7] & 0xc0 != 0)
            .take(to.saturating_sub(at).div_ceil(PAGE))
            .collect();
        let mut begin = at;
        for run in there.chunk_by(|a, b| a == b) {
            let length = run.len() * PAGE;
            found.extend(run[0].then_some((begin, length)));
            begin += length;
        }
    }
    found
}

async fn a_credential_is_used_and_is_nowhere_inside(runtime: &str) {
    let (port, certificate) = endpoint().await;
    let ceiling = format!(
        "ports = []\nallow_addresses = [\"127.0.0.1/32\"]\n[addresses]\n\"api.test\" = [\"127.0.0.1\"]\n\
         [broker.api]\nurl = \"https://api.test:{port}/base\"\ncredential = \"api\"\nca = \"ROOT/etc/ca.pem\"\n"
    );
    let system = Standalone::start_with(
        "net = [\"broker/api\"]\n",
        false,
        &[
            ("etc/egress.toml", &ceiling),
            ("etc/ca.pem", &certificate),
            ("etc/credentials/api", CREDENTIAL),
        ],
    )
    .await;
    let client = system.client().await;
    let script = format!(
        "{GET} get http://broker/api/hello; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; echo; echo asked; exec sleep 60"
    );
    let spec = RunSpec {
        argv: ["sh", "-c", &script].map(str::to_owned).to_vec(),
        runtime: Some(runtime.to_owned()),
        net: vec!["broker/api".parse().expect("a rule")],
        timeout_ms: Some(60_000),
        ..RunSpec::default()
    };
    let mut events = within("sandbox.run", SandboxRpcClient::run(&client, spec))
        .await
        .expect("it is accepted");
    let mut said = String::new();
    while !said.contains("\nasked\n") {
        let event = within("an event", events.next())
            .await
            .expect("it goes on")
            .expect("it can be read");
        said.push_str(&text_of(event));
    }
    assert!(said.contains("known\n"), "{said}");
    assert!(!said.contains(CREDENTIAL), "{said}");

    let egress = system.processes().await["paw-egress"];
    assert!(
        holds_the_credential(egress),
        "the search finds what is there"
    );
    let inside: Vec<u32> = system
        .seen()
        .into_iter()
        .map(|process| process.pid)
        .filter(|pid| *pid != egress)
        .collect();
    assert!(inside.len() >= 5, "{inside:?}");
    for pid in inside {
        assert!(!holds_the_credential(pid), "{:?}", look(pid));
    }
    let records = AuditRpcClient::list(&client, None, None, None, None)
        .await
        .expect("root may read the log");
    let records = serde_json::Value::Array(records).to_string();
    assert!(records.contains("secret_used") && !records.contains(CREDENTIAL));
}

async fn a_credential_is_used_and_is_nowhere_inside_natively() {
    a_credential_is_used_and_is_nowhere_inside("native").await;
}

async fn a_credential_is_used_and_is_nowhere_inside_in_gvisor() {
    a_credential_is_used_and_is_nowhere_inside("gvisor").await;
}

pub(crate) fn ring() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

async fn without_rules_there_is_no_proxy() {
    let port = server().await;
    let system = system(port, false).await;
    let script = format!(
        "env | grep -i proxy; printf 'GET http://allowed.test:{port}/ HTTP/1.0\\r\\n\\r\\n' | nc -w 3 127.0.0.1 3128 | grep reached && echo LEAK; echo done"
    );
    let (said, result) = shell(&system, "native", &[], &script).await;
    assert!(!said.contains("LEAK") && !said.contains("3128\n"), "{said}");
    assert_eq!(result.net, None);
}

async fn sandboxes_at_once_reach_what_their_own_rules_name() {
    let port = server().await;
    let system = system(port, false).await;
    // Before and after it tries what is the other's, each meets the other one, so both live meanwhile.
    let reach = async |own: &str, foreign: &str| {
        let script = format!(
            "{GET} get http://{own}:{port}/meet | grep reached; get http://{foreign}:{port}/ | grep reached && echo LEAK; \
             get http://{own}:{port}/meet | grep reached"
        );
        shell(&system, "native", &[format!("{own}:{port}")], &script)
            .await
            .0
    };
    let (one, other) = ("allowed.test", "below.allowed.test");
    let said = tokio::join!(reach(one, other), reach(other, one));
    let both = "reached\nreached\n";
    assert_eq!((said.0.as_str(), said.1.as_str()), (both, both));
}

async fn sandbox_that_waited_has_the_network_of_its_run_alone() {
    let port = server().await;
    let system = system(port, false).await;
    system.root.write(POOL.0, POOL.1);
    let output = system.pawctl(&["config", "reload"]).await;
    assert!(output.status.success(), "{output:?}");
    let script =
        format!("{GET} get http://allowed.test:{port}/ 2>/dev/null | grep reached; echo done");
    for _ in 0..2 {
        let (said, result) = shell(&system, "native", &[], &script).await;
        assert_eq!((said.as_str(), result.pooled), ("done\n", false));
    }
    system.daemon.says("sandbox waits", 1).await;
    let rules = [format!("allowed.test:{port}")];
    let (said, with) = shell(&system, "native", &rules, &script).await;
    assert_eq!((said.as_str(), with.pooled), ("reached\ndone\n", true));
    assert!(with.net.is_some(), "{with:?}");
    system.daemon.says("sandbox waits", 2).await;
    let (said, without) = shell(&system, "native", &[], &script).await;
    assert_eq!((said.as_str(), without.pooled), ("done\n", true));
    assert_eq!(without.net, None);
}

async fn rules_beyond_the_agent_or_the_host_are_denied() {
    let port = server().await;
    let system = system(port, false).await;
    let of_the_agent = "sandboxes of agent default may not reach";
    for (rule, code, by_the_agent) in [
        (format!("allowed.test:{port},sent=1M"), 0, false),
        (format!("ceiling.example:{port}"), 4, true),
        (format!("agent.example:{port}"), 4, false),
    ] {
        let words = [
            "sandbox",
            "run",
            "--runtime",
            "native",
            "--net",
            &rule,
            "--",
            "true",
        ];
        let output = system.pawctl(&words).await;
        assert_eq!(output.status.code(), Some(code), "{rule}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.contains(of_the_agent), by_the_agent, "{rule}: {said}");
    }
}

async fn a_refused_host_is_reached_once_a_person_has_approved_it() {
    let port = server().await;
    let system = system(port, false).await;
    let client = system.client().await;
    let rules = [format!("allowed.test:{port}")];
    // It asks again as an ordinary client would that is told to try later.
    let script = format!(
        "until printf 'GET http://later.test:{port}/ HTTP/1.0\\r\\n\\r\\n' | nc -w 10 127.0.0.1 3128 | grep reached; do sleep 1; done"
    );
    let running = shell(&system, "native", &rules, &script);
    let approving = async {
        let asked = tokio::time::timeout(LIMIT, async {
            let mut often = tokio::time::interval(std::time::Duration::from_millis(100));
            loop {
                often.tick().await;
                let waiting = ApprovalRpcClient::list(&client, None, None)
                    .await
                    .expect("root may look");
                if let Some(asked) = waiting.into_iter().next() {
                    return asked;
                }
            }
        })
        .await
        .expect("a person is asked");
        assert!(
            format!("{:?}", asked.plan).contains("later.test"),
            "{asked:?}"
        );
        answer(&client, &asked.id, asked.digest, Answer::Approve)
            .await
            .expect("it may be approved");
        finally(&client, &asked.id).await
    };
    let ((said, result), approved) = tokio::join!(running, approving);
    assert_eq!(approved.state, State::Completed, "{approved:?}");
    assert!(said.ends_with("reached\n"), "{said}");
    let net = result.net.expect("it had a network");
    assert_eq!((net.rules.len(), net.allowed), (2, 1), "{net:?}");
}
