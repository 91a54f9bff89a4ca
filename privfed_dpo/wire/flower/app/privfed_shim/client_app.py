"""The ClientApp of the privfed-dpo installed on this node."""

from privfed_dpo.wire.flower.client_app import app

__all__ = ["app"]
