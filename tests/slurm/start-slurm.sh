#!/usr/bin/env bash
# Start a real SLURM on this machine (root, container, no systemd). Idempotent.
#   LUSS_SLURM_NODES=2  number of simulated nodes (needs a multiple-slurmd build; Debian 12's is)
#   LUSS_SLURM_CPUS=4   CPUs each node claims (may exceed the real ones)
#   LUSS_SLURM_GPUS=2   fake gpus per node (a /dev/ttyN stands for each: scheduling and CUDA_VISIBLE_DEVICES only)
#   LUSS_SLURM_DBD=1    MariaDB + slurmdbd, so that sacct answers; 0: without
set -euo pipefail
NODES=${LUSS_SLURM_NODES:-2} CPUS=${LUSS_SLURM_CPUS:-4} GPUS=${LUSS_SLURM_GPUS:-2} DBD=${LUSS_SLURM_DBD:-1}
[ "$(id -u)" = 0 ] || { echo "the SLURM tests install and start SLURM, which needs root" >&2; exit 1; }
command -v apt-get >/dev/null && [ -r /etc/debian_version ] || { echo "the SLURM tests install Debian's SLURM, and this is not Debian" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive
pkgs=(slurmctld slurmd slurm-client munge)
[ "$DBD" = 1 ] && pkgs+=(slurmdbd mariadb-server)
miss=(); for p in "${pkgs[@]}"; do dpkg -s "$p" >/dev/null 2>&1 || miss+=("$p"); done
if ((${#miss[@]})); then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${miss[@]}" </dev/null >/tmp/slurm-apt.log 2>&1 || { tail -20 /tmp/slurm-apt.log >&2; exit 1; }
fi
HOST=$(hostname -s) MEM=$(awk '/MemTotal/{print int($2/1024*0.9)}' /proc/meminfo)
LOG=/var/log/slurm; mkdir -p /etc/slurm $LOG /var/spool/slurmctld /run/slurm
names=(); for i in $(seq "$NODES"); do names+=("node$i"); mkdir -p "/var/spool/slurmd.node$i"; done
# submitit's MASTER_ADDR is the first host name of the job: every node name must resolve
for h in "$HOST" "${names[@]}"; do getent hosts "$h" >/dev/null || echo "127.0.0.1 $h" >>/etc/hosts; done
{
cat <<C
ClusterName=luss
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=2,sched_min_interval=0,defer_batch=0
PriorityType=priority/basic
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=3600
MaxArraySize=2000
InactiveLimit=0
UnkillableStepTimeout=60
SlurmdParameters=config_overrides
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd.%n
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd.%n.pid
SlurmctldLogFile=$LOG/slurmctld.log
SlurmdLogFile=$LOG/slurmd.%n.log
SlurmctldPort=6817
JobCompType=jobcomp/filetxt
JobCompLoc=$LOG/jobcomp.log
C
if [ "$DBD" = 1 ]; then printf '%s\n' AccountingStorageType=accounting_storage/slurmdbd AccountingStorageHost=127.0.0.1
else echo AccountingStorageType=accounting_storage/none; fi
g=; ((GPUS)) && { echo GresTypes=gpu; g=" Gres=gpu:$GPUS"; }
i=0; for n in "${names[@]}"; do
  echo "NodeName=$n NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((6830+i)) CPUs=$CPUS RealMemory=$MEM$g State=UNKNOWN"; i=$((i+1)); done
# a job in `high` takes the place of one in `low`, which is told first and started again later
echo "PreemptType=preempt/partition_prio"
echo "PreemptMode=REQUEUE"
echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=5 PreemptMode=OFF"
echo "PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=1 PreemptMode=REQUEUE GraceTime=60"
echo "PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=10 PreemptMode=OFF"
} >/etc/slurm/slurm.conf
((GPUS)) && echo "Name=gpu File=/dev/tty[1-$GPUS]" >/etc/slurm/gres.conf || : >/etc/slurm/gres.conf
# munge
install -d -o munge -g munge -m 0755 /run/munge; install -d -o munge -g munge -m 0700 /var/lib/munge /var/log/munge /etc/munge
[ -s /etc/munge/munge.key ] || { dd if=/dev/urandom of=/etc/munge/munge.key bs=128 count=1 status=none; chown munge: /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
munge -n </dev/null 2>/dev/null | unmunge >/dev/null 2>&1 || runuser -u munge -- /usr/sbin/munged --force
alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }
if [ "$DBD" = 1 ]; then
  install -d -o mysql -g mysql /run/mysqld
  [ -d /var/lib/mysql/mysql ] || mariadb-install-db --user=mysql --datadir=/var/lib/mysql >/dev/null
  if ! mariadb-admin ping >/dev/null 2>&1; then
    nohup setsid mariadbd --user=mysql --bind-address=127.0.0.1 --port=3306 --innodb-buffer-pool-size=64M --pid-file=/run/mysqld/mysqld.pid >$LOG/mariadb.log 2>&1 </dev/null &
    for _ in $(seq 100); do mariadb-admin ping >/dev/null 2>&1 && break; sleep .2; done
  fi
  mariadb -e "create database if not exists slurm_acct_db; create user if not exists slurm@localhost identified by 'slurm'; grant all on slurm_acct_db.* to slurm@localhost;"
  (umask 077; cat >/etc/slurm/slurmdbd.conf <<C
AuthType=auth/munge
DbdHost=$HOST
DbdAddr=127.0.0.1
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
LogFile=$LOG/slurmdbd.log
PidFile=/run/slurm/slurmdbd.pid
C
  )
  alive /run/slurm/slurmdbd.pid || slurmdbd
  for _ in $(seq 100); do sacctmgr -n -i list cluster >/dev/null 2>&1 && break; sleep .2; done
  sacctmgr -n list cluster format=cluster | grep -qw luss || sacctmgr -i -Q add cluster luss >/dev/null
fi
# a changed node list or accounting type needs fresh daemons
sum=$(cat /etc/slurm/slurm.conf /etc/slurm/gres.conf | sha1sum)
if [ "$sum" != "$(cat /run/slurm/conf.sum 2>/dev/null || true)" ]; then
  for p in /run/slurm/slurmctld.pid /run/slurm/slurmd.*.pid; do
    alive "$p" || continue; pid=$(cat "$p"); kill "$pid"; while kill -0 "$pid" 2>/dev/null; do sleep .1; done
  done
  echo "$sum" >/run/slurm/conf.sum
fi
alive /run/slurm/slurmctld.pid || slurmctld
for n in "${names[@]}"; do alive "/run/slurm/slurmd.$n.pid" || slurmd -N "$n"; done
for k in $(seq 300); do
  # a node drained by an earlier wrong configuration keeps that mark: clear it
  ((k % 10 == 5)) && scontrol update NodeName="node[1-$NODES]" State=RESUME >/dev/null 2>&1 || true
  [ "$(sinfo -h -N -o '%N %T' 2>/dev/null | sort -u | grep -cE ' (idle|mixed|allocated)$' || true)" = "$NODES" ] && { sinfo; exit 0; }
  sleep .2
done
echo "slurm did not come up; see $LOG" >&2; sinfo >&2 || true; tail -n 5 $LOG/*.log >&2; exit 1
