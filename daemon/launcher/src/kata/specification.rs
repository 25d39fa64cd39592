//! What the shim is asked to make: the OCI specification, with our own list of system calls written as runc reads it.

use paw_confine::seccomp::{self, Call, Profile, When};
use paw_confine::userns::Extent;
use paw_launch::request::{Isolation, Limits};
use serde_json::{Value, json};

use crate::{
    bundle::{Bound, specification, terminals_mount, tmpfs_mounts},
    ceilings::Approved,
};

/// CPU time is limited for each 100 ms, as the leaf is.
const PERIOD_US: u64 = 100_000;

/// The specification, without the ids, which [`with_ids`] adds.
pub(super) fn write(isolation: Isolation, plan: &Approved, cgroup: &str, bound: &[Bound]) -> Value {
    let mut mounts = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "noexec", "strictatime", "mode=755", "size=64k"] }),
        terminals_mount(),
    ];
    mounts.extend(tmpfs_mounts(&plan.limits));
    mounts.extend(
        bound
            .iter()
            .map(|bound| bound.mount(&["rbind", "nosuid", "nodev"], &["ro"])),
    );
    let mut specification = specification(plan, mounts);
    let mut namespaces = vec![
        json!({ "type": "pid" }),
        json!({ "type": "mount" }),
        json!({ "type": "network" }),
        json!({ "type": "uts" }),
        json!({ "type": "ipc" }),
        json!({ "type": "cgroup" }),
    ];
    if isolation == Isolation::Process {
        namespaces.push(json!({ "type": "user" }));
    }
    specification["linux"] = json!({
        "cgroupsPath": cgroup,
        "namespaces": namespaces,
        // The leaf has these already. A virtual machine's own kernel needs to be told, and to runc it is no change.
        "resources": resources(&plan.limits),
        "seccomp": filter(&seccomp::sandbox()),
        "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/latency_stats",
            "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/proc/kallsyms", "/proc/config.gz"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
    });
    specification
}

/// Adds the sandbox's ids. In a virtual machine they are those of its own kernel, and nobody's here.
pub(super) fn with_ids(specification: &mut Value, map: &[Extent]) {
    let map: Vec<Value> = map
        .iter()
        .map(|e| json!({ "containerID": e.inside, "hostID": e.outside, "size": e.count }))
        .collect();
    specification["linux"]["uidMappings"] = json!(map);
    specification["linux"]["gidMappings"] = json!(map);
}

fn resources(limits: &Limits) -> Value {
    json!({
        "memory": { "limit": limits.memory },
        "pids": { "limit": limits.pids },
        "cpu": { "quota": u64::from(limits.cpu_milli) * (PERIOD_US / 1000), "period": PERIOD_US }
    })
}

/// A list of ours as `linux.seccomp`.
///
/// Ours are three filters of which the strictest answer counts; this is one, in which the rules of a call add up and libseccomp
/// knows no "none of these". So a call that is refused for some arguments is allowed for exactly the others, and one that is
/// refused for all but some is allowed for those; whatever else of it is asked gets the answer of an unlisted call.
fn filter(profile: &Profile) -> Value {
    let named = |call: &Call| call.name.trim_start_matches("SYS_").to_owned();
    let is_refused = |name: &str| {
        profile
            .refused
            .iter()
            .any(|call| call.name == name && !matches!(call.when, When::Always))
    };
    let rule = |names: Vec<String>, action: &str| json!({ "names": names, "action": action });
    let refuse = |names: Vec<String>, errno: i32| json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno });
    let (eperm, enosys) = (nix::libc::EPERM, nix::libc::ENOSYS);
    let always = |calls: &[Call]| -> Vec<String> {
        calls
            .iter()
            .filter(|call| matches!(call.when, When::Always))
            .map(named)
            .collect()
    };
    let hidden = always(&profile.absent);
    let denied = always(&profile.refused);
    let allowed: Vec<String> = profile
        .allowed
        .iter()
        .filter(|call| !is_refused(call.name))
        .map(named)
        .filter(|name| !hidden.contains(name) && !denied.contains(name))
        .collect();
    let mut rules = vec![
        rule(allowed, "SCMP_ACT_ALLOW"),
        refuse(denied, eperm),
        refuse(hidden, enosys),
    ];
    rules.extend(partly(profile).into_iter().map(|(name, args)| {
        json!({ "names": [name.trim_start_matches("SYS_")], "action": "SCMP_ACT_ALLOW", "args": args })
    }));
    rules.extend(others(profile).into_iter().map(|(name, args)| {
        json!({ "names": [name.trim_start_matches("SYS_")], "action": "SCMP_ACT_ERRNO", "errnoRet": eperm, "args": args })
    }));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": enosys,
        "architectures": [],
        "syscalls": rules
    })
}

/// What is allowed of the calls that are refused for some arguments: one rule of arguments, all of which must hold.
fn partly(profile: &Profile) -> Vec<(&'static str, Vec<Value>)> {
    let mut rules = Vec::new();
    let mut names: Vec<&'static str> = profile
        .refused
        .iter()
        .filter(|call| !matches!(call.when, When::Always))
        .map(|call| call.name)
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (mut masks, mut values) = (std::collections::BTreeMap::<u8, u32>::new(), Vec::new());
        let mut single = Vec::new();
        for call in profile.refused.iter().filter(|call| call.name == name) {
            match call.when {
                When::Always => {}
                // One bit that must not be set; bits of one argument add up to one mask.
                When::Bits {
                    argument,
                    mask,
                    bits,
                } if mask == bits && mask.is_power_of_two() => {
                    *masks.entry(argument).or_default() |= mask;
                }
                When::Bits { argument, bits, .. } => single.push((argument, bits)),
                When::NoneOf {
                    argument,
                    values: these,
                } => {
                    values.extend(these.iter().map(|value| (argument, *value)));
                }
            }
        }
        if !masks.is_empty() {
            let args = masks
                .iter()
                .map(|(index, mask)| json!({ "index": index, "value": mask, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }))
                .collect();
            rules.push((name, args));
        }
        for (index, value) in values {
            rules.push((
                name,
                vec![json!({ "index": index, "value": value, "op": "SCMP_CMP_EQ" })],
            ));
        }
        // Values that are refused: all others are allowed.
        rules.extend(all_but(name, single));
    }
    rules
}

/// The other values of the calls of which only some are allowed, for the answer that our own filter gives.
fn others(profile: &Profile) -> Vec<(&'static str, Vec<Value>)> {
    let only = profile.refused.iter().filter_map(|call| match call.when {
        When::NoneOf { argument, values } => {
            let values = values.iter().map(|value| (argument, *value)).collect();
            Some(all_but(call.name, values))
        }
        When::Always | When::Bits { .. } => None,
    });
    only.flatten().collect()
}

/// What lies below, between and above these values of one argument.
fn all_but(name: &'static str, mut values: Vec<(u8, u32)>) -> Vec<(&'static str, Vec<Value>)> {
    values.sort_unstable();
    let mut rules = Vec::new();
    let mut from = 0_u64;
    for (index, value) in &values {
        if u64::from(*value) > from {
            rules.extend(between(name, *index, from, u64::from(*value) - 1));
        }
        from = u64::from(*value) + 1;
    }
    if let Some((index, _)) = values.last() {
        // Not "greater than": the kernel looks at the low half alone, and a high half must not hide a refused value.
        rules.extend(between(name, *index, from, u64::from(u32::MAX)));
    }
    rules
}

/// `from..=to` of one argument. libseccomp takes one condition for each argument of a rule, so it is cut into runs that differ in
/// their low bits only.
fn between(name: &'static str, index: u8, from: u64, to: u64) -> Vec<(&'static str, Vec<Value>)> {
    let mut rules = Vec::new();
    let mut at = from;
    while at <= to {
        // The largest aligned block that begins here and does not reach beyond the end.
        let mut size = if at == 0 {
            1 << 32
        } else {
            at & at.wrapping_neg()
        };
        while at + size - 1 > to {
            size /= 2;
        }
        let mask = u64::from(u32::MAX) & !(size - 1);
        rules.push((
            name,
            vec![json!({ "index": index, "value": mask, "valueTwo": at, "op": "SCMP_CMP_MASKED_EQ" })],
        ));
        at += size;
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the written rules say about a call whose other arguments are zero.
    fn answer(filter: &Value, name: &str, index: u64, value: u64) -> String {
        let rules = filter["syscalls"].as_array().unwrap();
        let matching = rules.iter().find(|rule| {
            let named = rule["names"]
                .as_array()
                .unwrap()
                .iter()
                .any(|it| it == name);
            let args = rule["args"].as_array().map_or(&[][..], Vec::as_slice);
            named
                && args.iter().all(|arg| {
                    let is = if arg["index"] == index { value } else { 0 };
                    let wanted = arg["value"].as_u64().unwrap();
                    match arg["op"].as_str().unwrap() {
                        "SCMP_CMP_EQ" => is == wanted,
                        "SCMP_CMP_MASKED_EQ" => is & wanted == arg["valueTwo"].as_u64().unwrap(),
                        other => panic!("{other}"),
                    }
                })
        });
        matching.map_or("default".to_owned(), |rule| {
            rule["action"].as_str().unwrap().to_owned()
        })
    }

    #[test]
    fn refused_arguments_are_refused_and_the_others_allowed() {
        let filter = filter(&seccomp::sandbox());
        let check = |name: &str, index, value: u64, allowed: bool| {
            assert_eq!(
                answer(&filter, name, index, value) == "SCMP_ACT_ALLOW",
                allowed,
                "{name} {value:#x}"
            );
        };
        check("ioctl", 1, 0x5411, true);
        check("ioctl", 1, 0x5412, false);
        check("ioctl", 1, 0x5413, true);
        check("ioctl", 1, 0x541c, false);
        check("ioctl", 1, 0x541d, false);
        check("ioctl", 1, 0x5423, false);
        check("ioctl", 1, 0x1_0000_5412, false);
        check("ioctl", 1, 0xffff_ffff_0000_541c, false);
        check("ioctl", 1, 0xffff_ffff, true);
        check("ioctl", 1, 0, true);
        check("socket", 0, 1, true);
        check("socket", 0, 2, true);
        check("socket", 0, 16, false);
        check("socket", 0, 40, false);
        check("clone", 0, 0x0001_1200, true);
        check("clone", 0, 0x1000_0000, false);
        check("clone", 0, 0x0002_0011, false);
        check("personality", 0, 0, true);
        check("personality", 0, 0x0004_0000, false);
        check("read", 0, 3, true);
        check("mount", 0, 0, false);
        check("bpf", 0, 0, false);
        // As our own filter answers, and not as if there were no such call.
        assert_eq!(answer(&filter, "socket", 0, 16), "SCMP_ACT_ERRNO");
        assert_eq!(answer(&filter, "socket", 0, 40), "SCMP_ACT_ERRNO");
        check("clone3", 0, 0, false);
    }
}
