#!/usr/bin/env bash
# A real SLURM on this one machine, for tests: a controller and several nodes, loopback only, no systemd, no cgroups,
# nothing in /etc, no accounts (sacct has no answer). Debian's packages; tried with SLURM 22.05.
#
#   local_cluster.sh install           the packages, by apt-get, as root; nothing where they are there already
#   local_cluster.sh start             ready when it returns; nothing where it runs already
#   local_cluster.sh stop              cancels all jobs and ends every daemon by its process number; keeps the logs
#   local_cluster.sh clean             stop, and remove the folder
#   eval "$(local_cluster.sh env)"     SLURM_CONF, which sbatch, squeue and scontrol need
#   local_cluster.sh controller-stop | controller-start       an outage; what the controller knows is kept
#   local_cluster.sh node-kill N | node-start N               SIGKILL for a node's daemon and for its jobs
#
# Environment: LOCAL_SLURM_DIR (/tmp/local-slurm-UID; short, it holds sockets), LOCAL_SLURM_PORT (16817; that one and
# 10 to 10+N above), LOCAL_SLURM_NODES (2), LOCAL_SLURM_CPUS (1: what each node pretends to have, and so its jobs at
# a time).
set -u
DIR=${LOCAL_SLURM_DIR:-/tmp/local-slurm-$(id -u)}
PORT=${LOCAL_SLURM_PORT:-16817} NODES=${LOCAL_SLURM_NODES:-2} CPUS=${LOCAL_SLURM_CPUS:-1}
PATH=$PATH:/usr/sbin:/sbin # where Debian puts the daemons
[ -f "$DIR/settings" ] && . "$DIR/settings" # a cluster that is there keeps its settings
export SLURM_CONF=$DIR/slurm.conf

die() { echo "local_cluster.sh: $*" >&2; exit 1; }
# A killed daemon stays a zombie until process 1 reaps it, which in a container may be never: it does not run.
running() { local s; s=$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) || return 1; case $s in '' | [ZX]*) return 1 ;; esac; }
pid_of() { # PIDFILE NAME: its number, where it runs and is what the file says (numbers are used again)
  local p; p=$(head -n1 "$1" 2>/dev/null) || return 1
  case $p in '' | *[!0-9]*) return 1 ;; esac
  running "$p" || return 1
  case $(cat "/proc/$p/comm" 2>/dev/null) in "$2"*) echo "$p" ;; *) return 1 ;; esac
}
end() { # PIDFILE NAME: TERM, and KILL after 20 s
  local p; p=$(pid_of "$1" "$2") || { rm -f "$1"; return 0; }
  kill "$p"
  for _ in $(seq 200); do running "$p" || break; sleep 0.1; done
  if running "$p"; then kill -9 "$p"; fi
  rm -f "$1"
}
nodes() { for i in $(seq "$NODES"); do echo "127.0.0.$((i + 1))"; done; } # addresses: they resolve without /etc/hosts
steps() { # [NODE]: numbers of our job steps; they outlive their daemon
  local p
  for p in /proc/[0-9]*; do
    case $(cat "$p/comm" 2>/dev/null) in slurmstepd*) ;; *) continue ;; esac
    { tr '\0' '\n' <"$p/environ" | grep -qxF "SLURM_CONF=$SLURM_CONF"; } 2>/dev/null || continue
    [ -z "${1:-}" ] || { tr '\0' '\n' <"$p/environ" | grep -qxF "LOCAL_SLURM_NODE=$1"; } 2>/dev/null || continue
    echo "${p#/proc/}"
  done
}
family() { for p in "$@"; do echo "$p"; family $(cat /proc/"$p"/task/*/children 2>/dev/null); done; }
kill_steps() { local p; p=$(family $(steps "${1:-}")); [ -z "$p" ] || kill -9 $p 2>/dev/null; }

configure() {
  local host address=127.0.0.1 bind=DisableIPv6 n i=0
  host=$(hostname -s)
  # The daemons can be bound to the address of the machine's name; that is wanted only where it is loopback.
  case $(getent ahostsv4 "$(hostname)" | awk '{print $1; exit}') in
    127.*) bind=NoInAddrAny,NoCtldInAddrAny,DisableIPv6; address=$(getent ahostsv4 "$(hostname)" | awk '{print $1; exit}') ;;
  esac
  mkdir -p "$DIR"/{run,log,state} && chmod 755 "$DIR" "$DIR"/{run,log,state}
  for n in $(nodes); do mkdir -p "$DIR/spool/$n"; done
  (umask 077; head -c 128 /dev/urandom >"$DIR/munge.key"); chmod 400 "$DIR/munge.key"
  printf 'PORT=%s NODES=%s CPUS=%s\n' "$PORT" "$NODES" "$CPUS" >"$DIR/settings"
  # FirstJobId: numbers that an earlier cluster did not use. cred_expire: how long a requeued job waits; more than
  # KillWait + 5, or it meets what is left of its own life before. preempt_send_user_signal: USR2 before preemption.
  cat >"$SLURM_CONF" <<END
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$DIR/run/munge.socket,cred_expire=12
SlurmctldPort=$PORT
CommunicationParameters=$bind
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd.%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=3600
FirstJobId=$(($(date +%s) % 1000000 * 60 + 1))
SlurmdTimeout=10
SlurmctldTimeout=10
InactiveLimit=0
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
END
  for n in $(nodes); do
    echo "NodeName=$n NodeHostname=$host NodeAddr=$address Port=$((PORT + 10 + i)) CPUs=$CPUS RealMemory=16000 State=UNKNOWN"
    i=$((i + 1))
  done >>"$SLURM_CONF"
  cat >>"$SLURM_CONF" <<END
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=preempt Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
END
}

start_munge() {
  pid_of "$DIR/run/munged.pid" munged >/dev/null && return
  rm -f "$DIR"/run/munge*
  munged --key-file="$DIR/munge.key" --socket="$DIR/run/munge.socket" --pid-file="$DIR/run/munged.pid" \
    --log-file="$DIR/log/munged.log" --seed-file="$DIR/run/munged.seed" --origin=127.0.0.1 9>&- ||
    die "munged does not start: see $DIR/log/munged.log"
}
start_controller() {
  pid_of "$DIR/run/slurmctld.pid" slurmctld >/dev/null && return
  rm -f "$DIR/run/slurmctld.pid"
  slurmctld -f "$SLURM_CONF" 9>&- || die "slurmctld does not start: see $DIR/log/slurmctld.log"
  for _ in $(seq 200); do scontrol ping 2>/dev/null | grep -q 'is UP' && return; sleep 0.1; done
  tail -n 30 "$DIR/log/slurmctld.log" >&2
  die "slurmctld does not answer"
}
start_node() { # its job steps inherit LOCAL_SLURM_NODE, which is how node-kill finds them
  pid_of "$DIR/run/slurmd.$1.pid" slurmd >/dev/null && return
  rm -f "$DIR/run/slurmd.$1.pid"
  env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin SLURM_CONF="$SLURM_CONF" LOCAL_SLURM_NODE="$1" \
    slurmd -N "$1" -f "$SLURM_CONF" 9>&- || die "slurmd $1 does not start: see $DIR/log/slurmd.$1.log"
}
ready() { [ "$(timeout 5 sinfo -h -N -p main -o %T 2>/dev/null | grep -cE '^(idle|mixed|allocated|completing)$')" = "$NODES" ]; }
start() {
  for n in munged slurmctld slurmd scontrol; do command -v $n >/dev/null || die "$n is missing: $0 install"; done
  [ -f "$SLURM_CONF" ] || configure
  start_munge
  start_controller
  for n in $(nodes); do start_node "$n"; done
  for i in $(seq 150); do
    ready && return
    sleep 0.2
    if [ $((i % 25)) = 0 ]; then for n in $(nodes); do scontrol update nodename="$n" state=resume 2>/dev/null; done; fi
  done
  sinfo -N -o '%N %T %E' >&2
  die "the nodes do not come up: see $DIR/log"
}
stop() {
  [ -f "$SLURM_CONF" ] || return 0
  if pid_of "$DIR/run/slurmctld.pid" slurmctld >/dev/null; then
    timeout 10 squeue -h -o %A 2>/dev/null | sort -u | xargs -r timeout 20 scancel
    for _ in $(seq 30); do [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break; sleep 0.5; done
  fi
  for n in $(nodes); do end "$DIR/run/slurmd.$n.pid" slurmd; done
  kill_steps
  end "$DIR/run/slurmctld.pid" slurmctld
  end "$DIR/run/munged.pid" munged
}
locked() { mkdir -p "$DIR"; exec 9>"$DIR/.lock"; flock -w 120 9 || die "another local_cluster.sh is at work"; "$@"; }

case ${1:-} in
  install)
    missing=""
    for pair in munged:munge slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client; do
      command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
    done
    [ -z "$missing" ] && exit 0
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ;;
  start) locked start ;;
  stop) locked stop ;;
  clean) locked stop; if [ -f "$DIR/settings" ]; then rm -rf "$DIR"; fi ;;
  env) echo "export SLURM_CONF=$SLURM_CONF" ;;
  controller-stop) end "$DIR/run/slurmctld.pid" slurmctld ;;
  controller-start) start_controller ;;
  node-kill)
    nodes | grep -qxF "${2:-}" || die "node-kill needs a node: $(nodes | tr '\n' ' ')"
    p=$(pid_of "$DIR/run/slurmd.$2.pid" slurmd) && kill -9 "$p"
    rm -f "$DIR/run/slurmd.$2.pid"
    kill_steps "$2" ;;
  node-start) start_node "$2" ;;
  *) sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
