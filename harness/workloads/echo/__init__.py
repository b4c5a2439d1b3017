"""Echo: a server that replies with what it received, and a remotely controlled client, in one program.

* `protocol`: the types both sides of the control API share, and the instructions a request may carry.
* `client`: what the harness calls: `call`, `start`, `requests`, `attempts`, `reset`.
* `server`, `control`, `caller`: the program, `python -m harness.workloads.echo`.

Nothing here adds, folds, reorders or normalises what was told or received: that is what makes checks exact.
"""
