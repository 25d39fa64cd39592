//! `pawctl doctor`: what is wrong and what to do. When pawd is down, it looks at the host itself.

use std::{
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::unistd::{Gid, Group, Uid, User, getgroups};
use paw_api::system::{Doctor, Finding, Severity};
use serde_json::json;

use super::config::find_pawd;
use crate::{
    cli::{Format, Global},
    connect::{Connection, Params, socket_path},
    fail::{Failure, exit},
    render::{Look, Out, Tone, table, text},
};

/// The units of an installed pawd, in the order in which they are needed.
const UNITS: [&str; 8] = [
    "paw-control.socket",
    "paw-audit.socket",
    "paw-launcher.socket",
    "paw-egress.socket",
    "paw-audit.service",
    "paw-launcher.service",
    "paw-egress.service",
    "pawd.service",
];

/// The group that may reach the control socket.
const SOCKET_GROUP: &str = "paw";

/// The groups that give a role.
const ROLE_GROUPS: [&str; 3] = ["paw-admin", "paw-approver", "paw-user"];

pub(super) async fn run(global: &Global, out: &mut Out, prove: bool) -> Result<u8, Failure> {
    match Connection::open(global).await {
        Ok(pawd) => {
            let params = Params::named(json!({"prove": prove.then_some(true)}));
            let answer = pawd
                .call_patiently("examine the system", "system.doctor", params)
                .await?;
            let seen: Doctor = answer.read()?;
            out.answer(&answer, show)?;
            Ok(if seen.ok { exit::DONE } else { exit::FAILED })
        }
        Err(failure @ Failure::Unreachable { .. }) => {
            let findings = examine(global, &failure, prove);
            let seen = Doctor {
                ok: false,
                findings,
                probes: Vec::new(),
            };
            match out.format {
                Format::Table => {
                    let shown = show(&seen, &out.look);
                    out.print(&shown);
                }
                Format::Json | Format::Jsonl => match serde_json::to_string(&seen) {
                    Ok(document) => out.json(&document),
                    Err(source) => {
                        return Err(Failure::Unreadable {
                            doing: "write the findings".to_owned(),
                            source,
                        });
                    }
                },
            }
            Ok(exit::UNREACHABLE)
        }
        Err(failure) => Err(failure),
    }
}

fn show(seen: &Doctor, look: &Look) -> String {
    let mut shown = String::new();
    let mut findings: Vec<&Finding> = seen.findings.iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    for finding in findings {
        let tone = match finding.severity {
            Severity::Error => Tone::Bad,
            Severity::Warn => Tone::Warn,
            Severity::Info => Tone::Dim,
        };
        shown.push_str(&format!(
            "{} {}\n",
            look.dot(tone),
            look.paint(tone, &text::line(&finding.what))
        ));
        for (label, line) in [("so: ", &finding.effect), ("do: ", &finding.remedy)] {
            if !line.is_empty() {
                shown.push_str(&format!(
                    "    {} {}\n",
                    look.paint(Tone::Dim, label),
                    text::line(line)
                ));
            }
        }
    }
    if !seen.probes.is_empty() {
        let rows = seen
            .probes
            .iter()
            .map(|probe| {
                let tone = if probe.ok { Tone::Good } else { Tone::Bad };
                vec![
                    table::toned(tone, &format!("{} {}", tone.dot(), probe.probe)),
                    table::text(&probe.runtime),
                    table::text(&probe.expected),
                    table::toned(tone, &probe.observed),
                ]
            })
            .collect();
        shown.push_str(&table::table(
            &["  PROBE", "IN", "EXPECTED", "OBSERVED"],
            rows,
            look,
            "",
        ));
    }
    let worst = seen.findings.iter().map(|finding| finding.severity).max();
    let (tone, verdict) = match (seen.ok, worst) {
        (true, Some(Severity::Warn | Severity::Error)) => (Tone::Warn, "it works, with warnings"),
        (true, Some(Severity::Info) | None) => (Tone::Good, "all is well"),
        (false, _) => (Tone::Bad, "something is wrong"),
    };
    shown.push_str(&format!("{} {verdict}\n", look.dot(tone)));
    shown
}

/// What this side can see when nobody answers at the socket.
fn examine(global: &Global, failure: &Failure, prove: bool) -> Vec<Finding> {
    let socket = socket_path(global);
    let [what, why, remedy] = failure.lines();
    let mut findings = vec![finding(
        Severity::Error,
        "pawd.unreachable",
        format!("cannot {what}: {why}"),
        "no command of pawctl works",
        &remedy,
    )];
    findings.extend(examine_socket(&socket));
    let installed = find_pawd();
    if installed.is_none() {
        findings.push(finding(
            Severity::Warn,
            "pawd.absent",
            "the program pawd is neither beside pawctl nor in /usr/sbin".to_owned(),
            "it cannot run on this host",
            "install the package pawd, or name the socket of a running one with --socket",
        ));
    }
    match &global.root {
        Some(root) => findings.extend(
            ["etc", "run", "state", "log"]
                .iter()
                .filter_map(|part| examine_directory(&root.join(part))),
        ),
        None => {
            let places = ["/etc/pawd", "/run/pawd", "/var/lib/pawd", "/var/log/pawd"];
            findings.extend(
                places
                    .iter()
                    .filter_map(|place| examine_directory(Path::new(place))),
            );
            findings.extend(examine_units());
        }
    }
    findings.extend(examine_groups());
    if prove {
        findings.push(finding(
            Severity::Warn,
            "probes.not-run",
            "no probe was run".to_owned(),
            "nothing is proven",
            "start pawd and run pawctl doctor --prove again",
        ));
    }
    findings
}

fn finding(severity: Severity, id: &str, what: String, effect: &str, remedy: &str) -> Finding {
    Finding {
        id: id.to_owned(),
        severity,
        what,
        effect: effect.to_owned(),
        remedy: remedy.to_owned(),
    }
}

fn examine_socket(socket: &Path) -> Option<Finding> {
    let shown = socket.display();
    match std::fs::symlink_metadata(socket) {
        Err(error) => Some(finding(
            Severity::Error,
            "socket.absent",
            format!("{shown}: {error}"),
            "there is nothing to connect to",
            "start pawd, or name another socket with --socket, --root or PAWD_SOCKET",
        )),
        Ok(seen) if !seen.file_type().is_socket() => Some(finding(
            Severity::Error,
            "socket.wrong",
            format!("{shown} is not a socket"),
            "pawd cannot take its place",
            "find out who made it, remove it, and start pawd",
        )),
        Ok(seen) => Some(finding(
            Severity::Info,
            "socket.present",
            format!(
                "{shown} is there: mode {:o}, owner {}, group {}",
                seen.mode() & 0o7777,
                user(seen.uid()),
                group(seen.gid())
            ),
            "",
            "",
        )),
    }
}

fn examine_directory(path: &Path) -> Option<Finding> {
    let shown = path.display();
    match std::fs::metadata(path) {
        // Whether something is in a directory that we may not enter is not for us to see.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => None,
        Err(error) => Some(finding(
            Severity::Error,
            "directory.absent",
            format!("{shown}: {error}"),
            "pawd cannot start without it",
            "install the package again, or: systemd-tmpfiles --create pawd.conf",
        )),
        Ok(seen) if !seen.is_dir() => Some(finding(
            Severity::Error,
            "directory.wrong",
            format!("{shown} is not a directory"),
            "pawd cannot start",
            "move it away and install the package again",
        )),
        Ok(seen) if seen.mode() & 0o002 != 0 => Some(finding(
            Severity::Error,
            "directory.writable",
            format!("everybody may write to {shown}"),
            "pawd refuses to use it",
            &format!("chmod o-w {shown}"),
        )),
        Ok(_) => None,
    }
}

/// Looks at the units of an installed pawd, where systemd runs the host.
fn examine_units() -> Vec<Finding> {
    if !Path::new("/run/systemd/system").is_dir() {
        return vec![finding(
            Severity::Info,
            "systemd.absent",
            "systemd does not run this host".to_owned(),
            "pawd is not started by itself",
            "start it with pawd --standalone",
        )];
    }
    UNITS.iter().filter_map(|unit| examine_unit(unit)).collect()
}

fn examine_unit(unit: &str) -> Option<Finding> {
    let places = [
        "/etc/systemd/system",
        "/usr/lib/systemd/system",
        "/lib/systemd/system",
    ];
    if !places
        .iter()
        .map(|place| PathBuf::from(place).join(unit))
        .any(|path| path.exists())
    {
        return Some(finding(
            Severity::Error,
            "unit.absent",
            format!("{unit} is not installed"),
            "systemd cannot start it",
            "install the package pawd, then: systemctl daemon-reload",
        ));
    }
    let shown = Command::new("systemctl")
        .args(["is-active", unit])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let state = String::from_utf8_lossy(&shown.stdout).trim().to_owned();
    match state.as_str() {
        "active" | "activating" | "reloading" => None,
        _ => Some(finding(
            Severity::Error,
            "unit.inactive",
            format!("{unit} is {state}"),
            "its part of the system does not work",
            &format!("systemctl start {unit}; journalctl -u {unit} -n 50"),
        )),
    }
}

/// Whether the caller is in the groups that reach the socket and give a role.
fn examine_groups() -> Vec<Finding> {
    let uid = Uid::effective();
    if uid.is_root() {
        return Vec::new();
    }
    let mine = getgroups().unwrap_or_default();
    let member = |name: &str| match Group::from_name(name) {
        Ok(Some(group)) => Some(mine.contains(&group.gid) || Gid::effective() == group.gid),
        Ok(None) | Err(_) => None,
    };
    let name = user(uid.as_raw());
    match (
        member(SOCKET_GROUP),
        ROLE_GROUPS.iter().any(|group| member(group) == Some(true)),
    ) {
        (None, _) => vec![finding(
            Severity::Warn,
            "group.absent",
            format!("the group {SOCKET_GROUP} does not exist"),
            "nobody but root can reach pawd",
            "install the package pawd, or: systemd-sysusers pawd.conf",
        )],
        (Some(false), _) => vec![finding(
            Severity::Warn,
            "group.socket",
            format!("{name} is not in group {SOCKET_GROUP}"),
            "the control socket refuses the connection",
            &format!("usermod -aG {SOCKET_GROUP},paw-user {name}, then log in again"),
        )],
        (Some(true), false) => vec![finding(
            Severity::Warn,
            "group.role",
            format!("{name} is in none of {}", ROLE_GROUPS.join(", ")),
            "pawd allows nothing",
            &format!("usermod -aG paw-user {name}, then log in again"),
        )],
        (Some(true), true) => Vec::new(),
    }
}

fn user(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid))
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name)
}

fn group(gid: u32) -> String {
    Group::from_gid(Gid::from_raw(gid))
        .ok()
        .flatten()
        .map_or_else(|| gid.to_string(), |group| group.name)
}
