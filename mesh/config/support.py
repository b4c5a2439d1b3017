"""What Istio and Gateway API have and this mesh does not do yet.

Every field here is refused by name, so nobody believes in a setting that does nothing. A field neither here nor in
`mesh.config.types` is a typo and gets a "did you mean". To support a field: implement it, then delete its line.

A path is written from the object's root; `[]` stands for every list item, `{}` for every key of a map, and a
trailing `=VALUE` limits the entry to that value. An empty note means there is nothing more to say.
"""

from __future__ import annotations

from collections.abc import Mapping

_NO_GATEWAY = "no gateway workload exists in this mesh yet"

_TRAFFIC_POLICY = {
    "loadBalancer.localityLbSetting": "",
    "loadBalancer.warmupDurationSecs": "",
    "loadBalancer.warmup": "",
    "loadBalancer.consistentHash.httpCookie.attributes": "",
    "connectionPool.http.useClientProtocol": "",
    "outlierDetection.consecutiveErrors": "Istio deprecated it; use consecutive5xxErrors",
    "tls.credentialName": "",
    "tls.caCrl": "",
    "tls.clientCertificate": "",
    "tls.privateKey": "",
    "tls.caCertificates": "",
    "tls.insecureSkipVerify": "",
    "tls.mode=MUTUAL": "certificates from files are not read yet; ISTIO_MUTUAL uses the mesh's own",
}


def _under(prefix: str, entries: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{path}": note for path, note in entries.items()}


UNSUPPORTED: Mapping[str, Mapping[str, str]] = {
    "VirtualService": {
        "spec.http[].match[].statPrefix": "",
        "spec.http[].match[].gateways": "",
        "spec.http[].corsPolicy": "",
        "spec.http[].delegate": "",
        "spec.http[].httpRetry": "",
        "spec.http[].mirrorPercent": "Istio deprecated it; use mirrorPercentage",
        "spec.http[].mirror_percent": "Istio deprecated it; use mirrorPercentage",
        "spec.http[].rewrite.uriRegexRewrite": "",
        "spec.http[].directResponse.body.bytes": "use body.string",
        "spec.http[].fault.delay.percent": "Istio deprecated it; use percentage.value",
        "spec.http[].fault.delay.exponentialDelay": "",
        "spec.http[].fault.abort.http2Error": "",
        "spec.http[].retries.retryRemoteLocalities": "",
        "spec.http[].retries.backoff": "",
        "spec.tls": "",
        "spec.tcp[].match[].gateways": "",
        "spec.tcp[].match[].destinationSubnets": "",
        "spec.tcp[].match[].sourceSubnet": "",
    },
    "DestinationRule": {
        **_under("spec.trafficPolicy", _TRAFFIC_POLICY),
        **_under("spec.subsets[].trafficPolicy", _TRAFFIC_POLICY),
        **_under("spec.trafficPolicy.portLevelSettings[]", _TRAFFIC_POLICY),
        **_under("spec.subsets[].trafficPolicy.portLevelSettings[]", _TRAFFIC_POLICY),
        "spec.trafficPolicy.tunnel": "",
        "spec.trafficPolicy.proxyProtocol": "",
        "spec.trafficPolicy.retryBudget": "",
        "spec.subsets[].trafficPolicy.tunnel": "",
        "spec.subsets[].trafficPolicy.proxyProtocol": "",
        "spec.subsets[].trafficPolicy.retryBudget": "",
        "spec.workloadSelector": "",
    },
    "ServiceEntry": {
        "spec.workloadSelector": "list the endpoints instead",
        "spec.endpoints[].network": "",
        "spec.endpoints[].locality": "",
        "spec.resolution=DYNAMIC_DNS": "",
    },
    "Gateway": {"spec": _NO_GATEWAY},
    "Sidecar": {
        "spec.ingress": "",
        "spec.egress[].port": "",
        "spec.egress[].bind": "",
        "spec.egress[].captureMode": "",
        "spec.inboundConnectionPool": "",
        "spec.outboundTrafficPolicy.egressProxy": "",
    },
    "PeerAuthentication": {},
    "AuthorizationPolicy": {
        "spec.action=AUDIT": "nothing records yet what it matches",
        "spec.action=CUSTOM": "external authorization providers cannot be configured yet",
        "spec.provider": "external authorization providers cannot be configured yet",
        "spec.targetRef": "use selector",
        "spec.targetRefs": "use selector",
    },
    "RequestAuthentication": {
        "spec.targetRef": "use selector",
        "spec.targetRefs": "use selector",
        "spec.jwtRules[].jwksUri": "keys are not fetched yet; give them inline as jwks",
        "spec.jwtRules[].jwks_uri": "keys are not fetched yet; give them inline as jwks",
        "spec.jwtRules[].fromCookies": "",
        "spec.jwtRules[].outputPayloadToHeader": "",
        "spec.jwtRules[].outputClaimToHeaders": "",
        "spec.jwtRules[].timeout": "",
        "spec.jwtRules[].spaceDelimitedClaims": "",
    },
    "HTTPRoute": {
        "spec.useDefaultGateways": _NO_GATEWAY,
        "spec.hostnames": "on a route of a Service they mean nothing, the Service says which requests are meant",
        "spec.rules[].retry": "",
        "spec.rules[].sessionPersistence": "",
        "spec.rules[].filters[].extensionRef": "",
        "spec.rules[].filters[].cors": "",
        "spec.rules[].filters[].externalAuth": "",
        "spec.rules[].filters[].type=ExtensionRef": "",
        "spec.rules[].filters[].type=CORS": "",
        "spec.rules[].filters[].type=ExternalAuth": "",
        "spec.rules[].backendRefs[].filters[].extensionRef": "",
        "spec.rules[].backendRefs[].filters[].cors": "",
        "spec.rules[].backendRefs[].filters[].type=ExtensionRef": "",
        "spec.rules[].backendRefs[].filters[].type=CORS": "",
        "spec.rules[].backendRefs[].filters[].type=RequestMirror": "give it as a filter of the rule",
        "spec.rules[].backendRefs[].filters[].type=RequestRedirect": "give it as a filter of the rule",
        "spec.rules[].backendRefs[].filters[].type=URLRewrite": "give it as a filter of the rule",
    },
}
"""Kind to field path to a note that helps; the message itself is `is not supported by this mesh yet`."""
