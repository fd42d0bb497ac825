"""Several simulated nodes on this machine: a cluster that loses nodes, gets new ones, and dies as a whole."""

from __future__ import annotations

import random
import threading
from types import TracebackType
from typing import Self

from ray.cluster_utils import Cluster

_NODE = {"num_cpus": 3, "num_gpus": 2, "object_store_memory": 100 << 20}
"""GPUs as far as Ray knows: what it checks and how it places actors with some needs none."""


class Nodes:
    """A cluster of ``count`` nodes; drivers connect to its head from processes of their own.

    Attributes
    ----------
    lost, added : int
        How many nodes were killed, and how many have come since.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._cluster: Cluster | None = None
        self._changing = threading.Lock()
        self.lost = 0
        self.added = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def address(self) -> str:
        """Return the cluster's address; one that has died is replaced by another one."""
        with self._changing:
            if self._cluster is None:
                head = {**_NODE, "include_dashboard": False}
                # Ray's hooks at exit are signal handlers, which only the main thread may set.
                self._cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
                for _ in range(self._count - 1):
                    self._cluster.add_node(**_NODE)
            return str(self._cluster.address)

    def lose(self, numbers: random.Random) -> bool:
        """Kill all processes of a node that is not the head; say whether there was one."""
        with self._changing:
            if self._cluster is None or not self._cluster.worker_nodes:
                return False
            node = numbers.choice(sorted(self._cluster.worker_nodes, key=lambda node: node.unique_id))
            self._cluster.remove_node(node, allow_graceful=False)
            self.lost += 1
            return True

    def add(self) -> bool:
        """Add a node where one was lost; say whether one was."""
        with self._changing:
            if self._cluster is None or len(self._cluster.worker_nodes) >= self._count - 1:
                return False
            self._cluster.add_node(**_NODE)
            self.added += 1
            return True

    def end(self) -> bool:
        """Kill all nodes at once; say whether there were any."""
        with self._changing:
            cluster, self._cluster = self._cluster, None
            if cluster is None:
                return False
            for node in [cluster.head_node, *cluster.worker_nodes]:
                cluster.remove_node(node, allow_graceful=False)
            return True
