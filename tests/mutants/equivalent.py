"""Changes of the pure core that change nothing that it does: why, and which, as ``general.py`` prints them.

Each is (place, the line that went, the line that came). ``test_table.py`` keeps them in step with the code.
"""

EQUIVALENT: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "Only for the type checker: where this is asked, the value is there.",
        (
            ("acceptor._is_let_go",
             'nonce = register.value.nonce if register.value is not None else ""',
             'nonce = register.value.nonce if (register.value is not None) or True else ""'),
            ("acceptor._is_let_go",
             'nonce = register.value.nonce if register.value is not None else ""',
             'nonce = register.value.nonce if register.value is not None else "XXXX"'),
            ("proposer.decide",
             'nonce = seen.nonce if seen is not None else ""',
             'nonce = seen.nonce if seen is not None else "XXXX"'),
        ),
    ),
    (
        "An empty nonce is nobody's, and a value that nobody holds has no timer to go on.",
        (
            ("acceptor.Acceptor._install",
             'is_same_nonce = register.value is not None and register.value.nonce == msg.value.nonce != ""',
             'is_same_nonce = register.value is not None and register.value.nonce == msg.value.nonce != "XXXX"'),
        ),
    ),
    (
        "The block is even, so both quotients are one number.",
        (
            ("acceptor.Acceptor._prepare",
             "if msg.ballot.counter > self._ceiling_asked - CEILING_BLOCK // 2:",
             "if msg.ballot.counter > self._ceiling_asked - CEILING_BLOCK / 2:"),
        ),
    ),
    (
        "A ballot has one value (R3): equal ballots name one value and one nonce, and none equals that of the attempt.",
        (
            ("proposer.Attempt.seen",
             "if value is not None and ballot > best[0]:",
             "if value is not None and ballot >= best[0]:"),
            ("proposer.Attempt._is_lifted",
             "return any(live.accepted < pair.ballot < self.ballot and pair.nonce != live.value.nonce "
             "for pair in evidence)",
             "return any(live.accepted <= pair.ballot < self.ballot and pair.nonce != live.value.nonce "
             "for pair in evidence)"),
            ("proposer.Attempt._is_lifted",
             "return any(live.accepted < pair.ballot < self.ballot and pair.nonce != live.value.nonce "
             "for pair in evidence)",
             "return any(live.accepted < pair.ballot <= self.ballot and pair.nonce != live.value.nonce "
             "for pair in evidence)"),
        ),
    ),
    (
        "Before phase 2 nobody has accepted, and a promise that was refused later counts on neither side.",
        (
            ("proposer.Attempt.on_nack",
             "yes = self.accepted if self.phase is Phase.ACCEPTING else self.promises - self.nacks",
             "yes = self.accepted if (self.phase is Phase.ACCEPTING) or True else self.promises - self.nacks"),
        ),
    ),
    (
        "The same number is assigned, or it is the default.",
        (
            ("proposer.Proposer.observe",
             "if self.counter < ballot.counter <= self.counter + COUNTER_JUMP_MAX:",
             "if self.counter <= ballot.counter <= self.counter + COUNTER_JUMP_MAX:"),
            ("proposer.decide",
             "return Decision(Value(term, None, seen.duration_ms, 0, 0), True)",
             "return Decision(Value(term, None, seen.duration_ms, 0), True)"),
            ("proposer.decide",
             "return Decision(Value(term, None, seen.duration_ms, 0, 0), True)",
             "return Decision(Value(term, None, seen.duration_ms, 0, ), True)"),
        ),
    ),
    (
        "Python reads infinity in any case.",
        (
            ("lease.validity_ms", 'return float("inf")', 'return float("INF")'),
            ("lease._milliseconds",
             'return round(total) if abs(total) < float("inf") else float("inf")',
             'return round(total) if abs(total) < float("INF") else float("inf")'),
            ("lease._milliseconds",
             'return round(total) if abs(total) < float("inf") else float("inf")',
             'return round(total) if abs(total) < float("inf") else float("INF")'),
        ),
    ),
    (
        "Decided elsewhere: no duration has one character, no label a slash, and whole seconds are written by then.",
        (
            ("lease._milliseconds",
             "match = _DURATION.match(text) if 0 < len(text) <= DURATION_CHARS_MAX else None",
             "match = _DURATION.match(text) if 1 < len(text) <= DURATION_CHARS_MAX else None"),
            ("lease.parse_name",
             'namespace, slash, short = name.partition("/")',
             'namespace, slash, short = name.rpartition("/")'),
            ("lease.format_duration",
             'return f"{duration_ms / 1000:g}s" if duration_ms > 1000 else f"{duration_ms}ms"',
             'return f"{duration_ms / 1000:g}s" if duration_ms >= 1000 else f"{duration_ms}ms"'),
        ),
    ),
)  # fmt: skip
