"""Changes of the pure core that change nothing that it does: why, and which, as ``general.py`` prints them.

Each is (place, the line that went, the line that came). A test keeps the lines that went in step with the code.
"""

EQUIVALENT: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = ()
