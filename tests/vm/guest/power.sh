# What people were told is so after the power went. The state of pawd is on a disk that outlives the guest; what was told is in `told`,
# which the host kept (tests/vm/power). Sourced by main.sh.
# shellcheck shell=sh

# Where pawd's state lies: a file system with a journal, as on a server. The guest's own has none, and is another one at each boot.
mount_what_is_kept() {
    blkid /dev/vdd >/dev/null || mke2fs -q -t ext4 /dev/vdd
    mkdir -p /kept
    holds the_disk_can_be_mounted mount /dev/vdd /kept
    for directory in /var/lib/pawd /var/lib/paw-launcher /var/lib/paw-audit /var/lib/paw-skills /var/log/pawd; do
        mkdir -p "/kept$directory" "$directory"
        mount --bind "/kept$directory" "$directory"
    done
}

# The first id in what pawctl says as JSON.
first_id() {
    tr -d '\n' | sed 's/"id": *"\([^"]*\)".*/\n\1/' | tail -n 1
}

# A question to a person.
ask() {
    pawctl --timeout 600s -o json skill call files write "{\"path\":\"$1\",\"text\":\"hello\"}" --no-wait | first_id
}

# Works until the power goes. A line says what somebody was told a moment before: `done ID`, `waits ID`, `denied ID`, `runs ID`, and
# `witness CHECKPOINT` of the audit log, in base64.
work_until_the_power_goes() {
    echo working
    started=$(detached 'exec sleep 3000')
    echo "runs ${started% *}"
    (
        while :; do
            started=$(detached true)
            pawctl --timeout 600s action wait "${started% *}" >/dev/null && echo "done ${started% *}"
            echo "witness $(base64 --wrap 0 /var/log/pawd/audit.checkpoint)"
        done
    ) &
    round=0
    while :; do
        round=$((round + 1))
        waits=$(ask "note-$(cat /proc/sys/kernel/random/uuid)")
        echo "waits $waits"
        if [ $((round % 2)) -eq 1 ]; then
            pawctl --timeout 600s approval deny "$waits" >/dev/null && echo "denied $waits"
        fi
    done
}

# The ids of `told` that are in none of these states.
told_and_not_so() { # told_and_not_so WORD STATE...
    word=$1
    shift
    sed -n "s/^$word //p" told | while read -r id; do
        state=$(pawctl --timeout 600s -o json action show "$id" 2>&1 | tr -d '\n' | sed 's/.*"state": *"\([a-z_]*\)".*/\1/')
        case " $* " in
        *" $state "*) ;;
        *) echo "$id: $state" ;;
        esac
    done
}

what_was_told_is_so() {
    holds pawd_answers_after_the_power_went within 60 pawctl --timeout 120s status
    # A question that was answered is denied; the answer may have come after its line was read.
    sed -i "$(sed -n 's/^denied \(.*\)/\/^waits \1$\/d;/p' told | tr -d '\n')" told
    for word in 'done' denied waits runs; do
        holds "something_was_told_to_be_$word" grep -q "^$word " told
    done
    same what_was_done_is_done '' "$(told_and_not_so 'done' completed)"
    same what_was_denied_is_denied '' "$(told_and_not_so denied rejected)"
    same what_waited_waits_or_is_answered '' "$(told_and_not_so waits waiting_approval rejected)"
    same what_ran_has_failed '' "$(told_and_not_so runs failed)"
    sed -n 's/^witness //p' told | tail -n 1 | base64 --decode >witness
    holds the_audit_log_is_whole_and_has_all_that_was_witnessed pawctl audit verify --witness witness
    same a_sandbox_runs_after_the_power_went again "$(pawctl --timeout 300s sandbox run -- echo again 2>&1)"
    same no_question_that_waits_is_lost "$(pawctl --timeout 300s -o json status | tr -d '\n ' | sed 's/.*"waiting_approval":\([0-9]*\).*/\1/')" \
        "$(pawctl --timeout 300s -o jsonl approval list | wc -l)"
}
