//! What happens in the life of our processes, each with the id under which the journal explains it.
//!
//! One table: an event is logged with `message_id = events::NAME`, and the journal catalog (`packaging/pawd.catalog`, installed as
//! `/usr/lib/systemd/catalog/pawd.catalog`) is [`catalog`] of the same table, so that neither can know an event that the other
//! does not. Ids never change and are never used again.

use std::fmt::Write as _;

/// One kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its constant in this module.
    pub name: &'static str,
    /// `MESSAGE_ID=` as the journal writes it: 32 hexadecimal digits.
    pub id: &'static str,
    /// One line: what happened. `@FIELD@` stands for a field of the log entry.
    pub subject: &'static str,
    /// What it means and what to do.
    pub body: &'static str,
}

macro_rules! table {
    ($($name:ident $id:literal $subject:literal $body:literal)*) => {
        $(#[doc = concat!("Id of the event: ", $subject, ".")] pub const $name: &str = $id;)*

        /// Every event, in the order of the catalog.
        pub const ALL: &[Entry] = &[$(Entry { name: stringify!($name), id: $name, subject: $subject, body: $body }),*];
    };
}

table! {
    DAEMON_READY "392fdd481c89416e9c2b01e045bbf258"
    "pawd is ready"
    "pawd has dropped its rights, proved that the drop holds, opened its store, and answers on the control socket."

    DAEMON_STOPPING "3dd9562852994978a1b62f082860aeb8"
    "pawd is stopping"
    "pawd was told to stop. It takes no new work and waits for what is being done until the
configured deadline (actions.drain). What is then unfinished ends as interrupted; what
waits for an approval goes on waiting at the next start."

    DAEMON_DROPPED "cab7a3f77ad441368b39a201fad77d90"
    "pawd has given up its rights"
    "pawd runs as its own user without capabilities, with landlock and seccomp in force, and has
tried from inside to get back what it gave up; each try failed."

    DROP_REFUSED "4ed1a9258ec14d8dbe34194335c502d5"
    "pawd does not start, because its confinement does not hold"
    "After dropping, pawd could still do something that it must not be able to do, or the kernel
lacks a part of the confinement (see the message).

Run \"pawctl doctor\" or \"pawd --check-config\" to see which part; a kernel with landlock and seccomp is
needed. There is no setting that starts pawd without it."

    CONFIG_REJECTED "28303e902a034e419ee2c06167736ea0"
    "the configuration has faults"
    "Nothing of the faulty configuration is used: at start pawd ends with code 78, at a reload the
old configuration stays in force.

Run \"pawctl config check\" for all faults with file, line, column and hint."

    CONFIG_RELOADED "1430f73f9a6748a989641c4fd3eaa7f1"
    "the configuration was read again"
    "The new configuration is in force."

    ACTION_WAITING "479e14ef483b442886e71ac85d9b756a"
    "action @PAW_ACTION@ waits for a person"
    "Policy asks for an approval before this action of agent @PAW_AGENT@ is executed.

See it with \"pawctl approval show @PAW_ACTION@\" and answer with \"pawctl approval approve\"
or \"pawctl approval deny\". Without an answer it expires."

    ACTION_ENDED "2d7d4e36774e4ea08731c8e83aebf16d"
    "action @PAW_ACTION@ has ended"
    "See \"pawctl action show @PAW_ACTION@\" for its result or its error."

    ACTION_INTERRUPTED "d5f4f1693228475c8c3aaee3fe1b8e93"
    "action @PAW_ACTION@ was interrupted"
    "pawd ended while this action was being executed, and it cannot be known how far it came. It is
recorded as failed and is not executed again.

See \"pawctl action show @PAW_ACTION@\", look at what it may have changed, and submit it again
if that is wanted."

    POLICY_LOADED "4e27cd9446714cfebacf65ea412d4ea1"
    "the policy rules are in force"
    "The rules of the shipped policy and of /etc/pawd/policy were read."

    SANDBOX_STARTED "9e116a04a462465c90491c45827994b2"
    "sandbox @PAW_SANDBOX@ has started"
    "The launcher made the sandbox and read back from the kernel what confines it."

    SANDBOX_ENDED "7a9c5143e274434bb269a6e8be8f8948"
    "sandbox @PAW_SANDBOX@ has ended"
    "Its processes, mounts, control groups and directories are gone."

    SANDBOX_REFUSED "e91ee243f7844a28b9315faa60dcd354"
    "a sandbox was refused"
    "The launcher did not make it: the plan exceeds the ceilings of /etc/pawd/launcher.toml, or this
host lacks something that the plan needs. Nothing was executed.

See the message, and \"pawctl sandbox runtimes\" for what this host can do."

    SANDBOX_LEFTOVER "4b0fd975fb644d83bbc4b2871e838234"
    "sandbox @PAW_SANDBOX@ could not be removed"
    "A process, mount, control group or directory of it is still there.

Run \"pawctl sandbox gc\"; if that does not help, see the message for what is in the way."

    RPC_DENIED "f6cb86e25bbe4eb48b97e282f71b1b3e"
    "a caller was refused"
    "The caller (PAW_PEER_UID) has no role that allows this method. Roles come from the groups
paw-admin, paw-approver and paw-user at the time of the connection."

    RPC_OVERLOADED "31aacf22e3974344a65da505bebaccb5"
    "the control socket is full"
    "Callers beyond the configured number (rpc.connections, rpc.connections_per_user) were refused."

    AUDIT_READY "05dc750ddfda4b988647157874e7a646"
    "the audit writer is ready"
    "The chain was read to its end and continues there."

    AUDIT_LOST "b48763e1cd6442a29556b84a8722d723"
    "the audit writer does not answer"
    "What cannot be recorded is not done: actions are refused until the writer is back. Chats and
actions that wait are kept.

Look at \"systemctl status paw-audit\" and the free space of /var/log/pawd."

    AUDIT_RECOVERED "ed4374285d9244cc8ba6cf82951c9658"
    "the audit writer is back"
    "Actions are executed again."

    AUDIT_SIGNED "3b8e5f0c64d94a7fa1c2d7e90b16f4a8"
    "the audit log was signed"
    "All records up to @RECORD@ are covered by the signature in the field CHECKPOINT.

Kept away from this host, for example by forwarding the journal, it shows whether the log was written
anew or cut off later: \"pawctl audit verify DIR --witness FILE\"."

    AUDIT_BROKEN "356666b67d4a451b94fedcc3622801e5"
    "the audit log was changed or is damaged"
    "A record does not continue the chain. Nothing is appended to a broken chain.

Run \"pawctl audit verify\" for the first bad record, keep the files for an investigation, and
only then move them away to start a new chain."

    LAUNCHER_LOST "912eaf5cc0454a9cb05ad466203d956b"
    "the launcher does not answer"
    "Sandboxes are refused until it is back; everything else goes on.

Look at \"systemctl status paw-launcher\"."

    LAUNCHER_RECOVERED "a06593ed87de4205bd9e847c157b26b7"
    "the launcher is back"
    "Sandboxes are made again; those that outlived the gap were found by their ids."

    PROVIDER_LOST "9681cc27cfbf41ed81b994db686be5af"
    "provider @PAW_PROVIDER@ does not answer"
    "Chats that need it fail, each with its cause.

Run \"pawctl provider test @PAW_PROVIDER@\"."

    PROVIDER_RECOVERED "1ce9f176a67b4ec3b18950f8f9bc8c3d"
    "provider @PAW_PROVIDER@ answers again"
    "Nothing needs to be done."

    STORE_CORRUPT "f8146465d7e746d98c1145ffc83557b3"
    "the store is damaged"
    "pawd does not start on a damaged store, so that nothing is decided on wrong facts, and does not
change it.

Stop pawd and copy the last backup over it, or move the file away to start empty."

    STORE_FULL "3baf6e6a4f7b4b2a8c4c4d5db1701fb5"
    "the store cannot be written"
    "The disk is full, or the file system is read-only. What was accepted before is kept; new work is
refused until there is room.

Look at the free space of /var/lib/pawd."

    JOB_RUN_FAILED "c2f7d1a94b0e4f6e9d3a58b17c60e2d4"
    "a run of job @JOB@ came to no good end"
    "What an agent was told at a set time (user @PAW_OWNER_UID@) failed, had no time left, or ended with pawd so that nobody knows how
far it came. It is not begun again; the job goes on with its next time.

See \"pawctl job history @JOB@\" for why. Its owner sees it in \"pawctl status\" and \"pawctl job list\" until a run is good again."

    SKILL_CHANGED "7d0c3a5e61f94b0c9a8e2f4d1b7c6e35"
    "a skill was installed, enabled or removed"
    "An administrator asked for it and a person approved exactly its files and its rights. The field SKILL
says which; \"pawctl skill show\" shows what it may do."

    SKILL_DRIFTED "b41e9f0a7c2d4e6f8a5b3c1d9e7f6042"
    "a skill is not what was approved, and is disabled"
    "The files of an installed skill, or the tools that its program announces, are not those that a person
approved. Nothing of it is offered or called until somebody approves it again.

Find out who changed it (\"pawctl skill verify\", \"pawctl audit list\"), then install it again, or remove it."
}

/// The text of the journal catalog, byte for byte.
#[must_use]
pub fn catalog() -> String {
    let mut text = String::from(
        "# Written from the table in daemon/log/src/events.rs; a test compares them.\n",
    );
    for entry in ALL {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n-- {}\nSubject: {}\nDefined-By: pawd\nDocumentation: man:pawd(8)\n\n{}\n",
            entry.id, entry.subject, entry.body
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, env, fs, path::Path};

    use super::*;

    #[test]
    fn ids_are_ids_and_each_is_used_once() {
        assert!(ALL.iter().all(|entry| {
            entry.id.len() == 32
                && entry
                    .id
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        }));
        assert_eq!(
            ALL.iter()
                .map(|entry| entry.id)
                .collect::<BTreeSet<_>>()
                .len(),
            ALL.len()
        );
    }

    /// `PAWD_BLESS=1 cargo test -p paw-log` writes the file.
    #[test]
    fn catalog_file_is_this_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/pawd.catalog");
        if env::var_os("PAWD_BLESS").is_some() {
            fs::write(&path, catalog()).unwrap();
        }
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            catalog(),
            "run PAWD_BLESS=1 cargo test -p paw-log"
        );
    }
}
