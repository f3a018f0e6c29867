"""The protocol and nothing else: no I/O, no clock, no randomness. Normative text: ``docs/protocol.md``."""
