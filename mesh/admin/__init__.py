"""How the control plane is driven and looked into, over HTTP.

* `api`: the admin interface, on a Unix socket that belongs to whoever runs the control plane
* `monitoring`: metrics and readiness, on a TCP port; nothing that changes or shows configuration
* `debug`: what a proxy is served, as JSON, private keys left out
* `patches`: transformations of resources in flight, loaded by name
"""
