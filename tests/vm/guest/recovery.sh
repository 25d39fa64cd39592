# Restarts, kills and bad configuration. Sourced by main.sh.
# shellcheck shell=sh

# Calls until told to stop; one line per call that failed.
call_in_a_loop() {
    while [ ! -e /run/stop-calling ]; do
        pawctl --timeout 120s status >/dev/null 2>/run/call-error || { cat /run/call-error; echo "call refused"; }
        echo called >>/run/calls
    done
}

restart_refuses_nobody() {
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

kills_are_survived() {
    pawctl --timeout 600s sandbox run -- sleep 500 >/dev/null 2>&1 &
    holds a_command_runs_before_the_kill within 60 sh -c "pawctl -o json sandbox list | grep -q '\"id\"'"
    kill -KILL "$(property pawd.service MainPID)"
    holds a_sandbox_of_a_killed_pawd_is_ended within 90 sh -c "test \"\$(pawctl --timeout 120s -o json sandbox list)\" = '[]'"
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
