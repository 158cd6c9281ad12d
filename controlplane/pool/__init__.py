"""Which machines are reserved for us: Kubernetes as the source of nodes, and the one RayCluster that stands on them.

Lives here: what was seen of Kubernetes, what follows from it, and the only writer of the RayCluster. Never here: Ray
itself and the runners on it (`controlplane.capacity`: Ray's driver takes its process with it), and jobs.

    quantities.py   "8000m", "1.5Ti" → numbers
    machines.py     what Kubernetes says of a node and of a pod → what we go by
    standing.py     what the scheduler says of a node, and what it should hear
    upgrade.py      pods of an older template → the one that is made anew next
    raycluster.py   groups of machines ↔ the RayCluster
    core.py         the whole of what was seen → one RayCluster, and what the scheduler should hear of machines. Pure.
"""
