#!/bin/sh
# Runs in the guest as root, beside the packages: one claim a line, totals at the end, exit code 1 when one failed.
# Programs start 25 times slower here than on a machine: time-outs are long, and processes few.
cd "$(dirname "$0")" || exit 2
export LC_ALL=C NO_COLOR=1

for part in claims install hardening sandbox recovery packages; do
    # shellcheck source=/dev/null
    . "./$part.sh"
done

# The parts in the order in which they need each other; arguments choose some.
[ $# -gt 0 ] || set -- install_packages units_are_up modes_are_as_documented status_and_journal_say_so \
    processes_are_confined strangers_are_kept_out sandboxes_are_limited ways_out_are_held skill_asks_before_it_writes \
    restart_refuses_nobody kills_are_survived bad_configuration_is_refused upgrade_restarts_pawd_only \
    removal_ends_everything purge_leaves_nothing rpm_packages_work
for part in "$@"; do
    echo "# $part"
    "$part"
done
totals
