"""The ServerApp of the privfed-dpo installed beside the coordinator."""

from privfed_dpo.wire.flower.server_app import app

__all__ = ["app"]
