"""What a member remembers: ``base`` says what durable means, ``sqlite`` and ``memory`` do it."""
