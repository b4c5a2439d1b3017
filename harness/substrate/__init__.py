"""Where pods run. `api` says what every such place offers; `local` is Linux network namespaces on this machine."""

from harness.substrate.api import NODE, ContainerInfo, PodInfo, ServiceInfo, SubstrateError, Usage, Webhook, World

__all__ = ["NODE", "ContainerInfo", "PodInfo", "ServiceInfo", "SubstrateError", "Usage", "Webhook", "World"]
