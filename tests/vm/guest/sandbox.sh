# A sandbox runs, and cgroup v2 enforces its limits. Sourced by main.sh.
# shellcheck shell=sh

SANDBOXES=/sys/fs/cgroup/paw.slice/paw-launcher.service

# A reload ends what waits in the pool; what is there after it was left behind.
nothing_is_left_of_the_sandboxes() {
    holds pawd_reloads systemctl reload pawd.service
    if within 60 sh -c "test -z \"\$(find $SANDBOXES -mindepth 1 -type d ! -name supervisor)\""; then
        pass "${1:-nothing_is_left_of_the_sandboxes}"
    else
        fail "${1:-nothing_is_left_of_the_sandboxes}" "$(find "$SANDBOXES" -mindepth 1 -type d ! -name supervisor)"
    fi
}

sandboxes_are_limited() {
    same a_command_runs_in_a_sandbox hello "$(pawctl sandbox run -- echo hello 2>&1)"
    ends its_exit_code_is_ours 7 pawctl sandbox run -- sh -c 'exit 7'
    same it_sees_no_process_of_the_host 1 "$(pawctl sandbox run -- sh -c 'ls -d /proc/[0-9]* | grep -c "^/proc/1$"' 2>&1)"
    same it_has_only_a_loopback_interface lo "$(pawctl sandbox run -- sed -n 's/^ *\([^:]*\):.*/\1/p' /proc/net/dev 2>&1)"
    ends it_sees_no_socket_of_pawd 1 pawctl sandbox run -- test -e /run/pawd

    text=$(pawctl sandbox run --runtime gvisor --timeout 120s -- sh -c 'id -u; dmesg | head -n 1; ls -d /proc/[0-9]* | wc -l; exit 9' 2>&1)
    same gvisor_gives_its_exit_code 9 $?
    has gvisor_is_a_kernel_of_its_own 'Starting gVisor' "$text"
    text=$(pawctl sandbox run --runtime gvisor --timeout 120s -- cat /proc/net/dev 2>&1)
    has gvisor_has_a_loopback_interface 'lo:' "$text"
    same gvisor_has_no_other_interface '' "$(echo "$text" | grep : | grep -v lo:)"
    text=$(pawctl sandbox run --runtime gvisor --memory 128M --timeout 120s --json-result -- dd if=/dev/zero of=/dev/null bs=512M count=1 2>&1)
    has memory_beyond_the_limit_kills_gvisor '"oom_killed":true' "$(echo "$text" | tr -d ' \n')"
    ends more_isolation_than_there_is_is_refused 125 pawctl sandbox run --isolation-floor vm -- true
    case $(cat /etc/debian_version) in
    12*) way=ptrace ;;
    *) way=systrap ;;
    esac
    has "gvisor_intercepts_by_$way" " $way " "$(pawctl sandbox runtimes 2>&1 | grep gvisor)"

    text=$(pawctl sandbox run --memory 64M --json-result -- dd if=/dev/zero of=/dev/null bs=256M count=1 2>&1)
    has memory_beyond_the_limit_kills_it '"oom_killed":true' "$(echo "$text" | tr -d ' \n')"
    text=$(pawctl sandbox run --pids 12 -- sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 20 & done; wait' 2>&1)
    has processes_beyond_the_limit_do_not_start fork "$text"
    text=$(pawctl sandbox run --timeout 3s --json-result -- sleep 600 2>&1)
    has a_sandbox_ends_at_its_deadline '"timed_out":true' "$(echo "$text" | tr -d ' \n')"

    text=$(pawctl sandbox run --cpus 0.2 --timeout 5s --json-result -- sh -c 'while :; do :; done' 2>&1 | tr -d ' \n')
    case $text in
    *'"cpu_throttled":'[1-9]*) pass a_share_that_is_used_up_is_told ;;
    *) fail a_share_that_is_used_up_is_told "$text" ;;
    esac
    used=$(echo "$text" | sed -n 's/.*"cpu_ms":\([0-9]*\).*/\1/p')
    holds no_more_than_a_share_is_given test "${used:-9999}" -lt 2500
    limits_that_somebody_changes_are_noticed

    # While it runs, the kernel shows the limits in its cgroup.
    pawctl sandbox run --memory 64M --pids 20 --timeout 300s -- sleep 120 >/vm/out/sandbox.txt 2>&1 &
    client=$!
    if within 60 sh -c "test -n \"\$(find $SANDBOXES -name memory.max -exec grep -l -x 67108864 {} +)\""; then
        pass memory_limit_is_in_the_cgroup
    else
        fail memory_limit_is_in_the_cgroup "$(find "$SANDBOXES" -name memory.max -exec grep -H . {} +) $(cat /vm/out/sandbox.txt)"
    fi
    has process_limit_is_in_the_cgroup 20 "$(find "$SANDBOXES" -name pids.max -exec cat {} +)"
    kill "$client" 2>/dev/null
    wait "$client"
    holds a_sandbox_whose_caller_left_ends within 60 sh -c \
        "test -z \"\$(find $SANDBOXES -name memory.max -exec grep -l -x 67108864 {} +)\""
    io_weight_is_set_where_a_disk_has_one
    nothing_is_left_of_the_sandboxes
}

# A weight needs a disk that is scheduled by it, which is asked for as an administrator would.
# What makes a sandbox is replaced by something that changes a limit before it does so.
limits_that_somebody_changes_are_noticed() {
    create=/usr/libexec/pawd/paw-create
    mv $create $create.real
    for change in 'pids.max 33' 'memory.max 33554432' 'cpu.max 200000'; do
        cat >$create <<END
#!/bin/sh
for last; do :; done
echo ${change#* } >"\${last%/*}/${change% *}"
exec $create.real "\$@"
END
        chmod 755 $create
        # Limits that nobody else asks for, so none of those that wait is taken.
        text=$(pawctl sandbox run --pids 27 --cpus 0.5 --memory 64M -- true 2>&1)
        same "changed_${change%.*}_is_refused" 125 $?
        has "changed_${change%.*}_is_told" 'reads back as' "$text"
    done
    mv $create.real $create
}

io_weight_is_set_where_a_disk_has_one() {
    modprobe bfq 2>/dev/null
    if ! grep -q bfq /sys/block/vda/queue/scheduler; then
        skip io_weight_is_in_the_cgroup "this kernel has no bfq: $(cat /sys/block/vda/queue/scheduler)"
        return
    fi
    echo bfq >/sys/block/vda/queue/scheduler
    pawctl sandbox run --io-weight 50 --timeout 300s -- sleep 120 >/vm/out/weight.txt 2>&1 &
    client=$!
    if within 60 sh -c "find $SANDBOXES -mindepth 1 \( -name io.weight -o -name io.bfq.weight \) -exec cat {} + | grep -qw 50"; then
        pass io_weight_is_in_the_cgroup
    else
        fail io_weight_is_in_the_cgroup "$(find "$SANDBOXES" -name 'io.*weight' -exec grep -H . {} +) $(cat /vm/out/weight.txt)"
    fi
    kill "$client" 2>/dev/null
    wait "$client"
}

# Hostile probes, in both runtimes, with a sandbox beside each. Under emulation this takes its time.
ways_out_are_held() {
    pawctl doctor --prove -o json --timeout 900s >/vm/out/doctor.json 2>/vm/out/doctor.txt
    probes=$(tr -d '\n' </vm/out/doctor.json | sed 's/}/}\n/g' | grep '"probe"')
    for runtime in native gvisor; do
        own=$(echo "$probes" | grep -E "\"runtime\": *\"$runtime\"")
        same "every_probe_is_held_by_$runtime" '' "$(echo "$own" | grep -vE '"ok": *true')"
        holds "enough_is_tried_in_$runtime" test "$(echo "$own" | wc -l)" -ge 70
        has "${runtime}_is_proven_by_its_probes" proven "$(pawctl sandbox runtimes 2>&1 | grep "$runtime")"
    done
    nothing_is_left_of_the_sandboxes nothing_is_left_of_the_probes
    # They count for this start of the host, whoever asks after it.
    holds pawd_restarts_after_its_probes systemctl restart pawd.service
    same probes_count_after_a_restart_of_pawd 2 "$(pawctl --timeout 120s sandbox runtimes 2>&1 | grep -cw proven)"
}

skill_asks_before_it_writes() {
    holds the_skill_files_lists_without_asking pawctl skill call files list '{"path":"."}'
    ends a_write_waits_for_approval 5 pawctl skill call files write '{"path":"note.txt","text":"hello"}' --no-wait
}
