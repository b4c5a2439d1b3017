"""Sidecar injection: what a pod needs so that its traffic goes through a proxy, without the app knowing."""
