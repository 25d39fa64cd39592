# Upgrade, removal and purge of the Debian packages; installation and removal of the RPM ones. Sourced by main.sh.
# shellcheck shell=sh

upgrade_restarts_pawd_only() {
    pawd=$(property pawd.service MainPID)
    launcher=$(property paw-launcher.service MainPID)
    audit=$(property paw-audit.service MainPID)
    holds packages_upgrade dpkg --install ./*.deb
    if [ "$(property pawd.service MainPID)" != "$pawd" ]; then pass upgrade_restarts_pawd; else fail upgrade_restarts_pawd "it is still $pawd"; fi
    same upgrade_leaves_the_launcher "$launcher" "$(property paw-launcher.service MainPID)"
    same upgrade_leaves_the_audit_writer "$audit" "$(property paw-audit.service MainPID)"
    holds calls_are_answered_after_an_upgrade pawctl --timeout 120s status
}

# Processes of our users, and of the ids that sandboxes have.
our_processes() {
    ps -e -o pid=,uid=,args= | awk '$2 >= 524288 || $3 ~ /\/(pawd|paw-[a-z]+)$/'
}

removal_ends_everything() {
    pawctl sandbox run --timeout 600s -- sleep 500 >/vm/out/removed.txt 2>&1 &
    within 60 sh -c 'ps -e -o args= | grep -q "[s]leep 500"'
    holds packages_are_removed dpkg --remove pawd pawctl
    same removal_leaves_no_process '' "$(our_processes)"
    same removal_leaves_no_unit '' "$(systemctl list-units --state active,activating,failed --plain --no-legend 'paw*.service' 'paw*.socket')"
    gone removal_leaves_no_socket /run/pawd/control.sock /run/pawd/launcher.sock /run/pawd/audit.sock
    holds removal_keeps_configuration_and_state test -e /etc/pawd/pawd.toml -a -e /var/lib/pawd -a -e /var/log/pawd
}

purge_leaves_nothing() {
    holds packages_are_purged dpkg --purge pawd pawctl
    gone purge_leaves_no_file /etc/pawd /var/lib/pawd /var/lib/paw-launcher /var/lib/paw-launcher-kata /var/lib/paw-audit /var/lib/paw-skills \
        /var/log/pawd /run/pawd /usr/lib/pawd /usr/libexec/pawd /sys/fs/cgroup/paw.slice/paw-launcher.service
    same purge_leaves_no_link '' "$(find /etc/systemd /var/lib/systemd/deb-systemd-helper-* -name 'paw*' 2>/dev/null)"
    same purge_leaves_no_mount '' "$(grep -i paw /proc/self/mounts)"
}

rpm_packages_work() {
    # Debian's rpm of bookworm wants to be told that this is meant; newer ones do not know the option.
    if rpm --force-debian --version >/dev/null 2>&1; then set -- --force-debian; else set --; fi
    holds rpm_packages_install rpm --install --nodeps "$@" ./*.rpm
    holds rpm_units_start systemctl start pawd.service
    holds rpm_pawd_answers pawctl --timeout 120s status
    # Ownership and modes as packed; man pages are not in this guest.
    same rpm_files_are_as_packed '' "$(rpm --verify --nodeps pawd pawctl | grep -v -e /usr/share/man/ -e /usr/share/doc/)"
    holds rpm_packages_are_erased rpm --erase pawd pawctl
    same rpm_erasure_leaves_no_process '' "$(our_processes)"
    gone rpm_erasure_leaves_no_program /usr/sbin/pawd /usr/bin/pawctl /usr/libexec/pawd /usr/lib/pawd
}
