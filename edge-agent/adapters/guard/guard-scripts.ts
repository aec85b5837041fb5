/**
 * The guard and the watcher of one VMM, as constant POSIX sh: they have to be small (a Node process is fifty times as
 * large), to live without the agent, and to be the same whether the agent, a unit or a person starts them. Nothing from
 * a spec becomes shell text; what they go by is in files.
 *
 * Who ends what: the guard ends each VMM whose moment has passed. It holds a lock for as long as it lives; each guarded
 * VMM has a watcher that waits for that lock, and ends its VMM when the guard is gone and not back within three seconds.
 */

export const guardFiles = { table: 'deadlines', lock: 'lock', pid: 'pid' } as const;
/** Lock of the one watcher of a VMM, in the directory of the VMM. */
const watcherLock = 'vmm.watch';

/**
 * $1: directory of the guard. The first line of the table is the boot that its moments belong to, each further one a
 * moment in hundredths of a second of /proc/uptime and the directory of a VMM. Every second, and at each moment:
 * directories whose moment has passed are looked at again and again, so that a VMM that is started late ends too.
 * It ends by itself when nothing was listed for half a minute.
 */
export const guardScript = `
set -u
umask 077
cd -- "$1" || exit 70
trap '' HUP INT
exec 8>>${guardFiles.lock}
flock 8 || exit 71
printf '%d\\n' "$$" >${guardFiles.pid}
read -r boot </proc/sys/kernel/random/boot_id
end_vmm() {
  [ -e "$1/vmm.claim" ] || return 0
  flock -s -n "$1/vmm.claim" true 8>&- 2>/dev/null && return 0
  line=
  if [ -r "$1/vmm.process" ] && read -r line <"$1/vmm.process"; then
    pid=\${line#*\\"pid\\":}
    pid=\${pid%%,*}
    start=\${line#*\\"startTime\\":\\"}
    start=\${start%%\\"*}
    if [ -r "/proc/$pid/stat" ] && read -r line <"/proc/$pid/stat"; then
      line=\${line##*) }
      set -- "$1" $line
      [ "\${21}" = "$start" ] && kill -9 "$pid" 2>/dev/null
    fi
  fi
  for found in /proc/[0-9]*; do
    [ "$found/cwd" -ef "$1" ] || continue
    second=$(tr '\\000' '\\n' <"$found/cmdline" 2>/dev/null 8>&- | sed -n 2p 8>&-)
    [ "$second" = --api-socket ] && kill -9 "\${found#/proc/}" 2>/dev/null
  done
  return 0
}
idle=0
while [ "$idle" -lt 30 ]; do
  read -r now rest </proc/uptime
  now=\${now%.*}\${now#*.}
  next=100
  listed=0
  if [ -r ${guardFiles.table} ]; then
    {
      said=
      read -r said
      while read -r moment directory; do
        listed=1
        left=$((moment - now))
        [ "$said" = "$boot" ] || left=0
        if [ "$left" -le 0 ]; then
          end_vmm "$directory" </dev/null
        elif [ "$left" -lt "$next" ]; then
          next=$left
        fi
      done
    } <${guardFiles.table}
  fi
  if [ "$listed" -eq 1 ]; then idle=0; else idle=$((idle + 1)); fi
  if [ "$next" -ge 100 ]; then nap=1; elif [ "$next" -lt 10 ]; then nap=0.0$next; else nap=0.$next; fi
  sleep "$nap" 8>&- </dev/null
done
`;

/** $1: directory of the guard, $2: directory of the VMM, $3 and $4: its pid and start time. Ends with its VMM. */
export const watcherScript = `
set -u
guard=$1
vm=$2
pid=$3
start=$4
cd -- "$guard" || exit 70
exec 7>>"$vm/${watcherLock}"
flock -n 7 || exit 0
holder=
trap '[ -n "$holder" ] && kill "$holder" 2>/dev/null; exit 0' TERM
is_alive() {
  line=
  [ -r "/proc/$pid/stat" ] && read -r line <"/proc/$pid/stat" || return 1
  line=\${line##*) }
  set -- $line
  [ "$1" != Z ] && [ "\${20}" = "$start" ]
}
is_listed() {
  [ -r "$guard/${guardFiles.table}" ] || return 0
  while read -r moment directory; do
    [ "$directory" = "$vm" ] && return 0
  done <"$guard/${guardFiles.table}"
  return 1
}
while is_alive && is_listed; do
  flock -s -w 30 "$guard/${guardFiles.lock}" true 7>&- </dev/null &
  holder=$!
  wait "$holder"
  status=$?
  holder=
  [ "$status" -eq 1 ] && continue
  if [ "$status" -ne 0 ]; then
    sleep 1 7>&-
    continue
  fi
  tries=0
  while [ "$tries" -lt 6 ]; do
    sleep 0.5 7>&-
    flock -s -n "$guard/${guardFiles.lock}" true 7>&- || break
    tries=$((tries + 1))
  done
  if [ "$tries" -eq 6 ] && is_listed && is_alive; then kill -9 "$pid"; fi
done
`;
