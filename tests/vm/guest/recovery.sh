# Restarts, kills and bad configuration. Sourced by main.sh.
# shellcheck shell=sh

# Calls until told to stop; one line per call that failed.
call_in_a_loop() {
    while [ ! -e /run/stop-calling ]; do
        pawctl --timeout 120s status >/dev/null 2>/run/call-error || { cat /run/call-error; echo "call refused"; }
        echo called >>/run/calls
    done
}

# Its key is made as paw-vault(7) says; each later start finds it.
vault_has_a_key_of_this_machine() {
    holds the_key_of_the_vault_is_made_as_the_manual_says sh -c \
        'install -d -m 700 /etc/credstore.encrypted && head -c 32 /dev/urandom | systemd-creds encrypt --name=pawd-kek - /etc/credstore.encrypted/pawd-kek'
    holds pawd_restarts_with_a_key systemctl restart pawd.service
    holds the_vault_is_made pawctl --timeout 120s secret init
}

restart_refuses_nobody() {
    vault_has_a_key_of_this_machine
    rm -f /run/stop-calling
    : >/run/calls
    call_in_a_loop >/vm/out/refused.txt 2>&1 &
    loop=$!
    for restart in first second; do
        holds "${restart}_restart_succeeds" systemctl restart pawd.service
        before=$(wc -l </run/calls)
        within 60 sh -c "test \"\$(wc -l </run/calls)\" -gt $((before + 2))"
    done
    touch /run/stop-calling
    wait "$loop"
    same no_call_is_refused_while_pawd_restarts '' "$(cat /vm/out/refused.txt)"
}

# Starts a command that nobody waits for: the ids of its action and of its sandbox.
detached() {
    pawctl --timeout 600s -o json sandbox run --detach -- sh -c "$1" | sed 's/.*"action_id": *"\([^"]*\)".*"id": *"\([^"]*\)".*/\1 \2/'
}

kills_are_survived() {
    # shellcheck disable=SC2016
    started=$(detached 'i=0; while [ $i -lt 20 ]; do echo $i; i=$((i+1)); sleep 1; done; exit 7')
    action=${started% *}
    sandbox=${started#* }
    kill -KILL "$(property pawd.service MainPID)"
    holds a_sandbox_outlives_a_killed_pawd within 90 sh -c "pawctl --timeout 120s -o json sandbox list | grep -q '$sandbox'"
    same all_it_says_is_there_after_a_kill_of_pawd "$(seq 0 19)" "$(pawctl --timeout 300s sandbox logs --follow "$sandbox")"
    has its_own_end_is_told_after_a_kill_of_pawd '"exit_code":7' "$(pawctl --timeout 300s -o json action wait "$action" | tr -d ' \n')"

    started=$(detached 'exec sleep 500')
    action=${started% *}
    kill -KILL "$(property paw-launcher.service MainPID)"
    has a_command_of_a_killed_launcher_is_failed_and_says_so launcher_lost "$(pawctl --timeout 300s -o json action wait "$action" 2>&1; pawctl --timeout 120s -o json action show "$action")"
    holds a_sandbox_of_a_killed_launcher_is_gone within 90 sh -c "test \"\$(pawctl --timeout 120s -o json sandbox list)\" = '[]'"
    for unit in pawd paw-launcher paw-audit; do
        pid=$(property "$unit.service" MainPID)
        if [ "$pid" -le 1 ]; then
            fail "${unit}_comes_back_after_a_kill" "it does not run"
            continue
        fi
        kill -KILL "$pid"
        holds "${unit}_comes_back_after_a_kill" within 90 sh -c \
            "test \"\$(systemctl is-active $unit.service)\" = active && test \"\$(systemctl show --value -p MainPID $unit.service)\" != $pid"
        holds "calls_are_answered_after_a_kill_of_$unit" pawctl --timeout 120s status
        same "a_sandbox_runs_after_a_kill_of_$unit" again "$(pawctl --timeout 120s sandbox run -- echo again 2>&1)"
    done
    same the_audit_log_is_whole_after_kills 0 "$(pawctl audit verify >/vm/out/verify.txt 2>&1; echo $?)"
}

bad_configuration_is_refused() {
    echo 'nonsense = 1' >/etc/pawd/pawd.d/50-bad.toml
    chmod 644 /etc/pawd/pawd.d/50-bad.toml
    pid=$(property pawd.service MainPID)
    ends reload_of_a_bad_configuration_fails 1 systemctl reload pawd.service
    same pawd_stays_up_on_the_old_configuration "active $pid" "$(systemctl is-active pawd.service) $(property pawd.service MainPID)"

    ends start_with_a_bad_configuration_fails 1 systemctl restart pawd.service
    same it_ends_with_78 78 "$(property pawd.service ExecMainStatus)"
    same it_is_not_restarted 0 "$(property pawd.service NRestarts)"
    has systemctl_status_names_the_file_and_the_key '50-bad.toml' "$(systemctl status --no-pager --full pawd.service)"
    rm /etc/pawd/pawd.d/50-bad.toml
    systemctl reset-failed pawd.service paw-control.socket
    holds it_starts_with_a_good_one systemctl start paw-control.socket pawd.service
    holds it_answers_again pawctl --timeout 120s status
}
