"""Mutating admission: each new pod of a matching namespace is POSTed to a webhook, and what it answers is what runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from harness.substrate.api import SubstrateError, Webhook
from manifests.kube import Pod, to_dict

_MAX_SHOWN: Final = 500


def matches(webhook: Webhook, labels: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in webhook.namespace_selector.items())


async def admit(pod: Pod, webhooks: Iterable[Webhook]) -> Pod:
    """`pod` after all `webhooks`, in order. Raises `SubstrateError` when one refuses, is not there, or answers
    nonsense."""
    for webhook in webhooks:
        pod = _checked(webhook, pod, await _post(webhook, pod))
    return pod


async def _post(webhook: Webhook, pod: Pod) -> bytes:
    import aiohttp  # a third of a second that worlds without webhooks need not wait for

    body = msgspec.json.encode(to_dict(pod))
    timeout = aiohttp.ClientTimeout(total=webhook.timeout_seconds)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(webhook.socket), timeout=timeout) as session,
            session.post(
                f"http://webhook{webhook.path}", data=body, headers={"Content-Type": "application/json"}
            ) as response,
        ):
            answer = await response.read()
            if response.status != 200:
                text = answer.decode(errors="replace")[:_MAX_SHOWN]
                raise SubstrateError(f"webhook {webhook.name} refused the pod (status {response.status}): {text}")
            return answer
    except (aiohttp.ClientError, OSError, TimeoutError) as exc:
        reason = str(exc) or type(exc).__name__
        raise SubstrateError(f"webhook {webhook.name} at {webhook.socket} did not answer: {reason}") from None


def _checked(webhook: Webhook, sent: Pod, answer: bytes) -> Pod:
    try:
        pod = msgspec.json.decode(answer, type=Pod)
    except msgspec.MsgspecError as exc:
        raise SubstrateError(f"webhook {webhook.name} answered what is not a Pod: {exc}") from None
    before, after = sent.metadata, pod.metadata
    if (before.name, before.namespace, before.uid) != (after.name, after.namespace, after.uid):
        raise SubstrateError(f"webhook {webhook.name} changed the pod's name, namespace or uid, which it may not")
    return pod
