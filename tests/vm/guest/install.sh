# The packages install: users, directories, sockets, units. Sourced by main.sh.
# shellcheck shell=sh

install_packages() {
    # Most claims are of something else than isolation, and a kernel of its own takes a sandbox a second to boot here.
    mkdir -p /etc/pawd/pawd.d
    printf '[sandbox]\nisolation_floor = "process"\n' >/etc/pawd/pawd.d/20-isolation.toml
    chmod 644 /etc/pawd/pawd.d/20-isolation.toml
    holds packages_install dpkg --install ./*.deb
    for name in paw paw-launcher paw-audit paw-egress paw-shim; do
        holds "user_${name}_exists" getent passwd "$name"
    done
    for name in paw-admin paw-approver paw-user; do
        holds "group_${name}_exists" getent group "$name"
    done
    has pawd_may_read_the_audit_log paw-audit "$(id -nG paw)"
    for name in prices.toml default.cases.toml single-operator.cedar; do
        holds "${name}_is_where_the_manual_says" test -f "/usr/share/doc/pawd/$name"
    done
    for package in pawd pawctl; do
        holds "${package}_says_what_is_of_others_in_it" test -s "/usr/share/doc/$package/THIRD-PARTY.gz"
    done
    # The guest leaves manual pages out; dpkg lists what it left out, too.
    for page in paw-vault.7 paw-metrics.7 pawd.8 pawd.toml.5; do
        has "${page}_is_in_the_package" "/$page.gz" "$(dpkg-query --listfiles pawd)"
    done
    has an_explanation_of_events_is_in_the_catalog pawd "$(journalctl --list-catalog 2>/dev/null | grep -i pawd)"
}

units_are_up() {
    for unit in pawd.service paw-control.socket paw-launcher.socket paw-audit.socket paw-egress.socket; do
        same "${unit}_is_enabled" enabled "$(systemctl is-enabled "$unit")"
        same "${unit}_is_active" active "$(systemctl is-active "$unit")"
    done
    # Real root: only an administrator switches it on.
    same kata_is_switched_off disabled "$(systemctl is-enabled paw-launcher-kata.socket)"
    same kata_does_not_run inactive "$(systemctl is-active paw-launcher-kata.socket)"
    for unit in paw-launcher.service paw-audit.service; do
        same "${unit}_is_active" active "$(systemctl is-active "$unit")"
    done
    for unit in pawd paw-launcher paw-audit; do
        same "${unit}_is_in_its_slice" paw.slice "$(property "$unit.service" Slice)"
    done
}

modes_are_as_documented() {
    while read -r path expected; do
        same "mode_of_$path" "$expected" "$(stat -c '%a %U %G' "$path" 2>&1)"
    done <<'EOF'
/run/pawd 755 root root
/run/pawd/control.sock 660 root paw
/run/pawd/launcher.sock 600 paw root
/run/pawd/audit.sock 600 paw root
/run/pawd/egress.sock 600 paw root
/var/lib/pawd 700 paw paw
/var/lib/paw-launcher 711 paw-launcher paw-launcher
/var/lib/paw-launcher-kata 711 root root
/var/lib/paw-skills 755 paw paw
/var/lib/paw-audit 700 paw-audit paw-audit
/var/log/pawd 750 paw-audit paw-audit
/etc/pawd 755 root root
/etc/pawd/pawd.toml 644 root root
EOF
}

status_and_journal_say_so() {
    text=$(systemctl status --no-pager --full pawd.service)
    has status_text_tells_the_state 'Status: "' "$text"
    has status_shows_the_helpers_beside_it 'paw.slice' "$text"
    # The id of DAEMON_READY in daemon/log/src/events.rs, which never changes.
    text=$(journalctl --boot MESSAGE_ID=392fdd481c89416e9c2b01e045bbf258 --output export --no-pager)
    has journal_has_the_event_that_pawd_is_ready SYSLOG_IDENTIFIER=pawd "$text"
    has it_came_from_the_unit _SYSTEMD_UNIT=pawd.service "$text"
    has it_is_explained "answers on the control socket" \
        "$(journalctl --boot --catalog MESSAGE_ID=392fdd481c89416e9c2b01e045bbf258 --no-pager)"
    same journal_has_no_error '' "$(journalctl --boot --unit 'paw*' --priority err --quiet --output cat --no-pager)"
}
