"""Reservations over several shards. ``protocol.py`` says how, and why each crash is safe."""

from promise_svc.application.several_shards.changes import Revised, Revision
from promise_svc.application.several_shards.hold import Hold, HoldReply
from promise_svc.application.several_shards.orphans import Orphans
from promise_svc.application.several_shards.protocol import SeveralShards

__all__ = ["Hold", "HoldReply", "Orphans", "Revised", "Revision", "SeveralShards"]
