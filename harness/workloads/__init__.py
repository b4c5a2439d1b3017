"""The apps a mesh carries while it is judged: `bookinfo`, whose latency is measured, and `echo`, which tells what it
received and calls on command.

They know nothing of any mesh. Both speak HTTP/1.1 through `http1` and `http1_client`, and wait through `clock`.
"""
