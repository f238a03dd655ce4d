"""The hosts of the functional tests."""

from functional.conftest import make_server, northbound, open_vswitch, overlay_host, shared_open_vswitch

__all__ = ["make_server", "northbound", "open_vswitch", "overlay_host", "shared_open_vswitch"]
