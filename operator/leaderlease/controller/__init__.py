"""The Kubernetes operator: declares leases to the quorum, and mirrors what the quorum decided."""
