"""Which machines are ours: those reserved in Kubernetes, with one RayCluster on them, or those in a file of hosts.

Lives here: what was seen of Kubernetes, what follows from it, and the only writer of the RayCluster. Never here: Ray
itself and the runners on it (`controlplane.capacity`: Ray's driver takes its process with it), and jobs.

    quantities.py   "8000m", "1.5Ti" → numbers
    machines.py     what Kubernetes says of a node and of a pod → what we go by
    standing.py     what the scheduler says of a node, and what it should hear
    upgrade.py      pods of an older template → the one that is made anew next
    raycluster.py   groups of machines ↔ the RayCluster
    core.py         the whole of what was seen → one RayCluster, and what the scheduler should hear of machines. Pure.
    listed.py       the file of hosts → what the scheduler should hear of them. Pure. Its shell: static.py
    standing.py     what the scheduler says of a node, and what it has not heard yet. Pure. Asked by scheduler.py
"""
