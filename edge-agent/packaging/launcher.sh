#!/bin/sh
# nkudo-edge: starts the version of the agent that this host is to run. Installed outside the versions, and never
# replaced by an update of the agent itself: it goes back to the version before when a new one does not get ready.
#
# One line in $dir/selection holds the choice, written whole and renamed into place:
#   2 CURRENT PREVIOUS TRIAL NEEDS DEADLINE ATTEMPTS BOOT SINCE FAILURES PACKAGED
# CURRENT, PREVIOUS, TRIAL: base (the packaged program), a or b (below $dir/slots), - for none. A TRIAL is started
# at most $attempts_max times and must say that it is ready within DEADLINE seconds of the boot clock; NEEDS is the
# agent's (start or session). FAILURES counts starts of CURRENT in a row, within $window seconds, that ended before
# they were ready. Without the line there is only the packaged program. The agent writes the line only while it runs
# outside a trial, this script at any other time. MicroVMs are processes of their own and outlive all of this.
set -u
umask 077

lib=${NKUDO_EDGE_LIB:-/usr/lib/nkudo-edge}
dir=${NKUDO_EDGE_AGENT_DIR:-/var/lib/nkudo-edge/agent}
NKUDO_EDGE_AGENT_DIR=$dir
# One arena of malloc instead of one for each thread: 2 MB of resident memory.
MALLOC_ARENA_MAX=${MALLOC_ARENA_MAX:-1}
export NKUDO_EDGE_AGENT_DIR MALLOC_ARENA_MAX

attempts_max=3
failures_max=5
window=600
# Of the agent: start again, since another version was chosen; and: this start failed for what no version can help.
again=75
not_ours=78

program_of() { # slot
  case $1 in
    a | b) program=$dir/slots/$1/nkudo-edge ;;
    *) program=$lib/nkudo-edge ;;
  esac
}

first_line() { # file; the answer is in $line
  line=
  if [ -r "$1" ]; then IFS= read -r line <"$1" || :; fi
}

# A half-known line counts as none: the packaged program is always a version that can run.
load() {
  current=base previous=- trial=- needs=- deadline=0 attempts=0 since_boot=- since=0 failures=0 packaged=-
  first_line "$dir/selection"
  # shellcheck disable=SC2086
  set -- $line
  if [ $# -eq 11 ] && [ "$1" = 2 ]; then
    case $6$7$9${10} in
      *[!0-9]*) return ;;
    esac
    current=$2 previous=$3 trial=$4 needs=$5 deadline=$6 attempts=$7 since_boot=$8 since=$9
    failures=${10} packaged=${11}
  fi
}

# Fails where the file system is full or not writable; the line stays as it was then.
save() {
  mkdir -p "$dir" 2>/dev/null &&
    printf '2 %s %s %s %s %s %s %s %s %s %s\n' "$current" "$previous" "$trial" "$needs" "$deadline" "$attempts" \
      "$since_boot" "$since" "$failures" "$packaged" >"$dir/.selection.new" || return 1
  sync "$dir/.selection.new" 2>/dev/null || sync
  mv "$dir/.selection.new" "$dir/selection"
}

tell() { # message, without quotes
  printf '{"level":40,"time":%s000,"program":"nkudo-edge-launcher","pid":%s,"msg":"%s"}\n' "$(date +%s)" $$ "$1"
}

seconds_since_boot() {
  first_line /proc/uptime
  now=${line%%.*}
}

# The 22nd field of proc(5) stat names, with the pid, one process for good.
start_time_of() { # pid; the answer is in $started, empty when there is no such process
  first_line "/proc/$1/stat" 2>/dev/null
  # shellcheck disable=SC2086
  set -- ${line##*) }
  shift "$(($# < 19 ? $# : 19))"
  started=${1:-}
}

# The agent of a launcher that was killed still holds the state directory.
end_orphan() {
  first_line "$dir/child"
  orphan=${line%% *}
  known=${line##* }
  [ -n "$orphan" ] || return 0
  start_time_of "$orphan"
  [ -n "$started" ] && [ "$started" = "$known" ] || return 0
  tell "an agent without a launcher is still there; it is stopped first"
  kill -TERM "$orphan" 2>/dev/null
  waited=0
  while start_time_of "$orphan" && [ "$started" = "$known" ]; do
    [ $waited -lt 20 ] || kill -KILL "$orphan" 2>/dev/null
    waited=$((waited + 1))
    sleep 1
  done
}

give_up_trial() { # reason
  tell "version in slot $trial: $1; going back to slot $current"
  mkdir -p "$dir/failed"
  printf '%s\n' "$1" >"$dir/failed/$trial"
  # What went back to the version before, and failed there, has none left before it.
  [ "$trial" != "$previous" ] || previous=-
  trial=- needs=- deadline=0 attempts=0 failures=0
  save
}

# Sets $slot.
choose() {
  load
  seconds_since_boot
  first_line "$lib/version"
  if [ "$line" != "$packaged" ] && [ -n "$line" ]; then
    # The package was installed or changed: it is tried, and what ran before it stays to go back to.
    packaged=$line
    [ "$current" = base ] || trial=base needs=start deadline=120 attempts=0 since_boot=-
    # Not before the state directory is there: to make that is the enrollment's.
    [ ! -d "${dir%/*}" ] || save
  fi
  if [ "$trial" != - ]; then
    if [ "$since_boot" != "$boot" ]; then
      since_boot=$boot since=$now
    fi
    if [ "$attempts" -ge $attempts_max ]; then
      give_up_trial "ended $attempts times before it was ready"
    elif [ $((now - since)) -ge "$deadline" ]; then
      give_up_trial "was not ready within $deadline s"
    fi
  fi
  slot=$current
  if [ "$trial" != - ]; then
    attempts=$((attempts + 1))
    # A try that can't be counted is none.
    if save; then slot=$trial; else trial=-; fi
  fi
  program_of "$slot"
  if [ ! -x "$program" ] && [ "$trial" = - ]; then
    tell "there is no program in slot $slot; starting the packaged one"
    slot=base
    program_of base
  fi
}

# Whether the child still runs; one that ended and was not waited for does not.
is_running() {
  first_line "/proc/$child/stat"
  # shellcheck disable=SC2086
  set -- ${line##*) }
  case ${1:-Z} in
    Z | X) return 1 ;;
  esac
  shift "$(($# < 19 ? $# : 19))"
  [ "${1:-}" = "$started" ]
}

# Beside an agent on trial: makes it the current one as soon as it is ready, or ends it at the deadline. Ends by itself
# with the agent: a signal to a subshell that was just made can be lost.
watch() {
  while is_running; do
    seconds_since_boot
    first_line "$dir/ready"
    if [ "$line" = "$id" ]; then
      previous=$current current=$trial trial=- needs=- deadline=0 attempts=0 since_boot=- since=0 failures=0
      rm -f "$dir/failed/$current"
      save
      tell "version in slot $current is ready; the one before stays in slot $previous"
      return
    fi
    if [ $((now - since)) -ge "$deadline" ]; then
      kill -KILL "$child" 2>/dev/null
      return
    fi
    sleep 1
  done
}

count_end() { # exit code of an agent that was not on trial
  first_line "$dir/ready"
  if [ "$line" = "$id" ] || [ "$1" -eq $not_ours ]; then
    [ "$failures" -eq 0 ] || { failures=0; save; }
    return
  fi
  [ "$previous" != - ] || return
  seconds_since_boot
  if [ "$since_boot" != "$boot" ] || [ $((now - since)) -ge $window ]; then
    since_boot=$boot since=$now failures=0
  fi
  failures=$((failures + 1))
  if [ "$failures" -ge $failures_max ]; then
    tell "version in slot $current ended $failures times before it was ready; going back to slot $previous"
    mkdir -p "$dir/failed"
    printf 'ended %s times before it was ready\n' "$failures" >"$dir/failed/$current"
    current=$previous previous=- failures=0
    back=1
  fi
  save
}

first_line /proc/sys/kernel/random/boot_id
boot=$line

if [ "${1:-}" != run ]; then
  load
  program_of "$current"
  [ -x "$program" ] || program_of base
  exec "$program" "$@"
fi

child=
stopping=
trap 'stopping=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT
trap '[ -z "$child" ] || kill -HUP "$child" 2>/dev/null' HUP
end_orphan

turn=0
while [ -z "$stopping" ]; do
  choose
  turn=$((turn + 1))
  id=$boot.$now.$$.$turn
  NKUDO_EDGE_START_ID=$id "$program" "$@" &
  child=$!
  [ -z "$stopping" ] || kill -TERM "$child" 2>/dev/null
  start_time_of "$child"
  [ ! -d "$dir" ] || printf '%s %s\n' "$child" "$started" >"$dir/child"
  watcher=
  if [ "$trial" != - ]; then
    watch &
    watcher=$!
  fi
  code=
  while :; do
    wait "$child"
    code=$?
    # Above 128 a signal to this script ended the wait, or one to the agent the agent.
    [ "$code" -gt 128 ] || break
    kill -0 "$child" 2>/dev/null && continue
    # It may have ended by itself just then: its own code is kept until it is asked for, and 127 says that it was.
    wait "$child" 2>/dev/null
    own=$?
    [ "$own" -eq 127 ] || code=$own
    break
  done
  child=
  if [ -n "$watcher" ]; then
    while kill -0 "$watcher" 2>/dev/null; do wait "$watcher"; done
  fi
  on_trial=$trial
  back=
  load
  if [ -n "$stopping" ]; then
    # Somebody stopped it: no fault of the version.
    if [ "$trial" != - ]; then
      attempts=$((attempts > 0 ? attempts - 1 : 0))
      save
    fi
    exit "$code"
  fi
  if [ "$on_trial" != - ] && [ "$trial" = "$on_trial" ]; then
    tell "version in slot $trial ended with $code before it was ready"
    continue
  fi
  if [ "$code" -eq $again ]; then
    [ "$trial" != - ] || sleep 1
    continue
  fi
  count_end "$code"
  [ -z "$back" ] || continue
  exit "$code"
done
