#!/bin/bash
# A Slurm cluster of two nodes on this machine, for tests and to try scripts on: slurm.sh FOLDER [CORES]
#
# FOLDER gets all that the cluster writes; CORES is how many each node has (1). Needs root and
# Debian's slurm-wlm, munge and iproute2. The cluster lives in namespaces of its own: no port, no
# socket, no mount and no process of it is seen outside, and all of it ends with this process,
# however that ends. Each node has an address, a host name and a TMPDIR of its own, as real ones:
#
#   head   10.77.0.1    slurmctld; also called mlflow.example.org
#   node1  10.77.0.11   slurmd
#   node2  10.77.0.12   slurmd
#
# FOLDER/shared is /mnt on every node. When FOLDER/ready exists, commands run on the cluster with
#   nsenter --all --target PID sbatch …         PID: the child of this process
# There are no control groups here and no GPUs: Slurm follows a job's processes by their parents,
# and binds none to its cores.

set -euo pipefail
folder=$(realpath "$1") cores=${2:-1}
if [ -z "${INSIDE:-}" ]; then
    export INSIDE=1
    exec unshare --net --mount --uts --ipc --pid --fork --kill-child --mount-proc "$0" "$@"
fi

trap 'exit 0' INT TERM                             # Ctrl-C; from outside, kill -KILL
mkdir -p "$folder"/{etc,log,state,shared,tmp,state/node1,state/node2}
mount -t tmpfs tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm          # of Ray's object stores
mount --bind "$folder/shared" /mnt

# The network: a bridge, and a pair of virtual cards for each node.
ip link set lo up
ip link add name cluster type bridge
ip addr add 10.77.0.1/24 dev cluster
ip link set cluster up
for number in 1 2; do
    node=node$number
    ip netns add $node
    ip link add card$number type veth peer name eth0 netns $node
    ip link set card$number master cluster up
    ip -n $node link set lo up
    ip -n $node addr add 10.77.0.1$number/24 dev eth0
    ip -n $node link set eth0 up
done
hostname head
cat > "$folder/etc/hosts" <<END
127.0.0.1 localhost
10.77.0.1 head mlflow.example.org
10.77.0.11 node1
10.77.0.12 node2
END
mount --bind "$folder/etc/hosts" /etc/hosts

# munge, by which Slurm's parts know each other.
(umask 077 && head --bytes 128 /dev/urandom > "$folder/etc/munge.key")
munged --force --key-file "$folder/etc/munge.key" --socket /run/munge.socket \
    --pid-file /run/munged.pid --seed-file /run/munge.seed --log-file "$folder/log/munged.log"

cat > "$folder/etc/prolog" <<'END'
#!/bin/bash
# What Slurm runs before each task: as on many clusters, it gives the task its node's own disk.
END
cat >> "$folder/etc/prolog" <<END
mkdir -p "$folder/tmp/\$SLURMD_NODENAME"
echo "export TMPDIR=$folder/tmp/\$SLURMD_NODENAME"
echo "export RAY_TMPDIR=$folder/tmp/\$SLURMD_NODENAME"
END
chmod +x "$folder/etc/prolog"
cat > "$folder/etc/slurm.conf" <<END
ClusterName=test
SlurmctldHost=head(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=/run/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog=$folder/etc/prolog
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/state/%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd-%n.pid
SlurmctldDebug=debug
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd-%n.log
NodeName=node1 NodeAddr=10.77.0.11 CPUs=$cores State=UNKNOWN
NodeName=node2 NodeAddr=10.77.0.12 CPUs=$cores State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
mkdir -p /etc/slurm
mount --bind "$folder/etc" /etc/slurm
slurmctld
for node in node1 node2; do
    nsenter --net=/run/netns/$node unshare --uts bash -c "hostname $node && exec slurmd"
done
until [ "$(sinfo --noheader --states=idle --format=%D)" = 2 ]; do sleep 0.2; done
touch "$folder/ready"
sleep infinity &
wait
