"""Processes of one client on one machine: they share its gradients, or its base model too."""
