//! What a sandbox must not reach: each thing is tried from inside, and is seen to fail from outside.

use std::{
    net::TcpListener,
    os::{linux::net::SocketAddrExt, unix::net::UnixListener},
};

use harness::{cases, report::Case, stage, standalone::Standalone};

use crate::without_sandboxes;

pub(crate) fn cases() -> Vec<Case> {
    cases![without_sandboxes; secrets_of_the_host_cannot_be_read, host_cannot_be_changed, network_of_the_host_cannot_be_reached, what_is_open_outside_is_not_open_inside]
}

/// A word that only the host knows.
const CANARY: &str = "canary-5f0c7b1e";

/// Ends of a command that say nothing of what holds it: it was done, its time was over, there was no sandbox, the program could not be
/// started or is not there.
const NO_WALL: [i32; 5] = [0, 124, 125, 126, 127];

/// Runs each command in a sandbox of its own and expects that it fails and says nothing of the host.
async fn all_fail(system: &Standalone, commands: &[String]) {
    for command in commands {
        let output = system
            .pawctl(&[
                "sandbox",
                "run",
                "--timeout",
                "10s",
                "--",
                "sh",
                "-c",
                command,
            ])
            .await;
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let code = output.status.code();
        assert!(
            code.is_some_and(|code| !NO_WALL.contains(&code)),
            "`{command}` did not fail from inside: {code:?} {said}"
        );
        assert!(!said.contains(CANARY), "`{command}` read a secret: {said}");
    }
}

async fn secrets_of_the_host_cannot_be_read() {
    let system = Standalone::start("").await;
    system.root.write("etc/secret.txt", CANARY);
    let secret = system.root.path().join("etc/secret.txt");
    let root = system.root.path().display();
    let mut commands: Vec<String> = [
        "cat /etc/shadow".to_owned(),
        format!("cat {}", secret.display()),
        format!("cat /proc/1/root{}", secret.display()),
        format!("ls {root}/state"),
        format!("cat {root}/log/audit.000001.log"),
        format!("ls {root}/run/control.sock"),
        "ls /var/lib/pawd /run/pawd".to_owned(),
        "cat /proc/kcore".to_owned(),
        "cat /proc/1/mem".to_owned(),
        "dmesg".to_owned(),
        "cat /sys/kernel/debug/*".to_owned(),
        "ls /sys/fs/cgroup/pawd*".to_owned(),
        "env | grep -iE 'key|token|secret|pawd|notify'".to_owned(),
        // Nobody but the sandbox's own processes is to be seen.
        "grep -lE 'pawd|systemd' /proc/[0-9]*/comm".to_owned(),
        format!("grep -r {CANARY} /etc /root /home /mnt /opt /srv /var /run"),
    ]
    .into();
    commands.extend((3..20).map(|fd| format!("test -e /proc/self/fd/{fd} && test \"$(readlink /proc/self/fd/{fd})\" != \"/proc/$$/fd\" && cat <&{fd}")));
    all_fail(&system, &commands).await;
}

async fn host_cannot_be_changed() {
    let system = Standalone::start("").await;
    let commands = [
        "touch /file",
        "touch /usr/file",
        "touch /etc/file",
        "touch /skill/file",
        "mount -t tmpfs none /mnt",
        "mount -t proc proc /mnt",
        "umount /proc",
        "mknod /tmp/sda b 8 0",
        "mknod /tmp/mem c 1 1",
        "chroot / true",
        "unshare -U true",
        "unshare -m true",
        "nsenter -t 1 -m true",
        "hostname elsewhere",
        "sysctl -w kernel.domainname=x",
        "echo 1 > /proc/sys/kernel/sysrq",
        "echo b > /proc/sysrq-trigger",
        "echo 0 > /proc/self/oom_score_adj && echo -1000 > /proc/self/oom_score_adj",
        "renice -n -5 -p $$",
        // This date says that it cannot, and succeeds.
        "date -s 2000-01-01 2>&1 | { ! grep 'not permitted'; }",
        "insmod /nowhere.ko || reboot -f",
        "cp /bin/busybox /tmp/su && chmod 4755 /tmp/su && /tmp/su id -u | grep -x 0",
    ];
    all_fail(&system, &commands.map(str::to_owned)).await;
}

/// Some addresses of this host.
pub(crate) fn host_addresses() -> Vec<String> {
    let addresses = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let mut hosts: Vec<String> = addresses
        .lines()
        .filter_map(|line| line.trim().strip_prefix("|-- "))
        .filter(|address| !address.ends_with(".0") && !address.ends_with(".255"))
        .map(str::to_owned)
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts.truncate(6);
    hosts
}

async fn network_of_the_host_cannot_be_reached() {
    let system = Standalone::start("").await;
    let listener = TcpListener::bind("0.0.0.0:0").expect("the host has a network");
    let port = listener.local_addr().expect("it is bound").port();
    // An abstract socket has no file that could be left out of a mount table.
    let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("{CANARY}-{port}"))
        .expect("a short name");
    let _abstract = UnixListener::bind_addr(&name).expect("nobody has it");
    let mut commands: Vec<String> = host_addresses()
        .iter()
        .map(|host| format!("echo x | nc -w 1 {host} {port}"))
        .collect();
    commands.push(format!("echo x | nc -w 1 127.0.0.1 {port}"));
    commands.push("nc -w 1 1.1.1.1 53 </dev/null".into());
    commands.push("ping -c 1 -W 1 1.1.1.1".into());
    commands.push("nslookup -timeout=1 example.com".into());
    commands.push(format!("grep -r {CANARY} /proc/net/unix"));
    commands.push("ls /sys/class/net | grep -v '^lo$'".into());
    // Clouds tell whoever asks there of the host, and what it may do; and there is a second family of addresses.
    commands.push("nc -w 1 169.254.169.254 80 </dev/null".into());
    commands.push("nc -w 1 2606:4700:4700::1111 53 </dev/null".into());
    commands.push("nc -w 1 fe80::1 80 </dev/null".into());
    commands.push("nslookup -timeout=1 example.com 1.1.1.1".into());
    commands.push("nslookup -timeout=1 example.com 2606:4700:4700::1111".into());
    commands.push("ip link set lo mtu 1400".into());
    commands.push("ip addr add 10.9.8.7/24 dev lo".into());
    commands.push("ip route add default dev lo".into());
    all_fail(&system, &commands).await;
    listener.set_nonblocking(true).expect("it is a socket");
    assert!(listener.accept().is_err(), "somebody connected");
    // What was sent and received by whatever interface there is: nothing, after the same was tried once more in one sandbox.
    let tries = "nc -w 1 1.1.1.1 53 </dev/null; nc -w 1 2606:4700:4700::1111 53 </dev/null; \
                 nslookup -timeout=1 example.com 1.1.1.1; ping -c 1 -W 1 1.1.1.1";
    let counted = format!("({tries}) >/dev/null 2>&1; tail -n +3 /proc/net/dev");
    let output = system
        .pawctl(&["sandbox", "run", "--", "sh", "-c", &counted])
        .await;
    let said = String::from_utf8_lossy(&output.stdout);
    let interfaces: Vec<Vec<&str>> = said
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let [lo] = interfaces.as_slice() else {
        panic!("{said}");
    };
    assert!(
        lo[0] == "lo:" && lo[1..].iter().all(|it| *it == "0"),
        "{said}"
    );
}

async fn what_is_open_outside_is_not_open_inside() {
    let system = Standalone::start("").await;
    // Standard streams, and the directory that ls itself reads.
    let output = system
        .pawctl(&["sandbox", "run", "--", "ls", "-l", "/proc/self/fd"])
        .await;
    let said = String::from_utf8_lossy(&output.stdout);
    let open: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split(" -> ").nth(1))
        .collect();
    assert!(output.status.success() && !open.is_empty(), "{output:?}");
    for target in open {
        assert!(
            target.starts_with("pipe:") || target.starts_with("/proc/") || target == "/dev/null",
            "{target} in\n{said}"
        );
    }
    assert!(
        !said.contains(&stage::usr().display().to_string()),
        "{said}"
    );
}
