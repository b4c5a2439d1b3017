"""Companion servers the harness runs beside a mesh, behind one small interface.

* `api`: `Companion`, and `CompanionMissing` that says what to install.
* `place`: the network namespace a companion runs in.
* `toxiproxy`: Toxiproxy's server.
"""

from harness.services.api import Companion, CompanionMissing
from harness.services.place import Here, Place
from harness.services.toxiproxy import toxiproxy_server

__all__ = ["Companion", "CompanionMissing", "Here", "Place", "toxiproxy_server"]
