//! How fast a vault is, for the numbers of tests/bench/README.md. Run: `cargo bench --workspace --bench vault`.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for people, which fails where it stands"
)]

use std::time::{Duration, Instant};

use paw_vault::{NewKey, Source, Unlock, Vault, key::HostKey};
use secrecy::SecretString;

const NOW: u64 = 1_800_000_000_000;
/// Secrets of a usual vault, and the most of one.
const USUAL: usize = 100;
const MOST: usize = 10_000;

fn main() {
    // `cargo test` runs it, too, and wants no numbers.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vault.redb");
    let key = HostKey::parse(&[1; 32]).unwrap();
    let vault = Vault::at(&file).unwrap();
    vault.init(&NewKey::Host(&key, Source::File)).unwrap();
    let value = [b'x'; 200];
    let puts = measured(USUAL, |n| {
        let _mark = vault.set(&format!("name-{n}"), &value, NOW).unwrap();
    });
    told("put, 200 bytes", &puts);
    let gets = measured(20_000, |n| {
        drop(
            vault
                .get(&format!("name-{}", n % USUAL), None, NOW)
                .unwrap(),
        );
    });
    told("get, of 100 secrets", &gets);
    drop(vault);
    told("open and unseal, 100 secrets", &unsealed(&file, &key, 50));
    let vault = Vault::at(&file).unwrap();
    vault.unseal(&Unlock::Host(&key), NOW).unwrap();
    for n in USUAL..MOST {
        vault.set(&format!("name-{n}"), &value, NOW).unwrap();
    }
    let puts = measured(100, |_| {
        drop(vault.rotate("name-7", &value, 0, NOW + 1).err());
    });
    told("rotate, of 10,000 secrets", &puts);
    let gets = measured(20_000, |n| {
        drop(vault.get(&format!("name-{}", n % MOST), None, NOW).unwrap());
    });
    told("get, of 10,000 secrets", &gets);
    let rekeys = measured(3, |n| {
        let next = HostKey::parse(&[2 + u8::try_from(n).unwrap(); 32]).unwrap();
        drop(vault.rekey(&NewKey::Host(&next, Source::File)).unwrap());
    });
    told("rekey, 10,000 secrets", &rekeys);
    let guessed = guesses(dir.path());
    told("guess of a passphrase", &guessed);
    assert!(
        guessed[0] >= Duration::from_millis(300),
        "it is too cheap: raise the work"
    );
    drop(vault);
    let last = HostKey::parse(&[4; 32]).unwrap();
    told(
        "open and unseal, 10,000 secrets",
        &unsealed(&file, &last, 5),
    );
}

/// What one guess of a passphrase takes: at least 0.3 s on the host that the numbers are of, with as much memory as the floor says.
fn guesses(dir: &std::path::Path) -> Vec<Duration> {
    let [right, wrong] = ["correct horse battery", "wrong horse battery"].map(SecretString::from);
    let vault = Vault::at(&dir.join("guessed.redb")).unwrap();
    vault.init(&NewKey::Passphrase(&right)).unwrap();
    vault.seal();
    // Fewer than those after which each has to wait.
    measured(4, |_| {
        assert!(vault.unseal(&Unlock::Passphrase(&wrong), NOW).is_err());
    })
}

fn unsealed(file: &std::path::Path, key: &HostKey, times: usize) -> Vec<Duration> {
    measured(times, |_| {
        let vault = Vault::at(file).unwrap();
        vault.unseal(&Unlock::Host(key), NOW).unwrap();
    })
}

/// How long each of so many took, the fastest first.
fn measured(times: usize, mut work: impl FnMut(usize)) -> Vec<Duration> {
    let mut took: Vec<Duration> = (0..times)
        .map(|n| {
            let begun = Instant::now();
            work(n);
            begun.elapsed()
        })
        .collect();
    took.sort_unstable();
    took
}

fn told(what: &str, took: &[Duration]) {
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!(
        "{what:34} n={:<6} p50 {:>12.1} us   p95 {:>12.1} us   max {:>12.1} us",
        took.len(),
        at(0.5),
        at(0.95),
        at(1.0)
    );
}
