"""Istio's bookinfo: productpage calls details and reviews, reviews (v2, v3) call ratings.

* `profile`: the declared service-time profile. Pure.
* `propagation`: which headers a service hands on.
* `upstream`: calls to other services over kept-alive connections.
* `services`: what each service answers; `page`: the product page.

`python -m harness.workloads.bookinfo <service>` runs one of them. The source is our own; topology, paths, ports,
labels, wording and the way it degrades are those of Istio's sample.
"""
