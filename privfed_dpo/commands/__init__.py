"""Commands that need no run: rehearsing the protocol, pricing a mechanism."""
