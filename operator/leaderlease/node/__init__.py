"""One member of the quorum: the effect loop, peers, sessions, and its pages for people and Prometheus."""
