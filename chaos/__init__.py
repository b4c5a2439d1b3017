"""Faults and their undo, Toxiproxy on the wire, game days.

* `experiment`: the experiment file; `shipped()` lists those that come with meshproof.
* `runner`: `run_experiment`, from preflight to verdict.
* `session`: one process's hold on a world; `heal_world` undoes what a killed one left.
* `faults`: what can be broken, each a context manager through `applied`.
* `actions`, `probes`: what an experiment file may name.
* `edge`, `redirect`, `sockets`, `toxiproxy`: how a fault gets onto an edge.
* `bite`: whether it really did.
"""

from chaos.experiment import shipped

__all__ = ["shipped"]
