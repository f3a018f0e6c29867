"""Messages on the wire: frames, the vocabulary between clients and nodes, TLS."""
