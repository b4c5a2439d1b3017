"""Who is who: the certificate authority, workload certificates, and the tokens that prove who asks for one.

* `ca`: the root, plugged in or self-made, and what it signs
* `svids`: certificates in use, replaced at half life, as SDS resources
* `tokens`: service-account tokens
"""
