"""The ADS server: what each proxy is sent, when, and what it made of it.

* `subscription`: one client and one resource type; the protocol's rules, without I/O
* `ordering`: one client and all types; make before break, gated on ACKs, without I/O
* `wire`: requests parsed, responses concatenated from shared bytes
* `views`: compiled once per (view, generation); `scheduler`: when a change is acted on
* `hub`: everything that is connected, and who has answered; `stream`, `server`: gRPC
"""
