# Claims and their outcome: one line each, `ok NAME`, `FAIL NAME: why` or `skip NAME: why`. Sourced.
# shellcheck shell=sh

PASSED=0
FAILED=0
SKIPPED=0

pass() { # pass NAME
    PASSED=$((PASSED + 1))
    echo "ok $1"
}

fail() { # fail NAME WHY
    FAILED=$((FAILED + 1))
    echo "FAIL $1: $2"
}

skip() { # skip NAME WHY
    SKIPPED=$((SKIPPED + 1))
    echo "skip $1: $2"
}

# The command succeeds.
holds() { # holds NAME COMMAND...
    claim=$1
    shift
    if said=$("$@" 2>&1); then pass "$claim"; else fail "$claim" "$* gave $?: $said"; fi
}

# The command ends with exactly this exit code.
ends() { # ends NAME CODE COMMAND...
    claim=$1
    expected=$2
    shift 2
    code=0
    said=$("$@" 2>&1) || code=$?
    if [ "$code" -eq "$expected" ]; then pass "$claim"; else fail "$claim" "$* gave $code, not $expected: $said"; fi
}

# Two texts are the same.
same() { # same NAME EXPECTED FOUND
    if [ "$2" = "$3" ]; then pass "$1"; else fail "$1" "expected '$2', found '$3'"; fi
}

# A text has a part.
has() { # has NAME PART TEXT
    case $3 in
    *"$2"*) pass "$1" ;;
    *) fail "$1" "no '$2' in: $3" ;;
    esac
}

# A path is not there.
gone() { # gone NAME PATH...
    claim=$1
    shift
    left=
    for path in "$@"; do
        if [ -e "$path" ] || [ -L "$path" ]; then left="$left $path"; fi
    done
    same "$claim" '' "$left"
}

# The end: totals in the form that the test program reads, and the exit code.
totals() {
    echo "$PASSED passed, $FAILED failed, $SKIPPED skipped"
    [ "$FAILED" -eq 0 ]
}

# One property of a unit.
property() { # property UNIT NAME
    systemctl show --value --property "$2" "$1"
}

# One field of a process's status, blanks made single.
field() { # field PID NAME
    sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status" | tr -s '\t' ' '
}

# Runs a command up to N times, a second apart, until it succeeds: for what systemd does in its own time and tells nobody.
within() { # within SECONDS COMMAND...
    tries=$1
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 1
    done
}
