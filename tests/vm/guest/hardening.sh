# The hardening is what the kernel reports of each process, from outside. Sourced by main.sh.
# shellcheck shell=sh

NONE=0000000000000000

processes_are_confined() {
    for unit in pawd paw-audit paw-egress paw-launcher; do
        pid=$(property "$unit.service" MainPID)
        user=$(property "$unit.service" User)
        if [ "$pid" -le 1 ]; then
            fail "${unit}_is_confined" "it does not run"
            continue
        fi
        same "${unit}_has_no_new_privileges" 1 "$(field "$pid" NoNewPrivs)"
        same "${unit}_has_a_seccomp_filter" 2 "$(field "$pid" Seccomp)"
        case $unit in
        paw-launcher)
            # Root of its own user namespace: what it holds, it holds over that namespace alone.
            if [ "$(readlink "/proc/$pid/ns/user")" != "$(readlink /proc/1/ns/user)" ]; then
                pass launcher_has_a_user_namespace_of_its_own
            else
                fail launcher_has_a_user_namespace_of_its_own "it is in the host's"
            fi
            # Every uid of the namespace is one that the host gives to nobody else.
            same no_uid_of_the_launcher_is_a_host_account '' \
                "$(awk '$2 < 65536 && $2 != '"$(id -u paw-launcher)"' { print $2 }' "/proc/$pid/uid_map")"
            ;;
        *)
            uid=$(id -u "$user")
            same "${unit}_runs_as_its_user" "$uid $uid $uid $uid" "$(field "$pid" Uid)"
            for set in CapInh CapPrm CapEff CapBnd CapAmb; do
                same "${unit}_${set}_is_empty" "$NONE" "$(field "$pid" "$set")"
            done
            ;;
        esac
    done
    # shellcheck disable=SC2009
    same no_process_of_ours_is_root '' "$(ps -o pid=,args= --user root | grep -E '/(pawd|paw-[a-z]+)( |$)')"
}

# What the unit forbids is forbidden: tried with the unit's own settings, by a program that is not ours.
strangers_are_kept_out() {
    holds paw_user_cannot_read_the_vault_of_root_files runuser -u paw -- sh -c '! cat /etc/shadow'
    ends nobody_cannot_reach_the_control_socket 3 runuser -u nobody -- pawctl status
    useradd --create-home --groups paw visitor
    ends a_caller_without_a_role_is_denied 4 runuser -u visitor -- pawctl status
    useradd --create-home --groups paw,paw-user user
    holds a_user_may_ask_for_the_status runuser -u user -- pawctl status
    for socket in launcher audit; do
        holds "members_of_paw_cannot_write_to_the_${socket}_socket" runuser -u user -- sh -c "! test -w /run/pawd/$socket.sock"
    done
    holds members_of_paw_cannot_read_the_audit_log runuser -u user -- sh -c '! ls /var/log/pawd'
    # It may read the log, so the path is the right one.
    # shellcheck disable=SC2016
    holds pawds_user_cannot_change_the_audit_log runuser -u paw -- sh -c 'log=/var/log/pawd/audit.000001.log
        test -r $log && ! (: >>$log) && ! touch /var/log/pawd/another && ! rm -f $log && ! ls /var/lib/paw-audit'
}
