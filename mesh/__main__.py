"""`python -m mesh`: the control plane as a process. SIGTERM ends it gracefully; proxies keep what they run."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from pathlib import Path

from mesh.server import DAY, ControlPlane, Options


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m mesh", description="The reference mesh's control plane.")
    p.add_argument(
        "--config-dir", type=Path, required=True, help="folder of mesh configuration, one YAML file per object"
    )
    p.add_argument("--cluster-dir", type=Path, required=True, help="folder of cluster objects, one JSON file each")
    p.add_argument("--socket", type=Path, required=True, help="Unix socket of the admin interface")
    p.add_argument("--jwks", type=Path, required=True, help="public keys of service-account tokens")
    p.add_argument("--state-dir", type=Path, required=True, help="where what must survive a restart is kept")
    p.add_argument("--ca-cert", type=Path, help="root certificate, PEM; made and kept in the state folder if absent")
    p.add_argument("--ca-key", type=Path, help="the root's key, PEM")
    p.add_argument("--envoy", required=True, help="path of the proxy's binary, for injected pods")
    p.add_argument("--trust-domain", default="cluster.local")
    p.add_argument("--cluster-domain", default="cluster.local")
    p.add_argument("--root-namespace", default="istio-system", help="namespace of mesh-wide policies")
    p.add_argument("--namespace", default="mesh-system", help="namespace the control plane itself runs in")
    p.add_argument("--address", default="0.0.0.0", help="address that xDS and monitoring listen on")
    p.add_argument("--xds-port", type=int, default=15012)
    p.add_argument("--monitoring-port", type=int, default=15014)
    p.add_argument("--svid-ttl", type=float, default=DAY, help="lifetime of workload certificates, seconds")
    p.add_argument("--token-audience", default="istio-ca")
    p.add_argument("--token-issuer", default="https://kubernetes.default.svc.cluster.local")
    p.add_argument("--patches", default="", metavar="MODULE", help="module with MUTANTS, for PUT /mutant")
    p.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return p


def options(argv: list[str] | None = None) -> tuple[Options, str]:
    args = vars(parser().parse_args(argv))
    level = args.pop("log_level")
    if (args["ca_cert"] is None) != (args["ca_key"] is None):
        parser().error("--ca-cert and --ca-key go together")
    if args["ca_cert"] is None:
        args["ca_cert"], args["ca_key"] = args["state_dir"] / "ca" / "cert.pem", args["state_dir"] / "ca" / "key.pem"
    return Options(**args), level


async def serve(chosen: Options) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await ControlPlane(chosen).run(stop)


def main() -> None:
    chosen, level = options()
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(serve(chosen))


if __name__ == "__main__":
    main()
