"""Routing: which instance answers, as VirtualService and HTTPRoute say (R1-R28)."""
